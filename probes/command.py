"""The one place where a probe starts another program: with a deadline, and never through a shell."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Timer
from typing import IO


class CommandError(Exception):
    """The program could not be started, failed, or ran past its deadline; the message is one clause."""


@contextmanager
def output_of(
    arguments: Sequence[str], *, deadline_s: float, with_errors: bool = False
) -> Iterator[IO[bytes]]:
    """The program's standard output, with `with_errors` its standard error too, to be read within the block.

    At the deadline the program and what it started are killed. Raises CommandError, at the end of the
    block where the program failed after what it wrote.
    """
    name = arguments[0]
    try:
        process = subprocess.Popen(  # noqa: S603 (an argument list; the program is named by the caller)
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if with_errors else subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(f"{name} cannot be started: {(error.strerror or str(error)).lower()}") from None
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        _kill(process)

    timer = Timer(deadline_s, expire)
    timer.daemon = True
    timer.start()
    finished = False
    try:
        assert process.stdout is not None
        yield process.stdout
        finished = True
    finally:
        if not finished:
            _kill(process)
        if process.stdout is not None:
            process.stdout.close()
        code = process.wait()
        timer.cancel()
    if expired:
        raise CommandError(f"{name} did not finish within {deadline_s:g} s")
    if code not in (0, -signal.SIGPIPE):
        raise CommandError(f"{name} failed with exit code {code}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    # Its own session, so that a pager or helper it started goes with it; not yet waited for, so that
    # the number cannot belong to anyone else.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
