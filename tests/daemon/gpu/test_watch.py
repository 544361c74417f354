"""The watch: every GPU of the node is in each answer, and "could not look" is no loss."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from daemon.event import Event, Gpu
from daemon.gpu.expected_gpu import Presence
from daemon.gpu.mock import Command, MockFleet, MockSource, parse
from daemon.gpu.off import OffSource
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Reading
from daemon.gpu.source import Sweep
from daemon.gpu.verdict import Code, State
from daemon.gpu.watch import NOT_ASKED, GpuWatch, NodeLook
from probes.errors import UserError
from tests.support.events import TIME_US, XID_79

SCENARIO = "[[gpu]]\n[[gpu]]\n[[gpu]]\n"


class Node:
    """A watch over three mock GPUs, its clock, and what it saved and learnt."""

    def __init__(self) -> None:
        self.now_us = TIME_US
        self.fleet = MockFleet(parse(SCENARIO), wall_us=lambda: self.now_us)
        self.source = Unplaced(self.fleet)
        self.events: list[Event] | UserError = []
        self.saved: list[str] = []
        self.watch = self.start()

    def start(self) -> GpuWatch:
        return GpuWatch(
            self.source,
            recent_events=self._recent,
            wall_us=lambda: self.now_us,
            save=self.saved.append,
        )

    def ask(self, question: Callable[[Sequence[str]], Awaitable[NodeLook]], *gpus: str) -> NodeLook:
        """The answer, a second later."""
        self.now_us += 1_000_000

        async def main() -> NodeLook:
            return await question(gpus)

        return asyncio.run(main())

    def hear(self, code: int, index: int) -> Event:
        self.now_us += 1_000_000
        board = self.board(index)
        gpu = Gpu(board.pci, uuid=board.uuid, index=index)
        event = replace(XID_79, id=f"ev_{code}_{index}", code=code, gpu=gpu)
        event = replace(event, time_us=self.now_us, last_time_us=self.now_us)
        self.watch.heard([event])
        return event

    def board(self, index: int) -> Any:
        return [*self.fleet.boards.values()][index]

    async def _recent(self) -> Sequence[Event]:
        if isinstance(self.events, UserError):
            raise self.events
        return self.events


class Unplaced(MockSource):
    """Mock GPUs of which one answers to its index alone, as when its handle cannot be got."""

    index: int | None = None

    async def health(self, gpus: Sequence[str] | None = None) -> Sweep:
        sweep = await super().health(gpus)
        readings = [
            Reading(f"#{number}", answered=False, trouble=Trouble.HUNG, reason="it hangs")
            if number == self.index
            else reading
            for number, reading in enumerate(sweep.gpus)
        ]
        return replace(sweep, gpus=tuple(readings))


@pytest.fixture
def node() -> Node:
    """Three GPUs at rest, asked for once."""
    node = Node()
    node.ask(node.watch.inventory)
    return node


def troubles(look: NodeLook) -> list[str | None]:
    return [gpu.reading.trouble for gpu in look.gpus]


def test_every_gpu_is_judged_and_so_is_the_node(node: Node) -> None:
    look = node.ask(node.watch.health)
    assert [gpu.verdict and gpu.verdict.state for gpu in look.gpus] == [State.HEALTHY] * 3
    assert look.verdict is not None
    assert look.verdict.state is State.HEALTHY
    assert node.ask(node.watch.health, "1").verdict is None


def test_a_gpu_that_vanished_is_in_every_answer_as_gone(node: Node) -> None:
    node.fleet.command(Command.VANISH, "1")
    for question in (node.watch.inventory, node.watch.processes, node.watch.nvlink, node.watch.health):
        look = node.ask(question)
        assert troubles(look) == [None, Presence.GONE, None]
    assert look.gpus[1].verdict is not None
    assert look.gpus[1].verdict.reasons[0].code is Code.GPU_GONE


def test_a_gpu_after_xid_119_is_asked_only_by_name_until_it_answers(node: Node) -> None:
    node.hear(119, 1)
    look = node.ask(node.watch.health)
    assert troubles(look) == [None, NOT_ASKED, None]
    assert "left alone since Xid 119" in (look.gpus[1].reading.reason or "")
    assert troubles(node.ask(node.watch.health, "1")) == [None]
    assert troubles(node.ask(node.watch.health)) == [None, None, None]


def test_a_source_that_cannot_look_loses_no_gpu(node: Node) -> None:
    node.watch.source = OffSource("the driver was unloaded")
    look = node.ask(node.watch.health)
    assert troubles(look) == ["off"] * 3
    assert {gpu.reading.reason for gpu in look.gpus} == {"the driver was unloaded"}
    assert not node.watch.expected.lost()
    assert [gpu.verdict and gpu.verdict.state for gpu in look.gpus] == [State.UNKNOWN] * 3


def test_a_gpu_that_answers_to_no_address_is_the_one_expected_under_its_index(node: Node) -> None:
    node.source.index = 1
    look = node.ask(node.watch.health)
    assert [gpu.pci for gpu in look.gpus] == [node.board(index).pci for index in range(3)]
    assert troubles(look) == [None, Trouble.HUNG, None]
    assert not node.watch.expected.lost()


def test_while_a_gpu_is_known_by_its_index_alone_none_is_called_gone() -> None:
    node = Node()
    node.source.index = 1
    look = node.ask(node.watch.health)
    assert [gpu.pci for gpu in look.gpus] == ["#1", node.board(0).pci, node.board(2).pci]
    assert [gpu.pci for gpu in node.watch.expected.all()] == [node.board(0).pci, node.board(2).pci]
    node.fleet.command(Command.VANISH, "2")
    node.ask(node.watch.health)
    assert not node.watch.expected.lost()


def test_events_that_cannot_be_read_are_said_to_be_missing(node: Node) -> None:
    node.events = UserError("the journal is locked")
    look = node.ask(node.watch.health)
    assert look.events_unread == "the journal is locked"
    node.events = [node.hear(48, 1)]
    look = node.ask(node.watch.health)
    assert look.events_unread is None
    assert look.gpus[1].verdict is not None
    assert look.gpus[1].verdict.state is not State.HEALTHY


def test_what_was_saved_is_known_after_a_restart(node: Node) -> None:
    node.fleet.command(Command.FALL_OFF, "0")
    node.ask(node.watch.inventory)
    node.hear(119, 2)
    after = node.start()
    after.load(node.saved[-1])
    assert troubles(node.ask(after.inventory)) == [Presence.LOST, None, NOT_ASKED]


def test_a_name_that_fits_none_is_refused_after_a_look_for_new_ones() -> None:
    node = Node()
    assert [gpu.pci for gpu in node.ask(node.watch.health, "2").gpus] == [node.board(2).pci]
    with pytest.raises(UserError, match="no GPU of this node is '7'"):
        node.ask(node.watch.health, "7")


class Watched(MockSource):
    """Mock GPUs that note which of them were asked."""

    def __init__(self, fleet: MockFleet) -> None:
        super().__init__(fleet)
        self.asked: list[str] = []

    async def health(self, gpus: Sequence[str] | None = None) -> Sweep:
        self.asked += self.fleet.listed() if gpus is None else gpus
        return await super().health(gpus)

    async def inventory(self, gpus: Sequence[str] | None = None) -> Sweep:
        self.asked += self.fleet.listed() if gpus is None else gpus
        return await super().inventory(gpus)


def watched() -> tuple[Node, Watched]:
    node = Node()
    source = Watched(node.fleet)
    node.watch = GpuWatch(source, recent_events=node._recent, wall_us=lambda: node.now_us)
    return node, source


@pytest.mark.parametrize("code", [79, 119])
def test_a_gpu_that_fell_ill_before_anybody_asked_is_not_touched_and_the_others_are_there(code: int) -> None:
    node, source = watched()
    node.hear(code, 1)
    look = node.ask(node.watch.health)
    assert [gpu.pci for gpu in look.gpus] == [node.board(index).pci for index in range(3)]
    assert [gpu.verdict.state for gpu in look.gpus if gpu.verdict][::2] == [State.HEALTHY, State.HEALTHY]
    assert node.board(1).pci not in source.asked


def test_a_name_that_fits_no_gpu_touches_no_sick_one() -> None:
    node, source = watched()
    node.ask(node.watch.health)
    node.hear(119, 1)
    source.asked.clear()
    with pytest.raises(UserError):
        node.ask(node.watch.health, "42")
    assert node.board(1).pci not in source.asked


def test_a_gpu_that_comes_back_is_found_while_another_is_sick() -> None:
    node, _ = watched()
    node.ask(node.watch.health)
    node.fleet.command(Command.VANISH, "2")
    node.ask(node.watch.health)
    node.hear(119, 1)
    assert node.watch.expected.get(node.board(2).pci).presence is Presence.GONE  # type: ignore[union-attr]
    node.fleet.command(Command.COME_BACK, node.board(2).uuid)
    look = node.ask(node.watch.health)
    assert look.gpus[2].verdict is not None
    assert look.gpus[2].verdict.state is State.HEALTHY


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "[]",
        '{"expected": {"gpus": [], "driver_loaded_us": 0}, "sick": []}',
        '{"expected": {"gpus": [], "driver_loaded_us": Infinity}, "sick": {}}',
        '{"expected": {"gpus": [{"pci": null}], "driver_loaded_us": 0}, "sick": {}}',
    ],
)
def test_what_was_saved_and_damaged_is_refused_whole(damaged: str) -> None:
    node = Node()
    node.ask(node.watch.health)
    saved = node.saved[-1]
    later = node.start()
    later.load(saved)
    with pytest.raises(ValueError, match=r"not what was saved|Expecting value"):
        later.load(damaged)
    assert len(later.expected.all()) == 3
