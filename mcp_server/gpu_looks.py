"""Asking about GPUs, and what every answer about them has in common.

An answer begins with what makes it less than it seems: that the GPUs are invented, that the driver
could not be asked. A name that fits no GPU is an error that names the valid ones; when nothing could be
looked at, the error says that, too: the GPU may be there all the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from daemon.event import rfc3339
from daemon.gpu.answers import HungCall
from daemon.gpu.expected_gpu import ExpectedGpu
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Health, Reading, Section
from daemon.gpu.selection import MigChoice
from daemon.gpu.source import SourceName, SourceState
from daemon.gpu.verdict import Code, Reason
from daemon.gpu.watch import GpuLook, NodeLook
from mcp_server.services import Services
from mcp_server.wire_gpu import AboutGpus, Detail
from probes.errors import UserError

Question = Callable[[Sequence[str]], Awaitable[NodeLook]]
"""One of `GpuWatch`'s questions."""

CAN_LOOK: Final = frozenset({SourceName.OK, SourceName.NO_GPU, SourceName.UNASKED})
"""States of the source in which a GPU that is not found is not there."""


MOST_EVENTS: Final = 4
"""Last events of all lost GPUs together, in a summary. The reason of each names its last ones anyway."""
EVERYTHING_UNTOLD: Final[Mapping[str, Sequence[Reason]]] = {}


@dataclass(frozen=True, slots=True)
class MigNamed:
    """A MIG instance that was asked for."""

    pci: str
    """Its GPU."""
    instance: MigChoice


class GpuAsking:
    """Asks the questions of the tools."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def ask(self, question: Question, gpus: Sequence[str]) -> NodeLook:
        """The answer, every GPU of it with its identity. Raises UserError for a name that fits no GPU, or
        several."""
        try:
            look = await question(gpus)
        except UserError as error:
            raise self._explained(error) from None
        strangers = [gpu.pci for gpu in look.gpus if gpu.reading.answered and gpu.identity is None]
        if not strangers:
            return look
        # Only the inventory reads who a GPU is, and nobody has asked for it since the start.
        met = {gpu.pci: gpu for gpu in (await self._services.watch.inventory(strangers)).gpus}
        return replace(look, gpus=tuple(_introduced(gpu, met.get(gpu.pci)) for gpu in look.gpus))

    async def instances(self, gpus: Sequence[str]) -> tuple[MigNamed, ...]:
        """The MIG instances that were named, without those whose GPU was named as well. Raises UserError as
        `ask` does."""
        if not any(name.strip() for name in gpus):
            return ()
        try:
            selected = await self._services.watch.selected(gpus)
        except UserError as error:
            raise self._explained(error) from None
        whole_gpus = {one.gpu.pci for one in selected if one.mig is None}
        return tuple(
            MigNamed(one.gpu.pci, one.mig)
            for one in selected
            if one.mig is not None and one.gpu.pci not in whole_gpus
        )

    def opening(
        self,
        look: NodeLook,
        asked: AboutGpus,
        instances: Sequence[MigNamed],
        told: Mapping[str, Sequence[Reason]] = EVERYTHING_UNTOLD,
    ) -> dict[str, Any]:
        """The keys of `GpusAnswerOut`. A hung call that a reason in `told`, by PCI address, is about is not
        told again."""
        return {
            "node": self._services.node,
            "as_of": rfc3339(look.time_us),
            "mock": look.state.mock,
            "source": source_json(look.state, told),
            "detail": asked.detail.value,
            # Where nobody could look and nobody ever did, there may be any number.
            "device_count": len(look.gpus) if look.gpus or look.state.name in CAN_LOOK else None,
            "answered_count": sum(gpu.reading.answered for gpu in look.gpus),
            **filled({"mig_asked_for": [_instance_json(each) for each in instances]}),
        }

    def _explained(self, error: UserError) -> UserError:
        """`error`, with why nothing could be looked at."""
        state = self._services.watch.source.state()
        if state.name in CAN_LOOK:
            return error
        return UserError(
            f"{error.message}, and the GPUs of this node could not be looked at: {_why(state)}",
            hint=state.hint or error.hint,
        )


def _introduced(gpu: GpuLook, met: GpuLook | None) -> GpuLook:
    """`gpu` with what another look has told of who it is."""
    return gpu if met is None else replace(gpu, identity=met.identity, expected=met.expected)


def could_not_look(state: SourceState) -> str | None:
    """What to say when the driver could not be asked; None when it could."""
    if state.name in CAN_LOOK:
        return None
    hint = f" ({state.hint})" if state.hint else ""
    return f"COULD NOT LOOK at the GPUs: {_why(state)}{hint}. This says nothing about their health."


def notices(look: NodeLook, instances: Sequence[MigNamed] = ()) -> Iterator[str]:
    """The first lines of every text."""
    if look.state.mock:
        yield (
            "MOCK: the GPUs and their readings are invented (--gpu mock); events and incidents are this "
            "node's own."
        )
    if (line := could_not_look(look.state)) is not None:
        yield line
    elif look.state.name is SourceName.NO_GPU:
        why = look.state.reason if look.state.reason and not look.state.mock else "no GPU is listed"
        yield f"The driver answers, but {why.rstrip('.')}."
    for each in instances:
        mig = each.instance
        yield f"{mig.uuid} is GPU instance {mig.gi}, compute instance {mig.ci} of GPU {each.pci}."


def source_json(
    state: SourceState, told: Mapping[str, Sequence[Reason]] = EVERYTHING_UNTOLD
) -> dict[str, Any]:
    """The public form of a source's state, without hung calls that a reason in `told` is about."""
    hung = [
        call
        for call in state.hung
        if not any(reason.code is Code.NVML_HUNG for reason in told.get(call.gpu or "", ()))
    ]
    return {
        "state": state.name.value,
        "reason": state.reason,
        **filled({"hint": state.hint, "hung": [*_hung_json(hung)]}),
    }


