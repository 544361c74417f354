"""Files in, kernel lines out: archives, damage, boots, memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from probes import replay
from probes.line import KernelLine, Origin
from tests.support.saved_logs import RENDERERS, Printed

CORPUS = Path(__file__).parents[3] / "shared/data/kernel_log_corpus.jsonl"
XID = "NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus."
Pack = Callable[[bytes], bytes]
LOG = f"[    1.000000] Linux version 6.8\n[   26.994672] {XID}\n".encode()


def read(
    *paths: Path | str, settings: replay.Settings | None = None, stdin: bytes = b""
) -> tuple[list[KernelLine], replay.Coverage]:
    coverage = replay.Coverage()
    sources = replay.sources([str(path) for path in paths], stdin=io.BytesIO(stdin))
    return list(replay.read(sources, settings or replay.Settings(), coverage)), coverage


def problems(coverage: replay.Coverage) -> list[str | None]:
    return [file.problem for file in coverage.files]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_log_is_read_as_it_is(pack: Pack, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(pack(LOG))
    [line], _ = read(path)
    assert (line.text, line.kernel_us, line.origin) == (XID, 26_994_672, Origin.UNKNOWN)


def test_standard_input_is_a_log_too() -> None:
    [line], coverage = read("-", stdin=gzip.compress(LOG))
    assert line.text == XID
    assert coverage.files[0].name == "stdin"


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_of_an_archive_the_kernel_logs_are_read(pack: Pack, tmp_path: Path) -> None:
    members = {
        "sos-1/sos_commands/kernel/dmesg": LOG,
        "sos-1/var/log/messages-20260101.gz": gzip.compress(
            b"Jan  1 10:00:00 h kernel: NVRM: Xid (PCI:0000:1b:00): 31, pid=1, name=a, x\n"
        ),
        "sos-1/var/log/secure": LOG,
        "sos-1/etc/rsyslog.d/kern.log": LOG,
        "sos-1/var/log/journal/1/system.journal": b"LPKSHHRH" + bytes(500),
    }
    path = tmp_path / "sosreport.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), 1_769_079_606
            archive.addfile(entry, io.BytesIO(content))
    path.write_bytes(pack(path.read_bytes()))
    lines, coverage = read(path)
    assert {line.text.split()[3] for line in lines} == {"79,", "31,"}
    assert [file.name.partition(":")[2] for file in coverage.files] == [
        "sos-1/var/log/messages-20260101.gz",
        "sos-1/sos_commands/kernel/dmesg",
    ]


def test_sections_of_an_nvidia_bug_report_tell_each_line_once(tmp_path: Path) -> None:
    rule = "_" * 44
    path = tmp_path / "nvidia-bug-report.log.gz"
    report = (
        f"\nStart of NVIDIA bug report log file.\n{rule}\n\n/usr/bin/dmesg\n\n{LOG.decode()}{rule}\n\n"
        f"journalctl -b -0\n\nJan 22 11:00:26 h kernel: {XID}\n{rule}\nnvidia-smi -q\n  Temp : 20 C\n"
    )
    path.write_bytes(gzip.compress(report.encode()))
    lines, coverage = read(path)
    assert [line.text for line in lines] == [XID]
    assert coverage.duplicates == 1
    assert coverage.files[0].not_understood > 0


def test_parts_of_a_pstore_dump_are_put_in_order_and_prove_their_origin(tmp_path: Path) -> None:
    for part, at_s in ((1, 30), (2, 20), (3, 10)):
        (tmp_path / f"dmesg-efi_pstore-17690796{part}01").write_text(
            f"Panic#2 Part{part}\n<4>[   {at_s}.000000] NVRM: Xid (PCI:0000:91:00): {at_s}, pid=1, x\n"
        )
    lines, coverage = read(*sorted(tmp_path.iterdir()))
    assert [line.kernel_us for line in lines] == [10_000_000, 20_000_000, 30_000_000]
    assert {line.origin for line in lines} == {Origin.KERNEL}
    assert len(coverage.boots) == 1


def test_what_cannot_be_read_is_a_sentence_and_the_rest_is_read(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(LOG)
    cases = {
        "empty": b"",
        "binary": os.urandom(300_000),
        "program": Path("/bin/true").read_bytes(),
        "journal": b"LPKSHHRH" + bytes(1000),
        "zst": b"\x28\xb5\x2f\xfd" + bytes(100),
        "zip": b"PK\x03\x04" + bytes(100),
        "cut.gz": gzip.compress(LOG * 1000)[:50],
        "bad.gz": b"\x1f\x8b" + b"garbage" * 20,
        "bad.xz": b"\xfd7zXZ\0" + b"garbage" * 20,
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    names = [tmp_path / name for name in cases]
    folder = tmp_path / "folder"
    folder.mkdir()
    lines, coverage = read(*names, folder, tmp_path / "missing", good)
    assert [line.text for line in lines] == [XID]
    said = dict(zip([*cases, "directory", "missing", "good"], problems(coverage), strict=True))
    assert said.pop("good") is None
    assert said["empty"] == "it is empty"
    assert said["binary"] == said["program"] == "it is a binary file, not a log"
    assert said["directory"] == "it is a directory without a kernel log"
    assert said["missing"] == "no such file or directory"
    assert said["cut.gz"] == "the compressed file ends too early"
    assert None not in said.values()


def test_a_file_that_breaks_off_gives_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    noise = b"".join(b"[   30.%06d] %s\n" % (n, os.urandom(30).hex().encode()) for n in range(20_000))
    path.write_bytes(gzip.compress(LOG + noise)[:-5000])
    lines, coverage = read(path)
    assert [line.text for line in lines] == [XID]
    assert problems(coverage) == ["the compressed file ends too early"]


def test_nul_bytes_and_long_lines_do_not_hide_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    path.write_bytes(bytes(5000) + b"x" * 3_000_000 + b"\n" + LOG.replace(b"\n", b"\r\n"))
    lines, _ = read(path)
    assert [line.text for line in lines] == [XID]


def test_boots_are_told_apart_by_every_sign_of_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    xids = [f"NVRM: Xid (PCI:0000:91:00): {code}, pid=1, name=a, x" for code in (31, 32, 43, 45, 48)]
    path.write_text(
        f"[   10.000000] {xids[0]}\n"
        f"[    9.999000] noise out of order\n"
        f"[    5.000000] {xids[1]}\n"
        "-- Boot 11111111222233334444555555555555 --\n"
        f"Nov 22 14:56:44 h kernel: {xids[2]}\n"
        "-- Reboot --\n"
        f"Nov 22 14:58:44 h kernel: {xids[3]}\n"
        "Nov 22 14:59:44 h kernel: Linux version 6.8\n"
        f"Nov 22 14:59:59 h kernel: {xids[4]}\n"
    )
    lines, _ = read(path)
    assert [line.boot_id for line in lines] == [
        "replay-1",
        "replay-2",
        "11111111-2222-3333-4444-555555555555",
        "replay-3",
        "replay-4",
    ]
    arrivals = [line.arrival_us for line in lines]
    assert arrivals == sorted(arrivals)


def test_a_rotated_log_goes_on_with_its_boot(tmp_path: Path) -> None:
    for name, minute in (("messages.1", 10), ("messages", 11)):
        (tmp_path / name).write_text(f"2026-01-01T10:{minute}:00Z h kernel: {XID} {minute}\n")
    lines, _ = read(tmp_path / "messages.1", tmp_path / "messages")
    assert [line.boot_id for line in lines] == ["replay-1", "replay-1"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(megabytes: int) -> int:
        path = tmp_path / "log"
        record = 0
        with path.open("w") as file:
            while file.tell() < megabytes * 1_000_000:
                batch = []
                for number in range(record, record + 1000):
                    text = f"{XID} {number}" if number % 100 == 0 else "audit: apparmor=STATUS " + "x" * 400
                    batch.append(f"[{number // 10:8}.{number % 10}00000] {text}\n")
                file.write("".join(batch))
                record += 1000
        tracemalloc.start()
        coverage = replay.Coverage()
        handed_on = sum(1 for _ in replay.read(replay.sources([str(path)]), replay.Settings(), coverage))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert handed_on == coverage.messages > 0
        return most

    small, large = peak(3), peak(30)
    assert large < small + 8_000_000


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus of kernel lines is not beside this checkout")
def test_the_corpus_is_read_to_its_end_in_any_order(tmp_path: Path) -> None:
    entries = [json.loads(line)["line"] for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    path = tmp_path / "corpus"
    path.write_text("\n".join([*entries, *reversed(entries)]) + "\n", encoding="utf-8")
    lines, coverage = read(path)
    assert len(lines) > 200
    written = [line for entry in entries for line in entry.split("\n") if line.strip()]
    assert coverage.lines == len(written) * 2


def test_a_record_of_several_lines_stays_one(tmp_path: Path) -> None:
    text = "NVRM: The NVIDIA GPU 0000:b3:00.0\nNVRM: (PCI ID: 10de:2330)\nNVRM: fallen off the bus and is not"
    for form, render in RENDERERS.items():
        path = tmp_path / "log"
        path.write_bytes(render([Printed(1_000_000, text), Printed(2_000_000, "noise: x")]))
        lines, _ = read(path)
        assert [line.text for line in lines] == [text], form


DAY = "2026-01-0{day}T10:{minute:02}:00Z gpu-17 kernel: {text}\n"


def test_rotated_logs_are_read_oldest_first_in_whatever_order_they_are_named(tmp_path: Path) -> None:
    for name, day in (("messages", 3), ("messages.1", 2), ("messages.2", 1)):
        (tmp_path / name).write_text(DAY.format(day=day, minute=0, text=f"{XID} {day}"))
    lines, coverage = read(*sorted(tmp_path.iterdir()))
    assert [line.text[-1] for line in lines] == ["1", "2", "3"]
    assert len(coverage.boots) == 1


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_logs_of_an_archive_are_read_oldest_first(pack: Pack, tmp_path: Path) -> None:
    path = tmp_path / "logs.tar"
    with tarfile.open(path, "w") as archive:
        for name, day in (("var/log/messages", 3), ("var/log/messages.1", 2), ("var/log/messages.2", 1)):
            content = DAY.format(day=day, minute=0, text=f"{XID} {day}").encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    path.write_bytes(pack(path.read_bytes()))
    lines, _ = read(path)
    assert [line.text[-1] for line in lines] == ["1", "2", "3"]
    from_a_pipe, _ = read("-", stdin=path.read_bytes())
    assert sorted(line.text[-1] for line in from_a_pipe) == ["1", "2", "3"]


def test_another_file_is_no_reboot_and_another_log_of_the_same_boot_is_that_boot(tmp_path: Path) -> None:
    records = [Printed(0, "Linux version 6.8"), *(Printed(n * 4_000_000_000, f"{XID} {n}") for n in (1, 2))]
    for name in ("journal json", "syslog", "dmesg"):
        (tmp_path / name).write_bytes(RENDERERS[name](records))
    (tmp_path / "later").write_text("2026-01-22T19:00:00Z gpu-17 kernel: hours later\n")
    settings = replay.Settings(year=2026)
    lines, coverage = read(*tmp_path.iterdir(), settings=settings)
    assert len(lines) == 2
    assert len([boot for boot in coverage.boots if boot.is_begun]) == 1
    assert len({line.boot_id for line in lines}) == 1


def test_dmesg_takes_its_times_from_a_log_that_has_the_same_lines(tmp_path: Path) -> None:
    records = [Printed(0, "Linux version 6.8"), *(Printed(n * 40_000_000, f"{XID} {n}") for n in (1, 2, 3))]
    (tmp_path / "dmesg").write_bytes(RENDERERS["dmesg"](records))  # the file is of today, its lines are not
    (tmp_path / "journal").write_bytes(RENDERERS["journal short-iso"](records[:3]))
    lines, coverage = read(*sorted(tmp_path.iterdir()))
    assert [line.wall_us // 1_000_000 for line in lines] == [
        record.wall_us // 1_000_000 for record in records[1:]
    ]
    assert len(coverage.boots) == 1
    assert not coverage.boots[0].is_anchored


def test_boots_of_an_nvidia_bug_report_come_in_their_order(tmp_path: Path) -> None:
    rule = "_" * 44
    after = [Printed(0, "Linux version 6.8"), Printed(90_000_000, XID)]
    before = "".join(
        f"Jan 21 11:0{minute}:00 gpu-17 kernel: {text}\n"
        for minute, text in ((0, "Linux version 6.8"), (1, XID.replace("79", "48")))
    )
    sections = (RENDERERS["dmesg"](after).decode(), RENDERERS["journal short"](after).decode(), before)
    path = tmp_path / "nvidia-bug-report.log"
    path.write_text("".join(f"{rule}\n\njournalctl\n\n{section}\n" for section in sections))
    lines, coverage = read(path, settings=replay.Settings(year=2026))
    assert [line.text.split()[3] for line in lines] == ["48,", "79,"]
    assert lines[1].wall_us // 1_000_000 == after[1].wall_us // 1_000_000
    assert len(coverage.boots) == 2


def test_a_folder_is_read_like_an_archive(tmp_path: Path) -> None:
    for name in ("sos_commands/kernel/dmesg", "etc/messages.conf", "var/log/secure"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(LOG)
    (tmp_path / "dmesg").symlink_to("sos_commands/kernel/dmesg")
    lines, coverage = read(tmp_path)
    assert [line.text for line in lines] == [XID]
    assert [file.name for file in coverage.files] == [str(tmp_path / "sos_commands/kernel/dmesg")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_is_closed_is_told_from_one_that_is_empty(tmp_path: Path) -> None:
    (tmp_path / "dmesg").write_bytes(LOG)
    (tmp_path / "closed").mkdir(mode=0)
    lines, coverage = read(tmp_path)
    assert len(lines) == 1
    assert set(problems(coverage)) == {None, "permission denied"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_windows_saved_is_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(LOG.decode().replace("\n", "\r\r\n").encode(encoding))
    lines, coverage = read(path)
    assert [line.text for line in lines] == [XID]
    assert coverage.lines == coverage.understood == 2


@pytest.mark.parametrize("prefix", ["> ", "> > ", "messages.1:", "var/log/messages:12:", "12:", "gpu-17: "])
def test_what_grep_pdsh_or_a_mail_put_before_a_line_is_taken_off(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{prefix}{line}\n" for line in LOG.decode().splitlines()))
    [line], _ = read(path)
    assert (line.text, line.origin, line.kernel_us) == (XID, Origin.UNKNOWN, 26_994_672)


def test_lines_that_are_not_believed_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        f"2026-01-01T10:00:00Z h kernel: x\n2026-01-01T10:00:00Z h app[3]: {XID}\nno format: {XID}\n"
    )
    lines, coverage = read(path)
    assert (lines, coverage.quoted) == ([], 2)


def test_what_the_log_says_was_lost_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        "2026-01-01T10:00:00Z h systemd-journald[300]: Missed 129 kernel messages\n"
        "2026-01-01T10:00:00Z h rsyslogd[9]: imjournal: 71 messages lost due to rate-limiting (20 allowed)\n"
        "2026-01-01T10:00:00Z h kernel: systemd-journald[9]: /dev/kmsg buffer overrun, some messages lost.\n"
        f"4,100,1000000,-;x\n4,101,2000000,-;{XID}\n4,950,90000000,-;y\n"
    )
    _, coverage = read(path)
    assert (coverage.lost, coverage.absent) == (201, 848)


def test_the_hosts_that_a_log_names_are_known(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        "".join(
            f"2026-01-01T10:00:0{n}Z {host} kernel: x\n"
            for n, host in enumerate(["localhost", "gpu-17", "gpu-17.example.com", "gpu-18"])
        )
    )
    _, coverage = read(path)
    assert coverage.hosts == ["gpu-17", "gpu-18"]


def test_lines_of_other_programs_are_no_kernel_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("-- No entries --\n2026-01-01T10:00:00Z h sshd[1]: session opened\n")
    _, coverage = read(path)
    assert problems(coverage) == ["it holds lines of other programs only, none of the kernel's"]


def test_a_log_that_grows_is_read_to_the_end_it_had(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(LOG)
    for source in replay.sources([str(path)]):
        assert isinstance(source, replay.Source)
        with path.open("ab") as file:
            file.write(LOG.replace(b"79", b"48"))
        assert source.stream.read() == LOG


def test_lines_of_the_same_second_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(DAY.format(day=1, minute=0, text=f"{XID} {n}") for n in range(3)))
    arrivals = [line.arrival_us for line in read(path)[0]]
    assert arrivals == sorted(set(arrivals))
    assert arrivals[-1] - arrivals[0] < 1_000


def test_what_only_a_second_log_of_the_same_hours_tells_keeps_its_distances(tmp_path: Path) -> None:
    whole = [DAY.format(day=1, minute=minute, text=f"{XID} {minute}") for minute in range(0, 60, 10)]
    (tmp_path / "a").write_text("".join(whole[::3]))
    (tmp_path / "b").write_text("".join(whole[1:]))
    lines, coverage = read(tmp_path / "a", tmp_path / "b")
    assert len(lines) == len(whole)
    assert len(coverage.boots) == 1
    gaps = [later.arrival_us - earlier.arrival_us for earlier, later in pairwise(lines)]
    assert min(gaps) >= 60_000_000


@pytest.mark.parametrize("first", ["dmesg -T", "journal short-iso"])
def test_the_times_that_dmesg_computes_may_be_off(first: str, tmp_path: Path) -> None:
    records = [Printed(n * 600_000_000, XID) for n in (1, 2, 3)]
    off = [Printed(record.kernel_us - 40_000_000, record.text) for record in records]
    logs = {"dmesg -T": off, "journal short-iso": records}
    for name, printed in logs.items():
        (tmp_path / f"{name != first} {name}").write_bytes(RENDERERS[name](printed))
    lines, coverage = read(*sorted(tmp_path.iterdir()))
    assert (len(lines), coverage.duplicates) == (3, 3)
