"""The soak itself: a real daemon under mixed load, step by step, and what is judged at the end of each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from tests.soak import counts
from tests.soak.counts import Check, Kept
from tests.soak.faults import NO_PROCESS, Faults
from tests.soak.flatness import judge
from tests.soak.gpus import Gpus
from tests.soak.kills import kill_again_and_again
from tests.soak.node import DEADLINE_S, Node
from tests.soak.place import Told, Worker
from tests.soak.plan import Plan
from tests.soak.readers import READERS, Read, rare_pages
from tests.soak.receiver import Taken
from tests.soak.report import Report
from tests.soak.visitors import VISITORS
from tests.soak.written import Written
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import wait_for

T = TypeVar("T")

LOOK_S: Final = 1.0
WAL_KIB: Final = 32 * 1024
"""The WAL is folded into the journal each 4 MiB, unless a reader holds it; its file does not shrink."""
BOUNDS: Final[Mapping[str, float]] = {
    "descriptors": 8,
    "sqlite_connections": 1,
    "threads": 1,
    "children": 1,
    "journal_kib": 256,
    "state_dir_kib": 8 * 1024,
}
"""Series that have to be flat under load, and how much each may grow in the time that is judged. Beside them
memory is judged, see `Plan.memory_kib`."""
MEMORY: Final = ("rss_kib", "pss_kib", "anonymous_kib")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of one time under load."""

    written: Written
    reads: Mapping[str, Read]
    rare: Read
    told: Mapping[str, Told]
    metrics_before: Mapping[str, float]
    metrics_after: Mapping[str, float]


