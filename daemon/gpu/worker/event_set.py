"""The NVML event set: the driver's own word of a fault, for as long as somebody listens.

One request, many answers. The first names the GPUs that are listened to and those that cannot be; then
every event is an answer, and every wait in which nothing happened, so that a library that hangs in the
wait can be told from a quiet node. It ends with the process, or with a call that fails: a GPU was lost or
the driver unloaded, and a fresh process is the way to begin anew (see `library`).

An open set keeps the device files of its GPUs open. Each set has a thread of its own.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence

import pynvml  # type: ignore[import-untyped]  # nvidia-ml-py has no types

from daemon.gpu.call_notes import CallNotes
from daemon.gpu.worker.device import Device, DeviceGone, NvmlError, function_of_nvml, noted
from daemon.gpu.worker.library import Library

EVENTS = "events"
"""The operation, and the owner of its calls that concern no single GPU."""

LARGEST_WAIT_MS = 600_000

_TYPES: Mapping[str, int] = {
    "xid": getattr(pynvml, "nvmlEventTypeXidCriticalError", 0),
    "recovery_action": getattr(pynvml, "nvmlEventTypeGpuRecoveryAction", 0),
    "gpu_unavailable": getattr(pynvml, "nvmlEventTypeGpuUnavailableError", 0),
    "ecc_storm": getattr(pynvml, "nvmlEventTypeSingleBitEccErrorStorm", 0),
}
"""What is listened for; 0 where nvidia-ml-py is too old to name it."""

_NO_INSTANCE = 0xFFFFFFFF
"""In the place of a GPU or compute instance: there is none."""

Answer = Callable[[Mapping[str, object]], None]


class CannotListenError(Exception):
    """No GPU can be listened to, and why."""


class EventSet:
    """See the module's docstring."""

    def __init__(self, library: Library, notes: CallNotes) -> None:
        self._library = library
        self._notes = notes
        self._slot = notes.slot(EVENTS)
        self._by_handle: dict[int, str] = {}

    def stream(self, arguments: Mapping[str, object], answer: Answer) -> None:
        """Listen to `gpus`, PCI addresses (null: all that the driver answers for, but those of `skip`, each
        `#N`), with waits of `wait_ms`.

        Does not return. Raises NvmlError or DeviceGone when a call of the library fails, CannotListenError
        when no GPU can be listened to, ValueError when the arguments are none.
        """
        gpus, skip, wait_ms = _checked(arguments)
        self._library.check()
        event_set = self._call("nvmlEventSetCreate")
        refused: dict[str, str] = {}
        for gpu in gpus if gpus is not None else [f"#{index}" for index in range(self._library.count())]:
            if gpu not in skip:
                self._try_to_register(gpu, event_set, refused)
        if not self._by_handle:
            reasons = "; ".join(f"{gpu}: {reason}" for gpu, reason in refused.items())
            raise CannotListenError(f"no GPU can be listened to ({reasons or 'there is none'})")
        answer({"listens_to": sorted(self._by_handle.values()), "refused": refused})
        while True:
            heard = self._wait(event_set, wait_ms)
            answer({"quiet": True} if heard is None else heard)

    def _try_to_register(self, gpu: str, event_set: object, refused: dict[str, str]) -> None:
        name = gpu
        try:
            device = self._library.device(gpu, self._notes.slot(gpu))
            name = device.pci
            self._register(device, event_set)
        except (NvmlError, DeviceGone) as failure:
            refused[name] = f"{failure.function}: {failure.message}"

    def _register(self, device: Device, event_set: object) -> None:
        supported = device.call("nvmlDeviceGetSupportedEventTypes")
        assert isinstance(supported, int)
        wanted = supported & sum(_TYPES.values())
        if not wanted & _TYPES["xid"]:
            raise NvmlError(
                pynvml.NVML_ERROR_NOT_SUPPORTED,
                "NotSupported",
                "this GPU has no Xid events",
                "nvmlDeviceGetSupportedEventTypes",
            )
        device.call("nvmlDeviceRegisterEvents", wanted, event_set)
        self._by_handle[_address_of(device.handle)] = device.pci

    def _wait(self, event_set: object, wait_ms: int) -> dict[str, object] | None:
        """The next event; None when none came in that time, or one that says nothing."""
        try:
            event = self._call("nvmlEventSetWait_v2", event_set, wait_ms)
        except NvmlError as failure:
            if failure.code == pynvml.NVML_ERROR_TIMEOUT:
                return None
            raise
        assert isinstance(event, pynvml.c_nvmlEventData_t)
        arrival_us, wall_us = time.monotonic_ns() // 1000, time.time_ns() // 1000
        what = next((name for name, type in _TYPES.items() if type & event.eventType), None)
        pci = self._by_handle.get(_address_of(event.device))
        code = int(event.eventData)
        if what is None or pci is None or (what == "xid" and code == 0):  # 0 is no Xid, yet it comes
            return None
        return {
            "what": what,
            "gpu": pci,
            "code": code,
            "gi": _instance(event.gpuInstanceId),
            "ci": _instance(event.computeInstanceId),
            "arrival_us": arrival_us,
            "wall_us": wall_us,
        }

    def _call(self, function: str, *arguments: object) -> object:
        return noted(self._slot, function_of_nvml(function), function, *arguments)


def _checked(arguments: Mapping[str, object]) -> tuple[Sequence[str] | None, frozenset[str], int]:
    match arguments:
        case {"gpus": list() | None as gpus, "skip": list(skip), "wait_ms": int(wait_ms)} if (
            0 < wait_ms <= LARGEST_WAIT_MS
        ):
            wanted = [str(gpu) for gpu in gpus] if gpus is not None else None
            return wanted, frozenset(str(gpu) for gpu in skip), wait_ms
    raise ValueError("the events of which GPUs, and how long a wait")


def _address_of(handle: object) -> int:
    """What tells one handle from another: nvidia-ml-py makes a new pointer object for each event."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0  # type: ignore[arg-type]  # a ctypes pointer


def _instance(id: int) -> int | None:
    return None if id == _NO_INSTANCE else id
