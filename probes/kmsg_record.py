r"""One record of /dev/kmsg: `PRI,SEQ,USEC,FLAGS[,caller=…];TEXT\n[ KEY=value\n]…`.

`parse` never raises: bytes that are not a record give None. The kernel prints every byte of the
text that is not printable ASCII, and the backslash itself, as `\xNN`; both text and dictionary
come back decoded, as UTF-8 with U+FFFD for what is not. Further header fields that a newer kernel
may add are ignored, as Documentation/ABI/testing/dev-kmsg asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

# 15 digits: 31 years of µs, and still exact as a JSON number. No kernel gets there, garbage does.
_HEADER = re.compile(rb"(\d{1,4}),(\d{1,15}),(\d{1,15})(?:,([^,;\n]*)((?:,[^,;\n]*)*))?;")
_ESCAPE = re.compile(rb"\\x([0-9A-Fa-f]{2})")
_CALLER = b",caller="


@dataclass(frozen=True, slots=True)
class Record:
    """A parsed record."""

    facility: int
    """syslog facility; 0 is the kernel itself, which no process can claim."""
    level: int
    """syslog level, 0 (emergency) to 7 (debug)."""
    seq: int
    """Sequence number: grows by one with every record of this boot."""
    kernel_us: int
    """Kernel time in µs since boot (`local_clock()`)."""
    flags: str
    """`-`, or `c` for a KERN_CONT fragment; "" when the header has no such field."""
    caller: str | None
    """`T123` (thread) or `C0` (CPU) that printed it; None without CONFIG_PRINTK_CALLER."""
    text: str
    """The message, without its trailing newline."""
    dictionary: Mapping[str, str] = field(default_factory=dict)
    """`SUBSYSTEM`, `DEVICE` and the like, from device drivers; mostly empty."""


def sequence_number(data: bytes) -> int | None:
    """The sequence number alone, for a record nobody needs; None when `parse` would give None."""
    header = _HEADER.match(data)
    return int(header[2]) if header else None


def kernel_time(data: bytes) -> int | None:
    """The kernel time in µs alone; None when `parse` would give None."""
    header = _HEADER.match(data)
    return int(header[3]) if header else None


def parse(data: bytes) -> Record | None:
    """The record that one read of /dev/kmsg gave, or None when it is none."""
    header = _HEADER.match(data)
    if header is None:
        return None
    priority = int(header[1])
    # Only dictionary lines begin with a blank; a newline within the text is escaped.
    text, _, dictionary = data[header.end() :].partition(b"\n ")
    return Record(
        facility=priority >> 3,
        level=priority & 7,
        seq=int(header[2]),
        kernel_us=int(header[3]),
        flags=_decode(header[4] or b""),
        caller=_caller(header[5] or b""),
        text=_decode(text.removesuffix(b"\n")),
        dictionary=_dictionary(dictionary) if dictionary else {},
    )


def _caller(fields: bytes) -> str | None:
    _, found, rest = fields.partition(_CALLER)
    return _decode(rest.partition(b",")[0]) if found else None


def _dictionary(data: bytes) -> dict[str, str]:
    pairs = (line.partition(b"=") for line in data.removesuffix(b"\n").split(b"\n "))
    return {_decode(key): _decode(value) for key, found, value in pairs if found}


def _decode(data: bytes) -> str:
    if b"\\x" in data:
        data = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode("ascii")), data)
    return data.decode("utf-8", "replace")
