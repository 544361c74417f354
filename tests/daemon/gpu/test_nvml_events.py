"""The witness of NVML's events, with the real worker over the fake library."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from daemon.event import Mig
from daemon.gpu.client import COMMAND
from daemon.gpu.nvml_events import NvmlEvents, Tempo
from daemon.gpu.roll import Present
from daemon.nvml_witness import NvmlEvent, NvmlEventKind
from probes import kernel
from probes.health import ProbeHealth, ProbeState
from tests.support.fake_nvml import GPU_IS_LOST, NO_PERMISSION, Scenario, pci
from tests.support.gpu_asking import until

QUICK = Tempo(wait_s=0.2, pause_s=0.05, pause_most_s=0.2)


class Node:
    """The GPUs that are there, as a test says; without one of these nothing is known of them."""

    def __init__(self, gpus: Sequence[int], *, complete: bool = True) -> None:
        self.gpus = gpus
        self.complete = complete
        self.alone: Mapping[str, str] = {}

    async def present(self) -> Present:
        return Present(frozenset(map(pci, self.gpus)), complete=self.complete, alone=self.alone)


class Listening:
    """A running witness and what it said."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        tempo: Tempo = QUICK,
        node: Node | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.heard: list[NvmlEvent] = []
        self.changes: list[ProbeHealth] = []
        self.events = NvmlEvents(
            self.heard.append,
            on_change=self.changes.append,
            present=(node or Node((), complete=False)).present,
            command=command,
            environment={**os.environ, **scenario.environment()},
            tempo=tempo,
        )

    async def hears(self) -> None:
        await until(lambda: self.events.health().hears, "the witness to hear")

    async def is_deaf(self) -> ProbeHealth:
        await until(lambda: self.changes and not self.changes[-1].hears, "the witness to say that it is deaf")
        return self.changes[-1]

    async def has_heard(self, number: int) -> None:
        await until(lambda: len(self.heard) >= number, f"{number} events")

    async def hears_all_but(self, *reasons: str) -> str:
        """Until what it says of the GPUs it does not hear has all of this in it."""

        def said() -> bool:
            health = self.events.health()
            return health.hears and all(reason in str(health.reason) for reason in reasons)

        await until(said, f"the witness to say {reasons}")
        return str(self.events.health().reason)

    def counter(self, name: str) -> int:
        return self.events.health().counters[name]


@asynccontextmanager
async def listening(scenario: Scenario, **how: object) -> AsyncIterator[Listening]:
    witness = Listening(scenario, **how)  # type: ignore[arg-type]  # passed on as given
    witness.events.start()
    try:
        yield witness
    finally:
        await witness.events.close()


def worker_pids(scenario: Scenario) -> list[int]:
    """Every process that has created an event set, in order."""
    return [pid for pid, function, _ in scenario.calls() if function == "nvmlEventSetCreate"]


def play(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scene())


def test_xids_of_all_gpus_are_heard_in_order_with_their_times_and_instances(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet) as witness:
            await witness.hears()
            before = kernel.SystemClock().monotonic_us()
            fleet.event(1, gpu=3, code=31)
            fleet.event(2, gpu=7, code=48)
            await witness.has_heard(2)
            first, second = witness.heard
            assert (first.what, first.code, first.pci, first.mig) == (NvmlEventKind.XID, 31, pci(3), None)
            assert (second.code, second.pci) == (48, pci(7))
            assert before <= first.arrival_us <= second.arrival_us <= kernel.SystemClock().monotonic_us()
            assert first.boot_id == kernel.boot_id()
            health = witness.events.health()
            assert (health.name, health.hears, health.live, health.reason) == ("nvml", True, False, None)
            assert health.counters["gpus"] == 8

    play(scene)


def test_a_code_of_0_and_what_nobody_asked_for_are_no_events(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet) as witness:
            await witness.hears()
            fleet.event(1, gpu=0, code=0)
            fleet.event(2, gpu=0, code=5, type=0x10)  # a change of clocks
            fleet.event(3, gpu=0, code=43)
            await witness.has_heard(1)
            assert [event.code for event in witness.heard] == [43]

    play(scene)


