"""bpf(2) through ctypes: the few commands that load a tracing program and read its counts.

Every failure is a `BpfError` that says at which step it happened; what it means here is said by
`probes.bpf.availability`. The kernel opens each descriptor close-on-exec. The structs are the
beginnings of `union bpf_attr` in <linux/bpf.h>: the kernel takes any length and fills up with zeros.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from enum import IntEnum, StrEnum

from probes.bpf.btf import MapDefinition

_NUMBERS = {"x86_64": 321, "aarch64": 280}  # asm/unistd_64.h, asm-generic/unistd.h
_NAME_BYTES = 16
_LOG_BYTES = 256 * 1024
_BEYOND_ANY_PAGE = 1 << 20
PROG_TYPE_RAW_TRACEPOINT = 17
"""BPF_PROG_TYPE_RAW_TRACEPOINT"""
_PROG_TYPE_TRACING = 26
_TRACE_FEXIT = 25


class _Command(IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    PROG_LOAD = 5
    OBJ_GET_INFO_BY_FD = 15
    RAW_TRACEPOINT_OPEN = 17


class Step(StrEnum):
    """What was asked of the kernel when it refused."""

    CREATE_MAP = "create a map"
    LOAD_PROGRAM = "load the program"
    ATTACH = "attach the program"
    READ = "read a map"
    WRITE = "write a map"


class BpfError(OSError):
    """bpf(2) refused: `errno`, the step, and the verifier's words if it had any."""

    def __init__(self, step: Step, number: int, log: str = "") -> None:
        super().__init__(number, f"cannot {step}: {os.strerror(number).lower()}")
        self.step = step
        self.log = log
        """What the verifier printed; "" when it was not asked or had nothing to say."""


class _MapCreate(ctypes.Structure):
    _fields_ = (
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("map_name", ctypes.c_char * _NAME_BYTES),
    )


class _MapElement(ctypes.Structure):
    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class _ProgLoad(ctypes.Structure):
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * _NAME_BYTES),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("func_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("line_info_cnt", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
    )


class _RawTracepoint(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint64), ("prog_fd", ctypes.c_uint32))


class _GetInfo(ctypes.Structure):
    _fields_ = (("bpf_fd", ctypes.c_uint32), ("info_len", ctypes.c_uint32), ("info", ctypes.c_uint64))


class _MapInfo(ctypes.Structure):
    # The beginning of struct bpf_map_info.
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * _NAME_BYTES),
    )


