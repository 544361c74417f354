"""A running `xidwatch stdio`, spoken to line by line."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from tests.support.daemon import ROOT, clean_environment
from tests.support.waiting import DEADLINE_S

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "by hand", "version": "1"},
    },
}


class Relay:
    """One process."""

    def __init__(
        self, *flags: str, prefix: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "xidwatch", "stdio", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**clean_environment(), **(environ or {})},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout.fileno()
        self._pending = b""

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def tell(self, message: object) -> None:
        """Send a message; bytes go as they are."""
        self._in.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")
        self._in.flush()

    def message(self) -> Any:
        """The next message; None at the end."""
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._out], [], [], DEADLINE_S)
            assert ready, f"no message came; so far: {self._pending!r}"
            chunk = os.read(self._out, 65_536)
            if not chunk:
                assert not self._pending, "the last message has no end"
                return None
            self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return json.loads(line)

    def answer_to(self, number: object) -> Any:
        """The answer with this id; what comes before it is read over."""
        while (message := self.message()) is not None:
            if message.get("id") == number:
                return message
        return None

    def shake_hands(self) -> dict[str, Any]:
        """The handshake; what the server said of itself."""
        self.tell(INITIALIZE)
        answer: dict[str, Any] = self.answer_to(0)["result"]
        self.tell({"jsonrpc": "2.0", "method": "notifications/initialized"})
        # Pushes begin with what comes after the daemon has read this.
        self.tell({"jsonrpc": "2.0", "id": "ready", "method": "ping"})
        self.answer_to("ready")
        return answer

    def call(self, number: object, tool: str, **arguments: object) -> None:
        """Ask for a tool."""
        params = {"name": tool, "arguments": arguments}
        self.tell({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})

    def hang_up(self) -> None:
        """Close its stdin."""
        self._in.close()
        self.process.stdin = None  # communicate() would flush it

    def end(self) -> tuple[int, list[Any], str]:
        """Wait for its end: exit code, the messages that were left, stderr."""
        rest = list(iter(self.message, None))
        assert self.process.stderr is not None
        err = self.process.stderr.read().decode()
        return self.process.wait(DEADLINE_S), rest, err
