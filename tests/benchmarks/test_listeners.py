"""Baselines hear what they are said to hear: readers in C and in Python agree, and pipelines are ended."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import kernel_log, listeners, peers
from benchmarks.figure import Unavailable
from tests.support.kernel_log import FakeKernelLog

END = "the end"
LINES = 12


def c_reader(directory: Path) -> Sequence[str]:
    try:
        return (str(listeners.bare_c(directory)), "flood")
    except Unavailable as reason:
        pytest.skip(str(reason))


def account(command: Sequence[str], log: FakeKernelLog) -> dict[str, float]:
    """What a bare reader says of some records with a gap among them."""
    with peers.running((*command, str(log.path), END, "Xid")) as reader:
        assert peers.first_line(reader) == "ready"
        for number in range(LINES):
            log.write("NVRM: Xid (PCI:0000:91:00): 43" if number % 4 == 0 else "another driver")
            if number == 5:
                log.next_seq += 7  # overwritten before anyone read them
        log.write(END)
        found: dict[str, float] = json.loads(peers.first_line(reader))
    return found


@pytest.mark.parametrize("language", ["c", "python"])
def test_a_bare_reader_counts_what_it_read_and_what_was_lost(
    language: str, tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    command = c_reader(tmp_path) if language == "c" else peers.command("bare_flood_reader")
    found = account(command, kernel_log)
    assert (found["read"], found["lost"], found["matched"]) == (LINES + 1, 7, LINES // 4)
    assert found["cpu_s"] > 0


@pytest.mark.kmsg
@pytest.mark.parametrize(
    "listener",
    [listeners.PYTHON, listeners.C, listeners.DMESG, listeners.BPFTRACE],
    ids=lambda listener: listener.name,
)
def test_a_listener_has_every_line_after_it_was_written(listener: listeners.Listener, tmp_path: Path) -> None:
    try:
        kernel_log.require_kmsg()
        delays = listeners.delays_ms(listener, tmp_path, 5, (0.001, 0.002))
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert len(delays) == 5
    assert min(delays) > 0


def test_a_pipeline_that_ends_is_unavailable_with_its_last_words(tmp_path: Path) -> None:
    broken = listeners.Listener(
        "broken",
        lambda marker, directory: peers.command("piped", marker, "sh", "-c", "echo no such probe >&2"),
    )
    try:
        kernel_log.require_kmsg()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with pytest.raises(Unavailable, match="no such probe"):
        listeners.delays_ms(broken, tmp_path, 1, (0, 0))


def test_a_pipeline_ends_with_the_benchmark_that_started_it(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; echo marker; exec sleep 60"
    with subprocess.Popen(
        [*peers.command("piped", "marker", "sh", "-c", script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=peers.ROOT,
    ) as process:
        assert peers.first_line(process) == "ready"
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)
        assert len(json.loads(peers.ended(process))) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_without_a_compiler_the_reader_in_c_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no C compiler"):
        listeners.bare_c(tmp_path)
