"""The GPU side of the process, put together: where readings come from, what is known, what is found out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from daemon.config import Config, GpuBackend, ProbeName
from daemon.event import Event, Kind, Process, rfc3339
from daemon.gpu.driver_hold import DriverHold, Tracepoint
from daemon.gpu.inquiry import Inquiry, gpus
from daemon.gpu.nvml_events import NvmlEvents
from daemon.gpu.nvml_source import NvmlSource
from daemon.gpu.process import ProcessReader
from daemon.gpu.readings import Identity
from daemon.gpu.roll import Present
from daemon.gpu.watch import GpuWatch
from daemon.intake import Intake
from daemon.operator.audit import AuditEntry, Outcome
from daemon.own_events import Operation
from daemon.pipeline import Pipeline
from daemon.recent import of_last_hour
from daemon.store import Store
from probes import kernel
from probes.errors import UserError
from probes.health import ProbeHealth
from probes.kernel import Clock
from xidwatch.gpu_source import source_of

log = logging.getLogger(__name__)


class GpuSide:
    """Belongs to the event loop. What it knows is kept in the journal, and taken up again at start."""

    def __init__(
        self,
        config: Config,
        *,
        pipeline: Pipeline,
        intake: Intake,
        store: Store,
        clock: Clock,
        tracepoint: Tracepoint | None = None,
        boot_id: str | None = None,
    ) -> None:
        """`tracepoint`: what is attached to the driver's tracepoint; None where nothing is. `boot_id` is this
        boot's, found out by default; "" when it is not known."""
        self._pipeline = pipeline
        self._intake = intake
        self.source = source_of(config)
        # Invented GPUs: nothing of them is kept, and what the kernel says is not about them.
        self._is_mock = config.gpu is GpuBackend.MOCK
        self.processes = ProcessReader()

        async def recent_events() -> Sequence[Event]:
            if self._is_mock:
                raise UserError("the GPUs are invented, and the events are this node's own")
            return await of_last_hour(store.stream, clock.wall_us())

        self.watch = GpuWatch(
            self.source,
            recent_events=recent_events,
            wall_us=clock.wall_us,
            learnt=self._learnt,
            save=self._save,
            boot_id=(kernel.boot_id() if boot_id is None else boot_id) or None,
        )
        self._inquiry = Inquiry(
            self.watch,
            self.processes,
            intake.found_out,
            wall_us=clock.wall_us,
            reads_gpus=isinstance(self.source, NvmlSource),
            released_us=self._released_us,
        )

        self.events = self._witness(config)
        reader = self.source if isinstance(self.source, NvmlSource) else None
        self.hold = DriverHold(reader, self.events, tracepoint)

    def start(self) -> None:
        """Take up what an earlier process knew, and listen to events from now on; before `Intake.start`."""
        saved = self._intake.saved_gpus
        if saved is not None and not self._is_mock:
            try:
                self.watch.load(saved)
            except ValueError as error:
                log.warning("what was kept of the GPUs cannot be read: %s", error)
        if not self._is_mock:
            self._intake.listen(self.watch.heard)
        self._intake.listen(self._inquiry.heard)
        self._intake.listen(self._after_a_reload)

    def listen(self) -> None:
        """Begin with NVML's event set, where it was asked for; after the log is read."""
        if self.events is not None:
            self.events.start()

    def health(self) -> Sequence[ProbeHealth]:
        """State of NVML's event set; empty where it was not asked for."""
        return () if self.events is None else (self.events.health(),)

    async def close(self) -> None:
        """End what runs."""
        if self.events is not None:
            await self.events.close()
        await self._inquiry.close()
        await self.watch.close()

    @property
    def driver(self) -> DriverHold | None:
        """What holds the driver's device files open; None where nothing can."""
        return self.hold if isinstance(self.source, NvmlSource) else None

    def status(self) -> Mapping[str, Any]:
        """State of the readings, for `xidwatch status`."""
        state = self.watch.state()
        return {
            "source": state.name.value,
            "reason": state.reason,
            "hint": state.hint,
            "mock": state.mock,
            "hung": [
                {
                    "pci": hung.gpu,
                    "call": hung.call,
                    "trouble": hung.trouble.value,
                    "since": rfc3339(hung.since_us),
                }
                for hung in state.hung
            ],
            "workers_abandoned": state.abandoned,
            "expected": len(self.watch.expected.all()),
            "lost": [gpu.to_json() for gpu in self.watch.expected.lost()],
            "inquiries_left_out": self._inquiry.left_out,
        }

    def audit(self, entry: AuditEntry) -> None:
        """Keep the record of what an operator tool did."""
        process = Process(entry.pid, entry.process_name) if entry.pid is not None else None
        self._intake.operated(
            Operation(
                entry.action.value.upper(),
                entry.summary,
                entry.outcome in (Outcome.BEGUN, Outcome.DONE),
                entry.gpu,
                process,
                {
                    "outcome": entry.outcome.value,
                    "asked_by": entry.asked_by,
                    "who": None if entry.who is None else dict(entry.who.to_json()),
                    **entry.detail,
                },
            )
        )

    def _witness(self, config: Config) -> NvmlEvents | None:
        """NVML's event set: opt-in, since it keeps the driver's device files open."""
        asked_for = config.probes is not None and ProbeName.NVML in config.probes
        if not asked_for or not isinstance(self.source, NvmlSource):
            return None
        return NvmlEvents(self._intake.nvml_said, on_change=self._intake.probe_changed, present=self._present)

    async def _present(self) -> Present:
        """The GPUs that the driver lists in /proc; where it lists none, those that were seen."""
        listed = await self.source.listed()
        seen = (gpu.pci for gpu in self.watch.expected.all() if not gpu.is_lost)
        return Present(
            frozenset(seen if listed is None else listed),
            complete=listed is not None,
            alone={
                pci: f"left alone since {sick.what}: a call on it may hang"
                for pci in self.watch.sick.all()
                if (sick := self.watch.sick.get(pci)) is not None
            },
        )

    def _after_a_reload(self, events: Sequence[Event]) -> None:
        loaded = [event for event in events if event.kind is Kind.DRIVER_LOADED and not event.drill]
        if loaded:
            self.hold.take_up()
            if isinstance(self.source, NvmlSource):
                self.source.driver_loaded(max(event.last_time_us for event in loaded))
        released_us = self._released_us()
        if released_us is not None and any(event.last_time_us > released_us for event in loaded):
            self._take_up()

    def _released_us(self) -> int | None:
        """Since when the driver is let go of on purpose: then only a person's question takes it up."""
        return self.source.released_us if isinstance(self.source, NvmlSource) else None

    def _take_up(self) -> None:
        if isinstance(self.source, NvmlSource):
            self.source.take_up()

    def _save(self, text: str) -> None:
        if not self._is_mock:
            self._intake.save_gpus(text)

    def _learnt(self, identities: Sequence[Identity]) -> None:
        if not self._is_mock:
            versions = (each.driver_version for each in identities if each.driver_version is not None)
            self._pipeline.learn_from_nvml(gpus(identities), next(versions, None))
