"""Asking one GPU many questions, and keeping why some have no answer.

A read that fails leaves its reason under the path of the value, and the next one is asked. Two sorts of
failure end it earlier: `DeviceGone` passes through (the GPU is lost, or the driver is unloaded: nothing
can be read), and after a timeout nothing more is asked, as every further call into a sick GPU may cost
seconds and adds to what the driver has to time out.

What does not change while the driver is loaded is asked once (`fact`, `field_facts`), kept by the device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from daemon.gpu.worker.device import GONE, DeviceGone, NvmlError
from daemon.gpu.worker.reads import nvml

T = TypeVar("T")

NOT_SUPPORTED = "not supported by this GPU"
OLD_DRIVER = "not known to this driver version"
OLD_LIBRARY = "not known to this version of nvidia-ml-py"
FORBIDDEN = "no permission"
EMPTY = "not available"
GARBLED = "the answer is no text"
AFTER_TIMEOUT = "not asked: the driver timed out before"

_REASONS = {
    nvml.NOT_SUPPORTED: NOT_SUPPORTED,
    nvml.FUNCTION_NOT_FOUND: OLD_DRIVER,
    nvml.VERSION_MISMATCH: OLD_DRIVER,
    nvml.NO_PERMISSION: FORBIDDEN,
    nvml.TIMEOUT: "the driver timed out",
}
_OTHER_WAY = frozenset({nvml.FUNCTION_NOT_FOUND, nvml.VERSION_MISMATCH})


def lasting(reason: str) -> bool:
    """Whether asking again could not help while the driver is loaded."""
    return reason in (NOT_SUPPORTED, OLD_DRIVER, OLD_LIBRARY)


class Device(Protocol):
    """The GPU that is read; `daemon.gpu.worker.device.Device` is one."""

    @property
    def pci(self) -> str:
        """Domain:bus:device.function, lower-case hex."""
        ...

    def call(self, function: str, *arguments: object) -> object:
        """nvidia-ml-py's function with this GPU's handle before the arguments; NvmlError, DeviceGone."""
        ...

    def system(self, function: str, *arguments: object) -> object:
        """The same without the handle: of the system, or for the handle of a MIG instance."""
        ...

    def once(self, fact: str, read: Callable[[], T]) -> T:
        """What `read` answered the first time it did."""
        ...


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One way to ask: a function, its arguments, and what to make of the answer."""

    function: str | None
    """None: this version of nvidia-ml-py lacks what the call needs."""
    arguments: tuple[object, ...]
    convert: Callable[[object], T]
    system: bool = False
    """The handle of the GPU is no argument."""


def call(convert: Callable[[object], T], function: str, *arguments: object) -> Call[T]:
    """Ask the GPU."""
    return Call(function, arguments, convert)


def system(convert: Callable[[object], T], function: str, *arguments: object) -> Call[T]:
    """Ask without the GPU's handle."""
    return Call(function, arguments, convert, system=True)


def fill(convert: Callable[[object], T], function: str, structure: str) -> Call[T]:
    """Ask the GPU to fill a structure of this type."""
    made = nvml.structure(structure)
    if made is None:
        return Call(None, (), convert)
    return Call(function, (ctypes.byref(made),), lambda _: convert(made))


@dataclass(frozen=True, slots=True)
class Field:
    """A field value: its constant in nvidia-ml-py (NVML_FI_…), and its scope."""

    name: str
    scope: int = 0
    """Number of the link for NVLink fields, else 0: the GPU."""


