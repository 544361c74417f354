"""`xidwatch status`: one look at the daemon: what it hears, what it keeps, whom it serves.

Exit code 0 when a daemon answers and at least one live source hears, 1 when not: "no errors" and
"could not look" must differ for a script too. `--ready` says only that, in one line: what a container engine
or a kubelet asks every few seconds. Standard library only.
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


def run(path: Path | None, *, as_json: bool = False, ready: bool = False) -> int:
    """Print the state of the daemon at `path`, or at the default sockets; `ready`: only whether it hears.

    Raises UserError.
    """
    try:
        state = socket_client.status(path)
    except socket_client.NoDaemonError as error:
        print_error(error)
        if as_json:
            print(json.dumps({"error": error.message, "hint": error.hint}))
        return NOT_WELL
    try:
        hears = any(probe["hears"] and probe["live"] for probe in state["probes"])
        if as_json:
            text = json.dumps(state)
        elif ready:
            text = readiness(state)
        else:
            text = "\n".join(render(state, for_stream(sys.stdout)))
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
        *[[bold("door"), line] for line in _door(state.get("access"), style)],
        *[[bold("tls"), line] for line in _tls(state.get("tls"), style)],
        [bold("driver"), _text(state["driver_version"] or "not known yet")],
        [bold("mode"), _mode(state, style)],
        *[[bold("probe"), _probe(probe, style)] for probe in state["probes"]],
        [bold("tracker"), _tracker(state["tracker"], style)],
        *[[bold("rights"), line] for line in _rights(state.get("privileges"))],
        *[[bold("gpu"), line] for line in _gpus(state["gpu"], style)],
        *[[bold("sink"), _sink(sink, style)] for sink in state.get("sinks", ())],
        *[[bold("outlet"), _outlet(outlet, style)] for outlet in state.get("outlets", ())],
        *[[bold("absent"), style.dim(_absent(part))] for part in state["unavailable"]],
        [bold("journal"), _journal(state["journal"], style)],
        [bold("events"), kept],
        [bold("clients"), f"{_counts(state['clients'])} (this command is one)"],
        [bold("counters"), _counts(state["counters"]) or "all 0"],
    ]
    return columns(rows)


def readiness(state: Mapping[str, Any]) -> str:
    """One line: the live sources that hear, or why none does."""
    live = [probe for probe in state["probes"] if probe["live"]]
    if hear := [_text(probe["name"]) for probe in live if probe["hears"]]:
        return f"ready: hears the kernel log through {' and '.join(hear)}"
    why = [f"{_text(probe['name'])}: {_text(probe['reason'] or 'no reason given')}" for probe in live]
    return f"not ready: {'; '.join(why) or 'no live source was asked for'}"


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


def _door(access: Mapping[str, Any] | None, style: Style) -> Iterator[str]:
    """Who may come in over HTTP, and how many were not let in."""
    if access is None:
        return
    tokens, issuer = access["tokens"], access["oauth_issuer"]
    asks = []
    if tokens is not None:
        asks.append(f"tokens {', '.join(map(_text, tokens['valid'])) or 'none'}")
    if issuer is not None:
        asks.append(f"access tokens of {_text(issuer)}")
    asked = f"asks for {' or '.join(asks)}" if asks else "asks for no token, lets read only"
    refused = _counts(access["refused"])
    yield asked + (f"; refused: {refused}" if refused else "")
    if tokens is not None and tokens["expired"]:
        yield style.yellow(f"expired: {', '.join(map(_text, tokens['expired']))}")
    if tokens is not None and tokens["problem"]:
        yield f"{style.red('the token file is not in force')}: {_text(tokens['problem'])}"
    if access["oauth_problem"]:
        yield f"{style.red('the keys of the issuer cannot be had')}: {_text(access['oauth_problem'])}"


def _tls(tls: Mapping[str, Any] | None, style: Style) -> Iterator[str]:
    """Until when the certificate is valid, and why newer files are not in force; nothing for plain HTTP."""
    if tls is None:
        return
    whose = _text(tls["subject"] or ", ".join(tls["names"]))
    until = f"valid until {_text(tls['valid_until'])}"
    clients = "; clients need a certificate" if tls["client_certificates"] else ""
    yield f"{whose}, {until if tls['is_valid'] else style.red('not valid now: ' + until)}{clients}"
    if tls["refused"]:
        yield f"{style.red('the files on disk are not in force')}: {_text(tls['refused'])}"


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


def _sink(sink: Mapping[str, Any], style: Style) -> str:
    """Whether alarms get through."""
    name = f"{_text(sink['name'])} ({_text(sink['type'])} {_text(sink['target'])})"
    counts = _counts({key: sink[key] for key in ("delivered", "failures", "skipped", "missed")})
    counted = style.dim(f" ({counts})") if counts else ""
    if sink["state"] != "retrying":
        told = style.green("gets through") if sink["deliveries"] else "has sent nothing yet"
    else:
        waits = f", for {duration(sink['lag_s'])}" if sink["lag_s"] else ""
        told = f"{style.red('does not get through')}{waits}: {_text(sink['reason'] or 'no reason given')}"
    notes = [f"gave up {_text(sink['last_skipped'])}"] if sink["last_skipped"] else []
    notes += [_text(sink["trouble"])] if sink["trouble"] else []
    return "; ".join([f"{name} {told}{counted}", *notes])


def _outlet(outlet: Mapping[str, Any], style: Style) -> str:
    """Whether OpenTelemetry or Kubernetes is told."""
    counts = _counts({key: outlet[key] for key in ("delivered", "failures", "dropped")})
    counted = style.dim(f" ({counts})") if counts else ""
    if outlet["up"]:
        return f"{_text(outlet['name'])} {style.green('gets through')}{counted}"
    why = f"{style.red('does not get through')}: {_text(outlet['reason'] or 'no reason given')}"
    hint = f" ({_text(outlet['hint'])})" if outlet["hint"] else ""
    return f"{_text(outlet['name'])} {why}{hint}{counted}"


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
