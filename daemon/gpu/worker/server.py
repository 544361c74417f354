"""Serves the daemon's requests: one thread a GPU, so that one that hangs holds up only itself.

The main thread reads requests and never calls the library; end of file from the daemon ends the process
at once, whatever its threads are stuck in. A thread answers what it was asked in that order; answers of
different GPUs come in any order. What an operation raises is answered, never printed; the thread goes on.
A request for events has a thread of its own, which answers again and again until it fails (`event_set`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue

from daemon.gpu.call_notes import LIBRARY, CallNotes
from daemon.gpu.protocol import Decoder, Done, Failed, ProtocolError, Ready, Request, Trouble, encode
from daemon.gpu.worker.device import Device, DeviceGone, NvmlError
from daemon.gpu.worker.event_set import EVENTS, CannotListenError, EventSet
from daemon.gpu.worker.library import Library, trouble_of

Operation = Callable[[Device, Mapping[str, object]], Mapping[str, object]]
"""Reads something of one GPU: the device and the request's arguments to a JSON object."""

COUNT = "count"
"""The operation of the library: {"count": how many GPUs the driver answers for}."""
LOCATE = "locate"
"""The operation of every GPU, also by `#N`: {"pci": its address}."""

_RECEIVE = 64 * 1024


class Server:
    """See the module's docstring."""

    def __init__(
        self, connection: socket.socket, notes: CallNotes, operations: Mapping[str, Operation]
    ) -> None:
        self._connection = connection
        self._notes = notes
        self._operations = operations
        self._library = Library(notes)
        self._queues: dict[str, SimpleQueue[Request]] = {}
        self._sending = threading.Lock()

    def run(self) -> None:
        """Serve until the daemon closes its end, then end the process."""
        # Before the library is touched: a crash in that is one of the library, not of the start.
        self._send(Ready())
        threading.Thread(target=self._library.open, name="init", daemon=True).start()
        decoder = Decoder()
        try:
            while received := self._connection.recv(_RECEIVE):
                for message in decoder.feed(received):
                    if isinstance(message, Request):
                        self._take(message)
        except (OSError, ProtocolError):
            pass
        # Not sys.exit: that waits for what the library does at exit, which may hang like any call.
        os._exit(0)

    def _take(self, request: Request) -> None:
        if (request.operation, request.gpu) == (EVENTS, None):
            threading.Thread(target=self._stream, args=(request,), name=EVENTS, daemon=True).start()
        else:
            self._queue(request.gpu).put(request)

    def _stream(self, request: Request) -> None:
        def answer(data: Mapping[str, object]) -> None:
            self._send(Done(request.id, data, 0))

        try:
            EventSet(self._library, self._notes).stream(request.arguments, answer)
        except (NvmlError, DeviceGone) as failure:
            self._send(_failed_call(request.id, failure))
        except CannotListenError as error:
            self._send(_failed(request.id, str(error)))
        except Exception as error:  # the same boundary as in `_Seat`
            self._send(_failed(request.id, f"{EVENTS} failed: {type(error).__name__}: {error}"))

    def _queue(self, gpu: str | None) -> SimpleQueue[Request]:
        name = gpu or LIBRARY
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = SimpleQueue()
            threading.Thread(target=self._serve, args=(name, queue), name=name, daemon=True).start()
        return queue

    def _serve(self, gpu: str, queue: SimpleQueue[Request]) -> None:
        seat = _Seat(gpu, self._library, self._notes, self._operations)
        while True:
            self._send(seat.answer(queue.get()))

    def _send(self, answer: Ready | Done | Failed) -> None:
        try:
            message = encode(answer)
        except (ProtocolError, TypeError, ValueError) as error:
            assert isinstance(answer, Done)
            message = encode(_failed(answer.id, f"the answer cannot be sent: {error}"))
        with self._sending:
            try:
                self._connection.sendall(message)
            except OSError:
                os._exit(0)


class _Seat:
    """What one thread needs to answer: its GPU, once that was asked about, or the library."""

    def __init__(
        self, gpu: str, library: Library, notes: CallNotes, operations: Mapping[str, Operation]
    ) -> None:
        self._gpu = gpu
        self._library = library
        self._operations = operations
        self._slot = None if gpu == LIBRARY else notes.slot(gpu)
        self._device: Device | None = None

    def answer(self, request: Request) -> Done | Failed:
        began = time.monotonic_ns()
        try:
            data = self._perform(request)
        except (NvmlError, DeviceGone) as failure:
            if isinstance(failure, DeviceGone):
                self._device = None
            return _failed_call(request.id, failure)
        except Exception as error:  # the boundary: a bug in one operation must not silence its GPU
            return _failed(request.id, f"{request.operation} failed: {type(error).__name__}: {error}")
        return Done(request.id, data, (time.monotonic_ns() - began) // 1000)

    def _perform(self, request: Request) -> Mapping[str, object]:
        if self._slot is None:
            if request.operation != COUNT:
                raise ValueError("the library has no such operation")
            return {"count": self._library.count()}
        if self._device is None:
            self._device = self._library.device(self._gpu, self._slot)
        if request.operation == LOCATE:
            return {"pci": self._device.pci}
        return self._operations[request.operation](self._device, request.arguments)


def _failed_call(id: int, failure: NvmlError | DeviceGone) -> Failed:
    call, code = failure.function, failure.code
    return Failed(id, trouble_of(failure), f"{call}: {failure.message}", call, code)


def _failed(id: int, reason: str) -> Failed:
    return Failed(id, Trouble.FAILED, reason, None, None)


def serve(connection: int, notes: int, operations: Mapping[str, Operation]) -> None:
    """Serve on these two descriptors; does not return."""
    Server(socket.socket(fileno=connection), CallNotes(notes), operations).run()
