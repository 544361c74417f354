"""The state of the running daemon as one JSON object: `xidwatch status`, and later a tool's answer.

It says what hears and what does not and why, what is kept, and what this version cannot do, so
that "no errors" and "could not look" never look alike.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.config import Config, GpuBackend, ProbeName
from daemon.event import rfc3339
from daemon.intake import Intake
from daemon.journal import FILE_NAME
from daemon.outlet import OutletHealth
from daemon.pipeline import Pipeline
from daemon.sinks.health import SinkHealth
from daemon.store import Store
from probes.health import ProbeHealth
from probes.kernel import Clock
from probes.privileges import GivenUp


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A part that was asked for, or could be, and is not there."""

    part: str
    """`nvml`"""
    reason: str


def unavailable(config: Config) -> tuple[Unavailable, ...]:
    """What the settings ask for, or leave open, and this version does not have."""
    probes = config.probes
    parts: list[Unavailable] = []
    if (
        probes is not None
        and ProbeName.NVML in probes
        and config.gpu not in (GpuBackend.AUTO, GpuBackend.NVML)
    ):
        parts.append(Unavailable(ProbeName.NVML, f"--gpu {config.gpu} reads no GPU"))
    if probes is None:
        parts.append(Unavailable(ProbeName.NVML, "a second witness, opt-in: --probes kmsg,nvml"))
    return tuple(parts)


class StatusReport:
    """Puts the object together when it is asked for."""

    def __init__(
        self,
        config: Config,
        *,
        version: str,
        address: str,
        boot_id: str,
        clock: Clock,
        pipeline: Pipeline,
        intake: Intake,
        store: Store,
        health: Callable[[], Sequence[ProbeHealth]],
        clients: Callable[[], Mapping[str, int]],
        gpus: Callable[[], Mapping[str, Any]],
        tracker: Callable[[], Mapping[str, Any]],
        given_up: GivenUp | None = None,
        access: Callable[[], Mapping[str, Any]] | None = None,
        tls: Callable[[], Mapping[str, Any] | None] = lambda: None,
        sinks: Callable[[], Sequence[SinkHealth]] = tuple,
        outlets: Callable[[], Sequence[OutletHealth]] = tuple,
    ) -> None:
        """`access`: who may come in over HTTP; None where there is no HTTP.

        `clients` counts who is connected, by transport; `gpus` is the state of the readings,
        `tracker` that of what tells how processes end. `given_up`: what became of the capabilities that load
        eBPF programs; None where nobody looked at them. `tls`: the certificate of HTTPS; None for plain
        HTTP. `sinks`: those of --on-event; `outlets`: what else carries events away."""
        self._config = config
        self._version = version
        self._address = address
        self._boot_id = boot_id
        self._clock = clock
        self._pipeline = pipeline
        self._intake = intake
        self._store = store
        self._health = health
        self._clients = clients
        self._gpus = gpus
        self._tracker = tracker
        self._given_up = given_up
        self._access = access
        self._tls = tls
        self._sinks = sinks
        self._outlets = outlets
        self._started_us = clock.wall_us()
        self._started_monotonic_us = clock.monotonic_us()

    def __call__(self) -> Mapping[str, Any]:
        """The state as of now. Times are RFC 3339 in UTC, durations in seconds."""
        pipeline, stream = self._pipeline, self._store.stream
        return {
            "version": self._version,
            "node": self._config.node_name,
            "boot_id": self._boot_id,
            "pid": os.getpid(),
            "started": rfc3339(self._started_us),
            "uptime_s": round((self._clock.monotonic_us() - self._started_monotonic_us) / 1e6, 3),
            "listen": self._address,
            "tls": self._tls(),
            "socket": str(self._config.socket),
            "mode": self._config.mode,
            "drills_allowed": self._config.allow_drills,
            "driver_version": pipeline.driver_version,
            "probes": [{**dataclasses.asdict(probe), "state": probe.state.value} for probe in self._health()],
            "gpu": dict(self._gpus()),
            "tracker": dict(self._tracker()),
            "privileges": None if self._given_up is None else dataclasses.asdict(self._given_up),
            "access": None if self._access is None else dict(self._access()),
            "sinks": [sink.to_dict(self._clock.wall_us()) for sink in self._sinks()],
            "outlets": [dataclasses.asdict(outlet) for outlet in self._outlets()],
            "unavailable": [dataclasses.asdict(part) for part in unavailable(self._config)],
            "journal": {
                "path": str(self._config.state_dir / FILE_NAME),
                **self._store.health().to_dict(),
            },
            "newest_cursor": stream.newest,
            "oldest_cursor": stream.oldest,
            "clients": dict(self._clients()),
            "counters": {
                **dataclasses.asdict(pipeline.counters),
                "unattached": pipeline.unattached,
                "failures": self._intake.failures,
            },
        }
