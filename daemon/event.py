"""The event: one fault as a person would count it, and its public JSON form.

Everything that leaves the program about a fault is this shape: SSE, MCP, the journal, `tail
--json`. The schema is public (`schema: 1`) and only ever added to. Every key is always present;
what is not known is null, never 0 or "".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

SCHEMA = 1


class Kind(StrEnum):
    """What sort of thing an event tells of."""

    XID = "xid"
    SXID = "sxid"
    GPU_LOST = "gpu_lost"
    """The driver lost a GPU without printing an Xid."""
    NVRM = "nvrm"
    """Other driver trouble, and Xid lines that do not parse."""
    DRIVER_LOADED = "driver_loaded"
    GAP = "gap"
    """Kernel records lost before anyone read them."""
    OVERFLOW = "overflow"
    """Faults of one device and code beyond the limit of new events, folded together."""
    PROBE = "probe"
    """A probe went down or came back."""
    INCIDENT = "incident"
    OPERATOR = "operator"
    """What an operator tool did, or refused to do: the audit record."""


class Severity(StrEnum):
    """How bad it is, mildest first."""

    INFO = "info"
    WARNING = "warning"
    """Application error, or contained and degraded."""
    CRITICAL = "critical"
    """Work was lost through hardware or driver."""
    FATAL = "fatal"
    """GPU or node unusable until reset, reboot or repair."""

    @property
    def rank(self) -> int:
        """0 for info … 3 for fatal; compare these, not the names."""
        return _RANK[self]


_RANK = {severity: rank for rank, severity in enumerate(Severity)}


class Blame(StrEnum):
    """Whose fault it usually is."""

    APPLICATION = "application"
    HARDWARE = "hardware"
    DRIVER = "driver"
    FABRIC = "fabric"
    UNKNOWN = "unknown"


class Action(StrEnum):
    """First step to take; the rest of a workflow is in `action_text`."""

    IGNORE = "ignore"
    RESTART_APP = "restart_app"
    RESTART_VM = "restart_vm"
    RESET_GPU = "reset_gpu"
    RESET_FABRIC = "reset_fabric"
    REBOOT_NODE = "reboot_node"
    DRAIN_AND_RESET = "drain_and_reset"
    UPDATE_SOFTWARE = "update_software"
    CHECK_MECHANICAL = "check_mechanical"
    CHECK_UVM = "check_uvm"
    RUN_DIAGNOSTICS = "run_diagnostics"
    CONTACT_SUPPORT = "contact_support"
    FOLLOW_RECOVERY_ACTION = "follow_recovery_action"


@dataclass(frozen=True, slots=True)
class Mig:
    """A MIG instance as the kernel line names it."""

    gi: int | None
    """GPU instance id."""
    ci: int | None
    """Compute instance id."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU an event is about. `pci` is always known, the rest as far as it was learned."""

    pci: str
    """Domain:bus:device.function, lower-case hex: `0000:91:00.0`."""
    uuid: str | None = None
    serial: str | None = None
    """Board serial number."""
    index: int | None = None
    """NVML index; None until NVML was asked."""
    name: str | None = None
    mig: Mig | None = None


@dataclass(frozen=True, slots=True)
class NvSwitch:
    """The NVSwitch an SXid is about."""

    pci: str
    instance: int | None = None
    """N of `nvidia-nvswitchN`."""


@dataclass(frozen=True, slots=True)
class Process:
    """The process the driver names: owner of the channel, in the host's pid namespace."""

    pid: int | None
    name: str | None = None
    """Command name from the line: log text, not to be trusted."""
    container_id: str | None = None
    pod: str | None = None
    exit_code: int | None = None
    """What it gave exit(3), 0 to 255. None also while it lives, and when a signal ended it."""
    in_container: bool | None = None
    """False: it runs in no container. None: nobody could look."""
    command_line: str | None = None
    """As it was when the fault was heard, cut: what a user typed, not to be trusted."""
    user: str | None = None
    """Name of its user in the node's /etc/passwd."""
    started_us: int | None = None
    """Wall clock of its start, µs since the Unix epoch."""
    cgroup: str | None = None
    """Path of its cgroup from the root of the node's tree, with `...` in front when the outer levels are not
    known: names that a user may have chosen."""
    exit_signal: int | None = None
    """Number of the signal that ended it. None also while it lives, and when it ended by itself."""
    exited_after_us: int | None = None
    """µs from the first time of the event to its end; negative: the driver printed the line after that."""


