"""A TOML table of the user's, taken apart with errors that name the table and the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from daemon.settings import did_you_mean
from probes.errors import UserError

T = TypeVar("T")


class Table:
    """A TOML table that is taken apart key by key; what is left over at the end is unknown."""

    def __init__(self, values: Mapping[str, Any], what: str) -> None:
        self.what = what
        self._values = dict(values)
        self._known: list[str] = []

    def refuse(self, message: str, hint: str | None = None) -> UserError:
        """The error to raise, with the name of the table in front."""
        return UserError(f"{self.what}: {message}", hint=hint)

    def text(self, key: str, parse: Callable[[str], T], default: str | None = None) -> T:
        """The parsed text of a key; `default` is a text, too. Raises UserError."""
        value = self._take(key, default)
        if value is None:
            raise self.refuse(f"{key} is missing")
        if not isinstance(value, str):
            raise self.refuse(f"{key}: {value!r} is not a text")
        return self.checked(key, parse, value)

    def optional(self, key: str, parse: Callable[[str], T]) -> T | None:
        """The same for a key that may be absent: None then."""
        if key in self._values:
            return self.text(key, parse)
        self._known.append(key)
        return None

    def switch(self, key: str) -> bool:
        """True or false; false when absent."""
        value = self._take(key, False)
        if not isinstance(value, bool):
            raise self.refuse(f"{key}: {value!r} is not true or false")
        return value

    def number(self, key: str, default: int, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.refuse(f"{key}: {value!r} is not a whole number from {least} to {most}")
        return value

    def words(self, key: str) -> list[str]:
        """A list of texts or whole numbers, or one of them alone."""
        value = self._take(key, [])
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str | int) and not isinstance(each, bool) for each in values):
            raise self.refuse(f"{key}: {value!r} is not a list of texts or numbers")
        return [str(each) for each in values]

    def pairs(self, key: str) -> dict[str, str]:
        """A table of texts; empty when absent."""
        value = self._take(key, {})
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise self.refuse(f"{key}: not a table of texts")
        return value

    def done(self) -> None:
        """Everything known was taken: refuse what is left."""
        for key in self._values:
            hint = did_you_mean(key, self._known) or f"known keys: {', '.join(sorted(self._known))}"
            raise self.refuse(f"unknown key {key!r}", hint)

    def _take(self, key: str, default: object) -> object:
        self._known.append(key)
        return self._values.pop(key, default)

    def checked(self, key: str, parse: Callable[[str], T], value: str) -> T:
        """A text parsed, its errors with the key in front."""
        try:
            return parse(value)
        except UserError as error:
            raise self.refuse(f"{key}: {error.message}", error.hint) from None
