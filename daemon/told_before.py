"""Which faults that eBPF heard an earlier process may have told already.

A program is loaded while the process before it may still run and hear the same lines with a program of its
own. That one saved what it told ahead of the log (`daemon.ahead`): a line with the same text is the same when
both programs stamped it within a millisecond. Of any other line nobody knows.
"""

from __future__ import annotations

from typing import Self

from daemon import ahead
from daemon.decoded import Fault
from daemon.grammar import find
from daemon.store import Store
from probes.line import KernelLine

_SAME_US = 1_000
"""Both stamps are taken within one call of printk: microseconds apart, more only where that was preempted."""


class ToldBefore:
    """What an earlier process of this boot saved; each of its lines is found once."""

    def __init__(self, saved: str | None, boot_id: str, *, until_us: int) -> None:
        """`saved`: the row of `daemon.ahead`; one that cannot be read is none. `until_us`: CLOCK_MONOTONIC
        when that process had ended."""
        self.until_us = until_us
        try:
            lines = [each for each, _ in ahead.load(saved)] if saved is not None else []
        except (ValueError, TypeError, KeyError, AttributeError):
            lines = []
        self._lines = [(each.line.text, each.stamp_us) for each in lines if each.line.boot_id == boot_id]

    @classmethod
    def of(cls, store: Store, boot_id: str, *, until_us: int) -> Self | None:
        """What the earlier process left in this store, which has just been opened; None when it told nothing
        in this boot."""
        has_read = store.resume is not None and store.resume.boot_id == boot_id
        if not has_read and not any(boot_id in row for row in store.faults.values()):
            return None
        return cls(store.faults.get(ahead.STATE_KEY), boot_id, until_us=until_us)

    def may_be_lost(self, line: KernelLine) -> bool:
        """True for a fault, not known to have been told. `line` has the stamp of CLOCK_MONOTONIC."""
        if not isinstance(find(line.text), Fault):
            return False
        printed_us = line.arrival_us if line.kernel_us is None else line.kernel_us
        for told in self._lines:
            text, stamp_us = told
            if text == line.text and abs(stamp_us - printed_us) <= _SAME_US:
                self._lines.remove(told)
                return False
        return True
