"""How fast the grammar reads, on one core: lines of other drivers, and Xid lines.

Beside lines a second stands the cost of a noise line as a multiple of a bare `"NVRM" in line` loop
over the same lines in the same run, so that figures of different machines compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from benchmarks.figure import Figure, Plan
from daemon.grammar import find

LINES = 100_000
ROUNDS = 5

NOISE_MUST = 100_000
XID_MUST = 20_000

NOISE = (
    "mlx5_core 0000:41:00.1: Port module event: module 1, Cable unplugged",
    "IPv6: ADDRCONF(NETDEV_CHANGE): calib317e2eeb40: link becomes ready",
    "nvidia-peermem nv_get_p2p_free_callback:127 ERROR detected invalid context, skipping further processing",
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=cri-containerd,mems_allowed=0-1",
    "EXT4-fs (nvme0n1p2): mounted filesystem with ordered data mode. Opts: (null). Quota mode: none.",
    "audit: type=1400 audit(1737128237.844:4): apparmor=STATUS operation=profile_load name=docker-default",
    "NVRM: GPU initialized",
    "nvidia-nvswitch3: open (major=510)",
)
XIDS = (
    "NVRM: Xid (PCI:0000:00:06): 31, pid=446, name=fault, channel 0x0000000a, intr 00000000. MMU Fault: "
    "ENGINE GRAPHICS GPC1 GPCCLIENT_T1_8 "
    "faulted @ 0x0_00000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
    "NVRM: Xid (PCI:0000:00:06): 13, Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address",
    "NVRM: Xid (PCI:0000:00:06): 13, Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0",
    "NVRM: Xid (PCI:0000:00:06): 43, pid=458, name=fault, channel 0x0000000a",
    "NVRM: Xid (PCI:0000:65:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
    "NVRM: Xid (PCI:0000:65:00 GPU-I:03): 94, pid=5120, name=python, Contained: SM (0x1). RST: No, D-RST: No",
    "NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 "
    "0x00000000 0x00000000 0x00000000 0x00000000)",
    "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)",
)


def rate(work: Callable[[Sequence[str]], object], lines: Sequence[str]) -> float:
    """Lines a second of CPU time in the best of `ROUNDS` rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        work(lines)
        best = min(best, time.process_time() - begin)
    return len(lines) / best


def _bare(lines: Iterable[str]) -> int:
    return sum(1 for line in lines if "NVRM" in line)


def _grammar(lines: Iterable[str]) -> int:
    return sum(1 for line in lines if find(line) is not None)


def _repeated(lines: Sequence[str]) -> list[str]:
    return [lines[i % len(lines)] for i in range(LINES)]


def measure(plan: Plan) -> Sequence[Figure]:
    """Lines a second of both sorts."""
    noise, xids = _repeated(NOISE), _repeated(XIDS)
    bare, noise_rate, xid_rate = rate(_bare, noise), rate(_grammar, noise), rate(_grammar, xids)
    return [
        Figure(
            "decode: noise lines",
            noise_rate,
            "/s",
            must=NOISE_MUST,
            at_least=True,
            beside=f"a line costs {bare / noise_rate:.1f} x a bare `'NVRM' in line` ({bare:,.0f} /s)",
        ),
        Figure("decode: Xid lines", xid_rate, "/s", must=XID_MUST, at_least=True),
    ]
