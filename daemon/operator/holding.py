"""Which GPUs a process uses at this moment: by the driver's books, and by its open files.

The files count only for a GPU that does not answer: elsewhere they also name programs that merely
look, as monitors do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from daemon.gpu.process import PROC
from daemon.gpu.readings import GpuProcess
from daemon.gpu.watch import GpuLook, GpuWatch
from daemon.operator.device_files import open_minors
from probes.errors import UserError

OPEN: Final = "open"

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Holding:
    """A process on a GPU or a MIG instance."""

    pci: str
    uuid: str | None
    index: int | None
    """NVML index; None when it is not known."""
    types: tuple[str, ...]
    """`compute`, `graphics`, or `open`: the GPU does not answer, and the process has its device file open."""
    memory_used_bytes: int | None
    """None: the driver does not know it."""
    gi: int | None
    """GPU instance id; None without MIG."""
    ci: int | None
    """Compute instance id; None without MIG."""
    others: int | None
    """Other processes on this GPU; None when it does not answer."""

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "pci": self.pci,
            "uuid": self.uuid,
            "index": self.index,
            "types": list(self.types),
            "memory_used_bytes": self.memory_used_bytes,
            "gi": self.gi,
            "ci": self.ci,
            "other_processes": self.others,
        }

    def __str__(self) -> str:
        instance = f" (MIG gi={self.gi} ci={self.ci})" if self.gi is not None else ""
        used = self.memory_used_bytes
        memory = f" with {used / 2**30:.1f} GiB" if used is not None else ""
        silent = " (which does not answer: by its open device file)" if OPEN in self.types else ""
        return f"{gpu_name(self.pci, self.index, self.uuid)}{instance}{memory}{silent}"


def gpu_name(pci: str, index: int | None, uuid: str | None) -> str:
    """`GPU 0 GPU-8f1c… (0000:91:00.0)`, as far as known."""
    number = f"GPU {index}" if index is not None else "GPU"
    return " ".join(part for part in (number, uuid, f"({pci})") if part)


async def holdings(
    watch: GpuWatch, pid: int, wanted: Sequence[str], proc: Path = PROC
) -> tuple[Holding, ...]:
    """Where `pid` is now, on the GPUs that `wanted` names, or on all. At least one.

    Raises UserError when it is on none, saying which GPUs could not be looked at.
    """
    look = await watch.processes(wanted)
    found = [gpu for gpu in look.gpus if pid in running_on(gpu)]
    if found:
        return tuple(_holdings(await _named(watch, found), pid))
    if opened := tuple(_opened([gpu for gpu in look.gpus if unlisted(gpu) is not None], pid, proc)):
        return opened
    unread = [text for gpu in look.gpus if (text := unlisted(gpu)) is not None]
    if look.state.reason is not None and not look.gpus:
        unread.append(look.state.reason)
    is_named = any(name.strip() for name in wanted)
    where = "any of the GPUs named" if is_named else "any GPU"
    if unread:
        shown = "; ".join(unread[:_SHOWN]) + (
            f"; and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
        )
        raise UserError(
            f"process {pid} is not seen on {where}, but not all could be looked at: {shown}",
            hint="get_gpu_processes says what each GPU answers"
            if is_named
            else "name a GPU to have it asked anyway; get_gpu_processes says what each answers",
        )
    raise UserError(f"process {pid} does not use {where} now", hint="get_gpu_processes lists those that do")


def refuse_mock(watch: GpuWatch) -> None:
    """Raises UserError for invented GPUs: nothing real may be done in their name."""
    if watch.source.state().mock:
        raise UserError(
            "the GPUs are mock (--gpu mock): nothing on this node can be killed or reset in their name",
            hint="start xidwatch without --gpu mock to act on real GPUs",
        )


def unlisted(gpu: GpuLook) -> str | None:
    """Why the compute processes of this GPU are not known, a clause; None when they are."""
    name = gpu_name(gpu.pci, *_identity(gpu))
    if not gpu.reading.answered:
        return f"{name}: {gpu.reading.reason or 'it did not answer'}"
    listed = gpu.reading.processes
    if listed is None or listed.processes is None:
        reason = listed.unread.get("processes") if listed is not None else None
        return f"{name}: {reason or 'its processes were not read'}"
    if "compute" in listed.unread:
        return f"{name}: compute processes not listed: {listed.unread['compute']}"
    return None


def running_on(gpu: GpuLook) -> tuple[int, ...]:
    """The pids known to be on this GPU, sorted."""
    listed = gpu.reading.processes
    return tuple(sorted({process.pid for process in (listed.processes if listed else None) or ()}))


async def _named(watch: GpuWatch, gpus: Sequence[GpuLook]) -> list[GpuLook]:
    """The same with index and UUID, where nobody has asked for them yet."""
    unnamed = [gpu.pci for gpu in gpus if gpu.identity is None]
    if not unnamed:
        return [*gpus]
    look = await watch.inventory(unnamed)
    identities = {gpu.pci: gpu.reading.identity for gpu in look.gpus}
    return [replace(gpu, identity=gpu.identity or identities.get(gpu.pci)) for gpu in gpus]


def _holdings(gpus: Sequence[GpuLook], pid: int) -> Iterator[Holding]:
    for gpu in gpus:
        listed = gpu.reading.processes
        instances: dict[tuple[int | None, int | None], list[GpuProcess]] = {}
        for process in (listed.processes if listed is not None else None) or ():
            if process.pid == pid:
                instances.setdefault((process.gi, process.ci), []).append(process)
        others = len(set(running_on(gpu)) - {pid})
        index, uuid = _identity(gpu)
        for (gi, ci), entries in instances.items():
            known = [entry.memory_used_bytes for entry in entries if entry.memory_used_bytes is not None]
            types = tuple(sorted({entry.type for entry in entries}))
            # One that is listed for compute and graphics has the same memory in both entries.
            yield Holding(gpu.pci, uuid, index, types, max(known, default=None), gi, ci, others)


def _opened(silent: Sequence[GpuLook], pid: int, proc: Path) -> Iterator[Holding]:
    """Of the GPUs that do not tell, those whose device file it has open."""
    if not silent:
        return
    try:
        minors = open_minors(pid, proc)
    except OSError:
        return  # the refusal names the GPUs that could not be looked at
    for gpu in silent:
        if gpu.identity is not None and gpu.identity.minor_number in minors:
            index, uuid = _identity(gpu)
            yield Holding(gpu.pci, uuid, index, (OPEN,), None, None, None, None)


def _identity(gpu: GpuLook) -> tuple[int | None, str | None]:
    """Index and UUID, as far as known."""
    if gpu.identity is not None:
        return gpu.identity.index, gpu.identity.uuid
    if gpu.expected is not None:
        return None if gpu.expected.is_lost else gpu.expected.index, gpu.expected.uuid
    return None, None
