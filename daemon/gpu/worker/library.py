"""libnvidia-ml in this process: loaded and initialised once, and the handles it gives.

Initialising opens the device file of every GPU, the first handle of a GPU takes 6 to 8 ms. It cannot be
had otherwise: with NVML_INIT_FLAG_NO_ATTACH the library counts no GPU and gives no handle (driver 580).
A process keeps the library it has loaded and the driver it has initialised with: after either changed
the daemon starts another worker, which is also the way to initialise anew.
"""

from __future__ import annotations

import threading

import pynvml  # type: ignore[import-untyped]  # nvidia-ml-py has no types

from daemon import pci
from daemon.gpu.call_notes import LIBRARY, CallNotes, Slot
from daemon.gpu.protocol import Trouble
from daemon.gpu.worker.device import Device, DeviceGone, NvmlError, function_of_nvml, noted

_TROUBLES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: Trouble.NO_LIBRARY,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: Trouble.VERSION_MISMATCH,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: Trouble.NO_DRIVER,
    pynvml.NVML_ERROR_NO_PERMISSION: Trouble.NO_PERMISSION,
    pynvml.NVML_ERROR_GPU_IS_LOST: Trouble.LOST,
    pynvml.NVML_ERROR_GPU_NOT_FOUND: Trouble.NOT_FOUND,
    pynvml.NVML_ERROR_NOT_FOUND: Trouble.NOT_FOUND,
    pynvml.NVML_ERROR_UNINITIALIZED: Trouble.STALE,
}


def trouble_of(failure: NvmlError | DeviceGone) -> Trouble:
    """What a failed call means for the GPU or the library it was made for."""
    return _TROUBLES.get(failure.code, Trouble.FAILED)


class Library:
    """See the module's docstring. For all threads."""

    def __init__(self, notes: CallNotes) -> None:
        self._slot = notes.slot(LIBRARY)
        self._open = threading.Event()
        self._failure: NvmlError | DeviceGone | None = None

    def open(self) -> None:
        """Load and initialise, in a thread that may hang in it; the others wait in `check`."""
        try:
            noted(
                self._slot,
                function_of_nvml("nvmlInitWithFlags"),
                "nvmlInitWithFlags",
                pynvml.NVML_INIT_FLAG_NO_GPUS,
            )
        except (NvmlError, DeviceGone) as failure:
            self._failure = failure
        self._open.set()

    def check(self) -> None:
        """Return once the library is initialised. Raises NvmlError or DeviceGone if that failed."""
        self._open.wait()
        if self._failure is not None:
            raise self._failure

    def count(self) -> int:
        """How many GPUs the driver answers for. Raises as `check`."""
        self.check()
        count = noted(self._slot, function_of_nvml("nvmlDeviceGetCount"), "nvmlDeviceGetCount")
        assert isinstance(count, int)
        return count

    def device(self, gpu: str, slot: Slot) -> Device:
        """The GPU of this PCI address, or of index N for `#N`, its calls noted in `slot`: this attaches
        it. Raises as `check`."""
        self.check()
        function = "nvmlDeviceGetHandleByIndex" if gpu.startswith("#") else "nvmlDeviceGetHandleByPciBusId"
        wanted = int(gpu[1:]) if gpu.startswith("#") else _as_nvml_spells(gpu)
        handle = noted(slot, function_of_nvml(function), function, wanted)
        address = gpu
        if gpu.startswith("#"):
            info = noted(slot, function_of_nvml("nvmlDeviceGetPciInfo"), "nvmlDeviceGetPciInfo", handle)
            address = pci.normalize(str(getattr(info, "busId", ""))) or gpu
        return Device(address, handle, slot)


def _as_nvml_spells(address: str) -> bytes:
    domain, _, rest = address.partition(":")
    return f"{int(domain, 16):08X}:{rest.upper()}".encode()
