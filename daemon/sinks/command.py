"""A local program for each event: the event as JSON on its standard input, no shell anywhere.

* One event is its public JSON object; what gathered while the program may not be called is one `Batch`,
  and so is what was missed. `XIDWATCH_EVENT_TYPE` says which: `event`, `events` or `test`.
* `XIDWATCH_EVENT_…` hold the same for a script that reads no JSON: of several events those of the most
  severe. What is not known is not set. Values are cleaned: no control character is in them.
* Exit code 0: taken. 75 (EX_TEMPFAIL): not now. Any other, a signal, or the deadline: it did not work.
* It has none of the capabilities that systemd lends the daemon to hear the kernel (`AmbientCapabilities`).
* At the end, whatever it was, everything in its process group is killed. What a process that left its
  group does is its own affair.

It runs in a thread of its own, so that one that hangs holds up nothing but its own sink.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Final

from daemon.event import Event, rfc3339
from daemon.sinks import wording
from daemon.sinks.batch import Batch, sentence_of_missed
from daemon.sinks.news import Memory
from daemon.sinks.outcome import Fate, Outcome
from daemon.sinks.targets import CommandTarget
from daemon.text import clean
from daemon.thread import ClosedError, DiskThread

OUTPUT_CHARS: Final = 300
"""Of what it prints, for the log, when it fails; the rest is read and dropped."""
VALUE_CHARS: Final = 1_024
"""Of a variable. All of them together stay far below the kernel's 128 KiB for one string."""
PREFIX: Final = "XIDWATCH_EVENT_"
_CHUNK: Final = 65_536
"""What a pipe of Linux holds: a larger step would not go further."""
_LOOK_S: Final = 0.05
"""Between two looks at a child that has not ended, where the kernel does not tell."""
_NOT_PASSED_ON: Final = (
    *("XIDWATCH_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "CREDENTIALS_DIRECTORY"),
    "OTEL_",
)
"""Settings of ours, and what systemd tells a service about itself. Those of OpenTelemetry hold secrets."""
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4  # linux/prctl.h


class Command:
    """One program. Belongs to the event loop."""

    takes_many = False

    def __init__(self, name: str, target: CommandTarget, memory: Memory) -> None:
        self._target = target
        self._memory = memory
        self._thread = DiskThread(f"sink {name}")
        # Capabilities belong to a thread, and a program has those of the one that starts it.
        self._thread.submit(_lend_no_capabilities)
        # A byte in this pipe ends what runs.
        self._ending, self._end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._is_open = True

    @property
    def memory(self) -> Memory:
        """What it told."""
        return self._memory

    async def send(self, batch: Batch) -> Outcome:
        """Run it once. When the caller gives up waiting, the program is ended."""
        text, environ = stdin_of(batch), environment(batch)
        try:
            return await self._thread.call(lambda: self._run(text, environ))
        except ClosedError:
            return Outcome(Fate.AWAY, "xidwatch is shutting down")
        except BaseException:
            self._stop()
            raise

    async def close(self) -> None:
        """End what runs."""
        if not self._is_open:
            return
        self._is_open = False
        self._stop()
        self._thread.submit(self._close_pipe)
        self._thread.close()

    def _stop(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._end, b"!")

    def _close_pipe(self) -> None:
        os.close(self._ending)
        os.close(self._end)

    def _run(self, text: bytes, environ: Mapping[str, str]) -> Outcome:
        """In the thread."""
        try:
            process = subprocess.Popen(  # noqa: S603 (an argument list of the administrator's, no shell)
                self._target.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**_own_environment(), **environ},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(Fate.AWAY, f"cannot be started: {(error.strerror or str(error)).lower()}")
        talk = _Talk(process, text, self._ending)
        try:
            ended = talk.until_it_ends(self._target.timeout_s)
        finally:
            # Not yet waited for, so that the number of its group cannot belong to anyone else.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            talk.close()
        if not ended:
            return Outcome(Fate.CLOSED, f"did not end within {self._target.timeout_s:g} s and was killed")
        return outcome_of(code, talk.said)


class _Talk:
    """Feeds a program and hears it out until it ends."""

    def __init__(self, process: subprocess.Popen[bytes], text: bytes, ending: int) -> None:
        self._process = process
        self._left = text
        self._ending = ending
        self._said = b""
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin: IO[bytes] = process.stdin
        self._stdout: IO[bytes] = process.stdout
        self._pidfd = _pidfd(process.pid)
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)

    @property
    def said(self) -> str:
        """The beginning of what it printed, fit for a log."""
        return clean(" ".join(self._said.decode("utf-8", "replace").split()), OUTPUT_CHARS)

    def until_it_ends(self, timeout_s: float) -> bool:
        """True when it ended by itself; False at the deadline, or when we are to end."""
        until = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdin, selectors.EVENT_WRITE)
            selector.register(self._stdout, selectors.EVENT_READ)
            selector.register(self._ending, selectors.EVENT_READ)
            if self._pidfd is not None:
                selector.register(self._pidfd, selectors.EVENT_READ)
            while not _has_ended(self._process.pid):
                left = until - time.monotonic()
                if left <= 0:
                    return False
                for key, _ in selector.select(left if self._pidfd is not None else min(left, _LOOK_S)):
                    if key.fileobj == self._ending:
                        os.read(self._ending, _CHUNK)
                        return False
                    if key.fileobj == self._pidfd:
                        continue
                    if self._write() if key.fileobj is self._stdin else self._read():
                        selector.unregister(key.fileobj)
        self._read()
        return True

    def close(self) -> None:
        """Let go of the pipes."""
        if self._pidfd is not None:
            os.close(self._pidfd)
        for stream in (self._stdin, self._stdout):
            with suppress(OSError):
                stream.close()

    def _write(self) -> bool:
        try:
            self._left = self._left[os.write(self._stdin.fileno(), self._left[:_CHUNK]) :]
        except BlockingIOError:
            return False
        except OSError:  # it does not want to know
            self._left = b""
        if not self._left:
            with suppress(OSError):
                self._stdin.close()
        return not self._left

    def _read(self) -> bool:
        try:
            chunk = os.read(self._stdout.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        self._said += (
            chunk[: 4 * OUTPUT_CHARS - len(self._said)] if len(self._said) < 4 * OUTPUT_CHARS else b""
        )
        return not chunk


def _lend_no_capabilities() -> None:
    """In the thread. It fails only before Linux 4.3, which lends none."""
    ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def _pidfd(pid: int) -> int | None:
    """Becomes readable when the child ends; None before Linux 5.3."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _has_ended(pid: int) -> bool:
    """True for a child that ended and was not waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def outcome_of(code: int, said: str) -> Outcome:
    """What an exit code means; negative: the signal that ended it."""
    words = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
    match code:
        case 0:
            return Outcome(Fate.DELIVERED, words)
        case os.EX_TEMPFAIL:
            fate = Fate.AWAY
        case _:
            fate = Fate.CLOSED
    return Outcome(fate, f"{words}: {said}" if said else words)


def stdin_of(batch: Batch) -> bytes:
    """What the program reads: see the module's docstring."""
    if len(batch.items) == 1 and batch.missed is None and not batch.skipped:
        return batch.items[0].json.encode("ascii") + b"\n"
    return batch.to_json().encode("ascii") + b"\n"


def environment(batch: Batch) -> dict[str, str]:
    """The variables for a batch."""
    is_alone = len(batch.items) == 1 and batch.missed is None and not batch.skipped
    values: dict[str, str | int | None] = {
        "type": "test" if batch.is_test else "event" if is_alone else "events",
        "count": len(batch.items),
        "sink": batch.sink,
        "node": batch.node,
    }
    if batch.items:
        worst = max(batch.items, key=lambda item: item.event.severity.rank)
        values |= {"cursor": worst.cursor, **_values(worst.event)}
        if len(batch.items) > 1:
            values["summary"] = f"{len(batch.items)} events, among them: {wording.headline(worst.event)}"
    if batch.missed is not None:
        values["missed"] = sentence_of_missed(batch.missed)
        values.setdefault("summary", f"{batch.node}: {values['missed']}")
    return {
        PREFIX + name.upper(): clean(str(value), VALUE_CHARS)
        for name, value in values.items()
        if value is not None and str(value)
    }


def _values(event: Event) -> dict[str, str | int | None]:
    gpu = event.gpu
    return {
        "id": event.id,
        "revision": event.revision,
        "kind": event.kind,
        "code": event.code,
        "name": event.name,
        "severity": event.severity,
        "state": wording.state(event),
        "summary": wording.headline(event),
        "action": event.action,
        "action_text": event.action_text,
        "time": rfc3339(event.time_us),
        "repeats": event.count,
        "gpu": event.device,
        "gpu_uuid": gpu.uuid if gpu is not None else None,
        "gpu_index": gpu.index if gpu is not None else None,
        "incident": event.incident,
        "drill": "true" if event.drill else "false",
    }


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
