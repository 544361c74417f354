"""The object files in the package: what their sources compile to, and ordinary BPF objects."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from probes.bpf import elf, native
from tests.support.daemon import ROOT

SOURCES = sorted(native.OBJECTS.glob("*.bpf.c"))
COMPILER = "clang version 14."
"""What the objects in this package were built with; another one may choose other instructions."""


def built_from(source: Path) -> Path:
    return source.with_suffix(".o")


def test_each_program_has_its_object() -> None:
    assert {built_from(source) for source in SOURCES} == set(native.OBJECTS.glob("*.bpf.o"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_an_object_is_what_its_source_compiles_to(source: Path, tmp_path: Path) -> None:
    for tool in ("clang", "llvm-strip", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    version = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True).stdout
    if COMPILER not in version:
        pytest.skip(f"the objects were built with {COMPILER}, and here is {version.splitlines()[0]}")
    if not Path("/usr/include/bpf/bpf_helpers.h").exists():
        pytest.skip("libbpf's headers are not installed")
    target = f"BPF_OBJECTS={built_from(source).relative_to(ROOT)}"
    subprocess.run(["make", "bpf", f"BPF_OUT={tmp_path}", target], cwd=ROOT, check=True, capture_output=True)
    built = elf.read((tmp_path / built_from(source).name).read_bytes())
    assert built == elf.read(built_from(source).read_bytes())


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_libbpf_takes_an_object_too(bpf_machine: None, source: Path, tmp_path: Path) -> None:
    bpftool = shutil.which("bpftool", path=f"{os.environ['PATH']}:/usr/sbin")
    if bpftool is None:
        pytest.skip("bpftool is not installed")
    at = built_from(source)
    script = 'mount -t bpf bpf "$1" && "$2" prog load "$3" "$1/program" && "$2" prog show pinned "$1/program"'
    # In a mount namespace of its own: the pin goes with it.
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), bpftool, str(at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    [first, *_] = elf.read(at.read_bytes()).programs
    if first.startswith("fexit/") and "Operation not permitted" in done.stderr:
        pytest.skip(f"this kernel refuses fexit programs: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    assert "license Dual BSD/GPL" in done.stdout or "gpl" in done.stdout
