"""Asking the GPU worker: a deadline for every question, and an end to every wait.

The worker is started when it is first needed and ended when nobody has asked for a while. A GPU whose
call does not return by the deadline is reported as hung, with the call and since when; its worker is
killed without waiting for it, since it may sleep uninterruptibly, and another one serves the GPUs that
still answer. A hung GPU is left alone for a while. When a worker dies, what it had not answered is asked
again, one GPU at a time, so that the GPU whose call crashes the library is known. After a reload of the
driver or a reset the library must be initialised anew: a GPU that seems lost is asked once more, through
a fresh worker; the old one is kept if that does not help.

Nothing here raises for what a GPU, the driver or the worker does, and nothing blocks the event loop. For
one event loop.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from daemon.gpu.answers import Answer, Answered, Answers, Unanswered, WorkerStatus
from daemon.gpu.call_notes import LIBRARY, OpenCall
from daemon.gpu.left_alone import LeftAlone
from daemon.gpu.patience import Patience
from daemon.gpu.protocol import Trouble
from daemon.gpu.released import Released
from daemon.gpu.round import INIT, Question, ask_once
from daemon.gpu.worker_process import StartError, WorkerProcess

MOST_STUCK = 16
"""While so many abandoned workers have not ended, no further one is started: each is a process."""
STUCK_BY_INSISTING = MOST_STUCK // 2
"""While so many are stuck, nobody may insist: the others are for GPUs that are not known to hang."""

COMMAND = (sys.executable, "-P", "-m", "daemon.gpu.worker")

_ATTACHING = frozenset({INIT, "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetHandleByIndex"})
_CLOSING_S = 1.0
_DRIVER_GONE = frozenset({Trouble.STALE, Trouble.NO_DRIVER})
"""The library's initialisation is worth nothing any more: it is the time for another."""
_SEEMS_GONE = frozenset({Trouble.LOST, Trouble.NOT_FOUND})
"""What initialising anew may mend, if the GPU was reset or the driver reloaded."""


class _LibraryTrouble(Exception):
    def __init__(self, answer: Unanswered) -> None:
        super().__init__(answer.reason)
        self.answer = answer


