"""Reads the map definitions of a BPF object out of its own BTF.

libbpf's way of declaring a map: a variable in the data section `.maps`, of a struct whose members
carry numbers in their types. `__uint(max_entries, 8)` is a pointer to an array of eight, and
`__type(key, __u32)` a pointer to that type. Source: Documentation/bpf/btf.rst, bpf_helpers.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from probes.bpf.object_error import ObjectError

MAGIC = 0xEB9F
HEADER = struct.Struct("<HBBIIIII")
TYPE = struct.Struct("<III")
_ARRAY = struct.Struct("<III")
MEMBER = struct.Struct("<III")
_IN_SECTION = struct.Struct("<III")
_LONGEST_CHAIN = 16  # typedefs and qualifiers of one type; a damaged object may go in circles


class Kind(IntEnum):
    """BTF_KIND_…"""

    INT = 1
    POINTER = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FORWARD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNCTION = 12
    PROTOTYPE = 13
    VARIABLE = 14
    DATA_SECTION = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


FIXED_TAIL = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VARIABLE: 4, Kind.DECL_TAG: 4}
TAIL_PER_ENTRY = {
    Kind.STRUCT: 12,
    Kind.UNION: 12,
    Kind.ENUM: 8,
    Kind.PROTOTYPE: 8,
    Kind.DATA_SECTION: 12,
    Kind.ENUM64: 12,
}
_SIZED = {Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.FLOAT, Kind.ENUM64}
_ANOTHER_NAME = {Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG}


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """A map as the program declares it; 0 where it says nothing."""

    name: str
    kind: int
    """BPF_MAP_TYPE_…"""
    max_entries: int
    """Of a ring buffer: its size in bytes."""
    key_bytes: int
    value_bytes: int


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: Kind
    size_or_type: int
    """Size in bytes, or the number of the type this one is about."""
    tail: bytes


def string(table: bytes, offset: int) -> str:
    """The NUL-terminated string at `offset`. Raises IndexError beyond the table."""
    end = table.find(b"\0", offset)
    if end < 0:
        raise IndexError("a name reaches beyond its table")
    return table[offset:end].decode("ascii")


def map_definitions(data: bytes) -> Mapping[str, MapDefinition]:
    """Every map in `.maps`, by name, from the content of a `.BTF` section.

    Raises ObjectError, struct.error or IndexError when the bytes make no sense.
    """
    types = [_Type("void", Kind.INT, 0, b""), *_types(data)]
    maps: dict[str, MapDefinition] = {}
    for section in types:
        if section.kind is not Kind.DATA_SECTION or section.name != ".maps":
            continue
        for number, _, _ in _IN_SECTION.iter_unpack(section.tail):
            variable = types[number]
            maps[variable.name] = _definition(data, types, variable)
    return maps


def _types(data: bytes) -> Iterator[_Type]:
    magic, _, _, header, types_at, types_bytes, _, _ = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ObjectError("the description of the maps is no BTF")
    at, end = header + types_at, header + types_at + types_bytes
    while at < end:
        name, info, size_or_type = TYPE.unpack_from(data, at)
        at += TYPE.size
        try:
            kind = Kind(info >> 24 & 31)
        except ValueError as error:
            raise ObjectError(f"unknown BTF: {error}") from error
        tail = FIXED_TAIL.get(kind, 0) + TAIL_PER_ENTRY.get(kind, 0) * (info & 0xFFFF)
        yield _Type(_name(data, name), kind, size_or_type, data[at : at + tail])
        at += tail


def _name(data: bytes, offset: int) -> str:
    _, _, _, header, _, _, strings_at, _ = HEADER.unpack_from(data)
    return string(data, header + strings_at + offset)


def _definition(data: bytes, types: list[_Type], variable: _Type) -> MapDefinition:
    if variable.kind is not Kind.VARIABLE:
        raise ObjectError(".maps holds something that is no variable")
    described = _resolve(types, variable.size_or_type)
    numbers: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name, number, _ in MEMBER.iter_unpack(described.tail):
        pointer = _resolve(types, number)
        if described.kind is not Kind.STRUCT or pointer.kind is not Kind.POINTER:
            raise ObjectError(f"the map {variable.name} is not declared as libbpf does it")
        target = _resolve(types, pointer.size_or_type)
        if target.kind is Kind.ARRAY:
            numbers[_name(data, name)] = _ARRAY.unpack(target.tail)[2]
        elif target.kind in _SIZED:
            sizes[_name(data, name)] = target.size_or_type
    return MapDefinition(
        name=variable.name,
        kind=numbers.get("type", 0),
        max_entries=numbers.get("max_entries", 0),
        key_bytes=numbers.get("key_size", sizes.get("key", 0)),
        value_bytes=numbers.get("value_size", sizes.get("value", 0)),
    )


def _resolve(types: list[_Type], number: int) -> _Type:
    """The type behind typedefs and qualifiers."""
    for _ in range(_LONGEST_CHAIN):
        found = types[number]
        if found.kind not in _ANOTHER_NAME:
            return found
        number = found.size_or_type
    raise ObjectError("a BTF type goes in circles")
