"""What is told of a fault's process after it ended: the tracker is a fake, the pipeline is real."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from daemon import afterlife
from daemon.afterlife import Afterlife
from daemon.event import Event, Kind, Process
from daemon.fault import Facts
from probes.bpf.ended import Ended
from probes.health import ProbeHealth
from probes.line import Origin
from tests.support.events import TIME_US, XID_79
from tests.support.records import Heard, record

SECOND_US = 1_000_000
BOOTED_US = TIME_US - 3600 * SECOND_US
"""Wall clock of the start of the node; its two other clocks agree."""
CONTAINER_ID = "4f0c1d2e" * 8
CGROUP = f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{CONTAINER_ID}.scope"
XID = replace(XID_79, id="ev_31", code=31, process=Process(446, "python3"))


class Clock:
    """A clock that stands at the moment of the event until it is set."""

    def __init__(self) -> None:
        self.now_us = TIME_US

    def wall_us(self) -> int:
        return self.now_us

    def monotonic_us(self) -> int:
        return self.now_us - BOOTED_US


class FakeTracker:
    """A tracker that says what a test wants."""

    def __init__(self, ended: Callable[[Ended], None]) -> None:
        self.tell = ended
        self.watched: list[int] = []
        self.runs = True
        self._ended: dict[int, Ended] = {}

    def start(self) -> None:
        """It always runs."""

    def close(self) -> None:
        self.runs = False

    def watch(self, pid: int) -> bool:
        self.watched.append(pid)
        return self.runs

    def ended(self, pid: int) -> Ended | None:
        return self._ended.get(pid)

    def has_ended(self, process: Ended) -> None:
        """It knows of an end of which nobody waited."""
        self._ended[process.pid] = process
        self.tell(process)

    def health(self) -> ProbeHealth:
        return ProbeHealth("tracker", hears=self.runs, live=False)

    @property
    def blind_to(self) -> Sequence[str]:
        return ()


class Scene:
    """An afterlife with all it talks to."""

    def __init__(self, *, looks: bool = True) -> None:
        self.clock = Clock()
        self.found: list[tuple[str, Process]] = []
        self.living: dict[int, int] = {}
        self._trackers: list[FakeTracker] = []
        self.afterlife = Afterlife(
            self._make,
            self._take,
            clock=self.clock,
            start_of=self.living.get if looks else None,
            boottime_us=self.clock.monotonic_us,
        )

    @property
    def tracker(self) -> FakeTracker:
        return self._trackers[0]

    def _make(self, ended: Callable[[Ended], None]) -> FakeTracker:
        self._trackers.append(FakeTracker(ended))
        return self._trackers[0]

    def _take(self, event_id: str, facts: Facts) -> None:
        assert facts.process is not None
        self.found.append((event_id, facts.process))

    async def hear(self, event: Event = XID) -> None:
        """Tell it of an event, and let it work."""
        self.afterlife.heard([event])
        await asyncio.sleep(0)


def end(*, after_us: int, started_us: int = -60 * SECOND_US, pid: int = 446, name: str = "python3") -> Ended:
    """A process that was killed so long after the event, and started so long after (before) it."""
    fault_us = TIME_US - BOOTED_US
    return Ended(
        pid=pid,
        ended_us=fault_us + after_us,
        started_us=fault_us + started_us,
        name=name,
        signal=9,
        had_device=True,
        cgroup=CGROUP,
        own_pids=False,
    )


def play(test: Callable[[Scene], Awaitable[None]], *, looks: bool = True) -> Scene:
    """`looks`: the daemon sees the host's processes."""
    scene = Scene(looks=looks)
    asyncio.run(_played(scene, test))
    return scene


async def _played(scene: Scene, test: Callable[[Scene], Awaitable[None]]) -> None:
    await test(scene)


