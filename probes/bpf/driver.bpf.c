// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Hears an Xid or SXid from the NVIDIA driver itself: tracepoints that only the driver can call.
 *
 * They came with the open kernel modules 575.51.02. The kernel module cannot be unloaded while one of
 * these programs is attached. Needs no kernel headers: where a PCI device keeps its name is read from
 * the kernel's BTF by the loader, and put into `name_at`.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "driver.h"
#include "xid.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, DRIVER_RING_BYTES);
} lines SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xid_counts);
} counts SEC(".maps");

/* Byte offset of pci_dev.dev.kobj.name in the running kernel. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} name_at SEC(".maps");

/* TP_PROTO(const struct pci_dev *pdev, uint32_t error_code, const char *msg): kernel-open/nvidia/nv-tracepoint.h
 * and nvswitch_event.h. The message is the log line's, without the head that names device and code. */
static __always_inline void report(struct bpf_raw_tracepoint_args *ctx, __u16 kind)
{
	__u32 only = 0;
	struct xid_counts *of_cpu = bpf_map_lookup_elem(&counts, &only);
	__u64 *offset = bpf_map_lookup_elem(&name_at, &only);
	struct driver_report *record;
	const char *name = 0;

	if (!of_cpu || !offset)
		return;
	__sync_fetch_and_add(&of_cpu->seen, 1);
	__sync_fetch_and_add(&of_cpu->matched, 1);
	record = bpf_ringbuf_reserve(&lines, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&of_cpu->dropped, 1);
		return;
	}
	record->layout = DRIVER_LAYOUT;
	record->kind = kind;
	record->cpu = bpf_get_smp_processor_id();
	record->monotonic_ns = bpf_ktime_get_ns();
	record->cgroup_id = bpf_get_current_cgroup_id();
	record->code = ctx->args[1];
	record->unused = 0;
	if (bpf_get_current_comm(record->task, sizeof(record->task)))
		record->task[0] = 0;
	if (bpf_probe_read_kernel(&name, sizeof(name), (const char *)ctx->args[0] + *offset))
		record->device_len = -1;
	else
		record->device_len = bpf_probe_read_kernel_str(record->device, sizeof(record->device), name);
	record->text_len = bpf_probe_read_kernel_str(record->text, sizeof(record->text),
						     (const char *)ctx->args[2]);
	bpf_ringbuf_submit(record, 0);
}

SEC("raw_tp/nvidia_dev_xid")
int on_xid(struct bpf_raw_tracepoint_args *ctx)
{
	report(ctx, DRIVER_XID);
	return 0;
}

SEC("raw_tp/nvswitch_dev_sxid")
int on_sxid(struct bpf_raw_tracepoint_args *ctx)
{
	report(ctx, DRIVER_SXID);
	return 0;
}

/* bpf_probe_read_kernel() and bpf_ktime_get_ns() are open to programs under the GPL only. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
