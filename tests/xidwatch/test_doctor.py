from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Address, Config, Ebpf, ProbeName
from probes import kernel, klog
from probes.bpf import availability, driver_probe
from probes.errors import UserError
from probes.health import Check, Verdict
from xidwatch import doctor

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Settings of a daemon that could start here, heard through a FIFO."""
    os.mkfifo(tmp_path / "kmsg")
    return replace(
        Config(),
        kmsg=tmp_path / "kmsg",
        state_dir=tmp_path / "state",
        socket=tmp_path / "run" / "mcp.sock",
        listen=Address("127.0.0.1", 0),
    )


def said(config: Config, **options: Any) -> tuple[int, str]:
    out = io.StringIO()
    code = doctor.run(config, as_json=options.pop("as_json", False), out=out)
    return code, out.getvalue()


def verdicts(config: Config) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in doctor.checks(config)}


def test_where_the_log_opens_the_exit_code_is_zero_and_nothing_is_changed(
    config: Config, tmp_path: Path
) -> None:
    code, text = said(config)
    assert code == 0
    assert f"{config.kmsg} opens" in text
    assert text.endswith("\nThe kernel log can be heard here.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kmsg"]


def test_piped_output_is_plain_and_aligned(config: Config) -> None:
    _, text = said(config)
    assert "\x1b" not in text
    rows = text.split("\n\n")[0].splitlines()
    name, finding = rows[0].index("kmsg"), rows[0].index(str(config.kmsg))
    for row in rows:
        assert row[name - 1] == " "
        assert row[finding - 1] == " "
        assert row[finding] != " "


def test_a_terminal_gets_colour(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    doctor.run(config, as_json=False, out=out)
    assert "\x1b[32mok\x1b[0m" in out.getvalue()


def test_json_has_every_check_with_its_four_fields(config: Config) -> None:
    code, text = said(config, as_json=True)
    answer = json.loads(text)
    assert code == 0
    assert answer["hears"] is True
    assert {tuple(check) for check in answer["checks"]} == {("name", "verdict", "finding", "hint")}
    assert [check["name"] for check in answer["checks"]][:3] == ["kmsg", "ebpf", "klog"]


def test_a_log_that_is_refused_gives_exit_code_one_and_the_exact_reason() -> None:
    if os.geteuid() != 0 or not Path("/dev/kmsg").exists():
        pytest.skip("only root can give up its rights, and there must be a /dev/kmsg")
    if Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() != "1":
        pytest.skip("kernel.dmesg_restrict is 0: anyone may read the log here")
    script = (
        "import encodings.idna, os, sys\n"  # that user may not read the interpreter's files
        "from daemon.config import Config\n"
        "from xidwatch import doctor\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "sys.exit(doctor.run(Config(), as_json=True, out=sys.stdout))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    checks = {check["name"]: check for check in answer["checks"]}
    assert answer["hears"] is False
    assert checks["kmsg"]["verdict"] == "fail"
    assert checks["kmsg"]["finding"].startswith("CAP_SYSLOG is ")
    assert "kernel.dmesg_restrict is 1" in checks["kmsg"]["finding"]
    assert "CAP_SYSLOG" in checks["kmsg"]["hint"] or "SYSLOG" in checks["kmsg"]["hint"]
    assert checks["klog"]["finding"].startswith("CAP_SYSLOG is ")


def test_a_kmsg_path_that_can_never_work_is_the_users_error(config: Config, tmp_path: Path) -> None:
    (tmp_path / "saved.log").write_text("NVRM: Xid\n")
    with pytest.raises(UserError):
        doctor.checks(replace(config, kmsg=tmp_path / "saved.log"))


def test_the_log_size_is_judged_by_what_the_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([128 * 1024, 4 * 2**20])
    monkeypatch.setattr(kernel, "klogctl", lambda action, size=0: next(sizes))
    small, large = doctor.check_log_size(), doctor.check_log_size()
    assert (small.verdict, small.hint) == (Verdict.WARN, "boot with log_buf_len=4M")
    assert "128 KiB, about 1,101 lines" in small.finding
    assert (large.verdict, large.hint) == (Verdict.OK, None)


def test_the_real_log_size_is_found() -> None:
    check = doctor.check_log_size()
    if "unknown" in check.finding:
        pytest.skip(check.finding)
    assert re.match(r"the kernel log holds \d+ KiB, about [\d,]+ lines", check.finding)


def test_a_state_directory_that_is_a_file_fails(config: Config, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    check = doctor.check_state_dir(config.state_dir)
    assert (check.verdict, check.finding) == (Verdict.FAIL, f"{config.state_dir} is not a directory")
    assert doctor.check_state_dir(config.state_dir / "below").verdict is Verdict.FAIL


def test_a_state_directory_is_writable_or_can_be_created(tmp_path: Path) -> None:
    assert doctor.check_state_dir(tmp_path).finding == f"{tmp_path} can be written"
    assert doctor.check_state_dir(tmp_path / "a/b").finding == f"{tmp_path}/a/b can be created"


def test_a_place_where_nothing_can_be_written_fails() -> None:
    unwritable = Path("/proc/sys/xidwatch")
    assert doctor.check_socket(unwritable / "mcp.sock").verdict is Verdict.FAIL


def test_a_disk_too_small_for_the_journal_is_a_warning(tmp_path: Path) -> None:
    assert doctor.check_disk(tmp_path, 1).verdict is Verdict.OK
    assert doctor.check_disk(tmp_path, 2**62).verdict is Verdict.WARN


def test_a_socket_is_free_served_stale_or_something_else(tmp_path: Path) -> None:
    path = tmp_path / "mcp.sock"
    assert doctor.check_socket(path).finding == f"{path} can be created"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        assert doctor.check_socket(path).finding == f"a daemon listens at {path}"
    assert "will be replaced" in doctor.check_socket(path).finding
    path.unlink()
    path.write_text("")
    assert doctor.check_socket(path).verdict is Verdict.FAIL


def test_a_port_is_free_or_in_use() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = Address("127.0.0.1", server.getsockname()[1])
        assert doctor.check_listen(taken).verdict is Verdict.WARN
        assert doctor.check_listen(taken).finding == f"{taken} is in use"
    assert doctor.check_listen(taken).verdict is Verdict.OK


def test_an_address_that_is_not_this_machines_fails() -> None:
    assert doctor.check_listen(Address("192.0.2.1", 8080)).verdict is Verdict.FAIL
    assert doctor.check_listen(Address("no-such-host.invalid", 8080)).verdict is Verdict.FAIL
    assert doctor.check_listen(Address("a..b", 8080)).verdict is Verdict.FAIL


def test_the_driver_is_described_from_proc(tmp_path: Path) -> None:
    assert doctor.check_driver(tmp_path).verdict is Verdict.WARN
    (tmp_path / "gpus/0000:91:00.0").mkdir(parents=True)
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04\n")
    assert doctor.check_driver(tmp_path) == Check("driver", Verdict.OK, "NVIDIA driver 580.159.04, 1 GPU")


def test_the_other_ears_are_off_where_a_file_stands_in_for_the_log(config: Config) -> None:
    found = verdicts(config)
    assert (found["ebpf"], found["klog"]) == (Verdict.OFF, Verdict.OFF)


def test_ebpf_that_cannot_be_is_a_warning_while_kmsg_hears_and_a_failure_where_it_is_required(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Check("ebpf", Verdict.FAIL, "CAP_BPF is missing (no_capability)", "grant it")
    monkeypatch.setattr(availability, "check", lambda loader: refused)
    real = replace(config, kmsg=Path("/dev/kmsg"))
    assert doctor.check_ebpf(real, hears=True).verdict is Verdict.WARN
    assert doctor.check_ebpf(real, hears=False) == refused
    assert doctor.check_ebpf(replace(real, ebpf=Ebpf.REQUIRED), hears=True) == refused
    assert doctor.check_ebpf(replace(real, ebpf=Ebpf.OFF), hears=True).finding == "switched off"


def test_a_tracepoint_that_cannot_be_heard_is_a_warning_where_it_is_asked_for(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Check("tracepoint", Verdict.FAIL, "no NVIDIA driver is loaded (no_driver)", "load it")
    monkeypatch.setattr(driver_probe, "check", lambda: refused)
    assert doctor.check_tracepoint(config).verdict is Verdict.OFF
    named = replace(config, probes=frozenset({ProbeName.KMSG, ProbeName.DRIVER}))
    assert doctor.check_tracepoint(named) == replace(refused, verdict=Verdict.WARN)


def test_klog_is_needed_only_where_kmsg_is_closed(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(klog, "check", lambda: Check("klog", Verdict.OK, "shows 128 KiB"))
    real = replace(config, kmsg=Path("/dev/kmsg"))
    assert doctor.check_klog(real, hears=False).verdict is Verdict.OK
    assert doctor.check_klog(real, hears=True).verdict is Verdict.OFF
    named = replace(real, probes=frozenset({ProbeName.KLOG}))
    assert doctor.check_klog(named, hears=True).verdict is Verdict.OK
