"""Where a sink is, across restarts and disks that refuse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from daemon.sinks import cursor as module
from daemon.sinks.batch import Skipped
from daemon.sinks.cursor import MOST_BYTES, CursorFile, Position, UnreadableError, forget_others, path_of
from daemon.thread import DiskThread
from tests.daemon.stored import in_loop, until

T = TypeVar("T")
POSITION = Position(17, {"told": {"ev_1": {"revision": 2}}}, (Skipped(3, "ev_3", "400 Bad Request"),))


def with_file(path: Path, body: Callable[[CursorFile], Awaitable[T]]) -> T:
    async def main() -> T:
        disk = DiskThread("disk")
        file = CursorFile(path, disk)
        try:
            return await body(file)
        finally:
            file.close()
            disk.close()

    return in_loop(main)


async def saved(file: CursorFile, position: Position = POSITION) -> None:
    file.save(lambda: position)
    await file.settled(30)


def test_what_was_saved_is_read_back_and_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    async def body(file: CursorFile) -> Position | None:
        assert await file.read() is None
        await saved(file)
        return await file.read()

    assert with_file(path_of(tmp_path, "pager"), body) == POSITION
    assert [path.name for path in (tmp_path / "sinks").iterdir()] == ["pager.json"]


def test_of_many_positions_the_last_is_kept(tmp_path: Path) -> None:
    async def body(file: CursorFile) -> Position | None:
        for cursor in range(1000):
            file.save(partial(Position, cursor))
        await file.settled(30)
        return await file.read()

    found = with_file(path_of(tmp_path, "pager"), body)
    assert found is not None
    assert found.cursor == 999


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"{}",
        b"[]",
        b"7",
        b'{"version": 2, "cursor": 1, "memory": {}, "skipped": []}',
        b'{"version": 1, "cursor": "x", "memory": {}, "skipped": []}',
        b'{"version": 1, "cursor": 1, "memory": {}, "skipped": [{}]}',
        b"x" * (MOST_BYTES + 1),
        b"[" * 100_000,
    ],
)
def test_a_file_that_holds_no_position_is_told_apart_from_none(tmp_path: Path, content: bytes) -> None:
    path = path_of(tmp_path, "pager")
    path.parent.mkdir()
    path.write_bytes(content)

    async def body(file: CursorFile) -> None:
        with pytest.raises(UnreadableError):
            await file.read()
        await saved(file)
        assert await file.read() == POSITION

    with_file(path, body)


def test_a_disk_that_refuses_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    (tmp_path / "sinks").write_text("in the way")

    async def body(file: CursorFile) -> Position | None:
        await saved(file)
        assert "cannot save the cursor" in (file.trouble or "")
        (tmp_path / "sinks").unlink()
        await until(lambda: file.trouble is None)
        return await file.read()

    assert with_file(path_of(tmp_path, "pager"), body) == POSITION


def test_the_cursors_of_sinks_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    forget_others(tmp_path / "sinks", ["pager"])
    for name in ("pager", "old"):
        path_of(tmp_path, name).parent.mkdir(exist_ok=True)
        path_of(tmp_path, name).write_text("{}")
    forget_others(tmp_path / "sinks", ["pager"])
    assert [path.name for path in (tmp_path / "sinks").iterdir()] == ["pager.json"]
