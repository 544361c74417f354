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
* What eBPF heard may be a fragment of the log's record (`daemon.fragment`): that record is the same line
  then. Where it begins with other text it does not prove it, and where a process began it, does not
  disprove it.

Synchronous and without a clock of its own; owned by the pipeline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from daemon.ahead import Ahead, EarlierAhead
from daemon.fragment import beginning
from daemon.log_reading import LogReading
from daemon.look_match import pairs, unused
from daemon.records_seen import RecordsSeen
from daemon.same_line import (
    as_logged,
    distance,
    first_line,
    is_unproved,
    is_whole,
    may_be_same,
    stamp_of,
)
from daemon.shelf import Shelf
from probes.bpf.probe import NAME as BPF
from probes.klog import NAME as KLOG
from probes.klog import Look
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
    gone: Ahead | None = None
    """As it went on before the log showed it; None while it waits."""
    settled: bool = False
    """It waits no longer, and did not go on by itself."""

    @property
    def waits(self) -> bool:
        return self.gone is None and not self.settled


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
        self._earlier = EarlierAhead()
        self._waiting: deque[_Doubt] = deque()
        self._records = RecordsSeen()

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
        shown = unused(look, self._records.heard)
        is_known = self._clock.kernel_us(now_us) is not None
        for text, doubts in self._waiting_by_text().items():
            found = pairs(doubts, shown.get(text, []), self._clock, newest_us=look.newest_us, now_us=now_us)
            for doubt, (kernel_us, origin, nth) in found:
                self._settle(doubt)
                if kernel_us is not None:
                    self._records.hear_up_to(nth, kernel_us, text)
                    self._forget_told(kernel_us, text)
                    if is_known or len(doubts) == len(shown[text]) == 1:
                        self._clock.learn(stamp_of(doubt.line), kernel_us)
                stamp = doubt.line.kernel_us if kernel_us is None else kernel_us
                ready.append(replace(doubt.line, kernel_us=stamp, origin=origin))
        return sorted(ready, key=lambda line: line.arrival_us)

    def give_up(self, is_named: Callable[[str, int], bool]) -> KernelLine | None:
        """The driver has told of a line by itself. Gives back the waiting line that `is_named` knows by its
        text and by when it was printed (CLOCK_MONOTONIC), the last of several; None when there is none.

        That line waits no longer, and the log's is news: the driver's word is what the log will prove. It
        stays known as heard, so that the log's is not taken for another line of this text."""
        for doubt in reversed(self._waiting):
            if not doubt.settled and is_named(doubt.line.text, stamp_of(doubt.line)):
                doubt.settled = True
                return doubt.line
        return None

    # -- before the log shows it ---------------------------------------------------------------

    def ahead(self) -> Iterator[Ahead]:
        """The lines that went on before the log showed them, the last one first."""
        for doubt in reversed(self._doubts):
            if doubt.gone is None:
                continue
            # What the clock said of it is in doubt where the clock has been forgotten since.
            is_known = self._clock.kernel_us(doubt.gone.stamp_us) is not None
            yield doubt.gone if is_known else replace(doubt.gone, tolerance_us=_LATER_US)
        yield from reversed(self._earlier.lines)

    def restore(self, ahead: Iterable[Ahead]) -> None:
        """Go on with those of an earlier process."""
        self._earlier.lines = list(ahead)

    def _go_ahead(self, doubt: _Doubt, origin: Origin = Origin.UNKNOWN) -> KernelLine:
        stamp = stamp_of(doubt.line)
        kernel_us = self._clock.kernel_us(stamp)
        line = replace(doubt.line, origin=origin, kernel_us=stamp if kernel_us is None else kernel_us)
        tolerance_us = _LATER_US if kernel_us is None else self._clock.tolerance_us(stamp)
        doubt.gone = Ahead(line, stamp, tolerance_us)
        return line

    # -- one line ----------------------------------------------------------------------------

    def _heard(self, line: KernelLine) -> Sequence[KernelLine | Proof]:
        line = replace(line, printed_us=stamp_of(line))
        told = self._told_of(line)
        if told is not None:
            logged = self._second_witness(line, told)
            if line.origin is Origin.KERNEL and is_unproved(told):
                return (_proof_by(line, told),)
            return (logged,)
        doubt = _Doubt(line)
        self._doubts.add(beginning(line.text), stamp_of(line), line.arrival_us, doubt)
        if line.origin is not Origin.UNKNOWN:  # its hook sees the facility: only the stamp is not the log's
            return (self._go_ahead(doubt, line.origin),)
        self._waiting.append(doubt)
        return ()

    def _second_witness(self, heard: KernelLine, told: KernelLine) -> KernelLine:
        self._told.remove(told)
        self._records.hear(told)
        return as_logged(heard, told)

    def _of_the_log(self, line: KernelLine, kernel_us: int) -> Sequence[KernelLine | Proof]:
        if self._records.is_known(line, kernel_us):
            unproved = self._records.take_unproved(line, kernel_us)
            return (line,) if unproved is None else (Proof(unproved, line),)
        ahead = self._earlier.take(line, kernel_us)
        if ahead is not None:
            self._records.hear(line)
            return (Proof(ahead.line, line),)
        doubt = self._doubt_of(line, kernel_us)
        if doubt is None:
            self._told.add(beginning(line.text), kernel_us, line.arrival_us, line)
            return (line,)
        is_news = doubt.settled
        self._settle(doubt)
        self._records.hear(line)
        if doubt.gone is not None:
            return (Proof(doubt.gone.line, line),)
        if is_news:
            return (line,)
        return (as_logged(doubt.line, line), line)

    def _settle(self, doubt: _Doubt) -> None:
        doubt.settled = True
        self._doubts.remove(doubt)

    def _forget_told(self, kernel_us: int, text: str) -> None:
        same = (
            each for each in self._told.near(beginning(text), kernel_us, 0) if first_line(each.text) == text
        )
        if (told := next(same, None)) is not None:
            self._told.remove(told)

    # -- matching ----------------------------------------------------------------------------

    def _told_of(self, heard: KernelLine, *, sure: bool = True) -> KernelLine | None:
        """The line of the log that eBPF hears here; unless `sure`, also one with a stamp that is far off."""
        text, stamp = beginning(heard.text), stamp_of(heard)
        expected = self._clock.kernel_us(stamp)
        if expected is None:
            near = [told for told in self._told.of(text) if self._in_order(heard, told)]
        else:
            within_us = self._clock.sure_us(stamp) if sure else self._clock.tolerance_us(stamp)
            near = list(self._told.near(text, expected, within_us))
        possible = [told for told in near if may_be_same(heard, told)]
        sure_us = self._clock.sure_us(stamp)
        nearest = min(
            possible,
            key=lambda told: (not is_whole(heard, told), distance(expected, told.kernel_us, sure_us)),
            default=None,
        )
        if nearest is not None:
            self._learn(heard, nearest, len(possible))
        return nearest

    def _doubt_of(self, told: KernelLine, kernel_us: int) -> _Doubt | None:
        """The line from eBPF that the log shows here. One with a stamp that is far off only when it is out:
        the right one may be on its way, and `expire` looks for what is left."""
        if len(self._doubts) == 0:
            return None  # as always where eBPF is not heard
        text, stamp = beginning(told.text), self._clock.monotonic_us(kernel_us)
        if stamp is None or self._clock.kernel_us(stamp) is None:
            stamp = None
            near = [doubt for doubt in self._doubts.of(text) if self._in_order(doubt.line, told)]
            possible = [doubt for doubt in near if may_be_same(doubt.line, told)]
        else:
            near = [*self._doubts.near(text, stamp, self._clock.sure_us(stamp))]
            far = self._doubts.near(text, stamp, self._clock.tolerance_us(stamp))
            possible = [doubt for doubt in near if may_be_same(doubt.line, told)] or [
                doubt for doubt in far if not doubt.waits and may_be_same(doubt.line, told)
            ]
        nearest = min(
            possible,
            key=lambda doubt: (not is_whole(doubt.line, told), self._distance(doubt.line, kernel_us)),
            default=None,
        )
        if nearest is not None:
            self._learn(nearest.line, told, len(possible))
        return nearest

    def _distance(self, heard: KernelLine, kernel_us: int) -> tuple[bool, int]:
        stamp = stamp_of(heard)
        return distance(self._clock.kernel_us(stamp), kernel_us, self._clock.sure_us(stamp))

    def _learn(self, heard: KernelLine, told: KernelLine, possible: int) -> None:
        is_known = self._clock.kernel_us(stamp_of(heard)) is not None
        if told.kernel_us is not None and possible == 1 and (is_known or self._reading.is_complete):
            self._clock.learn(stamp_of(heard), told.kernel_us)

    def _in_order(self, heard: KernelLine, told: KernelLine) -> bool:
        """Without the offset: whether the two were read at about the same time."""
        later = told.arrival_us - heard.arrival_us
        return not self._is_old(told) and -_EARLIER_US <= later <= _LATER_US

    def _is_old(self, told: KernelLine) -> bool:
        """True for a line that was printed before eBPF heard anything, or may have been."""
        if self._began_us is None or told.kernel_us is None:
            return told.wall_is_estimate
        return told.kernel_us <= self._began_us

    def _may_come(self, line: KernelLine) -> bool:
        """True while /dev/kmsg has not been read as far as this line."""
        return self._reading.hears and not self._reading.is_past(stamp_of(line))

    def _has_twin(self, line: KernelLine) -> bool:
        """True when a line of the log that was read at about the same time has its text."""
        return any(
            not told.wall_is_estimate
            and abs(told.arrival_us - line.arrival_us) <= _CONTRADICTS_US
            and first_line(told.text) == first_line(line.text)
            for told in self._told.of(beginning(line.text))
        )

    def _waiting_by_text(self) -> dict[str, list[_Doubt]]:
        found: dict[str, list[_Doubt]] = {}
        for doubt in self._waiting:
            if not doubt.settled:
                found.setdefault(first_line(doubt.line.text), []).append(doubt)
        return found


def _proof_by(heard: KernelLine, told: KernelLine) -> Proof:
    """eBPF was told who printed this, and the log could not show it."""
    return Proof(replace(told, origin=Origin.UNKNOWN), replace(heard, kernel_us=told.kernel_us, seq=told.seq))
