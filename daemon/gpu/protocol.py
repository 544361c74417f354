"""What the daemon and its GPU worker say to each other, over a stream socket.

A message is its length (4 bytes, big endian) and that many bytes of JSON, an object. The worker first
says Ready, then answers each Request once, in any order, by the request's id. Ids are never used twice on
one connection, and the daemon ignores an answer to an id it no longer waits for; so an operation that has
more to say than one answer can go on answering under its id. End of file from the daemon ends the worker.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

LARGEST = 8 * 1024 * 1024
"""No message is longer, in bytes: all processes of a full GPU are some hundred kilobytes."""

_LENGTH = struct.Struct(">I")


class ProtocolError(Exception):
    """The other side does not keep to the protocol: a bug, or another version of this program."""


class Trouble(StrEnum):
    """Why a GPU, or all of them, did not answer."""

    NO_LIBRARY = "no_library"
    """libnvidia-ml.so.1 is not installed, or cannot be loaded."""
    VERSION_MISMATCH = "version_mismatch"
    """The library and the kernel module are of different versions: the driver was updated under us."""
    NO_DRIVER = "no_driver"
    """The kernel module is not loaded."""
    NO_GPU = "no_gpu"
    """The driver answers, for no GPU."""
    NO_PERMISSION = "no_permission"
    """The driver refuses this user."""
    CRASHED = "crashed"
    """The worker died in the middle of the call."""
    HUNG = "hung"
    """The call does not return."""
    SLOW = "slow"
    """Calls return, but not all of them by the deadline."""
    LOST = "lost"
    """The driver says that the GPU is lost: it no longer answers on its bus."""
    NOT_FOUND = "not_found"
    """The driver knows no GPU of this address."""
    STALE = "stale"
    """The driver was loaded anew since the library was initialised, and initialising again did not help."""
    FAILED = "failed"
    """Anything else; the reason says what."""


OF_THE_LIBRARY = frozenset(
    {Trouble.NO_LIBRARY, Trouble.VERSION_MISMATCH, Trouble.NO_DRIVER, Trouble.NO_GPU, Trouble.NO_PERMISSION}
)
"""Troubles that all GPUs share."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker runs and reads requests; it has not touched the driver yet."""


@dataclass(frozen=True, slots=True)
class Request:
    """Do `operation` on one GPU."""

    id: int
    operation: str
    gpu: str | None
    """Its PCI address in the one spelling, or `#N` for index N; None: an operation of the library."""
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """The answer to a request: a JSON object, as the operation made it."""

    id: int
    data: Mapping[str, object]
    took_us: int
    """How long the operation took in the worker, waiting for its turn not counted."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer, and why."""

    id: int
    trouble: Trouble
    reason: str
    """A sentence without its full stop."""
    call: str | None
    """The NVML function that failed; None when it was none."""
    code: int | None
    """NVML's return code; None when it was none."""


Message = Ready | Request | Done | Failed


def encode(message: Message) -> bytes:
    """The message as it goes over the socket. Raises ProtocolError if it is longer than LARGEST."""
    match message:
        case Ready():
            fields: dict[str, object] = {"ready": True}
        case Request(id, operation, gpu, arguments):
            fields = {"id": id, "operation": operation, "gpu": gpu, "arguments": dict(arguments)}
        case Done(id, data, took_us):
            fields = {"id": id, "data": data, "took_us": took_us}
        case Failed(id, trouble, reason, call, code):
            fields = {"id": id, "trouble": trouble, "reason": reason, "call": call, "code": code}
    body = json.dumps(fields, separators=(",", ":")).encode()
    if len(body) > LARGEST:
        raise ProtocolError(f"a message of {len(body)} bytes is longer than {LARGEST}")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts what arrives into messages; it keeps what is incomplete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[Message]:
        """The messages that are complete now. Raises ProtocolError; nothing may be fed after that."""
        self._buffer += received
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > LARGEST:
                raise ProtocolError(f"a message of {length} bytes is longer than {LARGEST}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield _parse(body)


def _parse(body: bytes) -> Message:
    try:
        match json.loads(body):
            case {"ready": True}:
                return Ready()
            case {
                "id": int(id),
                "operation": str(operation),
                "gpu": str() | None as gpu,
                "arguments": dict(given),
            }:
                return Request(id, operation, gpu, given)
            case {"id": int(id), "data": dict(data), "took_us": int(took_us)}:
                return Done(id, data, took_us)
            case {
                "id": int(id),
                "trouble": str(name),
                "reason": str(reason),
                "call": str() | None as call,
                "code": int() | None as code,
            }:
                return Failed(id, Trouble(name), reason, call, code)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not a message: {error}") from None
    raise ProtocolError("a message of no known form")
