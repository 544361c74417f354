"""One sink at work: reads the stream from its cursor and sends until the receiver has it.

Contract:

* At least once, in order: the cursor moves only behind what the receiver took, what was no news, and what
  was given up. Each failure ends in reading the stream anew from the cursor, so nothing is held while a
  receiver is away, a superseded revision is not sent, and what retention deleted meanwhile is told.
* What is sent together halves after an answer that refuses it, until one event is left: that one alone
  can be the reason. It is given up after `TRIES` when the answer is about what was sent (`REFUSED`) and the
  receiver has taken others since the start, and whatever the answer is, when it takes a later event: one
  event blocks no other for ever. An event given up is logged, counted, named in `status`, and told to the
  receiver with the next delivery.
* A sink waits for the stream, for its pace or for its next try; it never wakes an idle process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from daemon.event import Item
from daemon.filter import EventFilter
from daemon.page import Missed, Page
from daemon.sinks.batch import Batch, Node, Skipped, sentence_of_missed
from daemon.sinks.courier import Courier
from daemon.sinks.cursor import CursorFile, Position, UnreadableError
from daemon.sinks.health import SinkHealth, SinkState
from daemon.sinks.outcome import Fate, Outcome
from daemon.sinks.pace import Backoff, Pace
from daemon.sinks.upkeep import Upkeep
from daemon.stream import EventStream
from daemon.text import clean
from daemon.thread import ClosedError
from probes.errors import UserError

MOST_EVENTS: Final = 100
"""In one delivery."""
TRIES: Final = 3
"""Of an event alone, before it may be given up."""
HISTORY_S: Final = 60.0
"""How long after the first start of a sink the log of before that start is still being read."""
SAVE_WITHIN_S: Final = 1.0
"""How long the next delivery waits for the cursor to be on disk."""
SAVE_EVERY_S: Final = 60.0
"""A cursor that moves past what does not concern the sink is saved this often."""
MOST_SKIPPED_TOLD: Final = 20
"""Remembered one by one until the receiver was told; the count has all of them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Offer:
    """What is to be sent now."""

    items: Sequence[Item]
    """News, in cursor order."""
    missed: Missed | None
    examined: int
    """Where the cursor is once all of it was taken."""


class Terms(Protocol):
    """What a delivery has to know of its sink; a `SinkConfig` is one."""

    @property
    def name(self) -> str:
        """In logs, and in what is sent."""

    @property
    def type(self) -> StrEnum:
        """What kind of receiver it has."""

    @property
    def shown_target(self) -> str:
        """Where it sends, fit to be printed."""

    @property
    def match(self) -> EventFilter:
        """What it sends of what it reads."""

    @property
    def per_minute(self) -> int:
        """How many deliveries it may make."""


