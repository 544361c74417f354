"""The loaders of the eBPF program: how long until it hears, and what a process weighs that has loaded it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.figure import Figure, Plan, Unavailable, median, spread
from tests.support.daemon import ROOT, clean_environment

# Each loads in a process of its own: what one leaves behind must not weigh on the other. The child's
# memory is its highest.
_LOAD = """
import json, resource, sys, time
from probes.bpf import bcc, native
from probes.bpf.availability import attach
from probes.bpf.unavailable import Unavailable
began = time.monotonic()
found = attach({"bcc": bcc.load, "native": native.load}[sys.argv[1]])
taken_ms = (time.monotonic() - began) * 1000
if isinstance(found, Unavailable):
    sys.exit(found.reason)
status = open("/proc/self/status").read().splitlines()
rss_kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
child_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"taken_ms": taken_ms, "rss_kib": rss_kib, "child_kib": child_kib}))
"""


def measure(plan: Plan) -> Sequence[Figure]:
    """Medians of fresh processes. Raises Unavailable where one of the loaders cannot load."""
    runs = plan.samples(15, 2)
    native = [_load("native") for _ in range(runs)]
    bcc = [_load("bcc") for _ in range(runs)]

    def figures(loads: Sequence[dict[str, float]], key: str) -> list[float]:
        return [load[key] for load in loads]

    native_kib, bcc_kib = median(figures(native, "rss_kib")), median(figures(bcc, "rss_kib"))
    return [
        Figure(
            "loaders: memory after bcc, to native",
            bcc_kib / native_kib,
            "x",
            must=1.1,
            beside=f"MB: {bcc_kib / 1024:.1f} and {native_kib / 1024:.1f}; the compiling process has "
            f"{median(figures(bcc, 'child_kib')) / 1024:.0f} at most",
        ),
        Figure(
            "loaders: native, until it hears",
            median(figures(native, "taken_ms")),
            "ms",
            beside=f"ms: {spread(figures(native, 'taken_ms'), 0)}",
        ),
        Figure(
            "loaders: bcc, until it hears",
            median(figures(bcc, "taken_ms")),
            "ms",
            beside=f"ms: {spread(figures(bcc, 'taken_ms'), 0)}",
        ),
    ]


def _load(loader: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, loader],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=clean_environment(),
    )
    if done.returncode:
        raise Unavailable(
            f"the {loader} loader: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found
