"""A daemon in a container of the image, started as the document says."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.image.documented import Command
from tests.support.command import Result
from tests.support.daemon import free_port
from tests.support.podman import Podman
from tests.support.waiting import DEADLINE_S, wait_for


class Contained:
    """One container; its network is the node's, so it listens on a port of its own."""

    def __init__(
        self,
        podman: Podman,
        command: Command,
        arguments: Sequence[str],
        *,
        image: str,
        flags: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self.name = ""
        self.up_after_s = 0.0
        """From the engine's command to the first answer of `/healthz`."""
        self._podman = podman
        self._image = image
        self._flags = (*command.flags, *flags)
        inside = command.inside or ("serve",)
        self._inside = (*inside, "--listen", f"127.0.0.1:{self.port}", *arguments)

    def start(self) -> Contained:
        """Start it and wait until it answers, be it ready or not."""
        begun = time.monotonic()
        engine = self._podman.run_flags()
        done = self._podman("run", "--detach", *engine, *self._flags, self._image, *self._inside)
        assert done.code == 0, done.err
        self.name = done.out.strip()
        wait_for(self._answers, "the daemon in the container to answer")
        self.up_after_s = time.monotonic() - begun
        wait_for(lambda: self.exec("xidwatch", "status").out, "its socket to answer", pause_s=0.1)
        return self

    def _answers(self) -> bool:
        try:
            return self.get("/healthz")[0] == 200
        except OSError:
            if self.state("Running") != "true":
                raise AssertionError(self.log()) from None
            return False

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of one HTTP GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def hears(self) -> set[str]:
        """Names of the probes that hear, as `/readyz` tells them."""
        return {probe["name"] for probe in json.loads(self.get("/readyz")[1])["probes"] if probe["hears"]}

    def exec(self, *words: str) -> Result:
        """Run a command in it to its end."""
        return self._podman("exec", self.name, *words)

    def exec_command(self, *words: str) -> list[str]:
        """The command line that does so with stdin."""
        return self._podman.command("exec", "--interactive", self.name, *words)

    def state(self, what: str) -> str:
        """One value of its state, as the engine calls it."""
        return self._podman.inspect(self.name, f".State.{what}")

    def log(self) -> str:
        """What it has written."""
        done = self._podman("logs", self.name)
        return done.out + done.err

    @property
    def pid(self) -> int:
        """Of its process 1, on the node."""
        return int(self.state("Pid"))

    def status(self, key: str, pid: int | None = None) -> str:
        """One line of /proc/PID/status."""
        text = Path(f"/proc/{pid or self.pid}/status").read_text("utf-8")
        lines = (line.partition(":") for line in text.splitlines())
        return next(value.strip() for name, _, value in lines if name == key)

    def children(self) -> dict[int, str]:
        """State letter of each child of process 1, by its pid on the node."""
        of_threads = Path(f"/proc/{self.pid}/task").glob("*/children")
        pids = [int(pid) for each in of_threads for pid in each.read_text("utf-8").split()]
        return {pid: self.status("State", pid)[0] for pid in pids}

    def stop(self, within_s: int) -> int:
        """SIGTERM, and SIGKILL after so many seconds; the exit code."""
        assert self._podman("stop", "--time", str(within_s), self.name).code == 0
        return int(self.state("ExitCode"))

    def kill(self) -> None:
        """kill -9 for all of it, and remove it; volumes with a name stay."""
        assert self._podman("rm", "--force", "--time", "0", self.name).code == 0

    def remove(self) -> None:
        """Whatever state it is in."""
        self._podman("rm", "--force", "--volumes", "--time", "0", self.name)

    def events(self) -> list[dict[str, Any]]:
        """The newest events that it keeps."""
        status, body = self.get("/events.json?limit=1000")
        assert status == 200, body
        page: list[dict[str, Any]] = json.loads(body)["events"]
        return page
