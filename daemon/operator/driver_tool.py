"""`nvidia-smi`, the driver's own tool, run with a deadline.

It may hang in the driver where no signal reaches it. So it runs in a thread that is left behind
some time after the deadline, and none is started beside one that was left behind.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final

from daemon.text import clean
from probes.command import CommandError, output_of
from probes.errors import UserError

NAME: Final = "nvidia-smi"
OUTPUT_LINES: Final = 40
LINE_CHARS: Final = 240
DYING_S: Final = 5.0
"""How long after its deadline, when it was sent SIGKILL, its end is waited for."""

_KEPT_BYTES = 64 * 1024
_CHUNK_BYTES = 4 * 1024


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What came of one run."""

    output: str
    """What it printed, both streams, cleaned and cut to `OUTPUT_LINES` lines; "" when nothing came."""
    problem: str | None
    """Why it did not succeed, a clause; None when it did."""


class DriverTool:
    """Runs it, one at a time. Belongs to the event loop."""

    def __init__(self, *, dying_s: float = DYING_S) -> None:
        self._dying_s = dying_s
        self._thread: threading.Thread | None = None

    def path(self) -> str:
        """Where it is. Raises UserError when it is not on the PATH."""
        found = shutil.which(NAME)
        if found is None:
            raise UserError(
                f"the driver's tool {NAME} is not on the PATH of xidwatch",
                hint="install the driver's utilities; in a container, let NVIDIA_DRIVER_CAPABILITIES include "
                "utility",
            )
        return found

    def check_idle(self) -> None:
        """Raises UserError while a run goes on, or one was left behind."""
        if self._thread is not None and self._thread.is_alive():
            raise UserError(
                f"an earlier {NAME} has not returned", hint="wait for it; if it never does, reboot the node"
            )

    async def run(self, command: Sequence[str], *, deadline_s: float) -> ToolRun:
        """Run `command`, whose first part is `path()`. Call it only right after `check_idle`."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        output = bytearray()
        problem: str | None = None

        def run() -> None:
            nonlocal problem
            try:
                problem = _run(command, deadline_s, output)
            finally:
                with suppress(RuntimeError):  # the loop has ended: nobody waits
                    loop.call_soon_threadsafe(done.set)

        self._thread = threading.Thread(target=run, name=NAME, daemon=True)
        self._thread.start()
        try:
            async with asyncio.timeout(deadline_s + self._dying_s):
                await done.wait()
        except TimeoutError:
            stuck = (
                f"{NAME} did not finish within {deadline_s:g} s, and cannot be killed: it hangs in the driver"
            )
            return ToolRun(_shown(bytes(output)), stuck)
        return ToolRun(_shown(bytes(output)), problem)


def _run(command: Sequence[str], deadline_s: float, output: bytearray) -> str | None:
    try:
        with output_of(command, deadline_s=deadline_s, with_errors=True) as stream:
            _read(stream, output)
    except CommandError as error:
        return clean(str(error), LINE_CHARS)
    return None


def _read(stream: IO[bytes], output: bytearray) -> None:
    # To the end, though only the first part is kept: a full pipe would stop it in the middle.
    while chunk := stream.read1(_CHUNK_BYTES):  # type: ignore[attr-defined]  # a pipe is a BufferedReader
        if len(output) < _KEPT_BYTES:
            output += chunk


def _shown(output: bytes) -> str:
    lines = [clean(line.rstrip(), LINE_CHARS) for line in output.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line]
    if len(lines) > OUTPUT_LINES:
        lines = [*lines[:OUTPUT_LINES], f"… {len(lines) - OUTPUT_LINES} more lines"]
    return "\n".join(lines)
