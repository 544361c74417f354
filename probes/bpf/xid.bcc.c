// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What xid.bpf.c does, written for the BPF Compiler Collection: it declares maps in its own way, and turns
 * calls on them into those of the kernel in the main file only.
 */
#include "xid.h"

BPF_RINGBUF_OUTPUT(lines, XID_RING_BYTES / PAGE_SIZE);
BPF_PERCPU_ARRAY(counts, struct xid_counts, 1);

static inline void *reserve(__u64 bytes)
{
	return lines.ringbuf_reserve(bytes);
}

static inline struct xid_counts *own_counts(void)
{
	int only = 0;

	return counts.lookup(&only);
}

#include "filter.h"

/* TP_PROTO(const char *text, size_t len); the text is not NUL-terminated. */
RAW_TRACEPOINT_PROBE(console)
{
	hear((const char *)ctx->args[0], ctx->args[1], XID_NO_FACILITY);
	return 0;
}