class GpuReader:
    """One operation's view of one GPU. For one thread."""

    def __init__(self, device: Device, course: _Course | None = None) -> None:
        self.device = device
        self.unread: dict[str, str] = {}
        """Path → reason, so far."""
        self._course = course or _Course()

    def apart(self) -> GpuReader:
        """A reader with reasons of its own, for the same operation."""
        return GpuReader(self.device, self._course)

    def get(self, paths: str | Sequence[str], *ways: Call[T]) -> T | None:
        """The answer of the first way that the driver knows; None with the reason under every path."""
        try:
            return self._ask(ways)
        except _Unanswered as unanswered:
            self.note(paths, unanswered.reason)
            return None

    def fact(self, paths: str | Sequence[str], *ways: Call[T]) -> T | None:
        """As `get`, but asked once; that it cannot be answered is kept too."""

        def ask() -> T | _Never:
            try:
                return self._ask(ways)
            except _Unanswered as unanswered:
                if lasting(unanswered.reason):
                    return _Never(unanswered.reason)
                raise

        try:
            answer = self.device.once(paths if isinstance(paths, str) else paths[0], ask)
        except _Unanswered as unanswered:
            self.note(paths, unanswered.reason)
            return None
        if isinstance(answer, _Never):
            self.note(paths, answer.reason)
            return None
        return answer

    def fields(self, asked: Mapping[str, Field]) -> dict[str, int]:
        """Many field values in one call: path → value, for those that were answered."""
        values, reasons = self._fields(asked)
        self.unread.update(reasons)
        return values

    def field_facts(self, fact: str, asked: Mapping[str, Field]) -> Mapping[str, int]:
        """As `fields`, but asked until each was answered or cannot be; `fact` names the group."""

        def ask() -> _FieldAnswers:
            answers = self._fields(asked)
            if not all(map(lasting, answers[1].values())):
                raise _Passing(answers)
            return answers

        try:
            values, reasons = self.device.once(fact, ask)
        except _Passing as passing:
            values, reasons = passing.answers
        self.unread.update(reasons)
        return values

    def note(self, paths: str | Sequence[str], reason: str) -> None:
        """Say why there is no value under `paths`."""
        self.unread.update(dict.fromkeys((paths,) if isinstance(paths, str) else paths, reason))

    def _fields(self, asked: Mapping[str, Field]) -> _FieldAnswers:
        values: dict[str, int] = {}
        reasons: dict[str, str] = {}
        known: dict[str, tuple[int, int]] = {}
        for path, field in asked.items():
            number = nvml.number(field.name)
            if number is None:
                reasons[path] = OLD_LIBRARY
            else:
                known[path] = (number, field.scope)
        if not known:
            return values, reasons
        try:
            entries = self._ask([call(nvml.items, "nvmlDeviceGetFieldValues", list(known.values()))])
        except _Unanswered as unanswered:
            return values, reasons | dict.fromkeys(known, unanswered.reason)
        for path, entry in zip(known, entries, strict=True):
            code = nvml.member(entry, "nvmlReturn")
            value = nvml.field_value(entry) if code == 0 else None
            if value is not None:
                values[path] = value
            elif code == 0:
                reasons[path] = EMPTY
            elif code == nvml.INVALID_ARGUMENT:
                # So a driver answers for a field that is newer than itself (seen on 580 for ids from 289).
                reasons[path] = OLD_DRIVER
            elif code in GONE:
                raise DeviceGone(code, "", nvml.error_text(code), "nvmlDeviceGetFieldValues")
            else:
                reasons[path] = self._reason(code)
        return values, reasons

    def _ask(self, ways: Sequence[Call[T]]) -> T:
        if self._course.timed_out:
            raise _Unanswered(AFTER_TIMEOUT)
        failed = _Unanswered(OLD_LIBRARY)
        for way in ways:
            if way.function is None:
                continue
            ask = self.device.system if way.system else self.device.call
            try:
                return way.convert(ask(way.function, *way.arguments))
            except NvmlError as error:
                failed = _Unanswered(self._reason(error.code))
                if error.code not in _OTHER_WAY:
                    break
            except UnicodeDecodeError:
                # nvidia-ml-py decodes for us; what a sick GPU puts there need not be a text.
                failed = _Unanswered(GARBLED)
                break
        raise failed

    def _reason(self, code: int) -> str:
        if code == nvml.TIMEOUT:
            self._course.timed_out = True
        return _REASONS.get(code) or nvml.error_text(code)


_FieldAnswers = tuple[dict[str, int], dict[str, str]]
"""Path → value, and path → reason for the others."""


@dataclass(slots=True)
class _Course:
    """How an operation goes, for all its readers."""

    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class _Never:
    """A fact that cannot be known, in its place."""

    reason: str


class _Unanswered(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Passing(Exception):
    def __init__(self, answers: _FieldAnswers) -> None:
        super().__init__()
        self.answers = answers
