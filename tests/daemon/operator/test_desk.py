"""Confirmations: good for one plan, once, in time; and the records that are left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from daemon.operator.audit import AuditEntry, OperatorAction, Outcome
from daemon.operator.desk import LASTS_S, MOST_PROPOSALS, Desk, Way
from daemon.operator.plan import Ending, Plan
from probes.errors import UserError


class Bell:
    """An `Operation` that rings a bell. Requests are texts; the target is `self.target`."""

    action = OperatorAction.RESET_GPU

    def __init__(self) -> None:
        self.target = "tower"
        self.rung = 0
        self.ending = Ending(Outcome.DONE, "It rang.", {"loud": True})
        self.fails: Exception | None = None
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def plan(self, request: str) -> Plan[str]:
        return Plan(
            action=self.action,
            target=self.target,
            sentence=f"Ring the bell of the {self.target}.",
            affected=("Birds leave.",),
            gpus=("0000:01:00.0",),
            pid=4242,
            process_name="bell",
        )

    async def act(self, request: str, plan: Plan[str], begin: Callable[[], None]) -> Ending:
        if self.target != plan.target:
            raise UserError("the bell is another one now")
        begin()
        if self.fails is not None:
            raise self.fails
        await self.may_end.wait()
        self.rung += 1
        return self.ending


class Scene:
    """A desk with its records and its clock."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.records: list[AuditEntry] = []
        self.clock = 1_000.0
        self.desk = Desk(self.bell, self.records.append, now=lambda: self.clock)

    async def confirm(self, token: str, way: Way = Way.ARGUMENT, request: str = "ring") -> Ending:
        _, ending = await self.desk.carry_out(token, way, request, "client 1 at pid 7")
        return ending

    async def refused(self, token: str, way: Way = Way.ARGUMENT, request: str = "ring") -> str:
        with pytest.raises(UserError) as error:
            await self.confirm(token, way, request)
        return error.value.message

    @property
    def outcomes(self) -> list[Outcome]:
        return [record.outcome for record in self.records]


def test_a_plan_alone_does_nothing_and_leaves_no_record() -> None:
    async def main() -> None:
        scene = Scene()
        proposal = await scene.desk.propose("ring", Way.ARGUMENT)
        assert proposal.plan.sentence == "Ring the bell of the tower."
        assert (scene.bell.rung, scene.records) == (0, [])

    asyncio.run(main())


def test_a_confirmed_plan_is_acted_on_and_its_begin_and_end_are_on_record() -> None:
    async def main() -> None:
        scene = Scene()
        proposal = await scene.desk.propose("ring", Way.ARGUMENT)
        assert await scene.confirm(proposal.token) == scene.bell.ending
        assert scene.bell.rung == 1
        assert scene.outcomes == [Outcome.BEGUN, Outcome.DONE]
        begun, done = scene.records
        assert begun.sentence == "Ring the bell of the tower."
        assert (done.sentence, done.detail["result"]) == ("It rang.", {"loud": True})
        for record in (begun, done):
            assert record.action is OperatorAction.RESET_GPU
            assert (record.gpu, record.pid, record.process_name) == ("0000:01:00.0", 4242, "bell")
            assert record.asked_by == "client 1 at pid 7"
            assert record.detail["plan"] == proposal.plan.to_json()
            assert record.detail["confirmed_by"] == "argument"

    asyncio.run(main())


def test_a_confirmation_is_good_once() -> None:
    async def main() -> None:
        scene = Scene()
        proposal = await scene.desk.propose("ring", Way.ARGUMENT)
        await scene.confirm(proposal.token)
        assert "used already" in await scene.refused(proposal.token)
        assert scene.bell.rung == 1
        assert scene.outcomes[2:] == [Outcome.REFUSED]

    asyncio.run(main())


def test_a_confirmation_expires() -> None:
    async def main() -> None:
        scene = Scene()
        proposal = await scene.desk.propose("ring", Way.ARGUMENT)
        scene.clock += LASTS_S
        assert "expired" in await scene.refused(proposal.token)
        assert (scene.bell.rung, scene.outcomes) == (0, [Outcome.REFUSED])

    asyncio.run(main())


def test_a_confirmation_is_void_once_the_target_changed() -> None:
    async def main() -> None:
        scene = Scene()
        proposal = await scene.desk.propose("ring", Way.ARGUMENT)
        scene.bell.target = "chapel"
        assert "another one now" in await scene.refused(proposal.token)
        scene.bell.target = "tower"
        assert "used already" in await scene.refused(proposal.token)
        assert scene.bell.rung == 0
        assert scene.outcomes == [Outcome.REFUSED, Outcome.REFUSED]

    asyncio.run(main())


