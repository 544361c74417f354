"""Somebody who types the commands of the documents, beside a daemon that has heard some faults.

What the documents name and a test cannot have is put in place: addresses of the daemon, system directories,
and the files that a text tells to make. `sudo` is left out: the tests are root, or skip.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import select
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import ROOT, Daemon, clean_environment, free_port
from tests.support.kernel_log import FakeKernelLog
from tests.support.receiver import Receiver
from tests.support.waiting import DEADLINE_S, wait_for

_FAULTS = (
    "NVRM: GPU at PCI:0000:91:00: GPU-11111111-2222-3333-4444-555555555555",
    "NVRM: Xid (PCI:0000:91:00): 48, pid=446, name=python3, DBE",
    "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus.",
)


class Reader:
    """Types commands in an empty directory."""

    def __init__(self, directory: Path, daemon: Daemon, receiver: Receiver) -> None:
        self.directory = directory
        self.daemon = daemon
        self._receiver = receiver
        self._system = directory / "system"
        for name in ("etc/xidwatch", "var/log", "var/lib", "usr/local/sbin"):
            (self._system / name).mkdir(parents=True)
        (self._system / "var/lib/xidwatch").symlink_to(daemon.state_dir)
        self._make_logs()
        self._make_sinks()

    def here(self, text: str) -> str:
        """The text with what there is here in place of what it names."""
        text = re.sub(r"\bsudo |\.venv/bin/", "", text)
        text = text.replace("http://127.0.0.1:8080", self.daemon.url)
        return re.sub(
            r"(?<![\w/.])(/etc/xidwatch|/var/log|/var/lib|/usr/local/sbin)\b", rf"{self._system}\1", text
        )

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self._shell(command),
            cwd=self.directory,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def look(self, command: str) -> str:
        """What a command that goes on prints first."""
        with subprocess.Popen(
            self._shell(f"exec {command}"),
            cwd=self.directory,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert select.select([process.stdout], [], [], DEADLINE_S)[0], "it prints nothing"
                return process.stdout.readline()
            finally:
                process.kill()

    def serve(self, command: str) -> tuple[int, str]:
        """Start a daemon, wait until it listens, end it: its exit code, and what it said."""
        other = self.directory / f"{free_port()}"
        other.mkdir()
        said = other / "said"
        with FakeKernelLog(other / "kmsg") as log, said.open("wb") as file:
            own = {
                "XIDWATCH_KMSG": str(log.path),
                "XIDWATCH_STATE_DIR": str(other / "state"),
                "XIDWATCH_SOCKET": str(other / "s"),
                "XIDWATCH_LISTEN": "127.0.0.1:0",
            }
            process = subprocess.Popen(
                self._shell(f"exec {command}"),
                cwd=self.directory,
                env=self._environment() | own,
                stdout=file,
                stderr=file,
            )
            try:
                wait_for(
                    lambda: process.poll() is not None or "listening on" in said.read_text(), "it to listen"
                )
                process.terminate()
                return process.wait(DEADLINE_S), said.read_text()
            finally:
                process.kill()
                process.wait()

    def _shell(self, command: str) -> list[str]:
        return ["bash", "-c", self.here(command)]

    def _environment(self) -> dict[str, str]:
        return clean_environment() | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XIDWATCH_SOCKET": str(self.daemon.socket),
            "XIDWATCH_STATE_DIR": str(self.daemon.state_dir),
            "XIDWATCH_KMSG": str(self.directory / "kmsg"),
        }

    def _make_logs(self) -> None:
        """The saved logs that docs/replay.md names."""
        text = "".join(
            f"Nov 22 11:20:{number:02} gpu-17 kernel: {line}\n" for number, line in enumerate(_FAULTS)
        ).encode()
        for name in ("messages", "messages.1"):
            (self._system / "var/log" / name).write_bytes(text)
        (self.directory / "nvidia-bug-report.log.gz").write_bytes(gzip.compress(text))
        with tarfile.open(self.directory / "sosreport-gpu-17.tar.xz", "w:xz") as archive:
            member = tarfile.TarInfo("sosreport-gpu-17/var/log/messages")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))

    def _make_sinks(self) -> None:
        """The sinks that docs/alarms.md shows, with a receiver that takes what they send."""
        document = (ROOT / "docs" / "alarms.md").read_text(encoding="utf-8")
        configuration = re.findall(r"```toml\n(.*?)```", document, re.DOTALL)[0]
        for url in ("https://alerts.example.com", "http://alertmanager.monitoring:9093"):
            configuration = configuration.replace(url, self._receiver.url)
        (self._system / "etc/xidwatch/sinks.toml").write_text(self.here(configuration), encoding="utf-8")
        for name in re.findall(r"/etc/xidwatch/(pager\.\w+)", configuration):
            secret = self._system / "etc/xidwatch" / name
            secret.write_text("0123456789abcdef")
            secret.chmod(0o600)
        (program,) = re.findall(r'command = \["([^"]+)"', configuration)
        Path(self.here(program)).write_text("#!/bin/sh\ncat > /dev/null\n")
        Path(self.here(program)).chmod(0o755)


@contextmanager
def reading(directory: Path) -> Iterator[Reader]:
    """A reader, for as long as the block runs, with a daemon that has heard two faults."""
    with FakeKernelLog(directory / "kmsg") as log, Receiver() as receiver:
        daemon = Daemon(directory, kmsg=log.path, flags=["--gpu", "off", "--allow-drills"])
        try:
            daemon.start()
            for line in _FAULTS:
                log.write(line)
            wait_for(lambda: {48, 79} <= {event["code"] for event in daemon.events()}, "the faults")
            yield Reader(directory, daemon, receiver)
        finally:
            daemon.stop()


def flags_of(command: str, names: Mapping[str, str]) -> list[str]:
    """The flags of a `serve` command without `--listen`; files under the names that `names` gives them."""
    words = shlex.split(command)
    words = words[words.index("serve") + 1 :]
    if "--listen" in words:
        place = words.index("--listen")
        del words[place : place + 2]
    return [names.get(word, word) for word in words]
