"""Lets a short-lived process compile, load and attach a program with bcc, and takes its descriptors over.

bcc carries LLVM: 100 MB and more that the daemon shall not have. The child (`bcc_child.py`) inherits
nothing but one end of a socket pair, a pipe for what it prints, and four variables; it lives at most
until the deadline, is killed through a pidfd, which can mean no one else, and dies with this process.
"""

from __future__ import annotations

import array
import json
import mmap
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from probes.bpf.bcc_installed import Installation

CHILD = Path(__file__).with_name("bcc_child.py")
DEADLINE_S = 20.0
"""It takes 0.4 s of CPU time: 8 s where a container has a twentieth of a CPU."""
_AFTER_KILL_S = 5.0
_MESSAGE_BYTES = 64 * 1024
_PRINTED_BYTES = 256 * 1024
_INT_BYTES = array.array("i").itemsize
_MOST_DESCRIPTORS = 253  # SCM_MAX_FD of include/net/scm.h


@dataclass(frozen=True, slots=True)
class Compiled:
    """A running program; its descriptors belong to whoever holds this value."""

    version: str
    """Of bcc: `0.26.0`."""
    hooks: tuple[str, ...]
    """`raw tracepoint console`"""
    lines: int
    counts: int
    programs: tuple[int, ...]
    links: tuple[int, ...]

    def close(self) -> None:
        """Detach and free everything."""
        _close((*self.links, *self.programs, self.lines, self.counts))


@dataclass(frozen=True, slots=True)
class Failed:
    """How far the child came, in its own words."""

    stage: str
    """`import`, `namesake`, `compile`, `load`, `attach`, `maps`."""
    words: str
    errno: int
    """0 when no system call is to blame."""
    printed: str
    """What bcc and its compiler printed."""


@dataclass(frozen=True, slots=True)
class Silent:
    """The child handed nothing over that could be understood."""

    exit_code: int | None
    """Negative: the signal that ended it. None: it was killed at the deadline."""
    printed: str


def compile_and_load(
    program: Path,
    installation: Installation,
    *,
    kernel_source: Path | None,
    includes: Sequence[Path],
    deadline_s: float = DEADLINE_S,
) -> Compiled | Failed | Silent:
    """Start the child and wait for what it makes of `program`.

    `kernel_source` holds the kernel's headers; None: where bcc looks for them itself. `includes` are
    searched after the directory of the program. Raises OSError when no process can be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = subprocess.Popen(  # noqa: S603 (an argument list; interpreter and script are known files)
                [
                    *(str(installation.python), "-I", "-B", str(CHILD)),
                    *(str(os.getpid()), str(theirs.fileno()), str(installation.directory), str(program)),
                    *(f"-I{directory}" for directory in includes),
                    f"-DPAGE_SIZE={mmap.PAGESIZE}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=_environment(kernel_source),
                cwd=program.parent,
                start_new_session=True,
            )
        with _Child(process, ours) as child:
            code = child.wait(deadline_s)
            return child.answer() or Silent(code, child.printed)


def _environment(kernel_source: Path | None) -> Mapping[str, str]:
    named = {"BCC_KERNEL_SOURCE": str(kernel_source)} if kernel_source is not None else {}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/", **named}


class _Child:
    """The running child and what has come from it; at the end of the block it is gone."""

    def __init__(self, process: subprocess.Popen[bytes], answers: socket.socket) -> None:
        assert process.stdout is not None
        self._process = process
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError:  # a seccomp filter older than 2020
            process.kill()
            process.wait()
            process.stdout.close()
            raise
        self._answers = answers
        self._output = process.stdout
        self._message = b""
        self._descriptors: tuple[int, ...] = ()
        self._printed = b""
        answers.setblocking(False)
        os.set_blocking(self._output.fileno(), False)

    def __enter__(self) -> _Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):  # it has ended
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)
        self._output.close()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it is reaped when it can end
            self._process.wait(_AFTER_KILL_S)
        _close(self._descriptors)

    @property
    def printed(self) -> str:
        """What it printed, to a limit."""
        return self._printed.decode("utf-8", "replace")

    def wait(self, deadline_s: float) -> int | None:
        """Take what it says until it ends; its exit code. None: it had not ended at the deadline."""
        until = time.monotonic() + deadline_s
        with selectors.DefaultSelector() as selector:
            for each in (self._answers, self._output, self._pidfd):
                selector.register(each, selectors.EVENT_READ)
            while ready := {key.fileobj for key, _ in selector.select(max(until - time.monotonic(), 0))}:
                if self._answers in ready and not self._receive():
                    selector.unregister(self._answers)
                if self._output in ready and not self._read():
                    selector.unregister(self._output)
                if self._pidfd in ready:
                    break
            else:
                return None
        # It may have written between the last look and its end.
        self._receive()
        self._read()
        return self._process.wait(_AFTER_KILL_S)

    def answer(self) -> Compiled | Failed | None:
        """What its message says, once; None when there is none, or it means nothing."""
        try:
            said = json.loads(self._message)
            if "failed" in said:
                return Failed(str(said["failed"]), str(said["words"]), int(said["errno"]), self.printed)
            programs, links = int(said["programs"]), int(said["links"])
            lines, counts, *others = self._descriptors
            if len(others) != programs + links:
                return None
            found = Compiled(
                version=str(said["version"]),
                hooks=tuple(str(hook) for hook in said["hooks"]),
                lines=lines,
                counts=counts,
                programs=tuple(others[:programs]),
                links=tuple(others[programs:]),
            )
        except (ValueError, TypeError, KeyError):
            return None
        self._descriptors = ()
        return found

    def _receive(self) -> bool:
        """Take a message; False when no other can come."""
        try:
            data, ancillary, _, _ = self._answers.recvmsg(
                _MESSAGE_BYTES, socket.CMSG_SPACE(_MOST_DESCRIPTORS * _INT_BYTES), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return True
        except OSError:
            return False
        received = array.array("i")
        for level, kind, rights in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received.frombytes(rights[: len(rights) - len(rights) % _INT_BYTES])
        if not data and not received:
            return False
        _close(self._descriptors)
        self._message, self._descriptors = data, tuple(received)
        return True

    def _read(self) -> bool:
        """Take what it printed; False when no more can come."""
        try:
            data = os.read(self._output.fileno(), _PRINTED_BYTES)
        except BlockingIOError:
            return True
        self._printed += data[: _PRINTED_BYTES - len(self._printed)]
        return bool(data)


def _close(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)
