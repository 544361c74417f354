"""HTTPS as an operator meets it: starts that are refused, what the log says, each command of its document."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.certificates import Authority, Https, put
from tests.support.command import xidwatch
from tests.support.daemon import ROOT, Daemon, clean_environment, free_port
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import DEADLINE_S, wait_for

DOCUMENT = ROOT / "docs" / "tls.md"


@pytest.fixture
def https(tmp_path: Path) -> Https:
    """Files for a daemon."""
    return Https(tmp_path)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test began."""
    with ExitStack() as begun:
        yield begun


def started(https: Https, kernel_log: FakeKernelLog, stack: ExitStack) -> Daemon:
    """A daemon that uses the files."""
    daemon = Daemon(https.directory, kmsg=kernel_log.path, flags=https.flags, tls=https.client())
    stack.callback(daemon.stop)
    return daemon.start()


# -- starts --------------------------------------------------------------------------------------


def refused(tmp_path: Path, *flags: str) -> str:
    """What a start that is to fail says: a sentence and a hint."""
    place = ("--socket", str(tmp_path / "s"), "--state-dir", str(tmp_path / "state"))
    result = xidwatch("serve", "--listen", f"127.0.0.1:{free_port()}", *place, *flags)
    assert result.code == 2, result
    assert "Traceback" not in result.err
    sentence, hint = result.err.splitlines()[-2:]
    assert sentence.startswith("xidwatch: ")
    assert hint.startswith("hint: ")
    assert not (tmp_path / "state").exists(), "nothing is touched before"
    return sentence


def test_a_certificate_without_its_key_is_refused(https: Https, tmp_path: Path) -> None:
    assert "without its key" in refused(tmp_path, *https.flags[:2])


def test_a_key_of_another_certificate_is_refused(https: Https, tmp_path: Path) -> None:
    put(https.files.key, Authority().server().key)
    assert "does not belong to the certificate" in refused(tmp_path, *https.flags)


def test_a_key_that_everyone_can_read_is_refused(https: Https, tmp_path: Path) -> None:
    https.files.key.chmod(0o644)
    assert "is open to every user" in refused(tmp_path, *https.flags)


def test_a_file_that_is_not_there_is_refused(https: Https, tmp_path: Path) -> None:
    https.files.certificate.unlink()
    assert "cannot read the TLS certificate" in refused(tmp_path, *https.flags)


# -- while it runs -------------------------------------------------------------------------------


def test_log_and_status_say_https_and_until_when(
    https: Https, kernel_log: FakeKernelLog, stack: ExitStack
) -> None:
    daemon = started(https, kernel_log, stack)
    log = daemon.log.read_text()
    assert f"listening on https://127.0.0.1:{daemon.port} " in log
    assert "TLS certificate of CN=gpu-17,O=Example, valid until 20" in log
    status = xidwatch("status", "--socket", str(daemon.socket)).out
    assert re.search(r"^tls +CN=gpu-17,O=Example, valid until 20", status, re.MULTILINE)


def test_status_says_why_newer_files_are_not_in_force(
    https: Https, kernel_log: FakeKernelLog, stack: ExitStack
) -> None:
    daemon = started(https, kernel_log, stack)
    put(https.files.key, Authority().server().key)
    assert daemon.get("/healthz")[0] == 200
    status = xidwatch("status", "--socket", str(daemon.socket)).out
    assert "the files on disk are not in force: the TLS key" in status
    doctor = xidwatch("doctor", *https.flags).out
    assert re.search(r"^fail +tls +the TLS key .* does not belong", doctor, re.MULTILINE)


