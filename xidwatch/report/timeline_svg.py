"""The timeline as a picture: one lane a device, one mark an event, drawn as inline SVG without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from daemon.event import Event, Severity
from xidwatch.event_row import what
from xidwatch.report.summary import Report, moment

COLOURS = {
    Severity.FATAL: "#b00020",
    Severity.CRITICAL: "#e65100",
    Severity.WARNING: "#c79100",
    Severity.INFO: "#5c6f82",
}
_WIDTH, _LEFT, _RIGHT, _TOP, _LANE = 960, 190, 20, 14, 30
_MOST_LANES = 24
_MOST_MARKS = 2000
_TICKS = 5


def draw(report: Report) -> str:
    """One `<svg>` element; "" when there is nothing to draw."""
    events = report.timeline[-_MOST_MARKS:]
    if not events:
        return ""
    lanes = [device.pci for device in report.devices[:_MOST_LANES]]
    labels = [device.label for device in report.devices[:_MOST_LANES]]
    if any(event.device not in lanes for event in events):
        lanes.append("")
        labels.append("other")
    first = min(event.time_us for event in events)
    last = max(first + 1_000_000, *(event.last_time_us for event in events))
    height = _TOP + _LANE * len(lanes) + 34

    def x(time_us: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (time_us - first) / (last - first)

    body = [
        *_axis(first, last, height - 34),
        *(_lane(label, place) for place, label in enumerate(labels)),
        *_boots(report, first, last, height - 34),
    ]
    for event in sorted(events, key=lambda event: event.severity.rank):
        lane = lanes.index(event.device) if event.device in lanes else len(lanes) - 1
        left, right = x(event.time_us), x(event.last_time_us)
        body.append(_mark(event, left, right, _TOP + _LANE * lane + _LANE / 2))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="timeline of events by device">'
        + "".join(body)
        + "</svg>"
    )


def _lane(label: str, place: int) -> str:
    y = _TOP + _LANE * place + _LANE / 2
    return (
        f'<line class="lane" x1="{_LEFT}" y1="{y:g}" x2="{_WIDTH - _RIGHT}" y2="{y:g}"/>'
        f'<text x="0" y="{y + 4:g}">{escape(label[:28])}</text>'
    )


def _mark(event: Event, left: float, right: float, y: float) -> str:
    colour = COLOURS[event.severity]
    title = escape(
        f"{moment(event.time_us, estimate=event.time_is_estimate)} {event.severity} {what(event)} "
        f"×{event.count}: {event.summary}"
    )
    shape = f'<circle cx="{left:.1f}" cy="{y:g}" r="6"/>'
    if right - left > 12:  # it went on happening: a bar from the first time to the last
        shape = f'<rect x="{left - 5:.1f}" y="{y - 5:g}" width="{right - left + 10:.1f}" height="10" rx="5"/>'
    opacity = ' fill-opacity="0.35"' if event.drill else ' fill-opacity="0.85"'
    return f'<g fill="{colour}"{opacity}><title>{title}</title>{shape}</g>'


def _axis(first: int, last: int, bottom: int) -> Iterator[str]:
    pattern = "%m-%d %H:%M" if last - first > 3_600_000_000 else "%H:%M:%S"
    for tick in range(_TICKS):
        at = first + (last - first) * tick // (_TICKS - 1)
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * tick / (_TICKS - 1)
        anchor = "end" if tick == _TICKS - 1 else "middle"
        text = datetime.fromtimestamp(at // 1_000_000, UTC).strftime(pattern)
        yield f'<line class="tick" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="{anchor}">{text}Z</text>'


def _boots(report: Report, first: int, last: int, bottom: int) -> Iterator[str]:
    """A line where another boot begins."""
    starts: Sequence[int] = [
        boot.first_wall_us for boot in report.coverage.boots if boot.first_wall_us is not None
    ]
    for start in starts[:200]:
        if first < start < last:
            x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (start - first) / (last - first)
            yield (
                f'<line class="boot" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}">'
                f"<title>another boot begins: {moment(start)}</title></line>"
            )
