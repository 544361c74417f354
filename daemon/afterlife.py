"""What becomes of the process that a fault names: where it ran, and how and when it ended.

The event goes out first; what the tracker tells of its process becomes a revision of it: cgroup and
container also when the process was gone before anyone could look into /proc, and the exit code or signal
with the time from the fault to the end.

A process id alone says little, since the kernel gives it out again. An end is told of an event only when
the name is the one that the driver printed, the process had begun before the fault, and it ended after
it, or so shortly before that the line may still be about it (the driver also prints while it cleans up
after a process). An end before the line is told only where somebody can look whether another process has
the pid by now. Only what happens now is waited for, not what is read from the log of earlier, nor drills,
whose processes are made up. After a restart nothing is waited for: what was not seen stays unknown.

Of an event that nobody has proved nothing is told: a process may have written its line, and would have a
stranger's container named by its pid. The end is kept, and told once a later witness proves the event.

Belongs to the event loop's thread. No timer runs.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from daemon.event import Event, Kind, Process
from daemon.fault import Facts
from daemon.gpu.container import container_of
from daemon.text import clean
from probes.bpf.ended import CUT, Ended
from probes.health import ProbeHealth
from probes.kernel import Clock
from probes.line import Origin

FRESH_US: Final = 5_000_000
"""How old an event may be when it is heard: later its pid may be another's."""
WAIT_US: Final = 25_000_000
"""How long an end is waited for: an event takes news for 30 s after its last line, and what ends later
hardly ended by this fault."""
BEFORE_US: Final = 5_000_000
"""How long before its fault a process may have ended."""
EXACT_US: Final = 20_000
"""How exactly the time of an event and that of a process can be compared: the log is read a timer tick
late, and both ways of telling a start are cut to 10 ms."""
WAITING: Final = 1024
"""Events that wait for an end; the oldest goes without."""
CGROUP_CHARS: Final = 1024

_KINDS = frozenset({Kind.XID, Kind.GPU_LOST, Kind.NVRM})
_CLOCK_TICKS_US = 10_000  # USER_HZ is 100 on every machine that eBPF programs are loaded on here

Found = Callable[[str, Facts], None]
"""Takes what was found out about the event of this id."""


