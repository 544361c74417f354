"""Lines of a byte stream: length, time, end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mcp_server.lines import LineReader, LineTooLongError, LineTooSlowError


def reading(*chunks: bytes, work: Callable[[LineReader], Awaitable[Any]], **bounds: Any) -> Any:
    """What `work` returns with these chunks and then the end of input (left out after an empty chunk)."""

    async def main() -> Any:
        stream = asyncio.StreamReader()
        for chunk in chunks:
            stream.feed_data(chunk)
        if b"" not in chunks:
            stream.feed_eof()
        return await work(LineReader(stream, **bounds))

    return asyncio.run(main())


async def everything(lines: LineReader) -> list[bytes]:
    """All lines."""
    return [line async for line in _lines(lines)]


async def _lines(lines: LineReader) -> Any:
    while line := await lines.next():
        yield line


@pytest.mark.parametrize("chunks", [(b"a\nbc\n", b"\nd"), (b"a", b"\nb", b"c\n\n", b"d"), (b"a\nbc\n\nd",)])
def test_lines_come_whole_however_they_were_cut(chunks: tuple[bytes, ...]) -> None:
    assert reading(*chunks, work=everything) == [b"a\n", b"bc\n", b"\n", b"d"]


def test_reading_goes_on_behind_a_line_that_is_too_long() -> None:
    async def work(lines: LineReader) -> list[bytes]:
        with pytest.raises(LineTooLongError):
            await lines.next()
        return await everything(lines)

    assert reading(b"x" * 40, b"y" * 40 + b"\nz\n", work=work, limit=10) == [b"z\n"]
    assert reading(b"x" * 40 + b"\nz\n", work=work, limit=10) == [b"z\n"]
    assert reading(b"x" * 40, work=work, limit=10) == []


def test_a_line_of_exactly_the_limit_is_taken() -> None:
    assert reading(b"x" * 10 + b"\n", work=everything, limit=10) == [b"x" * 10 + b"\n"]


def test_half_a_line_is_not_waited_for() -> None:
    async def work(lines: LineReader) -> None:
        assert await lines.next() == b"a\n"
        with pytest.raises(LineTooSlowError):
            await lines.next()

    reading(b"a\nhalf", b"", work=work, within_s=0.01)


def test_a_line_that_comes_byte_by_byte_has_one_deadline() -> None:
    async def work() -> None:
        stream = asyncio.StreamReader()
        lines = LineReader(stream, within_s=0.2)

        async def drip() -> None:
            while True:
                stream.feed_data(b"x")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        try:
            async with asyncio.timeout(30):
                with pytest.raises(LineTooSlowError):
                    await lines.next()
        finally:
            dripping.cancel()

    asyncio.run(work())


def test_only_the_first_line_may_be_asked_for_in_time() -> None:
    async def work(lines: LineReader) -> None:
        with pytest.raises(LineTooSlowError):
            await lines.next(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lines.next(), 0.05)

    reading(b"", work=work, within_s=0.01)
