"""What the daemon uses, as the kernel and the daemon itself count it, taken every few seconds.

A series is a list of (time, value), times in seconds since the first sample. What cannot be read here has no
series, and `unread` says why.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.clients import status
from tests.support.daemon import Daemon

log = logging.getLogger(__name__)

_V1: Final = Path("/sys/fs/cgroup/memory")
_V2: Final = Path("/sys/fs/cgroup")
_WORKER: Final = b"daemon.gpu.worker"


def descriptors(pid: int, state_dir: Path) -> Counter[str]:
    """Open files by what they are."""
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:  # closed meanwhile
            continue
        name = Path(target).name
        if target.startswith(("socket:", "pipe:")):
            kinds[target.partition(":")[0]] += 1
        elif target.startswith("anon_inode:"):
            kinds[target.removeprefix("anon_inode:").strip("[]")] += 1
        elif target.startswith(str(state_dir)):
            kinds[name or "state"] += 1
        else:
            kinds["memfd" if target.startswith("/memfd:") else name] += 1
    return kinds


def children(pid: int) -> list[int]:
    """Processes that this one started and that have not been waited for."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += map(int, (task / "children").read_text().split())
        except OSError:  # the thread has ended
            continue
    return found


def threads(pid: int) -> int:
    """Threads of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def _fields(path: Path) -> dict[str, int]:
    """`Name: number kB` lines, in KiB."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0])
    return found


class MemoryGroup:
    """A control group of the daemon's own, which counts the memory of it and of its children together."""

    def __init__(self, pid: int) -> None:
        """Raises OSError where none can be made."""
        self._is_v1 = (_V1 / "memory.usage_in_bytes").exists()
        self._path = (_V1 if self._is_v1 else _V2) / f"xidwatch-soak-{os.getpid()}"
        self._path.mkdir()
        try:
            (self._path / "cgroup.procs").write_text(str(pid))
        except OSError:
            self._path.rmdir()
            raise

    def anonymous_kib(self) -> int:
        """Memory that no file backs."""
        fields = dict(line.split() for line in (self._path / "memory.stat").read_text().splitlines())
        return int(fields["rss" if self._is_v1 else "anon"]) // 1024

    def close(self) -> None:
        """Remove it, once the daemon has ended."""
        self._path.rmdir()


class Sampler(threading.Thread):
    """Samples one life of a daemon until it is stopped."""

    def __init__(self, daemon: Daemon, every_s: float) -> None:
        super().__init__(name="sampler", daemon=True)
        self.series: dict[str, list[tuple[float, float]]] = {}
        self.unread: dict[str, str] = {}
        """Series that this machine cannot give, and why."""
        self._daemon = daemon
        self._every_s = every_s
        self._began = time.monotonic()
        self._leave = threading.Event()
        self._may_ask = threading.Lock()
        try:
            self._group: MemoryGroup | None = MemoryGroup(daemon.pid)
        except OSError as error:
            self._group = None
            self.unread["memory_group_kib"] = f"no control group for memory: {error.strerror}"

    @property
    def now_s(self) -> float:
        """Time of a sample taken now."""
        return time.monotonic() - self._began

    def run(self) -> None:
        """A sample each so many seconds."""
        while not self._leave.wait(self._every_s):
            with self._may_ask:
                try:
                    self._note(self.sample())
                except OSError as error:  # a process that it looked at has ended, or the daemon is busy
                    log.debug("no sample at %.0f s: %s", self.now_s, error)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No sample is taken while the block runs: asking for the status is a client as well."""
        with self._may_ask:
            yield

    def stop(self) -> None:
        """Stop."""
        self._leave.set()
        self.join()

    def close(self) -> None:
        """Give back what it took; the daemon has ended."""
        if self._group is not None:
            self._group.close()

    def _note(self, sample: Mapping[str, float]) -> None:
        for name, value in sample.items():
            self.series.setdefault(name, []).append((round(self.now_s, 2), value))

    def sample(self) -> dict[str, float]:
        """Everything, now."""
        pid, state_dir = self._daemon.pid, self._daemon.state_dir
        told = status(self._daemon.socket)
        memory = _fields(Path(f"/proc/{pid}/smaps_rollup"))
        kinds = descriptors(pid, state_dir)
        journal = state_dir / "journal.sqlite3"
        workers = [child for child in children(pid) if _WORKER in _command(child)]
        sample: dict[str, float] = {
            "rss_kib": memory["Rss"],
            "pss_kib": memory["Pss"],
            "anonymous_kib": memory["Anonymous"],
            "descriptors": sum(kinds.values()),
            "descriptors_socket": kinds["socket"],
            "descriptors_pipe": kinds["pipe"],
            "sqlite_connections": kinds["journal.sqlite3"],
            "threads": threads(pid),
            "children": len(children(pid)),
            "journal_kib": journal.stat().st_size // 1024,
            "wal_kib": _size(journal.with_name("journal.sqlite3-wal")) // 1024,
            "state_dir_kib": sum(_size(path) for path in state_dir.rglob("*")) // 1024,
            "worker_rss_kib": sum(_fields(Path(f"/proc/{worker}/smaps_rollup"))["Rss"] for worker in workers),
            "workers_abandoned": told["gpu"]["workers_abandoned"],
            "unstored": told["journal"]["unstored"],
        }
        sample |= {f"clients_{name}": count for name, count in told["clients"].items()}
        if self._group is not None:
            sample["memory_group_kib"] = self._group.anonymous_kib()
        return sample


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a draft that was renamed meanwhile
        return 0
