"""The client side of the daemon's unix socket: one line of JSON asks, lines of JSON answer.

`{"xidwatch": {"want": "status"}}` is answered with one object. `{"xidwatch": {"want": "events",
"since": cursor|null, "since_time_us": µs|null, "limit": n|null, "follow": bool, "severity":
text|null, "code": [text…], "kind": [text…], "gpu": [text…]}}` is answered with one public event
object a line, in cursor order: those after `since`, those written from `since_time_us` on (µs since
the Unix epoch), or without both the newest `limit`; then, with `follow`, every later one
until either side hangs up. Two other lines may come: `{"missed": {"first": n, "last": n}}`, and
`{"error": sentence, "hint": sentence|null}` in place of an answer.

Standard library only: this is what a person on a sick node runs.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from daemon import paths
from probes.errors import UserError

_CONNECT_TIMEOUT_S = 5.0
_CHUNK = 65_536


class NoDaemonError(UserError):
    """No daemon answers at any of the sockets tried."""


def connect(explicit: Path | None) -> socket.socket:
    """A connection to the daemon at `explicit`, or at the first default path where one listens.

    Raises NoDaemonError when there is none, UserError when there is one that may not be spoken to.
    """
    tried = (explicit,) if explicit is not None else paths.client_sockets()
    for path in tried:
        connection = _try(path)
        if connection is not None:
            return connection
    raise NoDaemonError(
        f"no daemon listens at {' or '.join(map(str, tried))}",
        hint="start one with `xidwatch serve`, or name its socket with --socket",
    )


def _try(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(_CONNECT_TIMEOUT_S)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        return None
    except PermissionError:
        connection.close()
        raise UserError(
            f"may not connect to {path}", hint="run as root, or join the group that owns the socket"
        ) from None
    except OSError as error:
        connection.close()
        raise UserError(f"cannot connect to {path}: {error.strerror or error}") from None
    return connection


def ask(connection: socket.socket, want: str, parameters: Mapping[str, object] | None = None) -> None:
    """Send the one line that says what the client wants."""
    hello = {"xidwatch": {"want": want, **(parameters or {})}}
    connection.sendall(json.dumps(hello).encode("ascii") + b"\n")


def lines(
    connection: socket.socket, *, timeout_s: float | None, output: int | None = None
) -> Iterator[bytes]:
    """The lines of the answer, without their newline, until the daemon hangs up.

    No byte for `timeout_s` raises UserError; None waits for ever. A reset by a dying daemon ends the
    lines like a hang-up; a last line without its newline was cut off and is left out. `output` is
    the descriptor that the caller writes to: BrokenPipeError when its reader has gone, which an
    idle follower would notice only at its next event.
    """
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    if output is not None:
        poller.register(output, 0)  # POLLERR and POLLHUP are always reported
    pending = b""
    while True:
        ready = poller.poll(None if timeout_s is None else timeout_s * 1000)
        if not ready:
            raise UserError("the daemon does not answer", hint="`xidwatch doctor` looks for the reason")
        if any(descriptor == output and what & select.POLLERR for descriptor, what in ready):
            raise BrokenPipeError
        try:
            chunk = connection.recv(_CHUNK)
        except ConnectionResetError:
            return
        if not chunk:
            return
        *complete, pending = (pending + chunk).split(b"\n")
        yield from complete


def parse(line: bytes) -> dict[str, Any]:
    """The object on a line; raises UserError for an error line, or when it is no JSON object."""
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise UserError(
            "the daemon's answer is not understood", hint="is another version of xidwatch running?"
        )
    error, hint = answer.get("error"), answer.get("hint")
    if isinstance(error, str):
        raise UserError(error, hint=hint if isinstance(hint, str) else None)
    return answer


def not_understood() -> UserError:
    """The error for an answer that is not what this version expects."""
    return UserError(
        "the daemon's answer is not understood", hint="another version of xidwatch may be running: restart it"
    )


def status(explicit: Path | None) -> dict[str, Any]:
    """The daemon's status object. Raises NoDaemonError or UserError."""
    with connect(explicit) as connection:
        ask(connection, "status")
        for line in lines(connection, timeout_s=_CONNECT_TIMEOUT_S):
            return parse(line)
    raise NoDaemonError("the daemon hung up before it answered", hint="it may be restarting: try again")
