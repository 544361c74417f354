"""The witness of NVML's events, with the real worker over the fake library."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager

import pytest

from daemon.event import Mig
from daemon.gpu.client import COMMAND
from daemon.gpu.nvml_events import NvmlEvents, Tempo
from daemon.nvml_witness import NvmlEvent, NvmlEventKind
from probes import kernel
from probes.health import ProbeHealth
from tests.support.fake_nvml import GPU_IS_LOST, NO_PERMISSION, Scenario, pci
from tests.support.gpu_asking import until

QUICK = Tempo(wait_s=0.2, pause_s=0.05, pause_most_s=0.2)


class Listening:
    """A running witness and what it said."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        tempo: Tempo = QUICK,
        gpus: Callable[[], Sequence[str] | None] = lambda: None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.heard: list[NvmlEvent] = []
        self.changes: list[ProbeHealth] = []
        self.events = NvmlEvents(
            self.heard.append,
            on_change=self.changes.append,
            gpus=gpus,
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
            assert list(witness.events.not_heard) == ["#2"]
            assert witness.counter("gpus_not_heard") == 1

    play(scene)


def test_only_the_gpus_it_was_given_are_touched(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet, gpus=lambda: [pci(2), pci(5)]) as witness:
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
    gpus = [pci(gpu) for gpu in range(8)]
    tempo = Tempo(wait_s=0.2, pause_s=0.05, register_s=2)

    async def scene() -> None:
        async with listening(fleet, gpus=lambda: gpus, tempo=tempo) as witness:
            health = await witness.is_deaf()
            assert health.reason is not None
            assert "nvmlDeviceRegisterEvents has not returned for" in health.reason
            await witness.hears()
            assert list(witness.events.not_heard) == [pci(3)]
            fleet.event(1, gpu=4, code=31)
            await witness.has_heard(1)

    play(scene)


def test_a_gpu_whose_call_crashes_the_library_is_left_out(fleet: Scenario) -> None:
    fleet.crashes("nvmlDeviceRegisterEvents", gpu=3)
    gpus = [pci(gpu) for gpu in range(8)]

    async def scene() -> None:
        async with listening(fleet, gpus=lambda: gpus) as witness:
            await witness.hears()
            assert "nvmlDeviceRegisterEvents" in witness.events.not_heard[pci(3)]

    play(scene)


def test_a_library_that_hangs_in_the_wait_is_noticed_and_followed_by_another(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet, tempo=Tempo(wait_s=0.2, late_s=0.5, pause_s=0.05)) as witness:
            await witness.hears()
            fleet.hangs("nvmlEventSetWait_v2")
            health = await witness.is_deaf()
            assert health.reason is not None
            assert "nvmlEventSetWait_v2 has not returned for" in health.reason
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
        async with listening(fleet, gpus=list) as witness:
            assert (await witness.is_deaf()).reason == "no GPU may be asked: each is lost or sick"
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


def test_closed_it_leaves_no_process(fleet: Scenario) -> None:
    async def scene() -> None:
        async with listening(fleet) as witness:
            await witness.hears()
        assert witness.events.health().reason == "it was closed"

    play(scene)
    with pytest.raises(ProcessLookupError):
        os.kill(worker_pids(fleet)[0], 0)
