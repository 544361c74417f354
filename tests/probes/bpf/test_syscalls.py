from __future__ import annotations

import errno
import os

import pytest

from probes.bpf import native, syscalls
from probes.bpf.btf import MapDefinition
from probes.bpf.counters import Counters, Counts
from probes.bpf.syscalls import BpfError, Step
from tests.support.bpf import set_on_first_cpu
from tests.support.descriptors import open_descriptors

RINGBUF, PERCPU_ARRAY = 27, 6  # enum bpf_map_type


def test_a_tracepoint_that_the_kernel_lacks_is_refused_by_name(bpf_machine: None) -> None:
    loaded = native.load()
    before = open_descriptors()
    try:
        with pytest.raises(BpfError) as refused:
            syscalls.open_raw_tracepoint("no_such_tracepoint", loaded.programs[0])
    finally:
        loaded.close()
    assert refused.value.step is Step.ATTACH
    assert refused.value.errno == errno.ENOENT
    assert "cannot attach the program" in str(refused.value)
    assert open_descriptors() < before


def test_a_map_that_cannot_be_is_refused_with_the_step(bpf_machine: None) -> None:
    with pytest.raises(BpfError) as refused:
        syscalls.create_map(MapDefinition("ring", RINGBUF, max_entries=1000, key_bytes=0, value_bytes=0))
    assert (refused.value.step, refused.value.errno) == (Step.CREATE_MAP, errno.EINVAL)


def test_a_long_name_is_cut_to_what_the_kernel_takes(bpf_machine: None) -> None:
    fd = syscalls.create_map(MapDefinition("a_name_of_more_than_15", PERCPU_ARRAY, 1, 4, 32))
    os.close(fd)


def test_bpf_is_answered_by_the_kernel_here(bpf_machine: None) -> None:
    assert syscalls.supported()
    assert syscalls.reaches_kernel()


def test_counts_are_the_sums_over_all_cpus(bpf_machine: None) -> None:
    loaded = native.load()
    try:
        counters = Counters(loaded)
        for link in loaded.links:
            # Detached: no line of another process changes the counts any more.
            os.dup2(loaded.counts, link, inheritable=False)
        set_on_first_cpu(loaded.counts, [9, 8, 7, 6])
        counts = counters.read()
        assert (counts.seen, counts.matched, counts.dropped, counts.unread) == (9, 8, 7, 6)
        assert counts.recursion is not None
        assert counts.lost == 13 + counts.recursion
    finally:
        loaded.close()


def test_the_counts_of_a_closed_program_are_an_error_not_zero(bpf_machine: None) -> None:
    loaded = native.load()
    counters = Counters(loaded)
    loaded.close()
    with pytest.raises(BpfError):
        counters.read()


def test_unknown_recursion_is_not_added_to_the_loss() -> None:
    assert Counts(seen=5, matched=3, dropped=2, unread=1, recursion=None).lost == 3
