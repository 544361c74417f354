"""docs/kubernetes.md: its helm commands render, its plugin commands are taken, its values are the chart's."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import pytest

from tests.deploy.chart import CHART, KUBERNETES, Helm, Schemas
from tests.support.daemon import ROOT
from tests.test_docs import calls_of
from xidwatch.cli import build_parser

DOCUMENT = ROOT / "docs" / "kubernetes.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
OPTIONS_OF_INSTALL = {"--create-namespace", "--reset-then-reuse-values"}
TOKENS = "auth.existingSecret=xidwatch-tokens"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def helm_commands() -> list[list[str]]:
    calls = (shlex.split(words) for name, words in calls_of("helm") if name == DOCUMENT.name)
    return [words for words in calls if words[0] in ("install", "upgrade")]


@pytest.mark.parametrize("words", helm_commands(), ids=" ".join)
def test_a_helm_command_renders(words: list[str], helm: Helm, kubernetes: Schemas) -> None:
    verb, *rest = words
    given = [word for word in rest if word not in OPTIONS_OF_INSTALL]
    # What an upgrade keeps from before.
    before = ["--set", "image.repository=registry.example.com/xidwatch"] if verb == "upgrade" else []
    before += ["--set", TOKENS] if any("podMonitor" in word for word in rest) else []
    chart = [str(CHART) if word == "deploy/helm/xidwatch" else word for word in given]
    text = helm.run(["template", "--kube-version", KUBERNETES, *chart, *before])
    found = kubernetes.check(text, ["1.37"])
    assert found.errors == []
    assert found.has("DaemonSet")


@pytest.mark.parametrize("values", blocks("yaml"))
def test_values_are_taken(values: str, helm: Helm, kubernetes: Schemas) -> None:
    (given,) = kubernetes.check(values).documents
    assert kubernetes.check(helm.template(given), ["1.37"]).errors == []


def test_the_commands_of_the_plugin_are_ones_of_xidwatch() -> None:
    commands = [words for name, words in calls_of("kubectl") if name == DOCUMENT.name]
    seen = [shlex.split(words)[1:] for words in commands if words.startswith("xidwatch ")]
    assert len(seen) > 2
    for _, command, *arguments in seen:
        name = "stdio" if command == "mcp" else command
        assert build_parser(name).parse_args([name, *arguments]).command == name


def test_the_clients_file_starts_the_plugin() -> None:
    (text,) = blocks("json")
    (server,) = json.loads(text)["mcpServers"].values()
    assert [server["command"], *server["args"]] == ["kubectl", "xidwatch", "gpu-17", "mcp"]


def named_values() -> Iterator[str]:
    """`a.b` of the chart's values, as the document spells them."""
    values = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))["properties"]
    for word in re.findall(r"`([a-zA-Z.]+(?:-[a-z]+)*)(?:=[^`]*)?`", TEXT):
        if word.split(".")[0] in values and not word.endswith(".com"):  # a device class has a domain
            yield word


def test_every_value_that_is_named_exists() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    names = set(named_values())
    assert len(names) > 15
    for name in names:
        place = schema
        for part in name.split("."):
            definition = place.get("$ref", "").removeprefix("#/definitions/")
            place = schema["definitions"][definition] if definition else place
            assert part in place["properties"], name
            place = place["properties"][part]
