"""Real containers to run the daemon in: podman, with an image made here, so that no registry is asked.

The image is an empty root file system. The host's /usr, its Python and this project are mounted into it,
read-only, at the paths that they have outside. The network is the host's, so that tests reach the daemon.
"""

from __future__ import annotations

import io
import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Result
from tests.support.daemon import ROOT, Daemon
from tests.support.waiting import DEADLINE_S, wait_for

PYTHON = (sys.executable, "-m")
_IMAGE = "localhost/xidwatch-empty"
_DEFAULT_PROFILES = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
_ENOUGH = 4096
"""Open files, and processes of a user."""
_RULES_FOR_BPF: list[dict[str, Any]] = [
    {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
    {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_BPF"]}},
]
_LINKS = ("bin", "lib", "lib64", "sbin")
"""Links into /usr, where the host has them."""


class Engine:
    """podman, with images and containers of its own."""

    def __init__(self, directory: Path) -> None:
        """Skips the test, with the reason, where containers cannot be run."""
        if shutil.which("podman") is None:
            pytest.skip("podman is not installed")
        if os.geteuid() != 0:
            pytest.skip("only root can give a container capabilities that reach the kernel")
        self.directory = directory
        self._global = [
            *("podman", "--root", str(directory / "store"), "--runroot", str(directory / "run")),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
            # Debian 12's crun refuses hosts with both versions of cgroups.
            *(("--runtime", "runc") if shutil.which("runc") else ()),
        ]
        made = self("import", "--quiet", "-", _IMAGE, stdin=_empty_root())
        tried = self(*self.run_command(), "true") if made.code == 0 else made
        if tried.code:
            pytest.skip(f"podman: {tried.err.strip()}")

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Result:
        """Run one command of podman to its end."""
        done = subprocess.run(
            [*self._global, *arguments], input=stdin, capture_output=True, check=False, timeout=DEADLINE_S
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def run_command(self, *flags: str) -> list[str]:
        """`run` with the restrictions that every container here has, up to its image."""
        return [
            *("run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *(() if "--network" in flags else ("--network", "host")),
            *("--workdir", str(ROOT), "--env", f"PYTHONPATH={ROOT}", "--env", "PYTHONDONTWRITEBYTECODE=1"),
            *(*_limits(), *_mounts(), *flags, _IMAGE),
        ]

    def wrapper(self, *flags: str) -> list[str]:
        """A command that runs another one in a container."""
        return [*self._global, *self.run_command(*flags)]

    def inspect(self, name: str, what: str) -> str:
        """One value of a running container, as a Go template names it; empty while there is no such one."""
        return self("inspect", "--format", f"{{{{{what}}}}}", name).out.strip()

    def close(self) -> None:
        """End and remove what is still there."""
        self("rm", "--all", "--force", "--time", "0")

    def own_profile_lets_bpf_through(self) -> bool:
        """Whether the engine's default seccomp profile knows that CAP_BPF is for bpf(2)."""
        return _allows_bpf(_default_profile())

    def profile(self) -> Path:
        """The engine's default seccomp profile; where it is too old to know CAP_BPF, with the rule for it
        that Docker, containerd and newer podmans have."""
        rules = _default_profile()
        if not _allows_bpf(rules):
            for each in rules["syscalls"]:
                each["names"] = [name for name in each["names"] if name != "bpf"]
            rules["syscalls"] += _RULES_FOR_BPF
        path = self.directory / "seccomp.json"
        path.write_text(json.dumps(rules))
        return path


class ContainedDaemon(Daemon):
    """A daemon in a container, its state on a tmpfs. `stop` sends SIGTERM, as engines do."""

    def __init__(
        self,
        engine: Engine,
        directory: Path,
        *,
        podman_flags: Sequence[str] = (),
        inside: Sequence[str] = (),
        kmsg: Path = Path("/dev/kmsg"),
        flags: Sequence[str] = (),
    ) -> None:
        """`podman_flags`: what the container is granted. `inside`: a command that runs another one in its own
        place; it and all that is run with `xidwatch` later start through it."""
        self.name = _new_name()
        self._engine = engine
        self._inside = tuple(inside)
        own = ("--name", self.name, "--tmpfs", f"{directory}:mode=1777", *podman_flags)
        super().__init__(directory, kmsg=kmsg, flags=flags, wrapper=[*engine.wrapper(*own), *self._inside])

    def start(self) -> ContainedDaemon:
        """Start it and wait until it answers, be it ready or not."""
        self.spawn()
        wait_for(self._answers, "the daemon in the container to answer", pause_s=0.05)
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"it ended with {self._process.returncode}:\n{self.log.read_text()}")
        try:
            return self.get("/readyz")[0] in (200, 503) and self.xidwatch("status").code in (0, 1)
        except OSError:
            return False

    @property
    def pid(self) -> int:
        """Its process id on the host."""
        return int(self._engine.inspect(self.name, ".State.Pid"))

    def xidwatch(self, command: str, *arguments: str) -> Result:
        """Run a command of xidwatch in its container, with this daemon's socket and state directory."""
        where = ["--socket", str(self.socket)]
        if command == "doctor":
            where += ["--state-dir", str(self.state_dir), "--listen", f"127.0.0.1:{self.port}"]
        return self._engine(
            "exec", self.name, *self._inside, *PYTHON, "xidwatch", command, *where, *arguments
        )

    def kill(self) -> None:
        """kill -9, for the whole container."""
        self._engine("kill", "--signal", "KILL", self.name)
        if self._process is not None:
            self._process.wait(DEADLINE_S)
            self._process = None


@dataclass(frozen=True, slots=True)
class Sleeper:
    """A container whose only process is called `sleep`."""

    container_id: str
    pid: int
    """On the host."""


@contextmanager
def sleeping(engine: Engine) -> Iterator[Sleeper]:
    """A container that does nothing, killed by signal 9 at the end of the block."""
    name = _new_name()
    started = engine(*engine.run_command("--detach", "--name", name), "sleep", "1000")
    assert started.code == 0, started.err
    try:
        yield Sleeper(started.out.strip(), int(engine.inspect(name, ".State.Pid")))
    finally:
        engine("kill", "--signal", "KILL", name)


def _new_name() -> str:
    return f"xidwatch-test-{secrets.token_hex(4)}"


def _empty_root() -> bytes:
    """A tar file of it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as root:
        for name in _LINKS:
            if Path("/", name).is_symlink():
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
                root.addfile(link)
    return file.getvalue()


def _mounts() -> list[str]:
    """Flags for what Python needs, each directory once."""
    needed = {Path("/usr"), ROOT, *(Path(each).resolve() for each in (sys.prefix, sys.base_prefix))}
    needed |= {path for name in _LINKS if (path := Path("/", name)).is_dir() and not path.is_symlink()}
    outermost = [each for each in needed if not needed & {*each.parents}]
    return [flag for each in sorted(outermost) for flag in ("--volume", f"{each}:{each}:ro")]


def _limits() -> list[str]:
    """Flags for limits that any process may set: podman's own are higher, which takes CAP_SYS_RESOURCE."""
    both = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: resource.getrlimit(number)[1] for name, number in both.items()}
    enough = {
        name: _ENOUGH if limit == resource.RLIM_INFINITY else min(limit, _ENOUGH)
        for name, limit in hard.items()
    }
    return [flag for name, limit in enough.items() for flag in ("--ulimit", f"{name}={limit}:{limit}")]


def _default_profile() -> dict[str, Any]:
    path = next((each for each in _DEFAULT_PROFILES if each.exists()), None)
    if path is None:
        pytest.skip("podman's default seccomp profile is not where it should be")
    profile: dict[str, Any] = json.loads(path.read_text())
    return profile


def _allows_bpf(profile: dict[str, Any]) -> bool:
    rules = [each for each in profile["syscalls"] if "bpf" in each["names"]]
    return any("CAP_BPF" in str(each.get("includes")) for each in rules)
