"""One event as the cells of one line for people: time, severity, what, where, who, how often, summary.

Text that comes from the log is cleaned again here: whatever reached the journal, no control
character reaches a terminal.
"""

from __future__ import annotations

from datetime import UTC, datetime

from daemon.event import Event, Gpu, Kind
from daemon.process_end import how_it_ended
from daemon.text import clean
from xidwatch.terminal import Style

_NAME_CHARS = 48
_PROCESS_CHARS = 24
_SUMMARY_CHARS = 200


def cells(event: Event, style: Style, *, stored: bool = True) -> list[str]:
    """The line's cells, for `terminal.Aligner`."""
    return [
        style.dim(_time(event)),
        style.severity(event.severity, event.severity.upper()),
        style.bold(what(event)),
        clean(event.name or "", _NAME_CHARS),
        _device(event),
        _process(event),
        style.bold(f"×{event.count}") if event.count > 1 else "",
        _summary(event, style, stored=stored),
    ]


def _time(event: Event) -> str:
    """When it last happened, in UTC like everything else that leaves the program; `~`: an estimate."""
    moment = datetime.fromtimestamp(event.last_time_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}Z{'~' if event.time_is_estimate else ''}"


def what(event: Event) -> str:
    """`Xid 79`, `SXid 20034`, or the kind of an event that has no code."""
    match event.kind:
        case Kind.XID | Kind.SXID:
            label = "Xid" if event.kind is Kind.XID else "SXid"
            code = event.code if event.code is not None else event.detail.get("code_text", "?")
            return clean(f"{label} {code}", _NAME_CHARS)
        case _:
            return event.kind.replace("_", " ")


def _device(event: Event) -> str:
    if event.gpu is not None:
        return _gpu(event.gpu)
    if event.nvswitch is not None:
        instance = event.nvswitch.instance
        return f"nvswitch{'' if instance is None else instance} {short_pci(event.nvswitch.pci)}"
    return ""


def _gpu(gpu: Gpu) -> str:
    parts = [] if gpu.index is None else [f"gpu{gpu.index}"]
    parts.append(short_pci(gpu.pci))
    if gpu.mig is not None:
        instances = (gpu.mig.gi, gpu.mig.ci)
        parts.append("mig " + "/".join(str(each) for each in instances if each is not None))
    return " ".join(parts)


def short_pci(pci: str) -> str:
    """`91:00` for `0000:91:00.0`: domain 0 and function 0 go without saying."""
    return clean(pci, 20).removeprefix("0000:").removesuffix(".0")


def _process(event: Event) -> str:
    if event.process is None:
        return ""
    return f"{clean(event.process.name or '', _PROCESS_CHARS)}[{event.process.pid}]"


def _summary(event: Event, style: Style, *, stored: bool) -> str:
    marks = []
    if event.drill:
        marks.append(style.green("[drill]"))
    if event.origin == "unknown":
        marks.append(style.yellow("[origin not confirmed]"))
    if not stored:
        marks.append(style.yellow("[not stored]"))
    end = how_it_ended(event.process) if event.process is not None else None
    told = f"; its process {end}" if end is not None else ""
    return " ".join([*marks, clean(event.summary, _SUMMARY_CHARS) + told])
