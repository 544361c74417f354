"""Which events a reader wants: the same four conditions on every way out.

All given conditions must hold; within one, any value may match. `severity` means *at least*. Values
may repeat or hold commas; empty ones are ignored, so that an empty field of a form filters nothing.

An index passes from one GPU to another, and an event keeps the one of its time. So an index means the GPU
that has it when the question is asked (`with_devices`); only where none is known to have it, the events
that named it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon import pci
from daemon.event import Event, Kind, Severity
from probes.errors import UserError

MAX_CODE = 2**32 - 1
MAX_VALUES = 1000
"""Values of one condition; more is no sensible question."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID_PREFIX = "gpu-"


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A set of conditions; an empty set of values means any. Made by `parse`."""

    min_severity: Severity = Severity.INFO
    codes: frozenset[int] = frozenset()
    """Xid and SXid numbers."""
    kinds: frozenset[Kind] = frozenset()
    gpus: frozenset[int | str] = frozenset()
    """Devices: an NVML index as int; as str a normalized PCI address (of an NVSwitch, too) or a
    `uuid_key`."""

    @classmethod
    def parse(
        cls,
        severity: str | None = None,
        code: Sequence[str] = (),
        kind: Sequence[str] = (),
        gpu: Sequence[str] = (),
    ) -> EventFilter:
        """The filter for values as a user wrote them. Raises UserError naming the valid choices."""
        return cls(
            min_severity=_severity(severity) if severity and severity.strip() else Severity.INFO,
            codes=frozenset(_code(value) for value in _values("code", code)),
            kinds=frozenset(_kind(value) for value in _values("kind", kind)),
            gpus=frozenset(_gpu(value) for value in _values("gpu", gpu)),
        )

    @property
    def indices(self) -> frozenset[int]:
        """NVML indices that are not resolved to a device."""
        return frozenset(gpu for gpu in self.gpus if isinstance(gpu, int))

    def with_devices(self, devices: Mapping[int, str]) -> EventFilter:
        """The filter with the PCI address of the GPU for each index that one has now: `devices` tells."""
        if not self.indices & devices.keys():
            return self
        gpus = (devices.get(gpu, gpu) if isinstance(gpu, int) else gpu for gpu in self.gpus)
        return replace(self, gpus=frozenset(gpus))

    def matches(self, event: Event) -> bool:
        """True when the event fulfils every condition."""
        if self is EVERYTHING:
            return True
        return (
            event.severity.rank >= self.min_severity.rank
            and (not self.codes or event.code in self.codes)
            and (not self.kinds or event.kind in self.kinds)
            and (not self.gpus or self._is_about(event))
        )

    def _is_about(self, event: Event) -> bool:
        if event.device in self.gpus:
            return True
        gpu = event.gpu
        return gpu is not None and (gpu.index in self.gpus or uuid_key(gpu.uuid) in self.gpus)


EVERYTHING = EventFilter()
"""The filter that lets every event through."""


def uuid_key(uuid: str | None) -> str | None:
    """A GPU's UUID in the form in which it is compared: lower case, without `GPU-`."""
    return None if uuid is None else uuid.lower().removeprefix(_UUID_PREFIX)


def _values(name: str, given: Sequence[str]) -> Iterator[str]:
    values = [part.strip() for text in given for part in text.split(",") if part.strip()]
    if len(values) > MAX_VALUES:
        raise UserError(f"too many values for {name}", hint=f"give at most {MAX_VALUES}")
    return iter(values)


def _severity(text: str) -> Severity:
    try:
        return Severity(text.strip().lower())
    except ValueError:
        choices = ", ".join(Severity)
        raise UserError(f"unknown severity {_shown(text)}", hint=f"use one of: {choices}") from None


def _kind(text: str) -> Kind:
    try:
        return Kind(text.lower())
    except ValueError:
        raise UserError(f"unknown kind {_shown(text)}", hint=f"use one of: {', '.join(Kind)}") from None


def _code(text: str) -> int:
    # Checked before int(): it takes "1_0" and other scripts' digits, and 5,000 digits raise.
    significant = text.lstrip("0")
    if text.isascii() and text.isdigit() and len(significant) <= 10 and int(significant or "0") <= MAX_CODE:
        return int(significant or "0")
    raise UserError(
        f"code {_shown(text)} is not an Xid or SXid number",
        hint=f"give a decimal number from 0 to {MAX_CODE}",
    )


def _gpu(text: str) -> int | str:
    if text.isascii() and text.isdigit() and len(text) <= 4:
        return int(text)
    lower = text.lower()
    if lower.startswith(_UUID_PREFIX) and len(lower) > len(_UUID_PREFIX):
        return lower.removeprefix(_UUID_PREFIX)
    if _UUID.fullmatch(lower):
        return lower
    address = pci.normalize(text)
    if address is None:
        raise UserError(
            f"{_shown(text)} names no GPU",
            hint="give an index (0), a UUID (GPU-…) or a PCI address (0000:91:00.0)",
        )
    return address


def _shown(text: str) -> str:
    """What the user wrote, quoted, escaped and cut."""
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")
