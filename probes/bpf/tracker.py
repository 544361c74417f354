"""How processes that used a GPU ended, and in which cgroup: told by the kernel as they do.

What it keeps:

* Of each process that held a /dev/nvidia* file as it ended, and of each that was asked for with `watch`
  before it did, there is one `Ended`: handed to the listener, and kept among the last `REMEMBERED`.
* It needs neither /proc nor the host's pid and cgroup namespaces: all is read in the kernel, as the process
  ends. What the kernel's BTF does not let it find is None, never 0.
* It hooks the end of processes and nothing else: opens, other system calls and threads that end cost
  nothing, or next to it. So of a process that lives it knows nothing: /proc does.
* A program that cannot be loaded is a state, not an error: `health` and `unavailable` say why.

No timer runs. All methods belong to the event loop's thread.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from probes.bpf import availability, syscalls, tracker_load
from probes.bpf.ended import Ended, Known, decode
from probes.bpf.object_error import ObjectError
from probes.bpf.printed import ForeignLayout
from probes.bpf.ring_feed import RingFeed
from probes.bpf.surroundings import Surroundings, look
from probes.bpf.syscalls import BpfError
from probes.bpf.unavailable import LoaderError, State, Unavailable
from probes.health import Check, ProbeHealth, Verdict

NAME = "tracker"
REMEMBERED = 1024
"""Processes that ended, the last of each pid: half a kilobyte each."""

TrackerLoader = Callable[[], tracker_load.Tracker]
"""Raises BpfError, ObjectError or LoaderError, and leaves nothing behind then."""

_NOT_STARTED = Unavailable(State.NOT_STARTED, "not started", None)
_CLOSED = Unavailable(State.CLOSED, "closed", None)
_ABOUT_THE_LOG = frozenset(
    {
        State.PLATFORM,
        State.KERNEL_TOO_OLD,
        State.NO_SYSCALL,
        State.LOCKDOWN,
        State.VERIFIER,
        State.FAILED,
    }
)
"""States whose hint names another ear for the kernel log, which is none for how processes end."""
_ASKED_FOR = (1).to_bytes(4, "little")

_WITHOUT = {
    Known.CODE: "exit codes and signals",
    Known.FILES: "who held a device (only processes named by an Xid are told of)",
    Known.CGROUP: "cgroups and containers",
}


class ProcessTracker:
    """Hears how processes end, within the running event loop."""

    def __init__(self, ended: Callable[[Ended], None], *, loader: TrackerLoader = tracker_load.load) -> None:
        """`ended` is called for each process that ended, once, and must not raise."""
        self._listener = ended
        self._loader = loader
        self._running: _Running | None = None
        self._down: Unavailable | None = _NOT_STARTED
        self._ended: OrderedDict[int, Ended] = OrderedDict()
        self._told = self._unwatched = 0

    def start(self) -> None:
        """Load the program and hear from now on. Where that cannot be, `unavailable` says why."""
        found = attach(self._loader)
        if isinstance(found, Unavailable):
            self._down = found
            return
        try:
            feed = RingFeed(found.descriptors, self._take, self._fail)
        except OSError as error:
            os.close(found.watched)
            self._down = Unavailable(State.FAILED, f"cannot map the ring buffer: {error.strerror}", None)
            return
        self._running = _Running(feed, found.watched, found.known)
        self._down = None

    def close(self) -> None:
        """Detach the program; nothing is told afterwards. May be called twice."""
        self._stop()
        self._down = _CLOSED

    @property
    def blind_to(self) -> Sequence[str]:
        """What the running kernel does not let it see, in words; empty while it does not run."""
        return _blind_to(self._running.known) if self._running is not None else ()

    @property
    def unavailable(self) -> Unavailable | None:
        """Why it does not hear; None while it does."""
        return self._down

    def watch(self, pid: int) -> bool:
        """Tell of the end of this process (in the initial pid namespace) whatever it holds then.

        False when that cannot be. The least recently asked for of 4,096 is forgotten first.
        """
        if self._running is None:
            return False
        try:
            syscalls.update(self._running.watched, pid, _ASKED_FOR)
        except BpfError:
            self._unwatched += 1
            return False
        return True

    def ended(self, pid: int) -> Ended | None:
        """The last process of this pid that ended, of those kept."""
        return self._ended.get(pid)

    def health(self) -> ProbeHealth:
        """State and counts, as of now. It is no ear of the kernel log (`live` is False)."""
        down = self._down
        if self._running is not None:
            self._running.feed.look()
        counts = self._running.feed.counts if self._running is not None else None
        return ProbeHealth(
            NAME,
            hears=down is None,
            live=False,
            reason=down.reason if down else None,
            hint=down.hint if down else None,
            cause=down.state if down else None,
            counters={
                "ended": counts.seen if counts else 0,
                "told": self._told,
                "dropped": counts.dropped if counts else 0,
                "unread": counts.unread if counts else 0,
                "unwatched": self._unwatched,
            },
        )

    def _take(self, records: Sequence[bytes], lost: int) -> None:
        """`lost` is in the counts: which processes they were nobody knows."""
        try:
            for record in records:
                self._tell(decode(record))
        except ForeignLayout as error:
            self._fail(f"the eBPF program hands over {error}")

    def _tell(self, process: Ended) -> None:
        before = self._ended.pop(process.pid, None)
        self._ended[process.pid] = process
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        # Its last two threads may both find that none is left.
        if before is not None and before.started_us == process.started_us is not None:
            return
        self._told += 1
        self._listener(process)

    def _fail(self, why: str) -> None:
        self._stop()
        self._down = Unavailable(State.FAILED, why, None)

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.feed.close()
            os.close(running.watched)


@dataclass(frozen=True, slots=True)
class _Running:
    feed: RingFeed
    watched: int
    known: Known


def attach(
    loader: TrackerLoader = tracker_load.load, around: Surroundings | None = None
) -> tracker_load.Tracker | Unavailable:
    """A running tracker, or why there is none. Nothing is left behind in the second case."""
    around = around or look()
    cannot = availability.impossible(around)
    if cannot is not None:
        return _of_tracker(cannot)
    try:
        return loader()
    except LoaderError as error:
        return _of_tracker(error.why)
    except (BpfError, ObjectError) as error:
        return _of_tracker(availability.explain(error, around))


def _of_tracker(why: Unavailable) -> Unavailable:
    """What holds of the ear for the kernel log, said of the tracker."""
    if why.state is State.TRACEPOINT_ABSENT:
        return replace(why, reason=f"this kernel has no tracepoint {tracker_load.HOOK}", hint=None)
    return replace(why, hint=None) if why.state in _ABOUT_THE_LOG else why


def check(loader: TrackerLoader = tracker_load.load) -> Check:
    """Load the program, let it go, and say how that went and what it cannot tell here."""
    found = attach(loader)
    if isinstance(found, Unavailable):
        finding = f"how processes end is not known: {found.reason} ({found.state})"
        return Check(NAME, Verdict.WARN, finding, found.hint)
    found.descriptors.close()
    os.close(found.watched)
    missing = _blind_to(found.known)
    finding = f"attached to {found.descriptors.hook}"
    if not missing:
        return Check(NAME, Verdict.OK, f"{finding}: exit code, signal and container of GPU processes")
    return Check(
        NAME,
        Verdict.WARN,
        f"{finding}; not known on this kernel: {'; '.join(missing)}",
        "use a kernel with CONFIG_DEBUG_INFO_BTF",
    )


def _blind_to(known: Known) -> Sequence[str]:
    return [words for group, words in _WITHOUT.items() if group not in known]
