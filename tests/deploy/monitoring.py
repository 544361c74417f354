"""The shape of the Prometheus operator's objects, as far as the chart uses it.

kubernetes-validate knows Kubernetes' own kinds only. What follows was written by hand from the operator's
definitions (monitoring.coreos.com/v1 as of operator 0.82): a field that is not here, or of another form, is
an error. It says less than the definitions: values such as PromQL are not looked into.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Shape = Callable[[Any, str], Iterator[str]]
"""Yields what is wrong with a value, beginning with where it stands."""


def text(pattern: str = r".+") -> Shape:
    """A text that matches as a whole."""

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, str) or re.fullmatch(pattern, value, re.DOTALL) is None:
            yield f"{where}: {value!r} is no text of the form {pattern}"

    return check


def several(each: Shape) -> Shape:
    """A list that is not empty."""

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, list) or not value:
            yield f"{where}: is no list with something in it"
            return
        for index, item in enumerate(value):
            yield from each(item, f"{where}[{index}]")

    return check


def texts_by_name(value: Any, where: str) -> Iterator[str]:
    """Labels or annotations."""
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        yield f"{where}: is no map of texts"


def fields(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with these fields and no others."""
    known = {**required, **(optional or {})}

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{where}: is no object"
            return
        for name in value.keys() - known.keys():
            yield f"{where}.{name}: there is no such field"
        for name in required.keys() - value.keys():
            yield f"{where}.{name}: is missing"
        for name in known.keys() & value.keys():
            yield from known[name](value[name], f"{where}.{name}")

    return check


_DURATION = text(r"0|(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?")
_SECRET_KEY = fields({"name": text(), "key": text()})
_METADATA = fields(
    {"name": text(), "namespace": text()}, {"labels": texts_by_name, "annotations": texts_by_name}
)

_ENDPOINT = fields(
    {"port": text()},
    {
        "path": text(r"/.*"),
        "interval": _DURATION,
        "scheme": text(r"https?"),
        "authorization": fields({"credentials": _SECRET_KEY}, {"type": text(r"Bearer")}),
        "tlsConfig": fields(
            {"ca": fields({"secret": _SECRET_KEY})},
            {"serverName": text(), "cert": fields({"secret": _SECRET_KEY}), "keySecret": _SECRET_KEY},
        ),
    },
)
_ALERT = fields(
    {"alert": text(), "expr": text(), "labels": texts_by_name, "annotations": texts_by_name},
    {"for": _DURATION, "keep_firing_for": _DURATION},
)
_RECORDING = fields({"record": text(r"[a-zA-Z_:][a-zA-Z0-9_:]*"), "expr": text()}, {"labels": texts_by_name})


def _rule(value: Any, where: str) -> Iterator[str]:
    is_recording = isinstance(value, dict) and "record" in value
    return (_RECORDING if is_recording else _ALERT)(value, where)


_SPECS: Mapping[str, Shape] = {
    "PodMonitor": fields(
        {
            "selector": fields({"matchLabels": texts_by_name}),
            "namespaceSelector": fields({"matchNames": several(text())}),
            "podMetricsEndpoints": several(_ENDPOINT),
        },
        {"jobLabel": text()},
    ),
    "PrometheusRule": fields(
        {"groups": several(fields({"name": text(), "rules": several(_rule)}, {"interval": _DURATION}))}
    ),
}


def wrong(document: Mapping[str, Any]) -> list[str]:
    """What is wrong with an object of the operator."""
    kind = document["kind"]
    whole = fields(
        {
            "apiVersion": text(re.escape("monitoring.coreos.com/v1")),
            "kind": text(),
            "metadata": _METADATA,
            "spec": _SPECS[kind],
        }
    )
    return list(whole(document, kind))
