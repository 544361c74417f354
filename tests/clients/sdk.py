"""Clients made with an SDK: programs of their own (`programs/`).

Each is told what to do by one JSON argument, and tells what happened as lines of JSON:

* `{"connected": protocol version}`, then `{"called": page}` of `get_xid_events`, `{"subscribed":
  uri}`, and `{"pushed": event, "via": "resources/updated" | "message"}` for every notification,
  until its stdin is closed;
* with `since` in the argument: `{"connected": …}`, then `{"read": events}` of everything beyond that
  cursor, and its end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.clients import installed
from tests.clients.cells import Ability, Cell, Client, Era, Transport, why_no
from tests.clients.outcome import Outcome
from tests.clients.place import Place, check_resumed, pid_of
from tests.clients.talker import Talker
from tests.support.daemon import ROOT

PROGRAMS = Path(__file__).parent / "programs"
EVENTS = "xid://events"
WAYS = {Era.LEGACY: {"resources/updated", "message"}, Era.MODERN: {"resources/updated"}}
"""The notifications that each fault brings to a subscriber."""


def converse(cell: Cell, place: Place, outcome: Outcome) -> None:
    """Connect, call, be pushed to; then leave, and come back with the cursor of the push."""
    command = command_of(cell.client)
    with Talker([*command, argument(cell, place, None)]) as client:
        outcome.shown[Ability.CONNECTS] = str(client.told("connected")["connected"])
        page = client.told("called")["called"]
        assert set(page) >= {"events", "next_cursor", "newest_cursor"}, page
        outcome.shown[Ability.CALLS] = "get_xid_events"
        client.told("subscribed")
        ways: set[str] = set()
        pid, cursor = place.fault(), 0
        while ways != WAYS[cell.era]:
            push = client.told("pushed")
            if pid_of(push["pushed"]) == pid:
                assert push.get("uri", EVENTS) == EVENTS
                ways.add(push["via"])
                cursor = push["pushed"]["cursor"]
        how = "subscriptions/listen" if cell.era is Era.MODERN else " and ".join(sorted(ways))
        outcome.shown[Ability.PUSHED] = how
    if why_no(Ability.RESUMES, cell) is None:
        away = place.stored_faults(3)
        with Talker([*command, argument(cell, place, cursor)]) as client:
            check_resumed(client.told("read")["read"], since=cursor, away=away)
        outcome.shown[Ability.RESUMES] = "get_xid_events from the cursor of the push"


def command_of(client: Client) -> list[str]:
    """The command that runs a client's program. Raises UnavailableError."""
    match client:
        case Client.PYTHON_1:
            return [str(installed.python_1x()), str(PROGRAMS / "python_1.py")]
        case Client.PYTHON_2:
            return [sys.executable, str(PROGRAMS / "python_2.py")]
        case Client.TYPESCRIPT_1:
            return installed.node_tools().program(PROGRAMS / "typescript_1.mjs")
        case Client.TYPESCRIPT_2:
            return installed.node_tools().program(PROGRAMS / "typescript_2.mjs")
        case _:
            raise AssertionError(f"{client} is no program of ours")


def argument(cell: Cell, place: Place, since: int | None) -> str:
    """What a program is told."""
    transport = {Transport.HTTP: "http", Transport.SSE: "sse"}.get(cell.transport, "stdio")
    return json.dumps(
        {
            "transport": transport,
            "url": place.url,
            "command": place.command,
            "env": place.environ,
            "cwd": str(ROOT),
            "era": cell.era,
            "since": since,
        }
    )
