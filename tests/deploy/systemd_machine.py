"""A Debian 12 with systemd as its first process, booted in software with xidwatch installed as a service.

The root file system is made once from Debian's packages, into .cache. What xidwatch needs at run time is
installed for the guest's Python from the lock file, so that it is what a node would get.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.qemu import machine
from tests.support.daemon import ROOT

CACHE = ROOT / ".cache" / "systemd"
UNIT = ROOT / "deploy" / "systemd" / "xidwatch.service"
SYSUSERS = ROOT / "deploy" / "systemd" / "xidwatch.sysusers"
CONFIG = ROOT / "deploy" / "config.toml"
GUEST = Path(__file__).with_name("systemd_guest.py")
KERNEL = "6.1"
_MEMORY_MB = 2560  # the unpacked root file system lies in memory, and a ramdisk takes half of it at most
_LIMIT_S = 900  # it takes two minutes on a machine that has nothing else to do
_PACKAGES = "systemd,systemd-sysv,dbus,procps,python3-minimal,libpython3-stdlib"
_TOOLS = ("mmdebstrap", "cpio", "gzip")
_PARTS = ("xidwatch", "mcp_server", "daemon", "probes")
_STARTER = """#!/usr/bin/python3
import sys
sys.path.insert(0, "/opt/xidwatch")
from xidwatch.cli import main
sys.exit(main())
"""
_EMULATED = """# An emulated processor, on a machine that has other things to do as well.
[Service]
TimeoutStartSec=600s
"""
_CHECK = """[Unit]
After=xidwatch.service
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /check.py
ExecStopPost=/usr/bin/systemctl --force --force poweroff
"""


def why_not() -> str | None:
    """Why no such machine can be booted here; None when one can."""
    if (reason := machine.why_not()) is not None:
        return reason
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "making a root file system with device files needs root"
    if machine.kernel(KERNEL) is None:
        return f"no kernel {KERNEL} can be downloaded: see tests/qemu/fetch_kernels.sh"
    return None


def boot(scratch: Path) -> dict[str, dict[str, Any]]:
    """What `systemd_guest.py` says of each trial, with the unit as it is in this tree."""
    image = machine.kernel(KERNEL)
    assert image is not None
    initramfs = scratch / "initramfs.gz"
    # The kernel unpacks one archive after the other.
    initramfs.write_bytes(
        _system().read_bytes() + _dependencies().read_bytes() + _service(scratch).read_bytes()
    )
    return machine.boot(image, initramfs, scratch, memory_mb=_MEMORY_MB, limit_s=_LIMIT_S)


@cache
def _system() -> Path:
    """The distribution, as an archive of the kind that the kernel unpacks."""
    archive = CACHE / f"{_key(_PACKAGES)}-system.cpio.gz"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        tree = CACHE / "system"
        shutil.rmtree(tree, ignore_errors=True)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "locale", "man")]
        command += [f'--customize-hook=rm -rf "$1"/var/{each}/*' for each in ("lib/apt/lists", "cache/apt")]
        _run(*command, "bookworm", str(tree))
        (tree / "init").symlink_to("sbin/init")
        _pack(tree, archive)
        shutil.rmtree(tree)
    return archive


@cache
def _dependencies() -> Path:
    """What the lock file names, for the guest's Python."""
    lock = ROOT / "requirements.lock"
    archive = CACHE / f"{_key(lock.read_text())}-dependencies.cpio.gz"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        tree = CACHE / "dependencies"
        shutil.rmtree(tree, ignore_errors=True)
        _pip(tree, "--only-binary", ":all:", "--python-version", "3.11", "--require-hashes", "-r", str(lock))
        _pack(tree, archive)
        shutil.rmtree(tree)
    return archive


def _service(scratch: Path) -> Path:
    """xidwatch itself, its unit, and the program that tries it."""
    tree = scratch / "service"
    source = scratch / "source"
    for part in _PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _pip(tree, "--no-deps", "--no-build-isolation", str(source))
    _put(tree / "usr/local/bin/xidwatch", _STARTER, 0o755)
    _put(tree / "etc/systemd/system/xidwatch.service", UNIT.read_text())
    _put(tree / "etc/systemd/system/xidwatch.service.d/emulated.conf", _EMULATED)
    _put(tree / "etc/sysusers.d/xidwatch.conf", SYSUSERS.read_text())
    _put(tree / "etc/xidwatch/config.toml", CONFIG.read_text() + "\nallow-drills = true\n")
    _put(tree / "etc/systemd/system/check.service", _CHECK)
    _put(tree / "check.py", GUEST.read_text())
    wanted = tree / "etc/systemd/system/multi-user.target.wants"
    wanted.mkdir()
    for unit in ("xidwatch.service", "check.service"):
        (wanted / unit).symlink_to(f"../{unit}")
    archive = scratch / "service.cpio.gz"
    _pack(tree, archive)
    return archive


def _put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _pip(tree: Path, *arguments: str) -> None:
    """Install into /opt/xidwatch of the tree, compiled for the guest where this Python is of its version."""
    target = tree / "opt" / "xidwatch"
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), *arguments)
    if platform.python_version_tuple()[:2] != ("3", "11"):
        for compiled in target.rglob("__pycache__"):
            shutil.rmtree(compiled)


def _pack(tree: Path, archive: Path) -> None:
    unfinished = archive.with_suffix(".part")
    command = f"find . -xdev | cpio --quiet -o -H newc -R 0:0 | gzip -1 >{unfinished}"
    _run("bash", "-o", "pipefail", "-c", command, cwd=tree)
    unfinished.rename(archive)


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr[-2000:]}"


def _key(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]
