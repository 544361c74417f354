"""Who reaches a pod of the chart, and whom it may call."""

from __future__ import annotations

import tomllib

import pytest

from tests.deploy.chart import Checked, Helm, Object, Schemas, Values, is_test
from tests.deploy.modes import DOOR, GPU, LOG, TOKEN_LINE

LOCKED = ["tokens", "tokens of the chart", "oauth", "tls", "mutual tls"]


def test_without_a_lock_it_listens_on_loopback_and_no_port_is_shown(rendered: dict[str, Checked]) -> None:
    for gpu in GPU:
        for log in LOG:
            found = rendered[f"{gpu}, {log}, loopback"]
            assert tomllib.loads(found.config)["listen"] == "127.0.0.1:8080"
            assert "ports" not in found.container
            assert "ports" not in found.one("Service")["spec"]
            policy = found.one("NetworkPolicy")["spec"]
            assert (policy["ingress"], policy["egress"]) == ([], [])


@pytest.mark.parametrize("door", LOCKED)
def test_with_a_lock_it_listens_for_everybody_and_nobody_is_anonymous(
    door: str, rendered: dict[str, Checked]
) -> None:
    found = rendered[f"none, unprivileged, {door}"]
    config = tomllib.loads(found.config)
    assert config["listen"] == "0.0.0.0:8080"
    assert "allow-anonymous" not in config
    assert ("token-file" in config) is (door != "oauth")
    assert "xidwatch.xidwatch.svc" in config["allowed-hosts"]
    (port,) = found.container["ports"]
    assert found.one("Service")["spec"]["ports"][0]["targetPort"] == port["name"]


def test_an_ipv6_address_keeps_its_brackets(rendered: dict[str, Checked]) -> None:
    assert tomllib.loads(rendered["ipv6"].config)["listen"] == "[::]:9090"


@pytest.mark.parametrize("door", DOOR)
def test_kubelet_asks_whether_it_lives_in_a_way_that_gets_through(
    door: str, rendered: dict[str, Checked]
) -> None:
    container = rendered[f"none, unprivileged, {door}"].container
    for probe in (container["startupProbe"], container["livenessProbe"]):
        if door in ("loopback", "mutual tls"):
            assert "httpGet" not in probe
            assert "socket_client" in probe["exec"]["command"][-1]
        else:
            expected = {"path": "/healthz", "port": "http"}
            assert probe["httpGet"] == (expected | {"scheme": "HTTPS"} if door == "tls" else expected)
    assert container["readinessProbe"]["exec"]["command"] == ["xidwatch", "status", "--ready"]


def test_the_variables_of_a_service_cannot_become_settings(rendered: dict[str, Checked]) -> None:
    assert all(found.pod["enableServiceLinks"] is False for found in rendered.values())


def test_another_file_makes_other_pods(helm: Helm, kubernetes: Schemas) -> None:
    def checksum(values: Values) -> str:
        template = kubernetes.check(helm.template(values)).one("DaemonSet")["spec"]["template"]
        checksums = template["metadata"]["annotations"].items()
        return str([each for each in checksums if each[0].startswith("checksum/")])

    assert checksum({}) == checksum({"hostPID": True})
    assert checksum({}) != checksum({"config": {"retention": "90d"}})
    first, second = ({"onEvent": {"sinks": f'[[sink]]\nname = "{name}"'}} for name in "ab")
    assert checksum(first) != checksum(second)


def test_tokens_of_the_chart_are_a_secret(rendered: dict[str, Checked]) -> None:
    found = rendered["none, unprivileged, tokens of the chart"]
    secret = found.one("Secret")
    assert secret["stringData"] == {"tokens": f"{TOKEN_LINE}\n"}
    (volume,) = (each for each in found.pod["volumes"] if each["name"] == "auth")
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    assert volume["secret"]["items"] == [{"key": "tokens", "path": "tokens"}]


def test_every_secret_and_map_that_a_pod_mounts_is_there_or_was_named(rendered: dict[str, Checked]) -> None:
    named = {"xidwatch-tokens", "xidwatch-tls", "clients", "sinks", "scraper", "tester"}
    for name, found in rendered.items():
        made = {
            each["metadata"]["name"] for each in found.documents if each["kind"] in ("Secret", "ConfigMap")
        }
        pods = [found.pod, *(each["spec"] for each in found.documents if each["kind"] == "Pod")]
        for volume in (volume for pod in pods for volume in pod.get("volumes", [])):
            wanted = volume.get("secret", {}).get("secretName") or volume.get("configMap", {}).get("name")
            assert wanted is None or wanted in made | named, name


def test_the_daemon_may_call_out_only_if_something_makes_it(rendered: dict[str, Checked]) -> None:
    def egress(name: str) -> list[Object]:
        rules: list[Object] = rendered[name].one("NetworkPolicy")["spec"]["egress"]
        return rules

    assert egress("scraped") == []
    callers = ("sinks", "sinks of the chart", "events", "telemetry", "none, unprivileged, oauth")
    assert all(egress(name) == [{}] for name in callers)
    assert egress("network") == [{"ports": [{"port": 443}]}]


def test_who_may_try_the_door_can_be_named(rendered: dict[str, Checked]) -> None:
    (everybody,) = rendered["scraped"].one("NetworkPolicy")["spec"]["ingress"]
    assert "from" not in everybody
    (named,) = rendered["network"].one("NetworkPolicy")["spec"]["ingress"]
    assert "namespaceSelector" in named["from"][0]
    tester = next(each for each in rendered["network"].documents if is_test(each))
    assert named["from"][1]["podSelector"]["matchLabels"].items() <= tester["metadata"]["labels"].items()