def _hung_json(calls: Sequence[HungCall]) -> Iterator[dict[str, Any]]:
    before = ("", Trouble.HUNG)
    for call in calls:
        same = {} if call.call == before[0] else {"call": call.call}
        trouble = {} if call.trouble == before[1] else {"trouble": call.trouble.value}
        yield {"pci": call.gpu, **same, "since": rfc3339(call.since_us), **trouble}
        before = (call.call, call.trouble)


def _instance_json(named: MigNamed) -> dict[str, Any]:
    mig = named.instance
    return {"pci": named.pci, "uuid": mig.uuid, "gi": mig.gi, "ci": mig.ci}


def about(gpu: GpuLook, *, full: bool) -> dict[str, Any]:
    """The keys of `GpuAboutOut`."""
    lost = _lost(gpu.expected, full=full)
    return {**_who(gpu), **filled({"lost": lost, "no_answer": None if lost else _no_answer(gpu.reading)})}


def _who(gpu: GpuLook) -> dict[str, Any]:
    return {"index": index_of(gpu), "uuid": uuid_of(gpu), "pci": gpu.pci, "name": name_of(gpu)}


def events_of_each(look: NodeLook) -> int:
    """How many of its last events a lost GPU has in a summary."""
    lost = sum(gpu.expected is not None and gpu.expected.is_lost for gpu in look.gpus)
    return MOST_EVENTS // max(1, lost)


def filled(optional: Mapping[str, Any]) -> dict[str, Any]:
    """Those of these keys that say something: their value is neither null, empty nor 0."""
    return {key: value for key, value in optional.items() if value}


def index_of(gpu: GpuLook) -> int | None:
    """Its NVML index; None for one that is lost, since another GPU may have it now."""
    if gpu.expected is not None and gpu.expected.is_lost:
        return None
    for source in (gpu.reading.identity, gpu.identity, gpu.expected):
        if source is not None and source.index is not None:
            return source.index
    return None


def uuid_of(gpu: GpuLook) -> str | None:
    """Its UUID, as far as anything has told."""
    sources = (gpu.reading.identity, gpu.identity, gpu.expected)
    return next((source.uuid for source in sources if source is not None and source.uuid), None)


def name_of(gpu: GpuLook) -> str | None:
    """Its product name, as far as anything has told."""
    sources = (gpu.reading.identity, gpu.identity, gpu.expected)
    return next((source.name for source in sources if source is not None and source.name), None)


def picked(health: Health | None, fields: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """These fields of each section; nothing when there are no readings."""
    if health is None:
        return {}
    return {
        section: {name: getattr(getattr(health, section), name) for name in names}
        for section, names in fields.items()
    }


def whole(section: Section | None, *, without: Sequence[str] = ()) -> dict[str, Any] | None:
    """All fields of a section but some; None when it was not read."""
    if section is None:
        return None
    return {name: value for name, value in section.to_json().items() if name not in without}


def _no_answer(reading: Reading) -> dict[str, str] | None:
    if reading.answered:
        return None
    trouble = reading.trouble or "failed"
    return {"trouble": trouble, "reason": reading.reason or trouble}


def _lost(gpu: ExpectedGpu | None, *, full: bool) -> dict[str, Any] | None:
    if gpu is None or not gpu.is_lost:
        return None
    public = gpu.to_json()
    return {
        **{key: public[key] for key in ("presence", "since", "why")},
        "last_index": public["index"],
        **({"last_answered": public["last_answered"]} if full else {}),
        **filled({"last_events": public["last_events"] if full else []}),
    }


def _why(state: SourceState) -> str:
    return (state.reason or state.name.value).rstrip(".")


def is_full(asked: AboutGpus) -> bool:
    """Whether every reading was asked for."""
    return asked.detail is Detail.FULL
