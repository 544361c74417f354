"""Every command of the documents is run by a test, or the text says what it needs.

Those of `xidwatch`, and those that ask a daemon, are run here as they stand, and must end with code 0. A
document whose commands need a place of their own (a registry, a container engine, a certificate) has its
own test, which `HOMES` names.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, Command, blocks, commands
from tests.docs.reader import Reader, flags_of, reading
from tests.support import real_kernel_log
from tests.support.certificates import Https
from tests.support.daemon import ROOT, Daemon
from tests.support.kernel_log import FakeKernelLog

CLIENTS = "tests/clients/test_documents.py"
HOMES = {
    ("README.md", "claude"): CLIENTS,
    ("README.md", "codex"): CLIENTS,
    ("docs/clients.md", "claude"): CLIENTS,
    ("docs/clients.md", "codex"): CLIENTS,
    ("docs/clients.md", "npx"): CLIENTS,
    ("docs/docker.md", "docker"): "tests/image/test_documented.py",
    ("docs/docker.md", "claude"): "tests/image/test_documented.py",
    ("docs/ebpf.md", "podman"): "tests/end_to_end/test_container.py",
    ("docs/tls.md", "openssl"): "tests/end_to_end/test_tls.py",
    ("docs/tls.md", "mv"): "tests/end_to_end/test_tls.py",
    ("docs/tls.md", "curl"): "tests/end_to_end/test_tls.py",
    ("docs/tls.md", "xidwatch"): "tests/end_to_end/test_tls.py",
    ("docs/access.md", "curl"): "tests/docs/test_commands.py",
    ("docs/access.md", "xidwatch"): "tests/docs/test_commands.py",
    ("docs/benchmarks.md", "python"): "tests/benchmarks/test_documented.py",
    ("docs/scaling.md", "python"): "tests/benchmarks/test_documented.py",
}
"""Where the commands of a program in a document are run."""
ELSEWHERE = {
    "--mock-scenario": "tests/end_to_end/test_mock_scenario.py",
    "--ebpf-program": "tests/xidwatch/test_ebpf_loader.py",
}
"""Flags whose commands need a file that the document shows, and where they are run with it."""
ASKS = ("xidwatch", "curl", "dmesg", "python3")
"""Programs whose commands are run here, beside a daemon."""
LOOKED_AT = ("make", "pip", ".ci/run")
"""Programs that would do more than a test may; what their commands name is looked up."""


def home_of(command: Command) -> str | None:
    """The test that runs it, if that is not this one."""
    for flag, home in ELSEWHERE.items():
        if flag in command.text.split():
            return home
    return HOMES.get((command.document, command.program))


def is_run_here(command: Command) -> bool:
    """Whether it is run here. A mark of a whole page does not keep `xidwatch` from being tried."""
    if home_of(command) is not None or command.program not in ASKS:
        return False
    return command.program == "xidwatch" or not command.needs


def run_here(*, serve: bool) -> list[Command]:
    """The commands that are run here: those that start a daemon, or the others; none of them twice."""
    chosen = {
        command.text: command
        for command in commands()
        if is_run_here(command) and ("serve" in command.text.split()) is serve
    }
    return list(chosen.values())


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with reading(tmp_path_factory.mktemp("r")) as someone:
        yield someone


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_command_is_run_by_a_test_or_the_text_says_what_it_needs(command: Command) -> None:
    tried_as_well = {other.text for other in commands() if home_of(other) is not None}
    assert (
        is_run_here(command) or command.program in LOOKED_AT or command.text in tried_as_well or command.needs
    ), "run it in a test, or say in the paragraph before it what it needs"


@pytest.mark.parametrize("command", run_here(serve=False), ids=str)
def test_a_command_ends_well(command: Command, reader: Reader) -> None:
    skip_what_cannot_run(command)
    if {"--follow", "-N", "-sN"} & set(command.text.split()):
        assert re.match(r"\d{4}-|id: \d+$", reader.look(command.text))
        return
    done = reader.type(command.text)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    writes_a_file = any(word in command.text for word in (" > ", "--output", "VACUUM INTO"))
    assert done.stdout or writes_a_file or "no such event is kept" in done.stderr


@pytest.mark.parametrize("command", run_here(serve=True), ids=str)
def test_a_daemon_starts_so(command: Command, reader: Reader) -> None:
    code, said = reader.serve(command.text)
    assert code == 0, said
    assert "Traceback" not in said


def skip_what_cannot_run(command: Command) -> None:
    """Skip the test, with the reason, where a program or the real kernel log cannot be had."""
    words = ["|", *(word for word in shlex.split(command.text) if word != "sudo")]
    for program in (word for before, word in pairwise(words) if before == "|"):
        if not program.endswith("xidwatch") and shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if " drill " in f" {command.text} ":
        real_kernel_log.skip_unless_usable()
    if command.program == "dmesg":
        shown = subprocess.run(["dmesg", "-x"], capture_output=True, check=False)
        if shown.returncode or b"kern" not in shown.stdout:
            pytest.skip("dmesg shows no line of the kernel here")


def test_who_may_come_in_does_as_the_document_says(
    reader: Reader, kernel_log: FakeKernelLog, tmp_path: Path
) -> None:
    https = Https(tmp_path)
    (serve,) = [each for each in commands() if each.document == "docs/access.md" and " serve " in each.text]
    tokens = [each for each in commands() if each.document == "docs/access.md" and " token " in each.text]
    curls = [each for each in commands() if each.document == "docs/access.md" and each.program == "curl"]
    made = [reader.type(each.text) for each in tokens]
    assert [done.returncode for done in made] == [0] * len(tokens), made
    names = {"tls.crt": str(https.files.certificate), "tls.key": str(https.files.key)}
    flags = ["--node-name", "gpu-17", *map(reader.here, flags_of(serve.text, names))]
    token = made[0].stdout.strip()
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=flags, tls=https.client(), token=token)
    try:
        daemon.start()
        authority = tmp_path / "ca.crt"
        authority.write_bytes(https.authority.pem)
        for command in curls:
            text = command.text.replace("curl ", f"SECRET={token}; curl --fail -sS --cacert {authority} ", 1)
            to = f"--connect-to gpu-17:8080:127.0.0.1:{daemon.port}"
            done = reader.type(text.replace(" https://", f" {to} https://"))
            assert (done.returncode, done.stderr) == (0, "")
            assert '"next_cursor"' in done.stdout
    finally:
        daemon.stop()


@pytest.mark.parametrize("command", [each for each in commands() if each.program == "make"], ids=str)
def test_a_make_command_is_one_that_make_takes(command: Command) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *shlex.split(command.text.removeprefix("sudo "))[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_pip_is_to_install_of_xidwatch_is_an_extra_of_it() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [name for each in commands() for name in re.findall(r"\bxidwatch\[(\w+)\]", each.text)]
    assert named
    assert set(named) <= set(extras)


def test_what_ci_runs_is_a_program() -> None:
    (command,) = [each for each in commands() if each.program == ".ci/run"]
    assert os.access(ROOT / command.text, os.X_OK)


@pytest.mark.parametrize("home", sorted({*HOMES.values(), *ELSEWHERE.values()}))
def test_the_test_that_runs_the_commands_of_a_document_reads_it(home: str) -> None:
    documents = {Path(document).name for (document, _), named in HOMES.items() if named == home}
    around = "".join(path.read_text() for path in (ROOT / home).parent.glob("*.py"))
    assert (ROOT / home).exists()
    assert all(name in around for name in documents)


def test_a_block_of_commands_begins_with_a_command() -> None:
    for document in DOCUMENTS:
        for _, block in blocks(document.read_text(encoding="utf-8")):
            assert block.startswith("$ "), f"{document.name}: {block.splitlines()[0]}"