_BEFORE_CURSOR = f'{{"schema": {SCHEMA}, "cursor": '
_AT_CURSOR_0 = f"{_BEFORE_CURSOR}0"


@dataclass(frozen=True, slots=True)
class Witness:
    """A probe that saw the event, and how long after the first one."""

    probe: str
    delay_us: int


@dataclass(frozen=True, slots=True)
class Event:
    """One fault; a value. A later `revision` of the same `id` replaces it."""

    id: str
    revision: int
    kind: Kind
    code: int | None
    """Xid or SXid number; None where there is none, or it does not fit 32 bits."""
    name: str | None
    """Catalogue name of the code, or a name for what the line tells (`RM_INIT_ADAPTER_FAILED`)."""
    summary: str
    """One short sentence in plain words."""
    severity: Severity
    blame: Blame
    action: Action
    action_text: str
    time_us: int
    """Wall clock of the first record, µs since the Unix epoch."""
    time_is_estimate: bool
    last_time_us: int
    """Wall clock of the last record."""
    count: int
    """How many times the fault happened."""
    gpu: Gpu | None
    nvswitch: NvSwitch | None
    process: Process | None
    detail: Mapping[str, Any]
    """Decoded fields of this code; a unit is part of the key's name."""
    lines: tuple[str, ...]
    """The first distinct log lines, cleaned and cut: data, never instructions."""
    lines_dropped: int
    """Log lines of this event beyond `lines`."""
    origin: str
    drill: bool
    witnesses: tuple[Witness, ...]
    node: str
    boot_id: str
    kmsg_seq: int | None
    """Sequence number of the first record."""
    incident: str | None = None
    driver_version: str | None = None
    telemetry: Mapping[str, Any] | None = None
    """Readings of the GPU right after a critical or fatal event, or why there are none; see
    `daemon.gpu.telemetry`. None: none were taken."""

    _json: str | None = field(init=False, default=None, compare=False, repr=False)
    """Its JSON from behind the cursor on, from when its fault was saved until its item is made."""

    @property
    def device(self) -> str | None:
        """PCI address of the GPU or NVSwitch it is about; None for an event of the node."""
        if self.gpu is not None:
            return self.gpu.pci
        return self.nvswitch.pci if self.nvswitch is not None else None

    def to_json(self) -> str:
        """The public JSON of the stored event, at cursor 0, as one line of ASCII.

        It is written twice, into the state of its fault and into its item, and made once.
        """
        if self._json is None:
            text = json.dumps(to_dict(self, 0, stored=True))
            object.__setattr__(self, "_json", text.removeprefix(_AT_CURSOR_0))
        return f"{_AT_CURSOR_0}{self._json}"

    def take_json(self) -> str | None:
        """The JSON from behind the cursor on, if `to_json` has made it; no longer kept after this."""
        text = self._json
        object.__setattr__(self, "_json", None)
        return text


@dataclass(frozen=True, slots=True)
class Item:
    """An event at its place in the stream."""

    cursor: int
    event: Event
    stored: bool
    """False when the journal had not taken it yet as it went out."""
    json: str = field(repr=False, compare=False)
    """The public form as one line of ASCII JSON, made once for all readers."""

    @classmethod
    def of(cls, cursor: int, event: Event, *, stored: bool) -> Item:
        """An item with its JSON."""
        text = event.take_json() if stored else None
        if text is not None:
            return cls(cursor, event, stored, f"{_BEFORE_CURSOR}{cursor}{text}")
        return cls(cursor, event, stored, json.dumps(to_dict(event, cursor, stored=stored)))


def event_id(boot_id: str, kernel_us: int | None, text: str) -> str:
    """Identity of the event whose first record this is: the same for every probe that reads the log."""
    digest = hashlib.blake2b(
        f"{boot_id}\0{kernel_us}\0{text}".encode("utf-8", "surrogatepass"), digest_size=10
    )
    return f"ev_{digest.hexdigest()}"


