"""The Prometheus rules: what promtool says of them, and a real Prometheus beside a real daemon."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.daemon import ROOT, Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.prometheus import prometheus, promtool
from tests.support.token_file import TokenFileOnDisk
from tests.support.waiting import wait_for

RULES = ROOT / "deploy/helm/xidwatch/files/rules.yaml"
COPY = ROOT / "deploy/prometheus/rules.yaml"
DOCUMENT = ROOT / "docs/observability.md"
OF_A_LOCKED_DOOR = {
    "xidwatch_token_file_in_force",
    "xidwatch_tls_certificate_valid_until_timestamp_seconds",
    "xidwatch_tls_files_refused",
    "xidwatch_tls_failed_handshakes_total",
}
"""Metrics that a daemon without tokens and certificate does not have."""
UNIT_TESTS = ROOT / "deploy/prometheus/tests/rules_test.yaml"
FELL_OFF = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."
PROGRAM_ERROR = "NVRM: Xid (PCI:0000:91:00): 31, pid=446, name=python3, Ch 00000008, intr 00000000."


@pytest.fixture
def daemon(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Daemon]:
    running = Daemon(tmp_path, kmsg=kernel_log.path, flags=("--gpu", "off"))
    try:
        yield running.start()
    finally:
        running.stop()


def test_the_copy_for_use_without_helm_is_the_same() -> None:
    assert COPY.read_bytes() == RULES.read_bytes()


def test_promtool_accepts_the_rules() -> None:
    checked = promtool("check", "rules", str(RULES))
    assert checked.returncode == 0, checked.stdout


def test_each_alert_fires_when_it_should_and_ends() -> None:
    tested = promtool("test", "rules", str(UNIT_TESTS))
    assert tested.returncode == 0, tested.stdout


def test_each_alert_has_a_unit_test_and_says_whom_to_call_and_what_to_do() -> None:
    tested = UNIT_TESTS.read_text()
    alerts = re.split(r"\n +- alert: ", RULES.read_text())[1:]
    assert alerts
    for alert in alerts:
        name = alert.split("\n", 1)[0]
        assert name in tested, name
        assert re.search(r"^ +severity: (critical|warning)$", alert, re.MULTILINE), name
        assert "summary:" in alert, name
        assert "description:" in alert, name


def test_every_metric_that_a_rule_asks_for_is_one_of_the_daemons(daemon: Daemon) -> None:
    exposed = set(re.findall(r"^# TYPE (\S+)", daemon.get("/metrics")[1].decode(), re.MULTILINE))
    asked = set(re.findall(r"\bxidwatch_\w+", "".join(_expressions(RULES.read_text()))))
    assert len(asked) > 5
    assert asked <= exposed | OF_A_LOCKED_DOOR


def _expressions(rules: str) -> list[str]:
    """The text of each `expr`."""
    return re.findall(r"^ +expr: (?:>-\n)?((?:.|\n)*?)(?=^ +(?:for|labels|- |annotations)|\Z)", rules, re.M)


def test_promtool_finds_nothing_to_say_of_the_metrics(daemon: Daemon, kernel_log: FakeKernelLog) -> None:
    kernel_log.write(FELL_OFF)
    wait_for(lambda: b'code="79"' in daemon.get("/metrics")[1], "the event to be counted")
    checked = promtool("check", "metrics", stdin=daemon.get("/metrics")[1])
    assert (checked.returncode, checked.stdout) == (0, "")


def test_a_line_in_the_kernel_log_becomes_an_alert_of_a_real_prometheus(
    tmp_path: Path, daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    with prometheus(tmp_path, rules=RULES, target=f"127.0.0.1:{daemon.port}") as server:
        kernel_log.write(PROGRAM_ERROR)
        kernel_log.write(FELL_OFF)
        (alert,) = wait_for(lambda: server.alerts("XidwatchFatalEvent"), "the alert")
        labels = alert["labels"]
        assert {key: labels[key] for key in ("severity", "node", "kind", "code")} == {
            "severity": "critical",
            "node": "test-node",
            "kind": "xid",
            "code": "79",
        }
        assert alert["annotations"]["summary"].startswith("test-node: fatal xid 79 on GPU")
        assert "xidwatch explain 79" in alert["annotations"]["description"]


def test_promtool_accepts_the_scrape_configuration() -> None:
    checked = promtool("check", "config", "--syntax-only", str(COPY.with_name("prometheus.yaml")))
    assert checked.returncode == 0, checked.stdout


def test_the_document_lists_every_alert_with_its_severity_and_time() -> None:
    rows = re.findall(r"^\| `(Xidwatch\w+)` \| (\w+) \| (at once|\w+) \|", DOCUMENT.read_text(), re.MULTILINE)
    alerts = [
        (name, severity, time or "at once")
        for name, time, severity in re.findall(
            r"alert: (\w+)\n(?:(?!- alert)(?:.|\n))*?(?:^ +for: (\w+)\n)?^ +labels:\n +severity: (\w+)",
            RULES.read_text(),
            re.MULTILINE,
        )
    ]
    assert sorted(rows) == sorted(alerts)


def test_the_document_lists_every_metric(daemon: Daemon) -> None:
    exposed = set(re.findall(r"^# TYPE (xidwatch_\S+)", daemon.get("/metrics")[1].decode(), re.MULTILINE))
    listed = set(re.findall(r"^\| `(xidwatch_\w+)`", DOCUMENT.read_text(), re.MULTILINE))
    assert listed == exposed | OF_A_LOCKED_DOOR


def test_a_prometheus_with_a_token_and_the_authority_scrapes_a_locked_daemon(
    tmp_path: Path, kernel_log: FakeKernelLog
) -> None:
    tokens, authority = TokenFileOnDisk(tmp_path / "tokens"), Authority()
    secret, ca_file = tmp_path / "secret", tmp_path / "ca.crt"
    secret.write_text(tokens.add("prometheus"))
    ca_file.write_bytes(authority.pem)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    authority.server().write(certificate, key)
    daemon = Daemon(
        tmp_path,
        kmsg=kernel_log.path,
        flags=(
            *("--gpu", "off", "--token-file", str(tokens.path)),
            *("--tls-cert", str(certificate), "--tls-key", str(key)),
        ),
        tls=ssl.create_default_context(cafile=str(ca_file)),
        token=secret.read_text(),
    )
    scrape = {
        "scheme": "https",
        "tls_config": {"ca_file": str(ca_file)},
        "authorization": {"credentials_file": str(secret)},
    }
    try:
        daemon.start()
        target = f"127.0.0.1:{daemon.port}"
        with prometheus(tmp_path, rules=RULES, target=target, scrape=scrape) as server:
            (found,) = server.get("/api/v1/query?query=xidwatch_token_file_in_force")["result"]
            assert found["value"][1] == "1"
        exposed = daemon.get("/metrics")[1].decode()
        assert {name for name in OF_A_LOCKED_DOOR if f"# TYPE {name} " in exposed} == OF_A_LOCKED_DOOR
    finally:
        daemon.stop()
