"""The machine: read from /proc and /etc, null where they do not tell."""

from __future__ import annotations

import os
from pathlib import Path

from daemon.host import host_facts


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_this_machine_has_a_kernel_memory_and_an_uptime() -> None:
    facts = host_facts()
    assert (facts.kernel_release, facts.architecture) == (os.uname().release, os.uname().machine)
    assert facts.memory_total_bytes is not None
    assert facts.memory_total_bytes > 2**20
    assert facts.uptime_s is not None
    assert facts.uptime_s > 0


def test_name_memory_and_uptime_are_what_the_files_say(tmp_path: Path) -> None:
    write(tmp_path, "etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n')
    write(tmp_path, "proc/meminfo", "MemTotal:       2113512 kB\nMemFree: 1 kB\n")
    write(tmp_path, "proc/uptime", "350735.47 234388.90\n")
    facts = host_facts(tmp_path)
    assert (facts.os_name, facts.memory_total_bytes, facts.uptime_s) == (
        "Ubuntu 24.04.1 LTS",
        2_113_512 * 1024,
        350_735.47,
    )


def test_the_distribution_s_own_file_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    write(tmp_path, "usr/lib/os-release", "NAME=Fedora\n")
    assert host_facts(tmp_path).os_name == "Fedora"


def test_what_is_not_there_or_does_not_parse_is_none(tmp_path: Path) -> None:
    facts = host_facts(tmp_path)
    assert (facts.os_name, facts.memory_total_bytes, facts.uptime_s) == (None, None, None)
    write(tmp_path, "proc/meminfo", "MemTotal: many kB\n")
    write(tmp_path, "proc/uptime", "?\n")
    facts = host_facts(tmp_path)
    assert (facts.memory_total_bytes, facts.uptime_s) == (None, None)
