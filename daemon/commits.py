"""Brings what waits in the backlog into the journal, through the writer thread.

One change at a time is under way; what is added meanwhile goes with the next. A commit that takes
longer than `LATE_S` makes the state `slow`, a refused one `failing`; refused changes are tried again
every `RETRY_S`. After each commit, and after its news was told: fdatasync for critical and fatal
events, then one turn of tidying. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from daemon.backlog import Backlog
from daemon.journal import Change
from daemon.page import Marks
from daemon.thread import DiskThread
from daemon.writer import Tidied, Writer, Written

LATE_S = 0.25
"""Seconds after which a push does not wait for its commit any longer."""
RETRY_S = 1.0
"""Seconds between two tries while the disk refuses."""
STUCK_S = 5.0
"""Seconds after which a commit under way counts as hanging: what waits for it is bounded from then on."""
CLOSE_S = 5.0
"""Seconds that `close` waits for the last commit."""

_log = logging.getLogger(__name__)


class JournalState(StrEnum):
    """Whether what is heard is also kept."""

    OK = "ok"
    SLOW = "slow"
    """A commit is taking longer than `LATE_S`: the disk hangs or is overloaded."""
    FAILING = "failing"
    """The last commit was refused; it is tried again every second."""
    OFF = "off"
    """There is no journal: events are in memory only."""


@dataclass(frozen=True, slots=True)
class JournalHealth:
    """State of the journal, for `status`, `/metrics` and `doctor`."""

    state: JournalState
    reason: str | None = None
    """Why it is not `ok`; None when it is."""
    unstored: int = 0
    """Events that wait for the journal now."""
    late: int = 0
    """Items that went out with `stored: false` since start."""
    lost: int = 0
    """Events dropped since start because the journal took nothing for too long."""
    failures: int = 0
    """Commits refused since start."""
    last_error: str | None = None
    """The last thing that went wrong since start, even if it is mended."""
    notes: tuple[str, ...] = ()
    """What people should know of this run: a broken journal was set aside; the limit of its size is lower
    than what is always kept."""

    def to_dict(self) -> dict[str, object]:
        """As JSON for `status`."""
        return {
            "state": str(self.state),
            "reason": self.reason,
            "unstored": self.unstored,
            "late": self.late,
            "lost": self.lost,
            "failures": self.failures,
            "last_error": self.last_error,
            "notes": list(self.notes),
        }


class Outcomes(Protocol):
    """Who is told, in the event loop. Must not raise."""

    def on_written(self, change: Change, marks: Marks) -> None:
        """The change is in the journal, which reaches this far."""

    def on_late(self) -> None:
        """The journal is slow or failing: do not wait for it."""

    def on_deleted(self, cursors: Sequence[int], marks: Marks) -> None:
        """Retention deleted these items."""

    def on_opened(self, marks: Marks) -> None:
        """The journal could be opened after all; it already held this."""

    def on_replaced(self) -> None:
        """The journal was broken and is gone: put into the backlog what memory still holds."""


class Commits:
    """See the module's docstring."""

    def __init__(self, writer: Writer, backlog: Backlog, outcomes: Outcomes, *, has_items: bool) -> None:
        self.state = JournalState.OK
        self.reason: str | None = None
        self.last_error: str | None = None
        self.failures = 0
        self.notes: list[str] = []
        self._writer = writer
        self._backlog = backlog
        self._outcomes = outcomes
        self._has_items = has_items
        self._loop = asyncio.get_running_loop()
        self._thread = DiskThread("journal-writer")
        self._under_way: Change | None = None
        self._came_back = asyncio.Event()
        # No change that is not yet stored was added before this time of the loop.
        self._waiting_since = 0.0
        self._late_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._aged_timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._thread.submit(lambda: self._tidy(look_for_aged=True))
        self._arm_aged_timer()

    @property
    def is_stuck(self) -> bool:
        """True while the journal takes nothing at all; a disk that is only slow is not stuck."""
        hanging = self._loop.time() - self._waiting_since > STUCK_S
        return self.state is JournalState.FAILING or (self.state is JournalState.SLOW and hanging)

    def send(self) -> None:
        """Something was added to the backlog: commit it as soon as possible."""
        if self._under_way is None and self._retry_timer is None:
            self._waiting_since = self._loop.time()
            self._send()

    def fail(self, reason: str) -> None:
        """The journal could not be opened: try again in a while."""
        self._set_failing(reason)
        self._retry_timer = self._loop.call_later(RETRY_S, self._retry)

    def look_into(self, error: Exception) -> None:
        """A reader failed with this error: if the file is broken, set it aside."""
        self._thread.submit(lambda: self._thread.tell(self._on_looked_into, self._writer.replace(error)))

    async def close(self) -> None:
        """Commit what waits, once, and close the journal; gives a hanging disk up after `CLOSE_S`."""
        self._closing = True
        for timer in (self._retry_timer, self._aged_timer):
            if timer is not None:
                timer.cancel()
        self._retry_timer = None
        if self._backlog:
            self.send()
        try:
            async with asyncio.timeout(CLOSE_S):
                while self._under_way is not None:
                    self._came_back.clear()
                    await self._came_back.wait()
                await self._thread.call(self._writer.close)
        except TimeoutError:
            _log.error("the disk hangs: %d events were not stored", len(self._backlog))
        self._stop_late_timer()
        self._thread.close()

    def _send(self) -> None:
        change = self._backlog.change()
        self._under_way = change
        self._late_timer = self._loop.call_at(self._waiting_since + LATE_S, self._on_late)
        self._thread.submit(lambda: self._work(change))

    def _work(self, change: Change) -> None:
        """In the writer thread: first the news, then what may take long."""
        written = self._writer.write(change)
        self._thread.tell(self._on_written, change, written, self._loop.time())
        if written.error is None:
            if change.is_severe and (trouble := self._writer.sync()):
                self._thread.tell(self._on_trouble, trouble)
            self._tidy()

    def _tidy(self, *, look_for_aged: bool = False) -> None:
        """In the writer thread: one turn; the next one goes behind the commits that wait by then."""
        tidied = self._writer.tidy(look_for_aged=look_for_aged)
        if tidied.deleted or tidied.error or tidied.note:
            self._thread.tell(self._on_tidied, tidied)
        if tidied.again:
            self._thread.submit(self._tidy)

    def _on_written(self, change: Change, written: Written, at: float) -> None:
        self._under_way = None
        self._came_back.set()
        self._stop_late_timer()
        if written.opened is not None:
            self._outcomes.on_opened(written.opened)
        if written.note is not None:
            self.notes.append(written.note)
        if written.replaced:
            self._outcomes.on_replaced()
        if written.error is not None or written.marks is None:
            self.failures += 1
            self._set_failing(written.error or "unknown")
            if not self._closing:
                self._retry_timer = self._loop.call_later(RETRY_S, self._retry)
            return
        if self.state is not JournalState.OK:
            _log.warning("the journal takes events again")
        self.state, self.reason = JournalState.OK, None
        self._backlog.written(change)
        self._note_items(written.marks)
        self._outcomes.on_written(change, written.marks)
        if self._backlog:
            # Added while that commit was under way: at the latest when it ended.
            self._waiting_since = at
            self._send()

    def _on_late(self) -> None:
        self._late_timer = None
        if self.state is JournalState.OK:
            self.state = JournalState.SLOW
            self.reason = (
                f"a commit is taking longer than {LATE_S * 1000:.0f} ms: the disk hangs or is overloaded"
            )
            _log.warning("%s; events go out with stored: false", self.reason)
        self._outcomes.on_late()

    def _set_failing(self, error: str) -> None:
        if self.state is not JournalState.FAILING or error != self.last_error:
            _log.error("the journal takes no events (%s); they go out with stored: false", error)
        self.state, self.reason, self.last_error = JournalState.FAILING, error, error
        self._outcomes.on_late()

    def _retry(self) -> None:
        self._retry_timer = None
        self._waiting_since = self._loop.time()
        self._send()

    def _on_looked_into(self, written: Written) -> None:
        if written.replaced:
            self.notes.append(written.note or "")
            self.last_error = written.error
            self._outcomes.on_replaced()
            self.send()

    def _on_tidied(self, tidied: Tidied) -> None:
        if tidied.error is not None:
            self._on_trouble(tidied.error)
        if tidied.note is not None and tidied.note not in self.notes:
            _log.warning("%s", tidied.note)
            self.notes.append(tidied.note)
        if tidied.marks is not None:
            self._note_items(tidied.marks)
            self._outcomes.on_deleted(tidied.deleted, tidied.marks)

    def _on_trouble(self, trouble: str) -> None:
        if trouble != self.last_error:
            _log.error("%s", trouble)
        self.last_error = trouble

    def _note_items(self, marks: Marks) -> None:
        self._has_items = marks.oldest > 0
        self._arm_aged_timer()

    def _arm_aged_timer(self) -> None:
        """While anything is kept, look for aged items now and then; an empty journal needs no timer."""
        if self._aged_timer is None and self._has_items and not self._closing:
            self._aged_timer = self._loop.call_later(self._writer.tidy_s, self._on_aged_timer)

    def _on_aged_timer(self) -> None:
        self._aged_timer = None
        self._thread.submit(lambda: self._tidy(look_for_aged=True))
        self._arm_aged_timer()

    def _stop_late_timer(self) -> None:
        if self._late_timer is not None:
            self._late_timer.cancel()
            self._late_timer = None
