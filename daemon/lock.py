"""The lock that keeps two daemons from writing to one state directory.

The lock is a flock(2) on the directory itself: that needs no write, so it holds on a full and on a
read-only disk, and the kernel lets go of it when the process ends, however it ends. The file `lock` in
the directory holds the pid of the owner, for the message to the one who comes second.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import Self

from daemon.state_dir import make_state_dir, unusable
from probes.errors import UserError

FILE_NAME = "lock"
WAIT_S = 30.0
"""How long a held directory is waited for: longer than a predecessor takes to end."""

_RETRY_S = 0.1
_log = logging.getLogger(__name__)


class StateLock:
    """The held lock; `release` it last, after the journal was closed."""

    def __init__(self, descriptor: int, *, waited: bool = False) -> None:
        self._descriptor: int | None = descriptor
        self.waited = waited
        """True when another process held the directory first."""

    @classmethod
    async def acquire(cls, state_dir: Path, *, wait_s: float = WAIT_S) -> Self:
        """Lock the directory, created if needed, waiting up to `wait_s` for another daemon to end.

        Raises UserError naming the pid that holds it, or why the directory cannot be used.
        """
        make_state_dir(state_dir)
        try:
            descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise unusable(state_dir, error) from None
        try:
            waited = await _lock(descriptor, state_dir, wait_s)
        except OSError as error:  # a network file system that has no locks
            os.close(descriptor)
            raise unusable(state_dir, error) from None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, waited=waited)

    def release(self) -> None:
        """Let go of the directory; doing so twice does no harm."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_held(state_dir: Path) -> bool:
    """Whether a process holds this directory now, or that cannot be told. Never raises."""
    try:
        descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


async def _lock(descriptor: int, state_dir: Path, wait_s: float) -> bool:
    """Take the lock; True when it had to be waited for."""
    end = time.monotonic() + wait_s
    told = False
    while not _try_lock(descriptor):
        if time.monotonic() >= end:
            raise UserError(
                f"the state directory {state_dir} is in use by {_holder(state_dir)}",
                hint="stop that daemon, or give this one its own --state-dir",
            )
        if not told:
            _log.warning("waiting for %s, which holds %s", _holder(state_dir), state_dir)
            told = True
        # A blocking flock would need a thread that cannot be cancelled; this loop ends with wait_s.
        await asyncio.sleep(min(_RETRY_S, wait_s))
    _write_pid(state_dir)
    return told


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_pid(state_dir: Path) -> None:
    """Leave our pid for the message of others; a disk may take none, and the lock holds all the same."""
    try:
        (state_dir / FILE_NAME).write_text(f"{os.getpid()}\n")
    except OSError as error:
        _log.warning("cannot write the pid into the lock file: %s", error.strerror)


def _holder(state_dir: Path) -> str:
    try:
        pid = (state_dir / FILE_NAME).read_bytes()[:32].strip()
        # A holder that could not write leaves the pid of the one before it, which has ended.
        alive = pid.isdigit() and Path(f"/proc/{int(pid)}").exists()
    except OSError:
        alive = False
    return f"process {int(pid)}" if alive else "another process"