class Tracker(Protocol):
    """Who tells how processes end; `probes.bpf.tracker.ProcessTracker`."""

    def start(self) -> None:
        """Begin to hear, or know why not."""

    def close(self) -> None:
        """Tell nothing more."""

    def watch(self, pid: int) -> bool:
        """Tell of the end of this process."""

    def ended(self, pid: int) -> Ended | None:
        """The last process of this pid that ended."""

    def health(self) -> ProbeHealth:
        """State and counts."""

    @property
    def blind_to(self) -> Sequence[str]:
        """What it cannot see here."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    event_id: str
    is_proved: bool
    """The kernel printed its line; otherwise the end is kept."""
    name: str | None
    time_us: int
    """Wall clock of the fault."""
    until_us: int
    """CLOCK_MONOTONIC at which nobody waits any more."""


class Afterlife:
    """Adds to events what becomes of their processes."""

    def __init__(
        self,
        tracker: Callable[[Callable[[Ended], None]], Tracker],
        found: Found,
        *,
        clock: Clock,
        start_of: Callable[[int], int | None] | None,
        boottime_us: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000,
    ) -> None:
        """`tracker` makes one that tells the given function of each end. `start_of`: the start of the process
        that has this pid now, in clock ticks since boot, or None when there is none; itself None where
        nobody can look."""
        self._tracker = tracker(self._ended)
        self._found = found
        self._clock = clock
        self._start_of = start_of
        self._boottime_us = boottime_us
        self._waiting: OrderedDict[tuple[int, str], _Waiting] = OrderedDict()
        """By pid and event, the one that waits longest first."""
        self._heard: OrderedDict[tuple[int, str], bool] = OrderedDict()
        """By pid and event: whether that was proved when it was heard last."""
        self._kept: OrderedDict[tuple[int, str], Ended] = OrderedDict()
        """Ends that are not told until the event is proved."""
        self.told = 0
        """Events of which it was told how their process ended."""

    def start(self) -> None:
        """Load the tracker and hear from now on; where that cannot be, `status` says why."""
        self._tracker.start()

    def close(self) -> None:
        """Hear nothing more. May be called twice."""
        self._tracker.close()
        self._waiting.clear()
        self._kept.clear()

    def health(self) -> ProbeHealth:
        """State and counts of the tracker."""
        return self._tracker.health()

    def status(self) -> Mapping[str, Any]:
        """State as a JSON object, for `xidwatch status`."""
        health = self._tracker.health()
        return {
            "runs": health.hears,
            "state": health.cause,
            "reason": health.reason,
            "hint": health.hint,
            "blind_to": list(self._tracker.blind_to),
            "counters": {**health.counters, "events": self.told, "waiting": len(self._waiting)},
        }

    def heard(self, events: Iterable[Event]) -> None:
        """Begin to wait for the end of the process that an event names, which a later line may do first."""
        for event in events:
            if (
                event.process is None
                or event.process.pid is None
                or event.process.exited_after_us is not None
            ):
                continue
            key = (event.process.pid, event.id)
            is_proved = event.origin == Origin.KERNEL
            if self._heard.get(key) is False and is_proved:
                self._heard[key] = True
                asyncio.get_running_loop().call_soon(self._proved, key, event)
            elif key not in self._heard and self._is_fresh(event):
                self._remember(key, is_proved=is_proved)
                # Not at once: what is found is told in the order in which events are.
                asyncio.get_running_loop().call_soon(self._begin, key, event)

    def _is_fresh(self, event: Event) -> bool:
        may_be_the_kernels = event.origin != Origin.USERSPACE and not event.drill
        is_new = self._clock.wall_us() - event.time_us < FRESH_US
        return event.kind in _KINDS and may_be_the_kernels and is_new

    def _remember(self, key: tuple[int, str], *, is_proved: bool) -> None:
        self._heard[key] = is_proved
        if len(self._heard) > WAITING:
            self._heard.popitem(last=False)

    def _begin(self, key: tuple[int, str], event: Event) -> None:
        waiting = self._wait_of(event)
        before = self._tracker.ended(key[0])
        if before is not None and self._is_of(before, waiting) and not self._may_be_anothers(before, waiting):
            self._found_end(key, before, waiting)
        elif self._tracker.watch(key[0]):
            self._waiting[key] = waiting
        now_us = self._clock.monotonic_us()
        while self._waiting and (len(self._waiting) > WAITING or self._oldest.until_us < now_us):
            self._waiting.popitem(last=False)

    def _proved(self, key: tuple[int, str], event: Event) -> None:
        """A later witness has proved an event: its end may be told now."""
        waiting, kept = self._wait_of(event), self._kept.pop(key, None)
        if key in self._waiting:
            self._waiting[key] = waiting
            self._waiting.move_to_end(key)
        elif kept is not None and self._is_of(kept, waiting):
            self._tell(kept, waiting)

    def _wait_of(self, event: Event) -> _Waiting:
        name = event.process.name if event.process is not None else None
        until_us = self._clock.monotonic_us() + WAIT_US
        return _Waiting(event.id, event.origin == Origin.KERNEL, name, event.time_us, until_us)

    @property
    def _oldest(self) -> _Waiting:
        return next(iter(self._waiting.values()))

    def _ended(self, process: Ended) -> None:
        """A process ended: the end of the wait for every event that named it."""
        now_us = self._clock.monotonic_us()
        for key in [key for key in self._waiting if key[0] == process.pid]:
            waiting = self._waiting.pop(key)
            if waiting.until_us < now_us or not self._is_of(process, waiting):
                continue
            if self._after_us(process, waiting) >= 0 or not self._may_be_anothers(process, waiting):
                self._found_end(key, process, waiting)
            elif self._tracker.watch(process.pid):
                self._waiting[key] = waiting  # for the end of the one that has the pid now

    def _is_of(self, process: Ended, waiting: _Waiting) -> bool:
        """True when it is the process that the line of this event is about."""
        if process.started_us is None:
            return False
        started_us = self._clock.wall_us() - (self._boottime_us() - process.started_us)
        is_named_so = waiting.name is None or _name(process) == waiting.name[:15]
        had_begun = started_us <= waiting.time_us + EXACT_US
        return is_named_so and had_begun and self._after_us(process, waiting) >= -BEFORE_US

    def _may_be_anothers(self, process: Ended, waiting: _Waiting) -> bool:
        """True when its pid was given out again, or may have been before the line was printed: the line may
        be about the new one."""
        if self._start_of is None:
            return self._after_us(process, waiting) < 0
        ticks = self._start_of(process.pid)
        own = None if process.started_us is None else process.started_us // _CLOCK_TICKS_US
        return ticks is not None and ticks != own

    def _after_us(self, process: Ended, waiting: _Waiting) -> int:
        ended_us = self._clock.wall_us() - (self._clock.monotonic_us() - process.ended_us)
        return ended_us - waiting.time_us

    def _found_end(self, key: tuple[int, str], process: Ended, waiting: _Waiting) -> None:
        if waiting.is_proved:
            self._tell(process, waiting)
            return
        self._kept[key] = process
        if len(self._kept) > WAITING:
            self._kept.popitem(last=False)

    def _tell(self, process: Ended, waiting: _Waiting) -> None:
        self.told += 1
        self._found(waiting.event_id, Facts(process=self._process(process, waiting)))

    def _process(self, ended: Ended, waiting: _Waiting) -> Process:
        inside, container_id = _container(ended)
        started_us = None
        if ended.started_us is not None:
            started_us = self._clock.wall_us() - (self._boottime_us() - ended.started_us)
        return Process(
            ended.pid,
            _name(ended),
            container_id=container_id,
            exit_code=ended.exit_code,
            in_container=inside,
            started_us=started_us,
            cgroup=None if ended.cgroup is None else clean(ended.cgroup, CGROUP_CHARS),
            exit_signal=ended.signal,
            exited_after_us=self._after_us(ended, waiting),
        )


def _name(process: Ended) -> str | None:
    return None if process.name is None else clean(process.name, 64)


def _container(process: Ended) -> tuple[bool | None, str | None]:
    """Whether it ran in a container, and in which; None: unknown."""
    if process.cgroup is None:
        return None, None
    # Read in the kernel, the path is the host's whatever namespaces this program lives in.
    found = container_of(
        f"0::{process.cgroup}", has_own_pids=process.own_pids is not False, has_host_cgroups=True
    )
    if found.inside is False and process.cgroup.startswith(CUT):
        return None, None
    return found.inside, found.id
