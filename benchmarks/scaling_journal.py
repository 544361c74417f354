"""What it costs to keep much: every way in and out of a journal of 1,000 to a million events.

Each size has a journal of its own. A real daemon is started on it, with a small ring, so that nearly every
answer comes from the disk; then `tail` reads it without a daemon; then its own writing side commits, looks
for what is too old and deletes what is too much.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from benchmarks import process
from benchmarks.clients import HttpCaller, Subscriber
from benchmarks.figure import Plan
from benchmarks.scaling_clock import sampled_ms, timed_ms
from benchmarks.scaling_filling import GPUS, RARE, Filling, announce, kept_models, xid_line
from benchmarks.scaling_sessions import Session
from benchmarks.series import Lines, Order, Series
from daemon.event import Event
from daemon.journal import FILE_NAME, Journal
from daemon.paths import client_sockets
from daemon.retention import Retention
from tests.support.daemon import ROOT, Daemon, clean_environment
from tests.support.kernel_log import FakeKernelLog

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUICK_SIZES = (1_000, 2_000)
FLAGS = (
    *("--ebpf", "off", "--gpu", "off", "--rate-limit", "off"),
    *("--ring-size", "256", "--retention-size", "16GiB", "--retention", "365d"),
)
CODE = 43
"""Each line of it is a whole fault."""
NOBODY = "0000:fe:00.0"
"""A GPU that no event is about."""
EVENTS_KEPT = "events kept"
MEMORY = "daemon, after all these questions"

FLAT, LOG, LINEAR = Order.CONSTANT, Order.LOGARITHMIC, Order.LINEAR
PAGES = {"newest end": LOG, "in the middle": LOG, "oldest (since=0)": LOG, "newest of one GPU of 8": LOG}
FILTERS = {
    "one GPU of 8, from the oldest": LOG,
    "1 in 1,000 by code": FLAT,
    "no match by severity": LOG,
    "no match by GPU": LOG,
    "no match by code": LOG,
    "no match, the newest 100": LOG,
}
TAILS = {"tail without a daemon": (), "tail --since 1s without a daemon": ("--since", "1s")}
COMMANDS = {"serve until /readyz": FLAT, **dict.fromkeys(TAILS, LOG)}
WRITES = {
    "commit of one event": LOG,
    "line to a client on /events": LOG,
    "deleting 256 events": LOG,
    "looking for events too old": LOG,
}
TOOLS = {
    "get_xid_events": LOG,
    "analyze_xid_errors": LOG,
    "analyze_xid_errors since 1 h": LOG,
    "get_incident_report": LOG,
    "describe_gpu_node": LOG,
    "/metrics": FLAT,
}


def measure(plan: Plan) -> Sequence[Series]:
    """The series over the number of events kept."""
    sizes = QUICK_SIZES if plan.quick else SIZES
    models = kept_models(plan)
    expected: Mapping[str, Mapping[str, Order]] = {
        "pages": PAGES,
        "filters": FILTERS,
        "commands": COMMANDS,
        "writes": WRITES,
        "tools": TOOLS,
        "size": {"journal": LINEAR},
        "event": {"one event": FLAT},
        "memory": {MEMORY: FLAT},
    }
    lines = {name: Lines(orders) for name, orders in expected.items()}
    for size in sizes:
        directory = plan.directory / str(size)
        directory.mkdir()
        _one_size(plan, directory, models, size, lines)
        shutil.rmtree(directory)
    return [_series(name, each, judged=not plan.quick) for name, each in lines.items()]


def _one_size(
    plan: Plan, directory: Path, models: Sequence[Event], size: int, lines: Mapping[str, Lines]
) -> None:
    with FakeKernelLog(directory / "kmsg") as log, ExitStack() as stack:
        daemon = Daemon(directory, kmsg=log.path, flags=FLAGS)
        filling = Filling(daemon.state_dir, models, size)
        bytes_kept = (daemon.state_dir / FILE_NAME).stat().st_size
        lines["size"].add("journal", size, bytes_kept / 1e6)
        lines["event"].add("one event", size, bytes_kept / size)
        stack.callback(daemon.stop)
        starts = []
        for _ in range(plan.samples(3, 1)):
            daemon.stop()
            starts += timed_ms(daemon.start, 1)
        lines["commands"].add("serve until /readyz", size, starts)
        _ask_pages(plan, daemon, filling, size, lines)
        _ask_tools(plan, daemon, size, lines["tools"])
        announce(log)
        lines["writes"].add("line to a client on /events", size, _pushes(plan, daemon, log))
        lines["memory"].add(MEMORY, size, process.rss_mb(daemon.pid))
        daemon.stop()
        for name, arguments in TAILS.items() if not _other_daemon() else ():
            times = sampled_ms(partial(_tail, daemon.state_dir, arguments), plan.samples(7, 2))
            lines["commands"].add(name, size, times)
        _write(plan, filling, size, lines["writes"])


def _ask_pages(plan: Plan, daemon: Daemon, filling: Filling, size: int, lines: Mapping[str, Lines]) -> None:
    questions = {
        "pages": {
            "newest end": "limit=100",
            "in the middle": f"since={filling.middle}&limit=100",
            "oldest (since=0)": "since=0&limit=100",
            "newest of one GPU of 8": f"limit=100&gpu={GPUS[0]}",
        },
        "filters": {
            "one GPU of 8, from the oldest": f"since=0&limit=100&gpu={GPUS[0]}",
            "1 in 1,000 by code": f"since=0&limit=1&code={RARE}",
            "no match by severity": "since=0&limit=100&severity=fatal",
            "no match by GPU": f"since=0&limit=100&gpu={NOBODY}",
            "no match by code": "since=0&limit=100&code=999",
            "no match, the newest 100": "limit=100&code=999",
        },
    }
    with closing(HttpCaller(daemon.port)) as caller:
        for series, asked in questions.items():
            for name, query in asked.items():
                samples = sampled_ms(_getting(daemon, caller, f"/events.json?{query}"), plan.samples(100, 5))
                lines[series].add(name, size, samples)


def _ask_tools(plan: Plan, daemon: Daemon, size: int, lines: Lines) -> None:
    questions: Mapping[str, tuple[str, Mapping[str, object]]] = {
        "get_xid_events": ("get_xid_events", {"limit": 10}),
        "analyze_xid_errors": ("analyze_xid_errors", {}),
        "analyze_xid_errors since 1 h": ("analyze_xid_errors", {"since": "1h"}),
        "get_incident_report": ("get_incident_report", {}),
        "describe_gpu_node": ("describe_gpu_node", {}),
    }
    with closing(Session(daemon.socket)) as session:
        for name, (tool, arguments) in questions.items():
            samples = sampled_ms(partial(session.call, tool, arguments), plan.samples(30, 3))
            lines.add(name, size, samples)
    with closing(HttpCaller(daemon.port)) as http:
        lines.add("/metrics", size, sampled_ms(_getting(daemon, http, "/metrics"), plan.samples(30, 3)))


def _getting(daemon: Daemon, caller: HttpCaller, path: str) -> Callable[[], None]:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost:{daemon.port}\r\n\r\n".encode()

    def get() -> None:
        answer = caller.exchange(request)
        assert answer.startswith(b"HTTP/1.1 200"), answer[:500]

    return get


def _pushes(plan: Plan, daemon: Daemon, log: FakeKernelLog) -> list[float]:
    """ms from the write of a line to its event at a subscriber; each line is a new event."""
    subscriber = Subscriber(daemon.port, "/events?kind=xid")
    subscriber.wait_for_hello()
    times = []
    for number in range(plan.samples(40, 4)):
        began = time.perf_counter()
        log.write(xid_line(GPUS[number % len(GPUS)], CODE, 100_000 + number))
        while not any(event["process"]["pid"] == 100_000 + number for event in subscriber.frames()):
            subscriber.receive()
        times.append((time.perf_counter() - began) * 1000)
    subscriber.close()
    return times


def _other_daemon() -> Path | None:
    """A socket that `tail` would ask instead of reading the journal."""
    return next((path for path in client_sockets() if path.exists()), None)


def _tail(state_dir: Path, arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", "xidwatch", "tail", "--state-dir", str(state_dir), *arguments]
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=clean_environment())


def _write(plan: Plan, filling: Filling, size: int, lines: Lines) -> None:
    """What the writer thread does, through the same objects and on the same file."""
    with closing(Journal.open(filling.state_dir)) as journal:
        changes = iter([filling.change() for _ in range(plan.samples(200, 20))])

        def commit() -> None:
            journal.commit(next(changes))

        lines.add("commit of one event", size, timed_ms(commit, plan.samples(200, 20)))
        journal.checkpoint_if_due()
        old = Retention(age_s=365 * 86_400)
        looks = sampled_ms(lambda: old.delete_aged(journal), plan.samples(20, 3))
        lines.add("looking for events too old", size, looks)
        full = Retention(size_bytes=1)
        deletions = timed_ms(lambda: full.delete_excess(journal), min(size // 512, plan.samples(20, 1)))
        lines.add("deleting 256 events", size, deletions)


def _series(name: str, lines: Lines, *, judged: bool) -> Series:
    title, unit, why = _TEXTS[name]
    return Series(f"journal-{name}", title, EVENTS_KEPT, unit, lines.points, lines.growth(judged=judged), why)


_TEXTS: Mapping[str, tuple[str, str, str]] = {
    "pages": (
        "A page of 100 events of the journal",
        "time, ms",
        "The cursor is the journal's primary key: a page is one descent of its tree and 100 rows from there.",
    ),
    "filters": (
        "A filtered page of the journal",
        "time, ms",
        "A filter that matches often ends after 100 rows. One that matches nothing has to be told so by an "
        "index, else it looks at every event.",
    ),
    "commands": (
        "Starting a daemon on the journal, and reading it without one",
        "time, ms",
        "A start reads the newest events into memory and no others; a journal of up to 64 MiB is checked "
        "whole. Most of `tail` is the start of Python.",
    ),
    "writes": (
        "Writing and deleting",
        "time, ms",
        "A commit adds a row and its index entries at the end of their trees; retention deletes a bounded "
        "number in one transaction.",
    ),
    "tools": (
        "Questions over MCP, and a scrape",
        "time, ms",
        "Every tool looks at a bounded number of the newest events of each severity; the metrics are counted "
        "as events come.",
    ),
    "size": (
        "Size of the journal on disk",
        "size, MB",
        "Every event is kept once, whatever its number of revisions, until retention deletes it.",
    ),
    "event": (
        "Size of one event in the journal",
        "size, bytes",
        "Its JSON, the index entries, and what pages leave free.",
    ),
    "memory": (
        "Resident memory of a daemon on the journal",
        "resident memory, MB",
        "The ring holds a fixed number of events, and a page is the most that is read at once.",
    ),
}
