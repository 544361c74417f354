from __future__ import annotations

import errno
from pathlib import Path

import pytest

from probes.bpf import native
from probes.bpf.availability import check
from probes.bpf.descriptors import Descriptors
from probes.bpf.loaders import automatic
from probes.bpf.object_error import ObjectError
from probes.bpf.syscalls import BpfError, Step
from probes.bpf.unavailable import LoaderError, State
from probes.health import Verdict
from tests.support import bcc as real_bcc


def running(loader: str) -> Descriptors:
    return Descriptors(loader, "printk:console", 1, 4096, 2, (3,), (4,))


def fails(error: Exception) -> Descriptors:
    raise error


def test_the_native_loader_comes_first_and_bcc_is_not_even_asked() -> None:
    found = automatic(lambda: running("native"), lambda: fails(AssertionError("asked")))
    assert (found.loader, found.note) == ("native", None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ObjectError("damaged BPF object"), "the native loader cannot use its object: damaged BPF object"),
        (
            BpfError(Step.LOAD_PROGRAM, errno.EACCES, "0: (bf) r6 = r9\nR9 !read_ok\n"),
            "the verifier refuses the native loader's object: R9 !read_ok",
        ),
    ],
)
def test_bcc_takes_its_place_where_the_object_is_to_blame_and_says_so(error: Exception, words: str) -> None:
    found = automatic(lambda: fails(error), lambda: running("bcc"))
    assert (found.loader, found.note) == ("bcc", f"bcc loads the program, because {words}")


@pytest.mark.parametrize(
    "error",
    [
        BpfError(Step.CREATE_MAP, errno.EPERM),
        BpfError(Step.LOAD_PROGRAM, errno.EPERM),
        BpfError(Step.ATTACH, errno.ENOENT),
    ],
    ids=lambda error: f"{error.step}",
)
def test_what_bcc_could_not_mend_is_not_tried(error: BpfError) -> None:
    with pytest.raises(BpfError) as raised:
        automatic(lambda: fails(error), lambda: fails(AssertionError("asked")))
    assert raised.value is error


def test_where_neither_can_both_reasons_are_told() -> None:
    other = LoaderError(State.NO_BCC, "the BPF Compiler Collection is not installed", "install it")
    with pytest.raises(LoaderError) as raised:
        automatic(lambda: fails(ObjectError("no such file")), lambda: fails(other))
    why = raised.value.why
    assert (why.state, why.hint) == (State.NO_BCC, "install it")
    assert "no such file" in why.reason
    assert "not installed" in why.reason


def test_a_no_of_the_kernel_to_both_is_its_own() -> None:
    first = BpfError(Step.LOAD_PROGRAM, errno.EACCES, "R9 !read_ok")
    with pytest.raises(BpfError) as raised:
        automatic(lambda: fails(first), lambda: fails(BpfError(Step.LOAD_PROGRAM, errno.EACCES, "R1")))
    assert raised.value is first


def test_with_a_damaged_object_bcc_really_takes_its_place(bpf_machine: None, tmp_path: Path) -> None:
    real_bcc.skip_unless_usable()
    found = automatic(lambda: native.load(tmp_path))
    assert found.loader == "bcc"
    assert "cannot read" in (found.note or "")
    found.close()
    said = check(lambda: automatic(lambda: native.load(tmp_path)))
    assert said.verdict is Verdict.OK
    assert "the bcc loader attached" in said.finding
    assert "because the native loader cannot use its object" in said.finding
