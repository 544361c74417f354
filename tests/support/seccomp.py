"""Run as a program: forbids bpf(2) to itself and to the program that it becomes.

`python -m tests.support.seccomp ERRNO COMMAND …`: every other system call passes. Linux 4.14 and later.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_NUMBERS = {"x86_64": 321, "aarch64": 280}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_RET_ERRNO, _RET_ALLOW = 0x50000, 0x7FFF0000
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06


def forbid_bpf(number: int) -> None:
    """bpf(2) fails with this errno from now on. Raises OSError."""
    code = [
        (_LOAD_WORD, 0, 0, 0),  # the number of the system call
        (_JUMP_EQUAL, 0, 1, _NUMBERS[platform.machine()]),
        (_RETURN, 0, 0, _RET_ERRNO | number),
        (_RETURN, 0, 0, _RET_ALLOW),
    ]
    lines = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = struct.pack("=HxxxxxxQ", len(code), ctypes.addressof(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    refused = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _MODE_FILTER, program, 0, 0
    )
    if refused:
        raise OSError(ctypes.get_errno(), "cannot set a seccomp filter")


if __name__ == "__main__":
    forbid_bpf(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606