def test_a_process_that_is_killed_after_its_fault_tells_by_what_when_and_where() -> None:
    async def test(scene: Scene) -> None:
        await scene.hear()
        assert scene.tracker.watched == [446]
        scene.clock.now_us += 12_000
        scene.tracker.has_ended(end(after_us=12_000))

    assert play(test).found == [
        (
            "ev_31",
            Process(
                446,
                "python3",
                container_id=CONTAINER_ID,
                exit_code=None,
                in_container=True,
                started_us=TIME_US - 60 * SECOND_US,
                cgroup=CGROUP,
                exit_signal=9,
                exited_after_us=12_000,
            ),
        )
    ]


def test_a_process_that_was_gone_before_its_fault_was_heard_is_told_at_once() -> None:
    async def test(scene: Scene) -> None:
        scene.tracker.has_ended(end(after_us=-3_000))
        assert not scene.found
        await scene.hear()

    ((_, process),) = play(test).found
    assert process.exited_after_us == -3_000
    assert process.container_id == CONTAINER_ID


def test_an_exit_code_is_told_and_no_signal_beside_it() -> None:
    async def test(scene: Scene) -> None:
        await scene.hear()
        scene.tracker.has_ended(replace(end(after_us=5), signal=None, exit_code=0))

    ((_, process),) = play(test).found
    assert (process.exit_code, process.exit_signal) == (0, None)


def test_every_event_of_the_process_is_told_once() -> None:
    other = replace(XID, id="ev_43", code=43)

    async def test(scene: Scene) -> None:
        await scene.hear()
        await scene.hear(other)
        await scene.hear(replace(XID, revision=2))
        scene.tracker.has_ended(end(after_us=5))
        scene.tracker.has_ended(end(after_us=5))
        await scene.hear(replace(XID, revision=3))

    assert [event_id for event_id, _ in play(test).found] == ["ev_31", "ev_43"]


def test_a_pid_that_a_later_line_names_is_waited_for_too() -> None:
    async def test(scene: Scene) -> None:
        await scene.hear(replace(XID, process=None))
        assert scene.tracker.watched == []
        await scene.hear(replace(XID, revision=2))
        scene.tracker.has_ended(end(after_us=5))

    assert play(test).found


@pytest.mark.parametrize(
    "process",
    [
        end(after_us=12_000, name="bash"),
        end(after_us=12_000, started_us=SECOND_US),
        end(after_us=-10 * SECOND_US),
        replace(end(after_us=12_000), started_us=None),
        end(after_us=12_000, pid=447),
    ],
    ids=["another name", "begun after the fault", "ended long before", "start unknown", "another pid"],
)
def test_another_process_of_the_pid_is_not_taken_for_the_one_of_the_fault(process: Ended) -> None:
    async def test(scene: Scene) -> None:
        await scene.hear()
        scene.tracker.has_ended(process)
        await scene.hear(replace(XID, id="ev_later"))

    assert play(test).found == []


def test_a_line_after_the_end_is_not_put_to_the_dead_one_when_its_pid_lives_again() -> None:
    async def test(scene: Scene) -> None:
        scene.living[446] = 123  # began at another tick
        scene.tracker.has_ended(end(after_us=-3_000))
        await scene.hear()

    scene = play(test)
    assert scene.found == []
    assert scene.tracker.watched == [446]


def test_where_nobody_can_look_an_end_before_the_line_is_not_told_and_the_next_one_is_waited_for() -> None:
    async def test(scene: Scene) -> None:
        scene.tracker.has_ended(end(after_us=-3_000))
        await scene.hear()
        assert scene.tracker.watched == [446]
        scene.tracker.has_ended(end(after_us=-2_000))  # told late
        assert scene.found == []
        scene.tracker.has_ended(end(after_us=12_000, started_us=-1_000))

    ((_, process),) = play(test, looks=False).found
    assert process.exited_after_us == 12_000


def test_where_nobody_can_look_an_end_after_the_line_is_told_at_once() -> None:
    async def test(scene: Scene) -> None:
        scene.tracker.has_ended(end(after_us=3_000))
        await scene.hear()

    assert len(play(test, looks=False).found) == 1


