"""Which NVML index each GPU has now.

NVML numbers the GPUs that it finds each time it is initialised. When one drops out or comes back, the
indices behind it pass to other GPUs, so an index is worth something only next to others of the same
count. What is said of indices here never gives one to two GPUs. Pure; for one owner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from daemon.gpu.answers import HungCall
from daemon.gpu.expected_gpu import ExpectedGpu
from daemon.gpu.readings import Reading

_INDEX_ONLY: Final = "#"
"""What a reading has before the index of a GPU whose address could not be found out (`Sweep.gpus`)."""
_AT_INDEX: Final = "at NVML index "

Count = tuple[int, int]
"""A change of the set of GPUs, and an initialisation of NVML: indices read under the same two agree."""
_SAVED: Final = (0, -1)
"""The count of an index that an earlier process has read."""
_NOBODY: Final = (_SAVED, -1, "")


def index_alone(pci: str | None) -> int | None:
    """The index of a GPU that is known by that alone (`#3`); None for a PCI address."""
    if pci is None or not pci.startswith(_INDEX_ONLY):
        return None
    return int(pci[len(_INDEX_ONLY) :])


def place(pci: str) -> str:
    """Where a GPU is, for a sentence that has "GPU" before it: its PCI address, or `at NVML index 3`."""
    index = index_alone(pci)
    return pci if index is None else f"{_AT_INDEX}{index}"


def has_address(place: str) -> bool:
    """False for a place that tells an index only."""
    return not place.startswith((_INDEX_ONLY, _AT_INDEX))


class Numbering:
    """When the index of each GPU was read, and whether it still counts."""

    def __init__(self) -> None:
        self._changes = 0
        self._read: dict[str, tuple[int | None, Count]] = {}

    @property
    def changes(self) -> int:
        """How often the set of GPUs has changed."""
        return self._changes

    def count(self, initialised: int) -> Count:
        """The count of now; `initialised` is `SourceState.numbering`."""
        return (self._changes, initialised)

    def set_changed(self) -> None:
        """A GPU was lost, came back, or is new: indices read before may be those of others."""
        self._changes += 1

    def read(self, indices: Mapping[str, int | None], count: Count) -> None:
        """These GPUs, by PCI address, had these indices under this count; None: it could not be read."""
        self._read |= {pci: (index, count) for pci, index in indices.items()}

    def is_current(self, pci: str, count: Count) -> bool:
        """True when its index was read under this count."""
        return pci in self._read and self._read[pci][1] == count

    def indices(self, gpus: Iterable[ExpectedGpu], count: Count) -> Mapping[str, int]:
        """The index of each GPU that has one; a lost GPU has none.

        One that was read before NVML was initialised anew counts while the set of GPUs is the same and no
        other has it. One that was read before the set changed counts where the indices read since leave
        that GPU no other, for NVML numbers GPUs by their address.
        """
        every = tuple(gpus)
        there = {gpu.pci: self._last(gpu) for gpu in every if not gpu.is_lost}
        current = {pci: index for pci, (index, read) in there.items() if read == count}
        counted = _counted(current, sorted(there), sorted(gpu.pci for gpu in every))
        older = {
            pci: index
            for pci, (index, read) in there.items()
            if read != count
            and index not in current.values()
            and (read[0] == count[0] or index == counted.get(pci))
        }
        holders = Counter([*current.values(), *older.values()])
        found = {**current, **older}
        return {pci: index for pci, index in found.items() if index is not None and holders[index] == 1}

    def last_holders(self, gpus: Iterable[ExpectedGpu], indices: Mapping[str, int]) -> Mapping[str, int]:
        """Of the GPUs that have none of `indices`: the index that each had last, if it had it last of all
        and no GPU has it now."""
        holders: dict[int, tuple[Count, int, str]] = {}
        for gpu in gpus:
            index, read = self._last(gpu)
            index = gpu.index if index is None else index
            if gpu.pci not in indices and index is not None and index not in indices.values():
                holders[index] = max((read, gpu.seen_us or 0, gpu.pci), holders.get(index, _NOBODY))
        return {pci: index for index, (_, _, pci) in holders.items()}

    def _last(self, gpu: ExpectedGpu) -> tuple[int | None, Count]:
        return self._read.get(gpu.pci, (gpu.index, _SAVED))


def _counted(
    current: Mapping[str, int | None], there: Sequence[str], every: Sequence[str]
) -> Mapping[str, int]:
    """The index of each GPU as NVML counts them by address: those that are there, or, until it is
    initialised anew, the lost ones as well. Only what agrees with each way of counting that `current` bears
    out."""
    ways = [{pci: index for index, pci in enumerate(gpus)} for gpus in (there, every)]
    ways = [way for way in ways if current and current.items() <= way.items()]
    return {
        pci: index
        for pci, index in (ways[0].items() if ways else ())
        if all(way[pci] == index for way in ways)
    }


def places(readings: Iterable[Reading], expected: Iterable[ExpectedGpu]) -> Mapping[str, str]:
    """Where the GPUs are of which `readings` tell the index alone: `#3` → PCI address, or `at NVML index 3`.

    When as many GPUs were found as are expected, it is the only one that is missing, or the missing one that
    had this index; otherwise the indices may have moved.
    """
    found = {reading.pci for reading in readings}
    alone = {pci: index for pci in found if (index := index_alone(pci)) is not None}
    every = tuple(expected)
    there = [gpu for gpu in every if not gpu.is_lost]
    # NVML counts a lost GPU until it is initialised anew.
    same = next((gpus for gpus in (there, every) if len(gpus) == len(found)), ())
    missing = [gpu for gpu in same if gpu.pci not in found]
    if len(missing) == len(alone) == 1:
        return dict.fromkeys(alone, missing[0].pci)
    had = {gpu.index: gpu.pci for gpu in missing}
    return {pci: had.get(index, place(pci)) for pci, index in alone.items()}


def placed(call: HungCall, where: Mapping[str, str]) -> HungCall:
    """`call` with the place of its GPU, as far as it is known."""
    if call.gpu is None or index_alone(call.gpu) is None:
        return call
    return HungCall(where.get(call.gpu) or place(call.gpu), call.call, call.since_us, call.trouble)
