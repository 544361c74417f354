"""How fast the grammar reads, on one core: lines of other drivers, and Xid lines.

No line comes twice, since the grammar remembers the last ones, which several probes bring.
Beside lines a second stands the cost of a noise line as a multiple of a bare `"NVRM" in line` loop
over the same lines in the same run, so that figures of different machines compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from benchmarks.figure import Figure, Plan
from daemon.grammar import find

ROUNDS = 5

NOISE_MUST = 100_000
XID_MUST = 20_000

# Templates of lines: `n` makes each one differ from those before.
NOISE = (
    "mlx5_core 0000:41:00.1: Port module event: module {n}, Cable unplugged",
    "IPv6: ADDRCONF(NETDEV_CHANGE): cali{n:011x}: link becomes ready",
    "nvidia-peermem nv_get_p2p_free_callback:{n} ERROR detected invalid context, skipping further processing",
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=cri-containerd,mems_allowed=0-{n}",
    "EXT4-fs (nvme0n1p{n}): mounted filesystem with ordered data mode. Opts: (null). Quota mode: none.",
    "audit: type=1400 audit(1737128237.844:{n}): apparmor=STATUS operation=profile_load name=docker-default",
    "NVRM: GPU {n} initialized",
    "nvidia-nvswitch3: open (major={n})",
)
XIDS = (
    "NVRM: Xid (PCI:0000:00:06): 31, pid={n}, name=fault, channel 0x0000000a, intr 00000000. MMU Fault: "
    "ENGINE GRAPHICS GPC1 GPCCLIENT_T1_8 "
    "faulted @ 0x0_00000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
    "NVRM: Xid (PCI:0000:00:06): 13, Graphics SM Warp Exception on (GPC 1, TPC 4, SM {n}): "
    "Misaligned Address",
    "NVRM: Xid (PCI:0000:00:06): 13, Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x{n:x}",
    "NVRM: Xid (PCI:0000:00:06): 43, pid={n}, name=fault, channel 0x0000000a",
    "NVRM: Xid (PCI:{n:04x}:65:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
    "NVRM: Xid (PCI:0000:65:00 GPU-I:03): 94, pid={n}, name=python, Contained: SM (0x1). RST: No, D-RST: No",
    "NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x{n:08x} "
    "0x00000000 0x00000000 0x00000000 0x00000000)",
    "nvidia-nvswitch3: SXid (PCI:{n:04x}:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)",
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


def _lines(templates: Sequence[str], count: int) -> list[str]:
    """Each template in its turn. No `n` is larger than a PCI domain may be."""
    return [templates[i % len(templates)].format(n=i // len(templates)) for i in range(count)]


def measure(plan: Plan) -> Sequence[Figure]:
    """Lines a second of both sorts."""
    count = plan.samples(100_000, 10_000)
    noise, xids = _lines(NOISE, count), _lines(XIDS, count)
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
