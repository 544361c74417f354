from __future__ import annotations

import os
from pathlib import Path

import pytest

from probes.bpf import elf, kernel_functions, native
from probes.bpf.hooks import SPRINT, SPRINT_PARAMETERS, Printing
from probes.bpf.kernel_structs import VMLINUX
from probes.bpf.object_error import ObjectError
from probes.bpf.syscalls import BpfError, Step
from tests.support.descriptors import open_descriptors


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
    broken = tmp_path / native.OBJECT.name
    # The first instruction becomes one that reads a register which was never written.
    broken.write_bytes(native.OBJECT.read_bytes().replace(code[:8], b"\xbf\x96\0\0\0\0\0\0", 1))
    before = open_descriptors()
    with pytest.raises(BpfError) as refused:
        native.load(tmp_path)
    assert refused.value.step is Step.LOAD_PROGRAM
    assert "R9 !read_ok" in refused.value.log
    assert open_descriptors() == before


def test_a_missing_object_is_named(tmp_path: Path) -> None:
    with pytest.raises(ObjectError, match=r"cannot read .*xid\.bpf\.o: no such file"):
        native.load(tmp_path)


def printing(version: tuple[int, int], loglevel: int, sprint: int | None = None) -> Printing:
    return Printing(f"{version[0]}.{version[1]}.0-1-amd64", version, loglevel, sprint)


def test_where_the_best_hook_is_refused_the_next_one_is_taken(bpf_machine: None) -> None:
    # No function of any kernel has this number.
    loaded = native.load(printing=printing((5, 15), 7, sprint=0x7FFFFFFF))
    assert (loaded.hook, loaded.facility) == ("printk:console", False)
    loaded.close()


def test_where_only_the_best_hook_would_hear_its_refusal_is_told(bpf_machine: None) -> None:
    before = open_descriptors()
    with pytest.raises(BpfError) as refused:
        native.load(printing=printing((5, 15), 4, sprint=0x7FFFFFFF))
    assert refused.value.step is Step.LOAD_PROGRAM
    assert open_descriptors() == before


def test_printk_sprint_is_found_with_the_parameters_that_the_program_reads(bpf_machine: None) -> None:
    if not VMLINUX.exists():
        pytest.skip(f"{VMLINUX} is missing")
    number = kernel_functions.number(SPRINT, SPRINT_PARAMETERS)
    assert number is not None
    try:
        loaded = native.load(printing=printing((5, 15), 4, sprint=number))
    except BpfError as error:
        pytest.skip(f"this kernel refuses fexit programs: {error}")
    assert (loaded.hook, loaded.facility) == ("fexit/printk_sprint", True)
    loaded.close()
