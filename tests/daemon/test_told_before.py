"""What is known of the faults that an earlier process told."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.ahead import STATE_KEY, Ahead, dump
from daemon.store import StateChange, Store
from daemon.told_before import ToldBefore
from probes.line import KernelLine, Origin, ResumePoint
from tests.daemon.stored import in_loop

BOOT, OTHER_BOOT = "97641418-614a-41fc-809e-2385dbf9e1fc", "0a641418-614a-41fc-809e-2385dbf9e1fc"
NOW_US = 5_000_000


def heard(at_us: int, *, boot_id: str = BOOT, text: str = "Ch 00000008") -> KernelLine:
    line = f"NVRM: Xid (PCI:0000:91:00): 43, pid=7, name=x, {text}"
    return KernelLine(
        line, Origin.UNKNOWN, boot_id, None, at_us, at_us, 0, wall_is_estimate=False, probe="bpf"
    )


def saved(line: KernelLine) -> str:
    text = dump([(Ahead(line, line.arrival_us, 300), None)])
    assert text is not None
    return text


def test_a_line_that_was_saved_is_known_once_by_text_and_stamp() -> None:
    before = ToldBefore(saved(heard(NOW_US)), BOOT, until_us=NOW_US)
    assert before.may_be_lost(heard(NOW_US, text="Ch 00000009"))
    assert before.may_be_lost(heard(NOW_US + 1_001))
    assert not before.may_be_lost(heard(NOW_US + 15))
    assert before.may_be_lost(heard(NOW_US + 15))


def test_what_tells_of_no_fault_is_not_lost() -> None:
    line = heard(NOW_US)
    noise = "usb 1-1: new device"
    before = ToldBefore(None, BOOT, until_us=NOW_US)
    assert not before.may_be_lost(
        KernelLine(noise, line.origin, BOOT, None, NOW_US, NOW_US, 0, wall_is_estimate=False, probe="bpf")
    )


@pytest.mark.parametrize("text", [None, "", "{", "[1]", saved(heard(NOW_US, boot_id=OTHER_BOOT))])
def test_what_cannot_be_read_or_is_of_another_boot_is_nothing(text: str | None) -> None:
    assert ToldBefore(text, BOOT, until_us=NOW_US).may_be_lost(heard(NOW_US))


@pytest.mark.parametrize(
    ("rows", "resume", "told"),
    [
        ({}, None, False),
        ({}, ResumePoint(OTHER_BOOT, 7), False),
        ({STATE_KEY: saved(heard(NOW_US, boot_id=OTHER_BOOT))}, None, False),
        ({}, ResumePoint(BOOT, 7), True),
        ({STATE_KEY: saved(heard(NOW_US))}, None, True),
    ],
    ids=["nothing", "read in another boot", "told in another boot", "read in this boot", "told in this boot"],
)
def test_an_earlier_process_has_told_something_only_when_it_left_something_of_this_boot(
    tmp_path: Path, rows: dict[str, str], resume: ResumePoint | None, told: bool
) -> None:
    async def main() -> None:
        store = Store.open(tmp_path)
        store.put((), StateChange(rows), resume)
        await store.close()
        store = Store.open(tmp_path)
        before = ToldBefore.of(store, BOOT, until_us=NOW_US)
        assert (before is not None) == told
        await store.close()

    in_loop(main)
