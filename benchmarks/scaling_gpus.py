"""What it costs to have many GPUs: the tools that read them, and the memory of the worker that does.

The GPUs are fake ones whose driver calls cost what an H200's do (measured there, replayed by the fake
libnvidia-ml.so.1); daemon, worker process and session are real. Before each size the daemon has asked once,
so that first calls, which cost more, are not in the figures.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from benchmarks import process
from benchmarks.figure import Plan, Unavailable
from benchmarks.scaling_clock import sampled_ms
from benchmarks.scaling_sessions import Session
from benchmarks.series import Lines, Order, Series
from tests.support import fake_nvml
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog

SIZES = (1, 2, 4, 8, 16, 32, 64)
QUICK_SIZES = (1, 4)
FLAGS = ("--ebpf", "off", "--gpu", "nvml", "--rate-limit", "off")
TOOLS = ("get_gpu_inventory", "get_gpu_health", "get_gpu_processes", "describe_gpu_node")
DAEMON, WORKER = "daemon", "GPU worker"
_WORKER_MODULE = b"daemon.gpu.worker"


def measure(plan: Plan) -> Sequence[Series]:
    """The series over the number of GPUs. Raises Unavailable without a C compiler."""
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        raise Unavailable("no C compiler to build the fake NVML with")
    linear = Order.LINEAR
    tools, sizes = Lines(dict.fromkeys(TOOLS, linear)), Lines(dict.fromkeys(TOOLS, linear))
    memory = Lines({DAEMON: linear, WORKER: linear})
    library = plan.directory / "library"
    library.mkdir()
    fake_nvml.build(library)
    for count in QUICK_SIZES if plan.quick else SIZES:
        directory = plan.directory / str(count)
        directory.mkdir()
        _one_size(plan, fake_nvml.Scenario(directory, library, gpus=count, costs=True), count,
                  {"tools": tools, "answers": sizes, "memory": memory})  # fmt: skip
    return _series(tools, sizes, memory, judged=not plan.quick)


def _one_size(plan: Plan, fleet: fake_nvml.Scenario, count: int, lines: Mapping[str, Lines]) -> None:
    directory = fleet.path.parent
    with FakeKernelLog(directory / "kmsg") as log:
        daemon = Daemon(directory, kmsg=log.path, flags=FLAGS, environ=fleet.environment()).start()
        try:
            with closing(Session(daemon.socket)) as session:
                _check(session, count)
                for name in TOOLS:
                    ask = partial(session.call, name)
                    lines["answers"].add(name, count, len(ask()) / 1000)
                    lines["tools"].add(name, count, sampled_ms(ask, plan.samples(50, 3)))
            lines["memory"].add(DAEMON, count, process.rss_mb(daemon.pid))
            lines["memory"].add(WORKER, count, process.rss_mb(_worker(daemon.pid)))
        finally:
            daemon.stop()


def _check(session: Session, count: int) -> None:
    """Raises Unavailable where it is not the fake fleet that answers: a real driver may be in its way."""
    answer = session.call(TOOLS[0])
    found = sum(fake_nvml.uuid(gpu).encode() in answer for gpu in range(count))
    if found < count:
        raise Unavailable(f"of {count} fake GPUs {found} answer")


def _worker(parent: int) -> int:
    """The process that speaks to the driver. Raises Unavailable when there is none."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split():
        if _WORKER_MODULE in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise Unavailable("the daemon has no GPU worker")


def _series(tools: Lines, sizes: Lines, memory: Lines, *, judged: bool) -> Sequence[Series]:
    def series(name: str, title: str, y: str, lines: Lines, why: str) -> Series:
        return Series(f"gpus-{name}", title, "GPUs", y, lines.points, lines.growth(judged=judged), why)

    return [
        series(
            "tools",
            "Tools that read GPUs",
            "time, ms",
            tools,
            "Each GPU is asked a fixed number of driver calls, several GPUs at a time.",
        ),
        series(
            "answers",
            "Length of the answers",
            "answer, kB",
            sizes,
            "A row for each GPU beside what is said of the node; of healthy GPUs there is little to tell.",
        ),
        series(
            "memory",
            "Resident memory with GPUs",
            "resident memory, MB",
            memory,
            "The last reading of each GPU is kept; threads of the worker are bounded.",
        ),
    ]
