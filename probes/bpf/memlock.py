"""RLIMIT_MEMLOCK, which kernels before 5.11 hold against maps and programs.

The limit counts when a map or program is made, not while it lives: it is raised only for that moment.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from probes.bpf.release import NO_MEMLOCK, kernel_release, older_than


def limit_bytes() -> int | None:
    """The soft limit; None when there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


@contextmanager
def unlimited_on_old_kernels(version: tuple[int, int] | None = None) -> Iterator[None]:
    """While the block runs the limit is as high as this process may set it; on old kernels only.

    `version` is the running kernel's unless given.
    """
    if not older_than(NO_MEMLOCK, version or kernel_release()):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    # Without CAP_SYS_RESOURCE no one goes beyond the hard limit, and the kernel may refuse the map.
    for limit in (resource.RLIM_INFINITY, before[1]):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            break
    try:
        yield
    finally:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