def test_a_confirmation_is_for_the_arguments_it_was_given_for() -> None:
    async def main() -> None:
        scene = Scene()
        proposal = await scene.desk.propose("ring", Way.ARGUMENT)
        assert "other arguments" in await scene.refused(proposal.token, request="ring louder")
        assert scene.outcomes == [Outcome.REFUSED]
        await scene.confirm(proposal.token)
        assert scene.bell.rung == 1

    asyncio.run(main())


def test_an_invented_confirmation_is_refused_and_leaves_no_record() -> None:
    async def main() -> None:
        scene = Scene()
        await scene.desk.propose("ring", Way.ARGUMENT)
        for token in ("", "x" * 22):
            assert "no plan waits" in await scene.refused(token)
        assert (scene.bell.rung, scene.records) == (0, [])

    asyncio.run(main())


def test_a_confirmation_that_a_person_is_asked_for_cannot_be_handed_in_as_an_argument() -> None:
    async def main() -> None:
        scene = Scene()
        proposal = await scene.desk.propose("ring", Way.QUESTION)
        assert "no plan waits" in await scene.refused(proposal.token, Way.ARGUMENT)
        await scene.confirm(proposal.token, Way.QUESTION)
        assert scene.bell.rung == 1

    asyncio.run(main())


def test_a_no_is_on_record_and_voids_the_plan() -> None:
    async def main() -> None:
        scene = Scene()
        proposal = await scene.desk.propose("ring", Way.QUESTION)
        plan = scene.desk.decline(proposal.token, Way.QUESTION, "The person said no.", None)
        assert plan == proposal.plan
        assert "used already" in await scene.refused(proposal.token, Way.QUESTION)
        assert scene.bell.rung == 0
        assert scene.outcomes == [Outcome.DECLINED, Outcome.REFUSED]

    asyncio.run(main())


def test_what_was_begun_is_seen_through_when_the_client_leaves() -> None:
    async def main() -> None:
        scene = Scene()
        scene.bell.may_end.clear()
        proposal = await scene.desk.propose("ring", Way.ARGUMENT)
        call = asyncio.create_task(scene.confirm(proposal.token))
        while not scene.records:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert scene.outcomes == [Outcome.BEGUN]
        scene.bell.may_end.set()
        while len(scene.records) < 2:
            await asyncio.sleep(0)
        assert scene.outcomes == [Outcome.BEGUN, Outcome.DONE]

    asyncio.run(main())


def test_an_act_that_is_cut_off_by_the_end_of_the_daemon_is_on_record() -> None:
    scene: list[Scene] = []

    async def main() -> None:
        scene.append(Scene())
        scene[0].bell.may_end.clear()
        proposal = await scene[0].desk.propose("ring", Way.ARGUMENT)
        call = asyncio.create_task(scene[0].confirm(proposal.token))
        while not scene[0].records:
            await asyncio.sleep(0)
        call.cancel()

    asyncio.run(main())  # ends every task that is left
    assert scene[0].outcomes == [Outcome.BEGUN, Outcome.FAILED]
    assert "how it ended is not known" in scene[0].records[1].sentence


def test_a_bug_in_the_middle_is_on_record() -> None:
    async def main() -> None:
        scene = Scene()
        scene.bell.fails = RuntimeError("bug")
        proposal = await scene.desk.propose("ring", Way.ARGUMENT)
        with pytest.raises(RuntimeError, match="bug"):
            await scene.confirm(proposal.token)
        assert scene.outcomes == [Outcome.BEGUN, Outcome.FAILED]

    asyncio.run(main())


def test_nothing_is_done_when_the_record_cannot_be_kept() -> None:
    def refuse(record: AuditEntry) -> None:
        raise OSError("disk full")

    async def main() -> None:
        bell = Bell()
        desk = Desk(bell, refuse)
        proposal = await desk.propose("ring", Way.ARGUMENT)
        with pytest.raises(OSError, match="disk full"):
            await desk.carry_out(proposal.token, Way.ARGUMENT, "ring", None)
        assert bell.rung == 0

    asyncio.run(main())


def test_only_the_newest_plans_are_remembered() -> None:
    async def main() -> None:
        scene = Scene()
        first = await scene.desk.propose("ring", Way.ARGUMENT)
        second = await scene.desk.propose("ring", Way.ARGUMENT)
        for _ in range(MOST_PROPOSALS - 1):
            await scene.desk.propose("ring", Way.ARGUMENT)
        assert "no plan waits" in await scene.refused(first.token)
        await scene.confirm(second.token)
        assert scene.bell.rung == 1

    asyncio.run(main())
