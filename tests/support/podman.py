"""podman in docker's place: builds the Dockerfile and runs what comes of it, in a store of its own.

No daemon is needed for that, and all of it goes with its directory. What differs from docker here: the
network is the node's (a network of one's own needs programs that may be missing), and a seccomp profile as
Docker has it is given where podman's own is too old to know CAP_BPF.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Result
from tests.support.container import Engine
from tests.support.daemon import ROOT
from tests.support.waiting import DEADLINE_S

BUILD_DEADLINE_S = 900.0
_TIMESTAMP = "1767225600"
"""The date of what podman itself leaves in a layer, where it had mounted something."""
_CONF = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]  # higher ones take CAP_SYS_RESOURCE
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
{runtime}
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image."""

    name: str
    size: int
    """Bytes of all its layers, unpacked."""
    layers: tuple[str, ...]
    """Digests of its layers, unpacked; the lowest first."""
    config: Mapping[str, Any]
    """How its containers are started, as docker describes it."""


@dataclass(slots=True)
class Podman:
    """podman, with images, containers and volumes of its own below `directory`."""

    directory: Path
    _built: dict[tuple[str, ...], Image] = field(default_factory=dict, init=False)
    _environment: dict[str, str] = field(init=False)
    _profile: Path = field(init=False)

    def __post_init__(self) -> None:
        """Skips the test, with the reason, where containers cannot be run."""
        self._profile = Engine(self.directory / "tried").profile()
        conf = self.directory / "containers.conf"
        conf.write_text(_CONF.format(runtime='runtime = "runc"' if shutil.which("runc") else ""))
        self._environment = os.environ | {"CONTAINERS_CONF": str(conf)}

    def command(self, *arguments: str) -> list[str]:
        """The command line of one command of podman; it needs `environment`."""
        store = ("--root", str(self.directory / "store"), "--runroot", str(self.directory / "run"))
        return ["podman", *store, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Variables of every command."""
        return self._environment

    def __call__(self, *arguments: str, deadline_s: float = DEADLINE_S) -> Result:
        """Run one command to its end."""
        done = subprocess.run(
            self.command(*arguments),
            env=self._environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=deadline_s,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def load(self, archive: Path, name: str, *, environment: Mapping[str, str]) -> None:
        """Take a root file system in as an image."""
        changes = [flag for key, value in environment.items() for flag in ("--change", f"ENV {key}={value}")]
        done = self("import", "--quiet", *changes, str(archive), name, deadline_s=BUILD_DEADLINE_S)
        assert done.code == 0, done.err

    def build(self, tag: str, *flags: str) -> Image:
        """The image that the Dockerfile of this project makes, as it is; built when first asked for."""
        if (tag, *flags) not in self._built:
            self._built[tag, *flags] = self._build(tag, *flags)
        return self._built[tag, *flags]

    def _build(self, tag: str, *flags: str) -> Image:
        # docker's own format: OCI's knows no HEALTHCHECK.
        own = ("build", "--format", "docker", "--network", "host", "--timestamp", _TIMESTAMP, "--tag", tag)
        done = self(*own, *flags, str(self._context()), deadline_s=BUILD_DEADLINE_S)
        assert done.code == 0, done.out[-4000:] + done.err[-4000:]
        found = json.loads(self("image", "inspect", tag).out)[0]
        config = found["Config"] | {"Healthcheck": found.get("HealthCheck") or found.get("Healthcheck")}
        return Image(tag, found["Size"], tuple(found["RootFS"]["Layers"]), config)

    def _context(self) -> Path:
        """A copy of what the build may read, made once: who edits the project meanwhile changes no build."""
        place = self.directory / "context"
        if not place.exists():
            admitted = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
            names = [line.removeprefix("!") for line in admitted if line.startswith("!")]
            place.mkdir()
            for source in (ROOT / name for name in ("Dockerfile", ".dockerignore", *names)):
                copy = shutil.copytree if source.is_dir() else shutil.copy2
                copy(source, place / source.name)
        return place

    def run_flags(self) -> list[str]:
        """What every container here is started with beside the flags of a test."""
        return ["--network", "host", "--no-healthcheck", "--security-opt", f"seccomp={self._profile}"]

    @contextmanager
    def started(self, image: str, *flags: str, command: Sequence[str] = ()) -> Iterator[str]:
        """The name of a container that runs, for as long as the block lasts."""
        done = self("run", "--detach", *self.run_flags(), *flags, image, *command)
        assert done.code == 0, done.err
        name = done.out.strip()
        try:
            yield name
        finally:
            self("rm", "--force", "--volumes", "--time", "0", name)

    def inspect(self, name: str, what: str) -> str:
        """One value of a container, as a Go template names it."""
        done = self("inspect", "--format", f"{{{{{what}}}}}", name)
        assert done.code == 0, done.err
        return done.out.strip()

    def close(self) -> None:
        """Remove every container, volume and image."""
        self("rm", "--all", "--force", "--volumes", "--time", "0")
        self("system", "prune", "--all", "--force", "--volumes", deadline_s=BUILD_DEADLINE_S)


def skip_unless_bpf_may_be_loaded() -> None:
    """Skip the test, with the reason, where eBPF cannot be had outside of a container either."""
    from probes.bpf.availability import attach
    from probes.bpf.unavailable import Unavailable

    if isinstance(found := attach(), Unavailable):
        pytest.skip(f"eBPF cannot be had outside of a container either: {found.reason}")
    found.close()
