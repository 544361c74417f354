"""`xidwatch replay`: reports of saved logs, and what cannot be replayed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.command import xidwatch
from tests.support.daemon import ROOT
from tests.support.real_kernel_log import skip_unless_usable, unlimited_writing, write

LOG = """\
[    0.000000] Linux version 6.8.0
[   10.000000] NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.159.04  Release Build
[   20.000000] NVRM: GPU at PCI:0000:91:00: GPU-11111111-2222-3333-4444-555555555555
[   20.000010] NVRM: Xid (PCI:0000:91:00): 31, pid=446, name=<b>|evil|</b>, Ch 0000000a, MMU Fault
[   99.000000] NVRM: Xid (PCI:0000:1b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
[   99.000009] NVRM: GPU 0000:1b:00.0: GPU has fallen off the bus.
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "dmesg.txt"
    path.write_text(LOG)
    os.utime(path, (1_769_079_699, 1_769_079_699))
    return path


def test_the_report_says_what_happened_worst_first_and_what_to_do(log: Path) -> None:
    done = xidwatch("replay", str(log))
    assert done.code == 0
    assert "fatal" in done.out.splitlines()[0]
    assert done.out.index("What to do") < done.out.index("Timeline") < done.out.index("By device")
    assert "2026-01-22 11:01:39Z~" in done.out
    assert "do not show who printed them" in " ".join(done.out.split())
    assert "\x1b" not in done.out


def test_json_holds_the_events_in_the_public_schema(log: Path) -> None:
    report = json.loads(xidwatch("replay", str(log), "--format", "json").out)
    faults = {event["code"]: event for event in report["events"] if event["kind"] == "xid"}
    assert faults[79]["severity"] == "fatal"
    assert faults[79]["lines"][1].endswith("GPU 0000:1b:00.0: GPU has fallen off the bus.")
    assert faults[31]["gpu"]["uuid"] == "GPU-11111111-2222-3333-4444-555555555555"
    assert faults[31]["driver_version"] == "580.159.04"
    assert faults[31]["origin"] == "unknown"
    assert faults[31]["time_is_estimate"] is True
    assert report["coverage"]["formats"] == {"dmesg": 6}
    assert report["coverage"]["boots"][0]["beginning_is_missing"] is False


def test_a_reboot_in_which_nothing_happened_closes_the_incident_before_it(log: Path) -> None:
    def states() -> list[str]:
        report = json.loads(xidwatch("replay", str(log), "--format", "json").out)
        return [incident["detail"]["state"] for incident in report["incidents"]]

    assert "open" in states()
    log.write_text(LOG + "[    0.000000] Linux version 6.8.0\n[ 9000.000000] systemd: Startup finished\n")
    assert "open" not in states()


def test_an_incident_is_told_with_whose_fault_it_is_and_the_line_that_shows_it(log: Path) -> None:
    out = xidwatch("replay", str(log)).out
    told = out[out.index("Incidents") : out.index("What to do")]
    assert re.search(r"fault of +the hardware", told)
    assert re.search(r"hit +GPU 1b:00", told)
    assert re.search(r"log +NVRM: Xid \(PCI:0000:1b:00\): 79", told)
    markdown = xidwatch("replay", str(log), "--format", "markdown").out
    assert "  - fault of: the hardware" in markdown


def test_rotated_logs_in_the_order_of_a_shell_are_no_reboot(tmp_path: Path) -> None:
    lines = {
        "messages": "2026-01-03T10:00:00Z gpu-17 kernel: x: y\n",
        "messages.1": "2026-01-02T10:00:00Z gpu-17 kernel: NVRM: Xid (PCI:0000:91:00): 79, pid=1, lost\n",
        "messages.2": "2026-01-01T10:00:00Z gpu-17 kernel: NVRM: Xid (PCI:0000:91:00): 48, pid=1, DBE\n",
    }
    for name, line in lines.items():
        (tmp_path / name).write_text(line)
    out = xidwatch("replay", *(str(tmp_path / name) for name in lines), "--format", "json").out
    report = json.loads(out)
    assert [(each["code"], each["detail"]["state"]) for each in report["incidents"]] == [
        (79, "open"),
        (48, "open"),
    ]
    assert report["node"] == report["events"][0]["node"] == "gpu-17"


def test_a_log_of_several_machines_says_that_they_are_mixed_up(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    path.write_text("".join(f"2026-01-01T10:00:00Z gpu-{n} kernel: x\n" for n in (17, 18)))
    assert "Lines of 2 hosts (gpu-17, gpu-18)" in xidwatch("replay", str(path)).out


def test_a_log_with_its_newest_line_first_says_how_to_turn_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text("".join(f"2026-01-01T10:00:{second}Z gpu-17 kernel: x\n" for second in range(59, 10, -1)))
    assert "tac FILE" in xidwatch("replay", str(path)).out
    path.write_text("".join(f"2026-01-01T10:00:{second}Z gpu-17 kernel: x\n" for second in range(10, 59)))
    assert "tac FILE" not in xidwatch("replay", str(path)).out


def test_a_disk_that_is_full_is_one_sentence(log: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this machine has no /dev/full")
    with full.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "xidwatch", "replay", str(log)],
            stdout=out,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 2
    assert b"cannot write the report: no space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_standard_input_that_is_closed_is_one_sentence() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m xidwatch replay - <&-"],
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert b"cannot replay stdin: it is closed" in done.stderr


@pytest.mark.kmsg
def test_the_kernel_log_itself_is_read_to_its_end() -> None:
    skip_unless_usable()
    report = json.loads(xidwatch("replay", "/dev/kmsg", "--format", "json").out)
    assert report["coverage"]["formats"]["kmsg record"] > 0


class _Page(HTMLParser):
    """What a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [name for name, _ in attrs if name in ("src", "href") or name.startswith("on")]


def test_the_html_page_needs_nothing_from_outside_and_runs_nothing(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    done = xidwatch("replay", str(log), "--output", str(path))
    assert done.code == 0
    text = path.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert "svg" in page.tags
    assert {"script", "b", "link", "img", "iframe"}.isdisjoint(page.tags)
    assert page.links == []
    assert "default-src 'none'" in text
    assert "&lt;b&gt;|evil|&lt;/b&gt;" in text


def test_log_text_stays_text_in_markdown(log: Path) -> None:
    out = xidwatch("replay", str(log), "--format", "markdown").out
    assert "\\<b\\>\\|evil\\|\\</b\\>" in out
    rows = [line for line in out.splitlines() if line.startswith("| 2026")]
    assert rows
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}


def test_since_and_until_bound_what_is_told_but_not_what_is_learned(log: Path) -> None:
    out = xidwatch("replay", str(log), "--format", "json", "--since", "2026-01-22T11:01:00Z").out
    report = json.loads(out)
    assert [event["code"] for event in report["events"] if event["kind"] == "xid"] == [79]
    assert report["events"][0]["driver_version"] == "580.159.04"
    out = xidwatch("replay", str(log), "--format", "json", "--until", "2026-01-22T11:01:00Z").out
    assert 79 not in [event["code"] for event in json.loads(out)["events"]]


def test_a_zone_and_a_year_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    path.write_text("Jul 22 14:56:44 h kernel: NVRM: Xid (PCI:0000:91:00): 43, pid=1, name=a, Ch 1\n")

    def time(*flags: str) -> tuple[str, bool]:
        report = json.loads(xidwatch("replay", str(path), "--format", "json", *flags).out)
        [event] = [event for event in report["events"] if event["kind"] == "xid"]
        return event["time"], event["time_is_estimate"]

    assert time("--year", "2023", "--timezone", "Europe/Berlin") == ("2023-07-22T12:56:44.000000Z", False)
    assert time("--year", "2023", "--utc-offset=-07:00") == ("2023-07-22T21:56:44.000000Z", False)
    assert time()[1] is True


def test_a_log_without_faults_says_how_far_it_reaches(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    path.write_text("2026-01-01T10:00:00Z h kernel: x\n2026-01-01T11:00:00Z h kernel: y\n")
    done = xidwatch("replay", str(path))
    assert done.code == 0
    assert done.out.startswith("No fault of an NVIDIA GPU or NVSwitch in these logs.")
    assert "2026-01-01 10:00:00Z to 2026-01-01 11:00:00Z" in done.out


def test_standard_input_can_be_replayed() -> None:
    assert "Xid 79" in xidwatch("replay", "-", stdin=LOG.encode()).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["EMPTY"], "is empty"),
        (["BINARY"], "is a binary file"),
        (["DIRECTORY"], "is a directory"),
        (["/nonexistent"], "no such file"),
        (["BINARY", "EMPTY"], "and the other file gave nothing either"),
        (["LOG", "--format", "pdf"], "--format"),
        (["LOG", "--year", "26"], "is no year"),
        (["LOG", "--timezone", "Mars/Olympus"], "is not known here"),
        (["LOG", "--utc-offset", "two"], "is no offset"),
        (["LOG", "--timezone", "UTC", "--utc-offset", "+02:00"], "say the same thing"),
        (["LOG", "--since", "yesterday"], "--since"),
        (["LOG", "--since", "1769079606995"], "no cursors"),
        (["LOG", "--output", "/nonexistent/report.html"], "cannot write"),
        (["LOG", "--output", "LOG"], "is one of the logs"),
        (["OTHERS"], "none of the kernel's"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: list[str], said: str, log: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "others").write_text("2026-01-01T10:00:00Z h sshd[1]: session opened\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(os.urandom(100_000))
    names = {
        "EMPTY": str(tmp_path / "empty"),
        "BINARY": str(tmp_path / "binary"),
        "OTHERS": str(tmp_path / "others"),
        "DIRECTORY": str(tmp_path / "folder"),
        "LOG": str(log),
    }
    done = xidwatch("replay", *(names.get(word, word) for word in arguments))
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.kmsg
@pytest.mark.parametrize(
    "flags", [[], ["-x"], ["-r"], ["-T"], ["-e"], ["-d"], ["--json"], ["--time-format", "iso"]]
)
def test_what_the_real_dmesg_prints_is_understood(flags: list[str]) -> None:
    skip_unless_usable()
    name = f"xw{os.getpid()}"
    with unlimited_writing():
        write(f"xidwatch-drill: xid (PCI:0000:00:00): 62, pid=7, name={name}, drill")
    dmesg = subprocess.run(["dmesg", *flags], capture_output=True, check=False)
    if dmesg.returncode != 0:
        pytest.skip(f"this dmesg does not take {flags}: {dmesg.stderr.decode().strip()}")
    done = xidwatch("replay", "-", "--format", "json", "--allow-drills", stdin=dmesg.stdout)
    report = json.loads(done.out)
    assert report["coverage"]["understood"] > 0
    names = [event["process"]["name"] for event in report["events"] if event["process"] and event["drill"]]
    assert name in names
