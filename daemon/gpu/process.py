"""Who is behind a pid that the driver or NVML named, as far as /proc tells while the process lives.

The driver prints process ids of the host's pid namespace, NVML those it was given. They can be
looked up only where this program sees the same namespace; anywhere else the same number is another
process, and nothing is answered. One open directory in /proc stands for one process for good: when
its pid is given to another in the middle of a look-up, reads fail instead of mixing the two.

Reading a command line takes a lock of the process's memory map, which a process stuck in a driver
may hold for ever. So it is read in a thread that is left behind at a deadline, once per process.

A command line is data that a user typed: it may hold secrets and instructions. It is cut and
cleaned of what could act on a terminal, and never interpreted.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from daemon.gpu.container import Container, container_of
from daemon.text import clean
from probes.errors import UserError

PROC = Path("/proc")
MOST_PID = 2**22
"""PID_MAX_LIMIT of <linux/threads.h> on 64-bit kernels."""
COMMAND_LINE_LIMIT = 240
"""Characters of a command line that are kept."""

_READ_LIMIT = 64 * 1024
_COMMAND_LINE_BYTES = 4 * COMMAND_LINE_LIMIT
_HOST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, 0xEFFFFFFC, since Linux 3.8
_STUCK = "reading it hung: the process may be stuck in the kernel with its memory map locked"
_LATE = "not read before the deadline"


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process. What is None has its reason in `unread`, but where the field says otherwise."""

    pid: int
    """In the host's pid namespace."""
    name: str | None = None
    """Command name as the kernel keeps it: at most 15 bytes, chosen by the process itself."""
    command_line: str | None = None
    """Arguments joined by blanks, cleaned, at most `COMMAND_LINE_LIMIT` characters."""
    uid: int | None = None
    """Real user id, in this program's user namespace."""
    user: str | None = None
    """Name of that id in this system's /etc/passwd; another name may belong to it inside a container."""
    started_us: int | None = None
    """Wall clock of its start, µs since the Unix epoch; exact to a clock tick (10 ms)."""
    start_ticks: int | None = None
    """The same in clock ticks since boot. With the pid it identifies a process for the whole boot."""
    in_container: bool | None = None
    """False: it runs in no container."""
    container_id: str | None = None
    """Full id of its container; None without a reason when `in_container` is False."""
    namespace_pid: int | None = None
    """Its pid within its own pid namespace; None without a reason when that is this program's."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Field → why it is None."""

    @property
    def found(self) -> bool:
        """True when the process was there."""
        return self.start_ticks is not None

    def to_json(self) -> dict[str, object]:
        """As a JSON object, a key for each field."""
        return {name: getattr(self, name) for name in _FIELDS} | {"unread": dict(self.unread)}


_FIELDS = tuple(name for name in ProcessFacts.__dataclass_fields__ if name != "unread")
_LEARNT = tuple(name for name in _FIELDS if name not in ("pid", "namespace_pid"))


def checked_pid(pid: int) -> int:
    """`pid` when a process could have it. Raises UserError."""
    if not 1 <= pid <= MOST_PID:
        raise UserError(
            f"{pid} is not a process id",
            hint=f"give a whole number from 1 to {MOST_PID}",
        )
    return pid


def sees_host_pids(proc: Path = PROC) -> bool:
    """True when this program lives in the host's pid namespace (`hostPID: true` in Kubernetes)."""
    try:
        return str((proc / "self/ns/pid").readlink()) == _HOST_PID_NAMESPACE
    except OSError:
        return False


_Identity = tuple[int, int | None]
"""Pid and start in ticks."""


@dataclass(frozen=True, slots=True)
class _LookUp:
    """What the thread of one look-up has found so far, and what it is at."""

    found: dict[int, ProcessFacts] = field(default_factory=dict)
    reading: set[_Identity] = field(default_factory=set)
    """At most one: the process whose command line is being read."""


