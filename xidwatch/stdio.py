"""`xidwatch stdio`: MCP on stdin and stdout, for hosts that start their servers as processes.

A relay to the unix socket of the daemon: it starts in a few milliseconds, holds next to nothing,
and works through `kubectl exec -i` where no network reaches. Standard library only. It moves whole
lines, so that nothing half-said is left when either side goes, and remembers which requests have no
answer yet:

* When the host closes stdin, the daemon answers what is asked for up to a second; then the session
  ends and the exit code is 0.
* When the daemon goes away, every request without an answer gets a JSON-RPC error, and the exit
  code is 1. A request that was on its way is one of them: the host may ask again.
* When nobody reads stdout any more, the relay ends.
* A line of the host that is longer than the daemon takes is dropped and answered with an error.

Only if no socket was named, and there is none at the usual places, it runs without a daemon (see
`alone`). A socket that exists and does not answer, or may not be opened, is an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

from daemon import paths
from mcp_server.request_id import BEGINNING, END, id_in
from probes.errors import UserError
from xidwatch import socket_client
from xidwatch.terminal import print_error

EXIT_DAEMON_GONE = 1
_DAEMON_GONE = -32000
"""Error code, in JSON-RPC's range for servers; MCP's SDKs use it for a closed connection."""
_GOODBYE_S = 3.0
"""How long after the end of stdin the daemon may take to answer what is asked and to end the session."""
_CHUNK = 65_536
_ATOMIC = 4_096
"""A descriptor that poll calls writable takes this much without blocking (PIPE_BUF)."""
_LINE_BYTES = 1 << 20
"""The longest line of the host that is held; the daemon takes less."""
_HELD_BYTES = 1 << 20
"""What may wait to be written to one side before no more is read from the other."""
_ANSWER = re.compile(rb'\{"jsonrpc":"2\.0","id":(-?\d+|"(?:[^"\\]|\\.)*"),"(?:result|error)":')
"""How an answer of the daemon begins: its id is found without reading a page of events."""


def run(socket_path: Path | None, *, era: str, channel: str | None) -> int:
    """Serve the host on stdin and stdout; the exit code. Raises UserError."""
    if socket_path is None and not any(_exists(path) for path in paths.client_sockets()):
        from xidwatch import alone  # the whole MCP server: only where there is no daemon

        return alone.run(era=era, channel=channel)
    with socket_client.connect(socket_path) as connection:
        socket_client.ask(connection, "mcp", {"era": era, "channel": channel})
        return Relay(connection, source=_descriptor(sys.stdin, 0), sink=sys.stdout.fileno()).run()


class Relay:
    """One session between two descriptors and a connected socket."""

    def __init__(self, connection: socket.socket, *, source: int, sink: int) -> None:
        self._connection = connection
        self._daemon = connection.fileno()
        self._source = source
        self._sink = sink
        self._to_daemon = bytearray()
        self._to_host = bytearray()
        self._from_host = Lines(_LINE_BYTES)
        self._from_daemon = Lines()
        self._asked = Asked()
        self._host_ended_at: float | None = None
        self._said_goodbye = False

    def run(self) -> int:
        """Move lines until either side ends; the exit code. Raises BrokenPipeError when the host has gone
        without a word, UserError when the daemon refuses the session."""
        self._connection.setblocking(False)
        while True:
            if self._host_ended_at is not None and self._wind_up():
                return 0
            ready = dict(self._poll())
            self._write_host(ready.get(self._sink, 0))
            if ready.get(self._daemon) and not self._talk_to_daemon():
                return self._daemon_gone()
            if ready.get(self._source):
                self._read_host()

    def _poll(self) -> list[tuple[int, int]]:
        """Wait until something can be done; a descriptor nothing is wanted of only reports its end."""
        poller = select.poll()
        if self._host_ended_at is None and len(self._to_daemon) < _HELD_BYTES:
            poller.register(self._source, select.POLLIN)
        wanted = select.POLLIN if len(self._to_host) < _HELD_BYTES else 0
        poller.register(self._daemon, wanted | (select.POLLOUT if self._to_daemon else 0))
        poller.register(self._sink, select.POLLOUT if self._to_host else 0)
        left_s = self._left_s()
        return poller.poll(None if left_s is None else left_s * 1000 + 1)

    def _read_host(self) -> None:
        data = os.read(self._source, _CHUNK)
        lines = self._from_host.feed(data)
        if not data:
            lines.append(self._from_host.rest())  # the last line may lack its newline
            self._host_ended_at = time.monotonic()
        for line in lines:
            self._asked.heard(line)
            self._to_daemon += line
        for request_id in self._from_host.take_dropped():
            self._to_host += _too_long(request_id)

    def _write_host(self, state: int) -> None:
        if state & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            raise BrokenPipeError
        if state & select.POLLOUT:
            del self._to_host[: os.write(self._sink, self._to_host[:_ATOMIC])]

    def _talk_to_daemon(self) -> bool:
        """Send what waits and take what came; False when the daemon has gone."""
        try:
            if self._to_daemon:
                del self._to_daemon[: self._connection.send(self._to_daemon)]
        except BlockingIOError:
            pass
        except OSError:
            self._to_daemon.clear()  # what it said before it went is read below
        try:
            data = self._connection.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for line in self._from_daemon.feed(data):
            if line.startswith(b'{"error":'):
                self._refused(line)
            self._asked.answered(line)
            self._to_host += line
        return bool(data)

    # -- the end ---------------------------------------------------------------------------------

    def _wind_up(self) -> bool:
        """Pass on the host's goodbye behind its last word; True when the daemon takes too long over it."""
        if not self._said_goodbye and not self._to_daemon:
            with contextlib.suppress(OSError):  # it has gone already
                self._connection.shutdown(socket.SHUT_WR)
            self._said_goodbye = True
        return self._left_s() == 0

    def _left_s(self) -> float | None:
        """Until the relay ends by itself; None while the host has not said goodbye."""
        if self._host_ended_at is None:
            return None
        return max(0.0, self._host_ended_at + _GOODBYE_S - time.monotonic())

    def _daemon_gone(self) -> int:
        """Answer what has no answer. What the host said last may still lie in the pipe: read that first."""
        while self._host_ended_at is None and _ready(self._source, select.POLLIN, 0):
            self._read_host()
        self._answer_all("The xidwatch daemon went away before it answered. Ask again when it is back.")
        if self._said_goodbye:
            return 0
        print_error(UserError("the daemon went away", hint="start `xidwatch stdio` again when it is back"))
        return EXIT_DAEMON_GONE

    def _refused(self, line: bytes) -> None:
        """Raises UserError: the daemon has answered the hello with an error, no message begins like it."""
        try:
            socket_client.parse(line)
        except UserError as error:
            self._answer_all(error.message)
            raise

    def _answer_all(self, text: str) -> None:
        """Answer every request that has no answer with an error, and write all that waits, as long as the
        host goes on reading."""
        self._to_host += self._asked.errors(text)
        while self._to_host and (state := _ready(self._sink, select.POLLOUT, _GOODBYE_S * 1000)):
            self._write_host(state)


