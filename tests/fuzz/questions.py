"""What a reader of events may ask for: any query and `Last-Event-ID`, and questions that a model asked.

The two endpoints are asked as the server asks them, over a stream of some events of which the first ones
are not kept any more. A question is answered with a page that fits the model, or refused with a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from daemon.event import Event, Gpu, Item, Kind, NvSwitch, Severity
from daemon.page import MAX_LIMIT
from daemon.ring import Ring
from daemon.stream import EventStream
from mcp_server.event_stream import EventStreamEndpoint
from mcp_server.hello import WantEvents, parse_hello
from mcp_server.pages import EventPages
from mcp_server.services import Services
from probes.errors import UserError
from tests.fuzz.choices import Choices
from tests.fuzz.event_loop import run
from tests.mcp_server.samples import STATUS, xid

FIRST_CURSOR: Final = 1_000
RING_SIZE: Final = 12
PUBLISHED: Final = 24
STEP: Final = 3
"""Cursors between two items: numbers may jump."""

GPUS: Final = (
    Gpu(pci="0000:91:00.0", uuid="GPU-8f1c3d9a-0000-1111-2222-333344445555", index=0),
    Gpu(pci="0001:02:00.0", uuid="GPU-00000000-aaaa-bbbb-cccc-333344445555", index=11),
)
SWITCH: Final = NvSwitch(pci="0000:a9:00.0", instance=3)
SPELLINGS: Final = {
    GPUS[0].pci: ("0000:91:00.0", "91:00", "PCI:0000:91:00", "00000000:91:00.0", "0", f"{GPUS[0].uuid}"),
    GPUS[1].pci: ("0001:02:00.0", "0001:02:00", "pci:0001:02:00.0", "11", f"{GPUS[1].uuid}".upper()),
    SWITCH.pci: ("0000:A9:00.0", "a9:00"),
}
"""A device → ways to name it."""
CODES: Final = (13, 31, 79, 20034, 4294967295)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint said."""

    status: int
    body: bytes


def any_question(data: bytes) -> None:
    """Any query string, and behind a newline any `Last-Event-ID`."""
    query, newline, resumed = data.partition(b"\n")
    headers = [(b"last-event-id", resumed)] if newline else []
    page = ask(query, headers, stream_of_events=False)
    if page.status == 200:
        check_page(json.loads(page.body))
    else:
        check_refusal(page)
    told = ask(query, headers, stream_of_events=True)
    if told.status == 200:
        check_frames(told.body)
    else:
        check_refusal(told)


def any_hello(data: bytes) -> None:
    """Any first line on the unix socket: a wish, an MCP message, or refused with a sentence."""
    try:
        want = parse_hello(data)
        if isinstance(want, WantEvents):
            want.check()
            want.filter()
            assert want.clamped_limit() is None or 1 <= (want.clamped_limit() or 0) <= MAX_LIMIT
    except UserError as error:
        check_sentence(error.message)
        assert error.hint


def asked_question(data: bytes) -> None:
    """A question that makes sense gets exactly the items that it asks for, however it is spelled."""
    choices = Choices(data)
    severity = choices.one_of((None, *Severity))
    codes = {choices.one_of(CODES) for _ in range(choices.number(3))}
    kinds = {choices.one_of((Kind.XID, Kind.SXID, Kind.GAP)) for _ in range(choices.number(2))}
    devices = {choices.one_of(tuple(SPELLINGS)) for _ in range(choices.number(2))}
    since = choices.one_of((None, 0, *(cursor + step for cursor in _cursors() for step in (-1, 0))))
    limit = choices.one_of((None, 1, 2, 3, 7, 1000, 10**17))
    asked = [("severity", choices.one_of((severity, severity.upper(), f" {severity} ")))] if severity else []
    asked += _spelled(choices, "code", [f"{'0' * choices.number(3)}{code}" for code in sorted(codes)])
    asked += _spelled(choices, "kind", sorted(kinds))
    asked += _spelled(choices, "gpu", [choices.one_of(SPELLINGS[pci]) for pci in sorted(devices)])
    wanted = [
        item
        for item in _kept()
        if (severity is None or item.event.severity.rank >= severity.rank)
        and (not codes or item.event.code in codes)
        and (not kinds or item.event.kind in kinds)
        and (not devices or item.event.device in devices)
    ]
    _check_pages(asked, since, limit, wanted)
    _check_stream(choices, asked, since, wanted)


