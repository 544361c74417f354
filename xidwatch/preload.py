"""Loads the eBPF programs before anything else of the daemon runs, and gives up what only that took.

Capabilities belong to threads and are inherited by processes: once the journal's writer or the GPU's reader
run, they would keep theirs. So this comes first. What the programs hear meanwhile waits in their rings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from daemon.config import Config
from daemon.lock import is_held
from daemon.origin_look import LookFor
from probes import klog, log_stamp, privileges
from probes.bpf import availability, surroundings, tracker, tracker_load
from probes.bpf.descriptors import Loader
from probes.bpf.tracker import TrackerLoader
from probes.bpf.unavailable import LoaderError, Unavailable
from probes.privileges import EBPF, GivenUp
from xidwatch import tracking
from xidwatch.ears import choose, loader_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Preloaded:
    """What is in the kernel already, for `Ears` and `Tracking` to take over."""

    load: Loader | None
    """Hands the program over that hears the kernel log, or why there is none; None where none is wanted."""
    load_tracker: TrackerLoader | None
    """The same of the process tracker."""
    begun_us: int | None
    """How far the log went before the program heard, in µs of kernel time; None where it may not be read."""
    given_up: GivenUp
    clocks: log_stamp.Measured | None = None
    """The log's clock and CLOCK_MONOTONIC, compared while that was still allowed; None where it is not, or
    where nothing needs it."""
    had_predecessor: bool = False
    """True when another process held the state directory before the program heard: it may have told what
    the program heard since."""


def preload(config: Config, *, look_for: LookFor = klog.look_for) -> Preloaded:
    """Load what these settings ask for, then give up the capabilities that nothing else needs.

    Never raises for what the environment refuses: the loaders of the answer do, when they are called.
    Raises UserError where the settings contradict each other.
    """
    choice = choose(config)
    load, load_tracker, begun_us, clocks = None, None, None, None
    had_predecessor = False
    if choice.bpf:
        had_predecessor = is_held(config.state_dir)
        clocks = log_stamp.measure()
        with contextlib.suppress(OSError):
            begun_us = look_for(()).newest_us
        loader = loader_of(config)
        load = _handed_over(availability.attach(loader), loader)
    if tracking.why_off(config) is None:
        load_tracker = _handed_over(tracker.attach(), tracker_load.load)
    needed = EBPF if choice.driver else availability.needed_while_running(surroundings.look())
    given_up = privileges.give_up(needed=needed)
    return Preloaded(load, load_tracker, begun_us, given_up, clocks, had_predecessor)


def _handed_over(found: T | Unavailable, again: Callable[[], T]) -> Callable[[], T]:
    """A loader that has loaded already; `again` is for a second call, which gets a program of its own."""
    waiting: list[T | Unavailable] = [found]

    def load() -> T:
        if not waiting:
            return again()
        first = waiting.pop()
        if isinstance(first, Unavailable):
            raise LoaderError(first.state, first.reason, first.hint)
        return first

    return load
