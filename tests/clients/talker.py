"""Foreign processes: ones that run to their end, and ones that tell what happens line by line."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from tests.support.daemon import ROOT, clean_environment
from tests.support.waiting import DEADLINE_S


def output_of(command: Sequence[str]) -> str:
    """What a command prints; AssertionError with its last words when it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=ROOT,
        env=clean_environment(),
        check=False,
    )
    said = (done.stderr or done.stdout).strip()[-800:]
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {said}"
    return done.stdout


class Talker:
    """A process that tells what happens as lines on stdout; its stdin is closed to have it end.

    With `cut` it is a process that never ends by itself, and is killed.
    """

    def __init__(self, command: Sequence[str], *, cut: bool = False) -> None:
        self._cut = cut
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=clean_environment(),
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Talker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdin.close()
        try:
            if self._cut or kind is not None:
                self._process.kill()
            self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the client did not end: {self._last_words()}") from None
        finally:
            for thread in self._threads:
                thread.join(DEADLINE_S)
            self._process.stdout.close()
            self._process.stderr.close()

    @property
    def has_said(self) -> bool:
        """Whether a line waits, or the end."""
        return not self._lines.empty()

    def line(self) -> str:
        """The next line."""
        line = self._next()
        if line is None:
            raise AssertionError(f"the client ended: {self._last_words()}")
        return line

    def rest(self) -> str:
        """Everything it still says until its end; AssertionError with its last words when it fails."""
        said = "".join(iter(self._next, None))
        code = self._process.wait(DEADLINE_S)
        assert code == 0, f"the client ended with {code}: {self._last_words()}"
        return said

    def _next(self) -> str | None:
        try:
            return self._lines.get(timeout=2 * DEADLINE_S)
        except queue.Empty:
            raise AssertionError(f"the client said nothing more: {self._last_words()}") from None

    def told(self, what: str) -> dict[str, Any]:
        """The next object on a line that has this key; others before it are passed over."""
        while True:
            said = json.loads(self.line())
            assert isinstance(said, dict)
            if what in said:
                return said

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    def _last_words(self) -> str:
        self._threads[1].join(1)  # when it has ended, there may be more
        return "".join(self._errors[-40:]).strip()[-1500:]