class Delivery:
    """The loop of one sink: `serve`. Belongs to the event loop."""

    def __init__(
        self,
        config: Terms,
        courier: Courier,
        stream: EventStream,
        file: CursorFile,
        *,
        node: Node,
        upkeep: Upkeep | None = None,
    ) -> None:
        """`upkeep`: for a courier of what lasts."""
        self.health = SinkHealth(config.name, config.type.value, config.shown_target)
        self.has_begun = False
        """True once it is known where the last run ended: only then is there a position to save."""
        self._config = config
        self._courier = courier
        self._memory = courier.memory
        self._stream = stream
        self._file = file
        self._node = node
        self._upkeep = upkeep
        self._pace = Pace(config.per_minute)
        self._backoff = Backoff()
        self._cursor = stream.newest
        self._missed: Missed | None = None
        self._told_missed = 0  # the receiver knows of what was deleted up to here
        self._skipped: tuple[Skipped, ...] = ()
        self._limit = MOST_EVENTS if courier.takes_many else 1
        self._alone: str | None = None  # event that is tried by itself, and how often it was
        self._tries = 0
        self._started_us = node.wall_us()
        self._history_until = 0.0
        self._saved_at = 0.0
        self._gathered = False

    async def serve(self) -> None:
        """`begin` and `run` until the stream closes. What is a bug is logged and told, and tried again."""
        backoff = Backoff()
        while not self._stream.closed:
            try:
                if not self.has_begun:
                    await self.begin()
                await self.run()
            except ClosedError:
                return
            except Exception:  # fan-out boundary: a bug in one sink must not end it, nor any other
                _log.exception("sink %s failed", self._config.name)
                self.health.note_bug()
                await asyncio.sleep(backoff.next_wait_s())

    async def run(self) -> None:
        """Send until the stream closes, after `begin`. Raises what is a bug; may be called again then."""
        while not self._stream.closed:
            await self._upkeep_if_due()
            offer = await self._next_offer()
            if offer is None:
                await self._rest()
            elif await self._may_send():
                await self._send(offer)

    async def begin(self) -> None:
        """Take up where the last run ended; a new sink starts with what happens from now on."""
        await self._take_up()
        self.has_begun = True
        self.health.cursor = self._cursor
        self._save()

    async def _take_up(self) -> None:
        try:
            position = await self._file.read()
            if position is None:
                self._history_until = time.monotonic() + HISTORY_S
                return
            try:
                self._memory.load(position.memory)
            except (KeyError, TypeError, ValueError, AttributeError):
                _log.warning("sink %s: what it told is not known; some may come again", self._config.name)
            self._cursor, self._skipped = position.cursor, position.skipped
        except UnreadableError as error:
            _log.error("sink %s: its cursor is lost: %s", self._config.name, error)
            self._missed = Missed(1, self._stream.newest)
            self.health.missed += 1

    def position(self) -> Position:
        """Where it is now."""
        return Position(self._cursor, self._memory.dump(), self._skipped)

    # -- what is to be sent ------------------------------------------------------------------

    async def _next_offer(self) -> _Offer | None:
        """News beyond the cursor; None when there are none, and then the cursor is at the newest."""
        while not self._stream.closed:
            page = await self._page()
            if page is None:
                continue
            self._note_missed(page.missed)
            news = self._news(page)
            if news or self._missed is not None:
                self._well(waiting=news)
                return _Offer(news, self._missed, page.next_cursor)
            self._cursor = self.health.cursor = page.next_cursor
            self._well(waiting=())
            self._save_now_and_then()
            if page.next_cursor >= self._stream.newest:
                return None
        return None

    def _note_missed(self, missed: Missed | None) -> None:
        """Remember it until the receiver was told; a stretch that grows is one."""
        known = self._missed
        if missed is None or missed.last <= (known.last if known is not None else self._told_missed):
            return
        if known is None:
            self.health.missed += 1
            _log.error("sink %s: %s", self._config.name, sentence_of_missed(missed))
        first = known.first if known is not None else max(missed.first, self._told_missed + 1)
        self._missed = Missed(first, missed.last)

    async def _page(self) -> Page | None:
        """The next page; None when there is none to be had, after a pause if need be."""
        stream = self._stream
        try:
            return await stream.page(self._cursor, MOST_EVENTS, stream.resolved(self._memory.reads))
        except UserError as error:
            if self._cursor > stream.newest:
                # Of a stream that is not this one any more: another journal, or a clock that was set back.
                self._note_missed(Missed(1, max(1, stream.newest)))
                self._cursor = stream.newest
            elif not stream.closed:
                await self._pause(Outcome(Fate.AWAY, error.message))
            return None

    def _news(self, page: Page) -> list[Item]:
        items = page.items
        if self._history_until > time.monotonic():
            before = [item for item in items if item.event.last_time_us < self._started_us]
            self._memory.pass_over(before)
            items = [item for item in items if item.event.last_time_us >= self._started_us]
        return self._memory.select(items, self._stream.resolved(self._config.match))

    async def _may_send(self) -> bool:
        """True when it may go out now; False after waiting, in which more may have gathered."""
        wait_s = self._pace.wait_s(time.monotonic())
        if not wait_s:
            return True
        self._gathered = True
        await asyncio.sleep(wait_s)
        return False

    # -- sending -------------------------------------------------------------------------------

    async def _send(self, offer: _Offer) -> None:
        together = self._limit if self._courier.takes_many or not self._gathered else MOST_EVENTS
        if self._alone is not None:
            together = 1
        items = offer.items[:together]
        batch = self._batch(items, offer.missed, self._skipped)
        outcome = await self._try(batch)
        if outcome.is_delivered:
            self._limit = min(MOST_EVENTS, 2 * self._limit) if self._courier.takes_many else 1
            self._taken(items, offer)
            await self._file.settled(SAVE_WITHIN_S)
        elif outcome.fate is Fate.AWAY:
            await self._pause(outcome)
        elif len(items) > 1 and outcome.fate is Fate.CLOSED and self._backoff.failures < TRIES:
            await self._pause(outcome)  # more likely it takes nothing from us than not one of these
        elif len(items) > 1:
            self._say(outcome)
            self._limit = max(1, len(items) // 2)
            self._gathered = False
            if self._limit == 1:
                self._alone, self._tries = items[0].event.id, 0
        else:
            await self._refused(offer, outcome)

    def _batch(
        self, items: Sequence[Item], missed: Missed | None = None, skipped: Sequence[Skipped] = ()
    ) -> Batch:
        return Batch(self._config.name, self._node.name, self._node.wall_us(), items, missed, skipped)

    async def _try(self, batch: Batch) -> Outcome:
        self._pace.take(time.monotonic())
        outcome = await self._courier.send(batch)
        if outcome.is_delivered:
            self.health.deliveries += 1
            self.health.last_delivery_us = self._node.wall_us()
        else:
            self.health.failures += 1
        return outcome

    def _taken(self, items: Sequence[Item], offer: _Offer) -> None:
        """The receiver has these, and the notices that went with them."""
        self._memory.note(items)
        if self.health.state is SinkState.RETRYING:
            _log.info("sink %s: gets through again", self._config.name)
        self.health.delivered += len(items)
        if self._missed is not None:
            self._told_missed = self._missed.last
        self._missed, self._skipped = None, ()
        self._alone, self._tries, self._gathered = None, 0, False
        self._backoff.reset()
        self.health.state, self.health.reason = SinkState.OK, None
        self._advance(items, offer)

    def _advance(self, items: Sequence[Item], offer: _Offer) -> None:
        is_all = len(items) == len(offer.items)
        self._cursor = max(self._cursor, offer.examined if is_all else items[-1].cursor)
        self.health.cursor = self._cursor
        self._well(waiting=offer.items[len(items) :])
        self._save()

    async def _refused(self, offer: _Offer, outcome: Outcome) -> None:
        """A single event, or a notice alone, was not taken."""
        if not offer.items:
            await self._pause(outcome)
            return
        first = offer.items[0]
        if self._alone != first.event.id:
            self._alone, self._tries = first.event.id, 0
        self._tries += 1
        # A receiver that has taken nothing yet may refuse everything: then it is not about this event.
        is_known_to_take = outcome.fate is Fate.REFUSED and self.health.deliveries > 0
        if self._tries >= TRIES and (is_known_to_take or await self._takes_later(offer)):
            self._give_up(first, outcome, offer)
            return
        await self._pause(outcome)

    async def _takes_later(self, offer: _Offer) -> bool:
        """True when the receiver takes the event after the one that it refuses: it is that one."""
        if len(offer.items) < 2:
            return False
        later = offer.items[1:2]
        if not (await self._try(self._batch(later))).is_delivered:
            return False
        self._memory.note(later)
        self.health.delivered += 1
        return True

    def _give_up(self, item: Item, outcome: Outcome, offer: _Offer) -> None:
        skipped = Skipped(item.cursor, item.event.id, outcome.said)
        _log.error(
            "sink %s: gave up event %s at cursor %d after %d tries: %s",
            *(self._config.name, clean(item.event.id, 64), item.cursor, self._tries, outcome.said),
        )
        self._memory.note([item])
        self._skipped = (*self._skipped, skipped)[-MOST_SKIPPED_TOLD:]
        self.health.skipped += 1
        self.health.last_skipped = f"{item.event.id}: {outcome.said}"
        self._alone, self._tries = None, 0
        self._backoff.reset()
        self._advance([item], offer)

    async def _rest(self) -> None:
        """Until something comes, or it is time for upkeep."""
        wait_s = self._upkeep.wait_s() if self._upkeep is not None else None
        try:
            async with asyncio.timeout(wait_s):
                await self._stream.wait_beyond(self._cursor)
        except TimeoutError:
            return
        await asyncio.sleep(0)  # those who listen go first: they were woken in the same turn

    async def _upkeep_if_due(self) -> None:
        if self._upkeep is None or self._upkeep.wait_s() != 0:
            return
        outcome = await self._upkeep.run(self._cursor)
        if outcome.is_delivered:
            self._save()
        else:
            self.health.failures += 1
            _log.warning("sink %s: cannot send again what lasts: %s", self._config.name, outcome.said)

    # -- waiting and saving -----------------------------------------------------------------------

    async def _pause(self, outcome: Outcome) -> None:
        """After a failure: say so once, and wait for the next try."""
        self._say(outcome)
        await asyncio.sleep(self._backoff.next_wait_s(outcome.retry_after_s))

    def _say(self, outcome: Outcome) -> None:
        if self.health.reason != outcome.said:
            _log.warning("sink %s does not get through: %s", self._config.name, outcome.said)
        self.health.state, self.health.reason = SinkState.RETRYING, outcome.said

    def _well(self, *, waiting: Sequence[Item]) -> None:
        """Note what waits; with nothing left to send, the last failure is over."""
        self.health.oldest_waiting_us = waiting[0].event.last_time_us if waiting else None
        self.health.trouble = self._file.trouble
        if not waiting and self._missed is None:
            self._backoff.reset()
            self.health.state, self.health.reason = SinkState.OK, None

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        self._file.save(self.position)

    def _save_now_and_then(self) -> None:
        now = time.monotonic()
        # What is passed over as history must not be news to the next process.
        if now - self._saved_at >= SAVE_EVERY_S or now < self._history_until:
            self._save()
