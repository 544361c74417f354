"""The chart: what each combination of modes renders to, and what arrives in the cluster."""

from __future__ import annotations

import base64
import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from daemon.config import SETTINGS, load
from tests.deploy import monitoring
from tests.deploy.chart import CHART, KUBERNETES, Checked, Helm, Schemas, Values, is_test
from tests.deploy.modes import COMBINATIONS, OTHERS
from tests.deploy.render import OF_THE_CHART
from xidwatch.version import VERSION

VERSIONS = ("1.25", "1.28", "1.31", "1.34", "1.37")
WITH_DRA = ("1.34", "1.37")


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_renders_and_is_what_kubernetes_takes(
    name: str, helm: Helm, kubernetes: Schemas
) -> None:
    values = COMBINATIONS[name]
    versions = WITH_DRA if values.get("gpu", {}).get("access") == "dra" else VERSIONS
    found = kubernetes.check(helm.template(values), versions)
    assert found.documents
    assert found.errors == []
    kinds = {missing.rsplit(" ", 1)[0] for missing in found.unknown}
    assert kinds <= {
        *("monitoring.coreos.com/v1 PodMonitor", "monitoring.coreos.com/v1 PrometheusRule"),
        # Before 1.30 these are not rendered; the chart was rendered for a later version.
        "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy",
        "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding",
    }
    for document in found.documents:
        if document["apiVersion"] == "monitoring.coreos.com/v1":
            assert monitoring.wrong(document) == []


def test_both_helms_render_the_same(helm_4: Helm) -> None:
    for values in [{}, *OTHERS.values()]:
        assert Helm("3").template(values) == helm_4.template(values)


def test_the_chart_passes_the_strict_linter(helm: Helm) -> None:
    said = helm.run(
        [
            "lint",
            "--strict",
            str(CHART),
            "--kube-version",
            KUBERNETES,
            "--set",
            "image.repository=x.example/x",
        ]
    )
    assert "1 chart(s) linted, 0 chart(s) failed" in said


def test_the_chart_has_the_version_of_the_program() -> None:
    about = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    assert f"\nappVersion: {VERSION}\n" in about


@pytest.mark.parametrize("name", COMBINATIONS)
def test_the_daemon_takes_the_settings_it_is_given(
    name: str, rendered: dict[str, Checked], tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(rendered[name].config, encoding="utf-8")
    environ = {"XIDWATCH_NODE_NAME": "gpu-17"}
    (node,) = (each for each in rendered[name].container["env"] if each["name"] in environ)
    assert node["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    assert load({}, environ, file).node_name == "gpu-17"


def test_settings_keep_their_kind_on_the_way_into_the_file(helm: Helm, kubernetes: Schemas) -> None:
    given = {
        "retention": "90d",
        "ring-size": 1_000_000,
        "allow-drills": True,
        "allowed-origins": ["https://a.example.com", "https://b.example.com"],
        "quiet-gap": '1s"\nmode = "operator',
    }
    config = kubernetes.check(helm.template({"config": given})).config
    written = tomllib.loads(config)
    assert {key: written[key] for key in given} == given
    assert "mode" not in written


def test_every_setting_of_the_daemon_can_be_given(helm_4: Helm) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    known = set(schema["properties"]["config"]["properties"])
    missing = {each.name for each in SETTINGS} - known - OF_THE_CHART
    assert not missing, "run make manifests"


def test_labels_find_the_daemons_and_not_the_test(rendered: dict[str, Checked]) -> None:
    for found in rendered.values():
        labels = found.one("DaemonSet")["spec"]["template"]["metadata"]["labels"]
        selector = found.one("Service")["spec"]["selector"]
        assert selector.items() <= labels.items()
        tester = next(each for each in found.documents if is_test(each))
        assert not selector.items() <= tester["metadata"]["labels"].items()


def test_another_claim_has_another_name_since_kubernetes_lets_none_be_changed(
    helm: Helm, kubernetes: Schemas
) -> None:
    def named(count: int) -> str:
        dra = {"adminAccess": False, "allocationMode": "ExactCount", "count": count}
        found = kubernetes.check(helm.template({"gpu": {"access": "dra", "dra": dra}}))
        name = str(found.one("ResourceClaimTemplate")["metadata"]["name"])
        (claim,) = found.pod["resourceClaims"]
        assert claim["resourceClaimTemplateName"] == name
        return name

    assert named(1) == named(1) != named(2)


def test_the_test_runs_where_the_daemons_do(rendered: dict[str, Checked]) -> None:
    # Only there the image is for the right processor, and every taint tolerated.
    for found in rendered.values():
        (tester,) = (each["spec"] for each in found.documents if is_test(each))
        for key in ("nodeSelector", "affinity", "tolerations"):
            assert tester.get(key) == found.pod.get(key)


def test_rules_and_dashboard_arrive_as_they_are(rendered: dict[str, Checked], kubernetes: Schemas) -> None:
    found = rendered["rules and dashboard"]
    (rules,) = kubernetes.check((CHART / "files" / "rules.yaml").read_text(encoding="utf-8")).documents
    assert found.one("PrometheusRule")["spec"] == rules
    (board,) = (each for each in found.documents if each["metadata"]["name"].endswith("-dashboard"))
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    written = (CHART / "files" / "dashboard.json").read_text(encoding="utf-8")
    assert json.loads(board["data"]["xidwatch.json"]) == json.loads(written)


def test_prometheus_shows_a_token_and_knows_whom_it_talks_to(rendered: dict[str, Checked]) -> None:
    monitor = rendered["scraped over mutual tls"].one("PodMonitor")["spec"]
    pod = rendered["scraped over mutual tls"].one("DaemonSet")["spec"]["template"]["metadata"]
    assert "xidwatch" in pod["labels"][monitor["jobLabel"]]  # which the rules look for
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "scraper", "key": "token"}
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] == "xidwatch.xidwatch.svc"
    assert endpoint["tlsConfig"]["keySecret"]["name"] == "prometheus"
    (endpoint,) = rendered["scraped by anybody"].one("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert "authorization" not in endpoint


def test_the_notes_name_the_level_and_the_way_in(helm_4: Helm, tmp_path: Path) -> None:
    notes = notes_of(helm_4, {}, tmp_path)
    assert "pod-security.kubernetes.io/enforce=privileged" in notes
    assert "exec -i POD -- xidwatch stdio" in notes
    assert "no lock" not in notes
    warned = notes_of(helm_4, {"auth": {"allowAnonymous": True}, "gpu": {"access": "resource"}}, tmp_path)
    assert "WARNING: there is no lock" in warned
    assert "WARNING: each pod takes 1 nvidia.com/gpu" in warned
    assert "admin-access=true" in notes_of(helm_4, {"gpu": {"access": "dra"}}, tmp_path)


def notes_of(helm: Helm, values: Values, directory: Path) -> str:
    """NOTES.txt, which `helm template` leaves out: a copy of the chart has it in a ConfigMap."""
    copy = directory / "chart"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(CHART, copy)
    text = (copy / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    (copy / "templates" / "_notes.tpl").write_text(f'{{{{ define "notes" }}}}{text}{{{{ end }}}}')
    (copy / "templates" / "notes.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\n"
        'data: {notes: {{ include "notes" . | b64enc | quote }} }\n'
    )
    given = json.dumps({"image": {"repository": "example.com/x"}, **values})
    said = helm.run(
        ["template", "x", str(copy), "--kube-version", KUBERNETES, "-s", "templates/notes.yaml", "-f", "-"],
        given,
    )
    found = re.search(r'notes: "(\S+)"', said)
    assert found is not None
    return base64.b64decode(found[1]).decode()
