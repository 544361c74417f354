"""A process that holds memory of GPU 0: `python -m tests.hardware.cuda_context MEGABYTES`."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def cuda_context(megabytes: int) -> Iterator[int]:
    """The pid of a process with this much memory of GPU 0, while the block runs."""
    command = [sys.executable, "-m", "tests.hardware.cuda_context", str(megabytes)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        try:
            yield process.pid
        finally:
            process.stdin.close()
            process.wait(30)


def hold(megabytes: int) -> None:
    """Take the memory, say so, and keep it until standard input ends."""
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    steps = (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
        cuda.cuCtxSetCurrent(context),
        cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(megabytes << 20)),
    )
    if any(steps):
        sys.exit(f"CUDA errors {steps}")
    print("holding", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    hold(int(sys.argv[1]))
