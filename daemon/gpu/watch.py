"""What is known of the GPUs of this node, put together: what they answer, which are expected, how they are.

`GpuWatch` asks the source, compares with the GPUs that are expected, judges, and remembers. Its
answers name every GPU of the node: one that is lost, sick or hung is in them with the reason. It
never asks a sick GPU that was not named (see `sick`). Belongs to the event loop.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from daemon.event import Event, rfc3339
from daemon.gpu.expected import Answers, ExpectedGpus, Sighting, sightings
from daemon.gpu.expected_gpu import ExpectedGpu
from daemon.gpu.readings import Health, Identity, Reading
from daemon.gpu.selection import Choice, MigChoice, Selected, select
from daemon.gpu.sick import SickGpus
from daemon.gpu.source import GpuSource, SourceName, SourceState, Sweep
from daemon.gpu.verdict import Earlier, Verdict, judge, judge_node
from daemon.incidents.member import FAULT_KINDS
from probes.errors import UserError

NOT_ASKED: Final = "not_asked"
"""`Reading.trouble` of a sick GPU that was left alone."""
EARLIER_S: Final = 60.0
"""How old a health reading has to be before a newer one takes its place as the one to compare with."""
RECENT_EVENTS: Final = 256
"""Events remembered for the last words of a GPU that is found lost."""

_LOOKED: Final = frozenset({SourceName.OK, SourceName.NO_GPU})
"""States of a source that looked: a GPU that it does not list is not there."""

_INDEX_ONLY: Final = "#"
"""What a reading has before the index of a GPU whose address could not be found out (`Sweep.gpus`)."""

Ask = Callable[[Sequence[str] | None], Awaitable[Sweep]]
RecentEvents = Callable[[], Awaitable[Sequence[Event]]]
"""The events of the last hour, oldest first, incidents included. May raise UserError."""


@dataclass(frozen=True, slots=True)
class GpuLook:
    """One GPU in an answer."""

    pci: str
    reading: Reading
    """What it answered, or why it did not."""
    expected: ExpectedGpu | None
    """What is remembered of it; None when it was never seen."""
    identity: Identity | None = None
    """As NVML last named it; None when it never did."""
    verdict: Verdict | None = None
    """None unless health was asked for."""


@dataclass(frozen=True, slots=True)
class NodeLook:
    """An answer: the GPUs that were asked for, or all of them, by PCI address."""

    state: SourceState
    gpus: tuple[GpuLook, ...]
    time_us: int
    """When the question was asked: wall clock, µs since the Unix epoch."""
    verdict: Verdict | None = None
    """The node's; None unless the health of all GPUs was asked for."""
    events_unread: str | None = None
    """Why the events of the last hour are not part of the verdicts; None when they are."""


