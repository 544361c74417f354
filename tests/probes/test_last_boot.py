"""The log of the boot before, from a fake journalctl and a fake pstore."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from probes.last_boot import Found, Places, dumps, read
from probes.line import KernelLine, Origin
from tests.support.saved_logs import BOOT_HEX, BOOT_ID, BOOT_US, RENDERERS, Printed

SECOND_US = 1_000_000
RECORDS = [
    Printed(10 * SECOND_US, "NVRM: GPU at PCI:0000:91:00: GPU-11111111-2222-3333-4444-555555555555"),
    Printed(20 * SECOND_US, "NVRM: Xid (PCI:0000:91:00): 31, pid=1, name=a, x"),
    Printed(30 * SECOND_US, "NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus."),
]
END_US = BOOT_US + 40 * SECOND_US


def fake_journalctl(directory: Path, records: list[Printed], *, then: str = "exit 0") -> str:
    """A program that answers as journalctl does, and notes its arguments."""
    log = directory / "journal.json"
    log.write_bytes(RENDERERS["journal json"](records))
    program = directory / "journalctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {shlex.quote(str(directory / "arguments"))}\n'
        f"cat {shlex.quote(str(log))}\n{then}\n"
    )
    program.chmod(0o755)
    return str(program)


def pstore(directory: Path, records: list[Printed], *, written_us: int = END_US) -> Path:
    directory.mkdir()
    path = directory / "dmesg-efi_pstore-176907963001001"
    path.write_bytes(RENDERERS["pstore"](records))
    os.utime(path, (written_us / 1e6, written_us / 1e6))
    return directory


def read_all(places: Places, *, after_us: int = 0, before_us: int = END_US) -> tuple[list[KernelLine], Found]:
    found = Found()
    return list(read(BOOT_ID, after_us=after_us, before_us=before_us, found=found, places=places)), found


def test_the_journal_gives_the_records_as_they_were_heard_live(tmp_path: Path) -> None:
    lines, found = read_all(Places(pstore=(), journalctl=fake_journalctl(tmp_path, RECORDS)))
    assert [(line.kernel_us, line.text, line.origin) for line in lines] == [
        (record.kernel_us, record.text, Origin.KERNEL) for record in RECORDS
    ]
    assert {line.boot_id for line in lines} == {BOOT_ID}
    assert (found.read_from, found.problems) == (["journalctl"], [])
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:5] == ["-k", "-b", BOOT_HEX, "-o", "json"]


def test_a_dump_adds_what_the_journal_did_not_live_to_write(tmp_path: Path) -> None:
    journalctl = fake_journalctl(tmp_path, RECORDS[:2])
    directory = pstore(tmp_path / "pstore", RECORDS[1:])
    lines, found = read_all(Places(pstore=(directory,), journalctl=journalctl))
    assert [line.kernel_us for line in lines] == [record.kernel_us for record in RECORDS]
    assert {(line.boot_id, line.origin) for line in lines} == {(BOOT_ID, Origin.KERNEL)}
    assert len(found.read_from) == 2


def test_a_dump_of_another_time_is_not_of_this_boot(tmp_path: Path) -> None:
    directory = pstore(tmp_path / "pstore", RECORDS, written_us=END_US)
    assert dumps([directory], after_us=0, before_us=END_US) != []
    assert dumps([directory], after_us=0, before_us=END_US - 1) == []
    assert dumps([directory], after_us=END_US + 1, before_us=END_US + 2) == []


def test_a_machine_without_journal_and_pstore_has_nothing_and_says_why(tmp_path: Path) -> None:
    missing = str(tmp_path / "journalctl")
    lines, found = read_all(Places(pstore=(tmp_path / "pstore",), journalctl=missing))
    assert lines == []
    assert found.problems == [f"{missing} cannot be started: no such file or directory"]


def test_a_journal_that_does_not_know_the_boot_is_a_problem_and_no_error(tmp_path: Path) -> None:
    lines, found = read_all(Places(pstore=(), journalctl=fake_journalctl(tmp_path, [], then="exit 1")))
    assert lines == []
    assert "failed with exit code 1" in found.problems[0]


def test_a_journal_that_hangs_is_killed_at_its_deadline_and_what_it_wrote_is_kept(tmp_path: Path) -> None:
    hanging = fake_journalctl(tmp_path, RECORDS, then="sleep 1000")
    lines, found = read_all(Places(pstore=(), journalctl=hanging, deadline_s=0.5))
    assert [line.text for line in lines] == [record.text for record in RECORDS]
    assert "did not finish within 0.5 s" in found.problems[0]
