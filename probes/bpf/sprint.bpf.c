// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Like xid.bpf.c, for kernels whose printk:console is called only for what is written to a console.
 *
 * Needs the kernel's BTF and a trampoline. It sees the facility, which proves who printed, but neither
 * the level nor the sequence number.
 */
#include "libbpf_front.h"

/* enum printk_info_flags (kernel/printk/printk_ringbuffer.h) */
#define LOG_NEWLINE 2
#define LOG_CONT 8

/* Text that goes on with a line and does not end it may be a name that a process chose and the kernel prints
 * by itself, as pr_cont_cgroup_name() does: the facility does not prove what it says. The driver ends its
 * lines in the same call. */
static __always_inline __u16 who(__u16 facility, const __u64 *flags_argument)
{
	const void *flags_at;
	__u32 flags;

	/* Not ctx[3]: the verifier lets no pointer to an enum be read from the context (5.15). */
	if (bpf_probe_read_kernel(&flags_at, sizeof(flags_at), flags_argument) ||
	    bpf_probe_read_kernel(&flags, sizeof(flags), flags_at))
		return XID_NO_FACILITY;
	return (flags & LOG_CONT) && !(flags & LOG_NEWLINE) ? XID_NO_FACILITY : facility;
}

/* u16 printk_sprint(char *text, u16 size, int facility, enum printk_info_flags *flags, const char *fmt,
 * va_list args), Linux 5.13 on: formats a line into the log's ring and returns how long it became. */
SEC("fexit/printk_sprint")
int on_printk_sprint(__u64 *ctx)
{
	hear((const char *)ctx[0], (__u16)ctx[6], who((__u16)ctx[2], &ctx[3]));
	return 0;
}
