"""Records of the tracker, written here as the C compiler lays them out (tracker.h)."""

from __future__ import annotations

import struct

import pytest

from probes.bpf.ended import LEVELS, NAME_BYTES, Ended, Known, decode
from probes.bpf.printed import ForeignLayout

ALL = Known.END | Known.CODE | Known.FILES | Known.CGROUP | Known.NAMESPACE


def record(
    *,
    layout: int = 1,
    known: int = ALL,
    status: int = 0,
    names: tuple[bytes, ...] = (),
    deeper: int = 0,
    comm: bytes = b"python3",
) -> bytes:
    head = struct.pack("=IIQQQ", layout, 446, 7_000_999, 5_000_999, 1)
    rest = struct.pack("=IIIIII16s", known, status, 1, 0, len(names), deeper, comm)
    slots = b"".join(name.ljust(NAME_BYTES, b"\0") for name in names)
    return head + rest + slots.ljust(LEVELS * NAME_BYTES, b"\xaa")


def test_everything_that_is_known_is_read() -> None:
    assert decode(record(status=3 << 8, names=(b"inner", b"outer"))) == Ended(
        pid=446,
        ended_us=7000,
        started_us=5000,
        name="python3",
        exit_code=3,
        signal=None,
        had_device=True,
        cgroup="/outer/inner",
        own_pids=False,
    )


@pytest.mark.parametrize(
    ("status", "exit_code", "signal"),
    [(0, 0, None), (255 << 8, 255, None), (9, None, 9), (11 | 0x80, None, 11)],
    ids=["success", "the largest code", "killed", "killed, and it left a core dump"],
)
def test_a_status_is_a_code_or_a_signal(status: int, exit_code: int | None, signal: int | None) -> None:
    ended = decode(record(status=status))
    assert (ended.exit_code, ended.signal) == (exit_code, signal)


def test_what_the_kernel_did_not_let_it_see_is_none() -> None:
    assert decode(record(known=0, names=(b"x",))) == Ended(pid=446, ended_us=7000)


def test_the_root_of_the_cgroups_is_a_path_too() -> None:
    assert decode(record()).cgroup == "/"


def test_a_name_that_is_not_utf8_is_kept_readable() -> None:
    assert decode(record(comm=b"a\xffb")).name == "a\ufffdb"


def test_a_path_that_goes_on_outwards_says_so() -> None:
    names = tuple(b"n%d" % number for number in range(LEVELS))
    assert decode(record(names=names, deeper=1)).cgroup == ".../n7/n6/n5/n4/n3/n2/n1/n0"


@pytest.mark.parametrize(
    "raw", [b"", record()[:-1], record(layout=2)], ids=["empty", "cut", "another layout"]
)
def test_a_record_of_another_program_is_refused(raw: bytes) -> None:
    with pytest.raises(ForeignLayout):
        decode(raw)
