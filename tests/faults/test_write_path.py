"""kill -9, and calls that fail, anywhere between a kernel record and its commit.

The write path of a daemon runs as a process of its own that is forked, not started, so that it can be
killed thousands of times. `tests.support.write_path.Model` says what may be seen afterwards.
"""

from __future__ import annotations

import errno
import random
import time
from pathlib import Path

import pytest

from tests.support.fault_lab import Happened, fault, rounds
from tests.support.faulty_disk import Action, FaultyDisk
from tests.support.write_path import KernelLog, Model, WritePath, told

FAULTS = 60
"""In one log."""
CALLS_TO_MAKE_IT = 24
"""System calls of a first start: they make the file, and write the first commits."""
KILLS_OF_ONE_LOG = 8
"""Then it may come to the end of it."""


@fault(
    "kill -9 at a random moment, again and again, from the start of the daemon to its end",
    promise=1,
    promised="no fault lost, none told twice, cursors growing",
)
def test_killed_at_any_moment_it_loses_and_doubles_nothing(
    tmp_path: Path, rng: random.Random, disk: FaultyDisk, happened: Happened
) -> None:
    wanted = rounds(short=40, long=5_000)
    kills = logs = items = events = 0
    with WritePath(tmp_path, disk) as write_path:
        write_path.begin(KernelLog(rng, FAULTS))
        assert write_path.run(rng.randrange(1 << 30))  # with the start of the interpreter
        write_path.begin(KernelLog(rng, FAULTS))
        began = time.monotonic()
        assert write_path.run(rng.randrange(1 << 30))
        whole_life_s = time.monotonic() - began
        while kills < wanted:
            log = KernelLog(rng, FAULTS)
            model = Model(log, write_path)
            write_path.begin(log)
            for _ in range(KILLS_OF_ONE_LOG):
                kills += not write_path.run(rng.randrange(1 << 30), lives_s=rng.uniform(0.0, whole_life_s))
                model.check()
            assert write_path.run(rng.randrange(1 << 30))
            events += model.check()
            logs, items = logs + 1, items + len(told(write_path.acks))
    happened(
        f"{kills:,} kills while {logs * FAULTS:,} faults of {logs:,} logs were heard: each counted once in"
        f" the journal that every kill left; {items:,} items told of {events:,} events, cursors growing"
    )


@fault(
    "kill -9 before, in the middle of, and after every single system call that changes the journal",
    promise=1,
    promised="no fault lost, none told twice, cursors growing",
)
def test_killed_at_any_call_of_a_commit_it_loses_and_doubles_nothing(
    tmp_path: Path, rng: random.Random, disk: FaultyDisk, happened: Happened
) -> None:
    log = KernelLog(rng, FAULTS)
    seed = rng.randrange(1 << 30)
    with WritePath(tmp_path, disk) as write_path:
        model = Model(log, write_path)
        disk.count(write_path.state_dir / "journal")
        write_path.begin(log)
        assert write_path.run(seed)
        model.check()
        calls = disk.calls
        places = [
            (call, action)
            for call in range(1, calls + 1)
            for action in (Action.KILL_BEFORE, Action.KILL_HALFWAY, Action.KILL_AFTER)
        ]
        chosen = rng.sample(places, min(len(places), rounds(short=24, long=10_000)))
        kills = 0
        for call, action in chosen:
            write_path.begin(log)
            # Twice: what a start does with what a kill left is written, too.
            for _ in range(2):
                disk.count(write_path.state_dir / "journal")
                disk.at(call, action)
                killed = not write_path.run(seed)
                kills += killed
                assert killed == (disk.hit > 0)
                model.check()
            disk.works()
            assert write_path.run(seed)
            model.check()
    happened(
        f"{kills:,} kills at {len(chosen):,} places of {calls:,} calls: nothing lost, nothing told twice"
    )


@fault(
    "kill -9 after each of the system calls that make the journal, at the very first start",
    promise=1,
    promised="the next start makes it, or goes on with it",
)
def test_killed_while_the_journal_is_made_it_makes_it_at_the_next_start(
    tmp_path: Path, rng: random.Random, disk: FaultyDisk, happened: Happened
) -> None:
    log = KernelLog(rng, faults=3)
    with WritePath(tmp_path, disk) as write_path:
        model = Model(log, write_path)
        for call in range(1, CALLS_TO_MAKE_IT + 1):
            write_path.begin(log)
            disk.count(write_path.state_dir / "journal")
            disk.at(call, Action.KILL_AFTER)
            assert not write_path.run(call)
            disk.works()
            assert write_path.run(call), f"after call {call} the journal takes nothing"
            assert model.check() >= len(log.occurrences(upto=len(log.records)))
    happened(f"{CALLS_TO_MAKE_IT} kills: every next start kept all there was to hear")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@fault(
    "any one system call on the journal fails: the disk is full, or has an I/O error",
    promise=1,
    promised="nothing lost, nothing told twice; it goes on by itself",
)
def test_any_call_that_fails_costs_nothing(
    tmp_path: Path, rng: random.Random, disk: FaultyDisk, error: int, happened: Happened
) -> None:
    log = KernelLog(rng, FAULTS)
    seed = rng.randrange(1 << 30)
    with WritePath(tmp_path, disk) as write_path:
        model = Model(log, write_path)
        disk.count(write_path.state_dir / "journal")
        write_path.begin(log)
        assert write_path.run(seed)
        calls = disk.calls
        places = [
            (call, action) for call in range(1, calls + 1) for action in (Action.FAIL, Action.FAIL_HALFWAY)
        ]
        chosen = rng.sample(places, min(len(places), rounds(short=4, long=400)))
        for call, action in chosen:
            write_path.begin(log)
            disk.count(write_path.state_dir / "journal")
            disk.at(call, action, upto=call + 1, error=error)
            assert write_path.run(seed)
            model.check()
    happened(f"{len(chosen):,} of {calls:,} calls failed, one after the other: each fault was counted once")
