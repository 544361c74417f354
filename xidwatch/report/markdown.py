"""The report as Markdown (GitHub's flavour), to be pasted into a ticket."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from daemon.event import Event
from daemon.text import clean
from xidwatch.event_row import what
from xidwatch.report.summary import MOST_FINDINGS, MOST_SHOWN, Report, moment, reach, title, where

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!])")
_MOST_LINES = 4


def write(report: Report) -> str:
    """The whole report, ending with a newline."""
    sections: list[tuple[str, Iterator[str]]] = [
        ("Incidents", _incidents(report)),
        ("What to do", _advice(report)),
        ("Timeline", _timeline(report.timeline)),
        ("By device", _devices(report)),
        ("The lines that show the worst", _lines(report)),
        ("What the logs cover", _coverage(report)),
        ("Mind that", (f"- {escape(note)}" for note in report.notes)),
    ]
    parts = [f"# {escape(title(report))}", f"**{escape(report.headline)}**"]
    for heading, section in sections:
        body = "\n".join(section)
        if body:
            parts += [f"## {heading}", body]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is: log text must not become a link, a mention or HTML."""
    return _SPECIAL.sub(r"\\\1", clean(text, 1024)).replace("@", "@\u2060")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    body = [f"| {' | '.join(row)} |" for row in rows]
    if body:
        yield f"| {' | '.join(head)} |"
        yield f"|{' --- |' * len(head)}"
        yield from body


def _incidents(report: Report) -> Iterator[str]:
    for finding in report.findings[:MOST_FINDINGS]:
        incident = finding.incident
        time = moment(incident.time_us, estimate=incident.time_is_estimate)
        yield f"- **{incident.severity}**, {finding.state}, {escape(time)}: {escape(incident.summary)}"
        for label, text in finding.facts:
            yield f"  - {label}: {escape(text)}"
    if (more := len(report.findings) - MOST_FINDINGS) > 0:
        yield f"- … and {more:,} more; `--format json` has them all"


def _advice(report: Report) -> Iterator[str]:
    for number, advice in enumerate(report.advice, start=1):
        yield f"{number}. **{escape(advice.action)}** ({escape(advice.because)}): {escape(advice.text)}"


def _timeline(events: Sequence[Event]) -> Iterator[str]:
    shown = events[-MOST_SHOWN:]
    if len(shown) < len(events):
        yield f"The last {len(shown)} of {len(events):,} events.\n"
    yield from _table(
        ("time", "severity", "what", "where", "process", "times", "meaning"),
        (
            (
                escape(moment(event.time_us, estimate=event.time_is_estimate)),
                f"{event.severity}{' (drill)' if event.drill else ''}",
                escape(what(event)),
                escape(where(event).removeprefix(" on ")),
                escape(_process(event)),
                str(event.count),
                escape(event.summary),
            )
            for event in shown
        ),
    )


def _process(event: Event) -> str:
    if event.process is None:
        return ""
    pid = "" if event.process.pid is None else f" {event.process.pid}"
    return f"{event.process.name or ''}{pid}".strip()


def _devices(report: Report) -> Iterator[str]:
    yield from _table(
        ("device", "UUID", "worst", "faults", "first", "last", "codes"),
        (
            (
                escape(device.label),
                escape(device.uuid or ""),
                device.worst,
                f"{device.faults:,}",
                escape(moment(device.first_us)),
                escape(moment(device.last_us)),
                ", ".join(f"{escape(code)} ×{count:,}" for code, count in device.codes.most_common(8)),
            )
            for device in report.devices
        ),
    )


def _lines(report: Report) -> Iterator[str]:
    lines = next((finding.lines for finding in report.findings if finding.lines), ())
    worst = next((event.lines for event in report.events if event.lines), ())
    # Indented code, because no text in it can end it.
    yield from (f"    {clean(line, 400)}" for line in (lines or worst)[:_MOST_LINES])


def _coverage(report: Report) -> Iterator[str]:
    yield from (f"- {label}: {escape(text)}" for label, text in reach(report) if text)
