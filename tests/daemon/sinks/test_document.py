"""What docs/alarms.md shows works."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from daemon.event import Item, Kind
from daemon.sinks.batch import Batch
from daemon.sinks.command import environment, stdin_of
from daemon.sinks.configuration import load
from tests.support.events import TIME_US, item

DOCUMENT = (Path(__file__).parents[3] / "docs" / "alarms.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return found


def incident(state: str) -> Item:
    return item(1, kind=Kind.INCIDENT, detail={"state": state})


@pytest.mark.parametrize("number", range(len(blocks("toml"))))
def test_each_configuration_is_taken(tmp_path: Path, number: int) -> None:
    text = blocks("toml")[number]
    program = tmp_path / "drain-node"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = text.replace("/usr/local/sbin/drain-node", str(program))
    for name in set(re.findall(r"/etc/xidwatch/([a-z]+\.(?:key|auth|url))", text)):
        secret = tmp_path / name
        secret.write_text("https://hooks.example.com/T0/B0/x" if name.endswith("url") else "0123456789abcdef")
        secret.chmod(0o600)
    file = tmp_path / "sinks.toml"
    file.write_text(text.replace("/etc/xidwatch", str(tmp_path)), encoding="utf-8")
    assert load(file)


@pytest.mark.parametrize(
    ("batch", "drains"),
    [
        (Batch("drain", "gpu-17", TIME_US, [incident("open")]), True),
        (Batch("drain", "gpu-17", TIME_US, [incident("recovered")]), False),
        (Batch("drain", "gpu-17", TIME_US, [incident("open"), item(2)]), True),
        (Batch("drain", "gpu-17", TIME_US, [item(1)], is_test=True), False),
    ],
)
def test_the_slurm_script_drains_the_node_for_an_open_incident_only(
    tmp_path: Path, batch: Batch, drains: bool
) -> None:
    (script,) = blocks("sh")
    fake = tmp_path / "scontrol"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/called\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", script],
        input=stdin_of(batch),
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment(batch)},
        check=False,
    )
    assert done.returncode == 0
    called = tmp_path / "called"
    assert called.exists() is drains
    if drains:
        words = called.read_text().splitlines()
        assert words[0] == "update"
        assert words[2] == "State=DRAIN"
        assert words[3].startswith("Reason=")
        assert "FATAL" in words[3]


def test_every_variable_of_a_command_is_in_the_document() -> None:
    found = environment(Batch("drain", "gpu-17", TIME_US, [incident("open")]))
    for name in found:
        assert f"`{name.removeprefix('XIDWATCH_EVENT')}`" in DOCUMENT or f"`{name}`" in DOCUMENT, name
