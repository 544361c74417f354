"""The NVML event set as a witness of faults: asked for by name, since it keeps the device files open.

Contract:

* It has a GPU worker of its own (a process that does nothing else), so that a question that hangs does not
  end the listening, nor the other way round; and it hands on what it hears in the order in which it does.
* It survives whatever its worker meets: after the end of one (a crash, a lost GPU, a driver that was loaded
  anew) another begins, after a pause that grows to `Tempo.pause_most_s`. A GPU in whose call one hung or
  crashed is left out for `Tempo.left_out_s`, and a worker that hangs is killed without waiting for it.
* It listens to every GPU that is there, and begins anew when that set changes, which it looks at once a wait,
  and when the driver was loaded anew. `health` names the GPUs it does not hear, and why.
* What happened while nobody listened is not told later: NVML keeps nothing. `health` says how often that was.
* While an open set blocks the unloading of the driver and a reset, `release` ends it for a stated time or
  until the driver is loaded anew.

Nothing blocks the event loop, which everything belongs to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from daemon.event import Mig, rfc3339
from daemon.gpu.answers import not_returned
from daemon.gpu.call_notes import LIBRARY, OpenCall
from daemon.gpu.client import COMMAND
from daemon.gpu.protocol import Done, Failed
from daemon.gpu.released import Released
from daemon.gpu.roll import Call, Present, Roll
from daemon.gpu.worker_process import StartError, WorkerEnded, WorkerProcess
from daemon.gpu.worker_set import WorkerSet
from daemon.nvml_witness import PROBE, NvmlEvent, NvmlEventKind
from probes import kernel
from probes.health import ProbeHealth

OPERATION = "events"
"""What the worker is asked for (`daemon.gpu.worker.event_set`)."""
RELEASED_S = 600.0
"""How long `release` is in force unless the driver is loaded anew before: time for a reset or an update."""
MOST_STUCK = 4
"""While so many killed workers have not ended, no further one is started: each is a process."""

_NO_GPU = frozenset({LIBRARY, OPERATION})
_KINDS = frozenset(kind.value for kind in NvmlEventKind)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tempo:
    """How long things may take, in seconds."""

    start_s: float = 10.0
    """Until a worker reads requests."""
    register_s: float = 60.0
    """Until every GPU is listened to: one without persistence mode takes seconds to attach."""
    wait_s: float = 30.0
    """One wait for an event in the worker. It says so when nothing came. Also how often is looked at which
    GPUs are there."""
    late_s: float = 15.0
    """How much longer it may take to say so."""
    pause_s: float = 1.0
    """Before the first new attempt; doubled with each that fails."""
    pause_most_s: float = 300.0
    well_s: float = 60.0
    """Who listened for so long begins again with the first pause."""
    left_out_s: float = 600.0
    """How long a GPU is left out that hung while it was registered, or crashed the worker."""
    closing_s: float = 2.0
    """How long the end of a killed worker is waited for."""


async def whatever_answers() -> Present:
    """Nothing is known of the GPUs: every one that the driver answers for."""
    return Present()


class NvmlEvents:
    """See the module's docstring."""

    def __init__(
        self,
        heard: Callable[[NvmlEvent], None],
        *,
        on_change: Callable[[ProbeHealth], None] = lambda health: None,
        present: Callable[[], Awaitable[Present]] = whatever_answers,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
        tempo: Tempo | None = None,
    ) -> None:
        """`heard` is called in the event loop and must not block. `on_change` is told when it stops to hear,
        and when it hears again; a new beginning that succeeds at once is neither. `present` says which GPUs
        are there, and which of them must not be touched. `environment`: None is this process's own."""
        self._heard = heard
        self._on_change = on_change
        self._present = present
        self._workers = WorkerSet(command, environment)
        self._tempo = tempo or Tempo()
        self._boot_id = kernel.boot_id()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._deaf: str | None = "it was not started"
        self._told_deaf = False
        self._roll = Roll()
        self._looked = 0.0
        self._anew: str | None = None
        self._released: tuple[float, int] | None = None
        self._events = self._quiet_waits = self._interruptions = self._failures = 0

    def start(self) -> None:
        """Begin to listen, in the background."""
        self._deaf = "it is starting"
        self._task = asyncio.create_task(self._run(), name="nvml-events")

    async def close(self) -> None:
        """End the worker; one that is stuck is left to init."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._workers.end_all()
        await self._workers.wait_for_the_end(self._tempo.closing_s)
        self._workers.let_go()
        self._deaf = "it was closed"

    def health(self) -> ProbeHealth:
        """Whether it hears. It is never `live`: NVML does not tell of every fault, so that hearing it alone
        is not hearing."""
        counters = {
            "events": self._events,
            "quiet_waits": self._quiet_waits,
            "starts": self._workers.starts,
            "interruptions": self._interruptions,
            "gpus": len(self._roll.heard),
            "gpus_not_heard": len(self._roll.not_heard),
            "stuck": self._workers.stuck,
            "failures": self._failures,
        }
        reason, hint = self._deaf or self._roll.sentence(), None
        if self._released is not None:
            hint = "restart xidwatch, load the driver anew, or wait, to have NVML's events heard again"
        elif reason is not None:
            hint = "faults are heard through the kernel log; xidwatch doctor says what the driver answers"
        return ProbeHealth(
            PROBE,
            hears=self._deaf is None,
            live=False,
            reason=reason,
            hint=hint,
            counters=counters,
            on_request=self._released is not None,
        )

    def release_now(self, for_s: float = RELEASED_S) -> int:
        """Let go of the driver without waiting until that is done. Returns until when it stays so: wall
        clock, µs since the Unix epoch."""
        until_us = time.time_ns() // 1000 + int(for_s * 1e6)
        self._released = (time.monotonic() + for_s, until_us)
        self._go_deaf(f"it let go of the driver, as asked, until {rfc3339(until_us)}")
        self._workers.end_all()
        self._wake.set()
        return until_us

    async def release(self, for_s: float = RELEASED_S) -> tuple[Released, int]:
        """Let go of the driver; returns when that is done, or is not to be had. Also until when it stays
        so: wall clock, µs since the Unix epoch."""
        until_us = self.release_now(for_s)
        return await self._workers.wait_for_the_end(self._tempo.closing_s), until_us

    def take_up(self) -> None:
        """The driver was loaded anew, or a reset is over: begin anew, also if it was released, with every
        GPU that is there."""
        self._released = None
        self._roll.forgive()
        self._anew = "it begins anew with the driver"
        if self._task is not None:
            self._pause_hearing(self._anew)
        self._workers.end_all()
        self._wake.set()

    # -- the course of listening ----------------------------------------------------------------

    async def _run(self) -> None:
        pause_s = self._tempo.pause_s
        while True:
            await self._while_released()
            self._wake.clear()
            self._anew = None
            began = time.monotonic()
            try:
                reason = await self._listen_once()
            except Exception:  # the boundary: a bug here must not end the listening for good
                self._failures += 1
                _log.exception("listening to NVML failed")
                reason = "it failed; the daemon's own log says how"
            if self._anew is not None and self._released is None:
                self._pause_hearing(self._anew)
                continue
            if self._released is None:
                self._go_deaf(reason)
            if time.monotonic() - began >= self._tempo.well_s:
                pause_s = self._tempo.pause_s
            if self._released is None and await self._woken_within(pause_s):
                pause_s = self._tempo.pause_s
            else:
                pause_s = min(2 * pause_s, self._tempo.pause_most_s)

    async def _while_released(self) -> None:
        while self._released is not None:
            rest_s = self._released[0] - time.monotonic()
            if rest_s <= 0:
                self._released = None
                self._deaf = "it takes the driver up again"
            else:
                self._wake.clear()
                await self._woken_within(rest_s)

    async def _woken_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    async def _listen_once(self) -> str:
        """Start a worker and listen until that comes to an end. Returns why it did."""
        if self._workers.stuck >= MOST_STUCK:
            return f"{self._workers.stuck} earlier workers are stuck in the driver: no more are started"
        call = self._roll.call(await self._look(), time.monotonic())
        if call.gpus is not None and not call.gpus:
            return self._roll.nobody()
        try:
            worker = await self._workers.start(within_s=self._tempo.start_s)
        except StartError as error:
            return str(error)
        try:
            if self._released is not None or self._anew is not None:  # in the meantime
                return ""
            return await self._listen(worker, worker.listen(OPERATION, self._arguments(call)))
        finally:
            worker.end()

    def _arguments(self, call: Call) -> dict[str, object]:
        gpus = list(call.gpus) if call.gpus is not None else None
        return {"gpus": gpus, "skip": list(call.skip), "wait_ms": int(self._tempo.wait_s * 1000)}

    async def _gpus_changed(self) -> bool:
        """True when the GPUs that are there are not those it began with; looks at most once a wait."""
        is_due = time.monotonic() - self._looked >= self._tempo.wait_s
        return is_due and self._roll.is_outdated(await self._look())

    async def _look(self) -> Present:
        self._looked = time.monotonic()
        return await self._present()

    async def _listen(
        self, worker: WorkerProcess, answers: asyncio.Queue[Done | Failed | WorkerEnded]
    ) -> str:
        """Hand on what comes. Returns why nothing more does."""
        patience_s = self._tempo.register_s
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    answer = await answers.get()
            except TimeoutError:
                return self._hung(worker)
            match answer:
                case Done(data={"listens_to": list(gpus), "refused": dict(refused)}):
                    self._hear_again([str(gpu) for gpu in gpus], refused)
                    patience_s = self._tempo.wait_s + self._tempo.late_s
                case Done(data={"quiet": True}):
                    self._quiet_waits += 1
                case Done(data=data):
                    self._hand_on(data)
                case Failed(reason=reason):
                    return reason
                case WorkerEnded():
                    return self._crashed(worker, answer)
            if answers.empty() and await self._gpus_changed():
                self._anew = "it begins anew with the GPUs that are there now"
                return self._anew

    def _hung(self, worker: WorkerProcess) -> str:
        call = _oldest(worker)
        if call is None:
            return "its worker says nothing any more"
        return self._leave_out(call, not_returned(call.function, call.since_us))

    def _crashed(self, worker: WorkerProcess, ended: WorkerEnded) -> str:
        call = _oldest(worker)
        if call is None or self._released is not None or self._anew is not None:
            return f"its worker ended: {ended}"
        return self._leave_out(call, f"its worker ended in {call.function}: {ended}")

    def _leave_out(self, call: OpenCall, reason: str) -> str:
        if call.gpu not in _NO_GPU:
            self._roll.leave_out(call.gpu, reason, until=time.monotonic() + self._tempo.left_out_s)
        return reason

    def _hand_on(self, data: Mapping[str, object]) -> None:
        event = _event(data, self._boot_id)
        if event is None:
            self._failures += 1
            _log.error("an event of NVML is not understood: %r", data)
            return
        self._events += 1
        try:
            self._heard(event)
        except Exception:  # the boundary: what one event leads to must not cost the next
            self._failures += 1
            _log.exception("an event of NVML could not be processed: %r", event)

    # -- what is known of it --------------------------------------------------------------------

    def _hear_again(self, gpus: Sequence[str], refused: Mapping[str, str]) -> None:
        self._roll.answered(gpus, refused)
        self._deaf = None
        for gpu, why in self._roll.not_heard.items():
            _log.warning("no NVML events of GPU %s: %s", gpu, why)
        if self._told_deaf:
            self._told_deaf = False
            self._on_change(self.health())

    def _pause_hearing(self, reason: str) -> None:
        self._interruptions += self._deaf is None
        self._deaf = reason
        self._roll.ended()

    def _go_deaf(self, reason: str) -> None:
        self._pause_hearing(reason)
        if not self._told_deaf:
            self._told_deaf = True
            self._on_change(self.health())


def _oldest(worker: WorkerProcess) -> OpenCall | None:
    """The call that the worker is, or was, in; the wait for events only if there is no other."""
    calls = worker.open_calls().values()
    return min(calls, key=lambda call: (call.gpu == OPERATION, call.since_ns), default=None)


def _event(data: Mapping[str, object], boot_id: str) -> NvmlEvent | None:
    match data:
        case {
            "what": str(what),
            "gpu": str(pci),
            "code": int(code),
            "gi": int() | None as gi,
            "ci": int() | None as ci,
            "arrival_us": int(arrival_us),
            "wall_us": int(wall_us),
        } if what in _KINDS:
            kind = NvmlEventKind(what)
            mig = Mig(gi, ci) if gi is not None or ci is not None else None
            number = code if kind is NvmlEventKind.XID else None
            return NvmlEvent(kind, number, pci, mig, arrival_us, wall_us, boot_id)
    return None
