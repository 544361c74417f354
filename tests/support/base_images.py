"""The images that the Dockerfile starts from: local stand-ins made of Debian packages, or the public ones.

Stand-ins are made once a machine into `.cache/image/`, by the tool whose hash is in the directory's name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import ROOT
from tests.support.podman import Podman

DEBIAN, PYTHON = "docker.io/library/debian:bookworm-slim", "docker.io/library/python:3.12-slim-bookworm"
_TOOL = ROOT.parent / "shared" / "tools" / "mkbase.sh"
_CACHE = ROOT / ".cache" / "image"
_FILES = {DEBIAN: "debian-slim.tar", PYTHON: "python-slim.tar"}
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_TO_REGISTRIES = {"PIP_CERT": _CERTIFICATES, "SSL_CERT_FILE": _CERTIFICATES}
_MAKING_S, _PULLING_S = 600.0, 120.0


def provide(podman: Podman) -> str:
    """Put the base images into podman's store, and say which ones these are.

    Skips the test, with the reason, where they can neither be made nor pulled.
    """
    if _TOOL.exists():
        made = _stand_ins()
        for name, file in _FILES.items():
            podman.load(made / file, name, environment=_TO_REGISTRIES)
        return "stand-ins made of Debian packages"
    for name in _FILES:
        pulled = podman("pull", "--quiet", name, deadline_s=_PULLING_S)
        if pulled.code:
            pytest.skip(f"{name} cannot be had: {pulled.err.strip().splitlines()[-1]}")
    return "the public ones"


def _stand_ins() -> Path:
    """The directory that holds their files."""
    place = _CACHE / f"base-{hashlib.sha256(_TOOL.read_bytes()).hexdigest()[:12]}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            _make(place)
    return place


def _make(place: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap, which makes the base images, is not installed")
    fresh = place.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    path = f"{_python_312()}:{os.environ['PATH']}"
    done = subprocess.run(
        [_TOOL],
        env=os.environ | {"W": str(fresh), "PATH": path},
        capture_output=True,
        text=True,
        timeout=_MAKING_S,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"{_TOOL.name} fails: {(done.stderr.strip() or 'without a word').splitlines()[-1]}")
    for each in fresh.iterdir():
        if each.name not in _FILES.values():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    fresh.rename(place)


def _python_312() -> str:
    """The directory of a Python 3.12 that runs; what is only a front for versions not chosen does not."""
    places = [*os.environ["PATH"].split(os.pathsep), *map(str, Path.home().glob(".pyenv/versions/3.12*/bin"))]
    for python in (Path(place) / "python3.12" for place in places):
        if (
            python.exists()
            and subprocess.run([python, "-V"], capture_output=True, check=False).returncode == 0
        ):
            return str(python.parent)
    pytest.skip("the base image is made from a Python 3.12, and there is none here")
