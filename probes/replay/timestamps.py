"""Wall times as saved logs write them: with or without a year, a zone, a fraction.

What a stamp leaves out is filled in, and said to be filled in:

* no year: the newest year in which the time is not ahead of the file's own time of last writing, or,
  when a year is given, that year for the first stamp and the next one each time the calendar turns back;
* no zone: the zone of the settings. An abbreviation is taken when it is UTC or one that the zone of the
  settings itself uses, for it means different things in different countries.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

SECOND_US = 1_000_000
OfDay = tuple[int, int, int, int]
"""Hour, minute, second, microsecond."""

_DAY_US = 86_400 * SECOND_US
_EARLIEST_US = -_DAY_US
"""A clock that was never set begins in 1970, in the zone of the machine."""
_LATEST_US = 2**53
"""The year 2255. Times beyond are garbage, and every JSON reader keeps this one exactly."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HALF_A_YEAR = timedelta(days=183)
"""New Year is a step back of most of a year; sections of one report, in no order, one of days."""
_MICROSECOND = timedelta(microseconds=1)

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan january januar janv enero ene sty gen",
            "feb february februar févr fév fevr febrero lut",
            "mar march märz mär mrz mars marzo",
            "apr april avr avril abr kwi",
            "may mai maj mayo mag",
            "jun june juni juin giu cze",
            "jul july juli juil lug lip",
            "aug august août aout ago sie",
            "sep sept september set wrz",
            "oct october okt oktober ott paź",
            "nov november novembre lis",
            "dec december dez dezember déc dic gru",
        ),
        start=1,
    )
    for name in names.split()
}
"""English names, and those of the languages in which journals have been seen."""

_CLOCK = re.compile(r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]{1,9}))?\Z")
_CTIME = re.compile(r"\w{3} (\w{3}) ([ 0-9][0-9]) ([0-9:]{8}) ([0-9]{4})\Z")
_MINUTE = re.compile(r"([A-Z][a-z]{2}) ?([0-9]{1,2}) ([0-9]{2}:[0-9]{2})\Z")
_ZONE_NAME = re.compile(r"(.*[0-9]) ?([A-Za-z]{1,5}|[+-][0-9]{2})\Z")


class WallTime(NamedTuple):
    """A point in time."""

    us: int
    """µs since the Unix epoch."""
    is_estimate: bool
    """The year or the zone was not in the log."""
    resolution_us: int
    """1 for a stamp in µs, a second for one in whole seconds."""


@dataclass(slots=True)
class Assumptions:
    """What had to be filled in, for the report."""

    years: int = 0
    """Times whose year was guessed."""
    zones: int = 0
    """Times without a zone, or with an abbreviation that says too little."""
    unreadable: int = 0
    """Times that no one here can read."""