class ProcessReader:
    """Looks processes up. For one event loop; holds no resources."""

    def __init__(self, proc: Path = PROC, *, host_pids: bool | None = None) -> None:
        """`host_pids` says whether `proc` shows the host's processes; found out by default."""
        self._proc = proc
        self._host_pids = sees_host_pids(proc) if host_pids is None else host_pids
        self._stuck: set[_Identity] = set()

    @property
    def has_host_pids(self) -> bool:
        """True when it looks at the host's processes; without them nothing is answered."""
        return self._host_pids

    async def look_up(self, pids: Iterable[int], *, deadline_s: float = 0.5) -> dict[int, ProcessFacts]:
        """Facts of each pid, at the latest `deadline_s` from now. Never raises for a process."""
        wanted = list(dict.fromkeys(pids))
        if not wanted:
            return {}
        look_up = _LookUp()
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def read() -> None:
            try:
                self._read_all(wanted, look_up)
            finally:
                with suppress(RuntimeError):  # the loop has ended: nobody waits
                    loop.call_soon_threadsafe(done.set)

        threading.Thread(target=read, name="process facts", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), deadline_s)
        except TimeoutError:
            self._stuck |= look_up.reading
        # The thread may still be at it: what it learns from here on is nobody's.
        return {pid: look_up.found.get(pid) or _unknown(pid, _LATE) for pid in wanted}

    def facts(self, pid: int) -> ProcessFacts:
        """Everything but the command line, which is read by `look_up`. Does not block."""
        if not self._host_pids:
            return _unknown(pid, "this program runs in a pid namespace of its own and cannot see the host's")
        try:
            directory = self._open(pid)
            try:
                return _facts(pid, directory)
            finally:
                os.close(directory)
        except OSError as error:
            return _unknown(pid, _why_not(error))
        except (ValueError, IndexError, KeyError):
            return _unknown(pid, "what /proc says of it does not parse")

    def _read_all(self, pids: list[int], look_up: _LookUp) -> None:
        for pid in pids:
            look_up.found[pid] = _without_command_line(self.facts(pid), _LATE)
        for facts in [facts for facts in look_up.found.values() if facts.found]:
            process = (facts.pid, facts.start_ticks)
            if process in self._stuck:
                look_up.found[facts.pid] = _without_command_line(facts, _STUCK)
                continue
            look_up.reading.add(process)
            look_up.found[facts.pid] = _without_command_line(facts, _STUCK)
            look_up.found[facts.pid] = self._with_command_line(facts)
            look_up.reading.discard(process)
            self._stuck.discard(process)  # it was only slow, and nobody waits for this thread any more

    def _with_command_line(self, facts: ProcessFacts) -> ProcessFacts:
        try:
            directory = self._open(facts.pid)
            try:
                raw = _read(directory, "cmdline", _COMMAND_LINE_BYTES)
                # Both reads through one directory: the line is that of the process with these ticks.
                same = int(_stat(directory)[19]) == facts.start_ticks
            finally:
                os.close(directory)
        except (OSError, ValueError, IndexError) as error:
            return _without_command_line(
                facts, _why_not(error) if isinstance(error, OSError) else "does not parse"
            )
        if not same:
            return _without_command_line(facts, "the process ended while it was looked at")
        text = clean(os.fsdecode(raw.rstrip(b"\0").replace(b"\0", b" ")), COMMAND_LINE_LIMIT)
        if not text:
            return _without_command_line(facts, "it has none: a kernel thread, or it is ending")
        unread = {name: why for name, why in facts.unread.items() if name != "command_line"}
        return replace(facts, command_line=text, unread=unread)

    def _open(self, pid: int) -> int:
        return os.open(self._proc / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _facts(pid: int, directory: int) -> ProcessFacts:
    status = _status(directory)
    leader = int(status["Tgid"])
    if leader != pid:
        return _unknown(pid, f"it is a thread of process {leader}")
    uid = int(status["Uid"].split()[0])
    namespace_pids = [int(number) for number in status.get("NSpid", "").split()]
    unread: dict[str, str] = {"command_line": "not asked for"}
    user = _user(uid)
    if user is None:
        unread["user"] = f"/etc/passwd names no user {uid}"
    container = _container(directory, is_nested=len(namespace_pids) > 1)
    if container.unknown is not None:
        unread |= dict.fromkeys(("in_container", "container_id"), container.unknown)
    stat = _stat(directory)  # last: it fails when the process ended in between
    ticks = int(stat[19])
    return ProcessFacts(
        pid=pid,
        name=clean(status["Name"], 64),
        uid=uid,
        user=user,
        started_us=_wall_us(ticks),
        start_ticks=ticks,
        in_container=container.inside,
        container_id=container.id,
        namespace_pid=namespace_pids[-1] if len(namespace_pids) > 1 else None,
        unread=unread,
    )


def _container(directory: int, *, is_nested: bool) -> Container:
    try:
        text = os.fsdecode(_read(directory, "cgroup", _READ_LIMIT))
    except OSError as error:
        return Container(None, None, _why_not(error))
    return container_of(text, has_own_pids=is_nested)


def _status(directory: int) -> dict[str, str]:
    lines = os.fsdecode(_read(directory, "status", _READ_LIMIT)).split("\n")
    pairs = (line.partition(":") for line in lines)
    return {key: value.strip() for key, _, value in pairs}


def _stat(directory: int) -> list[str]:
    # Fields of proc_pid_stat(5) from the state on; the command name before them may hold anything.
    return os.fsdecode(_read(directory, "stat", _READ_LIMIT)).rpartition(")")[2].split()


def _wall_us(ticks: int) -> int:
    boot_us = (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1000
    return boot_us + ticks * 1_000_000 // os.sysconf("SC_CLK_TCK")


def _user(uid: int) -> str | None:
    # Not getpwuid(3): it may ask a directory server over the network.
    try:
        text = Path("/etc/passwd").read_text("utf-8", "replace")
    except OSError:
        return None
    entry = re.search(rf"^([^:\n]+):[^:\n]*:{uid}:", text, re.MULTILINE)
    return clean(entry[1], 64) if entry else None


def _read(directory: int, name: str, limit: int) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        pieces = b""
        while len(pieces) < limit and (piece := os.read(file, limit - len(pieces))):
            pieces += piece
        return pieces
    finally:
        os.close(file)


def _why_not(error: OSError) -> str:
    match error:
        case FileNotFoundError() | ProcessLookupError():
            return "no such process: it ended, or the mount option hidepid hides it"
        case PermissionError():
            return "the kernel does not let this user look at it"
    return (error.strerror or str(error)).lower()


def _unknown(pid: int, why: str) -> ProcessFacts:
    return ProcessFacts(pid, unread=dict.fromkeys(_LEARNT, why))


def _without_command_line(facts: ProcessFacts, why: str) -> ProcessFacts:
    if not facts.found:
        return facts
    return replace(facts, command_line=None, unread={**facts.unread, "command_line": why})
