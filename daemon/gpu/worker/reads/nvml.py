"""What is taken from nvidia-ml-py besides its functions: numbers and structures, by name.

The one place of the reads that touches the untyped module. A name that the installed nvidia-ml-py
does not have is None: it is then a reading that cannot be asked for, not an error.
"""

from __future__ import annotations

import ctypes

import pynvml  # type: ignore[import-untyped]  # nvidia-ml-py ships no types

NOT_SUPPORTED: int = pynvml.NVML_ERROR_NOT_SUPPORTED
NOT_FOUND: int = pynvml.NVML_ERROR_NOT_FOUND
FUNCTION_NOT_FOUND: int = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
INVALID_ARGUMENT: int = pynvml.NVML_ERROR_INVALID_ARGUMENT
VERSION_MISMATCH: int = pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
NO_PERMISSION: int = pynvml.NVML_ERROR_NO_PERMISSION
TIMEOUT: int = pynvml.NVML_ERROR_TIMEOUT

NOT_AVAILABLE_32 = 0xFFFFFFFF
NOT_AVAILABLE_64 = 0xFFFFFFFFFFFFFFFF
MEMORY_V2: int = pynvml.nvmlMemory_v2

_VALUE_MEMBERS = {
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
}


def number(name: str) -> int | None:
    """The constant `name`; None if this nvidia-ml-py does not know it."""
    value = getattr(pynvml, name, None)
    return value if isinstance(value, int) else None


def structure(name: str) -> ctypes.Structure | None:
    """A new structure of type `name`, its version set; None if this nvidia-ml-py does not know it."""
    kind = getattr(pynvml, name, None)
    made = kind() if kind is not None else None
    return made if isinstance(made, ctypes.Structure) else None


def member(value: object, name: str) -> int:
    """The number `name` of a structure."""
    found = getattr(value, name)
    if not isinstance(found, int):
        raise TypeError(f"{type(value).__name__}.{name} is {type(found).__name__}, expected a number")
    return found


def items(value: object) -> list[object]:
    """A sequence that a function gave, or an array of a structure."""
    if not isinstance(value, list | tuple | ctypes.Array):
        raise TypeError(f"expected a sequence, got {type(value).__name__}")
    return list(value)


def field_value(entry: object) -> int | None:
    """The value of an entry of nvmlDeviceGetFieldValues; None when it holds none.

    Seen on driver 580: fields that NVML does not fill come back as success, type double, all zeros
    (NVSWITCH_CONNECTED_LINK_COUNT on a GPU without NVLink). No field asked here is a double.
    """
    name = _VALUE_MEMBERS.get(member(entry, "valueType"))
    if name is None:
        return None
    value = member(getattr(entry, "value"), name)  # noqa: B009 - untyped structure
    return None if value in (NOT_AVAILABLE_32, NOT_AVAILABLE_64) else value


def error_text(code: int) -> str:
    """nvidia-ml-py's words for an error code: `unknown error`."""
    return str(pynvml.NVMLError(code)).rstrip(".").lower()


def gpu_instances(count: int) -> object:
    """An array for the handles of so many GPU instances."""
    return (pynvml.c_nvmlGpuInstance_t * count)()


def octets(value: object, name: str) -> list[int]:
    """The bytes `name` of a structure."""
    return [entry for entry in items(getattr(value, name)) if isinstance(entry, int)]
