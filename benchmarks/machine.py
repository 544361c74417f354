"""The machine a result belongs to: without it a figure says nothing."""

from __future__ import annotations

import gzip
import os
import platform
import re
import sqlite3
import subprocess
from collections import Counter
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
_GPUS = Path("/proc/driver/nvidia/gpus")
PACKAGES = ("mcp", "pydantic", "anyio", "starlette", "uvicorn", "sse-starlette", "nvidia-ml-py")
"""Whose versions move the figures."""


def describe() -> dict[str, str]:
    """Processor, GPUs, memory, kernel, Python, packages, code, time and present load, by name."""
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    return {
        "cpu": f"{_cpu()}, {cores}{', virtual' if _is_virtual() else ''}",
        "gpus": ", ".join(f"{count} × {model}" for model, count in Counter(_gpus()).items()) or "none",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}{_hz()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join((*(_version(name) for name in PACKAGES), f"SQLite {sqlite3.sqlite_version}")),
        "code": f"xidwatch {_version('xidwatch').partition(' ')[2]}{_commit()}",
        "user": "root" if os.geteuid() == 0 else f"uid {os.geteuid()}",
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def name() -> str:
    """A name for a folder, of the kind of machine and not of the host: `amd-epyc-2-cores`, and its GPUs."""
    model = re.sub(r"\((R|TM|C)\)|\b(CPU|Processor)\b|\b\d+-Core\b|@.*", " ", _cpu(), flags=re.IGNORECASE)
    parts = (model, f"{len(os.sched_getaffinity(0))} cores", *dict.fromkeys(_gpus()))
    return "-".join(re.findall(r"[a-z0-9]+", " ".join(parts).lower()))


def load() -> float:
    """One-minute load average."""
    return os.getloadavg()[0]


def _cpu() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """The models of the GPUs that the driver has, as it tells them."""
    found = (path.read_text(encoding="utf-8") for path in sorted(_GPUS.glob("*/information")))
    return [match[1] for text in found if (match := re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE))]


def _is_virtual() -> bool:
    return "hypervisor" in (_cpuinfo("flags") or "").split()


def _cpuinfo(wanted: str) -> str | None:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == wanted:
            return value.strip()
    return None


def _hz() -> str:
    """`, HZ=250`, on which printk's wake-ups depend; nothing where the kernel does not show its build."""
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{platform.release()}")):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        if found := re.search(rb"^CONFIG_HZ=(\d+)$", text, re.MULTILINE):
            return f", HZ={found[1].decode()}"
    return ""


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} absent"


def _commit() -> str:
    """` at a1b2c3d`, and whether files differ from it; nothing outside of a git checkout."""
    said = []
    for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        try:
            done = subprocess.run(("git", *words), cwd=ROOT, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        said.append(done.stdout.strip())
    return f" at {said[0]}{', with changes' if said[1] else ''}"
