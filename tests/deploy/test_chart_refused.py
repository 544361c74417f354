"""What helm refuses to render: values that do not exist, and values that contradict each other."""

from __future__ import annotations

import re

import pytest

from tests.deploy.chart import Helm, RefusedError, Values
from tests.deploy.modes import TOKEN_LINE

REFUSED: dict[str, tuple[Values, str]] = {
    "no image": ({"image": {"repository": ""}}, "image.repository is empty"),
    "an unknown value": ({"hostPid": True}, "hostPid"),
    "an unknown value below": ({"gpu": {"acces": "dra"}}, "acces"),
    "an unknown setting": ({"config": {"retension": "9d"}}, "retension"),
    "a setting of the chart": ({"config": {"listen": "0.0.0.0:1"}}, "listen"),
    "an unknown mode": ({"logAccess": "root"}, "logAccess"),
    "a secret among the hashes": ({"auth": {"tokens": ["ci read xidwatch_secret"]}}, "auth"),
    "privileged pods in baseline": (
        {"logAccess": "privileged", "namespace": {"podSecurity": "baseline"}},
        "baseline would refuse the pods: logAccess=privileged makes the container privileged",
    ),
    "capabilities in baseline": (
        {"state": {"type": "emptyDir"}, "namespace": {"podSecurity": "baseline"}},
        "adds the capabilities SYSLOG, BPF and PERFMON; set it to privileged",
    ),
    "a hostPath in restricted": ({"namespace": {"podSecurity": "restricted"}}, "it mounts a hostPath"),
    "a label by which the pods are found": (
        {"podLabels": {"app.kubernetes.io/name": "ears"}},
        "podLabels sets app.kubernetes.io/name, by which the DaemonSet finds its pods",
    ),
    "kmsg without privilege": ({"config": {"probes": "bpf, kmsg"}}, "set logAccess=privileged"),
    "operator without rights": (
        {"config": {"mode": "operator"}},
        "needs hostPID=true and logAccess=privileged",
    ),
    "operator for anybody": (
        {
            "config": {"mode": "operator"},
            "hostPID": True,
            "logAccess": "privileged",
            "auth": {"allowAnonymous": True},
        },
        "let anybody who reaches a pod kill",
    ),
    "two token files": ({"auth": {"existingSecret": "a", "tokens": [TOKEN_LINE]}}, "are both set"),
    "open and locked": ({"auth": {"existingSecret": "a", "allowAnonymous": True}}, "either open or locked"),
    "oauth for any service": ({"config": {"oauth-issuer": "https://x.example"}}, "oauth-audience"),
    "clients' certificates without one's own": (
        {"auth": {"existingSecret": "a"}, "tls": {"clientCA": {"existingSecret": "b"}}},
        "tls.clientCA is set without tls.existingSecret",
    ),
    "tls for nobody": ({"tls": {"existingSecret": "a"}}, "nobody can come in"),
    "two lists of sinks": ({"onEvent": {"existingSecret": "a", "sinks": "b"}}, "are both set"),
    "headers for nobody": ({"otlp": {"headersSecret": {"name": "a"}}}, "without config.otlp-endpoint"),
    "a test's token for no lock": ({"test": {"tokenSecret": {"name": "a"}}}, "has no token file"),
    "nothing to scrape": ({"podMonitor": {"enabled": True}}, "Prometheus cannot come in"),
    "a scraper without token": (
        {"podMonitor": {"enabled": True}, "auth": {"existingSecret": "a"}},
        "/metrics asks for a token",
    ),
    "a scraper that trusts anybody": (
        {
            "podMonitor": {"enabled": True, "tokenSecret": {"name": "s"}},
            "auth": {"existingSecret": "a"},
            "tls": {"existingSecret": "b"},
        },
        "without podMonitor.tls.caSecret",
    ),
    "a scraper without certificate": (
        {
            "podMonitor": {"enabled": True, "tokenSecret": {"name": "s"}, "tls": {"caSecret": "c"}},
            "auth": {"existingSecret": "a"},
            "tls": {"existingSecret": "b", "clientCA": {"existingSecret": "d"}},
        },
        "Prometheus needs a certificate",
    ),
    "a scraper's tls for no tls": ({"podMonitor": {"tls": {"caSecret": "c"}}}, "the daemon speaks no TLS"),
    "nvml without gpus": ({"gpu": {"access": "none"}, "config": {"gpu": "nvml"}}, "does not show to the pod"),
    "gpus for nobody": ({"config": {"gpu": "off"}}, "set gpu.access=none"),
    "a runtime class without name": ({"gpu": {"runtimeClass": {"name": ""}}}, "needs gpu.runtimeClass.name"),
    "dra without class": (
        {"gpu": {"access": "dra", "dra": {"deviceClassName": ""}}},
        "needs gpu.dra.deviceClassName",
    ),
    "dra that takes every gpu": (
        {"gpu": {"access": "dra", "dra": {"adminAccess": False}}},
        "would take every GPU of the node",
    ),
    "a profile without a file": ({"seccompProfile": {"type": "Localhost"}}, "localhostProfile"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_with_the_reason(name: str, helm: Helm) -> None:
    values, reason = REFUSED[name]
    with pytest.raises(RefusedError, match=re.escape(reason)):
        helm.template(values)


def test_dra_is_refused_where_kubernetes_does_not_have_it(helm: Helm) -> None:
    with pytest.raises(RefusedError, match=r"from 1\.34 on; this is v1\.33\.0"):
        helm.template({"gpu": {"access": "dra"}}, kubernetes="1.33.0")
    assert "ValidatingAdmissionPolicy" not in helm.template(
        {"nodeReports": ["conditions"]}, kubernetes="1.29.0"
    )
