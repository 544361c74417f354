"""A running process held to a share of one CPU, through a control group of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000


class NoCpuLimit(Exception):
    """No control group can be made here; the message says why."""


@contextmanager
def cpu_limit(pid: int, share: float) -> Iterator[None]:
    """While the block runs, the threads of `pid` get at most `share` of one CPU together.

    Raises NoCpuLimit.
    """
    quota = str(int(share * _PERIOD_US))
    is_v1 = (_V1 / "cpu.cfs_quota_us").exists()
    parent = _V1 if is_v1 else _V2
    group = parent / f"xidwatch-test-{os.getpid()}-{pid}"
    try:
        if not is_v1:
            (_V2 / "cgroup.subtree_control").write_text("+cpu\n")
        group.mkdir()
        if is_v1:
            (group / "cpu.cfs_quota_us").write_text(quota)
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise NoCpuLimit(f"no control group for a CPU limit: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the process may have ended
            (parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()
