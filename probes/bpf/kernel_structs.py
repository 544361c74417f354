"""Where members of the running kernel's structs lie, told by its BTF.

/sys/kernel/btf/vmlinux describes 130,000 types in 5.5 MB; to walk through them in Python takes 0.1 s.
A struct is found by its name instead: its record is the only place among the types where the number of that
name is followed by a word that says "struct", and what follows must then hold the members asked for.
Source: Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from probes.bpf.btf import HEADER, MAGIC, MEMBER, TYPE, Kind

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_WORD = 4
_ENUMERATOR = struct.Struct("<Ii")
_HAS_BITFIELDS = 1 << 31
_OFFSET = (1 << 24) - 1  # of a struct with bit fields: the bits above it are a member's size


class KernelStructs:
    """The BTF of a kernel. Holds all of it: let go when the questions are asked."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError on anything but BTF of this machine's byte order."""
        try:
            magic, _, _, header, types, types_bytes, strings, strings_bytes = HEADER.unpack_from(data)
        except struct.error as error:
            raise ValueError("too short to be BTF") from error
        if magic != MAGIC:
            raise ValueError("not BTF")
        self._data = data
        self._types = range(header + types, header + types + types_bytes)
        self._strings = range(header + strings, header + strings + strings_bytes)

    def offset(self, struct_name: str, *names: str) -> int | None:
        """Byte offset of a member, called by the first of `names` that is there: names change.

        None when there is no such struct or member; also for a bit field, and for a member of an unnamed
        struct or union inside.
        """
        for at, info in self._records(struct_name, Kind.STRUCT):
            members = self._members(at, info)
            for name in names:
                if name in members:
                    return members[name]
        return None

    def enumerator(self, enum_name: str, name: str) -> int | None:
        """The value of an enumerator; None when there is none."""
        for at, info in self._records(enum_name, Kind.ENUM):
            for number, value in self._entries(_ENUMERATOR, at, info):
                if self._string(number) == name:
                    return int(value)
        return None

    def _records(self, name: str, kind: Kind) -> Iterator[tuple[int, int]]:
        """Place and info word of each record that can be of this name and kind."""
        found = self._data.find(b"\0" + name.encode("ascii") + b"\0", self._strings.start, self._strings.stop)
        if found < 0:
            return
        number = struct.pack("<I", found + 1 - self._strings.start)
        at = self._types.start - 1
        while (at := self._data.find(number, at + 1, self._types.stop)) >= 0:
            if (at - self._types.start) % _WORD or at + TYPE.size > self._types.stop:
                continue
            _, info, _ = TYPE.unpack_from(self._data, at)
            if info >> 24 & 31 == kind:
                yield at, info

    def _entries(self, entry: struct.Struct, at: int, info: int) -> Sequence[tuple[int, ...]]:
        begin = at + TYPE.size
        end = min(begin + (info & 0xFFFF) * entry.size, self._types.stop)
        whole = begin + (end - begin) // entry.size * entry.size
        return list(entry.iter_unpack(self._data[begin:whole]))

    def _members(self, at: int, info: int) -> Mapping[str, int]:
        """Members that begin and end at a byte, by name."""
        found: dict[str, int] = {}
        for number, _, place in self._entries(MEMBER, at, info):
            is_bitfield = bool(info & _HAS_BITFIELDS) and place > _OFFSET
            if not is_bitfield and place % 8 == 0 and (name := self._string(number)):
                found[name] = place // 8
        return found

    def _string(self, number: int) -> str:
        begin = self._strings.start + number
        end = self._data.find(b"\0", begin, self._strings.stop)
        return self._data[begin:end].decode("ascii", "replace") if end >= 0 else ""
