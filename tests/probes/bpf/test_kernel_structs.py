"""Where members lie, in the BTF of this kernel and in some that were made up."""

from __future__ import annotations

import struct
import subprocess

import pytest

from probes.bpf.kernel_structs import VMLINUX, KernelStructs
from probes.bpf.tracker_load import Members, members

STRINGS = b"\0task\0pid\0comm\0bits\0ids\0memory_id\0"
HEADER = struct.Struct("<HBBIIIII")
STRUCT, ENUM, WITH_BITFIELDS = 4 << 24, 6 << 24, 1 << 31


def at(name: bytes) -> int:
    return STRINGS.index(b"\0" + name + b"\0") + 1


def word(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def btf(*types: bytes) -> bytes:
    body = b"".join(types)
    return HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(body), len(body), len(STRINGS)) + body + STRINGS


TASK = word(at(b"task"), STRUCT | 2, 24, at(b"pid"), 1, 32, at(b"comm"), 1, 64)


def test_a_member_is_found_at_its_byte() -> None:
    structs = KernelStructs(btf(TASK))
    assert structs.offset("task", "pid") == 4
    assert structs.offset("task", "comm") == 8


def test_a_member_may_have_had_another_name() -> None:
    assert KernelStructs(btf(TASK)).offset("task", "no_such", "comm") == 8


def test_what_is_not_there_is_none() -> None:
    structs = KernelStructs(btf(TASK))
    assert structs.offset("task", "no_such") is None
    assert structs.offset("no_such", "pid") is None
    assert structs.enumerator("task", "pid") is None


def test_a_bit_field_has_no_byte_offset() -> None:
    task = word(at(b"task"), WITH_BITFIELDS | STRUCT | 2, 8, at(b"bits"), 1, 3 << 24, at(b"pid"), 1, 32)
    structs = KernelStructs(btf(task))
    assert structs.offset("task", "bits") is None
    assert structs.offset("task", "pid") == 4


def test_a_number_that_only_looks_like_the_name_is_passed_over() -> None:
    decoy = word(0, 3 << 24, 0, 1, at(b"task"), STRUCT)  # an array whose index type and length look so
    assert KernelStructs(btf(decoy, TASK)).offset("task", "pid") == 4


def test_an_enumerator_has_its_value() -> None:
    ids = word(at(b"ids"), ENUM | 1, 4, at(b"memory_id"), 4)
    assert KernelStructs(btf(ids)).enumerator("ids", "memory_id") == 4


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", b"\0" * 64], ids=["empty", "cut", "no magic"])
def test_what_is_no_btf_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="BTF"):
        KernelStructs(data)


def test_a_record_that_reaches_beyond_the_end_gives_nothing() -> None:
    assert KernelStructs(btf(TASK[:-4])).offset("task", "comm") is None


def test_offsets_in_this_kernel_are_those_that_bpftool_shows() -> None:
    if not VMLINUX.exists():
        pytest.skip("the kernel does not describe its types")
    try:
        listing = subprocess.run(
            ["bpftool", "btf", "dump", "file", VMLINUX, "format", "raw"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"bpftool cannot show them: {error}")
    begin = listing.index("STRUCT 'signal_struct'")
    shown = listing[begin : listing.index("\n[", begin)]
    structs = KernelStructs(VMLINUX.read_bytes())
    for name in ("live", "flags", "group_exit_code"):
        bits = next(line for line in shown.splitlines() if f"'{name}' " in line).rpartition("bits_offset=")[2]
        assert structs.offset("signal_struct", name) == int(bits) // 8


def test_a_kernel_without_btf_leaves_all_unknown() -> None:
    known = members(VMLINUX / "no_such")
    assert known == Members(known.known, [0] * 24)
    assert not known.known
    assert len(known.packed()) == 100
