"""The token file: what is refused at start, and what a change of it does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcp_server.identity import Scope
from mcp_server.token_file import MOST_BYTES, TokenFile
from mcp_server.tokens import new_secret, token_of
from probes.errors import UserError
from tests.support.token_file import TokenFileOnDisk


@pytest.fixture
def disk(tmp_path: Path) -> TokenFileOnDisk:
    return TokenFileOnDisk(tmp_path / "tokens")


def names(file: TokenFile) -> list[str]:
    return [token.name for token in file.keyring.tokens]


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o666])
def test_a_file_that_others_may_read_or_change_is_refused(disk: TokenFileOnDisk, mode: int) -> None:
    disk.add("a")
    disk.path.chmod(mode)
    with pytest.raises(UserError, match=f"has mode 0{mode:o}: others may read or write it") as caught:
        TokenFile(disk.path)
    assert "chmod 600" in (caught.value.hint or "")


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_file_of_its_owner_and_group_is_taken(disk: TokenFileOnDisk, mode: int) -> None:
    disk.add("a")
    disk.path.chmod(mode)
    assert names(TokenFile(disk.path)) == ["a"]


def test_no_file_a_directory_a_pipe_and_a_long_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the token file .*: no such file"):
        TokenFile(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a directory"):
        TokenFile(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UserError, match="it is no regular file"):
        TokenFile(tmp_path / "pipe")
    disk = TokenFileOnDisk(tmp_path / "long")
    disk.write("#" * (MOST_BYTES + 1))
    with pytest.raises(UserError, match="it is longer than"):
        TokenFile(disk.path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\n")
    (tmp_path / "bytes").chmod(0o600)
    with pytest.raises(UserError, match="no text in UTF-8"):
        TokenFile(tmp_path / "bytes")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_that_this_user_may_not_read_is_refused(disk: TokenFileOnDisk) -> None:
    disk.add("a")
    disk.path.parent.chmod(0o755)
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            TokenFile(disk.path)
        except UserError as error:
            os._exit(0 if "permission denied" in error.message else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_a_file_of_expired_tokens_only_is_refused_and_one_of_several_is_not(disk: TokenFileOnDisk) -> None:
    disk.add("old", expires=1_000)
    with pytest.raises(UserError, match=r"every token in .* has expired: old") as caught:
        TokenFile(disk.path, now=lambda: 1_000)
    assert "xidwatch token" in (caught.value.hint or "")
    disk.add("new")
    assert names(TokenFile(disk.path, now=lambda: 1_000)) == ["old", "new"]


def test_a_change_is_noticed_and_told(disk: TokenFileOnDisk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    disk.add("a")
    file = TokenFile(disk.path)
    told: list[list[str]] = []
    file.on_change(lambda: told.append(names(file)))
    file.look()
    assert told == []
    disk.add("b", Scope.OPERATE)
    disk.remove("a")
    file.look()
    file.look()
    assert told == [["b"]]
    assert "new or changed: b; gone or changed: a" in caplog.text


def test_a_change_in_place_within_one_tick_of_the_clock_is_noticed(disk: TokenFileOnDisk) -> None:
    secrets = [new_secret() for _ in range(50)]
    lines = [token_of(secret, f"t{number:02d}", Scope.READ).line() for number, secret in enumerate(secrets)]
    disk.write(f"{lines[0]}\n")
    file = TokenFile(disk.path)
    for number, line in enumerate(lines):
        before = disk.path.stat()
        with disk.path.open("r+") as open_file:
            open_file.write(f"{line}\n")
        os.utime(disk.path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a clock that has not ticked
        file.look()
        assert names(file) == [f"t{number:02d}"]


def test_a_secret_of_kubernetes_is_swapped_through_its_symbolic_link(tmp_path: Path) -> None:
    disks = {}
    for version in ("..2026_11_22", "..2026_11_23"):
        (tmp_path / version).mkdir()
        disks[version] = TokenFileOnDisk(tmp_path / version / "tokens")
        disks[version].add(version.strip("."))
    (tmp_path / "..data").symlink_to("..2026_11_22")
    (tmp_path / "tokens").symlink_to("..data/tokens")
    file = TokenFile(tmp_path / "tokens")
    assert names(file) == ["2026_11_22"]
    (tmp_path / "..data_tmp").symlink_to("..2026_11_23")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    file.look()
    assert names(file) == ["2026_11_23"]


@pytest.mark.parametrize("cut", [0, 1, 20, 90, 150])
def test_half_a_file_keeps_what_was_read_before_and_is_told_once(
    disk: TokenFileOnDisk, caplog: pytest.LogCaptureFixture, cut: int
) -> None:
    disk.add("a")
    file = TokenFile(disk.path)
    disk.add("b")
    whole = disk.text()
    disk.write(whole[:cut])
    file.look()
    file.look()
    assert names(file) == ["a"]
    assert file.problem is not None
    assert caplog.text.count("the 1 token read before stay in force") == 1
    disk.write(whole)
    file.look()
    assert names(file) == ["a", "b"]
    assert file.problem is None


def test_a_file_that_goes_or_loses_its_rights_keeps_what_was_read_before(disk: TokenFileOnDisk) -> None:
    disk.add("a")
    file = TokenFile(disk.path)
    disk.path.chmod(0o644)
    file.look()
    assert "others may read" in str(file.problem)
    disk.path.unlink()
    file.look()
    assert "no such file" in str(file.problem)
    assert names(file) == ["a"]
    disk.add("b")
    file.look()
    assert names(file) == ["a", "b"]
    assert file.problem is None, "mended"


def test_what_has_not_changed_is_not_read_again(disk: TokenFileOnDisk) -> None:
    disk.add("a")
    os.utime(disk.path, (1_000, 1_000))
    file = TokenFile(disk.path)
    disk.path.chmod(0o000)
    disk.path.chmod(0o600)  # the time of change is another: it is read once more
    file.look()
    before = file.keyring
    for _ in range(10):
        file.look()
    assert file.keyring is before
