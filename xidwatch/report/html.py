"""The report as one HTML page that needs nothing else: no script, no font, no picture from outside.

Its Content-Security-Policy allows inline styles and nothing more, so that log text could do no harm
even where escaping it were forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from daemon.event import Event
from daemon.text import clean
from xidwatch.event_row import what
from xidwatch.report.summary import MOST_SHOWN, Report, moment, state, where
from xidwatch.report.timeline_svg import COLOURS, draw

_MOST_LINES = 8
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root{color-scheme:light dark;font:15px/1.5 system-ui,sans-serif}
body{max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #8884}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .6rem;vertical-align:top;
border-bottom:1px solid #8883}td.n{text-align:right}pre{white-space:pre-wrap;font-size:.8rem;margin:.3rem 0}
.s{font-weight:600;white-space:nowrap}time{white-space:nowrap}svg{width:100%;height:auto}
svg text{font-size:12px;fill:currentColor}svg .lane,svg .tick{stroke:currentColor;stroke-opacity:.15}
svg .boot{stroke:currentColor;stroke-dasharray:4 3;stroke-opacity:.6}details summary{cursor:pointer}
""" + "".join(f".{severity}{{color:{colour}}}" for severity, colour in COLOURS.items())


def write(report: Report) -> str:
    """The whole page."""
    sections = [
        ("Timeline", draw(report)),
        ("Incidents", "".join(_incidents(report))),
        ("What to do", _list("ol", _advice(report))),
        ("Events, worst first", _events(report.events)),
        ("By device", _devices(report)),
        ("What the logs cover", _list("ul", _coverage(report))),
        ("Mind that", _list("ul", (_text(note, 600) for note in report.notes))),
    ]
    body = "".join(f"<h2>{title}</h2>{content}" for title, content in sections if content)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width"><title>NVIDIA faults in saved logs</title>'
        f"<style>{_STYLE}</style></head><body><h1>NVIDIA faults in saved logs</h1>"
        f"<p><strong>{_text(report.headline, 600)}</strong></p>{body}</body></html>\n"
    )


def _text(text: str, limit: int = 300) -> str:
    return escape(clean(text, limit))


def _severity(event: Event) -> str:
    drill = " (drill)" if event.drill else ""
    return f'<span class="s {event.severity}">{event.severity}{drill}</span>'


def _time(event: Event) -> str:
    return f"<time>{moment(event.time_us, estimate=event.time_is_estimate)}</time>"


def _list(tag: str, items: Iterable[str]) -> str:
    found = "".join(f"<li>{item}</li>" for item in items)
    return f"<{tag}>{found}</{tag}>" if found else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def _incidents(report: Report) -> Iterator[str]:
    for incident in report.incidents[:MOST_SHOWN]:
        yield (
            f"<p>{_severity(incident)} {_text(state(incident))} {_time(incident)}"
            f"<br>{_text(incident.summary, 600)}</p>"
        )


def _advice(report: Report) -> Iterator[str]:
    for advice in report.advice:
        yield (
            f'<span class="s {advice.severity}">{_text(advice.action)}</span> '
            f"({_text(advice.because)}): {_text(advice.text, 600)}"
        )


def _events(events: Sequence[Event]) -> str:
    rows = (
        (
            _time(event),
            _severity(event),
            _text(what(event)),
            _text(where(event).removeprefix(" on ")),
            _text(_process(event)),
            f"{event.count:,}",
            f"{_text(event.summary)}{_log_lines(event)}",
        )
        for event in events[:MOST_SHOWN]
    )
    table = _table(("time", "severity", "what", "where", "process", "times", "meaning"), rows)
    more = len(events) - MOST_SHOWN
    return table + (f"<p>… and {more:,} more; --format json has them all.</p>" if more > 0 else "")


def _log_lines(event: Event) -> str:
    if not event.lines:
        return ""
    lines = "\n".join(_text(line, 400) for line in event.lines[:_MOST_LINES])
    return f"<details><summary>log lines, origin {_text(event.origin)}</summary><pre>{lines}</pre></details>"


def _process(event: Event) -> str:
    if event.process is None:
        return ""
    pid = "" if event.process.pid is None else f" {event.process.pid}"
    return f"{event.process.name or ''}{pid}".strip()


def _devices(report: Report) -> str:
    return _table(
        ("device", "UUID", "worst", "faults", "first", "last", "codes"),
        (
            (
                _text(device.label),
                _text(device.uuid or ""),
                f'<span class="s {device.worst}">{device.worst}</span>',
                f"{device.faults:,}",
                moment(device.first_us),
                moment(device.last_us),
                ", ".join(f"{_text(code)} ×{count:,}" for code, count in device.codes.most_common(8)),
            )
            for device in report.devices
        ),
    )


def _coverage(report: Report) -> Iterator[str]:
    coverage = report.coverage
    if (span := report.span_us) is not None:
        yield f"from {moment(span[0])} to {moment(span[1])}, {len(coverage.boots):,} boots"
    unread = coverage.lines - coverage.understood
    yield f"{coverage.lines:,} lines read, {unread:,} not understood, {coverage.messages:,} the driver's"
    if coverage.formats:
        yield "formats: " + _text(
            ", ".join(f"{name} ({count:,})" for name, count in coverage.formats.most_common())
        )
    yield "files: " + ", ".join(_text(file.name, 120) for file in coverage.files[:20])