class Soak:
    """One soak in a directory of its own."""

    def __init__(self, plan: Plan, directory: Path, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.report = Report(plan)
        self._directory = directory
        self._say = say
        self._first_pid = NO_PROCESS
        self._seed = plan.seed

    def run(self) -> Report:
        """All steps; what does not hold is in the report. Raises AssertionError when a step cannot go on."""
        with ExitStack() as stack:
            self._node = node = Node(self.plan, self._directory, stack)
            with self._step("warm-up"):
                self._load(self.plan.warm_up_s)
            with self._step("rest"):
                base, base_kib = node.rest(None)
            with self._step("load"):
                loaded = self._load(self.plan.load_s)
            self._counts(loaded)
            with self._step("rest again"):
                after, after_kib = node.rest(base)
            node.sampler.stop()
            self._flat()
            self._back(base, base_kib, after, after_kib)
            code = node.daemon.stop()
            self._check("the daemon ended with 0 when it was asked to", code == 0, f"{code}")
            node.receiver.leave()
            taken = _handed_back(node.receiver, Taken)
            self.report.checks += counts.sent(taken, next(iter(loaded.reads.values())))
            self._logged("under load", node.daemon)
        with self._step("kills"):
            self._kills()
        return self.report

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = self._node.sampler.now_s
        self._say(name)
        yield
        self.report.steps.append((name, round(began, 1), round(self._node.sampler.now_s, 1)))

    def _check(self, what: str, holds: bool, detail: str) -> None:
        self.report.checks.append(Check(what, holds, detail))

    def _next_seed(self) -> int:
        self._seed += 1
        return self._seed

    # -- load --------------------------------------------------------------------------------------

    def _load(self, seconds: float) -> Loaded:
        node = self._node
        before, place = node.settled_metrics(), node.place()
        workers: list[Worker] = []
        try:
            readers = [Worker(work, place, self._next_seed()) for work in (*READERS, rare_pages)]
            workers += readers
            visitors = [Worker(work, place, self._next_seed()) for work in VISITORS]
            workers += visitors
            faults = Faults(node.log, self._next_seed(), first_pid=self._first_pid)
            gpus = Gpus(node.fleet, self._next_seed())
            faults.start()
            gpus.start()
            until = time.monotonic() + seconds
            while time.monotonic() < until and faults.failure is None:
                for worker in workers:
                    worker.must_run()
                time.sleep(LOOK_S)
            written, troubles = faults.stop(), gpus.stop()
            self._first_pid = faults.pid
            told = {worker.name: _handed_back(worker, Told) for worker in _asked_to_leave(visitors)}
            newest = node.quiet()
            for reader in readers[:-1]:
                _wait_until_read(reader, newest)
            reads = {worker.name: _handed_back(worker, Read) for worker in _asked_to_leave(readers)}
        finally:
            for worker in workers:
                worker.kill()
        rare = reads.pop(rare_pages.__name__)
        self._note_load(written, {**told, **reads, rare_pages.__name__: rare}, troubles)
        return Loaded(written, reads, rare, told, before, node.settled_metrics())

    def _note_load(
        self, written: Written, clients: Mapping[str, Told | Read], troubles: Counter[str]
    ) -> None:
        """Of the last time under load."""
        load: Counter[str] = Counter(
            {"records written": written.records, "faults": sum(written.faults.values())}
        )
        for name, seen in clients.items():
            load.update({f"{name}: {what}": times for what, times in seen.counts.items()})
        load.update({f"GPUs: {trouble}": times for trouble, times in troubles.items()})
        self.report.load = dict(load)

    def _back(
        self, base: Mapping[str, int], base_kib: float, after: Mapping[str, int], after_kib: float
    ) -> None:
        """Everything that clients and load took has been given back."""
        self.report.checks.append(
            counts.differences(
                "at rest all is as it was before the load: descriptors, threads, …", base, after
            )
        )
        self._check(
            "at rest memory is what it was before the load",
            after_kib - base_kib <= self.plan.memory_kib,
            f"{base_kib:,.0f} KiB before, {after_kib:,.0f} KiB after;"
            f" {self.plan.memory_kib:,.0f} KiB more are allowed",
        )

    # -- judging -----------------------------------------------------------------------------------

    def _flat(self) -> None:
        sampler, report = self._node.sampler, self.report
        report.series, report.unread = sampler.series, sampler.unread
        _, begin, end = next(step for step in report.steps if step[0] == "load")
        for name, bound in (*((name, self.plan.memory_kib) for name in MEMORY), *BOUNDS.items()):
            if name in sampler.series:
                under_load = [(at, value) for at, value in sampler.series[name] if begin <= at <= end]
                report.flat.append(judge(name, under_load, bound))
        highest = max(value for _, value in sampler.series["wal_kib"])
        self._check("the WAL stays small", highest <= WAL_KIB, f"{highest:,.0f} KiB of {WAL_KIB:,}")
        unstored = max(value for _, value in sampler.series["unstored"])
        self._check(
            "nothing waits for the disk at the end", sampler.sample()["unstored"] == 0, f"at most {unstored}"
        )

    def _counts(self, loaded: Loaded) -> None:
        checks = self.report.checks
        kept = Kept.read(self._node.daemon.state_dir)
        (truth_name, truth), *others = loaded.reads.items()
        self._check(f"{truth_name} missed nothing", not truth.missed, f"{truth.missed[:3] or 'nothing'}")
        checks += counts.told(truth.events, loaded.written)
        for name, read in (*others, (rare_pages.__name__, loaded.rare)):
            checks += counts.same(truth, truth_name, read, name, kept.deleted_through)
        checks += counts.journal(kept, truth)
        checks += counts.metrics(loaded.written, truth, loaded.metrics_before, loaded.metrics_after)
        wrong = [f"{name}: {what}" for name, told in loaded.told.items() for what in told.wrong]
        self._check("no client got an answer that it should not", not wrong, "; ".join(wrong[:5]) or "none")
        if self.plan.is_long:
            deleted = sum(1 for event_id in truth.events if event_id not in kept.events)
            self._check("retention was at work", deleted > 0, f"{deleted:,} events deleted")

    def _kills(self) -> None:
        """A daemon of its own, which retention does not overtake."""
        place = self._directory / "kills"
        place.mkdir()
        with FakeKernelLog(place / "kmsg") as log:
            flags = ("--ebpf", "off", "--gpu", "nvml")
            daemon = Daemon(place, kmsg=log.path, flags=flags, environ=self._node.fleet.environment())
            try:
                killed = kill_again_and_again(
                    daemon.start(),
                    log,
                    kills=self.plan.kills,
                    life_s=self.plan.life_s,
                    seed=self._next_seed(),
                    first_pid=self._first_pid,
                )
            finally:
                daemon.stop()
        self.report.load["kills"] = killed.kills
        self.report.checks += killed.checks
        self._logged("killed", daemon)

    def _logged(self, name: str, daemon: Daemon) -> None:
        text = daemon.log.read_text()
        found = [line for line in text.splitlines() if "Traceback" in line or " error " in line]
        self._check(
            f"the log of the daemon {name} has no traceback and no error",
            not found,
            "; ".join(found[:3]) or "none",
        )


def _wait_until_read(reader: Worker, newest: int) -> None:
    what = f"{reader.name} to reach the newest event"
    wait_for(lambda: reader.reached.value >= newest, what, deadline_s=DEADLINE_S)


def _asked_to_leave(workers: list[Worker]) -> list[Worker]:
    """The same, all of them asked first."""
    for worker in workers:
        worker.leave()
    return workers


def _handed_back(worker: Worker, kind: type[T]) -> T:
    told = worker.told(DEADLINE_S)
    assert isinstance(told, kind), f"{worker.name} handed back {told!r}"
    return told
