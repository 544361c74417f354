"""Programs that make a GPU fault on purpose: `python -m tests.hardware.cuda_fault mmu|misaligned|trap`.

Each is an ordinary application fault: the driver ends the program's own GPU context and nothing
else. Only the driver's library is needed (libcuda.so.1), no compiler: the kernels are PTX text,
which the driver translates. Prints the PCI address of the GPU before it faults.
"""

from __future__ import annotations

import ctypes
import sys
from enum import StrEnum


class Fault(StrEnum):
    """What goes wrong, and the Xid that the driver reports for it."""

    MMU = "mmu"
    """A store to an address that is not mapped: Xid 31."""
    MISALIGNED = "misaligned"
    """A store to an address that its size does not allow: Xid 13."""
    TRAP = "trap"
    """The kernel stops itself: Xid 43."""


XID = {Fault.MMU: 31, Fault.MISALIGNED: 13, Fault.TRAP: 43}

_BODIES = {
    Fault.MMU: "mov.u64 %rd1, 16; mov.u32 %r1, 1; st.global.u32 [%rd1], %r1;",
    Fault.MISALIGNED: "ld.param.u64 %rd1, [memory]; mov.u32 %r1, 1; st.global.u32 [%rd1+2], %r1;",
    Fault.TRAP: "trap;",
}
_PTX = """
.version 7.0
.target sm_70
.address_size 64
.visible .entry fault(.param .u64 memory) {{
  .reg .u64 %rd<2>;
  .reg .u32 %r<2>;
  {body}
  ret;
}}
"""


class _Cuda:
    """The few calls of the CUDA driver API that are needed; an error ends the program."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def call(self, name: str, *arguments: object) -> None:
        """Call `name`, which must succeed."""
        result = self._library[name](*arguments)
        if result != 0:
            sys.exit(f"{name} failed with CUDA error {result}")

    def synchronize(self) -> int:
        """Wait for the kernel; its error code."""
        result: int = self._library["cuCtxSynchronize"]()
        return result


def fault(which: Fault) -> int:
    """Run the kernel on GPU 0; the CUDA error that it ended with, never 0 when it faulted."""
    cuda = _Cuda()
    device, context, module, function, memory = (
        ctypes.c_int(),
        ctypes.c_void_p(),
        ctypes.c_void_p(),
        ctypes.c_void_p(),
        ctypes.c_uint64(),
    )
    cuda.call("cuInit", 0)
    cuda.call("cuDeviceGet", ctypes.byref(device), 0)
    pci = ctypes.create_string_buffer(32)
    cuda.call("cuDeviceGetPCIBusId", pci, len(pci), device)
    print(pci.value.decode().lower(), flush=True)
    cuda.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    cuda.call("cuCtxSetCurrent", context)
    cuda.call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(4096))
    cuda.call("cuModuleLoadData", ctypes.byref(module), _PTX.format(body=_BODIES[which]).encode())
    cuda.call("cuModuleGetFunction", ctypes.byref(function), module, b"fault")
    arguments = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(memory), ctypes.c_void_p))
    cuda.call("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, None, arguments, None)
    return cuda.synchronize()


if __name__ == "__main__":
    sys.exit(f"the kernel ended with CUDA error {fault(Fault(sys.argv[1]))}")
