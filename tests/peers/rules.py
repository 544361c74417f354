"""How other projects find the Xid in a line of the kernel log, told anew from what their sources do.

Each rule gives the code and the device that the project would report for one message, and nothing else of it:
what a project reads from NVML, from other lines or with other programs is not judged here. The rules were
written after the commits named; none of their code is in here.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_HEX: Final = frozenset(string.hexdigits)
_DIGITS: Final = frozenset(string.digits)


@dataclass(frozen=True, slots=True)
class Read:
    """What a rule read."""

    code: int
    device: str
    """As it stands in the line."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One project's way."""

    project: str
    source: str
    """File and commit."""
    says: str
    """The rule in words."""
    read: Callable[[str], Read | None]


def _gpud(message: str) -> Read | None:
    for rest in _behind(message, "NVRM: Xid ("):
        inside, closed, after = rest.partition(")")
        device = inside.removeprefix("PCI:")
        if not closed or not device or not set(device) <= _HEX | {":"}:
            continue
        for number in _behind(after.partition("\n")[0], ": "):
            digits = _leading(number)
            if digits and number[len(digits) :].startswith(","):
                return Read(int(digits), device)
    return None


def _k8s_gpu_mcp(message: str) -> Read | None:
    if "NVRM" not in message:
        return None
    for rest in _behind(message, "Xid (PCI:"):
        device, closed, after = rest.partition("):")
        digits = _leading(after.lstrip())
        if closed and device and set(device) <= _HEX | {":", "."} and digits:
            return Read(int(digits), device)
    return None


def _nvsentinel(message: str) -> Read | None:
    for rest in _behind(message, "NVRM: Xid (PCI:"):
        device, closed, after = rest.partition("): ")
        digits = _leading(after)
        if closed and device and set(device) <= _HEX | {":", "."} and digits:
            return Read(int(digits), device)
    return None


def _behind(text: str, mark: str) -> list[str]:
    """What follows each place where the mark stands."""
    pieces = text.split(mark)
    return [mark.join(pieces[number:]) for number in range(1, len(pieces))]


def _leading(text: str) -> str:
    """The decimal digits that a text begins with."""
    return text[: next((at for at, each in enumerate(text) if each not in _DIGITS), len(text))]


RULES: Final = (
    Rule(
        "gpud",
        "components/accelerator/nvidia/xid/kmsg.go at 4a8de33 (August 2026)",
        "behind `NVRM: Xid (` hexadecimal digits and colons, with or without `PCI:`, then the first number "
        "between a colon and a comma",
        _gpud,
    ),
    Rule(
        "NVSentinel",
        "health-monitors/syslog-health-monitor/pkg/xid/parser/csv.go at 82c8777",
        "behind `NVRM: Xid (PCI:` hexadecimal digits, colons and dots, then the number behind `): `",
        _nvsentinel,
    ),
    Rule(
        "k8s-gpu-mcp-server",
        "pkg/xid/parser.go at c3903d1 (January 2026)",
        "`NVRM` anywhere; behind `Xid (PCI:` hexadecimal digits, colons and dots, then the number "
        "behind `):`",
        _k8s_gpu_mcp,
    ),
)