def test_a_mig_instance_and_the_other_kinds_are_told(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet) as witness:
            await witness.hears()
            fleet.answers("event(1)", 2, 8, 94, 5, 0)
            fleet.event(2, gpu=2, code=0, type=0x8000)
            fleet.event(3, gpu=2, code=0, type=0x4000)
            fleet.event(4, gpu=2, code=0, type=0x200)
            await witness.has_heard(4)
            assert witness.heard[0].mig == Mig(5, 0)
            assert [(event.what.value, event.code) for event in witness.heard[1:]] == [
                ("recovery_action", None),
                ("gpu_unavailable", None),
                ("ecc_storm", None),
            ]

    play(scene)


def test_only_kinds_that_the_gpu_supports_are_asked_for(fleet: Scenario) -> None:
    fleet.answers("nvmlDeviceGetSupportedEventTypes", 8 | 0x4000, gpu=1)
    fleet.answers("nvmlDeviceGetSupportedEventTypes", 0, gpu=2)

    async def scene() -> None:
        async with listening(fleet) as witness:
            await witness.hears()
            fleet.event(1, gpu=1, code=0, type=0x8000)  # the fake library would not tell it
            fleet.event(2, gpu=1, code=31)
            await witness.has_heard(1)
            assert [event.code for event in witness.heard] == [31]
            assert witness.counter("gpus_not_heard") == 1
            health = witness.events.health()
            assert health.state is ProbeState.DEGRADED
            assert health.reason == (
                f"1 of 8 GPUs is not heard: {pci(2)} "
                "(nvmlDeviceGetSupportedEventTypes: this GPU has no Xid events)"
            )

    play(scene)


def test_only_the_gpus_it_was_given_are_touched(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet, node=Node([2, 5])) as witness:
            await witness.hears()

    play(scene)
    assert {gpu for _, _, gpu in fleet.calls()} == {"-", "2", "5"}


def test_a_worker_that_dies_is_followed_by_another(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet) as witness:
            await witness.hears()
            os.kill(worker_pids(fleet)[0], signal.SIGKILL)
            await witness.is_deaf()
            await witness.hears()
            fleet.event(1, gpu=0, code=31)
            await witness.has_heard(1)
            assert witness.counter("interruptions") == 1
            assert [health.hears for health in witness.changes] == [False, True]

    play(scene)


@pytest.mark.parametrize("code", [GPU_IS_LOST, 1], ids=["a gpu is lost", "the driver was loaded anew"])
def test_a_wait_that_fails_begins_anew_in_a_fresh_process(fleet: Scenario, code: int) -> None:
    async def scene() -> None:
        async with listening(fleet) as witness:
            await witness.hears()
            fleet.fails(code, "nvmlEventSetWait_v2")
            health = await witness.is_deaf()
            assert health.reason is not None
            assert "nvmlEventSetWait_v2" in health.reason
            fleet.behaves("nvmlEventSetWait_v2")
            await until(lambda: witness.changes[-1].hears, "the witness to hear again")
            fleet.event(1, gpu=0, code=31)
            await witness.has_heard(1)

    play(scene)
    assert len(set(worker_pids(fleet))) > 1


def test_a_gpu_that_hangs_while_it_is_registered_is_left_out_and_the_others_are_heard(
    fleet: Scenario,
) -> None:
    fleet.hangs("nvmlDeviceRegisterEvents", gpu=3)
    tempo = Tempo(wait_s=0.2, pause_s=0.05, register_s=2)

    async def scene() -> None:
        async with listening(fleet, node=Node(range(8)), tempo=tempo) as witness:
            health = await witness.is_deaf()
            assert health.reason is not None
            assert "nvmlDeviceRegisterEvents has not returned since" in health.reason
            await witness.hears()
            await witness.hears_all_but(f"1 of 8 GPUs is not heard: {pci(3)} (nvmlDeviceRegisterEvents")
            fleet.event(1, gpu=4, code=31)
            await witness.has_heard(1)

    play(scene)


