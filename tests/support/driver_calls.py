"""The NVIDIA driver's side of its tracepoints, without an NVIDIA driver.

The program of driver.bpf.o is loaded as it is, and called by BPF_PROG_TEST_RUN with the arguments that the
driver would give it: a device, a code and a message that lie in the kernel's memory, in the value of a map.
"""

from __future__ import annotations

import ctypes
import os
import struct

from probes.bpf import driver_loader, syscalls
from probes.bpf.btf import MapDefinition
from probes.bpf.descriptors import Descriptors
from probes.bpf.elf import BpfObject
from probes.bpf.loading import Loading, read_object
from probes.bpf.memlock import unlimited_on_old_kernels

_SECTIONS = {"nvidia_dev_xid": "raw_tp/nvidia_dev_xid", "nvswitch_dev_sxid": "raw_tp/nvswitch_dev_sxid"}
_MAPS = frozenset({"lines", "counts", "name_at"})
_ARRAY = 2  # BPF_MAP_TYPE_ARRAY
_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_TEST_RUN = 10
_MEMORY_BYTES = 2048
_NAME_POINTER_AT, _NAME_AT, _MESSAGE_AT = 8, 16, 64
_libc = ctypes.CDLL(None, use_errno=True)


class DriverCalls:
    """Loads the programs, as often as it is asked to, and calls those of the last time."""

    def __init__(self) -> None:
        """Raises BpfError where no program can be loaded."""
        self._object = read_object(driver_loader.OBJECT, frozenset(_SECTIONS.values()), _MAPS)
        self._offset = driver_loader.name_offset()
        with unlimited_on_old_kernels():
            self._memory = syscalls.create_map(MapDefinition("memory", _ARRAY, 1, 4, _MEMORY_BYTES))
        self._address = self._own_address()
        self._programs: dict[str, int] = {}

    def load(self) -> Descriptors:
        """A loader: what driver_loader.load returns, but for the tracepoints."""
        with Loading(self._object) as loading:
            syscalls.update(loading.maps["name_at"], 0, struct.pack("=Q", self._offset))
            self._programs = {
                tracepoint: _load(self._object, section, loading) for tracepoint, section in _SECTIONS.items()
            }
            loading.keep()
        os.close(loading.maps["name_at"])
        return Descriptors(
            loader="test",
            hook=driver_loader.BOTH,
            ring=loading.maps["lines"],
            ring_bytes=self._object.maps["lines"].max_entries,
            counts=loading.maps["counts"],
            programs=tuple(self._programs.values()),
            links=(),
            facility=True,
        )

    def call(self, tracepoint: str, device: str | None, code: int, message: bytes) -> None:
        """What the driver does for one Xid or SXid; `device` None: its name cannot be read."""
        memory = bytearray(_MEMORY_BYTES)
        struct.pack_into("=Q", memory, _NAME_POINTER_AT, self._address + _NAME_AT)
        memory[_NAME_AT : _NAME_AT + len(device or "")] = (device or "").encode()
        memory[_MESSAGE_AT : _MESSAGE_AT + len(message)] = message
        syscalls.update(self._memory, 0, bytes(memory))
        pci_dev = 0 if device is None else self._address + _NAME_POINTER_AT - self._offset
        _run(self._programs[tracepoint], pci_dev, code, self._address + _MESSAGE_AT)

    def close(self) -> None:
        """Give the memory back; the programs belong to whoever asked for them."""
        os.close(self._memory)

    def _own_address(self) -> int:
        """Where the map's value lies: a program looks it up and writes its address into it."""
        code = b"".join(
            struct.pack("=BBhi", *instruction)
            for instruction in (
                (0x62, 0x0A, -4, 0),  # *(u32 *)(r10 - 4) = 0
                (0xBF, 0xA2, 0, 0),  # r2 = r10
                (0x07, 0x02, 0, -4),  # r2 += -4
                (0x18, 0x11, 0, self._memory),  # r1 = the map …
                (0x00, 0x00, 0, 0),
                (0x85, 0x00, 0, 1),  # call bpf_map_lookup_elem
                (0x15, 0x00, 1, 0),  # if r0 == 0 goto +1
                (0x7B, 0x00, 0, 0),  # *(u64 *)(r0 + 0) = r0
                (0xB7, 0x00, 0, 0),  # r0 = 0
                (0x95, 0x00, 0, 0),  # exit
            )
        )
        with unlimited_on_old_kernels():
            program = syscalls.load_program(syscalls.PROG_TYPE_RAW_TRACEPOINT, "address", code, b"GPL\0")
        try:
            _run(program, 0)
        finally:
            os.close(program)
        value = (ctypes.c_uint64 * (_MEMORY_BYTES // 8))()
        syscalls.look_up(self._memory, 0, value)
        return int(value[0])


def _load(program: BpfObject, section: str, loading: Loading) -> int:
    code = program.programs[section].bound_to(loading.maps)
    with unlimited_on_old_kernels():
        return syscalls.load_program(syscalls.PROG_TYPE_RAW_TRACEPOINT, "called", code, program.license)


def _run(program: int, *arguments: int) -> None:
    """Call the program as its tracepoint would. Raises OSError."""
    context = ctypes.create_string_buffer(struct.pack(f"={len(arguments)}Q", *arguments), 8 * len(arguments))
    # <linux/bpf.h>, union bpf_attr.test: prog_fd, …, ctx_size_in at 40, ctx_in at 48.
    attr = ctypes.create_string_buffer(
        struct.pack("=I36xI4xQ24x", program, len(context), ctypes.addressof(context)), 80
    )
    number = ctypes.c_long(_BPF[os.uname().machine])
    if _libc.syscall(number, ctypes.c_long(_PROG_TEST_RUN), attr, ctypes.c_long(len(attr))) < 0:
        raise OSError(ctypes.get_errno(), f"cannot run the program: {os.strerror(ctypes.get_errno())}")
