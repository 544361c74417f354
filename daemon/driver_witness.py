"""The driver's own tracepoint as a witness: its word joins the event of the line, or stands alone.

Contract:

* The driver calls its tracepoint microseconds after it has printed a line, with the same message, device
  and code, but without pid and MIG instance: lines are matched by these and by time, one to one.
* Without a line it waits `LOG_WAIT_US` and is then a line of its own, proved: the driver can be told not
  to print.
* It proves its own text: device, code and message. With a line of which nobody can tell who printed it it
  is joined only when it names that line word for word, at most `PROVES_US` after it; what else stands
  there (pid, name, instance) is not proved by that, and is told once the log shows the line.
* A line that the log shows after that is the same one, be it after a restart (`ahead`).

Owned by the pipeline; no clock of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from daemon.ahead import Ahead
from daemon.fragment import place_of
from daemon.log_clock import LogClock
from daemon.shelf import Shelf
from daemon.witness import Sighting
from probes.line import KernelLine, Origin

PROBE: Final = "driver"
"""Name of this witness."""
LOG_WAIT_US: Final = 20_000
"""How long its word waits for a line, in arrival time."""

PROVES_US: Final = 1_000
"""How long after an unproved line it may speak and be about that line (measured: 4 to 20 µs)."""

_CLOSE_US: Final = 5_000
"""A proved line that is so close is the one it speaks of."""
_NEAR_US: Final = 2_000_000
"""A slow console may stand between the line and the tracepoint."""
_BEGINS: Final = re.compile(r"(?:NVRM: Xid|nvidia-nvswitch\d*: SXid) \([^()]*\): \d+(?:, ?|$)")
_PROCESS: Final = re.compile(r"pid=[^,]*, name=")
_BEHIND: Final = re.compile(r" caused by previous Xid \d+$")
_SAME_TEXT: Final = re.compile(r"(S?Xid) \((?:PCI:)?([0-9A-Fa-f:]+)(?:\.[0-9A-Fa-f])?[^)]*\): (\d+)(?:, ?|$)")


class _Key(NamedTuple):
    shelf: str
    """Kind, device and code."""
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """A line that was heard, and of which the driver has not spoken yet."""

    line: KernelLine
    sighting: Sighting
    message: str
    is_proved: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Alone:
    ahead: Ahead
    message: str


def names(said: str, text: str) -> bool:
    """True when the driver's word `said` is the line `text` word for word, but for what it never tells:
    process, instance, number of the switch, and an earlier Xid. Other text may stand before the line."""
    text = text[place_of(text) :]
    spoken, printed = _key(said), _key(text)
    if spoken is None or printed is None or spoken.shelf != printed.shelf or not _BEGINS.match(text):
        return False
    message = _BEHIND.sub("", printed.message)
    if _PROCESS.match(message):
        return message.endswith(f", {spoken.message}")
    return message == spoken.message


def names_at(report: KernelLine, text: str, printed_us: int) -> bool:
    """True when the driver's word is about the unproved line `text`, printed at `printed_us`
    (CLOCK_MONOTONIC)."""
    return 0 <= _stamp(report) - printed_us <= PROVES_US and names(report.text, text)


class DriverWitness:
    """See the module's docstring."""

    def __init__(self, clock: LogClock) -> None:
        self._clock = clock
        self._told: Shelf[Told] = Shelf()
        self._waiting: list[KernelLine] = []
        self._alone: Shelf[_Alone] = Shelf()
        self._earlier: list[_Alone] = []

    def said_close(self, report: KernelLine) -> Told | None:
        """The proved line that the driver has just printed; None when none was heard so far."""
        key = _key(report.text)
        return None if key is None else self._take_proved(report, key, key.message, _CLOSE_US)

    def said(self, report: KernelLine) -> Told | None:
        """The line that the driver speaks of, an unproved one included; None when none was heard so far."""
        key = _key(report.text)
        if key is None:
            return None
        unproved = self._take_unproved(report, key)
        return unproved or self._take_proved(report, key, key.message, _NEAR_US)

    def wait(self, report: KernelLine) -> None:
        """Keep its word for a line that may come."""
        self._waiting.append(report)

    @property
    def waiting(self) -> Sequence[KernelLine]:
        """What waits for a line."""
        return self._waiting

    def line_read(self, line: KernelLine, sighting: Sighting, *, is_proved: bool) -> KernelLine | None:
        """The word that waited for this line; without one, the line waits for the driver's word."""
        key = _key(line.text)
        if key is None:
            return None
        printed_us = self._printed_us(line)
        if is_proved:
            possible = [each for each in self._waiting if _may_be_about(each, key, printed_us)]
        else:
            possible = [each for each in self._waiting if names_at(each, line.text, printed_us)]
        nearest = min(possible, key=lambda report: abs(_stamp(report) - printed_us), default=None)
        if nearest is not None:
            self._waiting.remove(nearest)
        else:
            told = Told(line, sighting, key.message, is_proved)
            self._told.add(key.shelf, printed_us, line.arrival_us, told)
        return nearest

    def gone(self, report: KernelLine) -> None:
        """Its word was taken otherwise: it waits no longer."""
        self._waiting.remove(report)

    def named_alone(self, line: KernelLine) -> KernelLine | None:
        """The word that went out alone, as it went out, and that names this unproved line. Where the log
        shows that line, glued, it is the line of that word, which is no other's then."""
        key = _key(line.text) if self._stands_alone else None
        if key is None:
            return None
        printed_us = self._printed_us(line)
        for each in (*self._earlier, *self._alone.of(key.shelf)):
            is_near = 0 <= each.ahead.stamp_us - printed_us <= PROVES_US
            if is_near and names(each.ahead.line.text, line.text):
                if line.origin is Origin.KERNEL:
                    self._shown(each)
                return each.ahead.line
        return None

    def told_alone(self, line: KernelLine) -> KernelLine | None:
        """The word that went out alone, as it went out, and that this proved line is about; once."""
        key = _key(line.text) if self._stands_alone else None
        if key is None or line.kernel_us is None:
            return None
        possible = [each for each in (*self._earlier, *self._alone.of(key.shelf)) if _is_of(each, line, key)]
        nearest = min(possible, key=lambda each: _apart(each, line), default=None)
        if nearest is None:
            return None
        self._shown(nearest)
        return nearest.ahead.line

    def due(self, now_us: int) -> Sequence[KernelLine | tuple[KernelLine, Told]]:
        """What has waited long enough by arrival time `now_us`: a line of its own, under an estimate of the
        log's time; or with the one proved line that it can be about, though the message is worded
        otherwise."""
        found: list[KernelLine | tuple[KernelLine, Told]] = []
        while self._waiting and self._waiting[0].arrival_us + LOG_WAIT_US <= now_us:
            report = self._waiting.pop(0)
            key = _key(report.text)
            told = None if key is None else self._take_proved(report, key, "", _NEAR_US)
            found.append(self.stand_alone(report) if told is None else (report, told))
        return found

    def next_deadline(self) -> int | None:
        """Arrival time at which `due` next has something to give; None when nothing waits."""
        return self._waiting[0].arrival_us + LOG_WAIT_US if self._waiting else None

    def ahead(self) -> Iterator[Ahead]:
        """What stands alone, and of which the log may yet show the line, the last one first."""
        yield from (each.ahead for each in reversed(self._alone))
        yield from (each.ahead for each in reversed(self._earlier))

    def restore(self, ahead: Iterable[Ahead]) -> None:
        """Go on with what stood alone in an earlier process."""
        for each in ahead:
            key = _key(each.line.text)
            if key is not None:
                self._earlier.append(_Alone(each, key.message))

    @property
    def _stands_alone(self) -> bool:
        """True while the line of any word that went out alone may yet come."""
        return bool(self._earlier) or len(self._alone) > 0

    def _shown(self, alone: _Alone) -> None:
        if alone in self._earlier:
            self._earlier.remove(alone)
        self._alone.remove(alone)

    def _take_proved(self, report: KernelLine, key: _Key, message: str, within_us: int) -> Told | None:
        near = self._told.near(key.shelf, _stamp(report), within_us)
        return self._take_nearest(
            report, [each for each in near if each.is_proved and message in each.message]
        )

    def _take_unproved(self, report: KernelLine, key: _Key) -> Told | None:
        near = self._told.near(key.shelf, _stamp(report), PROVES_US)
        named = [each for each in near if names_at(report, each.line.text, self._printed_us(each.line))]
        return self._take_nearest(report, [each for each in named if not each.is_proved])

    def _take_nearest(self, report: KernelLine, possible: Iterable[Told]) -> Told | None:
        stamp = _stamp(report)
        nearest = min(possible, key=lambda told: abs(self._printed_us(told.line) - stamp), default=None)
        if nearest is not None:
            self._told.remove(nearest)
        return nearest

    def stand_alone(self, report: KernelLine) -> KernelLine:
        """Its word as a line of its own; the log may yet show the line."""
        line, stamp = self.as_line(report), _stamp(report)
        # The driver speaks after it has printed, and never before.
        ahead = Ahead(line, stamp, _NEAR_US)
        key = _key(report.text)
        if key is not None:
            self._alone.add(key.shelf, stamp, report.arrival_us, _Alone(ahead, key.message))
        return line

    def as_line(self, report: KernelLine) -> KernelLine:
        """Its word under an estimate of the log's time, where the log has shown the line already."""
        stamp = _stamp(report)
        kernel_us = self._clock.kernel_us(stamp)
        return replace(report, kernel_us=stamp if kernel_us is None else kernel_us)

    def _printed_us(self, line: KernelLine) -> int:
        """When a line was printed, by CLOCK_MONOTONIC; when it was read, where the log's clock is unknown."""
        if line.printed_us is not None:
            return line.printed_us
        printed_us = None if line.kernel_us is None else self._clock.monotonic_us(line.kernel_us)
        return line.arrival_us if printed_us is None else printed_us


def _key(text: str) -> _Key | None:
    found = _SAME_TEXT.search(text)
    if found is None:
        return None
    kind, device, code = found.groups()
    return _Key(f"{kind} {device.lower()} {int(code)}", text[found.end() :])


def _may_be_about(report: KernelLine, printed: _Key, printed_us: int) -> bool:
    said = _key(report.text)
    is_same_fault = said is not None and said.shelf == printed.shelf and said.message in printed.message
    return is_same_fault and abs(_stamp(report) - printed_us) <= _NEAR_US


def _is_of(alone: _Alone, line: KernelLine, key: _Key) -> bool:
    known = _key(alone.ahead.line.text)
    is_same_fault = known is not None and known.shelf == key.shelf and alone.message in key.message
    return is_same_fault and _apart(alone, line) <= alone.ahead.tolerance_us


def _apart(alone: _Alone, line: KernelLine) -> int:
    return abs((alone.ahead.line.kernel_us or 0) - (line.kernel_us or 0))


def _stamp(report: KernelLine) -> int:
    return report.arrival_us if report.kernel_us is None else report.kernel_us
