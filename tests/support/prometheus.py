"""Prometheus' own programs, as Debian's package `prometheus` brings them."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.daemon import free_port
from tests.support.waiting import DEADLINE_S, wait_for


def program(name: str) -> str:
    """Path of `prometheus` or `promtool`; the test skips where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (tests/install.sh)")
    return found


def promtool(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run promtool to its end; its output has both streams."""
    done = subprocess.run(
        [program("promtool"), *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode())


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        """`data` of an answer of its API; None while it does not answer."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            return json.loads(body)["data"] if answer.status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes."""
        found = self.get("/api/v1/targets")
        return found["activeTargets"] if found else []

    def alerts(self, name: str) -> list[dict[str, Any]]:
        """Alerts of this name that fire."""
        found = self.get("/api/v1/alerts")
        return [
            alert
            for alert in (found or {"alerts": []})["alerts"]
            if alert["labels"]["alertname"] == name and alert["state"] == "firing"
        ]


@contextmanager
def prometheus(
    directory: Path, *, rules: Path, target: str, scrape: Mapping[str, Any] | None = None
) -> Iterator[Prometheus]:
    """A server that scrapes `target` (HOST:PORT) and evaluates `rules` every second. `scrape`: what else its
    scrape configuration says."""
    server = program("prometheus")
    port = free_port()
    config = directory / "prometheus.yml"
    config.write_text(
        json.dumps(  # JSON is YAML
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(rules)],
                "scrape_configs": [
                    {"job_name": "xidwatch", "static_configs": [{"targets": [target]}], **(scrape or {})}
                ],
            }
        )
    )
    flags = [
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([server, *flags], stdout=log, stderr=log)
    try:
        running = Prometheus(f"http://127.0.0.1:{port}")
        wait_for(lambda: [t for t in running.targets() if t["health"] == "up"], "the first scrape")
        yield running
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
