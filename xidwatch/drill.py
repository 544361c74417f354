"""`xidwatch drill CODE`: one marked test line in the kernel log, to see an alarm arrive.

The line begins with `xidwatch-drill:`, which no other monitor takes for an Xid. `--exact` writes
the driver's own form instead, for testing other monitors too, and warns. Either way the kernel
marks it as written by a process, so that a daemon shows it only as a drill, and only when drills
are allowed. No daemon is needed to write one.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from daemon.pci import normalize
from probes import kernel
from probes.errors import UserError
from probes.kmsg_access import DEFAULT_PATH, is_kernel_log

LINE_BYTES = 1000
"""Below what one write to /dev/kmsg may hold on every kernel (LOG_LINE_MAX of 5.x is 992 and its
prefix; from 6.x on 1,024), newline included."""
_LOWEST_SXID = 10_000
_NO_DEVICE = "0000:00:00.0"
_TEXTS = {
    13: "Graphics Exception: ESR 0x50c730=0x20e 0x50c734=0x20 0x50c728=0xf812b60 0x50c72c=0x1174",
    31: "Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_0 faulted"
    " @ 0x7fc1_80000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
    43: "Ch 00000008",
    45: "Ch 00000008",
    48: "An uncorrectable double bit error (DBE) has been detected on GPU (00 02 00).",
    61: "0cde(3098) 00000000 00000000",
    62: "0cde(3098) 00000000 00000000",
    63: "Row Remapper: New row (0x0000000015c6ae97) marked for remapping, reset gpu to activate.",
    64: "Row Remapper: Failed to remap row (0x0000000015c6ae97).",
    74: "NVLink: fatal error detected on link 2(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
    79: "GPU has fallen off the bus.",
    92: "High single-bit ECC error rate",
    94: "Contained: SM (0x1). RST: No, D-RST: No",
    95: "Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
    119: "Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76"
    " (GSP_RM_CONTROL) (0x2080 0x4).",
    120: "GSP task exception: (cause=0x7), task: 1",
    154: "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
    11004: "Non-fatal, Link 32 Ingress invalid ACL (First)",
    12028: "Non-fatal, Link 32 egress non-posted PRIV error (First)",
    20034: "Fatal, Link 30 LTSSM Fault Up (First)",
}
"""What the driver prints after code and process, from real lines."""


@dataclass(frozen=True, slots=True)
class Drill:
    """What the line is to say."""

    code: str
    """As typed: an NVSwitch code is one from 10,000 on, or any with `sxid`."""
    sxid: bool = False
    exact: bool = False
    """The driver's own form, which other monitors take for real."""
    pci: str | None = None
    """Device it names, in any spelling; None: 0000:00:00.0, where no GPU is."""
    pid: int | None = None
    """Process it names; None: this one."""
    name: str | None = None
    """Name of that process; None: xidwatch."""
    text: str | None = None
    """What follows code and process; None: what the driver prints for the code."""


def run(drill: Drill, *, out: TextIO, err: TextIO, as_json: bool = False, kmsg: Path = DEFAULT_PATH) -> int:
    """Write the line and say so on `out`; 0. Raises UserError for bad input and where it is not permitted."""
    line = compose(drill)
    if drill.exact:
        print(
            "warning: other monitors on this node will take this line for a real fault",
            file=err,
            flush=True,
        )
    write(kmsg, line)
    if as_json:
        print(json.dumps({"path": str(kmsg), "line": line, "exact": drill.exact}), file=out)
    else:
        print(f"written to {kmsg}: {line}", file=out)
        print("a daemon shows it when it runs with --allow-drills; see it with: xidwatch tail", file=out)
    return 0


def compose(drill: Drill) -> str:
    """The line to write, without its newline. Raises UserError."""
    number = _number(drill.code)
    device = _device(drill.pci)
    is_switch = drill.sxid or number >= _LOWEST_SXID
    message = _one_line("text", drill.text) if drill.text is not None else _TEXTS.get(number, "drill")
    if is_switch:
        marker = "nvidia-nvswitch0: SXid" if drill.exact else "xidwatch-drill: sxid"
        line = f"{marker} (PCI:{device}): {number:05d}, {message}"
    else:
        marker = "NVRM: Xid" if drill.exact else "xidwatch-drill: xid"
        pid = os.getpid() if drill.pid is None else _pid(drill.pid)
        owner = f"pid={pid}, name={_one_line('name', drill.name or 'xidwatch')}"
        line = f"{marker} (PCI:{device.rpartition('.')[0]}): {number}, {owner}, {message}"
    if len(line.encode("utf-8")) >= LINE_BYTES:
        raise UserError(
            f"the line would be longer than {LINE_BYTES} bytes", hint="shorten the text or the name"
        )
    return line


def write(path: Path, line: str) -> None:
    """One record into the kernel log. Raises UserError.

    A descriptor of its own for each line: kernel.printk_devkmsg=ratelimit counts per open file, and
    drops what is too much without a word.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not is_kernel_log(os.fstat(fd)):
                raise UserError(
                    f"{path} is not the kernel log device", hint=f"leave out --kmsg: it is {DEFAULT_PATH}"
                )
            os.write(fd, line.encode("utf-8") + b"\n")
        finally:
            os.close(fd)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {(error.strerror or str(error)).lower()}", hint=_hint(error)
        ) from None


def _hint(error: OSError) -> str | None:
    match error.errno:
        case errno.EPERM if kernel.log_access().devkmsg == "off":
            return "the kernel keeps it closed: sysctl -w kernel.printk_devkmsg=on"
        case errno.EPERM | errno.EACCES:
            return "run as root, on the node itself or in a container that has the device"
        case errno.ENOENT:
            return "xidwatch doctor says what this place lacks"
    return None


def _number(code: str) -> int:
    if not (code.isascii() and code.isdigit() and len(code) <= 10 and 0 < int(code) < 2**32):
        raise UserError(
            f"{code!r} is not an Xid or SXid code", hint="a number, for example: xidwatch drill 79"
        )
    return int(code)


def _device(pci: str | None) -> str:
    device = _NO_DEVICE if pci is None else normalize(pci)
    if device is None:
        raise UserError(
            f"{pci!r} is not a PCI address", hint="for example 0000:91:00.0, as lspci -D prints it"
        )
    return device


def _pid(pid: int) -> int:
    if not 0 < pid < 2**31:
        raise UserError(f"{pid} is not a process id", hint="a number from 1 on")
    return pid


def _one_line(what: str, value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise UserError(f"the {what} {value!r} is not one line of printable characters")
    return value
