"""The same kernel records written down in every format that a replay reads."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.support.kernel_log import escape

BOOT_ID = "11111111-2222-3333-4444-555555555555"
BOOT_HEX = BOOT_ID.replace("-", "")
BOOT_US = 1_769_079_600_000_000
"""2026-01-22T11:00:00Z: when the machine of these logs was booted."""


@dataclass(frozen=True, slots=True)
class Printed:
    """One record as the kernel printed it."""

    kernel_us: int
    text: str

    @property
    def wall_us(self) -> int:
        """Wall time, µs since the Unix epoch."""
        return BOOT_US + self.kernel_us


def _moment(record: Printed, pattern: str) -> str:
    moment = datetime.fromtimestamp(record.wall_us // 1_000_000, UTC)
    return moment.replace(microsecond=record.wall_us % 1_000_000).strftime(pattern)


def _uptime(record: Printed) -> str:
    return f"[{record.kernel_us // 1_000_000:5}.{record.kernel_us % 1_000_000:06}] "


def _indented(prefix: str, record: Printed) -> str:
    """Further lines stand under the first, as dmesg and journalctl print them."""
    return prefix + record.text.replace("\n", "\n" + " " * len(prefix)) + "\n"


def _repeated(prefix: str, record: Printed) -> str:
    """Each line of a record has the prefix, as the kernel's own text dump prints them."""
    return "".join(f"{prefix}{line}\n" for line in record.text.split("\n"))


def _kmsg(records: Sequence[Printed]) -> bytes:
    return b"".join(
        b"4,%d,%d,c;%s\n SUBSYSTEM=pci\n" % (number, record.kernel_us, escape(record.text))
        for number, record in enumerate(records, start=100)
    )


def _each(render: Callable[[Printed], str]) -> Callable[[Sequence[Printed]], bytes]:
    return lambda records: "".join(render(record) for record in records).encode()


def _dmesg_json(records: Sequence[Printed]) -> bytes:
    objects = "},{".join(
        '\n         "fac": "kern",\n         "pri": "warn",'
        f'\n         "time": {record.kernel_us / 1e6:12.6f},'
        f'\n         "msg": {json.dumps(record.text)}\n      '
        for record in records
    )
    return f'{{\n   "dmesg": [\n      {{{objects}}}\n   ]\n}}\n'.encode()


def _journal_fields(record: Printed) -> dict[str, str]:
    return {
        "__CURSOR": f"s=1;i={record.kernel_us:x}",
        "__REALTIME_TIMESTAMP": str(record.wall_us),
        "_BOOT_ID": BOOT_HEX,
        "_TRANSPORT": "kernel",
        "SYSLOG_FACILITY": "0",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "kernel",
        "_SOURCE_MONOTONIC_TIMESTAMP": str(record.kernel_us),
        "MESSAGE": record.text,
    }


def _journal_json(record: Printed) -> str:
    return json.dumps(_journal_fields(record)) + "\n"


def _journal_export(records: Sequence[Printed]) -> bytes:
    blocks = []
    for record in records:
        block = b""
        for name, value in _journal_fields(record).items():
            data = value.encode()
            if "\n" in value:
                block += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
            else:
                block += name.encode() + b"=" + data + b"\n"
        blocks.append(block)
    return b"\n".join(blocks) + b"\n"


def _pstore(records: Sequence[Printed]) -> bytes:
    return b"Panic#1 Part1\n" + _each(lambda record: _repeated(f"<4>{_uptime(record)}", record))(records)


def _dmesg_reltime(records: Sequence[Printed]) -> bytes:
    """`dmesg -e` on a log whose first record begins a minute."""
    lines = []
    before: Printed | None = None
    for record in records:
        if before is None or record.wall_us // 60_000_000 != before.wall_us // 60_000_000:
            lines.append(_indented(_moment(record, "[%b%d %H:%M] "), record))
        else:
            step = record.kernel_us - before.kernel_us
            lines.append(_indented(f"[{f'+{step // 1_000_000}':>4}.{step % 1_000_000:06}] ", record))
        before = record
    return "".join(lines).encode()


