"""One record of the driver's tracepoints: the Python side of `struct driver_report` in driver.h."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum

from probes.bpf.printed import ForeignLayout

LAYOUT = 1
"""DRIVER_LAYOUT"""
_REPORT = struct.Struct("=HHIQQIiiI16s24s936s")
_FUNCTION = re.compile(r"\.[0-9a-f]$")


class Kind(IntEnum):
    """enum driver_kind"""

    XID = 1
    SXID = 2


@dataclass(frozen=True, slots=True)
class DriverReport:
    """A call of nvidia:nvidia_dev_xid or nvswitch:nvswitch_dev_sxid."""

    kind: Kind
    code: int
    device: str
    """PCI address with its function, as the kernel names the device: `0000:91:00.0`; "" if it is unknown."""
    message: str
    """The log line's text behind the code: without pid, name and MIG instance, which are added there only."""
    monotonic_us: int
    """CLOCK_MONOTONIC in µs when the driver called."""
    cpu: int
    task: str
    """The task that was running; not the culprit."""
    cgroup_id: int
    cut: bool
    """True when the message is as long as the record has room for, or longer."""

    @property
    def line(self) -> str:
        """The line that the driver writes to the kernel log of it, as far as the tracepoint tells.

        The number of the NVSwitch, too, is in the log only.
        """
        if self.kind is Kind.SXID:
            return f"nvidia-nvswitch: SXid (PCI:{self.device}): {self.code:05d}, {self.message}"
        without_function = _FUNCTION.sub("", self.device)
        return f"NVRM: Xid (PCI:{without_function}): {self.code}, {self.message}"


def decode(record: bytes) -> DriverReport:
    """The report in a record. Raises ForeignLayout."""
    if len(record) < _REPORT.size:
        raise ForeignLayout(f"a report of {len(record)} bytes, not {_REPORT.size}")
    layout, kind, cpu, monotonic_ns, cgroup_id, code, device_len, text_len, _, task, device, text = (
        _REPORT.unpack_from(record)
    )
    if layout != LAYOUT or kind not in tuple(Kind):
        raise ForeignLayout(f"reports of layout {layout} and kind {kind}, not {LAYOUT}")
    return DriverReport(
        kind=Kind(kind),
        code=code,
        device=_string(device, device_len),
        message=_string(text, text_len).rstrip("\n"),
        monotonic_us=monotonic_ns // 1000,
        cpu=cpu,
        task=_string(task, len(task)),
        cgroup_id=cgroup_id,
        cut=text_len >= len(text),
    )


def _string(field: bytes, length: int) -> str:
    """A NUL-terminated string of `length` bytes; "" when it could not be read."""
    return field[: max(length, 0)].partition(b"\0")[0].decode("utf-8", "replace")
