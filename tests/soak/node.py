"""The node of a soak: the daemon with everything around it, and how it is waited for."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.soak.place import Place, Worker
from tests.soak.plan import Plan
from tests.soak.receiver import receiving, sinks
from tests.soak.sampler import Sampler, children, descriptors, threads
from tests.support import fake_nvml
from tests.support.command import xidwatch
from tests.support.daemon import Daemon, free_port
from tests.support.kernel_log import FakeKernelLog
from tests.support.token_file import TokenFileOnDisk
from tests.support.waiting import wait_for

DEADLINE_S: Final = 120.0
"""For what has to happen in the end, however busy the machine is."""
QUIET_S: Final = 3.0
"""Nothing changed for so long: longer than the second that the last revision of an event may take."""


class Node:
    """A kernel log, eight GPUs, a daemon, what it sends to, and what samples it."""

    def __init__(self, plan: Plan, directory: Path, stack: ExitStack) -> None:
        """Started, and ended with the stack."""
        library = directory / "nvml"
        library.mkdir()
        self.fleet = fake_nvml.Scenario(directory, fake_nvml.build(library))
        self.log = stack.enter_context(FakeKernelLog(directory / "kmsg"))
        self._plan = plan
        self._token_file = TokenFileOnDisk(directory / "tokens")
        self._token = self._token_file.add("soak")
        port = free_port()
        self.daemon = Daemon(
            directory,
            kmsg=self.log.path,
            flags=(
                *("--ebpf", "off", "--allow-drills", "--gpu", "nvml"),
                *("--token-file", str(self._token_file.path)),
                *("--on-event", str(sinks(directory, f"http://127.0.0.1:{port}"))),
                *("--retention-size", plan.retention, "--ring-size", str(plan.ring)),
            ),
            environ=self.fleet.environment(),
            token=self._token,
        )
        self.receiver = Worker(receiving, self._place(port, since=0), plan.seed)
        stack.callback(self.receiver.kill)
        once_it_has_ended = stack.enter_context(ExitStack())
        stack.callback(self.daemon.stop)
        self.daemon.start()
        self.sampler = Sampler(self.daemon, plan.sample_every_s)
        once_it_has_ended.callback(self.sampler.close)
        stack.callback(self.sampler.stop)
        self.sampler.start()

    def place(self) -> Place:
        """For clients that begin now."""
        return self._place(self.daemon.port, since=self.newest())

    def _place(self, port: int, *, since: int) -> Place:
        return Place(
            port=port,
            socket=self.daemon.socket,
            token=self._token,
            token_file=self._token_file.path,
            since=since,
            rare_reader_s=self._plan.rare_reader_s,
        )

    def newest(self) -> int:
        """The newest cursor."""
        status, body = self.daemon.get("/events.json?limit=1")
        assert status == 200, body
        newest: int = json.loads(body)["newest_cursor"]
        return newest

    def quiet(self) -> int:
        """Wait until nothing new is told; the newest cursor."""
        newest, since = self.newest(), time.monotonic()

        def is_quiet() -> bool:
            nonlocal newest, since
            now = self.newest()
            if now != newest:
                newest, since = now, time.monotonic()
            return time.monotonic() - since >= QUIET_S

        wait_for(is_quiet, "the stream to be quiet", deadline_s=DEADLINE_S, pause_s=0.2)
        return newest

    def metrics(self) -> dict[str, float]:
        """Every series of /metrics."""
        text = self.daemon.get("/metrics")[1].decode()
        return {series: float(value) for series, value in re.findall(r"^(\w\S*) (\S+)$", text, re.MULTILINE)}

    def settled_metrics(self) -> dict[str, float]:
        """The same, once every sink has sent what it had to."""

        def settled() -> dict[str, float] | None:
            found = self.metrics()
            lags = [found[series] for series in found if series.startswith("xidwatch_sink_lag_seconds")]
            return found if lags and not any(lags) else None

        return wait_for(settled, "the sinks to have sent everything", deadline_s=DEADLINE_S, pause_s=0.2)

    def _footing(self) -> dict[str, int]:
        """What has to be the same whenever nobody asks anything; looking at it asks nothing."""
        pid = self.daemon.pid
        found = {f"open {kind}": n for kind, n in descriptors(pid, self.daemon.state_dir).items()}
        return {**found, "threads": threads(pid), "children": len(children(pid))}

    def rest(self, base: Mapping[str, int] | None) -> tuple[dict[str, int], float]:
        """Let go of the driver and wait: for `base`, or, the first time, until nothing changes any more.
        What it is in the end, clients by transport as well, and the memory that no file backs, in KiB. Raises
        AssertionError when it does not come to rest the first time."""
        with self.sampler.held():
            # What is older than the ring is looked up: from now on the journal has its reader.
            assert self.daemon.get("/events.json?since=0&limit=1")[0] == 200
            released = xidwatch("release-driver", "--socket", str(self.daemon.socket))
            assert released.code == 0, released.err
            footing, since = self._footing(), time.monotonic()

            def rests() -> bool:
                nonlocal footing, since
                now = self._footing()
                if now != footing:
                    footing, since = now, time.monotonic()
                lasts = time.monotonic() - since >= QUIET_S
                return lasts and (not now["children"] if base is None else now.items() <= base.items())

            try:
                wait_for(rests, "the daemon to rest", deadline_s=DEADLINE_S, pause_s=0.2)
            except AssertionError as error:
                if base is None:
                    raise AssertionError(f"{error}: {footing}") from None
            clients = {
                name: int(n) for name, n in self.metrics().items() if name.startswith("xidwatch_clients")
            }
            return footing | clients, self.sampler.sample()["anonymous_kib"]
