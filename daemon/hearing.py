"""From a decoded line to what the coalescer joins: meaning, times, and text fit to leave the program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from daemon.catalog import Meaning, detail, meaning
from daemon.decoded import Fault
from daemon.event import Event, Kind, Process, Severity, Witness, event_id
from daemon.fault import Slot, Sufferer, Trust
from daemon.heard import Heard
from daemon.knowledge import Knowledge
from daemon.text import clean
from probes.line import KernelLine, Origin

MAX_DETAIL_TEXT = 256
"""Characters of log text in one detail field."""

MAX_PROCESS_NAME = 64
"""Characters of a process name: the kernel's `comm` holds 15, the driver prints up to 63."""

RECOVERY_ACTION_CHANGED = 154


@dataclass(frozen=True, slots=True)
class _Opening:
    """The parts from which the event of a first record is made, should the line become one."""

    fault: Fault
    line: KernelLine
    meaning: Meaning
    origin: Origin
    drill: bool
    process: Process | None
    text: str
    driver_version: str | None

    def detail(self) -> Mapping[str, Any]:
        """The decoded fields with NVIDIA's rule for them, log text in them cleaned."""
        found = detail(self.fault, self.driver_version)
        return {name: _clean(value) for name, value in found.items()}


def hear(fault: Fault, line: KernelLine, knowledge: Knowledge, *, node: str, drill: bool) -> Heard:
    """The line with its meaning, cleaned, and placed in time."""
    origin = Origin.UNKNOWN if fault.glued and line.origin is Origin.KERNEL else line.origin
    opening = _Opening(
        fault=fault,
        line=line,
        meaning=_meaning(fault, origin, knowledge.driver_version),
        origin=origin,
        drill=drill,
        process=_process(fault),
        text=clean(line.text),
        driver_version=knowledge.driver_version,
    )
    return Heard(
        slot=_slot(fault, line.boot_id, _trust(origin, drill)),
        sufferer=Sufferer(fault.mig, fault.pid),
        part=fault.part,
        meaning=opening.meaning,
        process=opening.process,
        detail=opening.detail,
        text=opening.text,
        at_us=line.kernel_us if line.kernel_us is not None else line.arrival_us,
        wall_us=line.wall_us,
        arrival_us=line.arrival_us,
        probe=line.probe,
        event=partial(_event, opening, knowledge, node),
        seq=line.seq,
    )


def _meaning(fault: Fault, origin: Origin, driver_version: str | None) -> Meaning:
    """The catalogue's word; what nobody can prove the kernel said is never above a warning."""
    means = meaning(fault, driver_version)
    if origin is Origin.UNKNOWN and means.severity.rank > Severity.WARNING.rank:
        return replace(means, severity=Severity.WARNING)
    return means


def _process(fault: Fault) -> Process | None:
    if fault.pid is None and fault.process_name is None:
        return None
    return Process(fault.pid, clean(fault.process_name, MAX_PROCESS_NAME) if fault.process_name else None)


def _clean(value: Any) -> Any:
    return clean(value, MAX_DETAIL_TEXT) if isinstance(value, str) else value


def _trust(origin: Origin, drill: bool) -> Trust:
    if drill:
        return Trust.DRILL
    return Trust.PROVED if origin is Origin.KERNEL else Trust.UNPROVED


def _slot(fault: Fault, boot_id: str, trust: Trust) -> Slot:
    what = fault.code if fault.code is not None else fault.detail.get("code_text", fault.name)
    if (fault.kind, fault.code) == (Kind.XID, RECOVERY_ACTION_CHANGED):
        # Every change of the recovery action is news of its own, the way back to None above all.
        what = f"{fault.code} to {fault.detail.get('recovery_to')}"
    return Slot(trust, boot_id, fault.kind, what, fault.pci)


def _event(opening: _Opening, knowledge: Knowledge, node: str) -> Event:
    """The event (revision 0) whose first record this line is."""
    fault, line, means = opening.fault, opening.line, opening.meaning
    gpu, nvswitch = knowledge.device_of(fault)
    return Event(
        id=event_id(line.boot_id, line.kernel_us, line.text),
        revision=0,
        kind=fault.kind,
        code=fault.code,
        name=means.name,
        summary=means.summary,
        severity=means.severity,
        blame=means.blame,
        action=means.action,
        action_text=means.action_text,
        time_us=line.wall_us,
        time_is_estimate=line.wall_is_estimate,
        last_time_us=line.wall_us,
        count=1,
        gpu=gpu,
        nvswitch=nvswitch,
        process=opening.process,
        detail=opening.detail(),
        lines=(opening.text,),
        lines_dropped=0,
        origin=opening.origin,
        drill=opening.drill,
        witnesses=(Witness(line.probe, 0),),
        node=node,
        boot_id=line.boot_id,
        kmsg_seq=line.seq,
        driver_version=knowledge.driver_version,
    )
