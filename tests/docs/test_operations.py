"""docs/operations.md explains each line of `doctor`, each row and state of `status`, each counter."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from enum import StrEnum
from pathlib import Path

import pytest

from daemon.commits import JournalState
from daemon.counters import Counters
from daemon.gpu.expected_gpu import Presence
from daemon.gpu.source import SourceName
from daemon.sinks.health import SinkState
from probes.health import ProbeState, Verdict
from tests.support.command import xidwatch
from tests.support.daemon import ROOT, Daemon

TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
LAYERS = ("xidwatch", "mcp_server", "daemon", "probes")


def section(title: str) -> str:
    """The text below a heading, up to the next one of its rank or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[2]


def explained() -> set[str]:
    """The checks that have a section."""
    return set(re.findall(r"^### `(\w+)`$", TEXT, re.MULTILINE))


def verdicts(name: str) -> set[str]:
    """The verdicts that the section of a check explains."""
    return set(re.findall(r"^\* `(\w+)`:", section(f"`{name}`"), re.MULTILINE))


def made_in_the_sources() -> Iterator[str]:
    """The name of each `Check(…)` that the program makes."""
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "probes.health import" in text or path.name == "health.py":
                yield from _names_in(ast.parse(text))


def _names_in(tree: ast.Module) -> Iterator[str]:
    of_module = _constants(tree.body)
    for function in (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ):
        known = of_module | _constants(function.body)
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Check":
                match node.args[0]:
                    case ast.Constant(value=str(name)):
                        yield name
                    case ast.Name(id=variable) if variable in known:
                        yield known[variable]


def _constants(body: Sequence[ast.stmt]) -> dict[str, str]:
    """The texts that these statements give a name to."""
    named: dict[str, str] = {}
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                pairs = list(zip(names, values, strict=True))
            case ast.Assign(targets=[name], value=value):
                pairs = [(name, value)]
            case ast.AnnAssign(target=name, value=ast.Constant() as value):
                pairs = [(name, value)]
            case _:
                continue
        for name, value in pairs:
            if (
                isinstance(name, ast.Name)
                and isinstance(value, ast.Constant)
                and isinstance(value.value, str)
            ):
                named[name.id] = value.value
    return named


def doctor(*flags: str) -> dict[str, str]:
    """Name and verdict of each check of the real doctor."""
    result = xidwatch("doctor", "--json", *flags)
    assert result.code in (0, 1), result
    return {check["name"]: check["verdict"] for check in json.loads(result.out)["checks"]}


def test_each_check_that_the_sources_make_has_a_section_and_no_other_has() -> None:
    made = set(made_in_the_sources())
    assert len(made) > 15
    assert explained() == made


def test_what_the_doctor_says_beside_a_running_daemon_is_explained(running_daemon: Daemon) -> None:
    flags = ["--socket", str(running_daemon.socket), "--state-dir", str(running_daemon.state_dir)]
    found = doctor(*flags, "--listen", f"127.0.0.1:{running_daemon.port}")
    assert (found["socket"], found["listen"]) == ("ok", "warn")
    for name, verdict in found.items():
        assert verdict in verdicts(name), name


@pytest.mark.parametrize(
    "flags",
    [
        ["--ebpf", "off"],
        ["--probes", "kmsg,driver"],
        ["--probes", "bpf", "--gpu", "mock"],
        ["--listen", "0.0.0.0:0"],
        ["--token-file", "/nonexistent"],
        ["--on-event", "/nonexistent"],
        ["--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"],
    ],
    ids=" ".join,
)
def test_what_the_doctor_says_without_a_daemon_is_explained(flags: list[str], tmp_path: Path) -> None:
    for name, verdict in doctor(
        "--state-dir", str(tmp_path), "--socket", str(tmp_path / "s"), *flags
    ).items():
        assert verdict in verdicts(name), name


def test_each_verdict_is_explained() -> None:
    assert set(Verdict) == set(re.findall(r"^\| `(\w+)` \|", section("Doctor"), re.MULTILINE))


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("States of a probe", ProbeState),
        ("States of the GPU readings", SourceName),
        ("States of a sink and an outlet", SinkState),
        ("States of the journal", JournalState),
    ],
)
def test_each_state_is_explained(title: str, words: type[StrEnum]) -> None:
    rows = [line.split(" | ")[0] for line in section(title).splitlines() if line.startswith("| `")]
    assert set(words) == {word for row in rows for word in re.findall(r"`(\w+)`", row)}


def test_it_says_when_a_gpu_is_not_there() -> None:
    absent = set(Presence) - {Presence.PRESENT}
    assert absent <= set(re.findall(r"`(\w+)`", section("States of the GPU readings")))


def test_each_row_of_status_is_explained() -> None:
    source = (ROOT / "xidwatch" / "status.py").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in section("Status").splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert named == set(re.findall(r'bold\("(\w+)"\)', source))


def test_each_counter_is_explained() -> None:
    named = set(re.findall(r"`(\w+)`", section("Counters")))
    assert {field.name for field in fields(Counters)} | {"unattached", "failures"} <= named
