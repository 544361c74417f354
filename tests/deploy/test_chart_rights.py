"""What a pod of the chart may do on its node and at the API server, and which GPUs it gets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.chart import Checked, is_test
from tests.deploy.modes import COMBINATIONS, GPU

CAPABILITIES = ["SYSLOG", "BPF", "PERFMON"]


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_pod_has_the_capabilities_of_its_log_access_and_no_other(
    name: str, rendered: dict[str, Checked]
) -> None:
    values, found = COMBINATIONS[name], rendered[name]
    context = found.container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["runAsUser"] == 0
    if values.get("logAccess") == "privileged":
        assert context["privileged"] is True
        assert "capabilities" not in context  # they would not be heeded
        return
    assert context["privileged"] is False
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"], "add": CAPABILITIES}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_pod_sees_of_its_node_what_was_asked_for(name: str, rendered: dict[str, Checked]) -> None:
    values, pod = COMBINATIONS[name], rendered[name].pod
    assert pod.get("hostPID", False) is values.get("hostPID", False)
    assert not {"hostNetwork", "hostIPC"} & pod.keys()
    paths = {each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each}
    expected = set() if "state" in values else {"/var/lib/xidwatch"}
    expected |= {"/dev/kmsg"} if values.get("logAccess") == "privileged" else set()
    expected |= {"/run/xidwatch"} if "socket" in values else set()
    assert paths == expected


@pytest.mark.parametrize("name", COMBINATIONS)
def test_secrets_can_be_read_by_nobody_else(name: str, rendered: dict[str, Checked]) -> None:
    for volume in rendered[name].pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o400
    for mount in rendered[name].container["volumeMounts"]:
        # What is mounted alone would not change with its Secret.
        assert "subPath" not in mount or mount["name"] == "config"


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_pod_has_an_account_only_if_it_reports_to_the_api_server(
    name: str, rendered: dict[str, Checked]
) -> None:
    reports, found = COMBINATIONS[name].get("nodeReports", []), rendered[name]
    assert found.pod["automountServiceAccountToken"] is bool(reports)
    rules = [
        (each["kind"], each["metadata"].get("namespace"), each["rules"])
        for each in found.documents
        if each["kind"] in ("Role", "ClusterRole")
    ]
    expected: list[tuple[str, str | None, list[Any]]] = []
    if "events" in reports:
        rule = {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]}
        expected.append(("Role", "default", [rule]))
    if "conditions" in reports:
        look = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}
        patch = {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}
        expected.append(("ClusterRole", None, [look, patch]))
    assert sorted(rules, key=str) == sorted(expected, key=str)
    assert found.has("ValidatingAdmissionPolicy") is ("conditions" in reports)


def test_the_namespace_says_which_pod_security_level_it_admits(rendered: dict[str, Checked]) -> None:
    labels = rendered["namespace with dra"].one("Namespace")["metadata"]["labels"]
    assert {key: value for key, value in labels.items() if "pod-security" in key} == {
        f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")
    }
    assert labels["resource.kubernetes.io/admin-access"] == "true"


def test_the_pod_of_helm_test_needs_no_rights_at_all(rendered: dict[str, Checked]) -> None:
    """What the Pod Security level `restricted` asks for."""
    for found in rendered.values():
        spec = next(each["spec"] for each in found.documents if is_test(each))
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert all("secret" in volume for volume in spec.get("volumes", []))
        assert not {"hostPID", "hostNetwork", "hostIPC"} & spec.keys()


def test_no_gpu_is_taken_unless_by_the_modes_that_say_so(rendered: dict[str, Checked]) -> None:
    for gpu in GPU:
        limits = rendered[f"{gpu}, unprivileged, loopback"].container["resources"]["limits"]
        assert limits == {"memory": "512Mi"} | ({"nvidia.com/gpu": 1} if gpu == "resource" else {})


def test_a_pod_without_gpu_access_does_not_need_the_driver_to_start(rendered: dict[str, Checked]) -> None:
    found = rendered["none, unprivileged, loopback"]
    assert "runtimeClassName" not in found.pod
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in found.container["env"]
    assert 'gpu = "off"' in found.config


def test_a_claim_is_for_all_gpus_and_takes_none(rendered: dict[str, Checked]) -> None:
    found = rendered["dra, unprivileged, loopback"]
    template = found.one("ResourceClaimTemplate")
    assert template["apiVersion"] == "resource.k8s.io/v1"
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"] == {
        "deviceClassName": "gpu.nvidia.com",
        "allocationMode": "All",
        "adminAccess": True,
        "tolerations": [{"operator": "Exists"}],
    }
    (claim,) = found.pod["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == template["metadata"]["name"]
    assert found.container["resources"]["claims"] == [{"name": claim["name"]}]


def test_it_runs_on_gpu_nodes_and_stays_there(rendered: dict[str, Checked]) -> None:
    pod = rendered["runtimeClass, unprivileged, loopback"].pod
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["priorityClassName"] == "system-node-critical"
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in pod["tolerations"]
    assert {"operator": "Exists", "effect": "NoExecute"} in pod["tolerations"]
    assert rendered["another place"].pod["nodeSelector"] == {"cloud.google.com/gke-gpu": "true"}