def _spelled(choices: Choices, name: str, values: Sequence[str]) -> list[tuple[str, str]]:
    """The values of one condition: repeated, or with commas."""
    if values and choices.flag():
        return [(name, choices.one_of((",", " , ", ",,")).join(values))]
    return [(name, value) for value in values]


def _check_pages(
    asked: list[tuple[str, str]], since: int | None, limit: int | None, wanted: Sequence[Item]
) -> None:
    """Page after page, as long as there is more."""
    parameters = [*asked, *([("limit", str(limit))] if limit is not None else [])]
    page = _page([*parameters, *([("since", str(since))] if since is not None else [])])
    if since is None:
        assert _told(page) == [item.cursor for item in wanted[-min(limit or 100, MAX_LIMIT) :]]
        assert page["next_cursor"] == _stream().newest
        assert page["missed"] is None
        return
    found = list(_told(page))
    gone_through = _stream().gone_through
    expected = {"first": since + 1, "last": gone_through} if 0 < since < gone_through else None
    assert page["missed"] == expected
    while page["next_cursor"] < _stream().newest:
        assert len(page["events"]) == min(limit or 100, MAX_LIMIT), "a page that is not full is the last"
        page = _page([*parameters, ("since", str(page["next_cursor"]))])
        found += _told(page)
    assert found == [item.cursor for item in wanted if item.cursor > since]


def _check_stream(
    choices: Choices, asked: list[tuple[str, str]], since: int | None, wanted: Sequence[Item]
) -> None:
    """`Last-Event-ID` beats `since`; without both there is only what is new."""
    begin = _stream().newest if since is None else since
    headers: list[tuple[bytes, bytes]] = []
    if since is not None:
        if choices.flag():
            headers = [(b"last-event-id", str(since).encode())]
            asked = [*asked, ("since", str(choices.one_of(_cursors())))]
        else:
            asked = [*asked, ("since", str(since))]
    answer = ask(urlencode(asked).encode(), headers, stream_of_events=True)
    assert answer.status == 200, answer
    cursors = check_frames(answer.body)
    assert cursors == [item.cursor for item in wanted if item.cursor > begin]


def _page(parameters: list[tuple[str, str]]) -> dict[str, Any]:
    answer = ask(urlencode(parameters).encode(), [], stream_of_events=False)
    assert answer.status == 200, answer
    page: dict[str, Any] = json.loads(answer.body)
    check_page(page)
    return page


def _told(page: dict[str, Any]) -> list[int]:
    return [event["cursor"] for event in page["events"]]


# -- what holds for every answer ----------------------------------------------------------------


def check_page(page: dict[str, Any]) -> None:
    """Every key of a page, its items in order, and cursors that fit the stream."""
    assert set(page) == {"events", "next_cursor", "oldest_cursor", "newest_cursor", "missed"}
    cursors = _told(page)
    assert cursors == sorted(set(cursors))
    assert set(cursors) <= {item.cursor for item in _kept()}
    assert len(cursors) <= MAX_LIMIT
    assert page["newest_cursor"] == _stream().newest
    assert page["oldest_cursor"] == _stream().oldest
    assert not cursors or page["next_cursor"] >= cursors[-1]


