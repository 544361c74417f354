"""Which GPUs a process has open, by its file descriptors: known without the driver, so it cannot hang.

A GPU that does not answer cannot say who uses it, and whoever hangs on it is most worth ending.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from daemon.gpu.process import PROC

_DEVICE = re.compile(r"/dev/nvidia([0-9]{1,4})", re.ASCII)


def open_minors(pid: int, proc: Path = PROC) -> frozenset[int]:
    """N of each /dev/nvidiaN that the process has open. Raises OSError when that cannot be told."""
    directory = proc / str(pid) / "fd"
    found = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                # The link is read, never followed: the file may be on a disk that hangs.
                match = _DEVICE.fullmatch(str(Path(entry.path).readlink()))
            except FileNotFoundError:
                continue  # closed meanwhile
            if match is not None:
                found.add(int(match[1]))
    return frozenset(found)
