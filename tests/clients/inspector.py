"""The MCP Inspector's command line: every call is a process and a connection of its own.

It cannot be pushed to between calls; what reaches it at once is the answer of `wait_for_xid`.
"""

from __future__ import annotations

import json
from typing import Any

from tests.clients import installed
from tests.clients.cells import Ability, Cell, Era, Transport, why_no
from tests.clients.outcome import Outcome
from tests.clients.place import Place, check_resumed, pid_of
from tests.clients.talker import Talker, output_of
from tests.support.daemon import ROOT
from tests.support.waiting import DEADLINE_S, wait_for

LAUNCHER = "clients/launcher/build/index.js"


def converse(cell: Cell, place: Place, outcome: Outcome) -> None:
    """Call, wait for a fault, and call again with the cursor."""
    listed = json.loads(output_of(command(cell, place, "tools/list")))
    assert "get_xid_events" in {tool["name"] for tool in listed.get("result", listed)["tools"]}
    outcome.shown[Ability.CONNECTS] = "tools/list"
    page = result(output_of(call(cell, place, "get_xid_events", limit=1)))
    outcome.shown[Ability.CALLS] = "get_xid_events"
    # Where each call is a process that begins with an empty memory, 0 is its newest cursor.
    since = 0 if place.daemon is None else page["newest_cursor"]
    with Talker(call(cell, place, "wait_for_xid", timeout_s=DEADLINE_S, since=since)) as waiting:
        if place.daemon is not None:
            wait_for(lambda: place.clients() > 0, "the call to wait")
        pid = place.fault()
        page = result(waiting.rest())
    assert pid in map(pid_of, page["events"]), page
    outcome.shown[Ability.PUSHED] = "wait_for_xid"
    if why_no(Ability.RESUMES, cell) is None:
        away, cursor = place.stored_faults(3), page["next_cursor"]
        page = result(output_of(call(cell, place, "get_xid_events", since=cursor)))
        check_resumed(page["events"], since=cursor, away=away)
        outcome.shown[Ability.RESUMES] = "get_xid_events from the cursor of the last answer"


def call(cell: Cell, place: Place, tool: str, **arguments: object) -> list[str]:
    """The command that calls a tool."""
    return command(cell, place, "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments))


def command(cell: Cell, place: Place, method: str, *parameters: str) -> list[str]:
    """The command that asks one thing. Raises UnavailableError."""
    era = "legacy" if cell.era is Era.LEGACY else "modern"
    words = installed.node_tools().command("@modelcontextprotocol/inspector", LAUNCHER)
    words += ["--cli", "--format", "json", "--quiet", "--protocol-era", era, "--method", method, *parameters]
    if place.url is not None:
        transport = "http" if cell.transport is Transport.HTTP else "sse"
        return [*words, "--server-url", place.url, "--transport", transport]
    words += ["--transport", "stdio", "--cwd", str(ROOT)]
    for name, value in place.environ.items():
        if name.startswith(("XDG_", "XIDWATCH_")):
            words += ["-e", f"{name}={value}"]
    return [*words, "--", *place.command]


def result(text: str) -> dict[str, Any]:
    """The structured content of a tool's answer."""
    answer = json.loads(text)
    content = answer.get("result", answer)["structuredContent"]
    assert isinstance(content, dict)
    return content
