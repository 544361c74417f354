"""What a daemon loads first of all, and what it gives up then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Config, ProbeName
from daemon.lock import StateLock
from probes import log_stamp, privileges
from probes.bpf.availability import attach
from probes.bpf.unavailable import LoaderError, Unavailable
from probes.kernel import Capability
from probes.klog import Look
from probes.privileges import GivenUp
from tests.support.daemon import ROOT
from tests.support.real_kernel_log import skip_unless_usable
from xidwatch.preload import preload

_PROGRAM = """
import asyncio, json, os, secrets, sys
from pathlib import Path
from daemon.config import load
from probes.bpf.probe import BpfProbe
from probes.bpf.tracker import ProcessTracker
from probes.bpf.unavailable import LoaderError
from probes import log_stamp
from xidwatch.preload import preload

def capabilities():
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapPrm"))

async def main():
    before = capabilities()
    preloaded = preload(load(json.loads(sys.argv[1]), {}))
    answer = {"before": before, "after": capabilities(), "gone": preloaded.given_up.capabilities,
              "why_kept": preloaded.given_up.why_kept, "begun_us": preloaded.begun_us,
              "had_predecessor": preloaded.had_predecessor,
              "clocks": preloaded.clocks and preloaded.clocks.offset_us, "now": log_stamp.offset_us()}
    if preloaded.load is None:
        return answer
    word = secrets.token_hex(8)
    if os.access("/dev/kmsg", os.W_OK):
        with open("/dev/kmsg", "wb", buffering=0) as log:
            log.write(f"<12>xidwatch-drill: between {word}\\n".encode())
    heard, more = [], asyncio.Event()
    def sink(batch):
        heard.extend(item.text for item in batch.items)
        more.set()
    probe = BpfProbe(sink, loader=preloaded.load)
    tracker = ProcessTracker(lambda ended: None, loader=preloaded.load_tracker)
    probe.start()
    tracker.start()
    answer |= {"state": probe.unavailable and probe.unavailable.state,
               "tracker": tracker.unavailable and tracker.unavailable.state}
    if probe.unavailable is None:
        async with asyncio.timeout(20):
            while not any(word in text for text in heard):
                more.clear()
                await more.wait()
        answer |= {"heard": len(heard), "counters": dict(probe.health().counters),
                   "second": probe.unavailable is None}
    probe.close()
    tracker.close()
    return answer

print(json.dumps(asyncio.run(main())))
"""
LOADING = 1 << Capability.BPF | 1 << Capability.PERFMON


def run(flags: dict[str, str], *, kept: tuple[str, ...]) -> dict[str, Any]:
    """What a process with these capabilities alone says of itself."""
    skip_unless_usable()
    if isinstance(found := attach(), Unavailable):
        pytest.skip(found.reason)
    found.close()
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    bounding = "".join(f",+{name}" for name in kept)
    command = ["setpriv", f"--bounding-set=-all{bounding}", "--inh-caps=-all", sys.executable, "-c", _PROGRAM]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, json.dumps(flags)], capture_output=True, text=True, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


GRANTED = ("bpf", "perfmon", "syslog")


def test_what_was_printed_between_loading_and_listening_is_heard_without_the_capabilities_to_load() -> None:
    said = run({}, kept=GRANTED)
    assert said["before"] & LOADING == LOADING
    assert said["after"] == 1 << Capability.SYSLOG
    assert said["gone"] == ["CAP_PERFMON", "CAP_BPF"]
    assert (said["state"], said["tracker"]) == (None, None)
    assert said["heard"] >= 1
    assert said["counters"]["matched"] >= 1
    assert said["begun_us"] > 0
    assert (said["clocks"] is None) == (said["now"] is None and log_stamp.offset_us() is None)


def test_the_clocks_are_compared_before_the_right_to_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    measured = log_stamp.Measured(7, 8)

    def measure() -> log_stamp.Measured:
        order.append("measured")
        return measured

    def give_up(**kept: object) -> GivenUp:
        order.append("gave up")
        return GivenUp((), None)

    monkeypatch.setattr(log_stamp, "measure", measure)
    monkeypatch.setattr(privileges, "give_up", give_up)
    without_tracker = replace(Config(), kmsg=Path("/tmp/log"), probes=frozenset({ProbeName.BPF}))
    preloaded = preload(without_tracker, look_for=lambda texts: Look([], None))
    assert preloaded.load is not None
    with contextlib.suppress(LoaderError):
        preloaded.load().close()
    assert preloaded.clocks == measured
    assert order == ["measured", "gave up"]


def test_who_holds_the_state_directory_already_may_hear_what_the_program_does(tmp_path: Path) -> None:
    settings = {"state-dir": str(tmp_path)}
    assert run(settings, kept=GRANTED)["had_predecessor"] is False
    lock = asyncio.run(StateLock.acquire(tmp_path))
    try:
        assert run(settings, kept=GRANTED)["had_predecessor"] is True
    finally:
        lock.release()


def test_the_driver_probe_attaches_again_later_and_keeps_them() -> None:
    said = run({"probes": "bpf,driver"}, kept=GRANTED)
    assert said["after"] == said["before"]
    assert "still needed" in said["why_kept"]


def test_where_nothing_is_to_be_loaded_they_are_given_up_at_once() -> None:
    said = run({"ebpf": "off"}, kept=GRANTED)
    assert said["gone"] == ["CAP_PERFMON", "CAP_BPF"]
    assert said["begun_us"] is None


def test_what_cannot_be_loaded_is_a_state_of_the_probe() -> None:
    said = run({}, kept=("bpf",))
    assert said["state"] == said["tracker"] == "only_cap_bpf"
    assert said["gone"] == ["CAP_BPF"]
