"""The Grafana dashboard: sound as a document, and every query answered by a real Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.daemon import ROOT, Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.prometheus import Prometheus, prometheus, promtool
from tests.support.waiting import wait_for

SOURCE = ROOT / "deploy/helm/xidwatch/files/dashboard.json"
COPY = ROOT / "deploy/grafana/dashboard.json"
RULES = ROOT / "deploy/prometheus/rules.yaml"
DASHBOARD: dict[str, Any] = json.loads(SOURCE.read_text())
FELL_OFF = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."
BUILT_IN = {"__rate_interval": "1m", "__range": "6h"}
"""What Grafana puts in for its own variables."""
CHOSEN = {"node": ".*", "severity": ".*"}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every query as Prometheus gets it, by the panel it is of."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    found |= {note["name"]: note["expr"] for note in DASHBOARD["annotations"]["list"]}
    values = BUILT_IN | CHOSEN
    return {
        name: re.sub(r"\$\{?(\w+)\}?", lambda match: values[match[1]], text) for name, text in found.items()
    }


@pytest.fixture
def server(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a daemon after a fatal fault."""
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=("--gpu", "off"))
    try:
        daemon.start()
        with prometheus(tmp_path, rules=RULES, target=f"127.0.0.1:{daemon.port}") as running:
            kernel_log.write(FELL_OFF)
            wait_for(lambda: running.alerts("XidwatchFatalEvent"), "the fault to be scraped")
            yield running
    finally:
        daemon.stop()


def test_the_copy_for_use_without_helm_is_the_same() -> None:
    assert COPY.read_bytes() == SOURCE.read_bytes()


def test_every_panel_says_what_it_shows_and_asks_the_chosen_data_source() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == chosen, panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["datasource"] == chosen for target in panel["targets"]), panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), panel["title"]


def test_no_two_panels_have_one_number_or_one_place() -> None:
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    for one, other in combinations([panel["gridPos"] for panel in every], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in every)


def test_every_variable_that_is_used_exists_and_each_that_exists_is_used() -> None:
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps([DASHBOARD["panels"], DASHBOARD["annotations"]])))
    assert defined == {"datasource", "node", "severity"}
    assert used - set(BUILT_IN) == defined


def test_promtool_parses_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"query:{at}", "expr": text} for at, text in enumerate(expressions().values())]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    checked = promtool("check", "rules", str(file))
    assert checked.returncode == 0, checked.stdout


def test_every_query_asks_for_metrics_that_the_daemon_has(tmp_path: Path, kernel_log: FakeKernelLog) -> None:
    daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=("--gpu", "off"))
    try:
        kinds = dict(
            re.findall(r"^# TYPE (\S+) (\S+)", daemon.start().get("/metrics")[1].decode(), re.MULTILINE)
        )
    finally:
        daemon.stop()
    series = {f"{name}_bucket" if kind == "histogram" else name for name, kind in kinds.items()}
    asked = set(re.findall(r"\b(?:xidwatch|process)_\w+", " ".join(expressions().values())))
    assert len(asked) > 10
    assert asked <= series


def test_a_real_prometheus_answers_every_query(server: Prometheus) -> None:
    asked = {name: urlencode({"query": text}) for name, text in expressions().items()}
    answers = {name: server.get(f"/api/v1/query?{query}") for name, query in asked.items()}
    assert [name for name, answer in answers.items() if answer is None] == []
    (row,) = answers["Faults in the time shown A"]["result"]
    assert {key: row["metric"][key] for key in ("node", "kind", "code", "severity")} == {
        "node": "test-node",
        "kind": "xid",
        "code": "79",
        "severity": "fatal",
    }
    assert row["value"][1] == "1"
    assert [float(each["value"][1]) for each in answers["Nodes watched A"]["result"]] == [1]
    assert [float(each["value"][1]) for each in answers["Deaf nodes A"]["result"]] == [0]