def test_an_end_before_the_line_that_is_told_late_is_not_put_to_the_one_that_has_the_pid_now() -> None:
    async def test(scene: Scene) -> None:
        scene.living[446] = 123  # began at another tick
        await scene.hear()
        scene.tracker.has_ended(end(after_us=-3_000))
        assert scene.found == []
        scene.tracker.has_ended(end(after_us=9_000))

    ((_, process),) = play(test).found
    assert process.exited_after_us == 9_000


def test_a_zombie_is_the_dead_one_itself() -> None:
    dead = end(after_us=-3_000)
    assert dead.started_us is not None

    async def test(scene: Scene) -> None:
        scene.living[446] = (dead.started_us or 0) // 10_000
        scene.tracker.has_ended(dead)
        await scene.hear()

    assert play(test).found


@pytest.mark.parametrize(
    "event",
    [
        replace(XID, drill=True),
        replace(XID, origin="userspace", drill=True),
        replace(XID, time_us=TIME_US - 6 * SECOND_US),
        replace(XID, kind=Kind.INCIDENT),
        replace(XID, process=Process(None, "python3")),
        replace(XID, process=Process(446, "python3", exited_after_us=5)),
    ],
    ids=["drill", "forged", "old", "incident", "no pid", "told already"],
)
def test_only_what_the_kernel_says_now_is_waited_for(event: Event) -> None:
    async def test(scene: Scene) -> None:
        await scene.hear(event)
        assert scene.tracker.watched == []
        scene.tracker.has_ended(end(after_us=5))

    assert play(test).found == []


UNPROVED = replace(XID, origin=Origin.UNKNOWN)


@pytest.mark.parametrize("before_us", [0, 40_000], ids=["after the line", "before the line"])
def test_of_an_event_that_nobody_proved_the_end_is_told_once_somebody_does(before_us: int) -> None:
    async def test(scene: Scene) -> None:
        dead = end(after_us=-before_us or 12_000)
        if before_us:
            scene.tracker.has_ended(dead)
        await scene.hear(UNPROVED)
        if not before_us:
            scene.clock.now_us += 12_000
            scene.tracker.has_ended(dead)
        scene.clock.now_us += 8 * SECOND_US
        scene.living[446] = 1  # the pid has been given out again since
        await scene.hear(replace(UNPROVED, revision=2))
        assert scene.found == []
        await scene.hear(replace(XID, revision=3))
        await scene.hear(replace(XID, revision=4))

    ((event_id, process),) = play(test).found
    assert (event_id, process.exit_signal, process.container_id) == (XID.id, 9, CONTAINER_ID)
    assert process.exited_after_us == (-before_us or 12_000)


def test_an_event_proved_while_its_process_lives_is_told_when_that_ends() -> None:
    async def test(scene: Scene) -> None:
        await scene.hear(UNPROVED)
        await scene.hear(replace(XID, revision=2))
        assert scene.found == []
        scene.tracker.has_ended(end(after_us=12_000))

    assert len(play(test).found) == 1


@pytest.mark.parametrize(
    "later",
    [
        None,
        replace(UNPROVED, origin=Origin.USERSPACE, drill=True, revision=2),
        replace(XID, process=Process(446, "another"), revision=2),
        replace(XID, process=Process(447, "python3"), revision=2),
        replace(XID, process=None, revision=2),
    ],
    ids=["never proved", "forged", "another name", "another pid", "no process"],
)
def test_nothing_is_told_of_a_process_that_only_an_unproved_line_names(later: Event | None) -> None:
    """A forged line would have a stranger's container named by its pid."""

    async def test(scene: Scene) -> None:
        await scene.hear(UNPROVED)
        scene.tracker.has_ended(end(after_us=5))
        if later is not None:
            await scene.hear(later)

    assert play(test).found == []


