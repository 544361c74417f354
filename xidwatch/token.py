"""`xidwatch token`: make a bearer token.

The secret goes to stdout, once and alone on its line, so that it can be piped to where it is kept. The line
for the token file, which holds only a hash, goes into the file that is named, or to stderr. Standard library
only.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from daemon.units import duration_us
from mcp_server.identity import Scope
from mcp_server.tokens import BadLineError, Token, expiry, new_secret, parse, token_of
from probes.errors import UserError


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the token is to be."""

    name: str
    scope: Scope = Scope.READ
    expires: str | None = None
    """A day, a time, or how long it is good: `90d`. None: without end."""
    file: Path | None = None
    """The token file to add it to; made when it is not there. None: the line is printed."""


def run(wanted: Wanted, *, out: TextIO, err: TextIO) -> int:
    """Make the token and print its secret. Raises UserError."""
    secret = new_secret()
    try:
        token = token_of(secret, wanted.name, wanted.scope, _end(wanted.expires))
    except ValueError as error:
        raise UserError(f"{wanted.name!r} is no name for a token: {error}") from None
    if wanted.file is not None:
        _add(token, wanted.file)
        print(f"added {token.name} to {wanted.file}; a running daemon takes it up by itself", file=err)
    else:
        print(f"the line for the token file:\n{token.line()}\nthe secret, shown only now:", file=err)
    err.flush()
    print(secret, file=out)
    return 0


def _end(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return int(time.time()) + duration_us(text) / 1e6
    except UserError:
        pass
    try:
        return expiry(text)
    except (ValueError, OverflowError):
        raise UserError(
            f"--expires {text!r} is no end", hint="write 90d, 2027-06-30, or 2027-06-30T12:00:00Z"
        ) from None


def _add(token: Token, path: Path) -> None:
    """Add the token's line. Raises UserError."""
    path = path.resolve()  # of a symbolic link the target is replaced, not the link
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)  # two at once would lose one of the lines
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            text = f"{before}{token.line()}\n"
            parse(text)
            _replace(path, text)
        finally:
            os.close(directory)
    except BadLineError as error:
        hint = "choose another name, or mend the file"
        raise UserError(f"{path} stays as it is: {error}", hint=hint) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} stays as it is: it is no text in UTF-8", hint="name a token file") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"cannot write the token file {path}: {why}", hint="run as its owner") from None


def _replace(path: Path, text: str) -> None:
    """Put another file there, with the rights of the one before: nobody ever reads half of it."""
    before = path.stat() if path.exists() else None
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)  # of a run that was killed
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if before is not None:
                os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