class Lines:
    """Cuts a byte stream into lines, newline included. One longer than `most` bytes is dropped."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._parts: list[bytes] = []
        self._held = 0
        self._end = b""
        self._dropped: list[int | str | None] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now."""
        *complete, rest = data.split(b"\n")
        lines = []
        for each in complete:
            self._hold(each)
            if line := self._take():
                lines.append(line)
        if rest:
            self._hold(rest)
        return lines

    def rest(self) -> bytes:
        """What is left of an unfinished line, with a newline; empty when nothing is."""
        return self._take() if self._held else b""

    def take_dropped(self) -> list[int | str | None]:
        """Whose requests were dropped since this was last asked; None where that cannot be made out."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def _hold(self, part: bytes) -> None:
        self._held += len(part)
        self._parts.append(part)
        if self._most is not None and self._held > self._most:
            self._end = (self._end + b"".join(self._parts[1:] or self._parts)[-END:])[-END:]
            self._parts = [b"".join(self._parts)[:BEGINNING]]

    def _take(self) -> bytes:
        """The line that ends here; empty when it was too long."""
        line = b"".join([*self._parts, b"\n"])
        if self._most is not None and self._held > self._most:
            self._dropped.append(id_in(line, self._end))
            self._end, line = b"", b""
        self._parts.clear()
        self._held = 0
        return line


class Asked:
    """The ids of requests that have no answer yet, as the JSON text that the host wrote."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._ids)

    def heard(self, line: bytes) -> None:
        """Take note of a line of the host. What is no request does not matter here."""
        message = _object(line)
        request_id = message.get("id")
        if "method" in message and isinstance(request_id, str | int) and not isinstance(request_id, bool):
            self._ids[json.dumps(request_id)] = None
        elif message.get("method") == "notifications/cancelled":
            params = message.get("params")
            self._ids.pop(json.dumps(params.get("requestId")) if isinstance(params, dict) else "", None)

    def answered(self, line: bytes) -> None:
        """Take note of a line of the daemon."""
        if not self._ids:
            return
        found = _ANSWER.match(line)
        if found is not None and not found[1].startswith(b'"'):
            self._ids.pop(found[1].decode(), None)
        elif found is not None:
            self._ids.pop(json.dumps(json.loads(found[1])), None)
        elif line.startswith(b'{"jsonrpc":"2.0","method":'):
            return
        else:
            message = _object(line)
            if "result" in message or "error" in message:
                self._ids.pop(json.dumps(message.get("id")), None)

    def errors(self, text: str) -> bytes:
        """An error that says this for each of them, one a line."""
        error = json.dumps({"code": _DAEMON_GONE, "message": text})
        lines = [f'{{"jsonrpc":"2.0","id":{request_id},"error":{error}}}\n' for request_id in self._ids]
        self._ids.clear()
        return "".join(lines).encode("ascii")


def _too_long(request_id: int | str | None) -> bytes:
    """The answer to a line that was dropped."""
    error = {"code": -32600, "message": f"Invalid request: longer than {_LINE_BYTES} bytes"}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _ready(descriptor: int, wanted: int, timeout_ms: float | None) -> int:
    """The state of one descriptor once it is as wanted, has ended, or the time is up (0)."""
    poller = select.poll()
    poller.register(descriptor, wanted)
    return next((state for _, state in poller.poll(timeout_ms)), 0)


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # there, but not for us: connecting says so
    return True


def _descriptor(stream: object, number: int) -> int:
    """The stream's descriptor; one at its end when the process was started without it."""
    return number if stream is not None else os.open(os.devnull, os.O_RDONLY)