class GpuWorker:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`command` gets two descriptor numbers appended; `environment`: None is this process's own."""
        self._command = command
        self._environment = environment
        self._patience = patience or Patience()
        self._worker: WorkerProcess | None = None
        self._starting: asyncio.Task[WorkerProcess] | None = None
        self._processes: set[WorkerProcess] = set()
        self._stuck: set[WorkerProcess] = set()
        self._nobody_left = asyncio.Event()
        self._nobody_left.set()
        self._one_ended = asyncio.Event()
        self._starts = 0
        self._abandoned = 0
        self._left_alone = LeftAlone()
        self._looked_again: dict[str, float] = {}
        self._trouble: tuple[Unanswered, float] | None = None
        self._last_asked = 0.0
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    def status(self) -> WorkerStatus:
        """How things stand now."""
        pid = self._worker.pid if self._worker is not None and self._worker.usable else None
        calls = self._left_alone.calls(time.monotonic())
        return WorkerStatus(pid, self._starts, self._abandoned, len(self._stuck), calls)

    async def ask(
        self,
        operation: str,
        gpus: Sequence[str] | None,
        *,
        deadline_s: float,
        insist: bool = False,
        **arguments: object,
    ) -> Answers:
        """What `operation` answers for each of `gpus`; None: for all that the driver answers for.

        Returns within about `deadline_s`, the start of a worker not counted, and once more that long after
        a crash or a reload of the driver. `insist` asks GPUs that are left alone, too, until too many workers
        are stuck; one that answers is left alone no more. Every GPU asked for is among the answers, unless
        the library itself is in trouble.
        """
        if gpus is None:
            located = await self.locate(deadline_s=deadline_s)
            silent = {gpu: answer for gpu, answer in located.gpus.items() if isinstance(answer, Unanswered)}
            known = [gpu for gpu in located.gpus if gpu not in silent]
            if located.trouble is not None or not known:
                return located
            answers = await self.ask(operation, known, deadline_s=deadline_s, insist=insist, **arguments)
            return Answers({**answers.gpus, **silent}, answers.trouble)
        now = time.monotonic()
        may_insist = insist and len(self._stuck) < STUCK_BY_INSISTING
        left = {gpu: answer for gpu in gpus if (answer := self._left_alone.answer(gpu, now)) is not None}
        asked = [gpu for gpu in dict.fromkeys(gpus) if may_insist or gpu not in left]
        try:
            found = await self._ask(Question(operation, arguments, deadline_s), asked)
        except _LibraryTrouble as trouble:
            return Answers(trouble=trouble.answer)
        for gpu in left:
            if isinstance(found.get(gpu), Answered):
                self._left_alone.forgive(gpu)
        now_us = _unix_us()
        return Answers({gpu: found[gpu] if gpu in found else left[gpu].as_of(now_us) for gpu in gpus})

    async def locate(self, *, deadline_s: float) -> Answers:
        """Every GPU the driver answers for, by its PCI address; one that does not answer, by `#N`.

        This attaches every GPU; /proc/driver/nvidia/gpus names them without touching any.
        """
        try:
            answer = (await self._ask(Question("count", {}, deadline_s), [LIBRARY]))[LIBRARY]
        except _LibraryTrouble as trouble:
            return Answers(trouble=trouble.answer)
        if isinstance(answer, Unanswered):
            return Answers(trouble=answer)
        count = answer.data["count"]
        assert isinstance(count, int)
        if count == 0:
            return Answers(trouble=Unanswered(Trouble.NO_GPU, "the driver answers for no GPU"))
        found = await self.ask("locate", [f"#{index}" for index in range(count)], deadline_s=deadline_s)
        return Answers({_address(key, answer): answer for key, answer in found.gpus.items()}, found.trouble)

    def forgive(self, gpu: str | None) -> None:
        """Ask this GPU (None: the library) again from now on."""
        self._left_alone.forgive(gpu)
        if gpu is not None:
            self._looked_again.pop(gpu, None)

    def driver_loaded(self, at_us: int) -> None:
        """The driver was loaded anew at this time, Unix time in µs: what hung or was in trouble before may
        answer now, through a worker that has never seen the driver before it."""
        self._left_alone.forgive_before(at_us)
        self._looked_again.clear()
        self.release()

    def release(self) -> None:
        """End the worker as soon as it has answered, so that it keeps no device file open; the next
        question starts another."""
        self._trouble = None
        if self._worker is not None:
            self._worker.retire()
            self._worker = None

    async def let_go(self, *, within_s: float) -> Released:
        """`release`, and wait until its worker has ended; those that were abandoned may still be there. The
        next question starts another."""
        processes = list(self._processes)
        self.release()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while any(process in self._processes - self._stuck for process in processes):
                    self._one_ended.clear()
                    await self._one_ended.wait()
        pids = [(process.pid, process in self._processes) for process in processes]
        return Released(
            tuple(pid for pid, is_there in pids if pid is not None and not is_there),
            tuple(pid for pid, is_there in pids if pid is not None and is_there),
        )

    async def close(self) -> None:
        """End the worker and wait a moment for that; one that is stuck is left to init."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        for process in self._processes:
            process.end()
        try:
            async with asyncio.timeout(_CLOSING_S):
                await self._nobody_left.wait()
        except TimeoutError:
            for process in self._processes:
                process.let_go()

    # The course of a question: a round, then what the round made necessary.

    async def _ask(self, question: Question, gpus: Sequence[str]) -> dict[str, Answer]:
        if not gpus:
            return {}
        self._check_trouble()
        worker, answers = await self._round(question, gpus)
        if worker is not None:
            answers |= await self._ask_anew(worker, question, answers)
        crashed = [gpu for gpu in gpus if _trouble(answers[gpu]) is Trouble.CRASHED]
        for gpu in crashed:
            try:
                answers |= (await self._round(question, [gpu]))[1]
            except _LibraryTrouble as trouble:
                answers[gpu] = trouble.answer
            answer = answers[gpu]
            if isinstance(answer, Unanswered) and answer.trouble is Trouble.CRASHED:
                self._leave_alone(gpu, answer, self._patience.alone_s)
        return answers

    def _check_trouble(self) -> None:
        now = time.monotonic()
        if self._trouble is not None and now < self._trouble[1]:
            raise _LibraryTrouble(self._trouble[0])
        self._trouble = None
        library = self._left_alone.answer(None, now)
        if library is not None:
            raise _LibraryTrouble(library.as_of(_unix_us()))

    async def _ask_anew(
        self, worker: WorkerProcess, question: Question, answers: Mapping[str, Answer]
    ) -> dict[str, Answer]:
        """Ask those that seem gone once more through a fresh worker. The one they were asked through goes
        on serving the others, unless its driver is gone or the fresh one found somebody."""
        gone = [gpu for gpu, answer in answers.items() if _trouble(answer) in _DRIVER_GONE]
        lost = [gpu for gpu, answer in answers.items() if _trouble(answer) in _SEEMS_GONE]
        if gone:
            worker.retire()
        elif not self._may_look_again(lost):
            return {}
        if self._worker is worker:
            self._worker = None
        try:
            again = (await self._round(question, [*gone, *lost]))[1]
        except _LibraryTrouble:
            if not worker.usable:
                raise
            self._left_alone.forgive(None)
            self._trouble = None
            again = {}
        except BaseException:
            worker.retire()  # nobody holds it any more
            raise
        if worker.usable and not any(isinstance(answer, Answered) for answer in again.values()):
            if self._worker is not None and self._worker is not worker:
                self._worker.retire()
            self._worker = worker
        else:
            worker.retire()
        return again

    def _may_look_again(self, lost: Sequence[str]) -> bool:
        now = time.monotonic()
        due = [gpu for gpu in lost if now >= self._looked_again.get(gpu, -math.inf) + self._patience.again_s]
        self._looked_again |= dict.fromkeys(due, now)
        return bool(due)

    async def _round(
        self, question: Question, gpus: Sequence[str]
    ) -> tuple[WorkerProcess | None, dict[str, Answer]]:
        """Ask `gpus` once, all at the same time. The worker, if it had answered somebody before: then it
        may have initialised with a driver that is gone. Raises _LibraryTrouble."""
        try:
            worker = await self._take()
        except StartError as error:
            raise self._library_trouble(Unanswered(Trouble.FAILED, str(error))) from None
        used = worker.answered
        try:
            found = await ask_once(worker, question, gpus)
        finally:
            self._asked()
        for gpu, call in found.hung.items():
            who = None if gpu == LIBRARY else gpu
            answer = found.library if who is None else found.answers[gpu]
            if isinstance(answer, Unanswered):
                self._leave_alone(who, answer, self._rest_s(who, call, len(found.hung)))
        if any(not self._attaching(call) for call in found.hung.values()):
            self._abandon(worker)
        if found.library is not None:
            if LIBRARY in found.hung:
                raise _LibraryTrouble(found.library)
            raise self._library_trouble(found.library)
        return worker if used else None, dict(found.answers)

    def _attaching(self, call: OpenCall) -> bool:
        return call.function in _ATTACHING and call.seconds < self._patience.attach_s

    def _rest_s(self, gpu: str | None, call: OpenCall, together: int) -> float:
        if self._attaching(call):
            return self._patience.attach_retry_s
        return self._patience.alone_s if together == 1 and gpu is not None else self._patience.together_s

    def _leave_alone(self, gpu: str | None, answer: Unanswered, for_s: float) -> None:
        since_us = answer.since_us if answer.since_us is not None else _unix_us()
        self._left_alone.add(gpu, answer, since_us=since_us, until=time.monotonic() + for_s)

    def _library_trouble(self, answer: Unanswered) -> _LibraryTrouble:
        self.release()
        self._trouble = (answer, time.monotonic() + self._patience.trouble_s)
        return _LibraryTrouble(answer)

    # The worker's life.

    async def _take(self) -> WorkerProcess:
        if self._worker is not None and self._worker.usable:
            return self._worker
        if self._closed:
            raise StartError("xidwatch is ending")
        if len(self._stuck) >= MOST_STUCK:
            reason = f"{len(self._stuck)} earlier GPU workers are stuck in the driver: no more are started"
            raise self._library_trouble(Unanswered(Trouble.HUNG, reason))
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="gpu-worker-start")
            self._starting.add_done_callback(_look_at)
        try:
            return await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            if self._closed:
                raise StartError("xidwatch is ending") from None
            raise

    async def _start(self) -> WorkerProcess:
        try:
            environment = os.environ if self._environment is None else self._environment
            self._starts += 1
            fresh = await WorkerProcess.start(
                self._command, environment, self._began, self._ended, within_s=self._patience.start_s
            )
            if self._worker is not None:
                self._worker.retire()
            self._worker = fresh
            return fresh
        finally:
            self._starting = None

    def _began(self, process: WorkerProcess) -> None:
        self._processes.add(process)
        self._nobody_left.clear()

    def _ended(self, process: WorkerProcess) -> None:
        self._processes.discard(process)
        self._stuck.discard(process)
        self._one_ended.set()
        if not self._processes:
            self._nobody_left.set()
        if self._worker is process:
            self._worker = None

    def _abandon(self, worker: WorkerProcess) -> None:
        if not worker.usable:
            return  # given up by somebody who waited for the same call
        self._abandoned += 1
        self._stuck.add(worker)
        worker.retire()

    def _asked(self) -> None:
        self._last_asked = time.monotonic()
        if self._idle is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._patience.idle_s, self._end_idle)

    def _end_idle(self) -> None:
        self._idle = None
        rest_s = self._last_asked + self._patience.idle_s - time.monotonic()
        busy = self._worker is not None and self._worker.busy
        if rest_s > 0 or busy:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(max(rest_s, 1.0), self._end_idle)
        elif self._worker is not None:
            self._worker.retire()
            self._worker = None


def _look_at(task: asyncio.Task[WorkerProcess]) -> None:
    """Whoever asked for a worker may have stopped waiting for it."""
    if not task.cancelled():
        task.exception()


def _trouble(answer: Answer) -> Trouble | None:
    return answer.trouble if isinstance(answer, Unanswered) else None


def _address(key: str, answer: Answer) -> str:
    return str(answer.data["pci"]) if isinstance(answer, Answered) else key


def _unix_us() -> int:
    return time.time_ns() // 1000
