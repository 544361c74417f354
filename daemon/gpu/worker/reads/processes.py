"""The processes on a GPU, by the driver's books."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.gpu.readings import GpuProcess, Processes
from daemon.gpu.worker.reads import nvml
from daemon.gpu.worker.reads.reader import Device, GpuReader, call


def processes(device: Device, _arguments: Mapping[str, object]) -> dict[str, object]:
    """`readings.Processes` as JSON."""
    read = GpuReader(device)
    found: list[GpuProcess] = []
    for kind, name in (("compute", "Compute"), ("graphics", "Graphics")):
        entries = read.get(
            kind,
            call(nvml.items, f"nvmlDeviceGet{name}RunningProcesses_v3"),
            call(nvml.items, f"nvmlDeviceGet{name}RunningProcesses_v2"),  # before R510
        )
        found += (_process(entry, kind) for entry in entries or ())
    if {"compute", "graphics"} <= read.unread.keys():
        read.note("processes", read.unread["compute"])
        return Processes(unread=read.unread).to_json()
    found.sort(key=lambda process: (process.pid, process.type))
    return Processes(processes=tuple(found), unread=read.unread).to_json()


def _process(entry: object, kind: str) -> GpuProcess:
    memory = getattr(entry, "usedGpuMemory", None)
    return GpuProcess(
        pid=nvml.member(entry, "pid"),
        type=kind,
        memory_used_bytes=memory if memory != nvml.NOT_AVAILABLE_64 else None,
        gi=_instance(entry, "gpuInstanceId"),
        ci=_instance(entry, "computeInstanceId"),
    )


def _instance(entry: object, name: str) -> int | None:
    number = nvml.member(entry, name)
    return None if number == nvml.NOT_AVAILABLE_32 else number
