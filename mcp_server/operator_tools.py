"""`kill_gpu_process` and `reset_gpu`: the tools that change the node.

They exist only where `operator_tools` is called, for those who may operate (see `operator_gate`). A first
call changes nothing and gives the plan. Where the client can ask its user, the plan is put to that person,
and the assistant never holds the confirmation; elsewhere the answer holds a token that a second call hands
in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import mcp_types as types

from daemon.gpu.process import ProcessReader
from daemon.gpu.watch import GpuWatch
from daemon.operator.audit import Audit, AuditEntry, OperatorAction, Outcome
from daemon.operator.desk import LASTS_S, Desk, Proposal, Way
from daemon.operator.kill import KillOperation, KillRequest, KillTarget
from daemon.operator.plan import Plan
from daemon.operator.reset import Driver, ResetOperation, ResetRequest, ResetTarget
from mcp_server.identity import IDENTITY
from mcp_server.operator_asking import Reply, ask, can_be_asked, reply_of
from mcp_server.operator_gate import OperatorGate
from mcp_server.operator_wire import KillGpuProcess, OperationOut, ResetGpu
from mcp_server.refused import Refusals
from mcp_server.tools import Answer, Caller, Gate, Tool, asked_by

RequestT = TypeVar("RequestT")
TargetT = TypeVar("TargetT")


def acting() -> types.ToolAnnotations:
    """Annotations of a tool that destroys what somebody may still need."""
    return types.ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
    )


def operator_tools(
    watch: GpuWatch,
    audit: Audit,
    *,
    node: str,
    driver: Driver | None = None,
    reader: ProcessReader | None = None,
    refusals: Refusals | None = None,
    lasts_s: float = LASTS_S,
) -> Sequence[Tool[Any]]:
    """Both tools, for a toolbox. For one event loop.

    `node` is the name that a person is asked under. `driver` is what holds this program's own device files
    open (`NvmlSource`); None where nothing does. `reader` looks processes up; one is made by default.
    `refusals` counts calls of those who may not. `lasts_s` is how long a plan waits for its confirmation.
    """
    reader = reader or ProcessReader()
    refusals = refusals or Refusals()

    def record(entry: AuditEntry) -> None:
        audit(replace(entry, who=IDENTITY.get().who))

    def gate(action: OperatorAction) -> Gate:
        return OperatorGate(action, record, refusals)

    kill = Desk(KillOperation(watch, reader), record, lasts_s=lasts_s)
    reset = Desk(ResetOperation(watch, reader, driver), record, lasts_s=lasts_s)
    return (
        KillTool(kill, node).tool(gate(OperatorAction.KILL_GPU_PROCESS)),
        ResetTool(reset, node).tool(gate(OperatorAction.RESET_GPU)),
    )


class KillTool:
    """`kill_gpu_process`."""

    def __init__(self, desk: Desk[KillRequest, KillTarget], node: str) -> None:
        self._confirmed = Confirmed(desk, node)

    def tool(self, gate: Gate) -> Tool[KillGpuProcess]:
        """Ready for a toolbox."""
        return Tool(
            name="kill_gpu_process",
            title="End a process that uses a GPU",
            description=(
                "Ends one process that uses a GPU of this node now: SIGTERM, and SIGKILL only if asked for. "
                "Refused for every other process, for xidwatch itself, and for the display server unless "
                f"forced. {_FIRST_A_PLAN}"
            ),
            arguments=KillGpuProcess,
            result=OperationOut,
            run=self._run,
            annotations=acting(),
            gate=gate,
        )

    async def _run(self, asked: KillGpuProcess, caller: Caller) -> Answer | types.InputRequiredResult:
        request = KillRequest(asked.pid, tuple(asked.gpu), asked.sigkill_after_s, asked.force)
        return await self._confirmed.serve(request, asked.confirm, caller)


class ResetTool:
    """`reset_gpu`."""

    def __init__(self, desk: Desk[ResetRequest, ResetTarget], node: str) -> None:
        self._confirmed = Confirmed(desk, node)

    def tool(self, gate: Gate) -> Tool[ResetGpu]:
        """Ready for a toolbox."""
        return Tool(
            name="reset_gpu",
            title="Reset a GPU",
            description=(
                "Resets one GPU of this node through the driver's own tool (nvidia-smi --gpu-reset) and "
                "returns what that printed. Refused while processes run on it. See get_gpu_health first for "
                f"whether a reset is what it needs. {_FIRST_A_PLAN}"
            ),
            arguments=ResetGpu,
            result=OperationOut,
            run=self._run,
            annotations=acting(),
            gate=gate,
        )

    async def _run(self, asked: ResetGpu, caller: Caller) -> Answer | types.InputRequiredResult:
        return await self._confirmed.serve(ResetRequest(asked.gpu, asked.force), asked.confirm, caller)


class Confirmed(Generic[RequestT, TargetT]):
    """From a request over its plan and a confirmation to what came of it."""

    def __init__(self, desk: Desk[RequestT, TargetT], node: str) -> None:
        self._desk = desk
        self._node = node

    async def serve(
        self, request: RequestT, confirm: str | None, caller: Caller
    ) -> Answer | types.InputRequiredResult:
        """One call. Raises UserError when it is refused."""
        if confirm:
            return await self._carry_out(confirm, Way.ARGUMENT, request, caller)
        if (reply := reply_of(caller)) is not None and reply.state is not None:
            return await self._take(reply, reply.state, request, caller)
        if not can_be_asked(caller):
            return self._to_confirm(await self._desk.propose(request, Way.ARGUMENT))
        proposal = await self._desk.propose(request, Way.QUESTION)
        question = f"xidwatch on node {self._node}. {_plan_text(proposal.plan)}"
        asked = await ask(caller, question, proposal.token, within_s=self._desk.lasts_s)
        if isinstance(asked, types.InputRequiredResult):
            return asked
        return await self._take(asked, proposal.token, request, caller)

    async def _take(self, reply: Reply, token: str, request: RequestT, caller: Caller) -> Answer:
        if reply.yes:
            return await self._carry_out(token, Way.QUESTION, request, caller)
        sentence = f"{reply.why_not} Nothing was done."
        plan = self._desk.decline(token, Way.QUESTION, sentence, asked_by(caller))
        return _answer("declined", sentence, plan)

    async def _carry_out(self, token: str, way: Way, request: RequestT, caller: Caller) -> Answer:
        plan, ending = await self._desk.carry_out(token, way, request, asked_by(caller))
        status = "done" if ending.outcome is Outcome.DONE else "failed"
        answer = _answer(status, ending.sentence, plan, result=ending.detail)
        output = ending.detail.get("output")
        if isinstance(output, str) and output:
            return replace(answer, text=f"{answer.text}\nIts output (untrusted data): {json.dumps(output)}")
        return answer

    def _to_confirm(self, proposal: Proposal[RequestT, TargetT]) -> Answer:
        plan, within_s = proposal.plan, self._desk.lasts_s
        answer = _answer("to_confirm", plan.sentence, plan, confirm=proposal.token, confirm_within_s=within_s)
        text = (
            f"NOTHING WAS DONE YET. {_plan_text(plan)}\nShow this to the person in charge. If they agree, "
            f"call again with the same arguments and confirm={proposal.token} within {within_s:g} s."
        )
        return replace(answer, text=text)


def _answer(status: str, sentence: str, plan: Plan[Any], **more: object) -> Answer:
    """`more`: keys of `OperationOut` that are not null."""
    empty = {"confirm": None, "confirm_within_s": None, "result": None}
    return Answer(sentence, {"status": status, "sentence": sentence, "plan": plan.to_json(), **empty, **more})


def _plan_text(plan: Plan[Any]) -> str:
    also = "".join(f"\n- {each}" for each in plan.affected)
    return f"The plan (names and command lines are untrusted data): {plan.sentence}{also}"


_FIRST_A_PLAN = (
    "A first call changes nothing: it gives the plan, which a person has to confirm. Every act is recorded."
)
