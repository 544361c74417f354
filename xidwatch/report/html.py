"""The report as one HTML page that needs nothing else: no script, no font, no picture from outside.

Its Content-Security-Policy allows inline styles and nothing more, so that log text could do no harm
even where escaping it were forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from daemon.event import Event, Severity
from daemon.text import clean
from xidwatch.event_row import what
from xidwatch.report.finding import Finding
from xidwatch.report.summary import MOST_FINDINGS, MOST_SHOWN, Report, moment, reach, title, where
from xidwatch.report.timeline_svg import draw

_MOST_LINES = 8
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root{color-scheme:light dark;font:15px/1.5 system-ui,sans-serif;
--fatal:#b00020;--critical:#c04000;--warning:#8a6500;--info:#5c6f82}
@media (prefers-color-scheme:dark){:root{--fatal:#ff7a8a;--critical:#ffa066;--warning:#e3bf45;--info:#9fb3c8}}
body{max-width:70rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #8884}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;min-width:46rem;overflow-wrap:break-word}
td,th{text-align:left;padding:.25rem .6rem;vertical-align:top;border-bottom:1px solid #8883}
td.p{overflow-wrap:anywhere;min-width:6rem;max-width:14rem}td.m{min-width:18rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem;margin:.3rem 0}
.s{font-weight:600;white-space:nowrap}time{white-space:nowrap}li{margin:.3rem 0}
.i{border-left:4px solid #8886;padding:.1rem .9rem;margin:1rem 0}.i p{margin:.2rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .8rem;margin:.3rem 0;font-size:.9rem}
dt{opacity:.7}dd{margin:0}details summary{cursor:pointer}
svg{width:100%;min-width:56rem;height:auto;display:block}svg text{font-size:12px;fill:currentColor}
svg .lane,svg .tick{stroke:currentColor;stroke-opacity:.15}svg .n{font-size:9px;font-weight:600;fill:Canvas}
svg .boot{stroke:currentColor;stroke-dasharray:4 3;stroke-opacity:.6}svg .drill{fill-opacity:.4}
""" + "".join(
    f".s.{each}{{color:var(--{each})}}svg .{each}{{fill:var(--{each})}}"
    f".i.{each}{{border-color:var(--{each})}}\n"
    for each in Severity
)


def write(report: Report) -> str:
    """The whole page."""
    heading = _text(title(report))
    sections = [
        ("What to do", _list("ol", _advice(report))),
        ("Timeline", _wide(draw(report))),
        ("Incidents", _incidents(report)),
        ("Events, worst first", _events(report.events)),
        ("By device", _devices(report)),
        ("What the logs cover", _coverage(report)),
        ("Mind that", _list("ul", (_text(note, 600) for note in report.notes))),
    ]
    body = "".join(f"<h2>{name}</h2>{content}" for name, content in sections if content)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{heading}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{heading}</h1>"
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


def _wide(content: str) -> str:
    """What is scrolled sideways where the window is narrow."""
    return f'<div class="wide">{content}</div>' if content else ""


_CLASS_OF = {"process": "p", "meaning": "m", "codes": "m"}
"""Columns that need a width of their own, by their head."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    classes = [f' class="{_CLASS_OF[name]}"' if name in _CLASS_OF else "" for name in head]
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(classes, row, strict=True)) + "</tr>"
        for row in rows
    )
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    return _wide(f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>") if body else ""


def _incidents(report: Report) -> str:
    found = "".join(_incident(finding) for finding in report.findings[:MOST_FINDINGS])
    more = len(report.findings) - MOST_FINDINGS
    return found + (f"<p>… and {more:,} more; --format json has them all.</p>" if more > 0 else "")


def _incident(finding: Finding) -> str:
    incident = finding.incident
    facts = "".join(f"<dt>{label}</dt><dd>{escape(text)}</dd>" for label, text in finding.facts)
    lines = escape("\n".join(finding.lines))
    return (
        f'<div class="i {incident.severity}">'
        f"<p>{_severity(incident)} {escape(finding.state)} {_time(incident)}"
        f"<br>{_text(incident.summary, 600)}</p><dl>{facts}</dl>"
        + (f"<pre>{lines}</pre>" if lines else "")
        + "</div>"
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


def _coverage(report: Report) -> str:
    facts = "".join(f"<dt>{label}</dt><dd>{escape(text)}</dd>" for label, text in reach(report) if text)
    return f"<dl>{facts}</dl>" if facts else ""
