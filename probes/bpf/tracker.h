/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What both sides of the process tracker agree on. Mirrored once in Python: the record by ended.py, the
 * members by tracker_load.py.
 */
#ifndef XIDWATCH_TRACKER_H
#define XIDWATCH_TRACKER_H

#include <linux/types.h>

/* Grows with every change of the structs below. */
#define TRACKER_LAYOUT 1

#define TRACKER_COMM_BYTES 16			/* TASK_COMM_LEN */
#define TRACKER_LEVELS 8			/* of the cgroup's path, from the innermost outwards */
#define TRACKER_NAME_BYTES 128			/* `cri-containerd-` + 64 digits + `.scope` are 85 */
#define TRACKER_RING_BYTES (128 * 1024)		/* 112 ends; a power of two and a multiple of 64 KiB pages */
#define TRACKER_WATCHED 4096

/* What is known of the kernel's structs: bits of `known` in struct tracker_members. */
#define TRACKER_KNOWS_END 1			/* when the last thread ends, its leader, name and start */
#define TRACKER_KNOWS_CODE 2
#define TRACKER_KNOWS_FILES 4
#define TRACKER_KNOWS_CGROUP 8
#define TRACKER_KNOWS_CGROUP_V1 16
#define TRACKER_KNOWS_NAMESPACE 32

/* Byte offsets of members, which differ from kernel to kernel; from the kernel's own BTF. */
struct tracker_members {
	__u32 known;				/* TRACKER_KNOWS_...: which groups below hold */
	/* END */
	__u32 task_group_leader;
	__u32 task_signal;
	__u32 task_comm;
	__u32 task_start_boottime;
	__u32 signal_live;
	/* CODE */
	__u32 task_exit_code;
	__u32 signal_flags;
	__u32 signal_group_exit_code;
	/* FILES */
	__u32 task_files;
	__u32 files_fdt;
	__u32 fdtable_max_fds;
	__u32 fdtable_fd;
	__u32 file_inode;
	__u32 inode_rdev;
	__u32 inode_mode;
	/* CGROUP */
	__u32 task_cgroups;
	__u32 css_set_dfl_cgrp;
	__u32 cgroup_kn;
	__u32 kernfs_name;
	__u32 kernfs_parent;
	/* CGROUP_V1: the memory controller's place in css_set.subsys */
	__u32 css_set_memory;
	__u32 css_cgroup;
	/* NAMESPACE */
	__u32 task_thread_pid;
	__u32 pid_level;
};

/* A process that ended. `known` says which groups of values hold, in the same bits as above; pid, times and
 * cgroup_id always do. */
struct tracker_end {
	__u32 layout;				/* TRACKER_LAYOUT */
	__u32 pid;				/* thread group id in the initial pid namespace */
	__u64 ended_ns;				/* CLOCK_MONOTONIC */
	__u64 started_ns;			/* CLOCK_BOOTTIME; END */
	__u64 cgroup_id;			/* of cgroup v2 */
	__u32 known;
	__u32 status;				/* as wait(2) tells it; CODE */
	__u32 had_device;			/* 1: it still held /dev/nvidia* open; FILES */
	__u32 namespace_level;			/* 0: the initial pid namespace; NAMESPACE */
	__u32 levels;				/* names that follow; CGROUP */
	__u32 deeper;				/* 1: the path has more levels outwards */
	char comm[TRACKER_COMM_BYTES];		/* END */
	char names[TRACKER_LEVELS][TRACKER_NAME_BYTES];	/* innermost first, NUL-terminated */
};

/* One CPU's counts since the program was loaded; fields as in struct xid_counts. */
struct tracker_counts {
	__u64 seen;				/* processes that ended */
	__u64 matched;				/* of these, held a device or were asked for */
	__u64 dropped;				/* of these, not handed over: the ring had no room */
	__u64 unread;				/* whose descriptors could not be read, all or some */
};

_Static_assert(sizeof(struct tracker_members) == 100, "tracker_load.py mirrors it");
_Static_assert(sizeof(struct tracker_end) == 72 + TRACKER_LEVELS * TRACKER_NAME_BYTES, "ended.py mirrors it");
_Static_assert(sizeof(struct tracker_counts) == 32, "counters.py mirrors it");

#endif
