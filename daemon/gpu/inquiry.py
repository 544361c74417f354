"""What is found out about an event while it is fresh: who the process is, and how the GPU is.

The event goes out first and waits for nothing; what is found becomes a revision of it. A process is
asked for in /proc while it may still live, a GPU for its readings after a critical or fatal event,
each within a deadline. A GPU that may hang (see `sick`) is not touched, and the event says so. Only
what happens now is looked into, not what is read from the log of earlier, nor drills.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

from daemon.event import Event, Gpu, Kind, Process, Severity
from daemon.fault import Facts
from daemon.gpu import telemetry
from daemon.gpu.process import ProcessFacts, ProcessReader
from daemon.gpu.readings import Identity
from daemon.gpu.source import SourceName
from daemon.gpu.watch import GpuWatch
from probes.line import Origin

log = logging.getLogger(__name__)

FRESH_US: Final = 5_000_000
"""How old an event may be to be looked into: then its process may live, and its pid is not another's."""
AT_ONCE: Final = 16
"""Events looked into at the same time; in a storm the others go without."""
REMEMBERED: Final = 256
"""Questions remembered, so that a later revision of an event does not ask them again."""
GPU_DEADLINE_S: Final = 2.0
CLOCK_TICK_US: Final = 20_000
"""How exactly /proc and the log tell a process's start and a line's time: two clock ticks."""

_KINDS = frozenset({Kind.XID, Kind.GPU_LOST, Kind.NVRM})
_SILENT = frozenset({SourceName.OFF, SourceName.NO_LIBRARY, SourceName.NO_DRIVER})
"""Where there is nothing to read, events do not say each time that nothing was read."""

Found = Callable[[str, Facts], None]
"""Takes what was found out about the event of this id."""


class Inquiry:
    """Looks into events. Belongs to the event loop; `heard` returns at once."""

    def __init__(
        self,
        watch: GpuWatch,
        processes: ProcessReader,
        found: Found,
        *,
        wall_us: Callable[[], int],
        reads_gpus: bool = True,
    ) -> None:
        """Without `reads_gpus` only processes are looked up: readings are switched off, or those of invented
        GPUs, which have no place in the events of real ones."""
        self._watch = watch
        self._reads_gpus = reads_gpus
        self._processes = processes
        self._found = found
        self._wall_us = wall_us
        self._open: set[asyncio.Task[None]] = set()
        self._gpus_being_read: set[str] = set()
        self._asked = _Lately(REMEMBERED)
        self.left_out = 0
        """Events not looked into because too many were at the time."""

    def heard(self, events: Iterable[Event]) -> None:
        """Look into what is new: an event, or the process of one, which a later line may name."""
        for event in events:
            if not self._is_fresh(event):
                continue
            pid = event.process.pid if event.process is not None else None
            if pid is not None and self._asked.is_new((event.id, pid)):
                self._begin(event, self._look_up(event, pid))
            if event.gpu is None or not self._reads_gpus:
                continue
            if self._asked.is_new((event.gpu.pci, None)):
                self._begin(event, self._identify(event, event.gpu))
            is_grave = event.severity.rank >= Severity.CRITICAL.rank
            if is_grave and self._asked.is_new((event.id, None)):
                self._begin(event, self._read(event, event.gpu))

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _begin(self, event: Event, looking: Coroutine[None, None, None]) -> None:
        if len(self._open) >= AT_ONCE:
            self.left_out += 1
            looking.close()
            return
        task = asyncio.create_task(looking, name=f"inquiry {event.id}")
        self._open.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an event could not be looked into", exc_info=error)

    def _is_fresh(self, event: Event) -> bool:
        is_the_kernels = event.origin == Origin.KERNEL and not event.drill
        return event.kind in _KINDS and is_the_kernels and self._wall_us() - event.time_us < FRESH_US

    async def _look_up(self, event: Event, pid: int) -> None:
        """The process, if it still lives."""
        facts = (await self._processes.look_up([pid]))[pid]
        if facts.found and _lived(facts, event):
            self._found(event.id, Facts(process=_process(facts)))

    async def _identify(self, event: Event, gpu: Gpu) -> None:
        """Who the GPU is, which is asked once: from then on events are born with it."""
        if gpu.index is not None or self._watch.sick.get(gpu.pci) is not None:
            return
        identity = await self._watch.identify(gpu.pci)
        if identity is not None:
            self._found(event.id, Facts(gpu=_gpu(identity)))

    async def _read(self, event: Event, gpu: Gpu) -> None:
        """The GPU's readings at the moment of the event."""
        sick = self._watch.sick.get(gpu.pci)
        if sick is not None:
            reason = f"the GPU was not read: after {sick.what} a call on it may hang"
            self._found(event.id, Facts(telemetry=telemetry.unavailable(reason, self._wall_us())))
            return
        if gpu.pci in self._gpus_being_read:
            reason = "the GPU is being read for another event of this moment"
            self._found(event.id, Facts(telemetry=telemetry.unavailable(reason, self._wall_us())))
            return
        self._gpus_being_read.add(gpu.pci)
        try:
            asked_us = self._wall_us()
            async with asyncio.timeout(GPU_DEADLINE_S):
                sweep = await self._watch.source.health([gpu.pci])
        except TimeoutError:
            reason = f"the GPU did not answer within {GPU_DEADLINE_S:g} s"
            self._found(event.id, Facts(telemetry=telemetry.unavailable(reason, asked_us)))
            return
        finally:
            self._gpus_being_read.discard(gpu.pci)
        if sweep.state.name in _SILENT:
            return
        readings = [reading for reading in sweep.gpus if reading.pci == gpu.pci]
        taken = (
            telemetry.of_reading(readings[0], asked_us)
            if readings
            else telemetry.unavailable(sweep.state.reason or "the GPU did not answer", asked_us)
        )
        self._found(event.id, Facts(telemetry=taken))


class _Lately:
    """What was asked lately; the oldest is forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: OrderedDict[tuple[str, int | None], None] = OrderedDict()

    def is_new(self, question: tuple[str, int | None]) -> bool:
        """True the first time."""
        if question in self._seen:
            return False
        self._seen[question] = None
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return True


def gpus(identities: Iterable[Identity]) -> list[Gpu]:
    """Who these GPUs are, as events name them."""
    return [_gpu(identity) for identity in identities]


def _gpu(identity: Identity) -> Gpu:
    return Gpu(identity.pci, identity.uuid, identity.serial, identity.index, identity.name)


def _lived(facts: ProcessFacts, event: Event) -> bool:
    """True when it is the process of the line: its name is the one that the driver printed, and it had begun
    before. Otherwise its pid was given to another since, or the line was read late."""
    name = event.process.name if event.process is not None else None
    is_named_so = name is None or facts.name is None or facts.name[:15] == name[:15]
    return is_named_so and facts.started_us is not None and facts.started_us <= event.time_us + CLOCK_TICK_US


def _process(facts: ProcessFacts) -> Process:
    return Process(
        facts.pid,
        facts.name,
        container_id=facts.container_id,
        in_container=facts.in_container,
        command_line=facts.command_line,
        user=facts.user,
        started_us=facts.started_us,
    )