def test_an_event_that_only_ebpf_heard_tells_of_its_process_after_the_log_has_proved_it() -> None:
    """The pipeline is the real one."""
    line = record(XID_79.lines[0], SECOND_US, origin=Origin.UNKNOWN, probe="bpf")

    async def test(scene: Scene) -> None:
        heard = Heard()

        async def hear(events: Sequence[Event]) -> Sequence[Event]:
            for event in events:
                await scene.hear(replace(event, time_us=TIME_US))
            return events

        heard.take(line)
        [doubted] = await hear(heard.pass_time(2 * SECOND_US))
        assert doubted.process is not None
        assert doubted.process.pid is not None
        dead = end(after_us=12_000, pid=doubted.process.pid, name=doubted.process.name or "")
        scene.tracker.has_ended(dead)
        assert scene.found == []
        await hear(heard.take(record(line.text, SECOND_US, arrival_us=3 * SECOND_US, seq=7)))
        [(event_id, process)] = scene.found
        news = heard.pipeline.found_out(event_id, Facts(process=process), at_us=4 * SECOND_US)
        heard.revisions += heard.kept(news)
        heard.pass_time(9 * SECOND_US)
        [event] = heard.events()
        assert event.id == doubted.id
        assert event.process is not None
        assert (event.origin, event.process.exit_signal) == (Origin.KERNEL, 9)
        assert event.process.container_id == CONTAINER_ID

    play(test)


def test_nobody_waits_longer_than_an_event_takes_news() -> None:
    async def test(scene: Scene) -> None:
        await scene.hear()
        scene.clock.now_us += afterlife.WAIT_US + 1
        scene.tracker.has_ended(end(after_us=afterlife.WAIT_US + 1))

    assert play(test).found == []


def test_of_too_many_events_the_oldest_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(afterlife, "WAITING", 2)

    async def test(scene: Scene) -> None:
        for number in range(3):
            await scene.hear(replace(XID, id=f"ev_{number}", process=Process(500 + number, "python3")))
        for number in range(3):
            scene.tracker.has_ended(end(after_us=5, pid=500 + number))
        assert scene.afterlife.status()["counters"]["waiting"] == 0

    assert [event_id for event_id, _ in play(test).found] == ["ev_1", "ev_2"]


def test_without_a_tracker_nothing_waits_and_the_status_says_so() -> None:
    async def test(scene: Scene) -> None:
        scene.tracker.runs = False
        await scene.hear()
        assert scene.afterlife.status()["counters"]["waiting"] == 0
        assert scene.afterlife.status()["runs"] is False

    play(test)


@pytest.mark.parametrize(
    ("cgroup", "own_pids", "inside"),
    [
        ("/user.slice/session-1.scope", False, False),
        ("/user.slice/session-1.scope", True, None),
        ("/user.slice/session-1.scope", None, None),
        (".../a/b/c/d/e/f/g/h", False, None),
        (f".../a/b/docker-{CONTAINER_ID}.scope/init", False, True),
        (None, False, None),
    ],
    ids=["on the host", "has pids of its own", "pids unknown", "path cut", "cut and found", "no path"],
)
def test_whether_it_ran_in_a_container_is_said_only_when_known(
    cgroup: str | None, own_pids: bool | None, inside: bool | None
) -> None:
    async def test(scene: Scene) -> None:
        await scene.hear()
        scene.tracker.has_ended(replace(end(after_us=5), cgroup=cgroup, own_pids=own_pids))

    ((_, process),) = play(test).found
    assert process.in_container is inside
    assert process.container_id == (CONTAINER_ID if inside else None)
    assert process.cgroup == cgroup


def test_the_name_of_a_cgroup_cannot_act_on_a_terminal() -> None:
    async def test(scene: Scene) -> None:
        await scene.hear()
        scene.tracker.has_ended(replace(end(after_us=5), cgroup="/evil\x1b[2J"))

    ((_, process),) = play(test).found
    assert process.cgroup == "/evil\\x1b[2J"
