"""The model: what was written to the kernel log, as it must be found again everywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class Fault(NamedTuple):
    """What faults are counted by: an overflow event keeps no more of them."""

    code: str
    """`79`, `20034`, or the name of a fault that has no number."""
    device: str
    """PCI address; "" for the node."""
    drill: bool


@dataclass(slots=True)
class Written:
    """One step's worth, from its first record on."""

    first_seq: int
    """Sequence number of its first record."""
    faults: Counter[Fault] = field(default_factory=Counter)
    """Faults as a person would count them: the three lines of an Xid 13 are one."""
    torn: Counter[Fault] = field(default_factory=Counter)
    """Faults of several lines between which this machine made the writer wait: each may have been told as
    one or as two, as the contract has it for lines that are apart."""
    by_pid: dict[int, tuple[Fault, int]] = field(default_factory=dict)
    """Each process has faults of one sort on one device, and no other process has its pid; how many."""
    lost: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of sequence numbers that were left out."""
    records: int = 0
    """Whole records, of every sort."""
    malformed: int = 0
    """Records that are none."""
    seqs: dict[int, int] = field(default_factory=dict)
    """Sequence number of the record of each fault that has but one, by pid."""

    def fault(self, fault: Fault, *, pid: int | None = None, times: int = 1) -> None:
        """A fault was written."""
        self.faults[fault] += times
        if pid is not None:
            before = self.by_pid.get(pid, (fault, 0))[1]
            self.by_pid[pid] = (fault, before + times)

    @property
    def records_lost(self) -> int:
        """How many numbers were left out."""
        return sum(last - first + 1 for first, last in self.lost)
