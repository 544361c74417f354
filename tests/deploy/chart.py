"""The chart, rendered by a real helm, as objects; and the reason where helm refuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.tools import binaries, schemas_python
from tests.support.daemon import ROOT

CHART = ROOT / "deploy" / "helm" / "xidwatch"
IMAGE = "registry.example.com/xidwatch"
KUBERNETES = "1.35.0"
"""The version that helm renders for unless told otherwise: DRA needs 1.34."""
RELEASE = "xidwatch"
DEADLINE_S = 60.0

Object = dict[str, Any]
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Helm:
    """One helm."""

    major: str

    def template(
        self,
        values: Values,
        *,
        kubernetes: str = KUBERNETES,
        flags: Sequence[str] = (),
        namespace: str = "xidwatch",
    ) -> str:
        """The YAML of a release with these values, an image given. Raises RefusedError with helm's reason."""
        given = json.dumps({"image": {"repository": IMAGE}, **values})
        return self.run(
            [
                *("template", RELEASE, str(CHART), "--namespace", namespace),
                *("--kube-version", kubernetes, "--values", "-", *flags),
            ],
            given,
        )

    def run(self, words: Sequence[str], stdin: str = "") -> str:
        """What a helm command prints. Raises RefusedError."""
        done = subprocess.run(
            [str(binaries(self.major).helm), *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        if done.returncode:
            raise RefusedError(done.stderr.strip())
        return done.stdout


class RefusedError(Exception):
    """Helm refused; the text is its reason."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a text held against the schemas is."""

    documents: list[Object]
    errors: list[str]
    unknown: list[str]
    """Kinds without a schema: `apiVersion kind version`."""

    def one(self, kind: str) -> Object:
        """The only object of this kind."""
        (found,) = (each for each in self.documents if each["kind"] == kind and not is_test(each))
        return found

    def has(self, kind: str) -> bool:
        """Whether there is one of this kind."""
        return any(each["kind"] == kind for each in self.documents)

    @property
    def pod(self) -> Object:
        """The pod that the DaemonSet makes."""
        spec: Object = self.one("DaemonSet")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Object:
        """Its only container."""
        found: Object
        (found,) = self.pod["containers"]
        return found

    @property
    def config(self) -> str:
        """The daemon's TOML file."""
        (found,) = (
            each["data"]["config.toml"]
            for each in self.documents
            if each["kind"] == "ConfigMap" and "config.toml" in each["data"]
        )
        return str(found)


def is_test(document: Object) -> bool:
    """Whether `helm test` runs it."""
    return "helm.sh/hook" in document["metadata"].get("annotations", {})


class Schemas:
    """A process that reads YAML and holds it against the schemas of Kubernetes versions."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def check(self, text: str, versions: Sequence[str] = ()) -> Checked:
        """The objects of a text, held against these versions strictly."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"text": text, "versions": list(versions)}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the reader of YAML ended"
        return Checked(**json.loads(answer))


@contextmanager
def schemas() -> Iterator[Schemas]:
    """Such a process. Raises UnavailableError."""
    program = Path(__file__).with_name("schemas.py")
    with subprocess.Popen(
        [str(schemas_python()), str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Schemas(process)