def rfc3339(time_us: int) -> str:
    """`2026-11-22T11:20:06.994671Z` for µs since the Unix epoch."""
    seconds, micros = divmod(time_us, 1_000_000)
    return f"{_to_the_second(seconds)}.{micros:06d}Z"


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    """The two times of an event are often of one second, and so are those of its next revision."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_rfc3339(text: str) -> int:
    """µs since the Unix epoch; the inverse of `rfc3339`."""
    moment = datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond


def to_dict(event: Event, cursor: int, *, stored: bool) -> dict[str, Any]:
    """The public JSON object, keys in the order of the schema."""
    gpu, process = event.gpu, event.process
    return {
        "schema": SCHEMA,
        "cursor": cursor,
        "id": event.id,
        "revision": event.revision,
        "kind": event.kind,
        "code": event.code,
        "name": event.name,
        "summary": event.summary,
        "severity": event.severity,
        "blame": event.blame,
        "action": event.action,
        "action_text": event.action_text,
        "time": rfc3339(event.time_us),
        "time_is_estimate": event.time_is_estimate,
        "last_time": rfc3339(event.last_time_us),
        "count": event.count,
        "gpu": gpu
        and {
            "pci": gpu.pci,
            "uuid": gpu.uuid,
            "serial": gpu.serial,
            "index": gpu.index,
            "name": gpu.name,
            "mig": gpu.mig and {"gi": gpu.mig.gi, "ci": gpu.mig.ci},
        },
        "nvswitch": event.nvswitch and {"pci": event.nvswitch.pci, "instance": event.nvswitch.instance},
        "process": process
        and {
            "pid": process.pid,
            "name": process.name,
            "container_id": process.container_id,
            "pod": process.pod,
            "exit_code": process.exit_code,
            "in_container": process.in_container,
            "command_line": process.command_line,
            "user": process.user,
            "started": None if process.started_us is None else rfc3339(process.started_us),
            "cgroup": process.cgroup,
            "exit_signal": process.exit_signal,
            "exited_after_us": process.exited_after_us,
        },
        "detail": dict(event.detail),
        "lines": list(event.lines),
        "lines_dropped": event.lines_dropped,
        "origin": event.origin,
        "drill": event.drill,
        "stored": stored,
        "witnesses": [{"probe": w.probe, "delay_us": w.delay_us} for w in event.witnesses],
        "node": event.node,
        "boot_id": event.boot_id,
        "kmsg_seq": event.kmsg_seq,
        "incident": event.incident,
        "driver_version": event.driver_version,
        "telemetry": event.telemetry and dict(event.telemetry),
    }


def from_dict(data: Mapping[str, Any]) -> Event:
    """The event of a public JSON object (the journal's rows). Raises KeyError, ValueError or TypeError
    when the object is not one of schema 1."""
    gpu, switch, process = data["gpu"], data["nvswitch"], data["process"]
    mig = gpu["mig"] if gpu else None
    return Event(
        id=data["id"],
        revision=data["revision"],
        kind=Kind(data["kind"]),
        code=data["code"],
        name=data["name"],
        summary=data["summary"],
        severity=Severity(data["severity"]),
        blame=Blame(data["blame"]),
        action=Action(data["action"]),
        action_text=data["action_text"],
        time_us=parse_rfc3339(data["time"]),
        time_is_estimate=data["time_is_estimate"],
        last_time_us=parse_rfc3339(data["last_time"]),
        count=data["count"],
        gpu=Gpu(
            gpu["pci"],
            gpu["uuid"],
            gpu["serial"],
            gpu["index"],
            gpu["name"],
            Mig(mig["gi"], mig["ci"]) if mig else None,
        )
        if gpu
        else None,
        nvswitch=NvSwitch(switch["pci"], switch["instance"]) if switch else None,
        process=_process(process) if process else None,
        detail=data["detail"],
        lines=tuple(data["lines"]),
        lines_dropped=data["lines_dropped"],
        origin=data["origin"],
        drill=data["drill"],
        witnesses=tuple(Witness(w["probe"], w["delay_us"]) for w in data["witnesses"]),
        node=data["node"],
        boot_id=data["boot_id"],
        kmsg_seq=data["kmsg_seq"],
        incident=data["incident"],
        driver_version=data["driver_version"],
        telemetry=data.get("telemetry"),
    )


def _process(data: Mapping[str, Any]) -> Process:
    # Keys that an earlier version did not write may be missing in what it stored.
    started = data.get("started")
    return Process(
        data["pid"],
        data["name"],
        data["container_id"],
        data["pod"],
        data["exit_code"],
        data.get("in_container"),
        data.get("command_line"),
        data.get("user"),
        None if started is None else parse_rfc3339(started),
        data.get("cgroup"),
        data.get("exit_signal"),
        data.get("exited_after_us"),
    )
