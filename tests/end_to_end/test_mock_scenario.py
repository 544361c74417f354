"""`xidwatch serve --gpu mock --mock-scenario FILE`: a demonstration, as its audience sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.tool_calls import call
from tests.support.waiting import wait_for

DOCUMENT = Path(__file__).parents[2] / "docs" / "gpus.md"


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """A file with three GPUs, all idle."""
    path = tmp_path / "fleet.toml"
    path.write_text("[[gpu]]\n[[gpu]]\n[[gpu]]\n")
    return path


@pytest.fixture
def daemon(tmp_path: Path, kernel_log: FakeKernelLog, scenario: Path) -> Iterator[Daemon]:
    """A running daemon with the GPUs of the scenario."""
    flags = ["--gpu", "mock", "--mock-scenario", str(scenario)]
    running = Daemon(tmp_path, kmsg=kernel_log.path, flags=flags)
    try:
        yield running.start()
    finally:
        assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


def health(daemon: Daemon) -> dict[str, Any]:
    result = call(daemon.url, "get_gpu_health")
    assert not result.is_error, result.content
    content: Any = result.structured_content
    return dict(content)


def test_a_gpu_falls_off_when_the_file_says_so_and_is_back_when_it_says_that(
    daemon: Daemon, scenario: Path
) -> None:
    assert [gpu["state"] for gpu in health(daemon)["gpus"]] == ["healthy"] * 3
    scenario.write_text('[[gpu]]\n[[gpu]]\nstate = "lost"\n[[gpu]]\n')
    data = health(daemon)
    lost = data["gpus"][1]
    assert (data["mock"], data["state"], lost["state"]) == (True, "unhealthy", "unhealthy")
    assert lost["lost"]["presence"] == "lost"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT.*Z", lost["lost"]["since"])
    assert health(daemon)["gpus"][1]["lost"] == lost["lost"], "since when stays"
    result = call(daemon.url, "describe_gpu_node")
    assert "The GPU is lost since 20" in result.content[0].text  # type: ignore[union-attr]  # text it is
    scenario.write_text("[[gpu]]\n[[gpu]]\n[[gpu]]\n")
    assert [gpu["state"] for gpu in health(daemon)["gpus"]] == ["healthy"] * 3
    assert daemon.events("since=0&kind=xid") == [], "no line of the kernel log is invented"


def test_a_real_fault_stays_real_and_is_held_against_no_invented_gpu(
    daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    first = health(daemon)["gpus"][0]
    kernel_log.write(f"NVRM: Xid (PCI:{first['pci'][:-2]}): 79, pid=446, GPU has fallen off the bus.")
    wait_for(lambda: daemon.events("since=0&kind=xid"), "the event")
    data = health(daemon)
    assert (data["mock"], data["state"], data["reasons"]) == (True, "healthy", [])
    assert "the events are this node's own" in data["events_unread"]
    result = call(daemon.url, "describe_gpu_node")
    node: Any = result.structured_content
    (fault,) = node["events"]["faults"]
    assert (fault["title"], fault["device"]) == ("Xid 79 GPU_HAS_FALLEN_OFF_THE_BUS", first["pci"])
    text = result.content[0].text  # type: ignore[union-attr]  # text it is
    assert text.startswith(
        "MOCK: the GPUs and their readings are invented (--gpu mock); events and incidents"
    )
    assert "Events UNKNOWN" not in text
    assert node["events_unread"] is None


def test_a_broken_file_is_logged_and_said_and_the_fleet_stays(daemon: Daemon, scenario: Path) -> None:
    health(daemon)
    scenario.write_text('[[gpu]]\nstat = "lost"\n')
    data = health(daemon)
    assert len(data["gpus"]) == 3
    assert "unknown key 'stat'" in data["source"]["reason"]
    assert "the mock fleet stays as it was" in daemon.log.read_text()


def test_the_example_of_the_documentation_does_what_is_said_of_it(
    tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    text = DOCUMENT.read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    command = re.search(r"^\$ xidwatch serve (--gpu mock --mock-scenario) (\S+)$", text, re.MULTILINE)
    assert command is not None
    (tmp_path / command[2]).write_text(example)
    flags = [*command[1].split(), str(tmp_path / command[2])]
    running = Daemon(tmp_path, kmsg=kernel_log.path, flags=flags)
    try:
        running.start()
        found = health(running)["gpus"]
        assert len(found) == 3
        wait_for(lambda: any("lost" in gpu for gpu in health(running)["gpus"]), "the GPU to fall off")
        assert [("lost" in gpu) for gpu in health(running)["gpus"]] == [False, False, True]
    finally:
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("gpus = 8", ["--gpu", "mock"], "valid ones are driver, gpu, step"),
        ('[[step]]\nat_s = 1\ngpu = 0\nstat = "lost"', ["--gpu", "mock"], "valid ones are at_s, after_looks"),
        ("[[gpu]]", [], "add --gpu mock"),
        (None, ["--gpu", "mock"], "no such file or directory"),
    ],
)  # fmt: skip
def test_a_scenario_that_cannot_be_is_refused_in_one_sentence(
    tmp_path: Path, kernel_log: FakeKernelLog, text: str | None, flags: list[str], said: str
) -> None:
    path = tmp_path / "fleet.toml"
    if text is not None:
        path.write_text(text)
    result = xidwatch(
        "serve",
        *(*flags, "--mock-scenario", str(path), "--state-dir", str(tmp_path / "state")),
        *("--listen", "127.0.0.1:0", "--socket", str(tmp_path / "s"), "--kmsg", str(kernel_log.path)),
    )
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err