def test_handshakes_that_do_not_end_do_not_hold_up_the_end(
    https: Https, kernel_log: FakeKernelLog, stack: ExitStack
) -> None:
    daemon = started(https, kernel_log, stack)
    for half in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
        silent = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port)))
        silent.sendall(half)
    assert daemon.get("/healthz")[0] == 200, "it has seen those before this one"
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_a_client_on_node_js_trusts_the_authority_it_is_told_of(
    https: Https, kernel_log: FakeKernelLog, stack: ExitStack
) -> None:
    daemon = started(https, kernel_log, stack)
    authority = https.directory / "ca.crt"
    authority.write_bytes(https.authority.pem)
    asks = f"fetch('{daemon.url}/healthz').then(r => console.log(r.status), e => console.log(e.cause.code))"
    said = [
        subprocess.run(
            ["node", "-e", asks],
            env=clean_environment() | told,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        ).stdout.strip()
        for told in ({}, {"NODE_EXTRA_CA_CERTS": str(authority)})
    ]
    assert said == ["UNABLE_TO_VERIFY_LEAF_SIGNATURE", "200"]


# -- the document --------------------------------------------------------------------------------


class Reader:
    """Somebody who works through the document, in an empty directory."""

    def __init__(self, directory: Path, kernel_log: FakeKernelLog) -> None:
        self._directory = directory
        self._kernel_log = kernel_log
        self.daemon: Daemon | None = None
        self.outputs: dict[str, str] = {}
        """What each command printed, by its words."""

    def do(self, line: str) -> None:
        """Type one command."""
        command, _, remark = line.partition(" # ")
        words = shlex.split(command)
        if words[:2] == ["xidwatch", "serve"]:
            self._serve(words[2:])
            return
        done = self.run(["bash", "-c", command.replace("curl ", "curl -sS ")])
        self.outputs[line] = done.stdout + done.stderr
        if remark.startswith("refused: "):
            assert done.returncode != 0, line
            assert remark.removeprefix("refused: ") in done.stderr, done.stderr
        else:
            assert done.returncode == 0 or words[:2] == ["xidwatch", "doctor"], done.stderr

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run it there; 8080 is the running daemon's port."""
        port = str(self.daemon.port) if self.daemon else "8080"
        return subprocess.run(
            [word.replace("localhost:8080", f"localhost:{port}") for word in command],
            cwd=self._directory,
            env=clean_environment() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def _serve(self, flags: list[str]) -> None:
        if self.daemon is not None:
            self.daemon.stop()
        paths = [word if word.startswith("--") else str(self._directory / word) for word in flags]
        self.daemon = Daemon(self._directory, kmsg=self._kernel_log.path, flags=paths)
        self.daemon.spawn()
        wait_for(self._is_up, "the daemon to listen", pause_s=0.05)

    def _is_up(self) -> bool:
        assert self.daemon is not None
        return "listening on https://" in self.daemon.log.read_text() and self.daemon.socket.exists()


@pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("curl")), reason="openssl or curl is not installed"
)
def test_every_command_and_program_of_the_document_works(
    tmp_path: Path, kernel_log: FakeKernelLog, stack: ExitStack
) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    reader = Reader(tmp_path, kernel_log)
    stack.callback(lambda: reader.daemon and reader.daemon.stop())
    for block in re.finditer(r"```(console|python)\n(.*?)```", text, re.DOTALL):
        if block[1] == "python":
            done = reader.run([sys.executable, "-c", block[2].replace("localhost:8080", _port(reader))])
            assert '"node": "test-node"' in done.stdout.replace("'", '"'), done.stderr
        else:
            for line in block[2].splitlines():
                assert line.startswith("$ "), "only commands: what they print is for the text"
                reader.do(line.removeprefix("$ "))
    assert reader.daemon is not None
    assert "TLS files changed: certificate of CN=gpu-17" in reader.daemon.log.read_text()
    doctor = next(printed for line, printed in reader.outputs.items() if line.startswith("xidwatch doctor"))
    assert re.search(r"^ok +tls +certificate of CN=gpu-17, valid until", doctor, re.MULTILINE)


def _port(reader: Reader) -> str:
    assert reader.daemon is not None
    return f"localhost:{reader.daemon.port}"
