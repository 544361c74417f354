"""The timeline as a picture: one lane a device, a mark for each event or for several that
lie close together, drawn as inline SVG without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple

from daemon.event import Event, Severity
from daemon.text import clean
from probes.replay.timestamps import SECOND_US
from xidwatch.event_row import what
from xidwatch.report.summary import Report, moment

_WIDTH, _LEFT, _RIGHT, _TOP, _LANE = 960, 190, 20, 14, 30
_MOST_LANES = 24
_MOST_EVENTS = 5000
_MOST_LABEL = 28
_MOST_TOLD = 12
_TICKS = 5
_CLOSE = 12.0
"""Marks closer than this would cover each other."""
_BETWEEN_BOOTS = 3.0
_DAY_US = 86_400 * SECOND_US


class Mark(NamedTuple):
    """Events of one lane that are too close together for a mark each."""

    events: Sequence[Event]
    left: float
    right: float
    """Where the last of them ends."""

    @property
    def worst(self) -> Event:
        """The event that gives the mark its colour."""
        return max(self.events, key=lambda event: (not event.drill, event.severity.rank))


def draw(report: Report) -> str:
    """One `<svg>` element; "" when there is nothing to draw."""
    events = report.timeline[-_MOST_EVENTS:]
    if not events:
        return ""
    lanes = [device.pci for device in report.devices[:_MOST_LANES]]
    labels = [device.label for device in report.devices[:_MOST_LANES]]
    if any(event.device not in lanes for event in events):
        lanes.append("")
        labels.append("other")
    first = min(event.time_us for event in events)
    last = max(first + SECOND_US, *(event.last_time_us for event in events))
    bottom = _TOP + _LANE * len(lanes)

    def x(time_us: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (time_us - first) / (last - first)

    by_lane: list[list[Event]] = [[] for _ in lanes]
    for event in events:
        by_lane[lanes.index(event.device) if event.device in lanes else -1].append(event)
    body = [
        *_axis(first, last, bottom),
        *(_lane(label, place) for place, label in enumerate(labels)),
        *_boots(report, first, last, x, bottom),
        *(
            _drawn(mark, _TOP + _LANE * place + _LANE / 2)
            for place, of_lane in enumerate(by_lane)
            for mark in _marks(of_lane, x)
        ),
        *_legend(bottom + 46, has_boots=len(report.coverage.boots) > 1),
    ]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {bottom + 60}" role="img" aria-label="timeline of events by device">'
        + "".join(body)
        + "</svg>"
    )


def _lane(label: str, place: int) -> str:
    y = _TOP + _LANE * place + _LANE / 2
    return (
        f'<line class="lane" x1="{_LEFT}" y1="{y:g}" x2="{_WIDTH - _RIGHT}" y2="{y:g}"/>'
        f'<text x="0" y="{y + 4:g}">{escape(label[:_MOST_LABEL])}</text>'
    )


def _marks(events: Sequence[Event], x: Callable[[int], float]) -> Iterator[Mark]:
    """One mark for events that would cover each other. A repeated fault keeps its own bar."""
    near: list[Event] = []
    for event in events:
        is_bar = x(event.last_time_us) - x(event.time_us) > _CLOSE
        if near and (is_bar or x(event.time_us) - x(near[0].time_us) > _CLOSE):
            yield _mark(near, x)
            near = []
        if is_bar:
            yield _mark([event], x)
        else:
            near.append(event)
    if near:
        yield _mark(near, x)


def _mark(events: Sequence[Event], x: Callable[[int], float]) -> Mark:
    return Mark(tuple(events), x(events[0].time_us), x(max(event.last_time_us for event in events)))


def _drawn(mark: Mark, y: float) -> str:
    worst, count = mark.worst, len(mark.events)
    told = [_told(event) for event in mark.events[:_MOST_TOLD]]
    if count > _MOST_TOLD:
        told.append(f"… and {count - _MOST_TOLD:,} more")
    name = f"{worst.severity}{' drill' if worst.drill else ''}"
    title = escape("\n".join(told))
    if (
        count == 1 and mark.right - mark.left > _CLOSE
    ):  # it went on happening: from the first time to the last
        width = mark.right - mark.left + 10
        shape = f'<rect x="{mark.left - 5:.1f}" y="{y - 5:g}" width="{width:.1f}" height="10" rx="5"/>'
        return f'<g class="{name}"><title>{title}</title>{shape}</g>'
    at = (mark.left + mark.right) / 2
    radius = 5 if count == 1 else 7 if count < 100 else 9
    shape = f'<circle cx="{at:.1f}" cy="{y:g}" r="{radius}"/>'
    if count > 1:
        shape += f'<text class="n" x="{at:.1f}" y="{y + 3:g}" text-anchor="middle">{count}</text>'
    return f'<g class="{name}"><title>{title}</title>{shape}</g>'


def _told(event: Event) -> str:
    time = moment(event.time_us, estimate=event.time_is_estimate)
    times = f" ×{event.count:,}" if event.count > 1 else ""
    return clean(f"{time} {event.severity} {what(event)}{times}: {event.summary}", 300)


def _legend(y: float, *, has_boots: bool) -> Iterator[str]:
    at = float(_LEFT)
    for severity in sorted(Severity, key=lambda each: -each.rank):
        yield f'<g class="{severity}"><circle cx="{at:g}" cy="{y:g}" r="5"/></g>'
        yield f'<text x="{at + 9:g}" y="{y + 4:g}">{severity}</text>'
        at += 80
    yield f'<text x="{at:g}" y="{y + 4:g}">a number: so many events, the worst gives the colour</text>'
    if has_boots:
        yield f'<line class="boot" x1="{at + 330:g}" y1="{y - 7:g}" x2="{at + 330:g}" y2="{y + 7:g}"/>'
        yield f'<text x="{at + 337:g}" y="{y + 4:g}">boot</text>'


def _axis(first: int, last: int, bottom: int) -> Iterator[str]:
    pattern = "%Y-%m-%d %H:%M" if last - first > _DAY_US else "%m-%d %H:%M:%S"
    for tick in range(_TICKS):
        at = first + (last - first) * tick // (_TICKS - 1)
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * tick / (_TICKS - 1)
        anchor = "end" if tick == _TICKS - 1 else "middle"
        text = datetime.fromtimestamp(at // SECOND_US, UTC).strftime(pattern)
        yield f'<line class="tick" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="{anchor}">{text}Z</text>'


def _boots(report: Report, first: int, last: int, x: Callable[[int], float], bottom: int) -> Iterator[str]:
    """A line where another boot begins."""
    drawn = -_CLOSE
    for start in sorted(boot.first_wall_us or 0 for boot in report.coverage.boots):
        if not first < start < last or x(start) - drawn < _BETWEEN_BOOTS:
            continue
        drawn = x(start)
        yield (
            f'<line class="boot" x1="{drawn:.1f}" y1="{_TOP}" x2="{drawn:.1f}" y2="{bottom}">'
            f"<title>another boot begins: {moment(start)}</title></line>"
        )
