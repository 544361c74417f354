from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.bpf import elf
from probes.bpf.btf import MapDefinition
from probes.bpf.native import OBJECT
from probes.bpf.object_error import ObjectError

BLOB = OBJECT.read_bytes()
RINGBUF, PERCPU_ARRAY = 27, 6  # enum bpf_map_type


def test_the_object_of_this_package_tells_its_program_license_and_maps() -> None:
    found = elf.read(BLOB)
    assert found.license == b"Dual BSD/GPL\0"
    assert list(found.programs) == ["raw_tp/console"]
    assert found.maps == {
        "lines": MapDefinition("lines", RINGBUF, 512 * 1024, 0, 0),
        "counts": MapDefinition("counts", PERCPU_ARRAY, 1, 4, 32),
    }


def test_binding_puts_descriptors_where_the_program_names_a_map_and_changes_nothing_else() -> None:
    program = elf.read(BLOB).programs["raw_tp/console"]
    assert {relocation.map_name for relocation in program.relocations} == {"lines", "counts"}
    bound = bytearray(program.bound_to({"lines": 1234, "counts": 5678}))
    for relocation in program.relocations:
        code, registers, _, value = struct.unpack_from("<BBhi", bound, relocation.offset)
        assert code == 0x18  # a 64-bit load …
        assert registers >> 4 == 1  # … of a map's descriptor
        assert value == {"lines": 1234, "counts": 5678}[relocation.map_name]
        original = slice(relocation.offset, relocation.offset + 8)
        bound[original] = program.instructions[original]
    assert bytes(bound) == program.instructions


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"", "not a 64-bit little-endian ELF file"),
        (b"\x7fELF\x02\x02" + BLOB[6:], "not a 64-bit little-endian ELF file"),
        (BLOB[:18] + b"\x3e\0" + BLOB[20:], "not an ELF file for BPF"),
        (BLOB.replace(b".maps\0", b".mapz\0"), "lacks a license, maps"),
        (BLOB.replace(b"\0counts\0", b"\0countz\0", 1), "which is no map"),
        (BLOB[: len(BLOB) // 2], "damaged BPF object"),
    ],
    ids=["empty", "big-endian", "x86", "no maps", "unknown map", "half"],
)
def test_what_is_no_object_of_ours_is_said_to_be_so(blob: bytes, words: str) -> None:
    with pytest.raises(ObjectError, match=words):
        elf.read(blob)


def test_the_file_may_end_anywhere() -> None:
    for end in range(0, len(BLOB), 7):
        with pytest.raises(ObjectError):
            elf.read(BLOB[:end])


@given(st.lists(st.tuples(st.integers(0, len(BLOB) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_found_or_harmless_but_never_another_error(changes: list[tuple[int, int]]) -> None:
    blob = bytearray(BLOB)
    for at, byte in changes:
        blob[at] = byte
    try:
        elf.read(bytes(blob))
    except ObjectError as error:
        assert str(error)
