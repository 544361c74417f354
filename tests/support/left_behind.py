"""What an ended program left behind: processes, eBPF programs, files.

Processes are known by a variable that their whole family inherits, so one that lost its parent is found too.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

_NAME = "FAULT_LAB_FAMILY"
_ENDED = ("Z", "X")


class Family:
    """The processes that come from one start."""

    def __init__(self) -> None:
        self._mark = f"{_NAME}={secrets.token_hex(8)}"

    @property
    def environ(self) -> dict[str, str]:
        """The variables to start the first one with."""
        name, _, value = self._mark.partition("=")
        return {name: value}

    def living(self) -> list[str]:
        """Pid and command line of each process that still runs; those that only wait to be reaped do not."""
        return [f"{process.name} {_command(process)}" for process in self._members()]

    def pids(self) -> list[int]:
        """Their pids."""
        return [int(process.name) for process in self._members()]

    def _members(self) -> Iterator[Path]:
        mark = self._mark.encode()
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                is_one = mark in (process / "environ").read_bytes().split(b"\0")
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:  # it ended meanwhile
                continue
            if is_one and state not in _ENDED:
                yield process


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return "(ended)"


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for this signal; False once it ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (number - 1) & 1)
