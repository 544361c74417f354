"""An event in the words of Kubernetes: a `reason` for programs, a `message` for people.

A message holds what the daemon knows, never the text of a log line: whoever reads `kubectl describe
node` is no place for what a program on the node may have written.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from daemon.event import Event, Kind

MOST_CHARS: Final = 1024
"""Of a message: the API server's own limit for Events of the newer kind."""
_NUMBERED: Final = {Kind.XID: "Xid", Kind.SXID: "SXid"}


def reason(event: Event) -> str:
    """`Xid79`, `SXid20034`, `GpuLost`: one word in CamelCase. Of an incident it is that of its cause."""
    kind = event.kind
    if kind is Kind.INCIDENT:
        kind = _kind_of_cause(event)
    if kind in _NUMBERED and event.code is not None:
        return f"{_NUMBERED[kind]}{event.code}"
    words = (event.name or kind.value).replace("-", "_").split("_")
    return "".join(word.capitalize() for word in words if word.isalnum())[:128] or "GpuFault"


def message(event: Event) -> str:
    """One line: what happened, where, what to do, and how to find the whole of it."""
    gpu = event.gpu
    where = f" on {event.device}" if event.device is not None and event.device not in event.summary else ""
    uuid = f" ({gpu.uuid})" if gpu is not None and gpu.uuid is not None else ""
    parts = [f"{event.summary}{where}{uuid}", event.action_text.rstrip("."), f"xidwatch event {event.id}"]
    text = ". ".join(part for part in parts if part)
    return text if len(text) <= MOST_CHARS else f"{text[: MOST_CHARS - 1]}…"


def timestamp(time_us: int) -> str:
    """`2026-11-22T11:20:06Z` for µs since the Unix epoch: metav1.Time has whole seconds."""
    return f"{datetime.fromtimestamp(time_us // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _kind_of_cause(event: Event) -> Kind:
    primary = event.detail.get("primary")
    named = primary.get("kind") if isinstance(primary, dict) else None
    return Kind(named) if named in set(Kind) else Kind.INCIDENT
