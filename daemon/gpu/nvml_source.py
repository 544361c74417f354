"""The real GPUs: NVML through the worker, and what /proc/driver/nvidia says without it.

Which GPUs there are is asked of /proc first: that attaches none, and lists one that NVML does not find.
Its files are read in a thread, since the driver prints them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from daemon.gpu.answers import Answer, Answered, Answers, Unanswered
from daemon.gpu.client import GpuWorker
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Costly, Health, Identity, NvLink, Processes, Reading, Section
from daemon.gpu.released import Released
from daemon.gpu.source import SourceName, SourceState, Sweep
from daemon.thread import DiskThread
from probes import procfs
from probes.procfs import ProcGpu

DEADLINE_S = 5.0
"""How long GPUs may take to answer: a thousand times what a healthy one needs for its health."""

_ENDING_S = 1.0
"""How much longer than for its last answer the end of a worker is waited for."""
_PROC_S = 0.5
"""How long /proc is waited for before what it said last time will do."""

_HINTS = {
    Trouble.NO_LIBRARY: "install the driver's libraries; in a container, let NVIDIA_DRIVER_CAPABILITIES "
    "include utility",
    Trouble.VERSION_MISMATCH: "the driver was updated while its old kernel module is loaded: end every "
    "program that uses a GPU and reload the module, or reboot",
    Trouble.NO_DRIVER: "load the kernel module with modprobe nvidia; the kernel log says why if that fails",
    Trouble.NO_PERMISSION: "run as root, or let this user read and write /dev/nvidiactl and /dev/nvidia*",
    Trouble.NO_GPU: "compare with lspci -d 10de: and look in the kernel log for why the driver refused a GPU",
    Trouble.HUNG: "look for Xid 79, 119 or 120 in the kernel log; if the driver stays like this, reboot",
}

_PAYLOADS: Mapping[str, type[Section]] = {
    "identity": Identity,
    "health": Health,
    "processes": Processes,
    "nvlink": NvLink,
    "costly": Costly,
}


class NvmlSource:
    """See the module's docstring. For one event loop."""

    def __init__(
        self, worker: GpuWorker, *, proc: Path = procfs.ROOT, deadline_s: float = DEADLINE_S
    ) -> None:
        self._worker = worker
        self._proc = proc
        self._deadline_s = deadline_s
        self._thread: DiskThread | None = None
        self._reading_proc: asyncio.Task[list[ProcGpu]] | None = None
        self._in_proc: Mapping[str, ProcGpu] = {}
        self._asked = False
        self._trouble: Unanswered | None = None
        self._released_us: int | None = None

    def state(self) -> SourceState:
        """How things stood at the last question; hung GPUs as of now."""
        status = self._worker.status()
        if self._trouble is not None:
            name = _name(self._trouble.trouble)
            told = self._trouble.as_of(time.time_ns() // 1000)
            reason, hint = told.reason, _HINTS.get(told.trouble)
        else:
            name = SourceName.OK if self._asked else SourceName.UNASKED
            reason, hint = None, None
        # NVML numbers the GPUs when it is initialised, which each worker does once.
        numbering = status.starts if status.pid is not None else status.starts + 1
        return SourceState(
            name, reason, hint, hung=status.hung, abandoned=status.abandoned, numbering=numbering
        )

    @property
    def released_us(self) -> int | None:
        """Since when the driver is let go of on purpose, wall clock in µs since the Unix epoch; None after
        the next question or `take_up`."""
        return self._released_us

    def take_up(self) -> None:
        """The driver may be used again without being asked to: it was loaded anew."""
        self._released_us = None

    async def listed(self) -> Sequence[str] | None:
        """The GPUs in /proc/driver/nvidia; None where that shows none."""
        await self._read_proc()
        return list(self._in_proc) or None

    async def inventory(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `identity`; of a GPU that does not answer, what /proc says of it."""
        return await self._sweep("identity", gpus, insist=insist)

    async def health(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `health`."""
        return await self._sweep("health", gpus, insist=insist)

    async def processes(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `processes`."""
        return await self._sweep("processes", gpus, insist=insist)

    async def nvlink(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `nvlink`."""
        return await self._sweep("nvlink", gpus, insist=insist)

    async def costly(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `costly`."""
        return await self._sweep("costly", gpus, insist=insist)

    def forgive(self, gpu: str) -> None:
        """Ask this GPU again although a call on it hung: it was reset, or somebody wants to know."""
        self._worker.forgive(gpu)

    def driver_loaded(self, at_us: int) -> None:
        """The driver was loaded anew at this time, wall clock in µs since the Unix epoch: what hung before is
        asked again, and what kept all GPUs from answering is forgotten."""
        self._worker.driver_loaded(at_us)
        if self._trouble is not None:
            self._trouble = None
            self._asked = False

    def release(self) -> None:
        """Let go of the driver's device files until the next question."""
        self._worker.release()

    async def let_go(self) -> Released:
        """The same; returns when it is done, after the questions that are being answered."""
        self._released_us = time.time_ns() // 1000
        return await self._worker.let_go(within_s=self._deadline_s + _ENDING_S)

    async def close(self) -> None:
        """End the worker."""
        await self._worker.close()
        if self._reading_proc is not None:
            self._reading_proc.cancel()
        if self._thread is not None:
            self._thread.close()

    async def _sweep(self, operation: str, gpus: Sequence[str] | None, *, insist: bool) -> Sweep:
        self.take_up()
        await self._read_proc()
        wanted = gpus if gpus is not None else (list(self._in_proc) or None)
        answers = await self._worker.ask(operation, wanted, deadline_s=self._deadline_s, insist=insist)
        self._asked = True
        self._trouble = answers.trouble
        readings = (self._reading(gpu, answer, operation) for gpu, answer in _each(answers, wanted).items())
        return Sweep(self.state(), tuple(sorted(readings, key=lambda reading: reading.pci)))

    def _reading(self, gpu: str, answer: Answer, operation: str) -> Reading:
        if isinstance(answer, Answered):
            try:
                payload = _PAYLOADS[operation].from_json(answer.data)
            except ValueError as error:
                reason = f"the worker's answer is not understood: {error}"
                return Reading(gpu, answered=False, trouble=Trouble.FAILED, reason=reason)
            payloads = {operation: payload}
            # What was asked by its index has told its address.
            place = payload.pci if isinstance(payload, Identity) else gpu
            return Reading(
                place,
                answered=True,
                took_ms=answer.took_ms,
                **payloads,  # type: ignore[arg-type]  # `_PAYLOADS` has the class of each field by its name
            )
        identity = self._without_nvml(gpu) if operation == "identity" else None
        return Reading(gpu, answered=False, trouble=answer.trouble, reason=answer.reason, identity=identity)

    def _without_nvml(self, gpu: str) -> Identity | None:
        known = self._in_proc.get(gpu)
        if known is None:
            return None
        return Identity(
            gpu,
            minor_number=known.minor,
            uuid=known.uuid,
            name=known.model,
            gsp_firmware_version=known.firmware,
        )

    async def _read_proc(self) -> None:
        if self._thread is None:
            self._thread = DiskThread("gpu-proc")
        if self._reading_proc is None:
            self._reading_proc = asyncio.create_task(self._thread.call(lambda: procfs.gpus(self._proc)))
        reading = self._reading_proc  # shared by questions that are asked at the same time
        done, _ = await asyncio.wait([reading], timeout=_PROC_S)
        if done:
            self._in_proc = {gpu.pci: gpu for gpu in reading.result()}
            if self._reading_proc is reading:
                self._reading_proc = None


def _each(answers: Answers, wanted: Sequence[str] | None) -> Mapping[str, Answer]:
    """An answer for every GPU that is known of, also where the library has none."""
    if answers.trouble is None or wanted is None:
        return answers.gpus
    return {gpu: answers.gpus.get(gpu, answers.trouble) for gpu in wanted}


def _name(trouble: Trouble) -> SourceName:
    try:
        return SourceName(trouble.value)
    except ValueError:  # a trouble of single GPUs, met while the library was asked
        return SourceName.FAILED
