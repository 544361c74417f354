/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What driver.bpf.c hands over. Mirrored once in Python, by probes/bpf/driver_report.py. */
#ifndef XIDWATCH_DRIVER_H
#define XIDWATCH_DRIVER_H

#include <linux/types.h>

/* Grows with every change of the struct below. */
#define DRIVER_LAYOUT 1

#define DRIVER_DEVICE_BYTES 24	/* `10000:91:00.0` and some */
#define DRIVER_TEXT_BYTES 936	/* makes a record of 1,024 bytes, the ring's own header included */
#define DRIVER_RING_BYTES (512 * 1024)

enum driver_kind {
	DRIVER_XID = 1,
	DRIVER_SXID = 2,
};

/* One call of the driver's tracepoint. */
struct driver_report {
	__u16 layout;			/* DRIVER_LAYOUT */
	__u16 kind;			/* enum driver_kind */
	__u32 cpu;
	__u64 monotonic_ns;		/* CLOCK_MONOTONIC when it was called */
	__u64 cgroup_id;		/* cgroup v2 id of the running task */
	__u32 code;			/* of the Xid or SXid */
	__s32 device_len;		/* with its NUL; negative: could not be read */
	__s32 text_len;			/* with its NUL, at most DRIVER_TEXT_BYTES; negative: could not be read */
	__u32 unused;
	char task[16];			/* name of the running task, NUL-terminated */
	char device[DRIVER_DEVICE_BYTES]; /* PCI address with its function, NUL-terminated */
	char text[DRIVER_TEXT_BYTES];	/* NUL-terminated; what follows is not defined */
};

_Static_assert(sizeof(struct driver_report) == 1016, "driver_report.py mirrors it");

#endif
