"""Bad records in the kernel log: skipped and counted, or told with what can be told; never the end."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.bad_input import GPU, fault
from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.metrics import metric
from tests.support.waiting import wait_for


@pytest.fixture
def daemon(surviving_daemon: Daemon) -> Daemon:
    """Under the name it has in every test here."""
    return surviving_daemon


@pytest.fixture
def log(survivors_log: FakeKernelLog) -> FakeKernelLog:
    """Its kernel log."""
    return survivors_log


def event_of(daemon: Daemon, seq: int) -> dict[str, Any]:
    """The event that began with the record of this number."""
    found = wait_for(
        lambda: [e for e in daemon.events("limit=1000") if e["kmsg_seq"] == seq], f"record {seq} as an event"
    )
    event: dict[str, Any] = found[0]
    return event


@pytest.mark.parametrize(
    "record",
    [
        b"NVRM: Xid\n",
        b"\n",
        b";\n",
        b"4,;NVRM: Xid (PCI:0000:91:00): 79, x\n",
        b"4,-7,1,-;NVRM: Xid (PCI:0000:91:00): 79, x\n",
        b"four,five,six,-;NVRM: Xid (PCI:0000:91:00): 79, x\n",
        b"4,99999999999999999999999,1,-;NVRM: Xid (PCI:0000:91:00): 79, x\n",
        b"4,1,1,-NVRM: Xid (PCI:0000:91:00): 79, no semicolon\n",
        b"\xff\xfe\x00\x01NVRM",
        b"\x00" * 4096,
        b"NVRM" * 1024,
    ],
)
def test_a_record_that_is_none_is_counted_and_skipped(
    daemon: Daemon, log: FakeKernelLog, record: bytes
) -> None:
    before = metric(daemon, "xidwatch_kernel_records_malformed_total")
    log.write_raw(record)
    wait_for(
        lambda: metric(daemon, "xidwatch_kernel_records_malformed_total") == before + 1, "it to be counted"
    )


def test_bytes_that_are_no_text_do_not_hide_the_fault(daemon: Daemon, log: FakeKernelLog) -> None:
    seq, log.next_seq = log.next_seq, log.next_seq + 1
    text = b"NVRM: Xid (PCI:0000:91:00): 31, pid=7, name=\xff\xfe\\xff\\xc0\\x00, Ch \xc3\x28"
    log.write_raw(b"4,%d,%d,-;" % (seq, log.time_us) + text + b"\n")
    event = event_of(daemon, seq)
    assert (event["code"], event["process"]["pid"]) == (31, 7)
    assert event["process"]["name"].isprintable()


def test_a_record_of_the_largest_size_is_cut_not_lost(daemon: Daemon, log: FakeKernelLog) -> None:
    head = f"4,{log.next_seq},{log.time_us},-;"
    seq, log.next_seq = log.next_seq, log.next_seq + 1
    text = "NVRM: Xid (PCI:0000:91:00): 31, pid=8, name=python3, "
    log.write_raw((head + text).ljust(4095, "x").encode() + b"\n")
    event = event_of(daemon, seq)
    assert event["process"]["pid"] == 8
    [line] = event["lines"]
    assert line.startswith(text)
    assert len(line) <= 1024
    assert line.endswith("…")


@pytest.mark.parametrize(
    "name",
    ["a\0b", "\x1b[2J\x1b[31mred", "x\x07\x08\x7f", "\u202egnp.exe", "\r\nNVRM: Xid", "\x9b31m", "ž" * 200],
)
def test_a_process_name_cannot_write_to_anyones_terminal(
    daemon: Daemon, log: FakeKernelLog, name: str
) -> None:
    seq = log.write(f"NVRM: Xid ({'PCI:' + GPU}): 31, pid={log.next_seq}, name={name}, Ch 00000008")
    event = event_of(daemon, seq)
    for text in (event["process"]["name"] or "", *event["lines"]):
        assert text.isprintable(), text
        assert len(text) <= 1024
    shown = xidwatch("tail", "--since", str(event["cursor"] - 1), "--socket", str(daemon.socket))
    assert shown.code == 0
    assert all(line.isprintable() for line in shown.out.splitlines())


@pytest.mark.parametrize(
    ("text", "code_text"),
    [
        ("NVRM: Xid (PCI:0000:91:00): 99999999999999999999, pid=9, name=x, y", "99999999999999999999"),
        ("NVRM: Xid (PCI:0000:91:00): " + "9" * 900, None),
        ("NVRM: Xid (PCI:0000:91:00): 31, pid=99999999999999999999, name=x, y", None),
        ("NVRM: Xid (PCI:ffffffff:ff:ff): 31, pid=-1, name=x, y", None),
        ("NVRM: Xid (PCI:zzzz:91:00): 31, pid=9, name=x, y", None),
        ("NVRM: Xid (PCI:): 31, y", None),
        ("NVRM: Xid (PCI:0000:91:00): , y", None),
        ("NVRM: Xid ()", None),
        ("NVRM: Xid (PCI:0000:91:00): 0x4f, y", None),
        ("NVRM: Xid (PCI:0000:91:00 GPU-I:99999999999999999999): 43, y", None),
        ("nvidia-nvswitch99999999999999999999: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30", None),
    ],
)
def test_absurd_numbers_and_addresses_are_told_or_skipped(
    daemon: Daemon, log: FakeKernelLog, text: str, code_text: str | None
) -> None:
    seq = log.write(text)
    behind = log.write(fault(43, log.next_seq), time_us=log.time_us + 1)
    event_of(daemon, behind)
    for event in daemon.events("limit=50"):
        if event["kmsg_seq"] == seq:
            assert event["code"] is None or 0 <= event["code"] < 2**32
            assert event["gpu"] is None or re.fullmatch(
                "[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}.[0-7]", event["gpu"]["pci"]
            )
            assert event["process"] is None or (event["process"]["pid"] or 0) < 2**31
            if code_text is not None:
                assert (event["code"], event["detail"]["code_text"]) == (None, code_text)
    told = json.loads(xidwatch("status", "--json", "--socket", str(daemon.socket)).out)
    assert told["counters"]["failures"] == 0