def test_a_gpu_whose_call_crashes_the_library_is_left_out(fleet: Scenario) -> None:
    fleet.crashes("nvmlDeviceRegisterEvents", gpu=3)

    async def scene() -> None:
        async with listening(fleet, node=Node(range(8))) as witness:
            await witness.hears_all_but(pci(3), "its worker ended in nvmlDeviceRegisterEvents")

    play(scene)


def test_a_library_that_hangs_in_the_wait_is_noticed_and_followed_by_another(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet, tempo=Tempo(wait_s=0.2, late_s=0.5, pause_s=0.05)) as witness:
            await witness.hears()
            fleet.hangs("nvmlEventSetWait_v2")
            health = await witness.is_deaf()
            assert health.reason is not None
            assert "nvmlEventSetWait_v2 has not returned since" in health.reason
            fleet.behaves("nvmlEventSetWait_v2")
            fleet.event(1, gpu=0, code=31)
            await witness.has_heard(1)

    play(scene)


def test_a_driver_that_refuses_is_said_once_and_asked_again(fleet: Scenario) -> None:
    fleet.fails(NO_PERMISSION, "nvmlInitWithFlags")

    async def scene() -> None:
        async with listening(fleet) as witness:
            await until(lambda: witness.counter("starts") > 2, "further attempts")
            assert [health.hears for health in witness.changes] == [False]
            fleet.behaves("nvmlInitWithFlags")
            await witness.hears()
            assert witness.counter("interruptions") == 0

    play(scene)


def test_a_worker_that_cannot_be_started_is_a_reason_and_no_failure(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet, command=("/nonexistent/worker",)) as witness:
            health = await witness.is_deaf()
            assert health.reason is not None
            assert "the GPU worker cannot be started" in health.reason
            assert witness.counter("failures") == 0

    play(scene)


def test_no_gpu_that_may_be_asked_is_a_reason_and_nothing_is_started(fleet: Scenario) -> None:
    async def scene() -> None:
        node = Node([3])
        node.alone = {pci(3): "left alone since Xid 119"}
        async with listening(fleet, node=node) as witness:
            reason = (await witness.is_deaf()).reason
            assert reason == f"no GPU may be asked: {pci(3)}: left alone since Xid 119"
            assert witness.counter("starts") == 0

    play(scene)


def test_a_sink_that_fails_does_not_end_the_listening(fleet: Scenario) -> None:
    async def scene() -> None:
        seen: list[NvmlEvent] = []

        def heard(event: NvmlEvent) -> None:
            seen.append(event)
            if len(seen) == 1:
                raise ZeroDivisionError("a bug")

        environment = {**os.environ, **fleet.environment()}
        events = NvmlEvents(heard, environment=environment, tempo=QUICK)
        events.start()
        await until(lambda: events.health().hears, "the witness to hear")
        fleet.event(1, gpu=0, code=31)
        fleet.event(2, gpu=0, code=43)
        await until(lambda: len(seen) == 2, "the second event")
        assert events.health().counters["failures"] == 1
        await events.close()

    play(scene)


def test_released_it_holds_nothing_until_it_is_taken_up(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet) as witness:
            await witness.hears()
            released, _ = await witness.events.release()
            assert released.ended == (worker_pids(fleet)[0],)
            assert released.stuck == ()
            with pytest.raises(ProcessLookupError):
                os.kill(released.ended[0], 0)
            health = witness.events.health()
            assert not health.hears
            assert "let go of the driver, as asked, until 20" in str(health.reason)
            assert health.state is ProbeState.RELEASED
            assert [change.state for change in witness.changes] == [ProbeState.RELEASED]
            witness.events.take_up()
            await witness.hears()
            assert len(worker_pids(fleet)) == 2

    play(scene)


def test_released_it_takes_the_driver_up_again_after_the_stated_time(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet) as witness:
            await witness.hears()
            await witness.events.release(for_s=0.2)
            await witness.hears()
            assert [health.hears for health in witness.changes] == [False, True]

    play(scene)


