"""From what nvidia-ml-py returns to values with units; and NVML's numbers by name."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.gpu.worker.reads import nvml


def whole(value: object) -> int:
    """A number as it is."""
    if not isinstance(value, int):
        raise TypeError(f"expected a number, got {type(value).__name__}")
    return value


def flag(value: object) -> bool:
    """NVML's enabled or disabled, true or false."""
    return whole(value) != 0


def text(value: object) -> str:
    """A text. Some functions of nvidia-ml-py return the bytes (nvmlDeviceGetGspFirmwareVersion)."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value


def first(value: object) -> int:
    """The first number of several."""
    return whole(nvml.items(value)[0])


def watts(value: object) -> float:
    """From milliwatts."""
    return whole(value) / 1000


def as_is(value: object) -> object:
    """A structure, whose members the caller reads."""
    return value


def named(names: Mapping[int, str], value: int) -> str:
    """The name of a number; `unknown (N)` for one that is newer than this program."""
    return names.get(value) or f"unknown ({value})"
