"""What is rendered from the chart and from the daemon's settings: `make manifests`.

* `deploy/manifests/*.yaml`: the chart for people without helm, for each way to hear the kernel log;
* the part `config` of `deploy/helm/xidwatch/values.schema.json`: the daemon's settings.

With `--check` nothing is written: it prints which files would change, and ends with 1 when any would.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from daemon.config import SETTINGS
from daemon.settings import Setting
from tests.deploy.chart import CHART, Helm, RefusedError, Values
from tests.support.daemon import ROOT
from tests.support.installed import UnavailableError

MANIFESTS = ROOT / "deploy" / "manifests"
SCHEMA = CHART / "values.schema.json"

_NAMESPACE: Values = {"namespace": {"create": True}}
RENDERED: dict[str, Values] = {
    "unprivileged": {**_NAMESPACE, "logAccess": "unprivileged"},
    "privileged": {**_NAMESPACE, "logAccess": "privileged"},
    "unprivileged-without-gpu": {**_NAMESPACE, "logAccess": "unprivileged", "gpu": {"access": "none"}},
    "unprivileged-dra": {**_NAMESPACE, "logAccess": "unprivileged", "gpu": {"access": "dra"}},
}
"""Each file of `deploy/manifests`, and the values that it is rendered with."""

OF_THE_CHART = frozenset(
    {
        *("listen", "socket", "state-dir", "node-name", "token-file", "allow-anonymous"),
        *("tls-cert", "tls-key", "tls-client-ca", "on-event", "node-reports"),
    }
)
"""Settings that follow from other values of the chart."""

_HEADER = """\
# Rendered from deploy/helm/xidwatch by `make manifests`: change the chart, not this file.
# Values beside the defaults: {values}
# Put your own image in place of {image} before you apply it:
#   sed 's|{image}|REGISTRY/xidwatch|' {file} | kubectl apply -f -
"""


def main() -> int:
    """Write the files, or look whether they are as they should be."""
    parser = argparse.ArgumentParser(description="Renders deploy/manifests and the schema of the values.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if a file would change"
    )
    only_look = parser.parse_args().check
    changed = False
    try:
        for path, text in files():
            if path.exists() and path.read_text(encoding="utf-8") == text:
                continue
            changed = True
            what = "is not what it should be" if only_look else "written"
            sys.stdout.write(f"{path.relative_to(ROOT)} {what}\n")
            if not only_look:
                path.write_text(text, encoding="utf-8")
    except (UnavailableError, RefusedError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 1 if only_look and changed else 0


def files() -> Iterator[tuple[Path, str]]:
    """Each rendered file with the text that it should have. The schema comes first: helm reads it."""
    yield SCHEMA, schema()
    for name in RENDERED:
        yield MANIFESTS / f"{name}.yaml", manifest(name, Helm("4"))


def manifest(name: str, helm: Helm) -> str:
    """The text of one file of `deploy/manifests`. Raises UnavailableError and RefusedError."""
    values = RENDERED[name]
    shown = " ".join(f"{key}={value}" for key, value in _flat(values))
    text = helm.template(values, flags=["--skip-tests"])
    file, image = f"deploy/manifests/{name}.yaml", "registry.example.com/xidwatch"
    return _HEADER.format(values=shown, image=image, file=file) + text.strip() + "\n"


def schema() -> str:
    """The values' schema as it is, with the settings that the daemon has now."""
    written = json.loads(SCHEMA.read_text(encoding="utf-8"))
    written["properties"]["config"]["properties"] = {
        each.name: _of_setting(each) for each in SETTINGS if each.name not in OF_THE_CHART
    }
    return json.dumps(written, indent=2, ensure_ascii=False) + "\n"


def _of_setting(setting: Setting) -> dict[str, object]:
    """The daemon says what is wrong with a value; here it is only of a kind that a TOML file may hold."""
    text: dict[str, object] = {"type": "string", "minLength": 1}
    several: dict[str, object] = {"type": "array", "minItems": 1, "items": text}
    kinds = [{"type": "boolean"}] if setting.metavar is None else [text, {"type": "integer"}, several]
    return {"description": setting.help, "anyOf": kinds}


def _flat(values: Values, under: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{under}{key}.")
        else:
            yield f"{under}{key}", json.dumps(value).strip('"')


if __name__ == "__main__":
    sys.exit(main())
