"""`deploy/manifests`: what the chart gives, no more and no less."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.chart import Helm, Schemas
from tests.deploy.render import MANIFESTS, RENDERED, SCHEMA, manifest, schema
from tests.support.daemon import ROOT

WITH_DRA = ("1.34", "1.37")
KUBERNETES = ("1.25", "1.31", *WITH_DRA)


@pytest.mark.parametrize("name", RENDERED)
def test_a_manifest_is_what_the_chart_renders_to(name: str, helm: Helm) -> None:
    written = (MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")
    assert written == manifest(name, helm), "run make manifests"


def test_there_is_no_other_manifest() -> None:
    assert {each.stem for each in MANIFESTS.iterdir()} == set(RENDERED)


def test_the_schema_of_the_values_has_the_settings_of_the_daemon() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema(), "run make manifests"


@pytest.mark.parametrize("name", RENDERED)
def test_a_manifest_is_what_kubernetes_takes(name: str, kubernetes: Schemas) -> None:
    text = (MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")
    found = kubernetes.check(text, WITH_DRA if name.endswith("dra") else KUBERNETES)
    assert (found.errors, found.unknown) == ([], [])
    assert found.documents[0]["kind"] == "Namespace"  # applied in this order
    assert not any("helm.sh/hook" in str(each["metadata"]) for each in found.documents)


@pytest.mark.parametrize("name", RENDERED)
def test_kubectl_reads_a_manifest_and_sets_the_image(name: str, kubectl: Path, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_bytes((MANIFESTS / f"{name}.yaml").read_bytes())
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [all.yaml]\n"
        "images: [{name: registry.example.com/xidwatch, newName: localhost/mine, newTag: '7'}]\n"
    )
    done = subprocess.run(
        [str(kubectl), "kustomize", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "image: localhost/mine:7" in done.stdout
    assert "registry.example.com" not in done.stdout


def test_rendering_again_finds_nothing_to_do(helm_4: Helm) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.render", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_schemas_refuse_what_is_wrong(kubernetes: Schemas) -> None:
    service = "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIp: None}}"
    assert "clusterIp" in kubernetes.check(service, ["1.37"]).errors[0]
    assert kubernetes.check("{apiVersion: v9, kind: Pod, metadata: {}}", ["1.37"]).unknown == ["v9 Pod 1.37"]
