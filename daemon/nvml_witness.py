"""NVML's event set as a witness: its word joins the event that the log gave, or stands alone.

Contract:

* NVML hears of a fault 1 to 105 ms after the line was printed (measured on an H200), tells only one of a
  burst, and never tells of 79, 119 and 120: it adds to the log and cannot take its place.
* Its word belongs to a proved fault of the same GPU and code whose last record is not more than
  `BELONGS_US` away by the wall clock, the one clock that both have and that a restart leaves alone. MIG
  instances differ only where both say one.
* Without such a fault it waits `LOG_WAIT_US` for the log: the line may not have been read yet. Then it is
  an event of its own, proved, since the driver says so itself, and without a line.
* Where only eBPF or syslog(2) gave a line, and neither could say who printed it, the event is the same
  one: it is raised to what NVML proves, the device and the code, and says no word of that line any longer.
* A line that comes later still becomes the first of that event (`told_before`): never two events for one
  fault. From then on the log counts its repeats.

Owned by the pipeline; no clock of its own. What waits is part of the pipeline's saved state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final

from daemon.catalog import Meaning, meaning, meaning_of
from daemon.decoded import Fault, Part
from daemon.event import Action, Blame, Gpu, Kind, Mig, Severity
from daemon.fault import OpenFault, Slot, Trust
from daemon.heard import Heard
from daemon.lineless import opened
from probes.bpf.probe import NAME as BPF
from probes.klog import NAME as KLOG
from probes.kmsg import NAME as KMSG

PROBE: Final = "nvml"
"""Name of this witness."""
STATE_KEY: Final = "nvml waiting"
"""Name of the row of saved state that holds what waits, among those of open faults."""
LOG_WAIT_US: Final = 500_000
"""How long NVML's word waits for the log, in arrival time."""
BELONGS_US: Final = 5_000_000
"""How far apart the two may be: as far as repeats of one fault in the log."""


class NvmlEventKind(StrEnum):
    """What NVML tells of."""

    XID = "xid"
    RECOVERY_ACTION = "recovery_action"
    """The driver's advice changed; to what, NVML does not say."""
    GPU_UNAVAILABLE = "gpu_unavailable"
    ECC_STORM = "ecc_storm"
    """Corrected memory errors come in fast."""


_XID_OF: Final = {NvmlEventKind.RECOVERY_ACTION: 154, NvmlEventKind.ECC_STORM: 92}
"""The Xid by which the log tells the same."""

_UNAVAILABLE: Final = Meaning(
    "GPU_UNAVAILABLE",
    "The driver says that this GPU is unavailable",
    Severity.FATAL,
    Blame.UNKNOWN,
    Action.FOLLOW_RECOVERY_ACTION,
    "Read the GPU's recovery action (get_gpu_health, or nvidia-smi -q) and follow it.",
)


@dataclass(frozen=True, slots=True)
class NvmlEvent:
    """One event of the event set."""

    what: NvmlEventKind
    code: int | None
    """The Xid; None for what is no Xid."""
    pci: str
    """The GPU: `0000:91:00.0`."""
    mig: Mig | None
    """None when NVML names no instance."""
    arrival_us: int
    """When the wait for it returned: µs of CLOCK_MONOTONIC."""
    wall_us: int
    """The same by the wall clock, µs since the Unix epoch."""
    boot_id: str
    """/proc/sys/kernel/random/boot_id."""

    @property
    def xid(self) -> int | None:
        """The Xid by which the log tells the same; None when there is no such one."""
        return self.code if self.what is NvmlEventKind.XID else _XID_OF.get(self.what)


