"""A node in trouble: a real daemon, its kernel log, and the question an assistant asks it over MCP.

The kernel log is a FIFO, so that its records come from the kernel as far as the daemon can tell. What
lies in the past, or in another boot, is put into the journal before the daemon starts, by the pipeline
that would have put it there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from daemon.event import Event
from daemon.pipeline import Pipeline
from daemon.store import StateChange, Store
from mcp_server.wire_analysis import AnalysisOut
from probes import kernel
from probes.line import KernelLine, Origin, ResumePoint
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.metrics import metric
from tests.support.tool_calls import answer
from tests.support.waiting import wait_for

SECOND = 1_000_000
GPUS = tuple(f"0000:{bus}:00" for bus in ("1b", "43", "52", "61", "9d", "c3", "d1", "df"))
"""PCI addresses of the eight GPUs of the node, as the driver prints them."""
UUID = "GPU-{:08x}-2222-3333-4444-555555555555"
IDENTITIES = tuple((0.0, f"NVRM: GPU at PCI:{gpu}: {UUID.format(n)}") for n, gpu in enumerate(GPUS))
"""The lines that name the GPUs, with their seconds."""
LINES_HEARD_BEFORE = 100
BY_A_PROCESS = 12
"""Priority of a line that a process wrote: facility user, level warning."""
LESS_THAN_ROOT = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Runs a command for which even root's files have permissions."""


Answer = tuple[Mapping[str, Any], str]
"""Structured content and text."""


class Scene:
    """One node for one situation."""

    def __init__(self, directory: Path, *, allow_drills: bool, readable: bool) -> None:
        self.directory = directory
        self.log = FakeKernelLog(directory / "kmsg")
        self.log.next_seq = LINES_HEARD_BEFORE
        self._readable = readable
        if not readable:
            self.log.path.chmod(0)
        self.daemon = Daemon(
            directory,
            kmsg=self.log.path,
            flags=["--allow-drills"] if allow_drills else [],
            wrapper=() if readable or os.geteuid() else _less_than_root(),
        )

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.daemon.stop()
        self.log.close()

    def start(self) -> None:
        """Start the daemon; where it can read the log, let it hear the names of the GPUs."""
        if not self._readable:
            self.daemon.spawn()
            wait_for(self._answers, "the daemon to answer", pause_s=0.05)
            return
        self.daemon.start()
        for at_s, text in IDENTITIES:
            self.say(at_s, text)

    def _answers(self) -> bool:
        try:
            return self.daemon.get("/healthz")[0] == 200
        except OSError:
            return False

    def say(self, at_s: float, text: str, *, priority: int = 4, lost_before: int = 0) -> None:
        """A line is printed `at_s` seconds after the first; `lost_before` records before it were
        overwritten unread."""
        seq = self.log.next_seq + lost_before
        self.log.write(text, time_us=round((100 + at_s) * SECOND), seq=seq, priority=priority)

    def wait_until_told(self, counts: Mapping[int, int], *, members: int, ignored: int) -> None:
        """Wait until each code was counted so often, so many events are told as members of incidents, and
        so many lines were ignored."""
        what = f"{dict(counts)}, {members} members, {ignored} ignored lines"
        wait_for(lambda: self._is_told(counts, members, ignored), what, pause_s=0.1)

    def _is_told(self, counts: Mapping[int, int], members: int, ignored: int) -> bool:
        events = self._events()
        faults = {event["id"]: event for event in events if event["kind"] != "incident"}
        told: Counter[int] = Counter()
        for event in faults.values():
            if event["code"] is not None:
                told[event["code"]] += event["count"]
        incidents = [event for event in events if event["kind"] == "incident"]
        living = {each["id"]: each["detail"] for each in incidents if each["detail"]["state"] != "closed"}
        listed = [member for detail in living.values() for member in detail["members"]]
        dropped = sum(detail["members_dropped"] for detail in living.values())
        return (
            dict(told) == dict(counts)
            and len(listed) + dropped == members
            and sum(event["incident"] in living for event in faults.values()) == members
            and all(each["count"] == faults[each["id"]]["count"] for each in listed)
            and metric(self.daemon, "xidwatch_forged_lines_total") == ignored
        )

    def _events(self) -> list[dict[str, Any]]:
        """Everything kept."""
        events: list[dict[str, Any]] = []
        while page := self.daemon.events(f"since={events[-1]['cursor'] if events else 0}&limit=1000"):
            events += page
        return events

    def ask(self, arguments: Mapping[str, Any]) -> Answer:
        """Call `analyze_xid_errors` as an assistant does: structured content and text."""
        return answer(self.daemon.url, "analyze_xid_errors", AnalysisOut, **arguments)

    def remember(
        self, ago_s: float, lines: Sequence[tuple[float, str]], *, quiet_s: float, boot_id: str | None = None
    ) -> None:
        """Before the daemon's first start: these lines, with their seconds, were heard `ago_s` seconds
        ago in that boot (None: the one that runs), and nothing for `quiet_s` seconds after them."""
        past = Past(boot_id or kernel.boot_id(), ago_s)
        for at_s, text in [*IDENTITIES, *lines]:
            past.hear(at_s, text)
        past.wait(lines[-1][0] + quiet_s)
        asyncio.run(past.store(self.daemon.state_dir))


class Past:
    """What a daemon made of lines that it heard a while ago."""

    def __init__(self, boot_id: str, ago_s: float) -> None:
        self._pipeline = Pipeline(node="test-node")
        self._boot_id = boot_id
        self._seq = 0
        self._begin_us = time.monotonic_ns() // 1000 - round(ago_s * SECOND)
        self._wall_offset_us = (time.time_ns() - time.monotonic_ns()) // 1000
        self._events: dict[str, Event] = {}

    def hear(self, at_s: float, text: str) -> None:
        """One line of the kernel."""
        self.wait(at_s)
        self._seq += 1
        at_us = self._begin_us + round(at_s * SECOND)
        line = KernelLine(
            text=text,
            origin=Origin.KERNEL,
            boot_id=self._boot_id,
            seq=self._seq,
            kernel_us=round((100 + at_s) * SECOND),
            arrival_us=at_us,
            wall_us=at_us + self._wall_offset_us,
            wall_is_estimate=False,
            probe="kmsg",
        )
        self._note(self._pipeline.feed(line))

    def wait(self, until_s: float) -> None:
        """Nothing is printed until then."""
        until_us = self._begin_us + round(until_s * SECOND)
        while (due := self._pipeline.next_deadline()) is not None and due <= until_us:
            self._note(self._pipeline.tick(due))

    def _note(self, news: Sequence[Event]) -> None:
        for event in news:
            self._events.pop(event.id, None)  # its newest revision goes to the end, as in a journal
            self._events[event.id] = event

    async def store(self, state_dir: Path) -> None:
        """Put it into a new journal."""
        changes = self._pipeline.take_changes()
        store = Store.open(state_dir)
        try:
            store.put(
                list(self._events.values()),
                StateChange(changes.faults, changes.dropped, changes.context),
                ResumePoint(self._boot_id, LINES_HEARD_BEFORE - 1),
            )
        finally:
            await store.close()


def _less_than_root() -> Sequence[str]:
    if shutil.which(LESS_THAN_ROOT[0]) is None:
        pytest.skip("root can read everything, and there is no setpriv to take that away")
    return LESS_THAN_ROOT
