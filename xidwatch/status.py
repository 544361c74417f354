"""`xidwatch status`: one look at the daemon: what it hears, what it keeps, whom it serves.

Exit code 0 when a daemon answers and at least one live source hears, 1 when not: "no errors" and
"could not look" must differ for a script too. Standard library only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from daemon.text import clean
from xidwatch import socket_client
from xidwatch.terminal import Style, columns, for_stream, print_error

NOT_WELL = 1


def run(path: Path | None, *, as_json: bool) -> int:
    """Print the state of the daemon at `path`, or at the default sockets. Raises UserError."""
    try:
        state = socket_client.status(path)
    except socket_client.NoDaemonError as error:
        print_error(error)
        if as_json:
            print(json.dumps({"error": error.message, "hint": error.hint}))
        return NOT_WELL
    try:
        hears = any(probe["hears"] and probe["live"] for probe in state["probes"])
        text = json.dumps(state) if as_json else "\n".join(render(state, for_stream(sys.stdout)))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise socket_client.not_understood() from None
    print(text)
    return 0 if hears else NOT_WELL


def render(state: Mapping[str, Any], style: Style) -> list[str]:
    """The lines for a person, from the daemon's JSON object."""
    bold, newest = style.bold, state["newest_cursor"]
    kept = f"cursors {state['oldest_cursor']} to {newest}" if newest else "no event yet"
    rows = [
        [bold("node"), _text(state["node"])],
        [bold("daemon"), f"xidwatch {_text(state['version'])}, up for {duration(state['uptime_s'])}"],
        [bold("listens"), f"{_text(state['listen'])} and {_text(state['socket'])}"],
        [bold("driver"), _text(state["driver_version"] or "not known yet")],
        [bold("mode"), _mode(state, style)],
        *[[bold("probe"), _probe(probe, style)] for probe in state["probes"]],
        [bold("tracker"), _tracker(state["tracker"], style)],
        *[[bold("rights"), line] for line in _rights(state.get("privileges"))],
        *[[bold("gpu"), line] for line in _gpus(state["gpu"], style)],
        *[[bold("absent"), style.dim(_absent(part))] for part in state["unavailable"]],
        [bold("journal"), _journal(state["journal"], style)],
        [bold("events"), kept],
        [bold("clients"), f"{_counts(state['clients'])} (this command is one)"],
        [bold("counters"), _counts(state["counters"]) or "all 0"],
    ]
    return columns(rows)


def duration(seconds: float) -> str:
    """`3d 4h`, `4h 12m`, `12m 5s`, `5s`: the two largest units."""
    parts: list[str] = []
    seconds = int(seconds)
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        amount, seconds = divmod(seconds, size)
        if amount or parts or unit == "s":
            parts.append(f"{amount}{unit}")
    return " ".join(parts[:2])


def _mode(state: Mapping[str, Any], style: Style) -> str:
    drills = style.yellow("drills allowed") if state["drills_allowed"] else "drills not allowed"
    return f"{_text(state['mode'])}, {drills}"


def _probe(probe: Mapping[str, Any], style: Style) -> str:
    name = _text(probe["name"])
    counts = _counts(probe["counters"])
    counted = style.dim(f" ({counts})") if counts else ""
    note = f"; {_text(probe['note'])}" if probe.get("note") else ""
    hint = f" ({_text(probe['hint'])})" if probe["hint"] else ""
    cause = f" ({_text(probe['cause'])})" if probe.get("cause") else ""
    reason = f"{_text(probe['reason'] or 'no reason given')}{hint}"
    match probe["state"]:
        case "ok":
            return f"{name} {style.green('hears')}{counted}{note}"
        case "degraded":
            return f"{name} {style.yellow('hears in part')}: {reason}{counted}{note}"
        case "released":
            return f"{name} {style.yellow('released')}: {reason}"
        case _:
            return f"{name} {style.red('does not hear')}{cause}: {reason}"


def _tracker(tracker: Mapping[str, Any], style: Style) -> str:
    """Whether it is told how processes end, and what of that this kernel does not show."""
    if not tracker["runs"]:
        hint = f" ({_text(tracker['hint'])})" if tracker["hint"] else ""
        reason = _text(tracker["reason"] or "no reason given")
        return f"{style.yellow('not told how processes end')}: {reason}{hint}"
    counts = _counts(tracker["counters"])
    blind = "".join(f"; not known here: {_text(each)}" for each in tracker["blind_to"])
    return f"{style.green('told how processes end')}{style.dim(f' ({counts})') if counts else ''}{blind}"


def _rights(privileges: Mapping[str, Any] | None) -> Iterator[str]:
    """What became of the capabilities that load eBPF programs; nothing where there were none."""
    if privileges is None or not (privileges["capabilities"] or privileges["why_kept"]):
        return
    parts = [f"gave up {_text(each)}" for each in [" and ".join(privileges["capabilities"])] if each]
    if privileges["how_again"]:
        parts.append(f"to be had again {_text(privileges['how_again'])}")
    if privileges["why_kept"]:
        parts.append(f"kept: {_text(privileges['why_kept'])}")
    yield "; ".join(parts)


def _gpus(gpu: Mapping[str, Any], style: Style) -> Iterator[str]:
    """Where readings come from, and each GPU that is lost or left alone."""
    source = _text(gpu["source"]).replace("_", " ")
    reason = f": {_text(gpu['reason'])}" if gpu["reason"] else ""
    yield f"{style.yellow('mock') if gpu['mock'] else source}{reason}; {gpu['expected']} known"
    for lost in gpu["lost"]:
        yield f"{_text(lost['pci'])} {style.red(_text(lost['presence']))} since {_text(lost['since'])}"
    for hung in {each["pci"]: each for each in gpu["hung"]}.values():
        where = _text(hung["pci"] or "the library")
        since = f"since {_text(hung['since'])}"
        yield f"{where} {style.red(_text(hung['trouble']))} in {_text(hung['call'])} {since}"
    if count := gpu["workers_abandoned"]:
        processes = f"{count} process{'es' * (count != 1)}"
        yield f"{style.yellow(processes)} left behind in calls that did not return, since the start"


def _absent(part: Mapping[str, Any]) -> str:
    return f"{_text(part['part'])}: {_text(part['reason'])}"


def _journal(journal: Mapping[str, Any], style: Style) -> str:
    state = _text(journal["state"])
    if journal["state"] == "ok":
        text = style.green(state)
    else:
        text = f"{style.red(state)}: {_text(journal['reason'])}"
    counts = _counts({name: journal[name] for name in ("unstored", "late", "lost", "failures")})
    return "; ".join([text, *([counts] if counts else []), *map(_text, journal["notes"])])


def _counts(counts: Mapping[str, Any]) -> str:
    """The counters that are not 0: `records 17, lost 3`."""
    return ", ".join(
        f"{clean(name, 40).replace('_', ' ')} {count}" for name, count in counts.items() if count
    )


def _text(value: object) -> str:
    return clean(str(value), 300)
