"""What a process of the load has to know, and how it is started, stopped and asked for what it saw."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

NICENESS: Final = 5
"""The load gives way to the daemon: what is to be found is what the daemon keeps, not what it cannot do."""

MOST_WRONG: Final = 20
"""Wrong answers that are kept in words; all are counted."""

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Place:
    """The daemon as its clients know it."""

    port: int
    """On 127.0.0.1."""
    socket: Path
    token: str
    """Shown with every HTTP request."""
    token_file: Path
    since: int
    """Newest cursor as the load began: every reader begins there."""
    rare_reader_s: float


@dataclass(slots=True)
class Told:
    """What a process of the load saw, handed back at its end."""

    counts: Counter[str] = field(default_factory=Counter)
    """What was done how often, by name."""
    wrong: list[str] = field(default_factory=list)
    """Answers that no client should get; the first few."""

    def complain(self, what: str) -> None:
        """Note a wrong answer."""
        self.counts["wrong answers"] += 1
        if len(self.wrong) < MOST_WRONG:
            self.wrong.append(what[:500])


@dataclass(frozen=True, slots=True)
class Orders:
    """What a process of the load is given beside the place."""

    leave: Event
    """Set when the load is taken away."""
    reached: Synchronized[int]
    """The cursor up to which a reader has read; a process that reads nothing leaves it at 0."""
    seed: int

    def chance(self) -> random.Random:
        """Its own random numbers, the same in every run with this seed."""
        return random.Random(self.seed)

    def pause(self, seconds: float) -> bool:
        """Wait; True when it is time to leave."""
        return self.leave.wait(seconds)


Work = Callable[[Place, Orders], object]
"""What a process does until it has to leave; what it returns is handed back."""


class Worker:
    """One process of the load."""

    def __init__(self, work: Work, place: Place, seed: int) -> None:
        self.name = work.__name__
        self.reached: Synchronized[int] = _SPAWN.Value("q", 0)
        self._leave = _SPAWN.Event()
        self._told, theirs = _SPAWN.Pipe(duplex=False)
        self._process = _SPAWN.Process(
            target=_run, args=(work, place, Orders(self._leave, self.reached, seed), theirs), name=self.name
        )
        self._process.start()
        theirs.close()

    def leave(self) -> None:
        """Ask it to end."""
        self._leave.set()

    def must_run(self) -> None:
        """Raises AssertionError when it has ended by itself."""
        if not self._process.is_alive():
            raise AssertionError(f"{self.name} ended with {self._process.exitcode}")

    def told(self, deadline_s: float) -> object:
        """What it hands back. Raises AssertionError when it fails or does not end in time."""
        if not self._told.poll(deadline_s):
            self.kill()
            raise AssertionError(f"{self.name} did not end within {deadline_s:g} s")
        try:
            told: object = self._told.recv()
        except EOFError:
            self._process.join(deadline_s)
            raise AssertionError(f"{self.name} ended with {self._process.exitcode}") from None
        self._process.join(deadline_s)
        return told

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._told.close()


def _run(work: Work, place: Place, orders: Orders, told: Connection) -> None:
    os.nice(NICENESS)
    told.send(work(place, orders))
    told.close()
