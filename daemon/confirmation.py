"""Who printed a line that was heard by a probe which cannot tell (DESIGN, promise 5).

Contract:

* A line heard by eBPF waits for up to `PATIENCE_US`. The same line from /dev/kmsg or syslog(2), or
  one look at the log, tells who printed it; then it goes on under the log's own stamp, so that every
  probe gives it the same identity. Unconfirmed it goes on with origin `unknown`.
* A line of the log is never held back. If its line from eBPF comes later, that one is a second witness.
* A line that went on unconfirmed is proved or disproved when the log shows it after all.
* One line of the log confirms one line from eBPF: two real repeats are never merged, and an old true
  line does not vouch for a forged copy. Lines are matched by text and by stamp, with the offset of the
  two clocks learned; until that is known by order, and only among lines read at about the same time.

Synchronous and without a clock of its own; owned by the pipeline.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from daemon.log_clock import LogClock
from probes.bpf.probe import NAME as BPF
from probes.klog import Look
from probes.kmsg import NAME as KMSG
from probes.line import KernelLine, Origin

PATIENCE_US = 20_000
"""How long a line waits to be confirmed, in arrival time."""

_LATER_US = 2_000_000
"""Without the offset: a line of the log is read so much later than eBPF hears it, at most (klog looks
once a second)."""
_EARLIER_US = 250_000
_SLACK_US = 5_000
_CONTRADICTS_US = 100_000
_REMEMBERED_US = 25_000_000
"""Less than an event without news stays open."""
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Proof:
    """The log shows a line that has gone on unconfirmed."""

    doubted: KernelLine
    """As it went on."""
    line: KernelLine
    """The same line with its true origin."""


@dataclass(slots=True, eq=False)
class _Doubt:
    line: KernelLine
    gone: KernelLine | None = None
    """As it went on unconfirmed; None while it waits."""
    settled: bool = False


_T = TypeVar("_T")


class _Shelf(Generic[_T]):
    """Things by the first line of their text, for some seconds of arrival time and up to a number."""

    def __init__(self) -> None:
        self._by_text: dict[str, list[_T]] = {}
        self._order: deque[tuple[int, str, _T]] = deque()

    def add(self, text: str, arrival_us: int, thing: _T) -> None:
        self._by_text.setdefault(text, []).append(thing)
        self._order.append((arrival_us, text, thing))
        while len(self._order) > _REMEMBERED or self._order[0][0] < arrival_us - _REMEMBERED_US:
            _, oldest_text, oldest = self._order.popleft()
            self.remove(oldest_text, oldest)

    def of(self, text: str) -> Sequence[_T]:
        return self._by_text.get(text, ())

    def remove(self, text: str, thing: _T) -> None:
        things = self._by_text.get(text, [])
        for index, each in enumerate(things):
            if each is thing:
                del things[index]
                break
        if not things:
            self._by_text.pop(text, None)


class Confirmation:
    """The lines that wait to be confirmed, and the lines of the log that could confirm more."""

    def __init__(self) -> None:
        self._clock = LogClock()
        self._began_us: int | None = None
        self._doubts: _Shelf[_Doubt] = _Shelf()
        self._told: _Shelf[KernelLine] = _Shelf()  # of the log, and not heard by eBPF yet
        self._waiting: deque[_Doubt] = deque()
        self._seen: OrderedDict[tuple[int, str], dict[str, int]] = OrderedDict()

    def begin(self, newest_us: int) -> None:
        """The log's newest line is of kernel time `newest_us`, and eBPF has heard nothing yet."""
        self._began_us = newest_us

    def take(self, line: KernelLine) -> Sequence[KernelLine | Proof]:
        """Take a line of any probe; gives back what goes on now, in order."""
        if line.probe == BPF:
            return self._doubtful(line)
        if line.origin is Origin.UNKNOWN or line.kernel_us is None:
            return (line,)
        return self._of_the_log(line, line.kernel_us)

    def waiting(self) -> Collection[str]:
        """The texts of the lines that wait."""
        return {each.line.text for each in self._waiting if not each.settled}

    def next_deadline(self) -> int | None:
        """Arrival time at which a line goes on unconfirmed; None when none waits."""
        while self._waiting and self._waiting[0].settled:
            self._waiting.popleft()
        return self._waiting[0].line.arrival_us + PATIENCE_US if self._waiting else None

    def expire(self, now_us: int) -> Sequence[KernelLine]:
        """The lines that have waited long enough at arrival time `now_us`."""
        gone = []
        while (deadline := self.next_deadline()) is not None and deadline <= now_us:
            doubt = self._waiting.popleft()
            if self._has_twin(doubt.line):
                self._clock.doubt()  # the log did show it, at a stamp where it was not looked for
            kernel_us = self._clock.kernel_us(_stamp(doubt.line))
            doubt.gone = replace(doubt.line, kernel_us=_stamp(doubt.line) if kernel_us is None else kernel_us)
            gone.append(doubt.gone)
        return gone

    def look(self, look: Look, now_us: int) -> Sequence[KernelLine]:
        """Take what one look at the log showed; gives back the waiting lines that it confirms.

        What went on unconfirmed is left to the probes: they bring the log's own stamps and numbers.
        """
        ready: list[KernelLine] = []
        shown = self._unused(look)
        for text, doubts in self._waiting_by_text().items():
            for doubt, (kernel_us, origin, nth) in self._pairs(doubts, shown.get(text, []), look, now_us):
                doubt.settled = True
                self._doubts.remove(text, doubt)
                if kernel_us is not None:
                    self._note(kernel_us, text)[BPF] = nth
                    self._forget_told(kernel_us, text)
                    self._clock.learn(_stamp(doubt.line), kernel_us)
                stamp = doubt.line.kernel_us if kernel_us is None else kernel_us
                ready.append(replace(doubt.line, kernel_us=stamp, origin=origin))
        return sorted(ready, key=lambda line: line.arrival_us)

    # -- one line ----------------------------------------------------------------------------

    def _doubtful(self, line: KernelLine) -> Sequence[KernelLine]:
        text = _first_line(line.text)
        told = self._nearest([(line, told, told) for told in self._told.of(text)])
        if told is not None:
            self._told.remove(text, told)
            self._count_heard(told, text)
            return (_as_logged(line, told),)
        doubt = _Doubt(line)
        self._doubts.add(text, line.arrival_us, doubt)
        self._waiting.append(doubt)
        return ()

    def _of_the_log(self, line: KernelLine, kernel_us: int) -> Sequence[KernelLine | Proof]:
        text = _first_line(line.text)
        seen = self._note(kernel_us, text)
        before = max(seen.values(), default=0)
        seen[line.probe] = seen.get(line.probe, 0) + 1
        if seen[line.probe] <= before:
            return (line,)  # known through another probe already, and so is whether eBPF heard it
        doubt = self._nearest([(doubt.line, line, doubt) for doubt in self._doubts.of(text)])
        if doubt is None:
            self._told.add(text, line.arrival_us, line)
            return (line,)
        self._doubts.remove(text, doubt)
        self._count_heard(line, text)
        doubt.settled = True
        if doubt.gone is not None:
            return (Proof(doubt.gone, line),)
        return (_as_logged(doubt.line, line), line)

    def _count_heard(self, told: KernelLine, text: str) -> None:
        """eBPF has heard this line of the log."""
        if told.kernel_us is not None:
            seen = self._note(told.kernel_us, text)
            seen[BPF] = seen.get(BPF, 0) + 1

    def _forget_told(self, kernel_us: int, text: str) -> None:
        told = next((each for each in self._told.of(text) if each.kernel_us == kernel_us), None)
        if told is not None:
            self._told.remove(text, told)

    def _note(self, kernel_us: int, text: str) -> dict[str, int]:
        """How often each probe has shown the record of this stamp and text."""
        seen = self._seen.get((kernel_us, text))
        if seen is None:
            seen = self._seen[kernel_us, text] = {}
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return seen

    # -- matching ----------------------------------------------------------------------------

    def _nearest(self, pairs: Sequence[tuple[KernelLine, KernelLine, _T]]) -> _T | None:
        """Of the pairs (heard by eBPF, shown by the log, what to give back) the best match."""
        best: tuple[int, int] | None = None
        possible = 0
        for index, (heard, told, _) in enumerate(pairs):
            distance = self._distance(heard, told)
            if distance is not None:
                possible += 1
                best = (distance, index) if best is None else min(best, (distance, index))
        if best is None:
            return None
        heard, told, thing = pairs[best[1]]
        if told.kernel_us is not None and possible == 1:
            self._clock.learn(_stamp(heard), told.kernel_us)
        return thing

    def _distance(self, heard: KernelLine, told: KernelLine) -> int | None:
        """How far apart the two are in the log's time, 0 where only their order counts; None when they
        cannot be the same line."""
        if told.kernel_us is None or (told.probe == KMSG and told.text != heard.text):
            return None
        expected = self._clock.kernel_us(_stamp(heard))
        if expected is not None:
            distance = abs(expected - told.kernel_us)
            return distance if distance <= self._clock.tolerance_us(_stamp(heard)) else None
        later = told.arrival_us - heard.arrival_us
        is_old = told.wall_is_estimate and (self._began_us is None or told.kernel_us <= self._began_us)
        return 0 if not is_old and -_EARLIER_US <= later <= _LATER_US else None

    def _has_twin(self, line: KernelLine) -> bool:
        """True when a line of the log that was read at about the same time has its text."""
        return any(
            not told.wall_is_estimate and abs(told.arrival_us - line.arrival_us) <= _CONTRADICTS_US
            for told in self._told.of(_first_line(line.text))
        )

    def _waiting_by_text(self) -> dict[str, list[_Doubt]]:
        found: dict[str, list[_Doubt]] = {}
        for doubt in self._waiting:
            if not doubt.settled:
                found.setdefault(_first_line(doubt.line.text), []).append(doubt)
        return found

    def _unused(self, look: Look) -> dict[str, list[_Shown]]:
        """What the log shows and eBPF is not known to have heard yet, by text, oldest first."""
        counts: dict[tuple[int | None, str], int] = {}
        found: dict[str, list[_Shown]] = {}
        for line in look.lines:
            nth = counts[line.kernel_us, line.text] = counts.get((line.kernel_us, line.text), 0) + 1
            seen = {} if line.kernel_us is None else self._seen.get((line.kernel_us, line.text), {})
            if nth > seen.get(BPF, 0):
                found.setdefault(line.text, []).append((line.kernel_us, line.origin, nth))
        return found

    def _pairs(
        self, doubts: Sequence[_Doubt], shown: Sequence[_Shown], look: Look, now_us: int
    ) -> Iterable[tuple[_Doubt, _Shown]]:
        """Which line of the log is which: by stamp, or the newest with the newest."""
        if doubts and self._clock.kernel_us(_stamp(doubts[0].line)) is not None:
            return self._by_stamp(doubts, shown)
        if look.newest_us is not None:
            # The log's clock is at `newest_us` at least, and the first of them is not older than its age.
            oldest_us = look.newest_us - (now_us - _stamp(doubts[0].line)) - _SLACK_US
            shown = [each for each in shown if each[0] is None or each[0] >= oldest_us]
        if len(shown) != len(doubts) and len({origin for _, origin, _ in shown}) > 1:
            return []  # some are the kernel's and some are not: which is which is not known
        return list(zip(reversed(doubts), reversed(shown), strict=False))

    def _by_stamp(self, doubts: Sequence[_Doubt], shown: Sequence[_Shown]) -> Iterable[tuple[_Doubt, _Shown]]:
        left = [each for each in shown if each[0] is not None]
        found = []
        for doubt in doubts:
            stamp = _stamp(doubt.line)
            expected = self._clock.kernel_us(stamp) or 0
            near = min(left, key=lambda each: abs((each[0] or 0) - expected), default=None)
            if near is not None and abs((near[0] or 0) - expected) <= self._clock.tolerance_us(stamp):
                left.remove(near)
                found.append((doubt, near))
        return found


_Shown = tuple[int | None, Origin, int]
"""Kernel time and origin of a line in the log, and which of the records of that time and text it is."""


def _stamp(line: KernelLine) -> int:
    return line.arrival_us if line.kernel_us is None else line.kernel_us


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _as_logged(heard: KernelLine, told: KernelLine) -> KernelLine:
    """What eBPF heard, under the identity that the log gives it."""
    return replace(heard, text=told.text, origin=told.origin, kernel_us=told.kernel_us, seq=told.seq)
