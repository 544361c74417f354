"""Plans on their way to a confirmation: the one place where a plan becomes an act.

A confirmation is a random token. It is good for one plan, once, until it expires, for the same
request, and only the way it was given out: one that a person is asked for through the client is
never shown to the assistant and cannot be handed in as an argument. What was begun is seen
through to its end and recorded, also when the client leaves meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

from daemon.operator.audit import Audit, AuditEntry, Outcome
from daemon.operator.plan import Ending, Operation, Plan
from probes.errors import UserError

LASTS_S: Final = 300.0
"""How long a person has to read a plan and decide."""
MOST_PROPOSALS: Final = 256
"""Plans that are remembered, the newest; far more than people read in five minutes."""

RequestT = TypeVar("RequestT")
TargetT = TypeVar("TargetT")


class Way(StrEnum):
    """How a confirmation is to come back."""

    QUESTION = "question"
    """The client asks its user (elicitation) and says what the answer was."""
    ARGUMENT = "argument"
    """The client has no way to ask: a second call hands the token in."""


@dataclass(slots=True)
class Proposal(Generic[RequestT, TargetT]):
    """A plan that waits for its confirmation."""

    token: str
    plan: Plan[TargetT]
    request: RequestT
    way: Way
    expires: float
    """On the desk's clock, in seconds."""
    spent: bool = False


class Desk(Generic[RequestT, TargetT]):
    """The plans of one operation. Belongs to the event loop."""

    def __init__(
        self,
        operation: Operation[RequestT, TargetT],
        audit: Audit,
        *,
        lasts_s: float = LASTS_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lasts_s = lasts_s
        """How long a confirmation is good."""
        self._operation = operation
        self._audit = audit
        self._now = now
        self._proposals: OrderedDict[str, Proposal[RequestT, TargetT]] = OrderedDict()
        self._acting: set[asyncio.Task[Ending]] = set()

    async def propose(self, request: RequestT, way: Way) -> Proposal[RequestT, TargetT]:
        """A plan and its token. Raises UserError when it is refused."""
        plan = await self._operation.plan(request)
        token = secrets.token_urlsafe(16)
        proposal = Proposal(token, plan, request, way, self._now() + self.lasts_s)
        self._proposals[token] = proposal
        while len(self._proposals) > MOST_PROPOSALS:
            self._proposals.popitem(last=False)
        return proposal

    async def carry_out(
        self, token: str, way: Way, request: RequestT, asked_by: str | None
    ) -> tuple[Plan[TargetT], Ending]:
        """Act on the plan that `token` confirms: that plan, and what came of it.

        Raises UserError when it is refused.
        """
        proposal = self._confirmed(token, way, request, asked_by)
        acting = asyncio.create_task(self._act(proposal, asked_by), name=self._operation.action.value)
        self._acting.add(acting)
        acting.add_done_callback(self._acting.discard)
        return proposal.plan, await asyncio.shield(acting)

    def decline(self, token: str, way: Way, why: str, asked_by: str | None) -> Plan[TargetT]:
        """Whoever was asked did not say yes: the plan, which is void now.

        `why` is a sentence. Raises UserError when no such plan waits.
        """
        proposal = self._proposals.get(token)
        if proposal is None or proposal.way is not way or proposal.spent:
            raise UserError(_UNKNOWN, hint=_AGAIN)
        proposal.spent = True
        self._record(proposal, Outcome.DECLINED, why, asked_by)
        return proposal.plan

    def _confirmed(
        self, token: str, way: Way, request: RequestT, asked_by: str | None
    ) -> Proposal[RequestT, TargetT]:
        """The proposal, spent from now on."""
        proposal = self._proposals.get(token)
        if proposal is None or proposal.way is not way:
            raise UserError(_UNKNOWN, hint=_AGAIN)
        if proposal.spent:
            raise self._refused(proposal, "this confirmation was used already: each is good once", asked_by)
        if self._now() >= proposal.expires:
            text = f"this confirmation has expired: it was good for {self.lasts_s:g} s"
            raise self._refused(proposal, text, asked_by)
        if proposal.request != request:
            text = "this confirmation is for other arguments: repeat those of the call that gave the plan"
            raise self._refused(proposal, text, asked_by)
        proposal.spent = True
        return proposal

    def _refused(self, proposal: Proposal[RequestT, TargetT], text: str, asked_by: str | None) -> UserError:
        self._record(proposal, Outcome.REFUSED, f"{text}; nothing was done.", asked_by)
        return UserError(f"{text}; nothing was done", hint=_AGAIN)

    async def _act(self, proposal: Proposal[RequestT, TargetT], asked_by: str | None) -> Ending:
        def begin() -> None:
            self._record(proposal, Outcome.BEGUN, proposal.plan.sentence, asked_by)

        try:
            ending = await self._operation.act(proposal.request, proposal.plan, begin)
        except UserError as error:
            self._record(proposal, Outcome.REFUSED, f"{error.message}; nothing was done.", asked_by)
            raise
        except asyncio.CancelledError:
            text = "xidwatch was stopped in the middle of it: how it ended is not known."
            self._record(proposal, Outcome.FAILED, text, asked_by)
            raise
        except Exception:  # a bug, or a record that could not be kept: on record, then on to whoever asked
            text = "an error inside xidwatch ended it: its log has the details."
            self._record(proposal, Outcome.FAILED, text, asked_by)
            raise
        self._record(proposal, ending.outcome, ending.sentence, asked_by, ending.detail)
        return ending

    def _record(
        self,
        proposal: Proposal[RequestT, TargetT],
        outcome: Outcome,
        sentence: str,
        asked_by: str | None,
        result: Mapping[str, object] | None = None,
    ) -> None:
        plan = proposal.plan
        detail: dict[str, object] = {"plan": plan.to_json(), "confirmed_by": proposal.way.value}
        if result is not None:
            detail["result"] = dict(result)
        self._audit(
            AuditEntry(
                action=plan.action,
                outcome=outcome,
                sentence=sentence,
                gpu=plan.gpus[0] if plan.gpus else None,
                pid=plan.pid,
                process_name=plan.process_name,
                asked_by=asked_by,
                detail=detail,
            )
        )


_UNKNOWN = "no plan waits for this confirmation"
_AGAIN = "call again without a confirmation for a new plan"
