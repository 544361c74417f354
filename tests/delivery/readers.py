"""Loss-free readers of every kind, that come back with their cursor whenever they are cut off."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clients.curl import call, modern, notification, request
from tests.support.daemon import ROOT, clean_environment
from tests.support.readers import HasPort, Item, PageReader, Reader
from tests.support.waiting import DEADLINE_S

JSON_HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
CLIENT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
EVENTS = "xid://events"


class Pages(PageReader):
    """Asks for pages, and asks again for one that was cut off in the middle of its head (see `post`)."""

    def _read_on(self) -> None:
        try:
            super()._read_on()
        except ValueError:
            raise ConnectionError("an answer was cut off") from None


class PageTaker(Reader):
    """A reader that is given pages."""

    def _take_page(self, page: dict[str, Any]) -> None:
        self.items += page["events"]
        self.missed += [page["missed"]] if page["missed"] else []
        self._cursor = page["next_cursor"]


class ToolReader(PageTaker):
    """Calls `get_xid_events` or `wait_for_xid` on /mcp, again and again."""

    def __init__(self, daemon: HasPort, tool: str, era: str) -> None:
        super().__init__(daemon)
        self._tool = tool
        self._era = era

    def _read_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._daemon.port, timeout=DEADLINE_S)
        try:
            connection.connect()
            self._connection = connection.sock
            headers = self._shake_hands(connection) if self._era == "legacy" else {}
            self.connections += 1
            while not self._leave.is_set():
                self._take_page(self._call(connection, headers))
        finally:
            connection.close()

    def _shake_hands(self, connection: http.client.HTTPConnection) -> dict[str, str]:
        answer, _ = post(connection, request("initialize", **CLIENT), {})
        headers = {"Mcp-Session-Id": answer.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
        post(connection, notification("notifications/initialized"), headers)
        return headers

    def _call(self, connection: http.client.HTTPConnection, headers: dict[str, str]) -> dict[str, Any]:
        body, extra = tool_call(self._tool, self._era, self._cursor)
        answer, message = post(connection, body, headers | extra)
        if answer.status != 200 or "error" in message or message["result"].get("isError"):
            self.failure = f"{self._tool}: {answer.status} {message}"
            raise ConnectionError(self.failure)
        page: dict[str, Any] = message["result"]["structuredContent"]
        return page


class SocketToolReader(PageTaker):
    """Calls a tool in an MCP session on the unix socket."""

    def __init__(self, path: Path, daemon: HasPort, tool: str) -> None:
        super().__init__(daemon)
        self._path = path
        self._tool = tool

    def _read_on(self) -> None:
        with unix(self, self._path) as (connection, lines):
            connection.sendall(b'{"xidwatch": {"want": "mcp"}}\n')
            self._ask(connection, lines, request("initialize", **CLIENT))
            connection.sendall(json.dumps(notification("notifications/initialized")).encode() + b"\n")
            self.connections += 1
            while not self._leave.is_set():
                body, _ = tool_call(self._tool, "legacy", self._cursor)
                self._take_page(self._ask(connection, lines, body)["structuredContent"])

    def _ask(self, connection: socket.socket, lines: Iterator[bytes], body: dict[str, Any]) -> dict[str, Any]:
        connection.sendall(json.dumps(body).encode() + b"\n")
        for line in lines:
            message = json.loads(line)
            if message.get("id") == body["id"]:
                if "result" not in message or message["result"].get("isError"):
                    self.failure = f"{self._tool}: {message}"
                    break
                result: dict[str, Any] = message["result"]
                return result
        raise ConnectionError("the session ended")


class ItemTaker(Reader):
    """A reader that is given one item after the other."""

    def _take_item(self, item: Item) -> None:
        self.items.append(item)
        self._cursor = item["cursor"]


class ListenReader(ItemTaker):
    """Listens on xid://events as a 2026-07-28 client, with `xidwatch/since`."""

    def _read_on(self) -> None:
        wanted = {"notifications": {"resourceSubscriptions": [EVENTS]}}
        body, *headers = modern("subscriptions/listen", meta={"xidwatch/since": self._cursor}, **wanted)
        connection = http.client.HTTPConnection("127.0.0.1", self._daemon.port, timeout=DEADLINE_S)
        try:
            extra = dict(header.split(": ", 1) for header in headers)
            connection.request("POST", "/mcp", json.dumps(body), JSON_HEADERS | extra)
            self._connection = connection.sock
            answer = connection.getresponse()
            if answer.status != 200:
                self.failure = f"{answer.status} {answer.read()!r}"
                return
            self.connections += 1
            while not self._leave.is_set() and (line := answer.readline()).endswith(b"\n"):
                if line.startswith(b"data: {"):
                    self._take(json.loads(line[6:]))
        finally:
            connection.close()

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("method") == "notifications/resources/updated":
            meta = message["params"]["_meta"]
            if "xidwatch/missed" in meta:
                self.missed.append(meta["xidwatch/missed"])
            else:
                self._take_item(meta["xidwatch/event"])


