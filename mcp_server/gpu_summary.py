"""How the structured content of a summary is short: nothing is said twice, and lists end where the room does.

An assistant pays for every key of every GPU. So what several GPUs have in common is told once, and of what
a GPU may have many of (MIG instances, processes) there is as much as fits. Nothing of this happens at full.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from daemon.gpu.readings import Health
from daemon.gpu.verdict import Code
from daemon.gpu.verdict.look import why_unread
from daemon.gpu.watch import GpuLook, NodeLook
from mcp_server.gpu_looks import about, events_of_each, filled, index_of
from mcp_server.gpu_reasons import WHY_NO_READINGS, GroupedReasons
from mcp_server.gpu_words import judged
from mcp_server.quote import tokens

DATA_TOKENS: Final = 2_000
"""What the structured content of a summary may cost its reader, by the estimate of `quote.tokens`."""
_ALL: Final = 1_000

Room = TypeVar("Room")


@dataclass(frozen=True, slots=True)
class Telling:
    """How much a summary of judged GPUs tells."""

    reasons: int
    """The gravest, in words."""
    ids: int
    """Events of each of these."""
    readings: bool = True
    """Whether GPUs have their readings in it."""
    own_words: bool = True
    """Whether a GPU says why it did not answer also when a reason says it of it and others, in the words of
    another's time."""
    last_events: bool = True
    """Of a lost GPU."""
    thresholds: bool = True
    """Whether reasons have reading, value and threshold beside their sentence."""


TELLINGS: Final = (
    Telling(_ALL, 8),
    Telling(_ALL, 2),
    Telling(_ALL, 1),
    Telling(_ALL, 1, own_words=False),
    Telling(6, 1, own_words=False),
    Telling(_ALL, 1, readings=False, own_words=False),
    Telling(6, 1, readings=False, own_words=False),
    Telling(4, 1, readings=False, own_words=False, last_events=False),
    Telling(2, 1, readings=False, own_words=False, last_events=False),
    Telling(1, 1, readings=False, own_words=False, last_events=False),
    Telling(1, 1, readings=False, own_words=False, last_events=False, thresholds=False),
    Telling(0, 1, readings=False, own_words=False, last_events=False, thresholds=False),
)
"""From most to least. Readings go before the words of the gravest reasons; what is wrong never goes."""


def fitting_data(build: Callable[[Room], dict[str, Any]], rooms: Iterable[Room]) -> dict[str, Any]:
    """The structured content of a summary with as much as fits: what `build` makes with the first of `rooms`
    with which it fits, else with the last."""
    data: dict[str, Any] = {}
    for room in rooms:
        data = build(room)
        if tokens(json.dumps(data)) <= DATA_TOKENS:
            break
    return data


def about_judged(gpu: GpuLook, reasons: GroupedReasons, telling: Telling, look: NodeLook) -> dict[str, Any]:
    """The keys of `GpuAboutOut` in a summary of `look` that has `reasons`, which are not repeated; its state,
    and by name the reasons that have no room there."""
    public, told = about(gpu, full=False), reasons.by_gpu(telling.reasons).get(gpu.pci, ())
    why = [reason for reason in told if reason.code in WHY_NO_READINGS]
    for part, key in (("lost", "why"), ("no_answer", "reason")):
        text = (public.get(part, {}).get(key) or "").rstrip(".")
        is_told = any(text in reason.sentence or reason.code is Code.NVML_HUNG for reason in why)
        if part in public and why and (is_told or not telling.own_words):
            del public[part][key]
    if "lost" in public and gpu.expected is not None and telling.last_events:
        public["lost"] |= filled({"last_events": _last_events(gpu, events_of_each(look))})
    more = reasons.left_out(telling.reasons, gpu)
    return public | {"state": judged(gpu).state.value} | filled({"more_reasons": more})


def _last_events(gpu: GpuLook, most: int) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = gpu.expected.to_json()["last_events"] if gpu.expected is not None else []
    return every[-most:] if most else []


def unread_of_all(
    healths: Iterable[tuple[GpuLook, Health | None]], fields: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Why these fields are null where they are: path → reason and, where it is not so of all GPUs that have
    readings, of which."""
    read = [(gpu, health) for gpu, health in healths if health is not None]
    found: dict[str, dict[str, list[str]]] = {}
    for gpu, health in read:
        for path in _nulls(health, fields):
            why = why_unread(health.unread, path)
            index = index_of(gpu)
            found.setdefault(path, {}).setdefault(why, []).append(gpu.pci if index is None else str(index))
    return {
        path: "; ".join(
            why if len(gpus) == len(read) else f"{why} (GPU {', '.join(gpus)})" for why, gpus in whys.items()
        )
        for path, whys in sorted(found.items())
    }


def _nulls(health: Health, fields: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        f"{section}.{name}"
        for section, names in fields.items()
        for name in names
        if getattr(getattr(health, section), name) is None
    ]
