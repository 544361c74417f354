// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Hears every line as printk() takes it in, and hands over those that may speak of an NVIDIA device.
 *
 * Needs no kernel headers, no BTF and no helper younger than Linux 5.8 (the ring buffer). It sees
 * the text alone: neither facility, level nor sequence number.
 */
#include "libbpf_front.h"

/* TP_PROTO(const char *text, size_t len); the text is not NUL-terminated. */
SEC("raw_tp/console")
int on_console(struct bpf_raw_tracepoint_args *ctx)
{
	hear((const char *)ctx->args[0], ctx->args[1], XID_NO_FACILITY);
	return 0;
}
