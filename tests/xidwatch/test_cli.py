"""The command line as a user meets it: help, errors, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import xidwatch
from tests.support.daemon import ROOT, clean_environment
from xidwatch.commands import COMMANDS
from xidwatch.version import VERSION

HEAVY = ("mcp", "pydantic", "starlette", "uvicorn", "asyncio", "sqlite3", "importlib.metadata")


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2() -> None:
    result = xidwatch()
    assert result.code == 2
    assert all(name in result.err for name in COMMANDS)
    assert result.out == ""


def test_help_names_every_command() -> None:
    result = xidwatch("--help")
    assert result.code == 0
    assert all(name in result.out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_of_its_own(name: str) -> None:
    result = xidwatch(name, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: xidwatch {name}")
    assert result.err == ""


def test_the_version_is_said_in_two_ways() -> None:
    assert xidwatch("--version").out == xidwatch("version").out == f"xidwatch {VERSION}\n"
    assert json.loads(xidwatch("version", "--json").out)["version"] == VERSION


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (["tial"], "there is no command 'tial'", "did you mean 'tail'?"),
        (["frobnicate"], "there is no command 'frobnicate'", "the commands are serve, stdio, tail"),
        (["serve", "--mode", "opertor"], "--mode: 'opertor' is not one of", "did you mean 'operator'?"),
        (["serve", "--mode"], "expected one argument", "`xidwatch serve --help`"),
        (["tail", "--folow"], "unrecognized arguments: --folow", "`xidwatch tail --help`"),
        (["drill", "79", "80"], "unrecognized arguments: 80", "`xidwatch drill --help`"),
        (["serve", "--config", "/nonexistent.toml"], "/nonexistent.toml: no such file", ""),
        (["serve", "--retention", "30"], "--retention: '30' is not a duration", "30d"),
        (["doctor", "--listen", "nowhere"], "--listen: 'nowhere' is not HOST:PORT", "127.0.0.1:8080"),
        (["tail", "--since", "yesterday-ish"], "neither a cursor, nor a duration, nor a time", "15m"),
        (["drill", "seventy-nine"], "not an Xid or SXid code", "xidwatch drill 79"),
        (["stdio", "--era", "1999"], "invalid choice: '1999'", "`xidwatch stdio --help`"),
    ],
)
def test_a_users_error_is_one_sentence_and_a_hint(arguments: list[str], sentence: str, hint: str) -> None:
    result = xidwatch(*arguments)
    assert result.code == 2
    assert result.out == ""
    first, *rest = result.err.splitlines()
    assert first.startswith("xidwatch: ")
    assert sentence in first
    assert hint in "\n".join(rest)
    assert len(rest) <= 1


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_descriptor_that_was_closed_before_the_start_is_no_traceback(closed: int) -> None:
    command = f'exec "$0" -m xidwatch explain 79 {closed}>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable], capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0
    assert done.stderr == b""


def test_an_error_shows_no_control_characters_of_what_was_typed() -> None:
    result = xidwatch("tail", "--since", "\x1b[31mred")
    assert result.code == 2
    assert "\x1b" not in result.err


def test_a_setting_of_the_environment_is_checked_like_a_flag() -> None:
    result = xidwatch("doctor", environ={"XIDWATCH_GPU": "none"})
    assert result.code == 2
    assert "XIDWATCH_GPU: 'none' is not one of auto, nvml, mock, off" in result.err


@pytest.mark.parametrize("name", ["stdio", "tail", "status", "release-driver", "version"])
def test_a_client_imports_nothing_heavy(name: str, tmp_path: Path) -> None:
    script = (
        "import sys; from xidwatch.cli import main; sys.argv = ['xidwatch', *sys.argv[1:]]; main();"
        f"print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    flags = [] if name == "version" else ["--socket", str(tmp_path / "none")]
    done = subprocess.run(
        [sys.executable, "-c", script, name, *flags],
        capture_output=True,
        cwd=ROOT,
        env=clean_environment(),
        check=False,
    )
    assert done.stderr.decode().splitlines()[-1] == ""


def test_a_reader_that_goes_away_ends_a_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "xidwatch", "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == b""


def test_ctrl_c_ends_a_command_quietly() -> None:
    # `decode` waits for more input.
    with subprocess.Popen(
        [sys.executable, "-m", "xidwatch", "decode"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"nothing\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"null\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err == b""


def test_output_that_the_terminals_encoding_lacks_is_escaped_not_an_error() -> None:
    result = xidwatch("explain", "79", environ={"PYTHONIOENCODING": "ascii"})
    assert result.code == 0
    assert "Traceback" not in result.err
