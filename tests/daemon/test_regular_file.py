"""Files that settings name: read whole, and never waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.regular_file import UnfitFileError, read, signature


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    content = read(file, 5)
    assert (content.data, content.changed) == (b"12345", False)
    with pytest.raises(UnfitFileError, match="is longer than 4 bytes"):
        read(file, 4)


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnfitFileError, match="is no regular file"):
        read(tmp_path / "pipe", 10)


def test_a_directory_is_refused_and_keeps_no_descriptor(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(UnfitFileError, match="is a directory"):
        read(tmp_path, 10)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_device_without_end_is_refused() -> None:
    with pytest.raises(UnfitFileError, match="is no regular file"):
        read(Path("/dev/zero"), 10)


def test_what_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none", 10)


def test_another_file_other_bytes_and_other_rights_are_another_signature(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(b"a")
    file.chmod(0o600)
    seen = [signature(file.stat())]
    file.write_bytes(b"ab")
    seen.append(signature(file.stat()))
    file.chmod(0o640)
    seen.append(signature(file.stat()))
    other.write_bytes(b"ab")
    other.chmod(0o640)
    other.replace(file)
    seen.append(signature(file.stat()))
    assert len(set(seen)) == len(seen)