RENDERERS: Mapping[str, Callable[[Sequence[Printed]], bytes]] = {
    "kmsg": _kmsg,
    "dmesg": _each(lambda record: _indented(_uptime(record), record)),
    "dmesg with the prefix on each line": _each(lambda record: _repeated(_uptime(record), record)),
    "dmesg -x": _each(lambda record: _indented(f"kern  :warn  : {_uptime(record)}", record)),
    "dmesg -r": _each(lambda record: _repeated(f"<4>{_uptime(record)}", record)),
    "dmesg -d": _each(lambda record: _indented(f"{_uptime(record)[:-2]} <    0.000012>] ", record)),
    "dmesg with callers": _each(lambda record: _indented(f"{_uptime(record)[:-1]}[  T123] ", record)),
    "dmesg in colour": _each(lambda record: _repeated(f"\x1b[32m{_uptime(record)}\x1b[0m\x1b[33m", record)),
    "dmesg -T": _each(lambda record: _indented(_moment(record, "[%a %b %e %H:%M:%S %Y] "), record)),
    "dmesg -x -T": _each(
        lambda record: _indented(_moment(record, "kern  :warn  : [%a %b %e %H:%M:%S %Y] "), record)
    ),
    "dmesg --time-format iso": _each(
        lambda record: _indented(_moment(record, "%Y-%m-%dT%H:%M:%S,%f+00:00 "), record)
    ),
    "dmesg --json": _dmesg_json,
    "dmesg -e": _dmesg_reltime,
    "journal short": _each(
        lambda record: _indented(_moment(record, "%b %d %H:%M:%S gpu-17 kernel: "), record)
    ),
    "journal short-precise": _each(
        lambda record: _indented(_moment(record, "%b %d %H:%M:%S.%f gpu-17 kernel: "), record)
    ),
    "journal short-iso": _each(
        lambda record: _indented(_moment(record, "%Y-%m-%dT%H:%M:%S+0000 gpu-17 kernel: "), record)
    ),
    "journal short-iso-precise": _each(
        lambda record: _indented(_moment(record, "%Y-%m-%dT%H:%M:%S.%f+00:00 gpu-17 kernel: "), record)
    ),
    "journal short-full": _each(
        lambda record: _indented(_moment(record, "%a %Y-%m-%d %H:%M:%S UTC gpu-17 kernel: "), record)
    ),
    "journal short-unix": _each(
        lambda record: _indented(
            f"{record.wall_us // 1_000_000}.{record.wall_us % 1_000_000:06} gpu-17 kernel: ", record
        )
    ),
    "journal short-monotonic": _each(lambda record: _indented(f"{_uptime(record)}gpu-17 kernel: ", record)),
    "journal json": _each(_journal_json),
    "journal export": _journal_export,
    "syslog": _each(
        lambda record: (
            _moment(record, "%b %e %H:%M:%S gpu-17 kernel: ")
            + _uptime(record)
            + record.text.replace("\n", "#012")
            + "\n"
        )
    ),
    "syslog without uptime": _each(
        lambda record: (
            _moment(record, "%b %e %H:%M:%S gpu-17 kernel: ") + record.text.replace("\n", "#012") + "\n"
        )
    ),
    "syslog RFC 5424": _each(
        lambda record: (
            _moment(record, "<4>1 %Y-%m-%dT%H:%M:%S.%f+00:00 gpu-17 kernel - - - ")
            + record.text.replace("\n", "#012")
            + "\n"
        )
    ),
    "pstore": _pstore,
}
"""By name."""

NAMES_ITS_BOOT = frozenset({"journal json", "journal export"})
"""Formats that carry the kernel's own boot id and the time to the microsecond: ids are as live."""

PROVES_ORIGIN = frozenset(
    {"kmsg", "dmesg -x", "dmesg -x -T", "dmesg --json", "journal json", "journal export", "pstore"}
)
"""Formats that show that the kernel printed a line."""

HAS_WALL_TIME = frozenset(
    name for name in RENDERERS if "-T" in name or "iso" in name or "journal" in name or "syslog" in name
) - {"journal short-monotonic"}
"""Formats that carry a wall time."""