def check_frames(body: bytes) -> list[int]:
    """The frames of a stream: a hello, what was missed, the items in order; gives back their cursors."""
    assert body.endswith(b"\n\n")
    frames = [_fields(frame) for frame in body.removesuffix(b"\n\n").split(b"\n\n")]
    hello = frames.pop(0)
    assert hello["event"] == "hello"
    assert json.loads(hello["data"])["since"] == int(hello["id"])
    if frames and frames[0].get("event") == "missed":
        missed = json.loads(frames.pop(0)["data"])
        assert missed["first"] <= missed["last"] == _stream().gone_through
    for frame in frames:
        assert set(frame) == {"id", "data"}
        assert json.loads(frame["data"])["cursor"] == int(frame["id"])
    cursors = [int(frame["id"]) for frame in frames]
    assert cursors == sorted(set(cursors))
    return cursors


def check_refusal(answer: Answer) -> None:
    """One sentence, and a hint."""
    assert answer.status == 400, answer
    said = json.loads(answer.body)
    assert set(said) == {"error", "hint"}
    check_sentence(said["error"])
    assert said["hint"] is None or said["hint"].isprintable()


def check_sentence(text: str) -> None:
    """Printable, one line, not endless."""
    assert text.isprintable(), text
    assert 0 < len(text) < 500, len(text)


def _fields(frame: bytes) -> dict[str, str]:
    lines = [line.partition(": ") for line in frame.decode().split("\n")]
    assert all(colon and name for name, colon, _ in lines), frame
    return {name: value for name, _, value in lines}


# -- the endpoints, and the stream behind them --------------------------------------------------


def ask(query: bytes, headers: Sequence[tuple[bytes, bytes]], *, stream_of_events: bool) -> Answer:
    """One request to `/events` or `/events.json`."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/events" if stream_of_events else "/events.json",
        "query_string": query,
        "headers": list(headers),
    }
    return run(_answer(Request(scope), stream_of_events=stream_of_events))


async def _answer(request: Request, *, stream_of_events: bool) -> Answer:
    events, pages = _endpoints()
    if not stream_of_events:
        page = await pages(request)
        return Answer(page.status_code, bytes(page.body))
    response: Response = await events(request)
    if not hasattr(response, "body_iterator"):
        return Answer(response.status_code, bytes(response.body))
    chunks = [chunk async for chunk in response.body_iterator]
    return Answer(response.status_code, b"".join(chunks))


@cache
def _stream() -> EventStream:
    """A stream that ends: its readers are given what is kept, and let go."""
    stream = EventStream(Ring(RING_SIZE, reserve=2), first_cursor=FIRST_CURSOR)
    for number in range(PUBLISHED):
        cursor = FIRST_CURSOR + STEP * number
        stream.publish([Item.of(cursor, _event(number), stored=True)])
    stream.close()
    return stream


@cache
def _kept() -> tuple[Item, ...]:
    """The items that a reader can still have: the last ones, and some older ones of quiet devices."""
    of_stream = run(_stream().page(0, MAX_LIMIT)).items
    assert 0 < len(of_stream) < PUBLISHED
    assert _stream().gone_through > of_stream[0].cursor, "something between kept items is gone"
    return tuple(of_stream)


@cache
def _cursors() -> tuple[int, ...]:
    return tuple(FIRST_CURSOR + STEP * number for number in range(PUBLISHED))


def _event(number: int) -> Event:
    severity = tuple(Severity)[number % len(Severity)]
    event = xid(CODES[number % len(CODES)], number=number, severity=severity)
    if number % 7 == 1:
        return replace(event, kind=Kind.SXID, gpu=None, nvswitch=SWITCH, process=None)
    return replace(event, gpu=GPUS[1] if number < PUBLISHED // 4 else GPUS[0])


@cache
def _endpoints() -> tuple[EventStreamEndpoint, EventPages]:
    services = Services("gpu-17", "0", "127.0.0.1", _stream(), status=lambda: STATUS, health=tuple)
    return EventStreamEndpoint(services), EventPages(_stream())
