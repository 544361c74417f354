// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Tells how processes that used a GPU ended, and which cgroup they were in, at the moment they do.
 *
 * Runs when a process ends and at no other time: a hook on open(2) would send every system call of the
 * node through the kernel's tracing path. A process used a GPU when it still holds a /dev/nvidia* file as it
 * ends (its files are closed just after), or when the daemon asked for it by its pid.
 *
 * Needs no kernel headers, no tracefs and no helper younger than Linux 5.8. Where members of the kernel's
 * structs lie is told by the daemon, which reads the kernel's BTF; without that it tells less.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "tracker.h"

#define NVIDIA_MAJOR 195		/* NV_MAJOR_DEVICE_NUMBER of the driver: /dev/nvidiaN, /dev/nvidiactl */
#define MINOR_BITS 20			/* MINORBITS of <linux/kdev_t.h> */
#define TYPE_MASK 0170000		/* S_IFMT and S_IFCHR of <linux/stat.h> */
#define CHARACTER_DEVICE 0020000
#define SIGNAL_GROUP_EXIT 4		/* of <linux/sched/signal.h> */
#define FILES_AT_ONCE 8
#define MOST_FILES 256

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TRACKER_RING_BYTES);
} ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tracker_counts);
} counts SEC(".maps");

/* Processes to tell of whatever they hold. The least recently used one makes room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TRACKER_WATCHED);
	__type(key, __u32);
	__type(value, __u32);
} watched SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tracker_members);
} members SEC(".maps");

/* False when the memory could not be read; `value` is 0 then. */
#define READ(value, base, offset) (!bpf_probe_read_kernel(&(value), sizeof(value), (const void *)((base) + (offset))))

static __always_inline void count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

static __always_inline int is_nvidia(const struct tracker_members *at, __u64 file)
{
	__u64 inode = 0;
	__u32 device = 0;
	__u16 mode = 0;

	/* What cannot be read is 0, no device. Fewer branches are quicker for the verifier, too. */
	(void)READ(inode, file, at->file_inode);
	(void)READ(device, inode, at->inode_rdev);
	if (device >> MINOR_BITS != NVIDIA_MAJOR)
		return 0;
	(void)READ(mode, inode, at->inode_mode);
	return (mode & TYPE_MASK) == CHARACTER_DEVICE;
}

/* 1: it holds a /dev/nvidia* file; 0: it does not; -1: that could not be seen to the end. */
static __always_inline int holds_device(const struct tracker_members *at, __u64 task)
{
	__u64 files = 0, table = 0, array = 0, some[FILES_AT_ONCE];
	__u32 size = 0;

	if (!READ(files, task, at->task_files))
		return -1;
	if (!files)
		return 0;
	if (!READ(table, files, at->files_fdt) || !READ(size, table, at->fdtable_max_fds) ||
	    !READ(array, table, at->fdtable_fd))
		return -1;
	/* The table's size is a multiple of the machine's word in bits. */
	for (__u32 fd = 0; fd < MOST_FILES; fd += FILES_AT_ONCE) {
		if (fd >= size)
			return 0;
		if (!READ(some, array, fd * sizeof(some[0])))
			return -1;
		for (int i = 0; i < FILES_AT_ONCE; i++)
			if (some[i] && is_nvidia(at, some[i]))
				return 1;
	}
	return size > MOST_FILES ? -1 : 0;
}

static __always_inline __u64 node_of(const struct tracker_members *at, __u64 cgroup)
{
	__u64 node = 0;

	return cgroup && READ(node, cgroup, at->cgroup_kn) ? node : 0;
}

static __always_inline __u64 parent_of(const struct tracker_members *at, __u64 node)
{
	__u64 parent = 0;

	return node && READ(parent, node, at->kernfs_parent) ? parent : 0;
}

/* The cgroup's place in the tree; of cgroup v1, where the process is in the root of v2: the one of memory,
 * by which every container runtime names its containers. */
static __always_inline __u64 cgroup_node(const struct tracker_members *at, __u64 task)
{
	__u64 set = 0, cgroup = 0, controller = 0, node;

	if (!READ(set, task, at->task_cgroups) || !READ(cgroup, set, at->css_set_dfl_cgrp))
		return 0;
	node = node_of(at, cgroup);
	if (parent_of(at, node) || !(at->known & TRACKER_KNOWS_CGROUP_V1))
		return node;
	cgroup = 0;
	if (!READ(controller, set, at->css_set_memory) || !controller || !READ(cgroup, controller, at->css_cgroup))
		return node;
	return node_of(at, cgroup);
}

