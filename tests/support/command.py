"""The `xidwatch` command as a user runs it: a process, its output, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.daemon import ROOT, clean_environment
from tests.support.waiting import DEADLINE_S, wait_for


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


def xidwatch(*arguments: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> Result:
    """Run one command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "xidwatch", *arguments],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env={**clean_environment(), **(environ or {})},
        timeout=DEADLINE_S,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


class Running:
    """A command that goes on; its output so far can be looked at."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stderr is not None
        self._streams = {"out": process.stdout.fileno(), "err": process.stderr.fileno()}
        self._seen = {"out": b"", "err": b""}
        for descriptor in self._streams.values():
            os.set_blocking(descriptor, False)

    def text(self, stream: str = "out") -> str:
        """Everything it has written to `out` or `err` until now."""
        try:
            while chunk := os.read(self._streams[stream], 65_536):
                self._seen[stream] += chunk
        except BlockingIOError:
            pass
        return self._seen[stream].decode()

    def lines(self) -> list[str]:
        """The complete lines of its stdout until now."""
        return self.text().split("\n")[:-1]

    def wait_for_lines(self, count: int) -> list[str]:
        """Its first `count` lines, or more."""
        return wait_for(lambda: found if len(found := self.lines()) >= count else None, f"{count} lines")

    def wait_for_error(self, text: str) -> None:
        """Until `text` stands on its stderr."""
        wait_for(lambda: text in self.text("err"), f"{text!r} on stderr")


@contextmanager
def running(*arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[Running]:
    """A command that runs while the block does."""
    with subprocess.Popen(
        [sys.executable, "-m", "xidwatch", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**clean_environment(), **(environ or {})},
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()
