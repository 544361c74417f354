from __future__ import annotations

import errno
from pathlib import Path

import pytest

from probes.bpf.driver_loader import OBJECT as DRIVER
from probes.bpf.loading import Loading, read_object
from probes.bpf.native import OBJECT
from probes.bpf.object_error import ObjectError
from probes.bpf.syscalls import BpfError, Step
from tests.support.descriptors import open_descriptors

CONSOLE = frozenset({"raw_tp/console"})
MAPS = frozenset({"lines", "counts"})


def test_what_is_not_kept_is_gone_at_the_end_of_the_block(bpf_machine: None) -> None:
    before = open_descriptors()
    with Loading(read_object(OBJECT, CONSOLE, MAPS)) as loading:
        loading.raw_tracepoint("raw_tp/console", "console")
        assert len(open_descriptors() - before) == 4
        assert set(loading.maps) == MAPS
    assert open_descriptors() == before


def test_a_tracepoint_that_is_absent_leaves_the_others_alone(bpf_machine: None) -> None:
    before = open_descriptors()
    with Loading(read_object(OBJECT, CONSOLE, MAPS)) as loading:
        loading.raw_tracepoint("raw_tp/console", "console")
        held = open_descriptors()
        with pytest.raises(BpfError) as absent:
            loading.raw_tracepoint("raw_tp/console", "no_such_tracepoint")
        assert (absent.value.step, absent.value.errno) == (Step.ATTACH, errno.ENOENT)
        assert open_descriptors() == held
        assert len(loading.links) == 1
    assert open_descriptors() == before


def test_an_error_within_the_block_leaves_nothing_behind(bpf_machine: None) -> None:
    before = open_descriptors()
    with pytest.raises(RuntimeError), Loading(read_object(OBJECT, CONSOLE, MAPS)) as loading:
        loading.raw_tracepoint("raw_tp/console", "console")
        raise RuntimeError
    assert open_descriptors() == before


def test_another_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ObjectError, match=r"driver\.bpf\.o holds another program"):
        read_object(DRIVER, CONSOLE, MAPS)
    with pytest.raises(ObjectError, match=r"xid\.bpf\.o holds another program"):
        read_object(OBJECT, CONSOLE, MAPS | {"more"})
    with pytest.raises(ObjectError, match=r"cannot read .*: no such file"):
        read_object(tmp_path / "gone.bpf.o", CONSOLE, MAPS)
