/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is done with a line, whichever compiler front and hook it came through.
 *
 * The front has included the BPF helpers and xid.h, and defines before it includes this:
 *   void *reserve(__u64 bytes)             room in the ring `lines`, or NULL
 *   struct xid_counts *own_counts(void)    this CPU's counts, or NULL
 */
#ifndef XIDWATCH_FILTER_H
#define XIDWATCH_FILTER_H

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

/* A marker begins within the first bytes of a line: `nvidia-nvswitch0: SXid (PCI:`,
 * `GPU 0000:91:00.0: GPU has fallen off the bus`. */
#define HEAD_BYTES 64

#define WORD(a, b, c, d) ((__u32)(a) << 24 | (__u32)(b) << 16 | (__u32)(c) << 8 | (__u32)(d))

/* Atomic although the counter is this CPU's own: an interrupt may print between load and store, and
 * kernels without "bpf: Prevent bpf program recursion for raw tracepoint probes" run the program then. */
static __always_inline void count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

/* Four letters at a time: bpf_strncmp() is Linux 5.17. What passes by chance (`fallback`) is
 * rejected by the reader. */
static __always_inline int has_marker(const char head[HEAD_BYTES])
{
	__u32 word = 0;

	for (int i = 0; i < HEAD_BYTES; i++) {
		word = word << 8 | (__u8)head[i];
		switch (word) {
		case WORD('N', 'V', 'R', 'M'):
		case WORD('n', 'v', 'i', 'd'):
		case WORD('S', 'X', 'i', 'd'):
		case WORD('f', 'a', 'l', 'l'):
		case WORD('x', 'i', 'd', 'w'):
			return 1;
		}
	}
	return 0;
}

/* False when the line is lost. `room` is a constant in each call: the verifier wants to know the size of
 * a reservation. */
static __always_inline int hand_over(const char *text, __u64 len, __u16 facility, __u64 room)
{
	struct xid_line *line = reserve(sizeof(*line) + room);
	__u64 copied = len < room ? len : room;

	if (!line)
		return 0;
	line->layout = XID_LAYOUT;
	line->facility = facility;
	line->cpu = bpf_get_smp_processor_id();
	line->monotonic_ns = bpf_ktime_get_ns();
	line->cgroup_id = bpf_get_current_cgroup_id();
	line->full_len = len;
	line->text_len = copied;
	if (bpf_get_current_comm(line->task, sizeof(line->task)))
		line->task[0] = 0;
	if (bpf_probe_read_kernel(line + 1, copied, text)) {
		bpf_ringbuf_discard(line, 0);
		return 0;
	}
	bpf_ringbuf_submit(line, 0);
	return 1;
}

/* One line of the kernel log; it need not be NUL-terminated. */
static __always_inline void hear(const char *text, __u64 len, __u16 facility)
{
	__u64 scanned = len < HEAD_BYTES ? len : HEAD_BYTES;
	char head[HEAD_BYTES] = {};
	struct xid_counts *of_cpu = own_counts();

	if (!of_cpu)
		return;
	count(&of_cpu->seen);
	if (bpf_probe_read_kernel(head, scanned, text)) {
		count(&of_cpu->unread);
		return;
	}
	if (!has_marker(head))
		return;
	count(&of_cpu->matched);
	if (!(len <= XID_SHORT_TEXT ? hand_over(text, len, facility, XID_SHORT_TEXT)
				    : hand_over(text, len, facility, XID_LONG_TEXT)))
		count(&of_cpu->dropped);
}

#endif
