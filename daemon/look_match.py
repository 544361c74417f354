"""Which line of one look at the log is which of the lines that wait to be confirmed.

They have the same text. Where the two clocks can be compared they are matched by stamp, one for one; else the
newest with the newest, and not at all where that could take a process's line for the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from daemon.log_clock import LogClock
from daemon.same_line import apart, distance, stamp_of
from probes.klog import Look
from probes.line import KernelLine, Origin

_SLACK_US = 5_000


class Shown(NamedTuple):
    """A line in the log."""

    kernel_us: int | None
    origin: Origin
    nth: int
    """Which of the records of that time and text it is."""


class Waits(Protocol):
    """Something that waits with the line that eBPF heard."""

    @property
    def line(self) -> KernelLine:
        """The line, not confirmed yet."""


_W = TypeVar("_W", bound=Waits)


def unused(look: Look, heard_of: Callable[[int, str], int]) -> dict[str, list[Shown]]:
    """What the log shows and eBPF is not known to have heard yet, by text, oldest first.

    `heard_of`: how many records of a kernel time and text it is known to have heard.
    """
    counts: dict[tuple[int | None, str], int] = {}
    found: dict[str, list[Shown]] = {}
    for line in look.lines:
        nth = counts[line.kernel_us, line.text] = counts.get((line.kernel_us, line.text), 0) + 1
        known = 0 if line.kernel_us is None else heard_of(line.kernel_us, line.text)
        if nth > known and line.origin is not Origin.UNKNOWN:
            found.setdefault(line.text, []).append(Shown(line.kernel_us, line.origin, nth))
    return found


def pairs(
    waiting: Sequence[_W], shown: Sequence[Shown], clock: LogClock, *, newest_us: int | None, now_us: int
) -> Iterable[tuple[_W, Shown]]:
    """What waits with the line that confirms it, at arrival time `now_us`; all are of one text, oldest first.

    `newest_us`: kernel time of the newest line of the whole log; None when it is not known.
    """
    if waiting and clock.kernel_us(stamp_of(waiting[0].line)) is not None:
        return _by_stamp(waiting, shown, clock)
    if newest_us is not None:
        # The log's clock is at `newest_us` at least, and the first of them is not older than its age.
        oldest_us = newest_us - (now_us - stamp_of(waiting[0].line)) - _SLACK_US
        shown = [each for each in shown if each.kernel_us is None or each.kernel_us >= oldest_us]
    if len(shown) != len(waiting) and len({each.origin for each in shown}) > 1:
        return []  # some are the kernel's and some are not: which is which is not known
    return list(zip(reversed(waiting), reversed(shown), strict=False))


def _by_stamp(waiting: Sequence[_W], shown: Sequence[Shown], clock: LogClock) -> Iterable[tuple[_W, Shown]]:
    left = [each for each in shown if each.kernel_us is not None]
    found: dict[int, tuple[_W, Shown]] = {}
    for within_us in (clock.sure_us, clock.tolerance_us):
        for number, each in enumerate(waiting):
            if number in found:
                continue
            stamp = stamp_of(each.line)
            expected, sure_us = clock.kernel_us(stamp), clock.sure_us(stamp)
            possible = [one for one in left if apart(expected, one.kernel_us) <= within_us(stamp)]
            near = min(possible, key=lambda one: distance(expected, one.kernel_us, sure_us), default=None)
            if near is not None:
                left.remove(near)
                found[number] = (each, near)
    return found.values()
