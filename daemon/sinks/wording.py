"""An event in the words of an alarm: one line for people, for chats, scripts and Alertmanager.

Text that a process or the log may have chosen is cleaned here, whatever cleaned it before.
"""

from __future__ import annotations

from typing import Final

from daemon.event import Event, Kind
from daemon.text import clean

MAX_CHARS: Final = 600
"""Of one sentence: Slack's and Discord's messages hold three of them."""
OPEN: Final = "open"


def state(event: Event) -> str | None:
    """What became of an incident: `open`, `recovered` or `closed`; None for every other event."""
    told = event.detail.get("state") if event.kind is Kind.INCIDENT else None
    return told if isinstance(told, str) else None


def label(event: Event) -> str:
    """`Xid 79`, `SXid 20034`, `incident of code 79`, `gap`."""
    code = event.code
    match event.kind:
        case Kind.XID | Kind.SXID:
            number = code if code is not None else event.detail.get("code_text", "?")
            return clean(f"{'Xid' if event.kind is Kind.XID else 'SXid'} {number}", 40)
        case Kind.INCIDENT:
            return "incident" if code is None else f"incident of code {code}"
        case kind:
            return kind.replace("_", " ")


def place(event: Event) -> str:
    """`gpu-17, GPU 3 (0000:91:00.0)`: the node, and the device where there is one."""
    node = clean(event.node, 253)
    if event.gpu is not None:
        index = "" if event.gpu.index is None else f" {event.gpu.index}"
        return f"{node}, GPU{index} ({clean(event.gpu.pci, 40)})"
    if event.nvswitch is not None:
        return f"{node}, NVSwitch ({clean(event.nvswitch.pci, 40)})"
    return node


def tag(event: Event) -> str:
    """`FATAL`; for an incident that is over `RECOVERED` or `CLOSED`; with `DRILL` for one."""
    over = state(event)
    word = over.upper() if over is not None and over != OPEN else event.severity.upper()
    return f"DRILL, {word}" if event.drill else word


def headline(event: Event) -> str:
    """`FATAL gpu-17, GPU 3 (0000:91:00.0): Xid 79: GPU no longer answers on PCIe (3 times)`."""
    times = f" ({event.count} times)" if event.count > 1 else ""
    return clean(f"{tag(event)} {place(event)}: {label(event)}: {event.summary}{times}", MAX_CHARS)


def advice(event: Event) -> str:
    """The sentence that says what to do; empty for an incident that is over."""
    over = state(event)
    return clean(event.action_text, MAX_CHARS) if over is None or over == OPEN else ""
