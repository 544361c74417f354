"""Bearer tokens: how they are made, what a line of the token file says, and which one a secret is.

A line holds a name, a scope, a hash, and if wanted an end:

    # name    scope    hash of the secret   end (optional)
    grafana   read     sha256:4f2a…         expires=2027-06-30
    on-call   operate  sha256:91bc…

The file never holds a secret, so a copy of it (a backup, a Kubernetes Secret, a commit) lets nobody in. A
secret is 256 random bits with a prefix that secret scanners can look for. Nobody can guess that, so one
round of SHA-256 protects it as well as a slow password hash would, which would cost every request tens of
milliseconds. What does not look like such a secret is never accepted: a hash of a word that somebody chose
lets nobody in.

Standard library only: `xidwatch token` uses it too.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from mcp_server.identity import Scope

MOST_TOKENS: Final = 1_000
"""Of a file: every request is compared with all of them."""

_PREFIX: Final = "xidwatch_"
_SECRET = re.compile(_PREFIX + r"[A-Za-z0-9_-]{43}")
_ANYWHERE = re.compile(_PREFIX + r"[A-Za-z0-9_-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


class BadLineError(ValueError):
    """A line of a token file is wrong. The message is one clause that never quotes what could be a secret."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token, without its secret; a value."""

    name: str
    scope: Scope
    digest: str
    """SHA-256 of the secret, in hexadecimal digits."""
    expires: float | None
    """When it ends, in seconds since the Unix epoch; None: never."""

    def has_expired(self, now: float) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now

    @property
    def key(self) -> str:
        """Another for the same name when anything else of the line has changed."""
        return f"token\0{self.line()}"

    def line(self) -> str:
        """As the token file holds it."""
        end = ""
        if self.expires is not None:
            when = datetime.fromtimestamp(self.expires, UTC).isoformat(timespec="seconds")
            end = f"  expires={when.replace('+00:00', 'Z')}"
        return f"{self.name}  {self.scope.value}  sha256:{self.digest}{end}"


class Keyring:
    """The tokens of a file; a value."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self.tokens = tuple(tokens)
        """In the order of the file."""
        self.keys = frozenset(token.key for token in self.tokens)

    def find(self, secret: str) -> Token | None:
        """The token with this secret, whether or not it has expired. Looks at all of them, each for as long
        as any other: how long it takes says nothing about how near a guess was."""
        digest = _digest_of(secret)
        found = None
        for token in self.tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def is_secret(text: str) -> bool:
    """Whether this looks like the secret of a token file's token."""
    return _SECRET.fullmatch(text) is not None


def without_secrets(text: str) -> str:
    """The text with whatever could be a secret, or the beginning of one, made unreadable."""
    return _ANYWHERE.sub(f"{_PREFIX}…", text)


def new_secret() -> str:
    """A secret that nobody has."""
    return _PREFIX + secrets.token_urlsafe(32)


def token_of(secret: str, name: str, scope: Scope, expires: float | None = None) -> Token:
    """The token with this secret. Raises ValueError for a bad name."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(_NAME_RULE)
    return Token(name, scope, _digest_of(secret), expires)


def parse(text: str) -> Keyring:
    """The tokens of a file. Raises BadLineError."""
    if not text.endswith("\n"):
        raise BadLineError("the last line has no end: the file may be half-written")
    found: dict[str, Token] = {}
    lines_of: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            token = _parse_line(words)
            if token.name in lines_of:
                raise BadLineError(f"the name {token.name} is in line {lines_of[token.name]} already")
            if (other := found.get(token.digest)) is not None:
                raise BadLineError(f"it has the same secret as {other.name}")
        except BadLineError as error:
            raise BadLineError(f"line {number}: {error}") from None
        found[token.digest] = token
        lines_of[token.name] = number
        if len(found) > MOST_TOKENS:
            raise BadLineError(f"it holds more than {MOST_TOKENS} tokens")
    if not found:
        raise BadLineError("it holds no token")
    return Keyring(found.values())


def expiry(text: str) -> float:
    """The end that a text names, in seconds since the Unix epoch: an RFC 3339 time, or a day, at whose end in
    UTC it is. Raises ValueError."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        day_after = date.fromisoformat(text) + timedelta(days=1)
        return datetime.combine(day_after, time(), UTC).timestamp()
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("it names no time zone")
    # In UTC a time near the ends of the calendar may lie outside of it; then it could not be shown.
    return when.astimezone(UTC).timestamp()


def _parse_line(words: list[str]) -> Token:
    name, *rest = words
    if _NAME.fullmatch(name) is None:
        raise BadLineError(_NAME_RULE)
    if len(rest) not in (2, 3):
        raise BadLineError("it is not NAME SCOPE sha256:HASH [expires=TIME]")
    try:
        scope = Scope(rest[0])
    except ValueError:
        raise BadLineError(f"the scope is none of {', '.join(Scope)}") from None
    hashed = _HASH.fullmatch(rest[1])
    if hashed is None:
        raise BadLineError("the third word is not sha256: and 64 hexadecimal digits")
    return Token(name, scope, hashed[1], _parse_end(rest[2]) if len(rest) > 2 else None)


def _parse_end(word: str) -> float:
    key, _, text = word.partition("=")
    try:
        if key != "expires":
            raise ValueError
        return expiry(text)
    except (ValueError, OverflowError):
        raise BadLineError("the end is not expires=2027-06-30 or expires=2027-06-30T12:00:00Z") from None


def _digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


_NAME_RULE = "a name is 1 to 64 letters, digits or ._@- and begins with a letter or digit"
