"""`xidwatch tail`: the events of this node, newest last, from the daemon or from its journal.

Over the daemon's socket it is a reader like any other, with a cursor: across a restart of the
daemon a follower goes on after the last event it printed, nothing twice, nothing left out.
Without a daemon it says so and reads the journal, without writing to it. Standard library only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daemon import paths
from daemon import since as daemon_since
from daemon.event import parse_rfc3339
from daemon.filter import EventFilter
from daemon.page import MAX_LIMIT
from probes.errors import UserError
from xidwatch import socket_client
from xidwatch.printers import JsonPrinter, Printer, TextPrinter
from xidwatch.socket_client import NoDaemonError

_LAST = 10
_ANSWER_TIMEOUT_S = 30.0
_RECONNECT_S = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    since: str | None = None
    """Cursor, duration or time as typed; None for the last 10."""
    follow: bool = False
    as_json: bool = False
    socket: Path | None = None
    """None: the default paths."""
    state_dir: Path | None = None
    """None: the default directories; used only without a daemon."""
    severity: str | None = None
    codes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin."""

    cursor: int | None
    """Events beyond this cursor; None: the last 10."""
    time_us: int = 0
    """Of those, the ones that last happened at this time or later, µs since the Unix epoch."""


def run(options: Options) -> int:
    """Print what was asked for; with `follow` until interrupted. Returns the exit code."""
    start = parse_since(options.since, now_us=time.time_ns() // 1000)
    printer: Printer = JsonPrinter() if options.as_json else TextPrinter()
    try:
        state = socket_client.status(options.socket)
    except NoDaemonError as error:
        if options.socket is not None:
            raise
        printer.note(f"{error.message}; reading the journal instead")
        cursor = _print_journal(options, start, printer)
        if not options.follow:
            printer.end()
            return 0
        start = Start(cursor, start.time_us)
        printer.note("waiting for a daemon")
        state = _wait_for_daemon(options.socket)
    _print_stream(state, options, start, printer)
    printer.end()
    return 0


def parse_since(text: str | None, *, now_us: int) -> Start:
    """`1769079606995`, `15m` or `2026-11-22T11:20Z` (a time without zone is local). Raises UserError."""
    if text is None:
        return Start(None)
    since = daemon_since.parse_since(text, now_us=now_us, name="--since")
    return Start(since.cursor, since.time_us)


def _print_stream(state: Mapping[str, Any], options: Options, start: Start, printer: Printer) -> None:
    """Print the daemon's answer; with `follow` go on with the next daemon when it goes away."""
    cursor = start.cursor
    while True:
        try:
            _say_what_is_deaf(state, printer)
            newest = int(state["newest_cursor"])
        except (KeyError, TypeError, ValueError):
            raise socket_client.not_understood() from None
        before = cursor
        try:
            cursor = _print_answer(options, Start(cursor, start.time_us), printer)
        except NoDaemonError:
            if not options.follow:
                raise
        if not options.follow:
            return
        if cursor == before:
            # It may be a daemon that stops, and lets us go again each time.
            time.sleep(_RECONNECT_S)
        if cursor is None:
            # No event was seen yet: the next daemon's answer begins where this one's did.
            cursor = newest
        printer.note("the daemon went away; waiting for it to come back")
        state = _wait_for_daemon(options.socket)
        printer.note("the daemon is back")


def _say_what_is_deaf(state: Mapping[str, Any], printer: Printer) -> None:
    """Without this, a daemon that hears nothing would look like a node without faults."""
    for probe in state["probes"]:
        if probe["live"] and not probe["hears"]:
            printer.note(f"the daemon does not hear through {probe['name']}: {probe['reason']}")


def _print_answer(options: Options, start: Start, printer: Printer) -> int | None:
    """Print what one connection brings; returns the cursor to go on from when it ends."""
    by_time = start.time_us > 0 and not start.cursor
    request = {
        "since": None if by_time else start.cursor,
        "since_time_us": start.time_us if by_time else None,
        "limit": _LAST if start.cursor is None else None,
        "follow": options.follow,
        "severity": options.severity,
        "code": options.codes,
        "kind": options.kinds,
        "gpu": options.gpus,
    }
    cursor = start.cursor
    timeout_s = None if options.follow else _ANSWER_TIMEOUT_S
    with socket_client.connect(options.socket) as connection:
        socket_client.ask(connection, "events", request)
        for line in socket_client.lines(connection, timeout_s=timeout_s, output=sys.stdout.fileno()):
            try:
                item = socket_client.parse(line)
            except UserError:
                # In the midst of an answer it is a daemon that stops, not a refusal.
                if options.follow and cursor != start.cursor:
                    break
                raise
            try:
                cursor = _print_line(line.decode("ascii"), item, start, printer) or cursor
            except (KeyError, TypeError, ValueError):
                raise socket_client.not_understood() from None
    return cursor


def _print_line(line: str, item: dict[str, Any], start: Start, printer: Printer) -> int | None:
    """Print one line of the answer; returns its cursor if it is an event."""
    if "missed" in item:
        printer.missed(line, item["missed"]["first"], item["missed"]["last"])
        return None
    if not start.time_us or parse_rfc3339(item["last_time"]) >= start.time_us:
        printer.event(line, item)
    return int(item["cursor"])


def _print_journal(options: Options, start: Start, printer: Printer) -> int:
    """Print what is kept on disk; returns the last cursor examined."""
    from daemon import journal  # SQLite, which a tail with a daemon does not need

    match = EventFilter.parse(options.severity, options.codes, options.kinds, options.gpus)
    with journal.read_only(_state_dir(options.state_dir)) as reader:
        since = reader.cursor_before(start.time_us) if start.time_us else start.cursor
        while True:
            page = reader.page(since, _LAST if since is None else MAX_LIMIT, match)
            if page.missed is not None:
                line = json.dumps({"missed": asdict(page.missed)})
                printer.missed(line, page.missed.first, page.missed.last)
            for item in page.items:
                if item.event.last_time_us >= start.time_us:
                    printer.event(item.json, json.loads(item.json))
            if since is None or page.next_cursor >= page.newest_cursor or page.next_cursor == since:
                return page.next_cursor
            since = page.next_cursor


def _state_dir(explicit: Path | None) -> Path:
    """The directory asked for, else the first usual one that exists."""
    if explicit is not None:
        return explicit
    usual = paths.client_state_dirs()
    return next((each for each in usual if each.is_dir()), usual[-1])


def _wait_for_daemon(path: Path | None) -> dict[str, Any]:
    """The status of the daemon that comes."""
    while True:
        try:
            return socket_client.status(path)
        except NoDaemonError:
            time.sleep(_RECONNECT_S)
