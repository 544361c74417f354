"""A disk that fails on demand and a wall clock that steps, for one process: a preloaded C library.

The calls that change the journal's files are counted where the C library is entered, so a test can kill
the process, or have the call fail, at each of them: before it, with half of a write done, or after it. Other
files, other processes and this machine's clock are not touched. What is said here is in force at once,
also in a process that runs.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Final

import pytest

_SOURCE: Final = Path(__file__).parent / "library.c"
_LAYOUT: Final = struct.Struct("=256s 5Qq2Q 6I 256s")
_OFFSETS: Final = {
    name: 256 + 8 * number
    for number, name in enumerate(
        ["calls", "first", "last", "hit", "delay_us", "wall_ns", "synced", "released"]
    )
} | {
    name: 320 + 4 * number
    for number, name in enumerate(["kinds", "action", "error", "held", "waiting", "stops_after_sync"])
}
_SYNCED_PATH: Final = 344
ALWAYS: Final = 2**63
"""More calls than any process makes."""


class Calls(IntFlag):
    """The calls that are counted."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 4
    UNLINK = 8
    ALL = 15


class Action(IntEnum):
    """What becomes of a call."""

    NOTHING = 0
    KILL_BEFORE = 1
    """SIGKILL instead of the call."""
    KILL_HALFWAY = 2
    """SIGKILL when half of the bytes were written; of calls that write none: instead."""
    KILL_AFTER = 3
    FAIL = 4
    """It returns an error."""
    FAIL_HALFWAY = 5
    """The first one writes half of its bytes, the others return an error: a disk that becomes full."""


def build(folder: Path) -> Path:
    """Compiles the library into `folder`; skips the test without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here: neither gcc nor cc is installed")
    library = folder / "faulty_disk.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", library, _SOURCE, "-ldl"],
        check=True,
    )
    return library


class FaultyDisk:
    """What one process is to meet. A call is known by its number: the first one after `count` is 1."""

    def __init__(self, folder: Path, library: Path) -> None:
        """`folder`: where the file that controls it is kept."""
        self._library = library
        self._path = folder / "faulty_disk.control"
        self._path.write_bytes(bytes(_LAYOUT.size))
        with self._path.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), _LAYOUT.size)

    def environment(self) -> Mapping[str, str]:
        """The variables that make a process meet this disk."""
        return {"LD_PRELOAD": str(self._library), "FAULTY_DISK": str(self._path)}

    def count(self, below: Path | str, kinds: Calls = Calls.ALL) -> None:
        """Count calls of these kinds on files whose path starts like this; nothing happens to them."""
        self._put("action", Action.NOTHING)
        self._put("kinds", kinds)
        path = str(below).encode()
        self._control[: len(path) + 1] = path + b"\0"
        for name in ("calls", "hit", "first", "last", "delay_us", "synced", "released", "stops_after_sync"):
            self._put(name, 0)

    @property
    def calls(self) -> int:
        """How many there were."""
        return self._get("calls")

    @property
    def hit(self) -> int:
        """To how many something was done."""
        return self._get("hit")

    def at(self, call: int, action: Action, *, upto: int | None = None, error: int = 0) -> None:
        """Do this to call number `call`, or to all up to `upto`; `error`: the errno of those that fail."""
        self._put("first", call)
        self._put("last", call if upto is None else upto)
        self._put("error", error)
        self._put("hit", 0)
        self._put("action", action)

    def fails(self, error: int) -> None:
        """Every call fails from now on, the first of them when half of it is done."""
        self.at(1, Action.FAIL_HALFWAY, upto=ALWAYS, error=error)

    def works(self) -> None:
        """Nothing happens to calls any more."""
        self._put("action", Action.NOTHING)
        self._put("delay_us", 0)
        self._put("held", 0)

    def takes(self, microseconds: int) -> None:
        """Every call takes this much longer."""
        self._put("delay_us", microseconds)

    def hangs(self) -> None:
        """Calls do not return until `works`."""
        self._put("held", 1)

    @property
    def waiting(self) -> int:
        """Calls that hang now."""
        return self._get("waiting")

    def steps_clock(self, seconds: float) -> None:
        """CLOCK_REALTIME of the process is this far ahead of this machine's, or behind."""
        self._put("wall_ns", int(seconds * 1e9))

    def stops_after_syncs(self) -> None:
        """A call that has brought a file to the disk does not return until `go_on`."""
        self._put("stops_after_sync", 1)

    @property
    def is_stopped(self) -> bool:
        """True while such a call waits."""
        return self._get("synced") > self._get("released")

    @property
    def synced(self) -> Path:
        """The file, or directory, that the last such call has brought to the disk."""
        path = self._control[_SYNCED_PATH : _LAYOUT.size].partition(b"\0")[0]
        return Path(path.decode())

    def go_on(self) -> None:
        """Let it return."""
        self._put("released", self._get("synced"))

    def close(self) -> None:
        """Unmap the control; a process that runs on sees what was said last."""
        self._control.close()

    def _get(self, name: str) -> int:
        form = "=Q" if _OFFSETS[name] < 320 else "=I"
        value: int = struct.unpack_from(form, self._control, _OFFSETS[name])[0]
        return value

    def _put(self, name: str, value: int) -> None:
        form = "=q" if name == "wall_ns" else "=Q" if _OFFSETS[name] < 320 else "=I"
        struct.pack_into(form, self._control, _OFFSETS[name], value)
