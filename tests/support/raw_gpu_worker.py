"""A GPU worker and nothing between it and the test but its socket and its page of notes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from daemon.gpu import call_notes
from daemon.gpu.call_notes import CallNotes
from daemon.gpu.protocol import Decoder, Done, Failed, Message, Request, encode
from tests.support.fake_nvml import Scenario
from tests.support.gpu_asking import DEADLINE_S, PROGRAM


class RawWorker:
    """Speaks the protocol with the worker `process`."""

    def __init__(self, connection: socket.socket, notes: CallNotes, process: subprocess.Popen[bytes]) -> None:
        self.connection = connection
        self.notes = notes
        self.process = process
        self._decoder = Decoder()
        self._messages: list[Message] = []
        self._id = 0

    def send(self, operation: str, gpu: str | None, **arguments: object) -> int:
        """Ask; the id of the request."""
        self._id += 1
        self.connection.sendall(encode(Request(self._id, operation, gpu, arguments)))
        return self._id

    def receive(self) -> Message:
        """The next message; AssertionError when the worker ends instead."""
        while not self._messages:
            received = self.connection.recv(65536)
            assert received, "the worker closed its socket"
            self._messages += self._decoder.feed(received)
        return self._messages.pop(0)

    def done(self, operation: str, gpu: str | None, **arguments: object) -> Mapping[str, object]:
        """What the worker answers."""
        id = self.send(operation, gpu, **arguments)
        message = self.receive()
        assert isinstance(message, Done), message
        assert message.id == id
        return message.data

    def failed(self, operation: str, gpu: str | None, **arguments: object) -> Failed:
        """Why the worker does not."""
        id = self.send(operation, gpu, **arguments)
        message = self.receive()
        assert isinstance(message, Failed), message
        assert message.id == id
        return message


@contextmanager
def raw_worker(
    scenario: Scenario | None,
    *,
    program: Sequence[str] = (str(PROGRAM),),
    environment: Mapping[str, str] | None = None,
) -> Iterator[RawWorker]:
    """A worker that runs; it is killed in the end. The first message, Ready, is left to the test."""
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    page = call_notes.create()
    given = environment if environment is not None else scenario.environment() if scenario else {}
    process = subprocess.Popen(
        [sys.executable, "-P", *program, str(theirs.fileno()), str(page)],
        pass_fds=(theirs.fileno(), page),
        env={**os.environ, **given},
    )
    theirs.close()
    notes = CallNotes(page)
    try:
        yield RawWorker(ours, notes, process)
    finally:
        process.kill()
        process.wait()
        ours.close()
        notes.close()
