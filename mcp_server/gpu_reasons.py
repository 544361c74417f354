"""The reasons of several GPUs in the structured content of a summary: each once, with the GPUs that have it.

No fault of a GPU is left out of a summary: what there is no room to tell in words still has its severity,
its Xid or code, and its GPUs. Worst first, and of what is equally bad what was broken before what may follow
from it. Notes, which change no verdict, are told at full alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from daemon.gpu.verdict import BLAMES, Code, Reason, Severity
from daemon.gpu.watch import GpuLook
from mcp_server.gpu_looks import index_of
from mcp_server.gpu_words import named

Key = tuple[object, ...]

WHY_NO_READINGS: Final = frozenset({Code.GPU_LOST, Code.GPU_GONE, Code.NVML_HUNG, Code.NOT_ANSWERED})
"""Reasons that say why a GPU has no readings. They are always told in words."""

_READ: Final = ("reading", "value", "threshold", "threshold_source")
_SEVERITIES: Final = tuple(Severity)
_CODES: Final = tuple(Code)


@dataclass(frozen=True, slots=True)
class ReasonGroup:
    """One reason and who has it."""

    gpus: tuple[GpuLook, ...]
    """By PCI address; none: the node itself."""
    reasons: tuple[Reason, ...]
    """Of each of `gpus`, or the one of the node. They differ in numbers and times at most."""

    @property
    def first(self) -> Reason:
        """The one whose words are told."""
        return self.reasons[0]

    def in_words(self, ids: int, *, thresholds: bool = True) -> dict[str, Any]:
        """As `ReasonOut`, with so many ids of events; a key that would be null or empty is missing. Without
        `thresholds` the sentence alone says what was read, and what it was held against."""
        told = self.first.to_json()
        values = [reason.value for reason in self.reasons]
        if any(value != values[0] for value in values):
            told["value"] = None
            told["values"] = values
        told["events"] = self._events(ids)
        told["gpus"] = self.names()
        without = () if thresholds else _READ
        return {
            k: value for k, value in told.items() if value is not None and value != [] and k not in without
        }

    def names(self) -> list[int | str]:
        """Its GPUs: the index of each, or the PCI address where it has none."""
        return [gpu.pci if (index := index_of(gpu)) is None else index for gpu in self.gpus]

    def _events(self, most: int) -> list[str]:
        """The newest of each GPU before the older ones of any."""
        in_turn = zip_longest(*(reason.events for reason in self.reasons))
        ids = dict.fromkeys(each for turn in in_turn for each in turn if each is not None)
        return [*ids][:most]


class GroupedReasons:
    """All reasons of one answer that count, of the node's own and of its GPUs."""

    def __init__(self, gpus: Sequence[GpuLook], of_the_node: Iterable[Reason] = ()) -> None:
        found: dict[Key, list[tuple[GpuLook | None, Reason]]] = {}
        times: Counter[Key] = Counter()
        for gpu, reason in (*((None, reason) for reason in of_the_node), *_every(gpus)):
            if reason.severity is not Severity.NOTE:
                key = (gpu is None, *_key(reason))
                owned = (gpu.pci if gpu is not None else None, *key)
                # What one GPU has twice are two reasons.
                found.setdefault((*key, times[owned]), []).append((gpu, reason))
                times[owned] += 1
        groups = (
            ReasonGroup(tuple(gpu for gpu, _ in same if gpu is not None), tuple(reason for _, reason in same))
            for same in found.values()
        )
        self.groups: Sequence[ReasonGroup] = sorted(groups, key=_rank)
        """Gravest first."""

    def told(self, most: int, ids: int, *, thresholds: bool = True) -> list[dict[str, Any]]:
        """The `most` gravest in words, and those that say why a GPU has no readings; see `in_words`."""
        return [group.in_words(ids, thresholds=thresholds) for group in self._told(most)]

    def left_out(self, most: int, gpu: GpuLook | None = None) -> str:
        """What `told` leaves out of this GPU's reasons, or of the node's own, by name; "" for nothing."""
        told = self._told(most)
        return named(
            reason
            for group in self.groups
            if group not in told
            for owner, reason in zip(group.gpus or (None,), group.reasons, strict=True)
            if (owner is None) == (gpu is None) and (gpu is None or owner is gpu)
        )

    def by_gpu(self, most: int) -> Mapping[str, Sequence[Reason]]:
        """PCI address → the reasons of which `told` has the words or the value of this GPU."""
        found: dict[str, list[Reason]] = {}
        for group in self._told(most):
            for gpu in group.gpus:
                found.setdefault(gpu.pci, []).append(group.first)
        return found

    def _told(self, most: int) -> list[ReasonGroup]:
        return [
            group
            for number, group in enumerate(self.groups)
            if number < most or group.first.code in WHY_NO_READINGS
        ]


def _every(gpus: Iterable[GpuLook]) -> Iterator[tuple[GpuLook | None, Reason]]:
    for gpu in gpus:
        for reason in gpu.verdict.reasons if gpu.verdict is not None else ():
            yield gpu, reason


def _key(reason: Reason) -> Key:
    """The same for reasons that one sentence tells. A value in words is what the reason is about, a number
    is how much."""
    value = reason.value if isinstance(reason.value, str | bool) else None
    return reason.code, reason.severity, reason.fault, reason.reading, value, reason.threshold


def _rank(group: ReasonGroup) -> tuple[int, int, int]:
    first = group.first
    blame = 0 if first.blame is None else BLAMES.index(first.blame)
    return _SEVERITIES.index(first.severity), blame, _CODES.index(first.code)
