"""One worker process: starting it, its requests, its end. Nothing here waits in the event loop.

It is started in a thread, since an exec reads from disks that may hang, named by a pidfd from then on,
killed by that, and reaped when the pidfd says that it has ended: a worker in uninterruptible sleep is
reaped when it wakes up, if ever. All methods are for the event loop it was started in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from daemon.gpu import call_notes
from daemon.gpu.call_notes import CallNotes, OpenCall
from daemon.gpu.protocol import Decoder, Done, Failed, ProtocolError, Ready, Request, encode

_ENDING_S = 1.0
"""How long a worker that closed its socket may take to end; then its requests fail without its status."""
_log = logging.getLogger(__name__)


class StartError(Exception):
    """The worker could not be started, and why."""


class WorkerEnded(Exception):
    """The worker ended before it answered; how it ended."""


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    pidfd: int


class WorkerProcess(asyncio.Protocol):
    """See the module's docstring. `start` makes one."""

    def __init__(
        self,
        notes: CallNotes,
        on_begin: Callable[[WorkerProcess], None],
        on_end: Callable[[WorkerProcess], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._notes = notes
        self._on_begin = on_begin
        self._on_end = on_end
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._child: _Child | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._pending: dict[int, asyncio.Future[Done | Failed]] = {}
        self._listening: dict[int, asyncio.Queue[Done | Failed | WorkerEnded]] = {}
        self._last_id = 0
        self._wanted = True
        self._ending: str | None = None
        self._last_calls: dict[str, OpenCall] = {}
        self.pid: int | None = None
        """Its process id; None before it is started."""
        self.answered = False
        """Whether it has answered anything yet."""

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_begin: Callable[[WorkerProcess], None],
        on_end: Callable[[WorkerProcess], None],
        *,
        within_s: float,
    ) -> WorkerProcess:
        """Start `command` with the two descriptors' numbers appended; returns once it reads requests.

        `on_begin` is called when there is a process and `on_end` when that has ended and was reaped, also
        for one that failed to get ready, however late. Raises StartError.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            page = call_notes.create()
        except OSError as error:
            ours.close()
            theirs.close()
            raise StartError(f"no memory to share with the GPU worker: {error.strerror}") from None
        inherited = (theirs.detach(), os.dup(page))
        self = cls(CallNotes(page), on_begin, on_end)
        await self._loop.create_unix_connection(lambda: self, sock=ours)
        spawned = _spawn_in_thread(command, environment, inherited, self._adopt)
        try:
            async with asyncio.timeout(within_s):
                await spawned
                await self._ready
        except TimeoutError:
            self.end()
            raise StartError(f"the GPU worker was not ready within {within_s:g} s") from None
        except OSError as error:
            self.end()
            self.let_go()
            raise StartError(f"the GPU worker cannot be started: {error.strerror or error}") from None
        except WorkerEnded as error:
            raise StartError(f"the GPU worker ended before it was ready: {error}") from None
        except BaseException:
            self.end()
            raise
        return self

    @property
    def usable(self) -> bool:
        """Whether it may be sent requests: it was neither given up nor did it end."""
        return self._wanted and self._ending is None and self._transport is not None

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._pending)

    def send(
        self, operation: str, gpu: str | None, arguments: Mapping[str, object]
    ) -> tuple[int, asyncio.Future[Done | Failed]]:
        """Ask; `forget` the id when no longer waiting. The future raises WorkerEnded if the worker ends."""
        self._last_id += 1
        future: asyncio.Future[Done | Failed] = self._loop.create_future()
        if self._ending is not None or self._transport is None:
            future.set_exception(WorkerEnded(self._ending or "it was closed"))
        else:
            self._pending[self._last_id] = future
            self._transport.write(encode(Request(self._last_id, operation, gpu, arguments)))
        return self._last_id, future

    def listen(
        self, operation: str, arguments: Mapping[str, object]
    ) -> asyncio.Queue[Done | Failed | WorkerEnded]:
        """Ask the library what has many answers: they come into the queue, and last a Failed or how the
        worker ended. A worker that is listened to is not busy: to retire it is to end it."""
        self._last_id += 1
        answers: asyncio.Queue[Done | Failed | WorkerEnded] = asyncio.Queue()
        if self._ending is not None or self._transport is None:
            answers.put_nowait(WorkerEnded(self._ending or "it was closed"))
        else:
            self._listening[self._last_id] = answers
            self._transport.write(encode(Request(self._last_id, operation, None, arguments)))
        return answers

    def forget(self, id: int) -> None:
        """Nobody waits for this answer any more."""
        future = self._pending.pop(id, None)
        if future is not None:
            future.cancel()
        self._kill_when_done()

    def open_calls(self) -> Mapping[str, OpenCall]:
        """The NVML calls it is in; of a worker that has ended, those it was in then."""
        return self._last_calls if self._ending is not None else self._notes.open_calls()

    def retire(self) -> None:
        """Take no more requests; killed as soon as nobody waits for one of its answers."""
        self._wanted = False
        self._kill_when_done()

    def end(self) -> None:
        """Kill it now, and reap it whenever it has ended. Whoever still waits gets WorkerEnded."""
        self._wanted = False
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if self._child is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._child.pidfd, signal.SIGKILL)
        self._fail_pending("it was closed")

    def let_go(self) -> None:
        """Stop watching it and give back what that took: it has ended, or the daemon ends and leaves a
        stuck one to init."""
        self._fail_pending("it was left behind")
        self._notes.close()
        if self._child is not None:
            self._loop.remove_reader(self._child.pidfd)
            os.close(self._child.pidfd)
            if self._child.process.returncode is None:
                self._child.process.returncode = -signal.SIGKILL  # it will be: subprocess need not care
            self._child = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is in the event loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers; late ones that nobody waits for are dropped."""
        try:
            for message in self._decoder.feed(data):
                match message:
                    case Ready():
                        if not self._ready.done():
                            self._ready.set_result(None)
                    case Done(id) | Failed(id):
                        self.answered = True
                        if id in self._listening:
                            self._listening[id].put_nowait(message)
                            continue
                        future = self._pending.pop(id, None)
                        if future is not None and not future.done():
                            future.set_result(message)
                    case Request():
                        raise ProtocolError("a worker does not ask")
        except ProtocolError:
            _log.exception("the GPU worker %s is not understood and ended", self.pid)
            self.end()
        self._kill_when_done()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has closed its socket, most likely by dying: its exit status will say how."""
        self._transport = None
        self._loop.call_later(_ENDING_S, self._fail_pending, "it closed its socket")

    def _kill_when_done(self) -> None:
        if not self._wanted and not self._pending and self._transport is not None:
            self.end()

    def _adopt(self, child: _Child) -> None:
        self._child = child
        self.pid = child.process.pid
        self._loop.add_reader(child.pidfd, self._reap)
        self._on_begin(self)
        if not self._wanted:
            self.end()

    def _reap(self) -> None:
        child = self._child
        if child is None:
            return
        status = child.process.poll()
        if status is None:
            return
        self._fail_pending(_how_it_ended(status))
        self.let_go()
        self._on_end(self)

    def _fail_pending(self, how: str) -> None:
        if self._ending is None:
            self._last_calls = self._notes.open_calls()
            self._ending = how
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(WorkerEnded(how))
        listening, self._listening = self._listening, {}
        for answers in listening.values():
            answers.put_nowait(WorkerEnded(how))
        if not self._ready.done():
            self._ready.set_exception(WorkerEnded(how))
            self._ready.exception()  # looked at: nobody may be waiting for it


def _spawn_in_thread(
    command: Sequence[str],
    environment: Mapping[str, str],
    inherited: tuple[int, int],
    adopt: Callable[[_Child], None],
) -> asyncio.Future[None]:
    """Spawn without blocking the loop; `adopt` gets the child in the loop, however late it comes."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(outcome: _Child | OSError) -> None:
        if isinstance(outcome, _Child):
            adopt(outcome)
        if done.done():
            return
        if isinstance(outcome, _Child):
            done.set_result(None)
        else:
            done.set_exception(outcome)

    def work() -> None:
        try:
            outcome: _Child | OSError = _spawn(command, environment, inherited)
        except OSError as error:
            outcome = error
        for descriptor in inherited:
            os.close(descriptor)
        with suppress(RuntimeError):  # the loop has ended: so will the worker, at the end of its socket
            loop.call_soon_threadsafe(finish, outcome)

    threading.Thread(target=work, name="gpu-worker-start", daemon=True).start()
    return done


def _spawn(command: Sequence[str], environment: Mapping[str, str], inherited: tuple[int, int]) -> _Child:
    # Not os.posix_spawn: that holds up every thread of Python until the exec is done. subprocess lets the
    # others go on since 3.11.4.
    process = subprocess.Popen(  # noqa: S603  # this program's own worker, without a shell
        [*command, *map(str, inherited)],
        env=environment,
        pass_fds=inherited,
        stdin=subprocess.DEVNULL,
        stdout=2,  # standard output may be an MCP client's
        process_group=0,  # a Ctrl-C in the terminal is for the daemon
    )
    try:
        return _Child(process, os.pidfd_open(process.pid))
    except OSError:
        process.kill()
        process.wait()
        raise


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"it exited with status {status}"
    return f"it was ended by {signal.Signals(-status).name}"
