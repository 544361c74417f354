"""`get_daemon_status`: what hears, what is kept, what is not available, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from mcp_server.quote import quoted
from mcp_server.services import Services
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.wire import Arguments, Shown
from mcp_server.wire_analysis import ProbeOut
from probes.health import ProbeState


class GetDaemonStatus(Arguments):
    """Arguments of get_daemon_status: none."""


class UnavailableOut(Shown):
    """A part that was asked for, or could be, and is not there."""

    part: str
    reason: str


class StatusOut(Shown):
    """State of the daemon, as `xidwatch status --json` gives it."""

    version: str
    node: str
    boot_id: str
    started: str
    uptime_s: float
    mode: str
    drills_allowed: Annotated[bool, Field(description="Whether test lines become events.")]
    driver_version: str | None
    probes: list[ProbeOut]
    unavailable: list[UnavailableOut]
    journal: Annotated[dict[str, Any], Field(description="Whether events reach the disk.")]
    newest_cursor: int
    oldest_cursor: int
    counters: dict[str, int]


class StatusTool:
    """The tool."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def tool(self) -> Tool[GetDaemonStatus]:
        """Ready for a toolbox."""
        return Tool(
            name="get_daemon_status",
            title="State of the daemon",
            description=(
                "Whether xidwatch can hear GPU faults on this node: its probes with the reason when one does "
                "not hear, whether events reach the disk, what is not available, cursors and counters."
            ),
            arguments=GetDaemonStatus,
            result=StatusOut,
            run=self._run,
        )

    async def _run(self, asked: GetDaemonStatus, caller: Caller) -> Answer:
        status = self._services.status()
        return Answer("\n".join(self._text(status)), status)

    def _text(self, status: Mapping[str, Any]) -> Iterator[str]:
        yield f"xidwatch {status['version']} on {status['node']}, started {status['started']}."
        probes = self._services.health()
        hearing = [probe.name for probe in probes if probe.hears and probe.live]
        if hearing:
            yield f"Hears the kernel log through {' and '.join(hearing)}."
        else:
            yield "DOES NOT HEAR the kernel log: that no errors are known says nothing."
        for probe in probes:
            if probe.hears and probe.note:
                yield f"{probe.name}: {probe.note}."
            if probe.state is not ProbeState.OK:
                hint = f" ({probe.hint})" if probe.hint else ""
                hears = "hears in part" if probe.hears else "does not hear"
                yield f"{probe.name} {hears}: {probe.reason}{hint}."
        journal = status["journal"]
        reason = f" ({journal['reason']})" if journal.get("reason") else ""
        yield f"Journal: {journal.get('state', 'unknown')}{reason}."
        for outlet in self._services.outlets():
            if not outlet.up:
                why = quoted(outlet.reason or "not known why")
                yield f"EVENTS DO NOT GET OUT through {outlet.name}: {why}."
        if status["driver_version"]:
            yield f"NVIDIA driver {status['driver_version']}."
        if count := self._services.watch.state().abandoned:
            yield (
                f"{count} process{'es' * (count != 1)} that read GPUs left behind since the start, in NVML "
                "calls that did not return."
            )
        if status["drills_allowed"]:
            yield "Drills are allowed: events with drill=true are tests."
        if status["unavailable"]:
            parts = ", ".join(f"{each['part']} ({each['reason']})" for each in status["unavailable"])
            yield f"Not available: {parts}."
        yield f"Cursors {status['oldest_cursor']} to {status['newest_cursor']}."
