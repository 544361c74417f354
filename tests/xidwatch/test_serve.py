"""`xidwatch serve`: what it says at the start, and how it ends when it has hardly begun."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.config import Config, EbpfLoader, ProbeName
from probes.health import ProbeHealth
from tests.support.bad_input import is_one_sentence
from tests.support.command import running, xidwatch
from tests.support.daemon import ROOT, Daemon, clean_environment, free_port
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import DEADLINE_S
from xidwatch import serve

SIGTERM_DURING_THE_IMPORTS = """
import importlib.abc, os, signal, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "starlette":
            os.kill(os.getpid(), signal.SIGTERM)
        return None

sys.meta_path.insert(0, Finder())
from xidwatch.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_sigterm_while_it_is_still_importing_ends_it_quietly(tmp_path: Path) -> None:
    flags = ["--state-dir", str(tmp_path / "state"), "--socket", str(tmp_path / "s")]
    done = subprocess.run(
        [sys.executable, "-c", SIGTERM_DURING_THE_IMPORTS, "serve", *flags, "--listen", "localhost:0"],
        capture_output=True,
        cwd=ROOT,
        env=clean_environment(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_sigterm_while_it_waits_for_the_state_directory_ends_it_quietly(
    running_daemon: Daemon, tmp_path: Path
) -> None:
    flags = ["--state-dir", str(running_daemon.state_dir), "--socket", str(tmp_path / "s2")]
    with running("serve", *flags, "--listen", f"127.0.0.1:{free_port()}") as second:
        second.wait_for_error("waiting for process")
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(DEADLINE_S) == 0
        assert "Traceback" not in second.text("err")


@pytest.mark.parametrize(
    ("flags", "sentence", "hint"),
    [
        (["--probes", "bpf", "--ebpf", "off"], "--ebpf off forbids it", "leave out one"),
        (["--ebpf-loader", "native", "--ebpf-program", "/x.c"], "names another", "leave out one"),
        (["--probes", "nvml"], "a second witness: they do not tell of every fault", "--probes kmsg,nvml"),
    ],
)
def test_ears_that_cannot_be_are_refused_before_anything_is_touched(
    tmp_path: Path, flags: list[str], sentence: str, hint: str
) -> None:
    places = ["--state-dir", str(tmp_path / "state"), "--socket", str(tmp_path / "s")]
    result = xidwatch("serve", *flags, *places, "--listen", "127.0.0.1:0")
    is_one_sentence(result)
    assert sentence in result.err
    assert hint in result.err
    assert list(tmp_path.iterdir()) == []


def test_an_ipv6_address_is_written_with_its_brackets(tmp_path: Path, kernel_log: FakeKernelLog) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            port = probe.getsockname()[1]
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error.strerror}")
    flags = ["--listen", f"[::1]:{port}", "--state-dir", str(tmp_path / "state")]
    flags += ["--socket", str(tmp_path / "s")]
    with running("serve", *flags, "--kmsg", str(kernel_log.path)) as command:
        command.wait_for_error(f"listening on http://[::1]:{port} ")
        command.wait_for_error("hears the kernel log")
        status = json.loads(xidwatch("status", "--json", "--socket", str(tmp_path / "s")).out)
        assert status["listen"] == f"http://[::1]:{port}"
        flags[1:4] = [f"[::1]:{port}", "--state-dir", str(tmp_path / "state2")]
        assert f"cannot listen on [::1]:{port}: " in xidwatch("serve", *flags).err


@pytest.mark.parametrize(
    ("config", "level"),
    [
        (Config(), logging.INFO),
        (replace(Config(), ebpf_program=Path("/x.c")), logging.WARNING),
        (replace(Config(), ebpf_loader=EbpfLoader.BCC), logging.WARNING),
        (replace(Config(), probes=frozenset({ProbeName.KMSG, ProbeName.BPF})), logging.WARNING),
    ],
    ids=["tried by itself", "with a program of its own", "with a loader of its own", "named"],
)
def test_ebpf_that_was_asked_for_and_cannot_be_is_a_warning(
    config: Config, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    kmsg = ProbeHealth("kmsg", hears=True, live=True)
    bpf = ProbeHealth("bpf", hears=False, live=True, reason="it has an error")
    with caplog.at_level(logging.INFO):
        serve.say_what_it_hears(config, "http://127.0.0.1:8080", [kmsg, bpf])
    assert [record.levelno for record in caplog.records if "through bpf" in record.message] == [level]


def test_a_probe_that_gives_no_hint_is_not_said_to_hint_at_none(caplog: pytest.LogCaptureFixture) -> None:
    probe = ProbeHealth("kmsg", hears=False, live=True, reason="the log went away", hint=None, counters={})
    with caplog.at_level(logging.INFO):
        serve.say_what_it_hears(Config(), "http://127.0.0.1:8080", [probe])
    assert "does not hear through kmsg: the log went away" in caplog.text
    assert "None" not in caplog.text
