"""A real Alertmanager: an alert fires with its incident, outlives both programs, and ends with it."""

from __future__ import annotations

import json
import shutil
import subprocess
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import xidwatch
from tests.support.daemon import Daemon, free_port
from tests.support.kernel_log import FakeKernelLog
from tests.support.waiting import DEADLINE_S, wait_for

_PROGRAM = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
pytestmark = pytest.mark.skipif(_PROGRAM is None, reason="no Alertmanager is installed")


class Alertmanager:
    """One of its own, which sends to nobody."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it is ready."""
        config = self._directory / "alertmanager.yml"
        config.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n", encoding="utf-8")
        assert _PROGRAM is not None
        self._process = subprocess.Popen(
            [
                *(_PROGRAM, f"--config.file={config}", f"--storage.path={self._directory / 'alerts'}"),
                *(f"--web.listen-address=127.0.0.1:{self.port}", "--cluster.listen-address="),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._is_ready, "the Alertmanager to be ready")

    def kill(self) -> None:
        """What fires is not on its disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE_S)
            self._process = None

    def alerts(self) -> list[dict[str, Any]]:
        """What fires now; what is resolved is not among it."""
        found: list[dict[str, Any]] = json.loads(self._get("/api/v2/alerts")[1])
        return found

    def _is_ready(self) -> bool:
        try:
            return self._get("/-/ready")[0] == 200
        except OSError:
            return False

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def test_an_alert_fires_survives_both_programs_and_is_resolved(
    tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    alertmanager = Alertmanager(tmp_path)
    file = tmp_path / "sinks.toml"
    file.write_text(f'[[sink]]\nname = "am"\ntype = "alertmanager"\nurl = "{alertmanager.url}"\n')
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=["--on-event", str(file), "--gpu", "off"])
    try:
        alertmanager.start()
        daemon.start()
        text = "NVRM: Xid (PCI:0000:91:00): 79, pid=4194404, name=python3, GPU has fallen off the bus."
        kernel_log.write(text)
        (alert,) = wait_for(alertmanager.alerts, "the alert")
        assert alert["labels"] == {
            "alertname": "XidwatchIncident",
            "severity": "fatal",
            "node": "test-node",
            "kind": "incident",
            "code": "79",
            "gpu": "0000:91:00.0",
        }
        assert alert["status"]["state"] == "active"

        alertmanager.kill()
        alertmanager.start()
        assert alertmanager.alerts() == [], "it has forgotten"
        daemon.kill()
        daemon.start()
        (again,) = wait_for(alertmanager.alerts, "the alert of before")
        assert (again["fingerprint"], again["startsAt"]) == (alert["fingerprint"], alert["startsAt"])

        change = "GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)"
        kernel_log.write(f"NVRM: Xid (PCI:0000:91:00): 154, {change}", time_us=kernel_log.time_us + 1_000_000)
        wait_for(lambda: not alertmanager.alerts(), "the end of the alert")

        told = xidwatch("sinks", "test", "--on-event", str(file))
        assert (told.code, told.out.split()[:2]) == (0, ["taken", "am"])
        (test,) = alertmanager.alerts()
        assert test["labels"]["drill"] == "true"
    finally:
        daemon.stop()
        alertmanager.kill()
