"""Reads a BPF object file as clang writes it: sections, relocations, programs and maps.

Only what a tracing program of one function a section needs: 64-bit little-endian ELF, relocations
that name a map (R_BPF_64_64), maps declared in `.maps` and described by the object's own BTF. Whatever
else is found, and every byte that does not make sense, is an `ObjectError`; nothing else is raised.
Source: elf(5), Documentation/bpf/llvm_reloc.rst, Documentation/bpf/libbpf/libbpf_overview.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probes.bpf import btf
from probes.bpf.btf import MapDefinition
from probes.bpf.object_error import ObjectError

_IDENT = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_MACHINE_BPF = 247
_SECTIONS_AT = struct.Struct("<16xHH4x8x8xQ4x2x2x2xHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_SHT_SYMTAB, _SHT_NOBITS, _SHT_REL = 2, 8, 9
_SHF_EXECINSTR = 4
_R_BPF_64_64 = 1
_INSTRUCTION_BYTES = 8
_LOAD_64 = 0x18  # BPF_LD | BPF_DW | BPF_IMM: two instructions that load 64 bits
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD: the value is a map's descriptor


@dataclass(frozen=True, slots=True)
class Relocation:
    """A place in a program where a map's descriptor belongs."""

    offset: int
    """Byte offset of the instruction within the program."""
    map_name: str


@dataclass(frozen=True, slots=True)
class Program:
    """One program: the whole of an executable section."""

    section: str
    """Where it attaches, in libbpf's words: `raw_tp/console`."""
    instructions: bytes
    relocations: Sequence[Relocation]

    def bound_to(self, maps: Mapping[str, int]) -> bytes:
        """The instructions with the descriptors of `maps` (by name) in them, as bpf(2) takes them."""
        code = bytearray(self.instructions)
        for relocation in self.relocations:
            at = relocation.offset
            code[at + 1] = code[at + 1] & 0x0F | _MAP_FD << 4
            struct.pack_into("<i", code, at + 4, maps[relocation.map_name])
        return bytes(code)


@dataclass(frozen=True, slots=True)
class BpfObject:
    """What a loader needs of an object file."""

    license: bytes
    """As the program declares it, with its NUL: decides which helpers the kernel grants."""
    programs: Mapping[str, Program]
    """By section."""
    maps: Mapping[str, MapDefinition]
    """By name."""


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    executable: bool
    data: bytes
    link: int
    info: int


def read(blob: bytes) -> BpfObject:
    """The object in these bytes. Raises ObjectError."""
    try:
        return _read(blob)
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise ObjectError(f"damaged BPF object: {error}") from error


def _read(blob: bytes) -> BpfObject:
    sections = _sections(blob)
    by_name = {section.name: section for section in sections}
    if not {"license", ".BTF", ".maps"} <= by_name.keys():
        raise ObjectError("not a BPF object of ours: it lacks a license, maps or their description")
    maps = btf.map_definitions(by_name[".BTF"].data)
    relocations = _relocations(sections, maps)
    programs = {
        section.name: _program(section, relocations.get(index, ()))
        for index, section in enumerate(sections)
        if section.executable and section.data
    }
    return BpfObject(by_name["license"].data, programs, maps)


def _sections(blob: bytes) -> list[_Section]:
    if not blob.startswith(_IDENT):
        raise ObjectError("not a 64-bit little-endian ELF file")
    _, machine, table, size, count, names_at = _SECTIONS_AT.unpack_from(blob)
    if machine != _MACHINE_BPF or size != _SECTION.size:
        raise ObjectError("not an ELF file for BPF")
    headers = [_SECTION.unpack_from(blob, table + index * size) for index in range(count)]

    def data(header: tuple[int, ...]) -> bytes:
        _, kind, _, _, offset, length, *_ = header
        if kind == _SHT_NOBITS:
            return b""
        if offset + length > len(blob):
            raise ObjectError("a section reaches beyond the end of the file")
        return blob[offset : offset + length]

    names = data(headers[names_at])
    return [
        _Section(
            name=btf.string(names, header[0]),
            kind=header[1],
            executable=bool(header[2] & _SHF_EXECINSTR),
            data=data(header),
            link=header[6],
            info=header[7],
        )
        for header in headers
    ]


def _relocations(
    sections: Sequence[_Section], maps: Mapping[str, MapDefinition]
) -> dict[int, list[Relocation]]:
    """By the index of the executable section they belong to."""
    found: dict[int, list[Relocation]] = {}
    for section in sections:
        if section.kind != _SHT_REL or not sections[section.info].executable:
            continue
        symbols = sections[section.link]
        if symbols.kind != _SHT_SYMTAB:
            raise ObjectError(f"{section.name} names no symbol table")
        names = sections[symbols.link].data
        for offset, info in _RELOCATION.iter_unpack(section.data):
            symbol, kind = info >> 32, info & 0xFFFFFFFF
            name = btf.string(names, _SYMBOL.unpack_from(symbols.data, symbol * _SYMBOL.size)[0])
            if kind != _R_BPF_64_64 or name not in maps:
                raise ObjectError(f"{section.name} asks for {name!r}, which is no map (relocation {kind})")
            found.setdefault(section.info, []).append(Relocation(offset, name))
    return found


def _program(section: _Section, relocations: Sequence[Relocation]) -> Program:
    code = section.data
    if len(code) % _INSTRUCTION_BYTES:
        raise ObjectError(f"{section.name} is no whole number of instructions")
    for relocation in relocations:
        at = relocation.offset
        if at % _INSTRUCTION_BYTES or at + 2 * _INSTRUCTION_BYTES > len(code) or code[at] != _LOAD_64:
            raise ObjectError(f"{section.name} wants a map where no 64-bit load is")
    return Program(section.name, code, tuple(relocations))
