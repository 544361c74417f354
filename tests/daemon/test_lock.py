"""Tests of the lock on the state directory, with real processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.lock import StateLock, is_held
from daemon.state_dir import make_state_dir
from probes.errors import UserError
from tests.daemon.stored import in_loop

ROOT = Path(__file__).parents[2]
HOLD = """
import asyncio, sys
from pathlib import Path
from daemon.lock import StateLock
lock = asyncio.run(StateLock.acquire(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(state_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(state_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_daemon_is_told_which_process_holds_the_directory(tmp_path: Path) -> None:
    with (
        other_process(tmp_path) as holder,
        pytest.raises(UserError, match=f"in use by process {holder.pid}$"),
    ):
        in_loop(lambda: StateLock.acquire(tmp_path, wait_s=0.01))


def test_a_held_directory_is_waited_for_without_blocking_the_loop(tmp_path: Path) -> None:
    async def main() -> None:
        with other_process(tmp_path) as holder:
            waiting = asyncio.create_task(StateLock.acquire(tmp_path))
            await asyncio.sleep(0)
            assert not waiting.done()
            holder.kill()
            (await waiting).release()

    in_loop(main)


def test_a_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        lock = in_loop(lambda: StateLock.acquire(tmp_path / "new" / "dir", wait_s=0))
        assert (tmp_path / "new" / "dir" / "lock").read_text() == f"{os.getpid()}\n"
        lock.release()
        lock.release()


def test_a_state_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is not a directory") as refused:
            make_state_dir(path)
        assert refused.value.hint


def test_a_state_directory_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(UserError, match="cannot use the state directory"):
        make_state_dir(Path("/proc/xidwatch"))


def test_a_state_directory_of_someone_else_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    code = (
        "import os, sys; from pathlib import Path; from daemon.state_dir import make_state_dir\n"
        "from probes.errors import UserError\n"
        "os.setuid(65534)\n"
        "try: make_state_dir(Path(sys.argv[1]))\n"
        "except UserError as error: print(error.message)\n"
    )
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:3]:
        if parent.stat().st_mode & 0o001 == 0 and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "is not writable" in done.stdout


def test_a_directory_on_a_read_only_disk_can_be_locked_but_not_made(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a read-only file system: {done.stderr.strip()}")
    try:
        with other_process(disk), pytest.raises(UserError, match=r"in use by another process$"):
            in_loop(lambda: StateLock.acquire(disk, wait_s=0.01))
        in_loop(lambda: StateLock.acquire(disk)).release()
        with pytest.raises(UserError) as refused:
            make_state_dir(disk / "new")
        assert refused.value.hint
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_whether_a_process_holds_a_directory_can_be_asked(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "none")
    assert not is_held(tmp_path)
    with other_process(tmp_path):
        assert is_held(tmp_path)


def test_a_lock_says_whether_it_was_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        first = await StateLock.acquire(tmp_path)
        second = asyncio.create_task(StateLock.acquire(tmp_path))
        await asyncio.sleep(0)
        first.release()
        assert (first.waited, (await second).waited) == (False, True)

    in_loop(main)
