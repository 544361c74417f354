"""Confidential computing: the state of the system, and this GPU's protected memory."""

from __future__ import annotations

import ctypes

from daemon.gpu.readings import ConfidentialComputing
from daemon.gpu.worker.device import NvmlError
from daemon.gpu.worker.reads import nvml
from daemon.gpu.worker.reads.convert import as_is, flag, named
from daemon.gpu.worker.reads.reader import Call, GpuReader, call, system

_ENVIRONMENTS = {0: "unavailable", 1: "simulation", 2: "production"}
_MULTI_GPU = {0: "none", 1: "protected_pcie", 2: "nvlink_encryption"}
_STATE = ("enabled", "environment", "devtools_mode", "multi_gpu_mode")


def confidential_computing(read: GpuReader) -> ConfidentialComputing:
    """`readings.ConfidentialComputing`; reasons go under `confidential_computing.…`."""
    paths = [f"confidential_computing.{name}" for name in _STATE]
    state = read.get(paths, _settings(), system(as_is, "nvmlSystemGetConfComputeState"))
    ready = "confidential_computing.gpus_ready"
    memory = read.get(
        "confidential_computing.protected_memory_bytes",
        call(_protected_bytes, "nvmlDeviceGetConfComputeMemSizeInfo"),
    )
    if state is None:
        read.note(ready, read.unread[paths[0]])
        return ConfidentialComputing(protected_memory_bytes=memory)
    enabled = nvml.member(state, "ccFeature") != 0
    multi_gpu = nvml.member(state, "multiGpuMode") if hasattr(state, "multiGpuMode") else None
    if multi_gpu is None:
        read.note(paths[3], "not known to this driver version")
    if not enabled:
        read.note(ready, "confidential computing is off")
    return ConfidentialComputing(
        enabled=enabled,
        environment=named(_ENVIRONMENTS, nvml.member(state, "environment")),
        devtools_mode=nvml.member(state, "devToolsMode") != 0,
        multi_gpu_mode=named(_MULTI_GPU, multi_gpu) if multi_gpu is not None else None,
        gpus_ready=read.get(ready, system(flag, "nvmlSystemGetConfComputeGpusReadyState"))
        if enabled
        else None,
        protected_memory_bytes=memory,
    )


def _settings() -> Call[object]:
    function = "nvmlSystemGetConfComputeSettings"
    settings = nvml.structure("c_nvmlSystemConfComputeSettings_v1_t")
    if settings is None:
        return Call(None, (), as_is)

    def checked(code: object) -> object:
        # nvidia-ml-py returns this function's error code and raises nothing.
        if isinstance(code, int) and code != 0:
            raise NvmlError(code, "", nvml.error_text(code), function)
        return settings

    return Call(function, (ctypes.byref(settings),), checked, system=True)


def _protected_bytes(sizes: object) -> int:
    return nvml.member(sizes, "protectedMemSizeKib") * 1024
