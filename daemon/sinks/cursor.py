"""Where a sink is in the stream, kept in a file of its own: `STATE_DIR/sinks/NAME.json`.

Contract:

* The file is replaced as a whole (written beside, synced, renamed): after a kill, or the death of the
  kernel, it is the old one or the new one.
* It is not in the journal, so that it outlives a journal that is lost: the sink then learns from the
  stream what it has missed.
* Nothing here blocks the event loop. One write at a time is under way; what changes meanwhile goes with
  the next. A disk that refuses is a state, told by `trouble`, and is tried again every `RETRY_S` until it
  takes the file. Delivery goes on: what was sent and not noted is sent again after a restart.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from daemon.sinks.batch import Skipped
from daemon.thread import ClosedError, DiskThread

FOLDER: Final = "sinks"
RETRY_S: Final = 30.0
"""A full disk is seldom made room on sooner, and each try is a line of work for it."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""Larger than any state that is written."""
_VERSION: Final = 1

_log = logging.getLogger(__name__)


class UnreadableError(Exception):
    """The file is there, and holds no state that this version reads; the message is one clause."""


@dataclass(frozen=True, slots=True)
class Position:
    """What a restart goes on from."""

    cursor: int
    """Everything up to it was sent, or did not have to be."""
    memory: dict[str, Any] = field(default_factory=dict)
    """What `Memory.dump` gave."""
    skipped: tuple[Skipped, ...] = ()
    """Given up, and the receiver not yet told."""

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps(
            {
                "version": _VERSION,
                "cursor": self.cursor,
                "memory": self.memory,
                "skipped": [each.to_dict() for each in self.skipped],
            }
        )

    @classmethod
    def parse(cls, text: str) -> Position:
        """The inverse. Raises UnreadableError."""
        try:
            data = json.loads(text)
            if data["version"] != _VERSION:
                raise UnreadableError(f"it is of version {data['version']}, this program knows {_VERSION}")
            skipped = tuple(Skipped.load(each) for each in data["skipped"])
            return cls(int(data["cursor"]), dict(data["memory"]), skipped)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UnreadableError(f"it holds no cursor ({type(error).__name__})") from None


class CursorFile:
    """The file of one sink. Belongs to the event loop; `disk` may be shared."""

    def __init__(self, path: Path, disk: DiskThread) -> None:
        self.trouble: str | None = None
        """Why the last write failed; None when it did not."""
        self._path = path
        self._disk = disk
        self._wanted: Callable[[], Position] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    async def read(self) -> Position | None:
        """What the last run left; None for a sink that is new. Raises UnreadableError."""
        text = await self._disk.call(self._read)
        return None if text is None else Position.parse(text)

    def save(self, position: Callable[[], Position]) -> None:
        """Write what `position` gives when its turn comes, in place of what still waits."""
        self._wanted = position
        if self._writing is None:
            self._write_soon()

    async def settled(self, timeout_s: float) -> None:
        """Return when nothing waits to be written, a write has failed, or the time is up."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=timeout_s)

    def close(self) -> None:
        """No more tries."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _write_soon(self) -> None:
        self.close()
        self._writing = asyncio.get_running_loop().create_task(self._write_all(), name="sink cursor")

    async def _write_all(self) -> None:
        try:
            while self._wanted is not None:
                position, self._wanted = self._wanted, None
                now = position()
                try:
                    await self._disk.call(partial(self._write, now))
                except OSError as error:
                    self._failed(error)
                    self._wanted = self._wanted or position
                    return
                self.trouble = None
        except ClosedError:
            self._wanted = None
        finally:
            self._writing = None

    def _failed(self, error: OSError) -> None:
        trouble = f"cannot save the cursor in {self._path}: {(error.strerror or str(error)).lower()}"
        if trouble != self.trouble:
            _log.error("%s; after a restart some alarms may come twice", trouble)
        self.trouble = trouble
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._write_soon)

    def _read(self) -> str | None:
        try:
            with self._path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnreadableError(f"it cannot be read: {(error.strerror or str(error)).lower()}") from None
        if len(content) > MOST_BYTES:
            raise UnreadableError("it is too large")
        return content.decode("utf-8", "replace")

    def _write(self, position: Position) -> None:
        """In the thread."""
        self._path.parent.mkdir(mode=0o750, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        try:
            with fresh.open("wb") as file:
                file.write(position.to_json().encode("ascii"))
                file.flush()
                os.fdatasync(file.fileno())
            fresh.replace(self._path)
        except OSError:
            with suppress(OSError):
                fresh.unlink()
            raise


def path_of(state_dir: Path, name: str) -> Path:
    """Where the sink of this name keeps its cursor."""
    return state_dir / FOLDER / f"{name}.json"


def forget_others(folder: Path, names: Collection[str]) -> None:
    """Remove the cursors of what is not configured any more: one that is added again later must not be sent
    all that happened meanwhile. For the disk's thread."""
    with suppress(OSError):
        for path in sorted(folder.glob("*.json")):
            if path.stem not in names:
                path.unlink()
                _log.info("forgot the cursor of %s: it is not configured any more", path.stem)
