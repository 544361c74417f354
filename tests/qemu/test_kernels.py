"""The eBPF probe on kernels of distributions: which hook it chooses, and what it hears there.

Each kernel is booted once in software (30 s), with nothing but Python and the probes in it. The kernels
are packages of Debian and Ubuntu, downloaded on first use into .cache/kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.event import Event, Severity
from probes.bpf.probe import NAME as BPF
from probes.line import Origin
from tests.qemu import guest, machine
from tests.support.records import Heard, record

Trials = dict[str, dict[str, Any]]
VERSIONS = ("5.10", "5.15", "6.1")


@pytest.fixture(scope="session")
def initramfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("initramfs") / "initramfs.gz"
    machine.make_initramfs(at)
    return at


@pytest.fixture(scope="module", params=VERSIONS)
def booted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Trials]]:
    reason = machine.why_not()
    if reason is not None:
        pytest.skip(reason)
    version: str = request.param
    image = machine.kernel(version)
    if image is None:
        pytest.skip(f"no kernel {version} can be downloaded: see tests/qemu/fetch_kernels.sh")
    initramfs: Path = request.getfixturevalue("initramfs")
    trials = machine.boot(image, initramfs, tmp_path_factory.mktemp("guest"))
    for name in ("quiet", "loud"):
        heard = trials[name]
        print(
            f"\n{trials['kernel']['release']:28} {name:6} {hook(heard):22} {heard['user']} {heard['kernel']}",
            end="",
        )
    yield version, trials


def hook(heard: dict[str, Any]) -> str:
    """Where the program was attached; the state where it was not."""
    state: str | None = heard["state"]
    return state or heard["doctor"]["finding"].partition("attached a program to ")[2].partition(" in ")[0]


MUTED = "at console log level 4 it writes no Xids"
HOOKS = {
    ("5.10", "quiet"): "tracepoint_muted",
    ("5.10", "loud"): "printk:console",
    ("5.10", "no_btf"): "no_btf",
    ("5.15", "quiet"): "fexit/printk_sprint",
    ("5.15", "loud"): "fexit/printk_sprint",
    ("5.15", "no_btf"): "no_btf",
    ("6.1", "quiet"): "printk:console",
    ("6.1", "loud"): "printk:console",
    ("6.1", "no_btf"): "printk:console",
}


@pytest.mark.parametrize("trial", ["quiet", "loud", "no_btf"])
def test_the_hook_is_the_best_that_the_kernel_has_and_it_hears_or_the_state_says_why(
    booted: tuple[str, Trials], trial: str
) -> None:
    version, trials = booted
    heard = trials[trial]
    expected = HOOKS[version, trial]
    assert hook(heard) == expected, heard
    if heard["state"] is None:
        assert heard["hears"]
        # At the tracepoint no one is told who printed; at the function the facility proves it.
        told = expected.startswith("fexit")
        assert heard["user"] == ["userspace" if told else "unknown"]
        assert heard["kernel"] == ["kernel" if told else "unknown"]
        assert (heard["counters"]["records"], heard["counters"]["lost"]) == (2, 0)
    else:
        assert not heard["hears"]
        assert MUTED in heard["reason"]
        assert "kernel.printk=5" in heard["doctor"]["hint"]
        assert heard["user"] == heard["kernel"] == []


def test_a_name_that_the_kernel_prints_by_a_call_of_its_own_is_proved_by_no_hook(
    booted: tuple[str, Trials],
) -> None:
    """As `tests/end_to_end/test_continued_line.py` does on this machine's kernel."""
    version, trials = booted
    heard = trials["named"]
    expected = HOOKS[version, "quiet"]
    if heard["state"] is not None:
        assert hook(heard) == expected
        return
    assert heard["named"] == ["unknown"]
    assert heard["kernel"] == ["kernel" if expected.startswith("fexit") else "unknown"]
    [event] = told_by_it_alone(Origin(heard["named"][0]))
    assert (event.code, event.origin, event.severity) == (79, Origin.UNKNOWN, Severity.WARNING)


def told_by_it_alone(origin: Origin) -> Sequence[Event]:
    """What a daemon that hears nothing else makes of the name."""
    ears = Heard()
    ears.take(record(guest.NAME, 1_000_000, origin=origin, probe=BPF))
    ears.pass_time(60_000_000)
    return ears.events()


def test_the_doctor_explains_the_choice(booted: tuple[str, Trials]) -> None:
    version, trials = booted
    said = {trial: trials[trial]["doctor"] for trial in ("quiet", "loud")}
    verdicts = {trial: doctor["verdict"] for trial, doctor in said.items()}
    match version:
        case "5.10":
            assert verdicts == {"quiet": "fail", "loud": "warn"}
            assert "only while the console log level (now 7) stays above 4" in said["loud"]["finding"]
        case "5.15":
            assert verdicts == {"quiet": "ok", "loud": "ok"}
            assert "it is told who printed it" in said["quiet"]["finding"]
        case _:
            assert verdicts == {"quiet": "ok", "loud": "ok"}
            assert "called for each line as it is printed" in said["quiet"]["finding"]


def test_a_limit_of_locked_memory_counts_on_old_kernels_only(booted: tuple[str, Trials]) -> None:
    version, trials = booted
    if version == "5.10":
        assert trials["memlock"]["state"] == "memlock"
        assert "RLIMIT_MEMLOCK (65536 bytes)" in trials["memlock"]["reason"]
        assert "LimitMEMLOCK=infinity" in trials["memlock"]["doctor"]["hint"]
    else:
        assert trials["memlock"]["hears"]


def test_it_goes_on_hearing_and_counting_when_the_capabilities_to_load_are_given_up(
    booted: tuple[str, Trials],
) -> None:
    version, trials = booted
    heard = trials["given_up"]
    # Before 5.19 the counts are read with CAP_BPF only.
    assert heard["gone"] == ["CAP_PERFMON", "CAP_BPF"][: 2 if version == "6.1" else 1]
    assert heard["hears"], heard
    assert (heard["counters"]["records"], heard["counters"]["matched"]) == (2, 2)


def test_lockdown_in_confidentiality_mode_is_named(booted: tuple[str, Trials]) -> None:
    _, trials = booted
    assert trials["lockdown"]["state"] == "lockdown"
    assert "confidentiality mode" in trials["lockdown"]["reason"]
    assert "lockdown=integrity" in trials["lockdown"]["doctor"]["hint"]


def test_the_driver_program_names_device_and_message(booted: tuple[str, Trials]) -> None:
    _, trials = booted
    assert trials["driver"] == {"lines": ["NVRM: Xid (PCI:0000:91:00): 31, channel 0x0000000a"]}


def test_the_tracker_tells_how_processes_ended_and_where_they_ran(booted: tuple[str, Trials]) -> None:
    _, trials = booted
    tracked = trials["tracked"]
    assert (tracked["reason"], tracked["blind"]) == (None, [])
    killed, exited = tracked["ended"]
    assert (killed["signal"], killed["exit_code"], killed["had_device"]) == (9, None, True)
    assert (killed["cgroup"], killed["own_pids"]) == ("/pod/container", False)
    assert (exited["signal"], exited["exit_code"], exited["had_device"]) == (None, 3, False)