class _ProgInfo(ctypes.Structure):
    # struct bpf_prog_info up to recursion_misses; its size has never changed in front of that.
    _fields_ = (("before", ctypes.c_uint64 * 26), ("recursion_misses", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def supported() -> bool:
    """True where the number of the system call is known."""
    return platform.machine() in _NUMBERS and ctypes.sizeof(ctypes.c_void_p) == 8


def create_map(definition: MapDefinition) -> int:
    """A new map's descriptor. Raises BpfError."""
    attr = _MapCreate(
        map_type=definition.kind,
        key_size=definition.key_bytes,
        value_size=definition.value_bytes,
        max_entries=definition.max_entries,
        map_name=_name(definition.name),
    )
    return _bpf(Step.CREATE_MAP, _Command.MAP_CREATE, attr)


def load_program(kind: int, name: str, instructions: bytes, license_: bytes) -> int:
    """A verified program's descriptor. Raises BpfError, with the verifier's log where it wrote one."""
    return _load(_ProgLoad(prog_type=kind, prog_name=_name(name)), instructions, license_)


def load_fexit(function: int, name: str, instructions: bytes, license_: bytes) -> int:
    """A program that runs as a kernel function returns; `function` is its number in the kernel's BTF.

    Raises BpfError, as load_program does.
    """
    attr = _ProgLoad(
        prog_type=_PROG_TYPE_TRACING,
        expected_attach_type=_TRACE_FEXIT,
        attach_btf_id=function,
        prog_name=_name(name),
    )
    return _load(attr, instructions, license_)


def _load(attr: _ProgLoad, instructions: bytes, license_: bytes) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    grant = ctypes.create_string_buffer(license_)
    attr.insn_cnt, attr.insns = len(instructions) // 8, ctypes.addressof(code)
    attr.license = ctypes.addressof(grant)
    try:
        return _bpf(Step.LOAD_PROGRAM, _Command.PROG_LOAD, attr)
    except BpfError as first:
        # Asked for its log the verifier works longer, and fails where the log overflows: only now.
        log = ctypes.create_string_buffer(_LOG_BYTES)
        attr.log_level, attr.log_size, attr.log_buf = 1, _LOG_BYTES, ctypes.addressof(log)
        try:
            return _bpf(Step.LOAD_PROGRAM, _Command.PROG_LOAD, attr)
        except BpfError:
            raise BpfError(first.step, first.errno or 0, log.value.decode("utf-8", "replace")) from None


def open_raw_tracepoint(name: str, program: int) -> int:
    """Attach `program` to a raw tracepoint; it stays attached until the descriptor is closed.

    Raises BpfError; ENOENT: the kernel has no such tracepoint.
    """
    text = ctypes.create_string_buffer(name.encode("ascii"))
    attr = _RawTracepoint(name=ctypes.addressof(text), prog_fd=program)
    return _bpf(Step.ATTACH, _Command.RAW_TRACEPOINT_OPEN, attr)


def attach_fexit(program: int) -> int:
    """Attach a program to the function it was loaded for, until the descriptor is closed. Raises BpfError."""
    return _bpf(Step.ATTACH, _Command.RAW_TRACEPOINT_OPEN, _RawTracepoint(prog_fd=program))


def update(map_fd: int, key: int, value: bytes) -> None:
    """Set the value of a 32-bit key; `value` has exactly the map's value size. Raises BpfError."""
    number, content = ctypes.c_uint32(key), ctypes.create_string_buffer(value, len(value))
    attr = _MapElement(map_fd=map_fd, key=ctypes.addressof(number), value=ctypes.addressof(content))
    _bpf(Step.WRITE, _Command.MAP_UPDATE_ELEM, attr)


def look_up(map_fd: int, key: int, value: ctypes.Array[ctypes.c_uint64]) -> None:
    """Read the value of a 32-bit key into `value`, which must have room for all that the kernel writes.

    Of a per-CPU map that is every possible CPU's value, one after the other. Raises BpfError.
    """
    number = ctypes.c_uint32(key)
    attr = _MapElement(map_fd=map_fd, key=ctypes.addressof(number), value=ctypes.addressof(value))
    _bpf(Step.READ, _Command.MAP_LOOKUP_ELEM, attr)


def map_info(map_fd: int) -> MapDefinition:
    """What kind of map it is, and of what size. Raises BpfError."""
    info = _MapInfo()
    attr = _GetInfo(bpf_fd=map_fd, info_len=ctypes.sizeof(info), info=ctypes.addressof(info))
    _bpf(Step.READ, _Command.OBJ_GET_INFO_BY_FD, attr)
    return MapDefinition(
        name=info.name.decode("ascii", "replace"),
        kind=info.type,
        max_entries=info.max_entries,
        key_bytes=info.key_size,
        value_bytes=info.value_size,
    )


def recursion_misses(program: int) -> int | None:
    """How often the program was not run because it was running on that CPU already.

    None when the kernel does not count them (before Linux 5.12). Raises BpfError.
    """
    info = _ProgInfo()
    attr = _GetInfo(bpf_fd=program, info_len=ctypes.sizeof(info), info=ctypes.addressof(info))
    _bpf(Step.READ, _Command.OBJ_GET_INFO_BY_FD, attr)
    known: bool = attr.info_len >= ctypes.sizeof(info)
    return int(info.recursion_misses) if known else None


def reaches_kernel() -> bool:
    """False when bpf(2) is answered by a seccomp filter, or the kernel has none.

    The kernel refuses an attribute larger than a page unread, and before it asks a security module
    (`bpf_check_uarg_tail_zero` in kernel/bpf/syscall.c): E2BIG is its own voice. Older kernels ask
    for CAP_BPF even before that, so the answer counts only for who has it.
    """
    _call(_Command.MAP_CREATE, 0, _BEYOND_ANY_PAGE)
    return ctypes.get_errno() == errno.E2BIG


def _bpf(step: Step, command: _Command, attr: ctypes.Structure) -> int:
    result = _call(command, ctypes.addressof(attr), ctypes.sizeof(attr))
    if result < 0:
        raise BpfError(step, ctypes.get_errno())
    return result


def _call(command: _Command, attr: int, size: int) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        ctypes.set_errno(errno.ENOSYS)
        return -1
    arguments = (ctypes.c_long(number), ctypes.c_long(command), ctypes.c_void_p(attr), ctypes.c_long(size))
    result: int = _libc.syscall(*arguments)
    return result


def _name(text: str) -> bytes:
    """A name as the kernel takes it: at most 15 of letters, digits, `_` and `.`."""
    return text.encode("ascii", "replace")[: _NAME_BYTES - 1]
