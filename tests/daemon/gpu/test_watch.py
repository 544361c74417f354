"""The watch: every GPU of the node is in each answer, and "could not look" is no loss."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from daemon.event import Event, Gpu, Kind
from daemon.gpu.expected_gpu import Presence
from daemon.gpu.mock import Command, MockFleet, MockSource, parse
from daemon.gpu.mock.gpu import Condition
from daemon.gpu.off import OffSource
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Reading
from daemon.gpu.source import SourceState, Sweep
from daemon.gpu.verdict import Code, State
from daemon.gpu.watch import NOT_ASKED, GpuWatch, NodeLook
from mcp_server.gpu_looks import index_of
from mcp_server.gpu_words import label
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

    async def health(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        sweep = await super().health(gpus, insist=insist)
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
    assert [gpu.pci for gpu in look.gpus] == [node.board(0).pci, node.board(2).pci, "at NVML index 1"]
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
        self.insisted: list[str] = []

    async def health(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        self.asked += self.fleet.listed() if gpus is None else gpus
        self.insisted += (gpus or ()) if insist else ()
        return await super().health(gpus, insist=insist)

    async def inventory(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        self.asked += self.fleet.listed() if gpus is None else gpus
        return await super().inventory(gpus, insist=insist)


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


class Renumbering(Watched):
    """Mock GPUs that are numbered as they are listed, anew by each `initialise`, as NVML does."""

    def __init__(self, fleet: MockFleet) -> None:
        super().__init__(fleet)
        self.initialise()
        self.started_again_while_asked = False

    def initialise(self) -> None:
        self.number = getattr(self, "number", 0) + 1
        self.order = [*self.fleet.listed()]

    def state(self) -> SourceState:
        return replace(super().state(), numbering=self.number)

    async def inventory(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        sweep = await super().inventory(gpus, insist=insist)
        if self.started_again_while_asked:
            self.started_again_while_asked = False
            half = sweep.gpus[: len(sweep.gpus) // 2]
            before = tuple(map(self._numbered, half))
            self.initialise()
            return Sweep(self.state(), (*before, *map(self._numbered, sweep.gpus[len(half) :])))
        return replace(sweep, gpus=tuple(map(self._numbered, sweep.gpus)))

    def _numbered(self, reading: Reading) -> Reading:
        if reading.identity is None or not reading.answered:
            return reading
        index = self.order.index(reading.pci) if reading.pci in self.order else len(self.order)
        return replace(reading, identity=replace(reading.identity, index=index))


def renumbering() -> tuple[Node, Renumbering]:
    node = Node()
    source = Renumbering(node.fleet)
    node.watch = GpuWatch(
        source, recent_events=node._recent, wall_us=lambda: node.now_us, save=node.saved.append
    )
    return node, source


def shown(look: NodeLook) -> list[int | None]:
    """The index of each GPU as it is now, wherever an answer may take it from."""
    for gpu in look.gpus:
        is_lost = gpu.expected is not None and gpu.expected.is_lost
        sources = (gpu.reading.identity, gpu.identity, None if is_lost else gpu.expected)
        told = {source.index for source in sources if source is not None and source.index is not None}
        assert len(told) <= 1, told
    return [index_of(gpu) for gpu in look.gpus]


def vanish(node: Node, source: Renumbering, pci: str) -> None:
    node.fleet.put(pci, Condition.GONE)
    source.initialise()


@pytest.mark.parametrize("question", ["health", "processes", "nvlink", "inventory"])
def test_after_a_gpu_has_gone_no_answer_names_two_by_one_index(question: str) -> None:
    node, source = renumbering()
    assert shown(node.ask(node.watch.inventory)) == [0, 1, 2]
    vanish(node, source, node.board(0).pci)
    look = node.ask(getattr(node.watch, question))
    assert shown(look) == [None, 0, 1]
    assert look.gpus[0].expected is not None
    assert look.gpus[0].expected.index == 0  # the one it had
    node.fleet.put(node.board(0).pci, Condition.IDLE)
    source.initialise()
    assert shown(node.ask(getattr(node.watch, question))) == [0, 1, 2]


def test_an_index_means_the_gpu_that_has_it_now() -> None:
    node, source = renumbering()
    node.ask(node.watch.inventory)
    vanish(node, source, node.board(0).pci)
    look = node.ask(node.watch.health, "1")
    assert [gpu.pci for gpu in look.gpus] == [node.board(2).pci]
    assert shown(look) == [1]
    with pytest.raises(UserError, match="no GPU of this node is '2'"):
        node.ask(node.watch.health, "2")


def test_a_gpu_that_was_named_otherwise_shows_the_index_it_has_now_and_no_other_is_asked() -> None:
    node, source = renumbering()
    node.ask(node.watch.inventory)
    vanish(node, source, node.board(0).pci)
    source.asked.clear()
    look = node.ask(node.watch.health, node.board(2).uuid)
    assert shown(look) == [1]
    assert {*source.asked} == {node.board(2).pci}


def test_while_nothing_changes_indices_are_read_once() -> None:
    node, source = renumbering()
    node.ask(node.watch.health)
    source.asked.clear()
    node.ask(node.watch.health)
    node.ask(node.watch.health, "1")
    assert len(source.asked) == 4


def test_a_sick_gpu_has_no_index_that_another_has_now() -> None:
    node, source = renumbering()
    node.ask(node.watch.inventory)
    node.hear(119, 1)
    assert shown(node.ask(node.watch.health)) == [0, 1, 2]
    vanish(node, source, node.board(0).pci)
    assert shown(node.ask(node.watch.health)) == [None, None, 1]


def test_gpus_that_are_numbered_anew_while_they_are_asked_are_asked_again() -> None:
    node, source = renumbering()
    node.ask(node.watch.inventory)
    node.fleet.put(node.board(0).pci, Condition.GONE)
    source.started_again_while_asked = True
    assert shown(node.ask(node.watch.inventory)) == [None, 0, 1]


def test_a_driver_that_was_loaded_anew_has_new_indices() -> None:
    node, source = renumbering()
    node.ask(node.watch.health)
    source.asked.clear()
    loaded = replace(XID_79, kind=Kind.DRIVER_LOADED, code=None, gpu=None, time_us=node.now_us)
    node.watch.heard([loaded])
    node.ask(node.watch.health)
    assert len(source.asked) == 6


def test_a_gpu_that_hangs_at_the_first_call_is_the_one_that_was_saved() -> None:
    node = Node()
    node.ask(node.watch.inventory)
    after = node.start()
    after.load(node.saved[-1])
    node.source.index = 1
    assert [gpu.pci for gpu in node.ask(after.health).gpus] == [node.board(index).pci for index in range(3)]


def test_a_gpu_that_hangs_at_the_first_call_and_was_never_seen_is_named_by_its_index() -> None:
    node = Node()
    node.source.index = 1
    look = node.ask(node.watch.health)
    assert "#" not in "".join(gpu.pci for gpu in look.gpus)
    assert label(look.gpus[2]) == "GPU at NVML index 1"
    assert look.verdict is not None
    assert "GPU at NVML index 1" in look.verdict.headline + str(look.verdict.reasons)


def hang(source: Renumbering, pci: str) -> None:
    """The next question about all finds this GPU hung, and NVML is initialised anew for the others."""
    source.fleet.put(pci, Condition.HUNG)
    source.started_again_while_asked = True


def test_a_healthy_gpu_is_found_by_its_index_while_another_begins_to_hang() -> None:
    node, source = renumbering()
    node.ask(node.watch.inventory)
    node.hear(79, 2)
    hang(source, node.board(1).pci)
    look = node.ask(node.watch.health, "0")
    assert [gpu.pci for gpu in look.gpus] == [node.board(0).pci]
    assert shown(look) == [0]


@pytest.mark.parametrize("code", [79, 119])
def test_a_gpu_that_is_lost_or_left_alone_is_named_by_the_index_it_had(code: int) -> None:
    node, source = renumbering()
    node.ask(node.watch.inventory)
    node.hear(code, 2)
    vanish(node, source, node.board(2).pci)
    look = node.ask(node.watch.health, "2")
    assert [(gpu.pci, gpu.was_index) for gpu in look.gpus] == [(node.board(2).pci, 2)]
    assert label(look.gpus[0]).endswith("(was index 2)")


def test_a_hung_gpu_keeps_its_index_after_the_driver_was_loaded_anew() -> None:
    node, source = renumbering()
    node.ask(node.watch.inventory)
    hang(source, node.board(1).pci)
    loaded = replace(XID_79, kind=Kind.DRIVER_LOADED, code=None, gpu=None, time_us=node.now_us)
    node.watch.heard([loaded])
    assert shown(node.ask(node.watch.health)) == [0, 1, 2]
    assert [gpu.pci for gpu in node.ask(node.watch.health, "1").gpus] == [node.board(1).pci]


def test_a_gpu_that_moved_to_an_unknown_index_says_the_one_it_had() -> None:
    node, source = renumbering()
    node.ask(node.watch.inventory)
    hang(source, node.board(2).pci)
    vanish(node, source, node.board(0).pci)
    look = node.ask(node.watch.health)
    assert shown(look) == [None, 0, None]
    assert [gpu.was_index for gpu in look.gpus] == [0, None, 2]
    assert label(look.gpus[2]).endswith("(was index 2)")
    assert [gpu.pci for gpu in node.ask(node.watch.health, "2").gpus] == [node.board(2).pci]


def test_only_a_gpu_that_was_named_is_asked_although_it_hangs() -> None:
    node, source = watched()
    node.ask(node.watch.inventory)
    node.ask(node.watch.health)
    assert not source.insisted
    node.ask(node.watch.health, "1", node.board(2).uuid)
    assert source.insisted == [node.board(1).pci, node.board(2).pci]


def test_one_answer_tells_one_call_and_one_time_of_a_gpu_that_hangs() -> None:
    node = Node()
    node.ask(node.watch.inventory)
    node.fleet.put(node.board(1).pci, Condition.HUNG)
    node.ask(node.watch.health)
    node.now_us += 7_000_000
    look = node.ask(node.watch.health)
    (call,) = look.state.hung
    reason = look.gpus[1].reading.reason
    assert reason == call.told(node.now_us)
    assert look.gpus[1].verdict is not None
    assert reason in look.gpus[1].verdict.reasons[0].sentence


def later_boot(node: Node, boot_id: str = "later") -> GpuWatch:
    return GpuWatch(
        node.source,
        recent_events=node._recent,
        wall_us=lambda: node.now_us,
        save=node.saved.append,
        boot_id=boot_id,
    )


def test_a_reboot_heals_a_sick_gpu_and_a_restart_does_not() -> None:
    node = Node()
    node.watch = later_boot(node, XID_79.boot_id)
    node.ask(node.watch.inventory)
    node.hear(119, 1)
    restarted = later_boot(node, XID_79.boot_id)
    restarted.load(node.saved[-1])
    assert troubles(node.ask(restarted.health)) == [None, NOT_ASKED, None]
    rebooted = later_boot(node)
    rebooted.load(node.saved[-1])
    assert troubles(node.ask(rebooted.health)) == [None, None, None]


def test_what_the_log_of_the_boot_before_says_later_makes_no_gpu_sick() -> None:
    node = Node()
    node.watch = later_boot(node)
    node.ask(node.watch.inventory)
    node.hear(119, 1)
    assert troubles(node.ask(node.watch.health)) == [None, None, None]


def test_a_gpu_lost_in_the_boot_before_is_lost_only_if_it_is_missing_now() -> None:
    node = Node()
    node.watch = later_boot(node, XID_79.boot_id)
    node.ask(node.watch.inventory)
    node.hear(79, 0)
    node.hear(79, 1)
    rebooted = later_boot(node)
    rebooted.load(node.saved[-1])
    assert len(rebooted.expected.lost()) == 2
    node.fleet.put(node.board(0).pci, Condition.GONE)
    node.fleet.put(node.board(1).pci, Condition.HUNG)  # listed, and that is enough after a reboot
    node.ask(rebooted.health)
    assert [gpu.pci for gpu in rebooted.expected.lost()] == [node.board(0).pci]
    again = later_boot(node)
    again.load(node.saved[-1])
    assert [gpu.pci for gpu in again.expected.lost()] == [node.board(0).pci]


def test_what_was_kept_without_a_boot_id_is_of_this_boot() -> None:
    node = Node()
    node.ask(node.watch.inventory)
    node.hear(119, 1)
    saved = json.loads(node.saved[-1])
    del saved["boot_id"]
    after = later_boot(node)
    after.load(json.dumps(saved))
    assert troubles(node.ask(after.health)) == [None, NOT_ASKED, None]


def test_made_up_addresses_fill_no_memory_and_a_real_gpu_is_believed_all_the_same() -> None:
    node = Node()
    node.ask(node.watch.inventory)
    for number in range(1000):
        gpu = Gpu(f"{number:04x}:01:00.0")
        node.watch.heard([replace(XID_79, id=f"ev_{number}", gpu=gpu)])
    assert len(node.watch.expected.all()) <= 64
    assert len(node.watch.sick.all()) <= 64
    node.hear(119, 1)
    assert node.watch.sick.get(node.board(1).pci) is not None
