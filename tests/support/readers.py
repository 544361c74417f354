"""Clients of a daemon that keep everything they were given, and come back after it went away."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

from tests.support.daemon import Daemon
from tests.support.waiting import DEADLINE_S, wait_for

Item = dict[str, Any]
_COME_BACK_S = 0.05


def everything_kept(daemon: Daemon) -> list[Item]:
    """All that `/events.json` has, page by page."""
    items: list[Item] = []
    since = 0
    while True:
        status, body = daemon.get(f"/events.json?since={since}&limit=1000")
        assert status == 200, body
        page = json.loads(body)
        items += page["events"]
        if page["next_cursor"] == page["newest_cursor"]:
            return items
        since = page["next_cursor"]


class HasPort(Protocol):
    """A daemon, or something in front of one."""

    port: int
    """On 127.0.0.1."""


class Reader(ABC):
    """A reader in a thread of its own, from the beginning on, with a cursor."""

    def __init__(self, daemon: HasPort) -> None:
        self.items: list[Item] = []
        """Every item it was given, in order."""
        self.missed: list[Item] = []
        """Every stretch it was told it had missed."""
        self.connections = 0
        """How often it was answered."""
        self.failure: str | None = None
        """An answer that no reader should get."""
        self._daemon = daemon
        self._cursor = 0
        self._connection: socket.socket | None = None
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.set()
        if self._connection is not None:
            with suppress(OSError):  # it may have ended by itself
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def wait_until(self, condition: Callable[[Sequence[Item]], Any], what: str) -> Any:
        """The first true answer about the items so far."""

        def look() -> Any:
            assert self.failure is None, self.failure
            return condition(self.items)

        return wait_for(look, what)

    def _run(self) -> None:
        while not self._leave.is_set() and self.failure is None:
            with suppress(OSError, http.client.HTTPException):  # the daemon went away, or is not there yet
                self._read_on()
            self._leave.wait(_COME_BACK_S)

    @abstractmethod
    def _read_on(self) -> None:
        """Connect with the cursor and read until the end, the daemon's or its own."""

    def _get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self._daemon.port, timeout=DEADLINE_S)
        connection.request("GET", path, headers=headers)
        self._connection = connection.sock
        answer = connection.getresponse()
        self.connections += 1
        if answer.status != 200:
            self.failure = f"{path} {headers}: {answer.status} {answer.read()!r}"
        return answer


class Follower(Reader):
    """Follows `/events` and comes back with Last-Event-ID."""

    def _read_on(self) -> None:
        with self._get("/events", **{"Last-Event-ID": str(self._cursor)}) as answer:
            frame: dict[str, str] = {}
            while not self._leave.is_set() and (line := answer.readline()):
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    frame[name] = value
                elif frame:
                    self._take(frame)
                    frame = {}

    def _take(self, frame: dict[str, str]) -> None:
        if frame.get("event") == "missed":
            self.missed.append(json.loads(frame["data"]))
        elif "data" in frame and "event" not in frame:
            self.items.append(json.loads(frame["data"]))
            assert frame["id"] == str(self.items[-1]["cursor"])
        self._cursor = int(frame.get("id", self._cursor))


class PageReader(Reader):
    """Asks `/events.json` again and again, each time from the `next_cursor` of the page before."""

    def _read_on(self) -> None:
        with self._get(f"/events.json?since={self._cursor}&limit=50") as answer:
            page = json.loads(answer.read())
        if self.failure is None:
            self.items += page["events"]
            self.missed += [page["missed"]] if page["missed"] else []
            self._cursor = page["next_cursor"]
