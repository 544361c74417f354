"""The systemd unit as systemd's own tools judge it; `test_systemd_vm.py` runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon.lock import WAIT_S
from tests.support.daemon import ROOT

FOLDER = ROOT / "deploy" / "systemd"
UNIT = FOLDER / "xidwatch.service"
SYSUSERS = FOLDER / "xidwatch.sysusers"
DOCUMENT = ROOT / "docs" / "node.md"
WORST_SCORE = 2.1
_SYSTEM_UNITS = Path("/usr/lib/systemd/system")
_PROGRAMS = ("usr/local/bin/xidwatch", "usr/bin/nvidia-modprobe")


def drop_ins() -> list[str]:
    """The drop-ins that the document tells, without those for other units."""
    blocks = re.findall(r"```ini\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return [block for block in blocks if "[Service]" in block]


def systemd_analyze(*arguments: str | Path) -> str:
    """What it prints. Skips the test without it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (package systemd)")
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    return done.stdout + done.stderr


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The root of a node on which xidwatch is installed, as far as the verifier looks."""
    if not _SYSTEM_UNITS.is_dir():
        pytest.skip(f"no units of systemd in {_SYSTEM_UNITS}")
    shutil.copytree(_SYSTEM_UNITS, tmp_path / "usr/lib/systemd/system", symlinks=True)
    for name in _PROGRAMS:
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(UNIT, units)
    return tmp_path


def test_the_verifier_has_nothing_to_say(node: Path) -> None:
    # It ends with 0 for a key that it does not know: whatever it prints is a failure.
    assert systemd_analyze("verify", "--root", node, UNIT.name) == ""


def test_the_verifier_would_have_something_to_say_about_a_wrong_key(node: Path) -> None:
    unit = node / "etc/systemd/system" / UNIT.name
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchDogSec="))
    assert "WatchDogSec" in systemd_analyze("verify", "--root", node, UNIT.name)


@pytest.mark.parametrize("number", range(len(drop_ins())))
def test_the_verifier_has_nothing_to_say_about_a_drop_in_of_the_document(node: Path, number: int) -> None:
    folder = node / "etc/systemd/system" / f"{UNIT.name}.d"
    folder.mkdir()
    (folder / "local.conf").write_text(drop_ins()[number])
    assert systemd_analyze("verify", "--root", node, UNIT.name) == ""


def test_its_exposure_is_ok_by_the_measure_of_systemd() -> None:
    said = systemd_analyze("security", "--offline=true", "--no-pager", UNIT).strip().splitlines()[-1]
    verdict = re.search(r"exposure level for xidwatch\.service: ([0-9.]+) (\w+)", said)
    assert verdict, said
    assert (verdict[2], float(verdict[1]) <= WORST_SCORE) == ("OK", True)


def test_a_start_may_wait_for_a_predecessor_longer_than_it_does() -> None:
    limit = re.search(r"^TimeoutStartSec=(\d+)s$", UNIT.read_text(), re.MULTILINE)
    assert limit
    assert int(limit[1]) >= 2 * WAIT_S


def test_the_user_that_the_unit_names_is_the_one_that_sysusers_makes() -> None:
    made = [line.split()[1] for line in SYSUSERS.read_text().splitlines() if line.startswith("u ")]
    assert re.findall(r"^(?:User|Group)=(.*)$", UNIT.read_text(), re.MULTILINE) == made * 2
