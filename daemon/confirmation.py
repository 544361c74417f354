"""Who printed a line that was heard by a probe which cannot tell (DESIGN, promise 5).

Contract:

* A line heard by eBPF waits for up to `PATIENCE_US`, and for up to `LAGGING_US` (at the start
  `STARTING_US`) while the reader of /dev/kmsg has not come as far as that line. The same line from
  /dev/kmsg or syslog(2), or one look at the log, tells who printed it; then it goes on under the log's own
  stamp, so that every probe gives it the same identity. Unconfirmed it goes on with origin `unknown`.
* A line of the log is never held back. syslog(2) cannot tell the origin of each; what it cannot tell of,
  /dev/kmsg may still prove. If its line from eBPF comes later, that one is a second witness.
* A line that went on unconfirmed is proved or disproved when the log shows it after all, be it to
  another process after a restart: `ahead` is what that one must be given.
* One line of the log confirms one line from eBPF: two real repeats are never merged, and an old true
  line does not vouch for a forged copy. Lines are matched by text and by stamp, with the offset of the
  two clocks learned; until that is known by order, and only among lines read at about the same time.

Synchronous and without a clock of its own; owned by the pipeline.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from daemon.ahead import Ahead
from daemon.log_reading import LogReading
from daemon.shelf import REMEMBERED, Shelf
from probes.bpf.probe import NAME as BPF
from probes.klog import NAME as KLOG
from probes.klog import Look
from probes.kmsg import NAME as KMSG
from probes.line import KernelLine, Origin

PATIENCE_US = 20_000
"""How long a line waits to be confirmed, in arrival time."""
LAGGING_US = 1_000_000
"""The same while /dev/kmsg is read, but not as far as that line: in a storm its reader lags."""
STARTING_US = 30_000_000
"""The same while it reads, for the first time, what was there before: lines that overtook seconds of it
would be taken for other faults."""

_LATER_US = 2_000_000
"""Without the offset: a line of the log is read so much later than eBPF hears it, at most (klog looks
once a second)."""
_EARLIER_US = 250_000
_SLACK_US = 5_000
_CONTRADICTS_US = 100_000


@dataclass(frozen=True, slots=True)
class Proof:
    """The log shows a line that has gone on before."""

    doubted: KernelLine
    """As it went on."""
    line: KernelLine
    """The same line with its true origin."""


@dataclass(slots=True, eq=False)
class _Doubt:
    line: KernelLine
    gone: KernelLine | None = None
    """As it went on before the log showed it; None while it waits."""
    settled: bool = False


class Confirmation:
    """The lines that wait to be confirmed, and the lines of the log that could confirm more."""

    def __init__(self, reading: LogReading) -> None:
        """`reading` is told by the pipeline how far /dev/kmsg has been read."""
        self._reading = reading
        self._clock = reading.clock
        self._began_us: int | None = None
        self._looked_us: int | None = None
        self._doubts: Shelf[_Doubt] = Shelf()
        self._told: Shelf[KernelLine] = Shelf()  # of the log, and not heard by eBPF yet
        self._earlier: list[Ahead] = []
        self._waiting: deque[_Doubt] = deque()
        self._seen: OrderedDict[tuple[int, str], dict[str, int]] = OrderedDict()
        self._unproved: OrderedDict[tuple[int, str], KernelLine] = OrderedDict()  # of klog

    def begin(self, newest_us: int) -> None:
        """The log's newest line is of kernel time `newest_us`, and eBPF has heard nothing yet."""
        self._began_us = newest_us

    def take(self, line: KernelLine) -> Sequence[KernelLine | Proof]:
        """Take a line of a probe of the log, or of eBPF; gives back what goes on now, in order."""
        if line.probe == BPF:
            return self._heard(line)
        if line.kernel_us is None or (line.origin is Origin.UNKNOWN and line.probe != KLOG):
            return (line,)
        return self._of_the_log(line, line.kernel_us)

    def waiting(self) -> Collection[str]:
        """The texts of the lines that wait."""
        return {each.line.text for each in self._waiting if not each.settled}

    def next_deadline(self) -> int | None:
        """Arrival time at which a line may go on unconfirmed; None when none waits."""
        while self._waiting and self._waiting[0].settled:
            self._waiting.popleft()
        if not self._waiting:
            return None
        line = self._waiting[0].line
        soon = line.arrival_us + PATIENCE_US
        was_looked_at = self._looked_us is not None and self._looked_us >= soon
        if not was_looked_at or not self._may_come(line):
            return soon
        return line.arrival_us + (STARTING_US if self._reading.end_us is None else LAGGING_US)

    def expire(self, now_us: int) -> Sequence[KernelLine]:
        """The lines that have waited long enough at arrival time `now_us`."""
        self._looked_us = now_us
        gone = []
        while (deadline := self.next_deadline()) is not None and deadline <= now_us:
            doubt = self._waiting.popleft()
            told = self._told_of(doubt.line, sure=False)
            if told is not None:
                self._settle(doubt)
                gone.append(self._second_witness(doubt.line, told))
                continue
            if self._has_twin(doubt.line):
                self._clock.doubt()  # the log did show it, at a stamp where it was not looked for
            gone.append(self._go_ahead(doubt))
        return gone

    def look(self, look: Look, now_us: int) -> Sequence[KernelLine]:
        """Take what one look at the log showed; gives back the waiting lines that it confirms.

        What went on unconfirmed is left to the probes: they bring the log's own stamps and numbers.
        """
        ready: list[KernelLine] = []
        shown = self._unused(look)
        is_known = self._clock.kernel_us(now_us) is not None
        for text, doubts in self._waiting_by_text().items():
            for doubt, (kernel_us, origin, nth) in self._pairs(doubts, shown.get(text, []), look, now_us):
                self._settle(doubt)
                if kernel_us is not None:
                    self._note(kernel_us, text)[BPF] = nth
                    self._forget_told(kernel_us, text)
                    if is_known or len(doubts) == len(shown[text]) == 1:
                        self._clock.learn(_stamp(doubt.line), kernel_us)
                stamp = doubt.line.kernel_us if kernel_us is None else kernel_us
                ready.append(replace(doubt.line, kernel_us=stamp, origin=origin))
        return sorted(ready, key=lambda line: line.arrival_us)

    def give_up(self, is_named: Callable[[str, int], bool]) -> KernelLine | None:
        """The driver has told of a line by itself. Gives back the waiting line that `is_named` knows by its
        text and by when it was printed (CLOCK_MONOTONIC), the last of several; None when there is none.

        That line waits no longer, and the log's is news: the driver's word is what the log will prove."""
        for doubt in reversed(self._waiting):
            if not doubt.settled and is_named(doubt.line.text, _stamp(doubt.line)):
                self._settle(doubt)
                return doubt.line
        return None

    # -- before the log shows it ---------------------------------------------------------------

    def ahead(self) -> Iterator[Ahead]:
        """The lines that went on before the log showed them, the last one first."""
        for doubt in reversed(self._doubts):
            if doubt.gone is not None:
                yield Ahead(doubt.gone, _stamp(doubt.line), self._tolerance_us(doubt.line))
        yield from reversed(self._earlier)

    def restore(self, ahead: Iterable[Ahead]) -> None:
        """Go on with those of an earlier process."""
        self._earlier = list(ahead)

    def _go_ahead(self, doubt: _Doubt, origin: Origin = Origin.UNKNOWN) -> KernelLine:
        stamp = _stamp(doubt.line)
        kernel_us = self._clock.kernel_us(stamp)
        doubt.gone = replace(doubt.line, origin=origin, kernel_us=stamp if kernel_us is None else kernel_us)
        return doubt.gone

    def _tolerance_us(self, line: KernelLine) -> int:
        """How far the kernel time with which a line went on may be from the log's."""
        stamp = _stamp(line)
        return _LATER_US if self._clock.kernel_us(stamp) is None else self._clock.tolerance_us(stamp)

    # -- one line ----------------------------------------------------------------------------

    def _heard(self, line: KernelLine) -> Sequence[KernelLine]:
        line = replace(line, printed_us=_stamp(line))
        told = self._told_of(line)
        if told is not None:
            return (self._second_witness(line, told),)
        doubt = _Doubt(line)
        self._doubts.add(_first_line(line.text), _stamp(line), line.arrival_us, doubt)
        if line.origin is not Origin.UNKNOWN:  # its hook sees the facility: only the stamp is not the log's
            return (self._go_ahead(doubt, line.origin),)
        self._waiting.append(doubt)
        return ()

    def _second_witness(self, heard: KernelLine, told: KernelLine) -> KernelLine:
        self._told.remove(told)
        self._count_heard(told, _first_line(told.text))
        return _as_logged(heard, told)

    def _of_the_log(self, line: KernelLine, kernel_us: int) -> Sequence[KernelLine | Proof]:
        text = _first_line(line.text)
        seen = self._note(kernel_us, text)
        before = max(seen.values(), default=0)
        seen[line.probe] = seen.get(line.probe, 0) + 1
        if seen[line.probe] <= before:  # known through another probe already, and so is whether eBPF heard it
            unproved = self._unproved.pop((kernel_us, text), None) if line.probe != KLOG else None
            return (line,) if unproved is None else (Proof(unproved, line),)
        if line.origin is Origin.UNKNOWN:
            self._remember_unproved(line, kernel_us, text)
        ahead = self._heard_earlier(line, kernel_us)
        if ahead is not None:
            self._earlier.remove(ahead)
            self._count_heard(line, text)
            return (Proof(ahead.line, line),)
        doubt = self._doubt_of(line, kernel_us)
        if doubt is None:
            self._told.add(text, kernel_us, line.arrival_us, line)
            return (line,)
        self._settle(doubt)
        self._count_heard(line, text)
        if doubt.gone is not None:
            return (Proof(doubt.gone, line),)
        return (_as_logged(doubt.line, line), line)

    def _remember_unproved(self, line: KernelLine, kernel_us: int, text: str) -> None:
        self._unproved[kernel_us, text] = line
        if len(self._unproved) > REMEMBERED:
            self._unproved.popitem(last=False)

    def _settle(self, doubt: _Doubt) -> None:
        doubt.settled = True
        self._doubts.remove(doubt)

    def _count_heard(self, told: KernelLine, text: str) -> None:
        """eBPF has heard this line of the log."""
        if told.kernel_us is not None:
            seen = self._note(told.kernel_us, text)
            seen[BPF] = seen.get(BPF, 0) + 1

    def _forget_told(self, kernel_us: int, text: str) -> None:
        for told in self._told.near(text, kernel_us, 0)[:1]:
            self._told.remove(told)

    def _note(self, kernel_us: int, text: str) -> dict[str, int]:
        """How often each probe has shown the record of this stamp and text."""
        seen = self._seen.get((kernel_us, text))
        if seen is None:
            seen = self._seen[kernel_us, text] = {}
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return seen

    # -- matching ----------------------------------------------------------------------------

    def _told_of(self, heard: KernelLine, *, sure: bool = True) -> KernelLine | None:
        """The line of the log that eBPF hears here; unless `sure`, also one with a stamp that is far off."""
        text, stamp = _first_line(heard.text), _stamp(heard)
        expected = self._clock.kernel_us(stamp)
        if expected is None:
            near = [told for told in self._told.of(text) if self._in_order(heard, told)]
        else:
            within_us = self._clock.sure_us(stamp) if sure else self._clock.tolerance_us(stamp)
            near = list(self._told.near(text, expected, within_us))
        possible = [told for told in near if _may_be_same(heard, told)]
        nearest = min(possible, key=lambda told: _apart(expected, told.kernel_us), default=None)
        if nearest is not None:
            self._learn(heard, nearest, len(possible))
        return nearest

    def _doubt_of(self, told: KernelLine, kernel_us: int) -> _Doubt | None:
        """The line from eBPF that the log shows here. One with a stamp that is far off only when it is out:
        the right one may be on its way, and `expire` looks for what is left."""
        text, stamp = _first_line(told.text), self._clock.monotonic_us(kernel_us)
        if stamp is None or self._clock.kernel_us(stamp) is None:
            stamp = None
            near = [doubt for doubt in self._doubts.of(text) if self._in_order(doubt.line, told)]
        else:
            near = list(self._doubts.near(text, stamp, self._clock.sure_us(stamp)))
            far = self._doubts.near(text, stamp, self._clock.tolerance_us(stamp))
            near = near or [doubt for doubt in far if doubt.gone is not None]
        possible = [doubt for doubt in near if _may_be_same(doubt.line, told)]
        nearest = min(possible, key=lambda doubt: _apart(stamp, _stamp(doubt.line)), default=None)
        if nearest is not None:
            self._learn(nearest.line, told, len(possible))
        return nearest

    def _learn(self, heard: KernelLine, told: KernelLine, possible: int) -> None:
        is_known = self._clock.kernel_us(_stamp(heard)) is not None
        if told.kernel_us is not None and possible == 1 and (is_known or self._reading.is_complete):
            self._clock.learn(_stamp(heard), told.kernel_us)

    def _in_order(self, heard: KernelLine, told: KernelLine) -> bool:
        """Without the offset: whether the two were read at about the same time."""
        later = told.arrival_us - heard.arrival_us
        return not self._is_old(told) and -_EARLIER_US <= later <= _LATER_US

    def _is_old(self, told: KernelLine) -> bool:
        """True for a line that was printed before eBPF heard anything, or may have been."""
        if self._began_us is None or told.kernel_us is None:
            return told.wall_is_estimate
        return told.kernel_us <= self._began_us

    def _heard_earlier(self, told: KernelLine, kernel_us: int) -> Ahead | None:
        """What an earlier process had heard ahead of the log, and the log shows here."""
        text = _first_line(told.text)
        near = [
            each
            for each in self._earlier
            if _first_line(each.line.text) == text
            and each.line.boot_id == told.boot_id
            and _apart(each.line.kernel_us, kernel_us) <= each.tolerance_us
        ]
        return min(near, key=lambda each: _apart(each.line.kernel_us, kernel_us), default=None)

    def _may_come(self, line: KernelLine) -> bool:
        """True while /dev/kmsg has not been read as far as this line."""
        return self._reading.hears and not self._reading.is_past(_stamp(line))

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
            if nth > seen.get(BPF, 0) and line.origin is not Origin.UNKNOWN:
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
        found: dict[_Doubt, _Shown] = {}
        for within_us in (self._clock.sure_us, self._clock.tolerance_us):
            for doubt in (each for each in doubts if each not in found):
                stamp = _stamp(doubt.line)
                expected = self._clock.kernel_us(stamp)
                near = min(left, key=lambda each: _apart(expected, each[0]), default=None)
                if near is not None and _apart(expected, near[0]) <= within_us(stamp):
                    left.remove(near)
                    found[doubt] = near
        return found.items()


_Shown = tuple[int | None, Origin, int]
"""Kernel time and origin of a line in the log, and which of the records of that time and text it is."""


def _stamp(line: KernelLine) -> int:
    """When eBPF heard it printed, by CLOCK_MONOTONIC."""
    if line.printed_us is not None:
        return line.printed_us
    return line.arrival_us if line.kernel_us is None else line.kernel_us


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _apart(one_us: int | None, other_us: int | None) -> int:
    """How far apart two times are; 0 where one is not known, so that only the order counts."""
    return 0 if one_us is None or other_us is None else abs(one_us - other_us)


def _may_be_same(heard: KernelLine, told: KernelLine) -> bool:
    """True unless the whole texts differ, where the log gives all of it."""
    return told.probe != KMSG or told.text == heard.text


def _as_logged(heard: KernelLine, told: KernelLine) -> KernelLine:
    """What eBPF heard, under the identity that the log gives it."""
    return replace(heard, text=told.text, origin=told.origin, kernel_us=told.kernel_us, seq=told.seq)
