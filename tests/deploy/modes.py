"""Every way to install the chart: GPU access, log access and door combined, and single values beside them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from tests.deploy.chart import Values

GPU: Mapping[str, Values] = {
    "none": {"gpu": {"access": "none"}},
    "runtimeClass": {"gpu": {"access": "runtimeClass"}},
    "resource": {"gpu": {"access": "resource"}},
    "dra": {"gpu": {"access": "dra"}},
}
LOG: Mapping[str, Values] = {
    "unprivileged": {"logAccess": "unprivileged"},
    "privileged": {"logAccess": "privileged"},
}

_TOKENS: Values = {"auth": {"existingSecret": "xidwatch-tokens", "key": "file"}}
_TLS: Values = {"tls": {"existingSecret": "xidwatch-tls"}}
_MUTUAL_TLS: Values = {"tls": {"existingSecret": "xidwatch-tls", "clientCA": {"existingSecret": "clients"}}}
TOKEN_LINE = f"grafana read sha256:{'0' * 64} expires=2030-01-01"
DOOR: Mapping[str, Values] = {
    "loopback": {},
    "tokens": _TOKENS,
    "tokens of the chart": {"auth": {"tokens": [TOKEN_LINE]}},
    "anonymous": {"auth": {"allowAnonymous": True}},
    "oauth": {"config": {"oauth-issuer": "https://login.example.com", "oauth-audience": "https://xidwatch"}},
    "tls": {**_TOKENS, **_TLS},
    "mutual tls": {**_TOKENS, **_MUTUAL_TLS},
}

_SCRAPED: Values = {"podMonitor": {"enabled": True, "tokenSecret": {"name": "scraper"}}}
OTHERS: Mapping[str, Values] = {
    "namespace": {"namespace": {"create": True}},
    "namespace with dra": {"namespace": {"create": True}, "gpu": {"access": "dra"}},
    "dra without admin access": {
        "gpu": {"access": "dra", "dra": {"adminAccess": False, "allocationMode": "ExactCount", "count": 2}}
    },
    "resource of another runtime": {
        "gpu": {"access": "resource", "resource": {"runtimeClassName": "nvidia"}}
    },
    "host pid": {"hostPID": True},
    "operator": {"hostPID": True, "logAccess": "privileged", "config": {"mode": "operator"}},
    "state in the pod": {"state": {"type": "emptyDir"}},
    "socket on the node": {"socket": {"hostPath": "/run/xidwatch"}},
    "events": {"nodeReports": ["events"]},
    "conditions": {"nodeReports": ["conditions"]},
    "events and conditions": {"nodeReports": ["events", "conditions"]},
    "sinks of the chart": {"onEvent": {"sinks": '[[sink]]\nurl = "https://hooks.example.com/x"\n'}},
    "sinks": {"onEvent": {"existingSecret": "sinks"}},
    "telemetry": {
        "config": {"otlp-endpoint": "https://collector.example.com:4318"},
        "otlp": {"headersSecret": {"name": "collector"}},
    },
    "scraped": {**_TOKENS, **_SCRAPED},
    "scraped by anybody": {"auth": {"allowAnonymous": True}, "podMonitor": {"enabled": True}},
    "scraped over tls": {
        **_TOKENS,
        **_TLS,
        "podMonitor": {"enabled": True, "tokenSecret": {"name": "scraper"}, "tls": {"caSecret": "ca"}},
    },
    "scraped over mutual tls": {
        **_TOKENS,
        **_MUTUAL_TLS,
        "podMonitor": {
            "enabled": True,
            "tokenSecret": {"name": "scraper"},
            "tls": {"caSecret": "ca", "clientSecret": "prometheus"},
        },
    },
    "rules and dashboard": {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}},
    "test with a token": {**_TOKENS, "test": {"tokenSecret": {"name": "tester"}}},
    "ipv6": {**_TOKENS, "listen": {"host": "[::]", "port": 9090}},
    "another place": {
        "image": {"repository": "registry.example.com/xidwatch", "digest": f"sha256:{'a' * 64}"},
        "nodeSelector": {"nvidia.com/gpu.present": None, "cloud.google.com/gke-gpu": "true"},
        "tolerations": [{"operator": "Exists"}],
        "priorityQuota": {"create": True},
        "seccompProfile": {"type": "Localhost", "localhostProfile": "xidwatch.json"},
        "seLinuxOptions": {"type": "spc_t"},
        "podAnnotations": {"team": "gpu"},
        "podLabels": {"team": "gpu"},
        "nameOverride": "ears",
        "serviceAccount": {"create": False, "name": "ears"},
        "updateStrategy": {"type": "OnDelete", "rollingUpdate": None},
        "networkPolicy": {"enabled": False},
    },
    "network": {
        **_TOKENS,
        "networkPolicy": {
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "egress": [{"ports": [{"port": 443}]}],
        },
    },
}


def _combinations() -> Iterator[tuple[str, dict[str, Any]]]:
    """A name and the values of each."""
    for (gpu, on_gpu), (log, on_log), (door, on_door) in itertools.product(
        GPU.items(), LOG.items(), DOOR.items()
    ):
        yield f"{gpu}, {log}, {door}", {**on_gpu, **on_log, **on_door}
    yield from ((name, dict(values)) for name, values in OTHERS.items())


COMBINATIONS: Mapping[str, Values] = dict(_combinations())
"""Each of them, with a name."""
