"""The outlets of the process: put together from the settings, and apart from each other."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from daemon.config import Config, load
from daemon.event import Item
from daemon.node_reports.cluster import Cluster
from daemon.node_reports.kinds import NodeReport
from daemon.ring import Ring
from daemon.stream import EventStream
from probes import kernel
from probes.health import Check, Verdict
from tests.mcp_server.samples import xid
from tests.support.waiting import DEADLINE_S, wait_for
from xidwatch.outlets import Asked, Outlets, at_work, checks, configured


def config(state_dir: Path, **flags: str) -> Config:
    given = {name.replace("_", "-"): text for name, text in flags.items()}
    return load({"state-dir": str(state_dir), **given}, {})


def outlets(asked: Asked, settings: Config, stream: EventStream) -> Outlets:
    return Outlets(asked, settings, stream, kernel.SystemClock(), hears=lambda: True)


def test_nothing_is_asked_for_by_default(tmp_path: Path) -> None:
    assert configured(config(tmp_path), {}) == Asked()


def test_reports_without_a_cluster_are_said_and_start_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(tmp_path, node_reports="events,conditions")
    asked = configured(settings, {})
    assert asked.reports == frozenset(NodeReport)
    assert "does not run in a Kubernetes pod" in caplog.text

    async def main() -> None:
        stream = EventStream(Ring(8), first_cursor=1)
        async with at_work(asked, settings, stream, kernel.SystemClock(), hears=lambda: True) as running:
            running.start()
            told = {health.name: health for health in running.health()}
        assert set(told) == {"node-events", "node-condition"}
        assert not any(health.up for health in told.values())
        assert all("KUBERNETES_SERVICE_HOST" in (health.reason or "") for health in told.values())

    asyncio.run(main())


def test_the_cursor_of_an_outlet_that_is_not_asked_for_any_more_is_forgotten(tmp_path: Path) -> None:
    kept = tmp_path / "outlets/otlp-logs.json"
    kept.parent.mkdir()
    kept.write_text("{}")

    async def main() -> None:
        running = outlets(Asked(), config(tmp_path), EventStream(Ring(8), first_cursor=1))
        running.start()
        await running.close()

    asyncio.run(main())
    wait_for(lambda: not kept.exists(), "the disk's thread to remove the file")


def test_an_outlet_that_breaks_says_so_and_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra [otel] is not installed")
    from daemon.otlp.traces import Traces

    async def broken(self: Traces) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Traces, "run", broken)
    settings = config(tmp_path, otlp_endpoint="http://127.0.0.1:9")
    asked = configured(settings, {})

    async def main() -> None:
        stream = EventStream(Ring(8), first_cursor=1)
        running = outlets(asked, settings, stream)
        running.start()
        stream.publish([Item.of(1, xid(), stored=True)])
        async with asyncio.timeout(DEADLINE_S):
            while not (told := {health.name: health for health in running.health()})["otlp-logs"].failures:
                await asyncio.sleep(0.005)
        assert "error of its own" in (told["otlp-traces"].reason or "")
        assert "error of its own" not in (told["otlp-logs"].reason or "")
        stream.close()
        await running.close()

    asyncio.run(main())
    assert "a bug" in caplog.text


def looked_at(settings: Config) -> dict[str, Check]:
    return {check.name: check for check in checks(settings, {})}


def test_doctor_says_whether_the_otlp_receiver_can_be_reached(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra [otel] is not installed")
    assert looked_at(config(tmp_path))["otlp"].verdict is Verdict.OFF
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = config(tmp_path, otlp_endpoint=f"http://127.0.0.1:{server.getsockname()[1]}")
        assert looked_at(settings)["otlp"].verdict is Verdict.OK
    found = looked_at(settings)["otlp"]
    assert (found.verdict, "connection refused" in found.finding) == (Verdict.WARN, True)
    none = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "none.pem")}
    assert checks(settings, none)[0].verdict is Verdict.FAIL


def test_doctor_says_whether_there_is_a_cluster_to_report_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert looked_at(config(tmp_path))["node_reports"].verdict is Verdict.OFF
    settings = config(tmp_path, node_reports="events,conditions")
    found = looked_at(settings)["node_reports"]
    assert (found.verdict, "does not run in a Kubernetes pod" in found.finding) == (Verdict.WARN, True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster = Cluster(f"https://127.0.0.1:{server.getsockname()[1]}", tmp_path, tmp_path)
        monkeypatch.setattr("daemon.node_reports.cluster.in_cluster", lambda environ: cluster)
        assert looked_at(settings)["node_reports"].verdict is Verdict.OK
    assert looked_at(settings)["node_reports"].verdict is Verdict.WARN
