"""Finding a function in BTF: of this kernel where it describes itself, and in bytes that are none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.bpf import kernel_functions
from probes.bpf.btf import HEADER, MAGIC
from probes.bpf.kernel_functions import KernelFunctions
from probes.bpf.kernel_structs import VMLINUX

STORE = ("facility", "level", "dev_info", "fmt", "args")


def test_a_function_is_found_only_with_the_parameters_asked_for() -> None:
    if not VMLINUX.exists():
        pytest.skip(f"{VMLINUX} is missing")
    number = kernel_functions.number("vprintk_store", STORE)
    assert number is not None
    assert number > 0
    assert kernel_functions.number("vprintk_store", STORE[:2]) is None
    assert kernel_functions.number("no_such_function_at_all", ()) is None


def function_type(name: int, prototype: int) -> bytes:
    return struct.pack("<III", name, 12 << 24, prototype)


def prototype_type(*parameters: int) -> bytes:
    head = struct.pack("<III", 0, 13 << 24 | len(parameters), 0)
    return head + b"".join(struct.pack("<II", name, 0) for name in parameters)


def btf(*types: bytes, strings: bytes) -> bytes:
    body = b"".join(types)
    return HEADER.pack(MAGIC, 1, 0, HEADER.size, 0, len(body), len(body), len(strings)) + body + strings


def test_numbers_count_the_types_from_one() -> None:
    strings = b"\0text\0size\0printk_sprint\0"
    an_integer = struct.pack("<IIII", 0, 1 << 24, 4, 32)
    blob = btf(an_integer, prototype_type(1, 6), an_integer, function_type(11, 2), strings=strings)
    assert KernelFunctions(blob).number("printk_sprint", ("text", "size")) == 4
    assert KernelFunctions(blob).number("printk_sprint", ("size", "text")) is None
    assert KernelFunctions(blob).number("sprint", ("text", "size")) is None


def test_a_kernel_without_types_has_none(tmp_path: Path) -> None:
    at = tmp_path / "vmlinux"
    assert kernel_functions.number("printk_sprint", (), at) is None
    at.write_bytes(b"no BTF")
    assert kernel_functions.number("printk_sprint", (), at) is None
    at.write_bytes(struct.pack("<H", MAGIC) + bytes(40))
    assert kernel_functions.number("printk_sprint", (), at) is None


@given(st.binary(max_size=200), st.integers(0, 300))
def test_bytes_that_make_no_sense_have_no_functions(tail: bytes, claimed: int) -> None:
    head = HEADER.pack(MAGIC, 1, 0, HEADER.size, 0, claimed, 0, claimed)
    assert KernelFunctions(head + b"\0f\0" + tail).number("printk_sprint", ()) is None
    KernelFunctions(head + b"\0f\0" + tail).number("f", ())