class Stamps:
    """Reads the stamps of one file, in their order."""

    def __init__(
        self, *, zone: tzinfo, zone_is_given: bool, year: int | None, written_us: int, assumed: Assumptions
    ) -> None:
        """`written_us`: when the file was last written, µs since the Unix epoch."""
        self._zone = zone
        self._zone_is_given = zone_is_given
        self._year = year
        self._last_in_year: datetime | None = None
        self._not_after = _EPOCH + timedelta(microseconds=written_us + _DAY_US)  # clocks and zones differ
        self._assumed = assumed
        self._cached: tuple[str | int, WallTime | None] = ("", None)
        self._relative_us: int | None = None
        self._minute_text = ""
        self._minute_time = WallTime(0, True, SECOND_US)

    def read(self, stamp: str | int) -> WallTime | None:
        """The time of a stamp; None when it cannot be read."""
        if isinstance(stamp, int):
            return self._possible(WallTime(stamp, False, 1))
        if stamp == self._cached[0]:
            return self._cached[1]
        time = self._possible(self._within_minute(stamp) or self._parse(stamp))
        if "+" not in stamp[:6]:  # the steps of `dmesg -e` add up: the same text is another time
            self._cached = (stamp, time)
        return time

    def _possible(self, time: WallTime | None) -> WallTime | None:
        """The time, if it is one that a clock could have had."""
        if time is not None and _EARLIEST_US <= time.us <= _LATEST_US:
            return time
        self._assumed.unreadable += 1
        return None

    def _within_minute(self, stamp: str) -> WallTime | None:
        """A `Nov 22 14:56:44 ` of the same minute as the one parsed last: most lines of a syslog file."""
        if stamp[-4:-3] != ":" or stamp[-1] != " ":
            return None
        minute, seconds = stamp[:-3], int(stamp[-3:-1])
        if minute != self._minute_text:
            time = self._parse(f"{minute}00 ")
            if time is None:
                return None
            self._minute_text, self._minute_time = minute, time
        began = self._minute_time
        return WallTime(began.us + min(seconds, 59) * SECOND_US, began.is_estimate, SECOND_US)

    def _parse(self, stamp: str) -> WallTime | None:
        readers: tuple[Callable[[str], WallTime | None], ...]
        if stamp[:4].isdigit():
            readers = (self._iso,)
        elif stamp.lstrip().startswith("+"):
            readers = (self._step,)
        else:
            readers = (self._month_day, self._ctime, self._minute)
        for reader in readers:
            try:
                if (time := reader(stamp)) is not None:
                    return time
            except (ValueError, OverflowError):
                continue
        return None

    def _iso(self, stamp: str) -> WallTime | None:
        zone_name = ""
        try:
            moment = datetime.fromisoformat(stamp.replace(",", "."))
        except ValueError:
            match = _ZONE_NAME.match(stamp)
            if match is None:
                return None
            moment, zone_name = datetime.fromisoformat(match[1].strip()), match[2]
            if zone_name[0] in "+-":
                moment = datetime.fromisoformat(f"{match[1].strip()}{zone_name}:00")
        resolution = 1 if "." in stamp or "," in stamp else SECOND_US
        if moment.tzinfo is not None:
            return WallTime(_us(moment), False, resolution)
        return self._in_zone(moment, resolution, zone_name)

    def _month_day(self, stamp: str) -> WallTime | None:
        words = stamp.split()
        if len(words) not in (3, 4):
            return None
        month = _month(words[0])
        clock = _CLOCK.match(words[-1])
        if month is None or clock is None:
            return None
        fraction = int(f"{clock[4] or '':0<6}"[:6])
        of_day = (int(clock[1]), int(clock[2]), min(int(clock[3]), 59), fraction)
        day = int(words[1])
        resolution = 1 if clock[4] else SECOND_US
        if len(words) == 4:
            return self._in_zone(_next_valid(int(words[2]), month, day, of_day, step=1), resolution)
        moment = self._with_year(month, day, of_day)
        return self._in_zone(moment, resolution, year_is_guessed=self._year is None)

    def _with_year(self, month: int, day: int, clock: OfDay) -> datetime:
        if self._year is not None:
            moment = _next_valid(self._year, month, day, clock, step=1)
            last = self._last_in_year
            if last is not None and moment < last - _HALF_A_YEAR:
                self._year += 1
                moment = _next_valid(self._year, month, day, clock, step=1)
            self._last_in_year = moment
            return moment
        moment = _next_valid(self._not_after.year, month, day, clock, step=-1)
        if moment.replace(tzinfo=self._zone) > self._not_after:
            moment = _next_valid(moment.year - 1, month, day, clock, step=-1)
        return moment

    def _ctime(self, stamp: str) -> WallTime | None:
        match = _CTIME.match(stamp)
        return self._month_day(f"{match[1]} {match[2]} {match[4]} {match[3]}") if match else None

    def _minute(self, stamp: str) -> WallTime | None:
        """`Feb27 15:10`, which begins a run of steps in `dmesg -e`."""
        match = _MINUTE.match(stamp)
        if match is None:
            return None
        time = self._month_day(f"{match[1]} {match[2]} {match[3]}:00")
        self._relative_us = time.us if time else None
        return time and time._replace(is_estimate=True)

    def _step(self, stamp: str) -> WallTime | None:
        if self._relative_us is None:
            return None
        self._relative_us += int(stamp.strip().lstrip("+").replace(".", ""))
        return WallTime(self._relative_us, True, 1)

    def _in_zone(
        self, moment: datetime, resolution: int, name: str = "", *, year_is_guessed: bool = False
    ) -> WallTime:
        zone, known = self._zone, self._zone_is_given
        if name.upper() in ("UTC", "GMT", "Z"):
            zone, known = UTC, True
        elif name:
            known = moment.replace(tzinfo=zone).tzname() == name
        self._assumed.years += year_is_guessed
        self._assumed.zones += not known
        return WallTime(_us(moment.replace(tzinfo=zone)), year_is_guessed or not known, resolution)


def _next_valid(year: int, month: int, day: int, clock: OfDay, *, step: int) -> datetime:
    """That day in `year`, or in the nearest year that has it: 29 February. Raises ValueError."""
    hour, minute, second, fraction = clock
    for candidate in range(year, year + 9 * step, step):
        try:
            return datetime(candidate, month, day, hour, minute, second, fraction)
        except ValueError:
            if (month, day) != (2, 29):
                raise
    raise ValueError(f"no such day: {month}-{day}")


def _month(name: str) -> int | None:
    if name.endswith("月"):
        return int(name[:-1])
    return _MONTHS.get(name.rstrip(".").lower())


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
