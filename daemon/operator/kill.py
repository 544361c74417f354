"""Ending a process that uses a GPU, and no other.

The process is identified by its pid and the clock tick of its start, which no other process of
this boot shares. Before the second check a pidfd is opened, and signals go through that: should
the process end meanwhile and its pid go to another one, then either the check sees other ticks,
or the signal reaches nobody. SIGTERM comes first; SIGKILL only as the plan says.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.event import rfc3339
from daemon.gpu.process import PROC, ProcessFacts, ProcessReader, checked_pid
from daemon.gpu.watch import GpuWatch
from daemon.operator.audit import OperatorAction, Outcome
from daemon.operator.holding import Holding, holdings, refuse_mock
from daemon.operator.plan import Ending, Plan, quoted
from daemon.operator.protected import is_display_server, why_protected
from probes.errors import UserError

TERM_WAIT_S: Final = 10.0
"""How long after SIGTERM the end is waited for when no SIGKILL follows: what `docker stop` gives."""
KILL_WAIT_S: Final = 5.0
"""How long after SIGKILL: the driver has to take back what the process held on the GPU."""

SHORTEST_SAID_S: Final = 0.1
"""What is quicker is said to have taken this long at most: "within 0 s" reads like a mistake."""

_LOOK_UP_S = 2.0
"""A person waits for the answer, and a busy machine is not to be taken for a process that ended."""
_MPS = "nvidia-cuda-mps"  # nvidia-cuda-mps-server and -control, cut at 15 bytes


@dataclass(frozen=True, slots=True)
class KillRequest:
    """What was asked for."""

    pid: int
    gpus: tuple[str, ...] = ()
    """Names of GPUs on one of which it has to be, see `daemon.gpu.selection`; empty: any."""
    sigkill_after_s: float | None = None
    """Send SIGKILL when it has not ended this long after SIGTERM; 0: at once; None: never."""
    force: bool = False
    """Also when it is the display server."""


@dataclass(frozen=True, slots=True)
class KillTarget:
    """One process of this boot."""

    pid: int
    start_ticks: int
    """Clock ticks since boot."""


class KillOperation:
    """An `Operation`; see the module's docstring. Belongs to the event loop."""

    action = OperatorAction.KILL_GPU_PROCESS

    def __init__(
        self,
        watch: GpuWatch,
        reader: ProcessReader,
        *,
        proc: Path = PROC,
        term_wait_s: float = TERM_WAIT_S,
        kill_wait_s: float = KILL_WAIT_S,
    ) -> None:
        self._watch = watch
        self._reader = reader
        self._proc = proc
        self._term_wait_s = term_wait_s
        self._kill_wait_s = kill_wait_s

    async def plan(self, request: KillRequest) -> Plan[KillTarget]:
        """Who would be ended, and how. Raises UserError when it is refused."""
        refuse_mock(self._watch)
        pid = checked_pid(request.pid)
        before = _found(self._reader.facts(pid))
        self._refuse_protected(pid)
        held = await holdings(self._watch, pid, request.gpus, self._proc)
        facts = _found((await self._reader.look_up([pid], deadline_s=_LOOK_UP_S))[pid])
        if facts.start_ticks is None or facts.start_ticks != before.start_ticks:
            raise UserError(f"process {pid} ended while it was looked at", hint=_HINT)
        if is_display_server(facts.name) and not request.force:
            raise UserError(
                f"process {pid} is the display server {quoted(facts.name or '')}: its end closes every "
                "window of its users",
                hint="pass force=true if that is meant",
            )
        return Plan(
            action=self.action,
            target=KillTarget(pid, facts.start_ticks),
            sentence=self._sentence(request, facts, held),
            affected=tuple(_affected(facts, held)),
            gpus=tuple(dict.fromkeys(each.pci for each in held)),
            pid=pid,
            process_name=facts.name,
            detail={
                "process": facts.to_json(),
                "holds": [each.to_json() for each in held],
                "sigkill_after_s": request.sigkill_after_s,
                "forced": request.force,
            },
        )

    async def act(self, request: KillRequest, plan: Plan[KillTarget], begin: Callable[[], None]) -> Ending:
        """End the process of the plan. Raises UserError when it is refused."""
        try:
            pidfd = os.pidfd_open(plan.target.pid)
        except OSError as error:
            reason = "it has ended" if isinstance(error, ProcessLookupError) else error.strerror
            raise UserError(f"process {plan.target.pid} cannot be signalled: {reason}", hint=_HINT) from None
        with closing(_Pidfd(pidfd)) as process:
            now = await self.plan(request)
            if now.target != plan.target:
                raise UserError(
                    f"pid {plan.target.pid} is another process now than the one that was confirmed",
                    hint=_HINT,
                )
            begin()
            return await self._end(request, plan, process)

    def _refuse_protected(self, pid: int) -> None:
        try:
            why = why_protected(pid, self._proc)
        except (OSError, ValueError, IndexError):
            raise UserError(
                f"whether process {pid} is part of xidwatch cannot be told: it ended, or /proc hides it",
                hint=_HINT,
            ) from None
        if why is not None:
            raise UserError(f"process {pid} is never ended: {why}", hint=_HINT)

    async def _end(self, request: KillRequest, plan: Plan[KillTarget], process: _Pidfd) -> Ending:
        pid, clock = plan.target.pid, asyncio.get_running_loop().time
        sent: list[str] = []
        began, ended = clock(), False
        for number, wait_s in self._steps(request.sigkill_after_s):
            try:
                process.send(number)
            except ProcessLookupError:
                ended = True
                break
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                text = f"{number.name} could not be sent to process {pid}: {reason}."
                return Ending(Outcome.FAILED, text, {"process_ended": None, "signals_sent": sent})
            sent.append(number.name)
            if ended := await process.ended(wait_s):
                break
        took_s = round(clock() - began, 3)
        detail: dict[str, object] = {"process_ended": ended, "signals_sent": sent, "took_s": took_s}
        if ended:
            within_s = max(took_s, SHORTEST_SAID_S)
            how = f"after {' and '.join(sent)}, within {within_s:g} s" if sent else "by itself"
            return Ending(Outcome.DONE, f"Process {pid} has ended {how}.", detail)
        text = f"Process {pid} HAS NOT ENDED {took_s:g} s after {' and '.join(sent)}: {_why_not_ended(sent)}."
        return Ending(Outcome.FAILED, text, detail)

    def _steps(self, sigkill_after_s: float | None) -> Iterator[tuple[signal.Signals, float]]:
        """Signals, each with the time to wait for the end after it."""
        if sigkill_after_s is None:
            yield signal.SIGTERM, self._term_wait_s
            return
        if sigkill_after_s > 0:
            yield signal.SIGTERM, sigkill_after_s
        yield signal.SIGKILL, self._kill_wait_s

    def _sentence(self, request: KillRequest, facts: ProcessFacts, held: tuple[Holding, ...]) -> str:
        after_s = request.sigkill_after_s
        if after_s == 0:
            how = "send SIGKILL at once, without SIGTERM before it"
        elif after_s is None:
            how = f"send SIGTERM and wait up to {self._term_wait_s:g} s for its end; SIGKILL is not sent"
        else:
            how = f"send SIGTERM, and SIGKILL if it has not ended {after_s:g} s later"
        # First what a line of a terminal has room for: who, where, how.
        return f"End {_who(facts)} on {', '.join(map(str, held))}: {how}. {_what_it_is(facts)}."


