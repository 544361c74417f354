"""A running `xidwatch serve` of one's own: process, addresses, and what its clients see."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.waiting import DEADLINE_S, wait_for

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of xidwatch."""
    return {name: value for name, value in os.environ.items() if not name.startswith("XIDWATCH_")}


class Daemon:
    """One daemon on a state directory of its own. It can be killed and started again on the same state."""

    def __init__(
        self,
        directory: Path,
        *,
        kmsg: Path,
        flags: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
    ) -> None:
        """`wrapper`: a command that runs another one in its own place, such as setpriv. `environ`: variables
        beside this process's own. `tls`: a client's, for a daemon that speaks HTTPS. `token`: shown
        with every request."""
        self.token = token
        self.state_dir = directory / "state"
        self.socket = directory / "s"  # short: a socket path is limited to 107 bytes
        self.log = directory / "stderr.log"
        self.port = free_port()
        self._kmsg = kmsg
        self._flags = tuple(flags)
        self._wrapper = tuple(wrapper)
        self._environ = dict(environ or {})
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, or https."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running daemon."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> Daemon:
        """Start it and wait until it hears."""
        self.spawn()
        wait_for(self._ready, "the daemon to hear", pause_s=0.05)
        return self

    def spawn(self) -> None:
        """Start it, without waiting for anything."""
        command = [
            *(*self._wrapper, sys.executable, "-m", "xidwatch", "serve"),
            *("--listen", f"127.0.0.1:{self.port}", "--socket", str(self.socket)),
            *("--state-dir", str(self.state_dir), "--kmsg", str(self._kmsg)),
            *("--node-name", "test-node", *self._flags),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=clean_environment() | self._environ,
            )

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self._process.returncode}:\n{self.log.read_text()}")
        try:
            return self.get("/readyz")[0] == 200 and self.socket.exists()
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of one HTTP GET."""
        host, port, tls = "127.0.0.1", self.port, self._tls
        connection = (
            http.client.HTTPSConnection(host, port, timeout=DEADLINE_S, context=tls)
            if tls
            else http.client.HTTPConnection(host, port, timeout=DEADLINE_S)
        )
        try:
            headers = {"Authorization": f"Bearer {self.token}"} if self.token is not None else {}
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def events(self, query: str = "since=0&limit=1000") -> list[dict[str, Any]]:
        """The events of one page of `/events.json`."""
        status, body = self.get(f"/events.json?{query}")
        assert status == 200, body
        page: list[dict[str, Any]] = json.loads(body)["events"]
        return page

    def stop(self) -> int:
        """Ask it to end, wait, and return its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            return process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(
                f"the daemon did not end on {number.name}:\n{self.log.read_text()}"
            ) from None
