/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the kernel side hands over. Mirrored once in Python, by probes/bpf/printed.py.
 *
 * Any program that fills a ring buffer named `lines` with these records, and counts in a per-CPU
 * array named `counts`, can take the place of xid.bpf.c.
 */
#ifndef XIDWATCH_XID_H
#define XIDWATCH_XID_H

#include <linux/types.h>

/* Grows with every change of the two structs below. */
#define XID_LAYOUT 2

#define XID_TASK_BYTES 16		/* TASK_COMM_LEN */
#define XID_LONG_TEXT 1024		/* PRINTKRB_RECORD_MAX: the kernel itself cuts longer lines */
#define XID_SHORT_TEXT 200		/* makes a record of 256 bytes, the ring's own header included */
#define XID_NO_FACILITY 0xffff		/* this hook is not told the facility */
#define XID_RING_BYTES (512 * 1024)	/* a power of two and a multiple of 64 KiB pages */

/* One line of the kernel log. A ring record is this header, then XID_SHORT_TEXT or XID_LONG_TEXT
 * bytes of which the first `text_len` are the text; what follows them is not defined. */
struct xid_line {
	__u16 layout;			/* XID_LAYOUT */
	__u16 facility;			/* syslog facility, 0 the kernel's own; XID_NO_FACILITY */
	__u32 cpu;			/* that printed it */
	__u64 monotonic_ns;		/* CLOCK_MONOTONIC when it was printed */
	__u64 cgroup_id;		/* cgroup v2 id of the running task */
	__u32 full_len;			/* bytes the line had */
	__u32 text_len;			/* bytes copied: at most full_len */
	char task[XID_TASK_BYTES];	/* name of the running task, NUL-terminated */
};

/* One CPU's counts since the program was loaded: matched = taken from the ring + still in it + dropped. */
struct xid_counts {
	__u64 seen;			/* lines the program was called for */
	__u64 matched;			/* lines that may speak of an NVIDIA device */
	__u64 dropped;			/* of these, lines not handed over: the ring had no room */
	__u64 unread;			/* lines whose text could not be read, so nobody knows */
};

_Static_assert(sizeof(struct xid_line) == 48, "printed.py mirrors it");
_Static_assert(sizeof(struct xid_counts) == 32, "counters.py mirrors it");

#endif
