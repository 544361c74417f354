"""What is known of the GPUs of this node, put together: what they answer, which are expected, how they are.

`GpuWatch` asks the source, compares with the GPUs that are expected, judges, and remembers. Its
answers name every GPU of the node: one that is lost, sick or hung is in them with the reason, and no
two have the same index (see `numbering`). It never asks a sick GPU that was not named (see `sick`).
Belongs to the event loop.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from daemon.event import Event, Kind, rfc3339
from daemon.gpu.comparison import Comparison
from daemon.gpu.expected import Answers, Change, ExpectedGpus, Sighting, sightings
from daemon.gpu.expected_gpu import ExpectedGpu
from daemon.gpu.hanging import one_each, reading_as_of, state_as_of
from daemon.gpu.numbering import Count, Numbering, has_address, index_alone, place, placed, places
from daemon.gpu.readings import Identity, Reading
from daemon.gpu.selection import Choice, MigChoice, Selected, is_index, select
from daemon.gpu.sick import SickGpus
from daemon.gpu.source import GpuSource, SourceName, SourceState, Sweep
from daemon.gpu.verdict import Verdict, judge, judge_node
from daemon.incidents.member import FAULT_KINDS
from probes.errors import UserError

NOT_ASKED: Final = "not_asked"
"""`Reading.trouble` of a sick GPU that was left alone."""
RECENT_EVENTS: Final = 256
"""Events remembered for the last words of a GPU that is found lost."""

_LOOKED: Final = frozenset({SourceName.OK, SourceName.NO_GPU})
"""States of a source that looked: a GPU that it does not list is not there."""

_TRIES: Final = 2
"""How often the indices are read for one answer, when NVML is initialised anew meanwhile."""


class Ask(Protocol):
    """One of `GpuSource`'s questions."""

    def __call__(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Awaitable[Sweep]:
        """See `GpuSource`."""


RecentEvents = Callable[[], Awaitable[Sequence[Event]]]
"""The events of the last hour, oldest first, incidents included. May raise UserError."""


@dataclass(frozen=True, slots=True)
class GpuLook:
    """One GPU in an answer."""

    pci: str
    """Its PCI address, or `at NVML index 3` where that could not be found out."""
    reading: Reading
    """What it answered, or why it did not."""
    expected: ExpectedGpu | None
    """What is remembered of it; None when it was never seen."""
    identity: Identity | None = None
    """As NVML last named it, with the index it has now; None when it never did."""
    verdict: Verdict | None = None
    """None unless health was asked for."""
    was_index: int | None = None
    """The NVML index it had last, where the one that it has now is not known; None when there was none."""


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
        boot_id: str | None = None,
    ) -> None:
        """`learnt` is told who the GPUs are, `save` what `load` needs after a restart. `boot_id`: this boot,
        None when that is not known."""
        self.source = source
        self.expected = ExpectedGpus(boot_id)
        self.sick = SickGpus(boot_id)
        self._boot_id = boot_id
        self._numbering = Numbering()
        self._places: Mapping[str, str] = {}
        self._recent_events = recent_events
        self._wall_us = wall_us
        self._learnt = learnt
        self._save = save
        self._identities: dict[str, Identity] = {}
        self._comparison = Comparison()
        self._heard: deque[Event] = deque(maxlen=RECENT_EVENTS)

    # -- what the log says -----------------------------------------------------------------------

    def heard(self, events: Iterable[Event]) -> None:
        """Take what was published, in order."""
        for event in events:
            is_known = event.gpu is not None and self.has_seen(event.gpu.pci)
            self.sick.heard(event, is_known=is_known)
            self._note_changes(self.expected.heard(event, self._heard))
            if event.kind is Kind.DRIVER_LOADED and not event.drill:
                self._numbering.set_changed()
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
        now_us = self._wall_us()
        look = _as_of(look, now_us)
        self._note_links(look.gpus)
        gpus = tuple(replace(gpu, verdict=self._judge(gpu, look, events, now_us)) for gpu in look.gpus)
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

    @property
    def set_changes(self) -> int:
        """How often a GPU was lost, came back or was new: what was known of indices before counts no more."""
        return self._numbering.changes

    def has_seen(self, pci: str) -> bool:
        """True when the GPU at this address has ever answered: a line can name any address."""
        known = self.expected.get(pci)
        return known is not None and known.seen_us is not None

    def state(self) -> SourceState:
        """The source's state, with the places of the GPUs that hang as far as they are known."""
        return self._with_places(self.source.state())

    async def selected(self, wanted: Sequence[str]) -> tuple[Selected, ...]:
        """The GPUs that `wanted` names; all that are known when it names none. Raises UserError."""
        by_index = any(is_index(name) for text in wanted for name in text.split(","))
        try:
            if (choices := self._choices()) and not (by_index and self._indices_are_old()):
                return select(wanted, choices)
        except UserError:
            pass  # it may be one that was not seen yet
        for _ in range(_TRIES):
            await self._sweep_all(self.source.inventory)
            if not (by_index and self._indices_are_old()):
                break
        return select(wanted, self._choices())

    # -- over a restart --------------------------------------------------------------------------

    def load(self, text: str) -> None:
        """Take up what `save` was given by an earlier process; before anything is heard or asked. Raises
        ValueError, and nothing is taken up then."""
        expected, sick = ExpectedGpus(self._boot_id), SickGpus(self._boot_id)
        try:
            saved = json.loads(text)
            expected.load(saved["expected"])
            sick.load(saved["sick"])
            saved_in = saved.get("boot_id")
            for gpu in expected.all():
                gpu.to_json()  # what cannot be shown is no GPU
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"not what was saved: {error!r}") from error
        is_another_boot = None not in (saved_in, self._boot_id) and saved_in != self._boot_id
        self.expected = expected
        self.sick = SickGpus(self._boot_id) if is_another_boot else sick

    async def close(self) -> None:
        """End what the source runs."""
        await self.source.close()

    # -- inside ----------------------------------------------------------------------------------

    async def _look(self, wanted: Sequence[str], ask: Ask) -> NodeLook:
        names = [name for name in wanted if name.strip()]
        asked_us = self._wall_us()
        if names:
            gpus = await self._named(names)
            # One whose address is still not known was insisted on just now.
            sweep = await self._sweep(ask, gpus, insist=all(index_alone(gpu) is None for gpu in gpus))
        else:
            sweep = await self._sweep_all(ask)
        await self._number(reading.pci for reading in sweep.gpus if reading.answered)
        indices = self._indices()
        looks = (self._gpu(reading, indices.get(reading.pci)) for reading in sweep.gpus)
        look = NodeLook(self._with_places(sweep.state), tuple(looks), asked_us)
        return _as_of(look, self._wall_us())

    async def _named(self, names: Sequence[str]) -> list[str]:
        """Where the GPUs are that these name. One that is left alone and whose index alone is known is asked
        for its address."""
        left_alone = {choice.pci for choice in self._choices() if index_alone(choice.pci) is not None}
        gpus = [one.gpu.pci for one in await self.selected(names)]
        alone = [gpu for gpu in gpus if gpu in left_alone]
        if alone:
            await self._sweep(self.source.inventory, alone, insist=True)
            gpus = [one.gpu.pci for one in await self.selected(names)]
        return list(dict.fromkeys(gpus))

    async def _number(self, gpus: Iterable[str]) -> None:
        """Read who these GPUs are, where their index was not read since the GPUs were numbered."""
        gpus = tuple(gpus)
        for _ in range(_TRIES):
            count = self._count()
            old = [pci for pci in gpus if not self._numbering.is_current(pci, count)]
            if not old:
                return
            sweep = await self._sweep(self.source.inventory, old)
            gpus = tuple(reading.pci for reading in sweep.gpus if reading.answered)

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
            changes = self.expected.observe(there, asked_us=asked_us, complete=True, recent=self._heard)
            self._note_changes(changes)
            self._keep()
        return self._with_the_lost(sweep)

    async def _sweep(self, ask: Ask, gpus: Sequence[str] | None, *, insist: bool = False) -> Sweep:
        """Ask, and learn from the answers."""
        asked_us, count = self._wall_us(), self._count()
        sweep = await ask(gpus, insist=insist)
        is_one_count = self._count(sweep.state) == count
        sweep = self._placed(sweep, complete=gpus is None)
        found = [reading for reading in sweep.gpus if has_address(reading.pci)]
        if sweep.state.name in _LOOKED:
            complete = gpus is None and len(found) == len(sweep.gpus)
            seen = sightings(found)
            changes = self.expected.observe(seen, asked_us=asked_us, complete=complete, recent=self._heard)
            self._note_changes(changes)
        for reading in sweep.gpus:
            if reading.answered:
                self.sick.answered(reading.pci, asked_us)
        known = {reading.pci: reading.identity for reading in sweep.gpus if reading.identity is not None}
        answered = {reading.pci for reading in sweep.gpus if reading.answered}
        self._identities |= {
            pci: identity
            for pci, identity in known.items()
            if pci in answered or not _is_same(self._identities.get(pci), identity)
        }
        if is_one_count:
            read = {pci: identity.index for pci, identity in known.items() if pci in answered}
            self._numbering.read(read, self._count(sweep.state))
        self._learnt([*known.values()])
        self._keep()
        return sweep

    def _placed(self, sweep: Sweep, *, complete: bool) -> Sweep:
        """The sweep with a place for each GPU of which only the index is known. `complete`: no GPU was left
        out, so that one that is missing may be the one."""
        if not any(index_alone(reading.pci) is not None for reading in sweep.gpus):
            return sweep
        if complete:
            self._places = places(sweep.gpus, self.expected.all())
        readings = (
            replace(reading, pci=self._places.get(reading.pci) or place(reading.pci))
            for reading in sweep.gpus
        )
        return replace(sweep, gpus=tuple(readings))

    def _with_places(self, state: SourceState) -> SourceState:
        return replace(state, hung=one_each(placed(call, self._places) for call in state.hung))

    def _count(self, state: SourceState | None = None) -> Count:
        return self._numbering.count((state or self.source.state()).numbering)

    def _indices(self) -> Mapping[str, int]:
        return self._numbering.indices(self.expected.all(), self._count())

    def _indices_are_old(self) -> bool:
        """True when an index may name another GPU by now: it was not read since they were numbered, though
        its GPU may be asked."""
        count = self._count()
        unasked = self.sick.all() | {call.gpu for call in self.state().hung}
        asked = (gpu.pci for gpu in self.expected.all() if not gpu.is_lost and gpu.pci not in unasked)
        return not all(self._numbering.is_current(pci, count) for pci in asked)

    def _note_changes(self, changes: Iterable[Change]) -> None:
        if any(change.of_the_set for change in changes):
            self._numbering.set_changed()

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

    def _gpu(self, reading: Reading, index: int | None) -> GpuLook:
        """`index` is the one that it has now. Of a lost GPU, what is expected keeps the one it had."""
        expected, identity = self.expected.get(reading.pci), self._identities.get(reading.pci)
        was_index = expected.index if expected is not None and index is None else None
        if reading.identity is not None:
            reading = replace(reading, identity=replace(reading.identity, index=index))
        if identity is not None:
            identity = replace(identity, index=index)
        if expected is not None and not expected.is_lost:
            expected = replace(expected, index=index)
        return GpuLook(reading.pci, reading, expected, identity, was_index=was_index)

    def _judge(self, gpu: GpuLook, look: NodeLook, events: Sequence[Event], now_us: int) -> Verdict:
        earlier = self._comparison.earlier(gpu.pci, gpu.reading.health, look.time_us)
        name = gpu.expected.name if gpu.expected is not None else None
        return judge(
            gpu.pci,
            gpu.reading,
            now_us=now_us,
            events=events,
            expected=gpu.expected,
            hung=next((hung for hung in look.state.hung if hung.gpu == gpu.pci), None),
            earlier=earlier,
            links_expected=self._comparison.links_expected(name),
        )

    def _note_links(self, gpus: Iterable[GpuLook]) -> None:
        for gpu in gpus:
            health = gpu.reading.health
            if health is not None and health.nvlink.links_up is not None and gpu.expected is not None:
                self._comparison.note_links(gpu.expected.name, health.nvlink.links_up)

    def _choices(self) -> list[Choice]:
        indices, every = self._indices(), self.expected.all()
        were = self._numbering.last_holders(every, indices)
        known = [self._choice(gpu, indices.get(gpu.pci), were.get(gpu.pci)) for gpu in every]
        taken = {choice.index for choice in known}
        alone = {call.gpu: index_alone(call.gpu) for call in self.source.state().hung}
        unplaced = [
            Choice(gpu, index)
            for gpu, index in alone.items()
            if gpu is not None and index not in {None, *taken} and not has_address(self._places.get(gpu, gpu))
        ]
        return [*known, *unplaced]

    def _choice(self, gpu: ExpectedGpu, index: int | None, was_index: int | None) -> Choice:
        identity = self._identities.get(gpu.pci)
        layout = identity.mig if identity is not None else None
        instances = [
            MigChoice(compute.uuid, part.id, compute.id)
            for part in (layout.gpu_instances if layout is not None else None) or ()
            for compute in part.compute_instances or ()
        ]
        return Choice(gpu.pci, index, gpu.uuid, tuple(instances), was_index)

    def _keep(self) -> None:
        if self.expected.changed or self.sick.changed:
            known = {"expected": self.expected.dump(), "sick": self.sick.dump(), "boot_id": self._boot_id}
            self._save(json.dumps(known))


def _as_of(look: NodeLook, now_us: int) -> NodeLook:
    """The answer with every call that hangs told as of now."""
    state = state_as_of(look.state, now_us)
    gpus = (replace(gpu, reading=reading_as_of(gpu.reading, state, now_us)) for gpu in look.gpus)
    return replace(look, state=state, gpus=tuple(gpus))


def _is_same(known: Identity | None, seen: Identity) -> bool:
    """True when what was known is of the same board: a look that got no answer has nothing to add to it."""
    return known is not None and seen.uuid in (None, known.uuid)
