"""Finds a function of the running kernel in its BTF, by name and parameters.

A program attaches to a function by the number of its type. Numbers are not written down in BTF, they count
the types: the whole of it is walked, which takes 0.1 s. Source: Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from probes.bpf.btf import FIXED_TAIL, HEADER, MAGIC, TAIL_PER_ENTRY, TYPE, Kind
from probes.bpf.kernel_structs import VMLINUX

_PARAMETER = struct.Struct("<II")
_KINDS = {kind.value: kind for kind in Kind}


class KernelFunctions:
    """The functions of one kernel, while they are asked about."""

    def __init__(self, data: bytes) -> None:
        """The content of a BTF file. Raises ValueError when it is none."""
        try:
            magic, _, _, header, types_at, types_bytes, strings_at, strings_bytes = HEADER.unpack_from(data)
        except struct.error as error:
            raise ValueError("too short to be BTF") from error
        if magic != MAGIC:
            raise ValueError("not BTF")
        self._data = data
        self._types = range(header + types_at, header + types_at + types_bytes)
        self._strings = range(header + strings_at, header + strings_at + strings_bytes)

    def number(self, name: str, parameters: Sequence[str]) -> int | None:
        """The number of the function of this name whose parameters have these names; None without one.

        Another list of parameters is another function: a program that reads arguments by their place
        would read others.
        """
        text = b"\0" + name.encode("ascii") + b"\0"
        found = self._data.find(text, self._strings.start, self._strings.stop)
        if found < 0:
            return None
        wanted = found + 1 - self._strings.start
        for number, at, kind in self._walk():
            if kind is Kind.FUNCTION and self._word(at) == wanted:
                return number if self._parameters(self._word(at + 8)) == list(parameters) else None
        return None

    def _parameters(self, prototype: int) -> list[str] | None:
        for number, at, kind in self._walk():
            if number == prototype and kind is Kind.PROTOTYPE:
                count = self._word(at + 4) & 0xFFFF
                begin = at + TYPE.size
                return [
                    self._string(self._word(each))
                    for each in range(begin, begin + count * _PARAMETER.size, _PARAMETER.size)
                ]
        return None

    def _walk(self) -> Iterator[tuple[int, int, Kind]]:
        """Number, place and kind of each type. Ends early where the bytes make no sense."""
        at, number = self._types.start, 0
        last = min(self._types.stop, len(self._data)) - TYPE.size
        while at <= last:
            number += 1
            _, info, _ = TYPE.unpack_from(self._data, at)
            kind = _KINDS.get(info >> 24 & 31)
            if kind is None:
                return
            yield number, at, kind
            at += TYPE.size + FIXED_TAIL.get(kind, 0) + TAIL_PER_ENTRY.get(kind, 0) * (info & 0xFFFF)

    def _word(self, at: int) -> int:
        return int.from_bytes(self._data[at : at + 4], "little")

    def _string(self, offset: int) -> str:
        begin = self._strings.start + offset
        end = self._data.find(b"\0", begin, self._strings.stop)
        return self._data[begin:end].decode("ascii", "replace") if end >= 0 else ""


def number(name: str, parameters: Sequence[str], path: Path = VMLINUX) -> int | None:
    """The number of a function of the running kernel; None where the kernel does not describe it."""
    try:
        return KernelFunctions(path.read_bytes()).number(name, parameters)
    except (OSError, ValueError):
        return None