class NvmlWitness:
    """What NVML said that the log has not, so far. See the module's docstring."""

    def __init__(self) -> None:
        self.changed = False
        """True while the saved copy of what waits is out of date."""
        self._waiting: list[NvmlEvent] = []
        self._alone: list[OpenFault] = []

    def said(self, event: NvmlEvent, faults: Iterable[OpenFault]) -> OpenFault | None:
        """The fault that NVML tells of; None when it is not known, and what it said waits for the log."""
        home = self.known(event, faults)
        if home is None:
            self._waiting.append(event)
            self.changed = True
        return home

    @staticmethod
    def known(event: NvmlEvent, faults: Iterable[OpenFault]) -> OpenFault | None:
        """Of the faults that it can tell of the last one, rather one that NVML has not told of yet, and
        rather one that is published; None when there is none."""
        return max(
            (fault for fault in faults if _tells_of(event, fault)),
            key=lambda fault: (
                fault.slot.device is not None,
                not _has_word(fault),
                not fault.held,
                fault.last_us,
            ),
            default=None,
        )

    @staticmethod
    def unproved(event: NvmlEvent, faults: Iterable[OpenFault]) -> OpenFault | None:
        """Of the published faults that eBPF or syslog(2) gave, and nobody has proved, the nearest one that it
        can tell of; None when there is none."""
        return min(
            (fault for fault in faults if _may_tell_of_unproved(event, fault)),
            key=lambda fault: abs(event.wall_us - fault.last_time_us),
            default=None,
        )

    def line_read(self, fault: OpenFault) -> Sequence[NvmlEvent]:
        """What waited for the line that has just become `fault`, or a part of it."""
        if not self._waiting:
            return ()
        return self._take([event for event in self._waiting if _tells_of(event, fault)])

    def due(self, now_us: int) -> Sequence[NvmlEvent]:
        """What has waited long enough by arrival time `now_us`."""
        return self._take([event for event in self._waiting if now_us - event.arrival_us >= LOG_WAIT_US])

    def _take(self, wanted: Sequence[NvmlEvent]) -> Sequence[NvmlEvent]:
        if wanted:
            self._waiting = [event for event in self._waiting if event not in wanted]
            self.changed = True
        return wanted

    def next_deadline(self) -> int | None:
        """Arrival time at which `due` next has something to give; None when nothing waits."""
        return min((event.arrival_us + LOG_WAIT_US for event in self._waiting), default=None)

    def stands_alone(self, fault: OpenFault) -> None:
        """This fault has NVML's word and no line."""
        self._alone.append(fault)

    def snapshot(self) -> Mapping[str, str]:
        """What waits, as a row of state; no row when nothing does."""
        if not self._waiting:
            return {}
        return {STATE_KEY: json.dumps([asdict(event) for event in self._waiting])}

    def take_changes(self) -> tuple[Mapping[str, str], frozenset[str]]:
        """Rows of state that changed since the last call, and keys of those that are no longer needed."""
        if not self.changed:
            return {}, frozenset()
        self.changed = False
        rows = self.snapshot()
        return rows, frozenset() if rows else frozenset({STATE_KEY})

    def load(self, text: str, now_us: int) -> None:
        """Take up what waited in an earlier process: it waits from now (arrival time) on, since the log is
        read again. Raises ValueError, TypeError or KeyError when the text is none."""
        for saved in json.loads(text):
            mig = Mig(**saved["mig"]) if saved["mig"] is not None else None
            fields = {**saved, "what": NvmlEventKind(saved["what"]), "mig": mig, "arrival_us": now_us}
            self._waiting.append(NvmlEvent(**fields))

    def restore(self, faults: Iterable[OpenFault]) -> None:
        """Find those that stand alone among the faults of an earlier process."""
        self._alone = [fault for fault in faults if stands_alone(fault)]

    def told_before(self, heard: Heard, is_open: Callable[[OpenFault], bool]) -> OpenFault | None:
        """The open fault that NVML told of and of which this line is the first; None when there is none."""
        if not self._alone or heard.part is Part.CONTINUATION:
            return None
        self._alone = [fault for fault in self._alone if is_open(fault) and stands_alone(fault)]
        near = (fault for fault in self._alone if _is_near(fault, heard.wall_us))
        return next((fault for fault in near if _is_told_by(fault, heard)), None)


def stands_alone(fault: OpenFault) -> bool:
    """True for a fault of which NVML's word is all that is proved."""
    return not fault.lines and "nvml_event" in fault.detail


def is_repeat(event: NvmlEvent, alone: OpenFault) -> bool:
    """True when NVML says again what it said of a fault that stands alone; it may also say the same in
    another way, as an Xid 154 and as a recovery action. Where there are lines as well, these count."""
    is_only = [witness.probe for witness in alone.witnesses] == [PROBE]
    return is_only and _kind_of(alone) is event.what


def delay_us(event: NvmlEvent, fault: OpenFault) -> int:
    """How long after the log NVML told of this fault; 0 when it came first. Of a fault that repeats NVML
    may have told any occurrence: the last one is taken."""
    heard_us = fault.event.time_us if fault.count == 1 else fault.last_time_us
    return max(0, event.wall_us - heard_us)


