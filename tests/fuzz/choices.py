"""Decisions read from bytes: what makes a generator steerable by a fuzzer.

The same bytes always give the same decisions, so that a file is a test case. Where the bytes end, every
decision is the first one possible: a short input is a simple one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

LOG_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;-_/()[]<>=%#\\'\"@+é→"
"""What the text of a log line is made of: printable, with all that means something to some format."""


class Choices:
    """Takes decisions from the beginning of `data`, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, most: int) -> int:
        """0 to `most`."""
        if most <= 0:
            return 0
        size = (most.bit_length() + 7) // 8
        taken = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "little") % (most + 1)

    def between(self, least: int, most: int) -> int:
        """`least` to `most`."""
        return least + self.number(most - least)

    def flag(self) -> bool:
        """False where the bytes have ended."""
        return self.number(1) == 1

    def one_of(self, options: Sequence[T]) -> T:
        """One of them; the first where the bytes have ended."""
        return options[self.number(len(options) - 1)]

    def raw(self, most: int) -> bytes:
        """At most `most` bytes, as they are."""
        taken = self._data[self._at : self._at + self.number(most)]
        self._at += len(taken)
        return taken

    def word(self, alphabet: str, most: int, *, least: int = 1) -> str:
        """`least` to `most` characters of an alphabet."""
        return "".join(self.one_of(alphabet) for _ in range(self.between(least, most)))

    def rest(self) -> bytes:
        """All that no decision has taken."""
        taken = self._data[self._at :]
        self._at = len(self._data)
        return taken