class SocketEventsReader(ItemTaker):
    """Asks the unix socket for events and follows."""

    def __init__(self, path: Path, daemon: HasPort) -> None:
        super().__init__(daemon)
        self._path = path

    def _read_on(self) -> None:
        with unix(self, self._path) as (connection, lines):
            hello = {"want": "events", "since": self._cursor, "follow": True}
            connection.sendall(json.dumps({"xidwatch": hello}).encode() + b"\n")
            self.connections += 1
            for line in lines:
                item = json.loads(line)
                if "error" in item:
                    self.failure = line.decode()
                elif "missed" in item:
                    self.missed.append(item["missed"])
                else:
                    self._take_item(item)


class TailReader(ItemTaker):
    """`xidwatch tail --follow`, which comes back by itself: one process for all the time."""

    def __init__(self, path: Path, daemon: HasPort, log: Path) -> None:
        super().__init__(daemon)
        self._path = path
        self._log = log

    def _read_on(self) -> None:
        command = [sys.executable, "-m", "xidwatch", "tail", "--follow", "--json", "--since", "0"]
        ours, theirs = socket.socketpair()
        self._connection = ours
        with self._log.open("wb") as errors, theirs:
            process = subprocess.Popen(
                [*command, "--socket", str(self._path)],
                stdin=subprocess.DEVNULL,
                stdout=theirs.fileno(),
                stderr=errors,
                cwd=ROOT,
                env=clean_environment(),
            )
        try:
            self.connections += 1
            with ours.makefile("rb") as lines:
                for line in lines:
                    item = json.loads(line)
                    if "missed" in item:
                        self.missed.append(item["missed"])
                    else:
                        self._take_item(item)
            if not self._leave.is_set():
                self.failure = f"tail ended: {self._log.read_text()}"
        finally:
            process.terminate()
            process.wait(DEADLINE_S)
            ours.close()
            self.connections += self._log.read_text().count("the daemon is back")


def tool_call(tool: str, era: str, since: int) -> tuple[dict[str, Any], dict[str, str]]:
    """A call that reads on from a cursor, and the headers that belong to it."""
    arguments = {"since": since} | ({"timeout_s": 2} if tool == "wait_for_xid" else {"limit": 50})
    if era == "legacy":
        return call(tool, **arguments), {}
    body, *headers = modern("tools/call", name=tool, arguments=arguments)
    return body, dict(header.split(": ", 1) for header in headers)


def post(
    connection: http.client.HTTPConnection, body: dict[str, Any], headers: dict[str, str]
) -> tuple[http.client.HTTPResponse, dict[str, Any]]:
    """One POST to /mcp; its answer and the JSON-RPC message in it, {} where there is none.

    A cut in the middle of an answer's head looks to http.client like the head's end, and what follows
    like a body without a length: an answer that is no JSON was cut off.
    """
    connection.request("POST", "/mcp", json.dumps(body), JSON_HEADERS | headers)
    answer = connection.getresponse()
    text = answer.read()
    if "id" in body and answer.headers.get_content_type() == "text/event-stream":
        found = [line[6:] for line in text.split(b"\n") if line.startswith(b"data: {")]
        text = found[-1] if found else b""
    if "id" not in body:
        return answer, {}
    try:
        return answer, json.loads(text)
    except ValueError:
        raise http.client.IncompleteRead(text) from None


@contextmanager
def unix(reader: Reader, path: Path) -> Iterator[tuple[socket.socket, Iterator[bytes]]]:
    """A connection to a unix socket and its complete lines."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(os.fspath(path))
        reader._connection = connection
        with connection.makefile("rb") as lines:
            yield connection, (line for line in lines if line.endswith(b"\n"))
