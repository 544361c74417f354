"""A running process held to so much memory, through a control group of its own (cgroup v1 or v2)."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import wait_for

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


class MemoryLimit:
    """The group of one process. Only what it takes from now on is counted."""

    def __init__(self, group: Path, *, is_v1: bool) -> None:
        self._file = group / ("memory.limit_in_bytes" if is_v1 else "memory.max")
        self._used = group / ("memory.usage_in_bytes" if is_v1 else "memory.current")

    def set(self, size: int) -> None:
        """At most so many bytes. The kernel kills the process when it asks for more."""
        self._file.write_text(str(size))

    def set_to_what_is_used(self) -> None:
        """No more than it has by now. (Less is refused by cgroup v1 where nothing can be taken back.)"""

        def is_set() -> bool:
            try:
                self.set(int(self._used.read_text()))
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                return False
            return True

        wait_for(is_set, "the limit to be taken")


@contextmanager
def memory_limit(pid: int, size: int) -> Iterator[MemoryLimit]:
    """While the block runs, `pid` gets at most `size` more bytes. Skips where no group can be made."""
    is_v1 = (_V1 / "memory.limit_in_bytes").exists()
    parent = _V1 if is_v1 else _V2
    group = parent / f"xidwatch-test-{os.getpid()}-{pid}"
    try:
        if not is_v1:
            (_V2 / "cgroup.subtree_control").write_text("+memory\n")
        group.mkdir()
        limit = MemoryLimit(group, is_v1=is_v1)
        limit.set(size)
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group for a memory limit: {error.strerror}")
    try:
        yield limit
    finally:
        with contextlib.suppress(OSError):  # the process may have ended
            (parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()
