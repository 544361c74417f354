"""A process that holds a file as the NVIDIA driver's are, in a cgroup as container runtimes name them.

The file is a device node of the driver's own number. Without the driver it cannot be opened for use, only
for its place (O_PATH): the kernel keeps such a descriptor in the same table, and shows the same inode.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

_NVIDIA_MAJOR, _UNUSED_MINOR = 195, 253
CONTAINER_ID = "4f0c1d2e" * 8


@contextmanager
def device_node() -> Iterator[int]:
    """A descriptor of a file like /dev/nvidia0; the file is gone at the end. Skips where none can be made."""
    path = Path(f"/dev/nvidia-xidwatch-test-{os.getpid()}")
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(_NVIDIA_MAJOR, _UNUSED_MINOR))
    except OSError as error:
        pytest.skip(f"no device node can be made: {error.strerror}")
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            yield file
        finally:
            os.close(file)
    finally:
        path.unlink()


@contextmanager
def cgroup(kind: str, path: str) -> Iterator[Path]:
    """A new cgroup at `path` of the hierarchy: `cgroup2`, or the name of a version 1 controller. It and
    those above that were made for it are gone at the end. Skips where there is none, or none can be made."""
    root = _mount_point(kind)
    below = path.strip("/").split("/")
    made: list[Path] = []
    try:
        for depth in range(len(below)):
            directory = root.joinpath(*below[: depth + 1])
            if not directory.is_dir():
                directory.mkdir()
                made.append(directory)
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error.strerror}")
    try:
        yield root / path.strip("/")
    finally:
        for directory in reversed(made):
            directory.rmdir()


def _mount_point(kind: str) -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, file_system, options, *_ = line.split(" ")
        if file_system == kind or (file_system == "cgroup" and kind in options.split(",")):
            return Path(where)
    pytest.skip(f"no {kind} hierarchy is mounted here")


class GpuProcess:
    """A running process. It is waited for as it ends, so that its cgroup can go, but never killed twice."""

    def __init__(
        self, device: int | None = None, *, in_cgroup: Path | None = None, command: Sequence[str] = ()
    ) -> None:
        """`device`: a descriptor that it holds from its first moment on. By default it sleeps."""
        self._process = subprocess.Popen(
            command or ("sleep", "1000"),
            stdin=subprocess.PIPE,
            pass_fds=() if device is None else (device,),
        )
        if in_cgroup is not None:
            (in_cgroup / "cgroup.procs").write_text(str(self.pid))

    @property
    def pid(self) -> int:
        """Its process id; it is a zombie at most until `end` returns."""
        return self._process.pid

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, and wait until it is gone."""
        self._process.send_signal(number)
        self.wait()

    def wait(self) -> None:
        """Close its stdin and wait until it is gone."""
        self._process.communicate()


@contextmanager
def running(
    device: int | None = None, *, in_cgroup: Path | None = None, command: Sequence[str] = ()
) -> Iterator[GpuProcess]:
    """A process that is ended with the block, if it was not before."""
    process = GpuProcess(device, in_cgroup=in_cgroup, command=command)
    try:
        yield process
    finally:
        process.end()
