"""The release of the running kernel, and the releases that decisions rest on."""

from __future__ import annotations

import os
import re

RING_BUFFER = (5, 8)
"""The first with BPF_MAP_TYPE_RINGBUF."""
NO_MEMLOCK = (5, 11)
"""The first that charges maps and programs to the memory cgroup, not against RLIMIT_MEMLOCK."""
READ_BY_ALL = (5, 19)
"""The first that lets a process without CAP_BPF read a map through a descriptor it holds, where
kernel.unprivileged_bpf_disabled is set ("bpf: refine kernel.unprivileged_bpf_disabled behaviour")."""
CONSOLE_HEARS_ALL = (5, 19)
"""The first whose tracepoint `printk:console` sees each line as it is printed, and bare. Earlier it
sees what is written to a console, at the console's log level, with the time in front (seen on 5.10
and 5.15)."""


def kernel_release(text: str | None = None) -> tuple[int, int] | None:
    """Version and patch level of `text`, or of the running kernel: (6, 18). None when it has none."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release if text is None else text)
    return (int(found[1]), int(found[2])) if found else None


def older_than(since: tuple[int, int], version: tuple[int, int] | None) -> bool:
    """True when `version` is known and earlier than `since`."""
    return version is not None and version < since
