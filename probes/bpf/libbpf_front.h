/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The maps of a program that clang builds and the native loader or libbpf loads, and what filter.h asks for. */
#ifndef XIDWATCH_LIBBPF_FRONT_H
#define XIDWATCH_LIBBPF_FRONT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "xid.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, XID_RING_BYTES);
} lines SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xid_counts);
} counts SEC(".maps");

static __always_inline void *reserve(__u64 bytes)
{
	return bpf_ringbuf_reserve(&lines, bytes, 0);
}

static __always_inline struct xid_counts *own_counts(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&counts, &only);
}

#include "filter.h"

/* bpf_probe_read_kernel() and bpf_ktime_get_ns() are open to programs under the GPL only. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
