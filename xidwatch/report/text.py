"""The report for a terminal: aligned, coloured where the terminal takes it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace

from daemon.event import Event
from daemon.text import clean
from probes.line import Origin
from xidwatch import event_row
from xidwatch.report.summary import MOST_FINDINGS, MOST_SHOWN, Report, moment, reach
from xidwatch.terminal import Style, columns

_WIDEST = 110
_EASILY_READ = 12
_MOST_WORST = 10


def write(report: Report, style: Style) -> str:
    """The whole report, ending with a newline."""
    lines = [*textwrap.wrap(report.headline, _width()), ""]
    lines[0] = style.bold(lines[0])
    for title, section in (
        ("Incidents", _incidents(report, style)),
        ("What to do", _advice(report, style)),
        ("Worst events", _worst(report, style)),
        ("Timeline", _timeline(report, style)),
        ("By device", _devices(report, style)),
        ("What the logs cover", _coverage(report, style)),
        ("Mind that", _notes(report)),
    ):
        body = list(section)
        if body:
            lines += [style.bold(title), *body, ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _width() -> int:
    return min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)


def _wrapped(text: str, indent: str, first: str | None = None) -> list[str]:
    return textwrap.wrap(
        text, max(_width(), 40), initial_indent=indent if first is None else first, subsequent_indent=indent
    )


def _incidents(report: Report, style: Style) -> Iterator[str]:
    for finding in report.findings[:MOST_FINDINGS]:
        incident = finding.incident
        time = moment(incident.time_us, estimate=incident.time_is_estimate)
        severity = style.severity(incident.severity, incident.severity.upper())
        yield f"  {severity}  {finding.state}  {style.dim(time)}"
        yield from _wrapped(clean(incident.summary, 600), "    ")
        for label, text in finding.facts:
            yield from _wrapped(text, " " * 15, f"    {label:<11}")
        for line in finding.lines[:1]:
            yield f"    {'log':<11}{style.dim(line)}"
    if (more := len(report.findings) - MOST_FINDINGS) > 0:
        yield f"  … and {more:,} more (--format json has them all)"


def _advice(report: Report, style: Style) -> Iterator[str]:
    for number, advice in enumerate(report.advice, start=1):
        yield f"  {number}. {style.severity(advice.severity, advice.action)}  {style.dim(advice.because)}"
        yield from _wrapped(advice.text, "     ")


def _worst(report: Report, style: Style) -> Iterator[str]:
    """Only where they would be hard to find in the timeline."""
    if len(report.timeline) > _EASILY_READ:
        worst = [event for event in report.events if event.severity.rank >= 2][:_MOST_WORST]
        yield from _rows(report, worst, style)


def _rows(report: Report, events: Sequence[Event], style: Style) -> list[str]:
    """Events as lines. Where no line proves its origin a note says it once, not every row."""
    if report.coverage.unproved == report.coverage.messages:
        events = [replace(event, origin=Origin.KERNEL) for event in events]
    return columns([event_row.cells(event, style) for event in events], indent=2)


def _timeline(report: Report, style: Style) -> Iterator[str]:
    shown = report.timeline[-MOST_SHOWN:]
    if len(shown) < len(report.timeline):
        yield f"  … {len(report.timeline) - len(shown):,} earlier ones (--format json has them all)"
    yield from _rows(report, shown, style)


def _devices(report: Report, style: Style) -> Iterator[str]:
    rows = [
        [
            device.label,
            style.severity(device.worst, device.worst),
            f"{device.faults:,} ×",
            f"{moment(device.first_us)} to {moment(device.last_us)}",
            ", ".join(f"{code} ×{count:,}" for code, count in device.codes.most_common(6)),
        ]
        for device in report.devices
    ]
    yield from columns(rows, indent=2)


def _coverage(report: Report, style: Style) -> Iterator[str]:
    for label, text in reach(report):
        if text:
            first, *rest = _wrapped(text, " " * 11)
            yield f"  {style.dim(f'{label:<9}')}{first.lstrip()}"
            yield from rest


def _notes(report: Report) -> Iterator[str]:
    for note in report.notes:
        yield from _wrapped(clean(note, 600), "    ", "  - ")