class GpuWatch:
    """See the module's docstring."""

    def __init__(
        self,
        source: GpuSource,
        *,
        recent_events: RecentEvents,
        wall_us: Callable[[], int],
        learnt: Callable[[Sequence[Identity]], None] = lambda identities: None,
        save: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`learnt` is told who the GPUs are, `save` what `load` needs after a restart."""
        self.source = source
        self.expected = ExpectedGpus()
        self.sick = SickGpus()
        self._recent_events = recent_events
        self._wall_us = wall_us
        self._learnt = learnt
        self._save = save
        self._identities: dict[str, Identity] = {}
        self._earlier: dict[str, tuple[Health, int]] = {}
        self._links: dict[str | None, int] = {}
        self._heard: deque[Event] = deque(maxlen=RECENT_EVENTS)

    # -- what the log says -----------------------------------------------------------------------

    def heard(self, events: Iterable[Event]) -> None:
        """Take what was published, in order."""
        for event in events:
            self.sick.heard(event)
            self.expected.heard(event, self._heard)
            if event.kind in FAULT_KINDS:
                self._heard.append(event)
        self._keep()

    # -- questions -------------------------------------------------------------------------------

    async def inventory(self, wanted: Sequence[str] = ()) -> NodeLook:
        """Who the GPUs are. `wanted` names GPUs, see `selection`; nothing means all. Raises UserError."""
        return await self._look(wanted, self.source.inventory)

    async def processes(self, wanted: Sequence[str] = ()) -> NodeLook:
        """Who uses them. Raises UserError."""
        return await self._look(wanted, self.source.processes)

    async def nvlink(self, wanted: Sequence[str] = ()) -> NodeLook:
        """Their NVLinks, one by one. Raises UserError."""
        return await self._look(wanted, self.source.nvlink)

    async def costly(self, wanted: Sequence[str] = ()) -> NodeLook:
        """What takes tens of milliseconds to read. Raises UserError."""
        return await self._look(wanted, self.source.costly)

    async def health(self, wanted: Sequence[str] = ()) -> NodeLook:
        """How they are, judged; with the node's verdict when all were asked for. Raises UserError."""
        look = await self._look(wanted, self.source.health)
        events: Sequence[Event] = ()
        unread = None
        try:
            events = await self._recent_events()
        except UserError as error:
            unread = error.message
        self._note_links(look.gpus)
        gpus = tuple(replace(gpu, verdict=self._judge(gpu, look, events)) for gpu in look.gpus)
        look = replace(look, gpus=gpus, events_unread=unread)
        if any(name.strip() for name in wanted):
            return look
        verdicts = {gpu.pci: gpu.verdict for gpu in gpus if gpu.verdict is not None}
        verdict = judge_node(verdicts, now_us=look.time_us, events=events, source=look.state)
        return replace(look, verdict=verdict)

    async def identify(self, pci: str) -> Identity | None:
        """Who the GPU at this address is; None when it does not say."""
        sweep = await self._sweep(self.source.inventory, [pci])
        return next((reading.identity for reading in sweep.gpus if reading.answered), None)

    async def selected(self, wanted: Sequence[str]) -> tuple[Selected, ...]:
        """The GPUs that `wanted` names; all that are known when it names none. Raises UserError."""
        choices = self._choices()
        try:
            if choices:
                return select(wanted, choices)
        except UserError:
            pass  # it may be one that was not seen yet
        await self._sweep_all(self.source.inventory)
        return select(wanted, self._choices())

    # -- over a restart --------------------------------------------------------------------------

    def load(self, text: str) -> None:
        """Take up what `save` was given by an earlier process; before anything is heard or asked. Raises
        ValueError, and nothing is taken up then."""
        expected, sick = ExpectedGpus(), SickGpus()
        try:
            saved = json.loads(text)
            expected.load(saved["expected"])
            sick.load(saved["sick"])
            for gpu in expected.all():
                gpu.to_json()  # what cannot be shown is no GPU
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"not what was saved: {error!r}") from error
        self.expected, self.sick = expected, sick

    async def close(self) -> None:
        """End what the source runs."""
        await self.source.close()

    # -- inside ----------------------------------------------------------------------------------

    async def _look(self, wanted: Sequence[str], ask: Ask) -> NodeLook:
        names = [name for name in wanted if name.strip()]
        asked_us = self._wall_us()
        if names:
            gpus = [one.gpu.pci for one in await self.selected(names)]
            sweep = await self._sweep(ask, list(dict.fromkeys(gpus)))
        else:
            sweep = await self._sweep_all(ask)
        looks = (self._gpu(reading) for reading in sweep.gpus)
        return NodeLook(sweep.state, tuple(looks), asked_us)

    async def _sweep_all(self, ask: Ask) -> Sweep:
        """Every GPU that is there or expected; those that are sick are not touched."""
        sick = self.sick.all()
        if not sick:
            return self._with_the_lost(await self._sweep(ask, None))
        asked_us = self._wall_us()
        listed = await self.source.listed()
        known = {gpu.pci for gpu in self.expected.all() if not gpu.is_lost} if listed is None else {*listed}
        sweep = await self._sweep(ask, sorted(known - sick))
        if listed is not None:
            there = (Sighting(pci, Answers.LISTED) for pci in listed)
            self.expected.observe(there, asked_us=asked_us, complete=True, recent=self._heard)
            self._keep()
        return self._with_the_lost(sweep)

    async def _sweep(self, ask: Ask, gpus: Sequence[str] | None) -> Sweep:
        """Ask, and learn from the answers."""
        asked_us = self._wall_us()
        sweep = await ask(gpus)
        sweep = replace(sweep, gpus=self._placed(sweep.gpus))
        found = [reading for reading in sweep.gpus if not reading.pci.startswith(_INDEX_ONLY)]
        if sweep.state.name in _LOOKED:
            complete = gpus is None and len(found) == len(sweep.gpus)
            self.expected.observe(sightings(found), asked_us=asked_us, complete=complete, recent=self._heard)
        for reading in sweep.gpus:
            if reading.answered:
                self.sick.answered(reading.pci, asked_us)
        known = {reading.pci: reading.identity for reading in sweep.gpus if reading.identity is not None}
        self._identities |= known
        self._learnt([*known.values()])
        self._keep()
        return sweep

    def _placed(self, readings: Sequence[Reading]) -> tuple[Reading, ...]:
        """The readings, each GPU whose address could not be found out at that of the one which is expected
        under its index, when nothing else was read from there."""
        found = {reading.pci for reading in readings}
        free = {
            f"{_INDEX_ONLY}{gpu.index}": gpu.pci
            for gpu in self.expected.all()
            if gpu.pci not in found and not gpu.is_lost and gpu.index is not None
        }
        return tuple(replace(reading, pci=free.get(reading.pci, reading.pci)) for reading in readings)

    def _with_the_lost(self, sweep: Sweep) -> Sweep:
        """The sweep with every GPU in it that is expected and was not asked or did not answer."""
        found = {reading.pci for reading in sweep.gpus}
        missing = (self._missing(gpu, sweep.state) for gpu in self.expected.all() if gpu.pci not in found)
        readings = sorted((*sweep.gpus, *missing), key=lambda reading: reading.pci)
        return replace(sweep, gpus=tuple(readings))

    def _missing(self, gpu: ExpectedGpu, state: SourceState) -> Reading:
        sick = self.sick.get(gpu.pci)
        if sick is not None:
            since = f"left alone since {sick.what} at {rfc3339(sick.time_us)}"
            reason = f"{since}: a call on it may hang; name it to ask it anyway"
            return Reading(gpu.pci, answered=False, trouble=NOT_ASKED, reason=reason)
        if not gpu.is_lost and state.name not in _LOOKED:
            why = state.reason or state.name.value
            return Reading(gpu.pci, answered=False, trouble=state.name.value, reason=why)
        reason = gpu.why or "the driver no longer lists it"
        return Reading(gpu.pci, answered=False, trouble=gpu.presence.value, reason=reason)

    def _gpu(self, reading: Reading) -> GpuLook:
        pci = reading.pci
        return GpuLook(pci, reading, self.expected.get(pci), self._identities.get(pci))

    def _judge(self, gpu: GpuLook, look: NodeLook, events: Sequence[Event]) -> Verdict:
        earlier = self._compare(gpu.pci, gpu.reading.health, look.time_us)
        name = gpu.expected.name if gpu.expected is not None else None
        return judge(
            gpu.pci,
            gpu.reading,
            now_us=self._wall_us(),
            events=events,
            expected=gpu.expected,
            hung=next((hung for hung in look.state.hung if hung.gpu == gpu.pci), None),
            earlier=earlier,
            links_expected=self._links.get(name),
        )

    def _compare(self, pci: str, health: Health | None, now_us: int) -> Earlier | None:
        """The earlier reading to compare this one with."""
        if health is None:
            self._earlier.pop(pci, None)
            return None
        before = self._earlier.get(pci)
        seconds_ago = (now_us - before[1]) / 1e6 if before is not None else 0.0
        if before is None or seconds_ago >= EARLIER_S:
            self._earlier[pci] = (health, now_us)
        return Earlier(before[0], seconds_ago) if before is not None and seconds_ago > 0 else None

    def _note_links(self, gpus: Iterable[GpuLook]) -> None:
        for gpu in gpus:
            health = gpu.reading.health
            if health is not None and health.nvlink.links_up is not None and gpu.expected is not None:
                name = gpu.expected.name
                self._links[name] = max(self._links.get(name, 0), health.nvlink.links_up)

    def _choices(self) -> list[Choice]:
        return [self._choice(gpu) for gpu in self.expected.all()]

    def _choice(self, gpu: ExpectedGpu) -> Choice:
        identity = self._identities.get(gpu.pci)
        layout = identity.mig if identity is not None else None
        instances = [
            MigChoice(compute.uuid, part.id, compute.id)
            for part in (layout.gpu_instances if layout is not None else None) or ()
            for compute in part.compute_instances or ()
        ]
        return Choice(gpu.pci, None if gpu.is_lost else gpu.index, gpu.uuid, tuple(instances))

    def _keep(self) -> None:
        if self.expected.changed or self.sick.changed:
            self._save(json.dumps({"expected": self.expected.dump(), "sick": self.sick.dump()}))
