"""One GPU as the worker sees it: calls on its handle, each noted before it is made.

A Device belongs to one thread, the one that serves its GPU.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from ctypes import _SimpleCData
from typing import TypeVar

import pynvml  # type: ignore[import-untyped]  # nvidia-ml-py has no types

from daemon.gpu.call_notes import Slot

T = TypeVar("T")

GONE = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
"""Return codes after which no call on this handle can succeed."""


class _Failure(Exception):
    def __init__(self, code: int, name: str, message: str, function: str) -> None:
        super().__init__(f"{function}: {message}")
        self.code = code
        """NVML's return code."""
        self.name = name
        """Its name in nvidia-ml-py, `NotSupported`."""
        self.message = message
        """NVML's own words, `Not Supported`."""
        self.function = function
        """The function that returned it."""


class NvmlError(_Failure):
    """This one call failed; the next may well succeed: the value is null, with this as its reason."""


class DeviceGone(_Failure):
    """The GPU is lost or the driver was unloaded: the operation is over. Operations let it pass."""


class Device:
    """See the module's docstring."""

    def __init__(self, pci: str, handle: object, slot: Slot) -> None:
        self.pci = pci
        """Domain:bus:device.function, lower-case hex: `0000:91:00.0`."""
        self.handle = handle
        """nvidia-ml-py's own; for functions that take a second GPU."""
        self._slot = slot
        self._facts: dict[str, object] = {}
        self._functions: dict[str, Callable[..., object]] = {}

    def call(self, function: str, *arguments: object) -> object:
        """What nvidia-ml-py's `function` answers for this GPU. Raises NvmlError, or DeviceGone.

        It may block for ever: the daemon is watching.
        """
        return self.system(function, self.handle, *arguments)

    def system(self, function: str, *arguments: object) -> object:
        """As `call`, for a function that takes no GPU: `nvmlSystemGetDriverVersion`."""
        return noted(self._slot, self._functions.get(function) or self._find(function), function, *arguments)

    def mig(self, handle: object) -> Device:
        """The MIG device with this handle; its calls count as calls on this GPU."""
        return Device(self.pci, handle, self._slot)

    def once(self, fact: str, read: Callable[[], T]) -> T:
        """What `read` answered the first time it did, for what does not change while the driver is
        loaded. What it raises is not kept."""
        if fact not in self._facts:
            self._facts[fact] = read()
        return self._facts[fact]  # type: ignore[return-value]  # kept under the name of what read it

    def _find(self, name: str) -> Callable[..., object]:
        found = self._functions[name] = _of_this_thread(function_of_nvml(name))
        return found


def function_of_nvml(name: str) -> Callable[..., object]:
    """nvidia-ml-py's function; one that raises FunctionNotFound if this version of it has none."""
    found: Callable[..., object] | None = getattr(pynvml, name, None)
    return found or _missing


def noted(slot: Slot, function: Callable[..., object], name: str, *arguments: object) -> object:
    """Call `function`, noted in `slot` as `name`. Raises NvmlError, or DeviceGone."""
    slot.begin(name)
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        code = int(error.value)
        failure = DeviceGone if code in GONE else NvmlError
        title = type(error).__name__.removeprefix("NVMLError_")
        raise failure(code, title, str(error), name) from None
    finally:
        slot.end()


def _missing(*_arguments: object) -> object:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


def _of_this_thread(function: Callable[..., object]) -> Callable[..., object]:
    """`function` with default arguments of its own.

    nvidia-ml-py 13 returns some values through a ctypes object that is the default of a parameter
    (nvmlDeviceGetModuleId, nvmlDeviceGetGspFirmwareMode, …): one object for all threads, so that one GPU
    would be told another's value.
    """
    if not isinstance(function, types.FunctionType) or not function.__defaults__:
        return function
    fresh = tuple(
        type(default)() if isinstance(default, (_SimpleCData, pynvml.Structure)) else default
        for default in function.__defaults__
    )
    return types.FunctionType(
        function.__code__, function.__globals__, function.__name__, fresh, function.__closure__
    )
