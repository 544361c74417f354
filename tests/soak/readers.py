"""Readers that must lose nothing: each keeps the last it was told of every event, and what it missed.

Each begins at the newest cursor of the place and reads until it is asked to leave, which it is once it has
said that it reached the newest cursor. Whatever its way, what it holds in the end must be the same.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import select
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from tests.soak.place import Orders, Place
from tests.soak.wire import Conversation, HttpSession, RelaySession, Stream, call, closing, get, request
from tests.support.daemon import ROOT, clean_environment

LOOK_S: Final = 1.0
"""How often a reader that waits for news looks whether it has to leave."""


class Seen(NamedTuple):
    """The last revision of an event that a reader was given."""

    cursor: int
    revision: int
    kind: str
    code: str
    """The number, else the name, else ""."""
    device: str
    drill: bool
    times: int
    """Its `count`."""
    pid: int | None
    seq: int | None
    """Of the first record, or of the first that a gap lacks."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Of a gap."""
    lost: int = 0
    """Records that a gap lacks."""

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Seen:
        """Of an event as JSON."""
        device, detail = event["gpu"] or event["nvswitch"], event["detail"]
        code = event["name"] if event["code"] is None else event["code"]
        return cls(
            cursor=event["cursor"],
            revision=event["revision"],
            kind=event["kind"],
            code="" if code is None else str(code),
            device=device["pci"] if device else "",
            drill=event["drill"],
            times=event["count"],
            pid=event["process"]["pid"] if event["process"] else None,
            seq=detail["first_seq"] if event["kind"] == "gap" else event["kmsg_seq"],
            ranges=tuple((first, last) for first, last in detail.get("ranges", ())),
            lost=detail.get("lost_records") or 0,
        )


@dataclass(slots=True)
class Read:
    """What a reader has in the end."""

    events: dict[str, Seen] = field(default_factory=dict)
    """By event id."""
    missed: list[tuple[int, int]] = field(default_factory=list)
    """Stretches of cursors that it was told it had missed."""
    wrong: list[str] = field(default_factory=list)
    """What broke the promises of a cursor."""
    counts: Counter[str] = field(default_factory=Counter)

    def take(self, event: Mapping[str, Any]) -> None:
        """One item, in the order in which it came."""
        self.counts["items"] += 1
        seen, before = Seen.of(event), self.events.get(event["id"])
        if before is not None and (seen.cursor <= before.cursor or seen.revision <= before.revision):
            self.wrong.append(f"{event['id']}: {before} was followed by {seen}")
        self.events[event["id"]] = seen

    def take_page(self, page: Mapping[str, Any]) -> int:
        """A page; the cursor to go on from."""
        for event in page["events"]:
            self.take(event)
        if page["missed"] is not None:
            self.missed.append((page["missed"]["first"], page["missed"]["last"]))
        following: int = page["next_cursor"]
        return following


def steady_stream(place: Place, orders: Orders) -> Read:
    """`/events`, on one connection for as long as it holds."""
    return _streams(place, orders, frames_each=None)


def coming_and_going_stream(place: Place, orders: Orders) -> Read:
    """`/events`, with many connections one after the other, each from Last-Event-ID."""
    return _streams(place, orders, frames_each=40)


def _streams(place: Place, orders: Orders, *, frames_each: int | None) -> Read:
    read, cursor, chance = Read(), place.since, orders.chance()
    current: list[Stream] = []

    def hang_up() -> None:
        orders.leave.wait()
        for stream in current:
            stream.hang_up()

    threading.Thread(target=hang_up, daemon=True).start()
    while not orders.leave.is_set():
        try:
            stream = request(place, "GET", "/events", headers={"Last-Event-ID": str(cursor)})
            current[:] = [stream]
            read.counts["connections"] += 1
            left = chance.randrange(1, 2 * frames_each) if frames_each is not None else sys.maxsize
            with contextlib.closing(stream):
                for frame in islice(stream.frames(), left):
                    cursor = _take_frame(frame, read, cursor)
                    orders.reached.value = cursor
                    if orders.leave.is_set():
                        break
        except (OSError, http.client.HTTPException):  # cut off: it did not read for too long
            read.counts["cut off"] += 1
    return read


