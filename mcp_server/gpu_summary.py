"""How the structured content of a summary is short: nothing is said twice, and lists end where the room does.

An assistant pays for every key of every GPU. So what several GPUs have in common is told of the first of
them, what a reason says is not told beside it, and of what a GPU may have many of (reasons, processes, MIG
instances) there is as much as fits. Nothing of this happens at full.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from daemon.gpu.readings import Health
from daemon.gpu.verdict import Reason
from daemon.gpu.verdict.look import why_unread
from daemon.gpu.watch import GpuLook
from mcp_server.gpu_looks import about, filled
from mcp_server.quote import tokens

DATA_TOKENS: Final = 2_000
"""What the structured content of a summary may cost its reader, by the estimate of `quote.tokens`."""
MOST_IDS: Final = 2
"""Events of one reason, in a summary: the newest."""

_SAID_ONCE: Final = ("severity", "reading", "threshold", "threshold_source", "reference")
"""What a summary says of the first reason of each code, and of a later one only where it differs."""


def fitting_data(build: Callable[[int], dict[str, Any]], most: int, least: int) -> dict[str, Any]:
    """The structured content of a summary with as much as fits: `build` makes it with so many of what a GPU
    may have many of."""
    for count in range(most, least, -1):
        data = build(count)
        if tokens(json.dumps(data)) <= DATA_TOKENS:
            return data
    return build(least)


def about_judged(gpu: GpuLook, told: Sequence[Reason], events: int) -> dict[str, Any]:
    """The keys of `GpuAboutOut` in a summary beside the reasons `told`, which are not repeated; of a lost GPU
    with so many of its last events."""
    public = about(gpu, full=False)
    for part, key in (("lost", "why"), ("no_answer", "reason")):
        text = public.get(part, {}).get(key)
        if text and any(text.rstrip(".") in reason.sentence for reason in told):
            del public[part][key]
    if "lost" in public and gpu.expected is not None and events:
        public["lost"] |= filled({"last_events": gpu.expected.to_json()["last_events"][-events:]})
    return public


class ReasonsJson:
    """The reasons of one answer in their public form. In a summary a reason leaves out what the first one of
    its code has said in the same words, and all but its newest events."""

    def __init__(self, *, full: bool, ids: int = MOST_IDS) -> None:
        """`ids`: of how many events a reason of a summary has the id."""
        self._full = full
        self._ids = ids
        self._first: dict[str, Mapping[str, Any]] = {}

    def of(self, reasons: Iterable[Reason]) -> list[dict[str, Any]]:
        """These reasons, in their order; the answer's first ones first."""
        return [self._one(reason) for reason in reasons]

    def _one(self, reason: Reason) -> dict[str, Any]:
        public = reason.to_json()
        if self._full:
            return public
        events = filled({"events": public.pop("events")[: self._ids]})
        first = self._first.setdefault(reason.code, public)
        if first is public:
            return {key: value for key, value in public.items() if key != "reference" or value} | events
        return {
            key: value for key, value in public.items() if key not in _SAID_ONCE or value != first[key]
        } | events


class UnreadOnce:
    """Why readings of a summary are null: each reason is told once, of the first GPU that has it."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def of(self, health: Health | None, fields: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Path → reason of those of these fields that are null, without what was told before."""
        if health is None:
            return {}
        nulls = [
            f"{section}.{name}"
            for section, names in fields.items()
            for name in names
            if getattr(getattr(health, section), name) is None
        ]
        whys = {(path, why_unread(health.unread, path)) for path in nulls}
        new = dict(sorted(whys - self._told))
        self._told |= whys
        return new
