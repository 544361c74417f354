"""One question to one worker: asked of several GPUs at once, and over at the deadline.

A round only finds out; what follows from it is for the client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemon.gpu.answers import Answer, Answered, Unanswered, not_returned
from daemon.gpu.call_notes import LIBRARY, OpenCall
from daemon.gpu.protocol import Done, Failed, Trouble
from daemon.gpu.worker_process import WorkerEnded, WorkerProcess

INIT = "nvmlInitWithFlags"
"""When this fails, every GPU fails."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask each GPU."""

    operation: str
    arguments: Mapping[str, object]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """What came of it by the deadline."""

    answers: Mapping[str, Answer]
    """One for each GPU that was asked."""
    hung: Mapping[str, OpenCall]
    """The calls that do not return, by GPU or LIBRARY: each took at least half of the time there was. A
    GPU that is late without one is slow, and its thread in the worker goes on."""
    library: Unanswered | None
    """A trouble that all GPUs share; None when there is none."""


async def ask_once(worker: WorkerProcess, question: Question, gpus: Sequence[str]) -> Round:
    """Ask `gpus`, or the library itself as LIBRARY. Raises nothing for what they or the worker do."""
    sent = {
        gpu: worker.send(question.operation, None if gpu == LIBRARY else gpu, question.arguments)
        for gpu in gpus
    }
    try:
        await asyncio.wait([future for _, future in sent.values()], timeout=question.deadline_s)
        calls = worker.open_calls()
        late = [gpu for gpu, (_, future) in sent.items() if not future.done()]
        answers = {gpu: _outcome(future, calls.get(gpu)) for gpu, (_, future) in sent.items()}
    finally:
        for id, _ in sent.values():
            worker.forget(id)
    old = {gpu: call for gpu, call in calls.items() if call.seconds >= question.deadline_s / 2}
    hung = {gpu: old[gpu] for gpu in dict.fromkeys([*late, LIBRARY]) if late and gpu in old}
    answers |= {gpu: _hung(hung[gpu]) for gpu in late if gpu in hung}
    return Round(answers, hung, _of_library(answers, hung, calls))


def _outcome(future: asyncio.Future[Done | Failed], call: OpenCall | None) -> Answer:
    if not future.done():
        return Unanswered(Trouble.SLOW, "not everything was read by the deadline")
    ended = future.exception()
    if ended is not None:
        return _crash(call, ended)
    match future.result():
        case Done(data=data, took_us=took_us):
            return Answered(data, took_us / 1000)
        case Failed(trouble=trouble, reason=reason, call=failed_in):
            return Unanswered(trouble, reason, failed_in)


def _crash(call: OpenCall | None, ended: BaseException) -> Unanswered:
    assert isinstance(ended, WorkerEnded)
    if call is None:
        return Unanswered(Trouble.CRASHED, f"the GPU worker crashed: {ended}")
    reason = f"the GPU worker crashed in {call.function}: {ended}"
    return Unanswered(Trouble.CRASHED, reason, call.function)


def _of_library(
    answers: Mapping[str, Answer], hung: Mapping[str, OpenCall], calls: Mapping[str, OpenCall]
) -> Unanswered | None:
    if LIBRARY in hung:
        return _hung(hung[LIBRARY])
    for answer in answers.values():
        if not isinstance(answer, Unanswered):
            continue
        if answer.trouble is Trouble.CRASHED and LIBRARY in calls:
            in_library = calls[LIBRARY].function
            return Unanswered(Trouble.CRASHED, f"{answer.reason}, in {in_library}", in_library)
        if answer.call == INIT:
            return answer
    return None


def _hung(call: OpenCall) -> Unanswered:
    since_us = call.since_us
    reason = not_returned(call.function, since_us, time.time_ns() // 1000)
    return Unanswered(Trouble.HUNG, reason, call.function, since_us)
