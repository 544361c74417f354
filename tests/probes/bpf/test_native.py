from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from probes.bpf import elf, native
from probes.bpf.object_error import ObjectError
from probes.bpf.syscalls import BpfError, Step
from tests.support.descriptors import open_descriptors

SOURCE = native.OBJECT.parent / "xid.bpf.c"
COMPILER = "clang version 14."
"""What the object in this package was built with; another one may choose other instructions."""


def test_loading_and_closing_leaves_no_descriptor_behind(bpf_machine: None) -> None:
    before = open_descriptors()
    loaded = native.load()
    assert len(open_descriptors() - before) == 4
    for fd in open_descriptors() - before:
        assert not os.get_inheritable(fd)
    loaded.close()
    assert open_descriptors() == before


def test_a_program_that_the_verifier_refuses_leaves_nothing_behind_and_its_log_says_why(
    bpf_machine: None, tmp_path: Path
) -> None:
    code = elf.read(native.OBJECT.read_bytes()).programs["raw_tp/console"].instructions
    broken = tmp_path / "broken.bpf.o"
    # The first instruction becomes one that reads a register which was never written.
    broken.write_bytes(native.OBJECT.read_bytes().replace(code[:8], b"\xbf\x96\0\0\0\0\0\0", 1))
    before = open_descriptors()
    with pytest.raises(BpfError) as refused:
        native.load(broken)
    assert refused.value.step is Step.LOAD_PROGRAM
    assert "R9 !read_ok" in refused.value.log
    assert open_descriptors() == before


def test_a_missing_object_is_named(tmp_path: Path) -> None:
    with pytest.raises(ObjectError, match=r"cannot read .*gone\.bpf\.o: no such file"):
        native.load(tmp_path / "gone.bpf.o")


def test_the_object_in_the_package_is_what_its_source_compiles_to(tmp_path: Path) -> None:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("clang is not installed")
    version = subprocess.run([clang, "--version"], capture_output=True, text=True, check=True).stdout
    if COMPILER not in version:
        pytest.skip(f"the object was built with {COMPILER}, and here is {version.splitlines()[0]}")
    if not Path("/usr/include/bpf/bpf_helpers.h").exists():
        pytest.skip("libbpf's headers are not installed")
    built = tmp_path / "xid.bpf.o"
    headers = f"/usr/include/{os.uname().machine}-linux-gnu"
    command = [clang, "-target", "bpf", "-mcpu=v2", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-idirafter", headers, "-c", SOURCE, "-o", built], check=True)
    assert elf.read(built.read_bytes()) == elf.read(native.OBJECT.read_bytes())


def test_libbpf_takes_the_object_too(bpf_machine: None, tmp_path: Path) -> None:
    bpftool = shutil.which("bpftool", path=f"{os.environ['PATH']}:/usr/sbin")
    if bpftool is None:
        pytest.skip("bpftool is not installed")
    script = 'mount -t bpf bpf "$1" && "$2" prog load "$3" "$1/xid" && "$2" prog show pinned "$1/xid"'
    # In a mount namespace of its own: the pin goes with it.
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), bpftool, str(native.OBJECT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "name on_console" in done.stdout
