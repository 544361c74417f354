"""The token file: read at start, and again when it has changed.

`look` is called with every request and costs one `stat`, which follows symbolic links: Kubernetes changes a
Secret by swapping one. What cannot be used keeps what was read before in force and is said in the log, the
status and the metrics until the file is mended: half a file, a bad line, wrong rights, no file at all.
Nothing polls and nothing is timed. The file has to be local: a mount that hangs would stop the event loop.
"""

from __future__ import annotations

import logging
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daemon import regular_file
from daemon.regular_file import OPEN_TO_OTHERS, UnfitFileError
from mcp_server.tokens import BadLineError, Keyring, Token, parse
from probes.errors import UserError

log = logging.getLogger(__name__)

MOST_BYTES: Final = 256 * 1024
"""A line has some 150 bytes: room for more tokens than a node has clients."""
_FORBIDDEN: Final = stat.S_IWGRP | OPEN_TO_OTHERS
_TICK_S: Final = 0.05
"""A file that changed so recently may change again without another time stamp: the kernel's clock for
them ticks every 1 to 10 ms."""


class TokenFile:
    """The tokens in force. Belongs to the event loop."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """`now` is the wall clock in seconds. Raises UserError when the file is not to be used, or all its
        tokens have expired."""
        self.path = path
        self.problem: str | None = None
        """A clause: why the file as it is now is not in force; None when it is."""
        self._now = now
        self._listeners: list[Callable[[], None]] = []
        self._read_as: tuple[int, ...] | None = None
        self._is_settled = False
        self.keyring = self._read()
        """The tokens in force, those that have expired included."""
        expired = [token.name for token in self.keyring.tokens if token.has_expired(now())]
        if len(expired) == len(self.keyring.tokens):
            raise UserError(
                f"every token in {path} has expired: {', '.join(expired)}",
                hint="make new ones: xidwatch token NAME",
            )
        if expired:
            log.warning("tokens that have expired: %s", ", ".join(expired))

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever other tokens have come into force."""
        self._listeners.append(listener)

    def look(self) -> None:
        """Read the file again if it has changed."""
        try:
            signature = regular_file.signature(self.path.stat())
        except OSError:
            signature = None
        if signature == self._read_as and self._is_settled:
            return
        try:
            fresh = self._read()
        except UserError as error:
            self._read_as = signature  # not again before it changes
            self._is_settled = signature is None or self._settled(signature)
            if error.message != self.problem:
                self.problem = error.message
                hint = f" ({error.hint})" if error.hint else ""
                log.warning("%s%s; the %s read before stay in force", error.message, hint, self._count())
            return
        if self.problem is not None:
            log.info("the token file %s can be used again", self.path)
        self.problem = None
        if fresh.tokens != self.keyring.tokens:
            self._take(fresh)

    def _take(self, fresh: Keyring) -> None:
        before, after = set(self.keyring.tokens), set(fresh.tokens)
        self.keyring = fresh
        log.info(
            "read the token file again: %s; new or changed: %s; gone or changed: %s",
            self._count(),
            _names(after - before),
            _names(before - after),
        )
        for listener in self._listeners:
            listener()

    def _read(self) -> Keyring:
        """What the file holds. Raises UserError."""
        try:
            text, signature = _read(self.path)
            keyring = parse(text)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise UserError(
                f"cannot read the token file {self.path}: {why}",
                hint="its name or its rights are wrong; `xidwatch token NAME` makes a line for it",
            ) from None
        except BadLineError as error:
            raise UserError(f"the token file {self.path} is not to be used: {error}", hint=_HINT) from None
        self._read_as, self._is_settled = signature, self._settled(signature)
        return keyring

    def _settled(self, signature: tuple[int, ...]) -> bool:
        return abs(self._now() - signature[-1] / 1e9) > _TICK_S

    def _count(self) -> str:
        count = len(self.keyring.tokens)
        return f"{count} token{'s' * (count != 1)}"


def _read(path: Path) -> tuple[str, tuple[int, ...]]:
    """Text and signature of one and the same file. Raises OSError, BadLineError and UserError."""
    try:
        content = regular_file.read(path, MOST_BYTES)
    except UnfitFileError as error:
        raise BadLineError(f"it {error}") from None
    if content.status.st_mode & _FORBIDDEN:
        raise UserError(
            f"the token file {path} has mode {stat.S_IMODE(content.status.st_mode):04o}: "
            "others may read or write it",
            hint=f"chmod 600 {path}, or 640 with a group (Kubernetes: defaultMode: 0400)",
        )
    if content.changed:
        raise BadLineError("it changed while it was read")
    try:
        return content.data.decode(), regular_file.signature(content.status)
    except UnicodeDecodeError:
        raise BadLineError("it is no text in UTF-8") from None


def _names(tokens: set[Token]) -> str:
    return ", ".join(sorted(token.name for token in tokens)) or "none"


_HINT = "a line is NAME SCOPE sha256:HASH [expires=TIME], as `xidwatch token NAME` prints it"