static __always_inline void put_cgroup(const struct tracker_members *at, __u64 task, struct tracker_end *end)
{
	__u64 node = cgroup_node(at, task), parent, name;

	if (!node)
		return;
	end->known |= TRACKER_KNOWS_CGROUP;
	for (int i = 0; i < TRACKER_LEVELS; i++) {
		parent = parent_of(at, node);
		if (!parent)
			return;
		name = 0;
		if (!READ(name, node, at->kernfs_name) ||
		    bpf_probe_read_kernel_str(end->names[i], TRACKER_NAME_BYTES, (const void *)name) < 0) {
			end->known &= ~TRACKER_KNOWS_CGROUP;
			return;
		}
		end->levels = i + 1;
		node = parent;
	}
	end->deeper = parent_of(at, node) != 0;
}

static __always_inline void put_status(const struct tracker_members *at, __u64 leader, __u64 signal,
				       struct tracker_end *end)
{
	__u32 flags = 0, status = 0;

	if (!READ(flags, signal, at->signal_flags))
		return;
	/* As wait_task_zombie() of kernel/exit.c chooses. */
	if (flags & SIGNAL_GROUP_EXIT ? READ(status, signal, at->signal_group_exit_code)
				      : READ(status, leader, at->task_exit_code)) {
		end->status = status;
		end->known |= TRACKER_KNOWS_CODE;
	}
}

static __always_inline void put_level(const struct tracker_members *at, __u64 leader, struct tracker_end *end)
{
	__u64 pid = 0;
	__u32 level = 0;

	if (READ(pid, leader, at->task_thread_pid) && pid && READ(level, pid, at->pid_level)) {
		end->namespace_level = level;
		end->known |= TRACKER_KNOWS_NAMESPACE;
	}
}

static __always_inline void put_leader(const struct tracker_members *at, __u64 leader, struct tracker_end *end)
{
	if (bpf_probe_read_kernel(end->comm, sizeof(end->comm), (const void *)(leader + at->task_comm)) ||
	    bpf_probe_read_kernel(&end->started_ns, sizeof(end->started_ns),
				  (const void *)(leader + at->task_start_boottime)))
		return;
	end->known |= TRACKER_KNOWS_END;
}

/* TP_PROTO(struct task_struct *p, ...): the current task, one for each thread. */
SEC("raw_tp/sched_process_exit")
int on_exit(void *ctx)
{
	__u32 only = 0, pid = bpf_get_current_pid_tgid() >> 32, live = 0, *asked_for;
	__u64 task = bpf_get_current_task(), leader = 0, signal = 0;
	struct tracker_members *at = bpf_map_lookup_elem(&members, &only);
	struct tracker_counts *of_cpu = bpf_map_lookup_elem(&counts, &only);
	struct tracker_end *end;
	int holds = 0;

	(void)ctx;
	if (!at || !of_cpu)
		return 0;
	if (at->known & TRACKER_KNOWS_END) {
		if (!READ(signal, task, at->task_signal) || !READ(live, signal, at->signal_live) || live ||
		    !READ(leader, task, at->task_group_leader))
			return 0;
	} else if ((__u32)bpf_get_current_pid_tgid() != pid) {
		return 0;
	}
	count(&of_cpu->seen);
	if (at->known & TRACKER_KNOWS_FILES)
		holds = holds_device(at, task);
	if (holds < 0)
		count(&of_cpu->unread);
	asked_for = bpf_map_lookup_elem(&watched, &pid);
	if (asked_for)
		bpf_map_delete_elem(&watched, &pid);
	else if (holds <= 0)
		return 0;
	count(&of_cpu->matched);
	end = bpf_ringbuf_reserve(&ends, sizeof(*end), 0);
	if (!end) {
		count(&of_cpu->dropped);
		return 0;
	}
	end->layout = TRACKER_LAYOUT;
	end->pid = pid;
	end->ended_ns = bpf_ktime_get_ns();
	end->started_ns = 0;
	end->cgroup_id = bpf_get_current_cgroup_id();
	end->known = holds < 0 ? 0 : at->known & TRACKER_KNOWS_FILES;
	end->status = end->namespace_level = end->levels = end->deeper = 0;
	end->had_device = holds > 0;
	if (leader) {
		put_leader(at, leader, end);
		if (at->known & TRACKER_KNOWS_CODE)
			put_status(at, leader, signal, end);
		if (at->known & TRACKER_KNOWS_NAMESPACE)
			put_level(at, leader, end);
	}
	if (at->known & TRACKER_KNOWS_CGROUP)
		put_cgroup(at, task, end);
	bpf_ringbuf_submit(end, 0);
	return 0;
}

/* bpf_probe_read_kernel() and bpf_ktime_get_ns() are open to programs under the GPL only. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
