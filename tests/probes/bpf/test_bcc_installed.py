from __future__ import annotations

import sys
from pathlib import Path

import pytest

from probes.bpf.bcc_installed import Installation, installations


def package(root: Path, directory: str) -> Path:
    (root / directory / "bcc").mkdir(parents=True)
    (root / directory / "bcc/__init__.py").touch()
    return root / directory


def interpreter(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("directory", "python"),
    [
        ("usr/lib/python3/dist-packages", "usr/bin/python3"),
        ("usr/lib/python3.13/site-packages", "usr/bin/python3.13"),
        ("usr/lib64/python3.12/site-packages", "usr/bin/python3.12"),
        ("usr/local/lib/python3.11/dist-packages", "usr/local/bin/python3.11"),
    ],
    ids=["Debian", "Fedora", "SUSE", "built from source"],
)
def test_a_package_of_the_system_goes_with_the_systems_python(
    tmp_path: Path, directory: str, python: str
) -> None:
    expected = Installation(package(tmp_path, directory), interpreter(tmp_path, python))
    assert installations(tmp_path, own_path=[]) == (expected,)


def test_packages_of_the_system_come_before_those_of_this_interpreter(tmp_path: Path) -> None:
    own = package(tmp_path, "venv/lib/python3.11/site-packages")
    system = package(tmp_path, "usr/lib/python3/dist-packages")
    found = installations(tmp_path, own_path=["", str(own)])
    assert [each.directory for each in found] == [system, own]
    assert found[1].python == Path(sys.executable)


def test_a_directory_is_named_once_however_often_it_is_searched(tmp_path: Path) -> None:
    system = package(tmp_path, "usr/lib/python3/dist-packages")
    assert len(installations(tmp_path, own_path=[str(system), str(system)])) == 1


def test_without_the_systems_python_this_one_is_taken(tmp_path: Path) -> None:
    package(tmp_path, "usr/lib/python3/dist-packages")
    [found] = installations(tmp_path, own_path=[])
    assert found.python == Path(sys.executable)


def test_a_directory_of_that_name_without_code_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/python3/dist-packages/bcc").mkdir(parents=True)
    assert installations(tmp_path, own_path=[str(tmp_path / "nowhere")]) == ()