def test_released_while_a_worker_is_being_started_it_does_not_listen(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet) as witness:
            await until(lambda: witness.counter("starts") == 1, "the start")
            await witness.events.release()
            witness.events.take_up()
            await witness.hears()

    play(scene)
    assert len(worker_pids(fleet)) == 1


@pytest.mark.parametrize("complete", [True, False], ids=["by /proc", "by what was seen"])
def test_a_gpu_that_appears_is_heard_without_an_alarm(fleet: Scenario, complete: bool) -> None:
    fleet.present(range(7))
    node = Node(range(7), complete=complete)

    async def scene() -> None:
        async with listening(fleet, node=node) as witness:
            await witness.hears()
            fleet.present(range(8))
            node.gpus = range(8)
            await until(lambda: witness.counter("gpus") == 8, "the eighth GPU to be heard")
            fleet.event(1, gpu=7, code=31)
            await witness.has_heard(1)
            assert witness.changes == []  # it was never said to be deaf
            assert witness.counter("starts") == 2

    play(scene)


def test_a_gpu_that_was_taken_away_is_no_longer_said_to_be_heard(fleet: Scenario) -> None:
    node = Node(range(8))

    async def scene() -> None:
        async with listening(fleet, node=node) as witness:
            await witness.hears()
            fleet.present(range(7))
            node.gpus = range(7)
            await until(lambda: witness.counter("gpus") == 7, "the others to be heard")
            assert witness.events.health().state is ProbeState.OK

    play(scene)


def test_a_sick_gpu_is_named_and_heard_once_it_may_be_touched(fleet: Scenario) -> None:
    node = Node(range(8))
    node.alone = {pci(3): "left alone since Xid 119: a call on it may hang"}

    async def scene() -> None:
        async with listening(fleet, node=node) as witness:
            await witness.hears_all_but(f"{pci(3)} (left alone since Xid 119: a call on it may hang)")
            assert "3" not in {gpu for _, _, gpu in fleet.calls()}
            node.alone = {}
            await until(lambda: witness.counter("gpus") == 8, "that GPU to be heard")
            assert witness.events.health().reason is None

    play(scene)


def test_while_the_set_stays_as_it_is_nothing_begins_anew(fleet: Scenario) -> None:
    fleet.fails(NO_PERMISSION, "nvmlDeviceRegisterEvents", gpu=3)
    # Of GPU 9 somebody knows, the library does not.
    node = Node([*range(8), 9], complete=False)

    async def scene() -> None:
        async with listening(fleet, node=node) as witness:
            await witness.hears()
            await until(lambda: witness.counter("quiet_waits") > 3, "several looks")
            assert (witness.counter("starts"), witness.counter("gpus")) == (1, 7)

    play(scene)


def test_a_driver_that_was_loaded_anew_is_listened_to_anew_though_no_call_failed(fleet: Scenario) -> None:
    fleet.present(range(7))

    async def scene() -> None:
        async with listening(fleet, tempo=Tempo()) as witness:
            await witness.hears()
            fleet.present(range(8))
            witness.events.take_up()
            await until(lambda: witness.counter("gpus") == 8, "all GPUs to be heard")
            assert witness.changes == []

    play(scene)
    assert len(worker_pids(fleet)) == 2


def test_a_gpu_without_an_address_that_hangs_is_left_out_by_its_index(fleet: Scenario) -> None:
    fleet.hangs("nvmlDeviceGetHandleByIndex_v2", gpu=3)

    async def scene() -> None:
        tempo = Tempo(wait_s=0.2, pause_s=0.05, register_s=2)
        async with listening(fleet, tempo=tempo) as witness:
            await witness.hears_all_but("1 of 8 GPUs is not heard: #3 (")

    play(scene)


def test_closed_it_leaves_no_process(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet) as witness:
            await witness.hears()
        assert witness.events.health().reason == "it was closed"

    play(scene)
    with pytest.raises(ProcessLookupError):
        os.kill(worker_pids(fleet)[0], 0)
