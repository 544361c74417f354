"""What every loader returns: the descriptors of a program that is loaded, attached and counting."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Descriptors:
    """A running program, owned by whoever holds this value.

    Nothing is pinned: when the last of them is closed, by `close` or because the process ended, the
    program leaves the kernel.
    """

    loader: str
    """`native`, `bcc`."""
    hook: str
    """Where the program is attached: `printk:console`, `fexit/printk_sprint`, `nvidia:nvidia_dev_xid`."""
    ring: int
    """The ring buffer `lines` of xid.h."""
    ring_bytes: int
    """Size of its data area: a power of two."""
    counts: int
    """The per-CPU array `counts` of xid.h."""
    programs: tuple[int, ...]
    links: tuple[int, ...]
    """The program is attached as long as these are open."""
    facility: bool = False
    """The hook is told the facility of each line, which proves who printed it."""
    note: str | None = None
    """What is worth knowing of how it came to run: why this loader, or whose program."""

    def close(self) -> None:
        """Detach and free everything. Once only: the numbers belong to others afterwards."""
        for fd in (*self.links, *self.programs, self.ring, self.counts):
            os.close(fd)


Loader = Callable[[], Descriptors]
"""Raises BpfError, ObjectError or LoaderError, and leaves nothing behind then."""
