// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Like xid.bpf.c, for kernels whose printk:console is called only for what is written to a console.
 *
 * Needs the kernel's BTF and a trampoline. It sees the facility, which proves who printed, but neither
 * the level nor the sequence number.
 */
#include "libbpf_front.h"

/* u16 printk_sprint(char *text, u16 size, int facility, enum printk_info_flags *flags, const char *fmt,
 * va_list args), Linux 5.13 on: formats a line into the log's ring and returns how long it became. */
SEC("fexit/printk_sprint")
int on_printk_sprint(__u64 *ctx)
{
	hear((const char *)ctx[0], (__u16)ctx[6], (__u16)ctx[2]);
	return 0;
}
