"""The file of the unix socket: made, taken over when nobody answers on it any more, removed."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from probes.errors import UserError

MODE: Final = 0o660
"""Whoever may write to the file may read events."""


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A listening socket and its file."""

    path: Path
    bound: socket.socket
    _identity: tuple[int, int, int]

    def remove(self) -> None:
        """Remove the file, unless another daemon has put its own there since."""
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._identity:
                self.path.unlink()


def bind(path: Path) -> SocketFile:
    """Listen at `path`; a file on which no server answers is replaced. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
    except OSError as error:
        raise _cannot_listen(path, error) from error
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~MODE)  # so that there is no moment with another mode
    try:
        bound.bind(str(path))
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise _cannot_listen(path, error) from error
    finally:
        os.umask(before)
    bound.setblocking(False)
    return SocketFile(path, bound, _identity(path))


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    # Inode numbers are used again at once. The modification time of a socket is that of its birth.
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UserError(f"{path} exists and is not a socket", hint="remove it, or choose with --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its backlog is full: someone is there
    raise UserError(f"another process serves {path}", hint="stop it, or choose with --socket")


def _cannot_listen(path: Path, error: OSError) -> UserError:
    if error.errno is None:  # Python itself refuses a path that does not fit sockaddr_un
        return UserError(f"socket path {path} is too long", hint="at most 107 bytes: choose with --socket")
    hint = {
        errno.EACCES: "run as a user who may write there, or choose with --socket",
        errno.EROFS: "the file system is read-only: choose with --socket",
        errno.EADDRINUSE: "another process has just taken it",
    }.get(error.errno, "choose another with --socket")
    return UserError(f"cannot listen on {path}: {error.strerror}", hint=hint)