def _take_frame(frame: Mapping[str, str], read: Read, cursor: int) -> int:
    """One frame of `/events`; the cursor to come back with."""
    if frame.get("event") == "missed":
        told = json.loads(frame["data"])
        read.missed.append((told["first"], told["last"]))
    elif "data" in frame and "event" not in frame:
        read.take(json.loads(frame["data"]))
    return int(frame.get("id", cursor))


def pages(place: Place, orders: Orders) -> Read:
    """`/events.json`, page by page."""
    return _pages(place, orders, away_s=0.2)


def rare_pages(place: Place, orders: Orders) -> Read:
    """The same, but away for so long that retention deletes what it has not read."""
    return _pages(place, orders, away_s=place.rare_reader_s)


def _pages(place: Place, orders: Orders, *, away_s: float) -> Read:
    read, cursor = Read(), place.since
    while True:
        leaving = orders.leave.is_set()
        while True:
            try:
                page = json.loads(get(place, f"/events.json?since={cursor}&limit=100"))
            except (OSError, http.client.HTTPException):  # it comes again, with its cursor
                read.counts["cut off"] += 1
                break
            read.counts["pages"] += 1
            cursor = orders.reached.value = read.take_page(page)
            if cursor >= page["newest_cursor"]:
                break
        if leaving:
            return read
        orders.pause(away_s)


def waiting_assistant(place: Place, orders: Orders) -> Read:
    """An assistant in a session of 2025 that calls `wait_for_xid` with the cursor of the answer before."""
    return _asks(HttpSession, place, orders, "wait_for_xid", timeout_s=LOOK_S)


def asking_relay(place: Place, orders: Orders) -> Read:
    """One `xidwatch stdio` for the whole time, which asks `get_xid_events` again and again."""
    return _asks(RelaySession, place, orders, "get_xid_events", limit=50)


def _asks(
    opened: Callable[[Place], Conversation], place: Place, orders: Orders, tool: str, **arguments: object
) -> Read:
    read, cursor = Read(), place.since
    while not orders.leave.is_set():
        try:
            with closing(opened(place)) as client:
                read.counts["sessions"] += 1
                while not orders.leave.is_set():
                    page = call(client, tool, since=cursor, **arguments)
                    read.counts["calls"] += 1
                    cursor = orders.reached.value = read.take_page(page)
                    if tool == "get_xid_events" and not page["events"]:
                        orders.pause(0.2)
        except (OSError, http.client.HTTPException):  # it comes again, with its cursor
            read.counts["cut off"] += 1
            orders.pause(LOOK_S)
    return read


def follower_in_a_terminal(place: Place, orders: Orders) -> Read:
    """`xidwatch tail --follow --json`. One that gives up, as the daemon did not answer within its five
    seconds, is started again with the last cursor that it printed."""
    read, cursor = Read(), place.since
    while not orders.leave.is_set():
        flags = ("--json", "--follow", "--since", str(cursor), "--socket", str(place.socket))
        read.counts["started"] += 1
        with subprocess.Popen(
            [sys.executable, "-m", "xidwatch", "tail", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=clean_environment(),
        ) as tail:
            cursor = _take_lines(tail, read, orders, cursor)
            tail.kill()
            _, said = tail.communicate()
        if not orders.leave.is_set() and b"does not answer" not in said:
            read.wrong.append(f"it ended by itself: {said.decode()}")
    return read


def _take_lines(tail: subprocess.Popen[bytes], read: Read, orders: Orders, cursor: int) -> int:
    """What it prints, until it ends or has to; the last cursor."""
    assert isinstance(tail.stdout, io.BufferedReader)
    pending = b""
    while not orders.leave.is_set():
        ready, _, _ = select.select([tail.stdout], [], [], LOOK_S)
        if not ready:
            continue
        chunk = tail.stdout.read1(1 << 18)
        if not chunk:
            break
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if (missed := event.get("missed")) is not None:
                read.missed.append((missed["first"], missed["last"]))
                continue
            read.take(event)
            cursor = orders.reached.value = event["cursor"]
    return cursor


READERS: Final = (
    steady_stream,
    coming_and_going_stream,
    pages,
    waiting_assistant,
    asking_relay,
    follower_in_a_terminal,
)
"""Those that keep up."""