def told_alone(
    event: NvmlEvent, gpu: Gpu, *, node: str, driver_version: str | None, has_line: bool
) -> OpenFault:
    """The open fault that NVML's word becomes without the log; `has_line`: there is a line, unproved."""
    means = _meaning(event, driver_version)
    detail = {
        "heard_by": _BESIDE_A_LINE if has_line else _ALONE,
        "nvml_event": event.what.value,
        "waited_for_log_ms": LOG_WAIT_US // 1000,
    }
    kind = Kind.XID if event.what is NvmlEventKind.XID else Kind.NVRM
    what = event.code if event.what is NvmlEventKind.XID else event.what.value
    return opened(
        Slot(Trust.PROVED, event.boot_id, kind, what, event.pci),
        means,
        identity=f"{PROBE}\0{event.what}\0{event.code}\0{event.pci}",
        witness=PROBE,
        at_us=event.arrival_us,
        wall_us=event.wall_us,
        detail=detail,
        node=node,
        driver_version=driver_version,
        code=event.code,
        gpu=replace(gpu, mig=event.mig),
    )


def _meaning(event: NvmlEvent, driver_version: str | None) -> Meaning:
    if event.xid is None:
        return _UNAVAILABLE if event.what is NvmlEventKind.GPU_UNAVAILABLE else meaning_of(Kind.NVRM, None)
    fault = Fault(
        kind=Kind.XID,
        code=event.xid,
        name=None,
        pci=event.pci,
        nvswitch=None,
        mig=event.mig,
        pid=None,
        process_name=None,
        text="",
        part=Part.WHOLE,
    )
    return meaning(fault, driver_version)


_ALONE: Final = "NVML alone: the kernel log has no line of it"
_BESIDE_A_LINE: Final = "NVML; beside it only a line that nothing proves, and that is not shown"


def _has_word(fault: OpenFault) -> bool:
    return any(witness.probe == PROBE for witness in fault.witnesses)


def _tells_of(event: NvmlEvent, fault: OpenFault) -> bool:
    slot = fault.slot
    if (slot.trust, slot.boot_id) != (Trust.PROVED, event.boot_id) or not _is_near(fault, event.wall_us):
        return False
    if slot.kind is Kind.OVERFLOW and slot.device is None:
        return True  # so much happens that devices are not told apart
    if slot.device != event.pci or not _may_be_same(event.mig, fault.sufferer.mig):
        return False
    if event.xid is None:
        return _kind_of(fault) is event.what or fault.event.severity is Severity.FATAL
    code = _xid_of(fault) if stands_alone(fault) else fault.event.code
    return slot.kind in _NUMBERED and code == event.xid


def _may_tell_of_unproved(event: NvmlEvent, fault: OpenFault) -> bool:
    slot = fault.slot
    probes = {witness.probe for witness in fault.witnesses}
    return (
        (slot.trust, slot.boot_id, slot.device) == (Trust.UNPROVED, event.boot_id, event.pci)
        and slot.kind is Kind.XID
        and event.xid is not None
        and fault.event.code == event.xid
        and fault.event.revision > 0
        and not probes.isdisjoint({BPF, KLOG})
        and probes <= {BPF, KLOG, KMSG}
        and _is_near(fault, event.wall_us)
    )


_NUMBERED: Final = frozenset({Kind.XID, Kind.OVERFLOW, Kind.NVRM})


def _is_told_by(alone: OpenFault, heard: Heard) -> bool:
    slot = alone.slot
    if (slot.trust, slot.boot_id, slot.device) != (heard.slot.trust, heard.slot.boot_id, heard.slot.device):
        return False
    if not _may_be_same(alone.sufferer.mig, heard.sufferer.mig):
        return False
    if _kind_of(alone) is NvmlEventKind.GPU_UNAVAILABLE:
        return heard.meaning.severity is Severity.FATAL
    # The slot of a 154 says more than its number: see `daemon.hearing`.
    return heard.slot.kind is Kind.XID and str(heard.slot.what).partition(" ")[0] == str(_xid_of(alone))


def _kind_of(fault: OpenFault) -> NvmlEventKind | None:
    """What NVML told of in a fault that stands alone; None for one that does not."""
    return NvmlEventKind(fault.detail["nvml_event"]) if stands_alone(fault) else None


def _xid_of(fault: OpenFault) -> int | None:
    kind = _kind_of(fault)
    return fault.event.code if kind is NvmlEventKind.XID else _XID_OF.get(kind) if kind is not None else None


def _is_near(fault: OpenFault, wall_us: int) -> bool:
    return abs(wall_us - fault.last_time_us) <= BELONGS_US


def _may_be_same(one: Mig | None, other: Mig | None) -> bool:
    """True unless both name an instance, and not the same."""
    if one is None or other is None:
        return True
    pairs = ((one.gi, other.gi), (one.ci, other.ci))
    return all(mine is None or theirs is None or mine == theirs for mine, theirs in pairs)
