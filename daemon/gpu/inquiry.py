"""What is found out about an event while it is fresh: who the process is, and how the GPU is.

The event goes out first and waits for nothing; what is found becomes a revision of it. A process is
asked for in /proc while it may still live, a GPU for its readings after a critical or fatal event,
each within a deadline. Only what happens now is looked into, not what is read from the log of earlier,
nor drills.

An event whose GPU is not read says why: it may hang (see `sick`), the driver is let go of, or too much
is asked at the moment. Questions about processes, names and readings have places of their own, so many
for each GPU, and the gravest events take them first: a storm on one GPU, or of addresses that no GPU
has, takes no reading from another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import Any, Final

from daemon.event import Event, Gpu, Kind, Process, Severity, rfc3339
from daemon.fault import Facts
from daemon.gpu import telemetry
from daemon.gpu.places import Places
from daemon.gpu.process import ProcessFacts, ProcessReader
from daemon.gpu.readings import Identity
from daemon.gpu.source import SourceName
from daemon.gpu.watch import GpuWatch
from probes.line import Origin

log = logging.getLogger(__name__)

FRESH_US: Final = 5_000_000
"""How old an event may be to be looked into: then its process may live, and its pid is not another's."""
PROCESSES_AT_ONCE: Final = 32
PROCESSES_OF_EACH: Final = 4
"""Of one GPU, at the same time. Events that are not grave leave half of either to those that are."""
GPUS_AT_ONCE: Final = 64
"""GPUs that have answered before, read at the same time: more than any node has."""
STRANGERS_AT_ONCE: Final = 16
"""The same for addresses at which nobody has seen a GPU: a line can name any."""
REMEMBERED: Final = 256
"""Questions of one sort remembered, so that a later revision of an event does not ask them again."""
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
        released_us: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Without `reads_gpus` only processes are looked up: readings are switched off, or those of invented
        GPUs, which have no place in the events of real ones. `released_us`: since when the driver is let go
        of, wall clock in µs since the Unix epoch; None when it is not."""
        self._watch = watch
        self._reads_gpus = reads_gpus
        self._released_us = released_us
        self._processes = processes
        self._found = found
        self._wall_us = wall_us
        self._open: set[asyncio.Task[None]] = set()
        self._closed = False
        self._looking_up = Places(each=PROCESSES_OF_EACH, together=PROCESSES_AT_ONCE)
        self._naming = Places(each=1, together=STRANGERS_AT_ONCE)
        self._reading = Places(each=1, together=GPUS_AT_ONCE)
        self._reading_strangers = Places(each=1, together=STRANGERS_AT_ONCE)
        self._looked_up = _Lately(REMEMBERED)
        self._named = _Lately(REMEMBERED)
        self._read = _Lately(REMEMBERED)
        self.left_out = 0
        """Questions that were not asked because too many were under way."""

    def heard(self, events: Iterable[Event]) -> None:
        """Look into what is new: an event, or the process of one, which a later line may name."""
        fresh = [event for event in events if self._is_fresh(event)]
        for event in sorted(fresh, key=lambda event: -event.severity.rank):
            if self._reads_gpus and event.gpu is not None:
                self._ask_gpu(event, event.gpu)
            if event.process is not None and event.process.pid is not None:
                self._ask_process(event, event.process.pid)

    @property
    def busy(self) -> int:
        """Questions that are under way."""
        return len(self._open)

    async def close(self) -> None:
        """Give up what is under way."""
        self._closed = True
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    # -- what to ask -----------------------------------------------------------------------------

    def _ask_process(self, event: Event, pid: int) -> None:
        question, gpu = (event.id, pid), event.device
        if question in self._looked_up:
            return
        if not self._looking_up.take(gpu, share=1.0 if _is_grave(event) else 0.5):
            self.left_out += 1
            return
        self._looked_up.add(question)
        self._begin(self._look_up(event, pid), self._looking_up, gpu)

    def _ask_gpu(self, event: Event, gpu: Gpu) -> None:
        if _is_grave(event) and event.telemetry is None and event.id not in self._read:
            self._ask_readings(event, gpu.pci)
        question = (gpu.pci, self._watch.set_changes)
        if gpu.index is not None or question in self._named or self._untouchable(gpu.pci) is not None:
            return
        if not self._naming.take(gpu.pci):
            self.left_out += 1
            return
        self._named.add(question)
        self._begin(self._name(event, gpu.pci), self._naming, gpu.pci)

    def _ask_readings(self, event: Event, pci: str) -> None:
        if (reason := self._untouchable(pci)) is not None:
            self._say_unread(event, reason)
            return
        places = self._reading if self._watch.has_seen(pci) else self._reading_strangers
        if places.take(pci):
            self._read.add(event.id)
            self._begin(self._read_gpu(event, pci), places, pci)
        elif places.holds(pci):
            self._say_unread(event, "the GPU is being read for another event of this moment")
        else:
            self.left_out += 1
            self._say_unread(event, "the GPU was not read: too many are being read at this moment")

    def _untouchable(self, pci: str) -> str | None:
        """Why this GPU is not called now; None when it may be."""
        if (sick := self._watch.sick.get(pci)) is not None:
            return f"the GPU was not read: after {sick.what} a call on it may hang"
        if (released_us := self._released_us()) is not None:
            since = f"the driver was released at {rfc3339(released_us)}"
            return f"the GPU was not read: {since}; asking for its health takes the driver up again"
        return None

    def _say_unread(self, event: Event, reason: str) -> None:
        """Publish that there are no readings, once the event itself has gone out to everybody."""
        if self._watch.source.state().name not in _SILENT:
            facts = Facts(telemetry=telemetry.unavailable(reason, self._wall_us()))
            self._read.add(event.id)
            asyncio.get_running_loop().call_soon(self._tell, event.id, facts)

    def _tell(self, event_id: str, facts: Facts) -> None:
        if not self._closed:
            self._found(event_id, facts)

    # -- asking ----------------------------------------------------------------------------------

    def _begin(self, looking: Coroutine[Any, Any, None], places: Places, gpu: str | None) -> None:
        task = asyncio.create_task(looking, name="inquiry")
        self._open.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._open.discard(task)
            places.give_back(gpu)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("an event could not be looked into", exc_info=error)

        task.add_done_callback(ended)

    def _is_fresh(self, event: Event) -> bool:
        is_the_kernels = event.origin == Origin.KERNEL and not event.drill
        return event.kind in _KINDS and is_the_kernels and self._wall_us() - event.time_us < FRESH_US

    async def _look_up(self, event: Event, pid: int) -> None:
        """The process, if it still lives."""
        facts = (await self._processes.look_up([pid]))[pid]
        if facts.found and _lived(facts, event):
            self._found(event.id, Facts(process=_process(facts)))

    async def _name(self, event: Event, pci: str) -> None:
        """Who the GPU is, asked once while the set of GPUs is the same: from then on events are born with
        it."""
        if not await self._is_listed(pci) or self._untouchable(pci) is not None:
            return
        identity = await self._watch.identify(pci)
        if identity is not None:
            self._found(event.id, Facts(gpu=_gpu(identity)))

    async def _read_gpu(self, event: Event, pci: str) -> None:
        """The GPU's readings at the moment of the event."""
        asked_us = self._wall_us()
        try:
            async with asyncio.timeout(GPU_DEADLINE_S):
                taken = await self._readings(pci, asked_us)
        except TimeoutError:
            reason = f"the GPU did not answer within {GPU_DEADLINE_S:g} s"
            taken = telemetry.unavailable(reason, asked_us)
        if taken is not None:
            self._found(event.id, Facts(telemetry=taken))

    async def _readings(self, pci: str, asked_us: int) -> dict[str, Any] | None:
        """The telemetry of this GPU; None where there is nothing to read."""
        if not await self._is_listed(pci):
            return telemetry.unavailable("the driver does not list this GPU", asked_us)
        if (reason := self._untouchable(pci)) is not None:
            return telemetry.unavailable(reason, asked_us)
        sweep = await self._watch.source.health([pci])
        if sweep.state.name in _SILENT:
            return None
        readings = [reading for reading in sweep.gpus if reading.pci == pci]
        if not readings:
            return telemetry.unavailable(sweep.state.reason or "the GPU did not answer", asked_us)
        return telemetry.of_reading(readings[0], asked_us)

    async def _is_listed(self, pci: str) -> bool:
        """False when there is a list of GPUs and this address is not in it: the driver is not asked then."""
        listed = await self._watch.source.listed()
        return listed is None or pci in listed


class _Lately:
    """What was asked lately; the oldest is forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def __contains__(self, question: Hashable) -> bool:
        return question in self._seen

    def add(self, question: Hashable) -> None:
        """It is asked."""
        self._seen[question] = None
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)


def _is_grave(event: Event) -> bool:
    return event.severity.rank >= Severity.CRITICAL.rank


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