class _Pidfd:
    """A process by its file descriptor: it means this process for good, whoever has its pid later."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, number: signal.Signals) -> None:
        """Raises ProcessLookupError when it has ended, PermissionError when this user may not."""
        signal.pidfd_send_signal(self._descriptor, number)

    async def ended(self, within_s: float) -> bool:
        """True as soon as it has ended, False when it has not in time."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._descriptor, ended.set)
        try:
            async with asyncio.timeout(within_s):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._descriptor)
        return True

    def close(self) -> None:
        os.close(self._descriptor)


def _found(facts: ProcessFacts) -> ProcessFacts:
    if not facts.found:
        reason = facts.unread.get("start_ticks", "it was not found")
        raise UserError(f"process {facts.pid} cannot be looked at: {reason}", hint=_HINT)
    return facts


def _who(facts: ProcessFacts) -> str:
    name = f" {quoted(facts.name)}" if facts.name else ""
    user = facts.user or (f"uid {facts.uid}" if facts.uid is not None else None)
    return f"process {facts.pid}{name} of {f'user {user}' if user else 'an unknown user'}"


def _what_it_is(facts: ProcessFacts) -> str:
    line = facts.command_line
    command = quoted(line) if line else f"not known ({facts.unread.get('command_line', 'it has none')})"
    match facts.in_container:
        case True:
            container = f"in container {(facts.container_id or 'of unknown id')[:12]}"
        case False:
            container = "in no container"
        case None:
            container = "in a container or not, which is not known"
    started = f", since {rfc3339(facts.started_us)}" if facts.started_us is not None else ""
    return f"Its command line is {command}; it runs {container}{started}"


def _affected(facts: ProcessFacts, held: tuple[Holding, ...]) -> Iterator[str]:
    yield (
        "What it has not saved is lost. A job of several processes usually fails as a whole when one of them "
        "ends."
    )
    if facts.namespace_pid == 1:
        yield (
            "It is the first process of its container: with it every process of the container ends. SIGTERM "
            "does nothing to it unless it handles it."
        )
    if facts.in_container:
        yield "Whatever runs the container may start it again."
    if facts.name is not None and facts.name.startswith(_MPS):
        yield "It belongs to CUDA MPS: the programs that use the GPU through it fail too."
    gpus = {each.pci: each for each in held}
    for each in gpus.values():
        if each.others:
            number = "1 other process" if each.others == 1 else f"{each.others} other processes"
            yield f"{number} on GPU {each.pci} will not be signalled."


def _why_not_ended(sent: list[str]) -> str:
    if signal.SIGKILL.name in sent:
        return (
            "it is in a call of the kernel that does not return, most likely into the driver; the GPU may "
            "need a reset, or the node a reboot"
        )
    return "it may be saving its state, or ignore the signal; SIGKILL was not asked for"


_HINT = "get_gpu_processes lists the processes that use a GPU now"
