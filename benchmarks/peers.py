"""The other processes of a benchmark: what the daemon is measured against, and who makes the noise.

Each runs as `python -m benchmarks.peers NAME …`, says `ready` (or the address it listens on) in
its first line on stdout, unless its docstring tells otherwise, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn
    from mcp.server import MCPServer

KMSG = Path("/dev/kmsg")
ROOT = Path(__file__).parents[1]
_RECORD_BYTES = 8192


def command(name: str, *arguments: str) -> Sequence[str]:
    """How a peer is started."""
    return (sys.executable, "-m", "benchmarks.peers", name, *arguments)


def peer(name: str, *arguments: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A running peer; its first line has not been read."""
    return running(command(name, *arguments))


@contextmanager
def running(words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A running program that is talked to through its stdin and stdout; killed at the end."""
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[bytes]) -> str:
    """What it says once it is up."""
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def ended(process: subprocess.Popen[bytes]) -> str:
    """End it by closing its stdin; what else it has written."""
    out, _ = process.communicate(timeout=30)
    return out.decode()


def _say(line: str) -> None:
    print(line, flush=True)


def bare_kmsg(marker: str) -> None:
    """The least a Python program can do: poll /dev/kmsg, read, look for a word, note the time.

    Prints, as one JSON list, CLOCK_MONOTONIC in ns at which each record with `marker` was read.
    """
    times: list[int] = []
    word = marker.encode()
    fd = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    poller.register(sys.stdin.fileno(), select.POLLIN)
    _say("ready")
    while True:
        if any(number != fd for number, _ in poller.poll()):
            _say(json.dumps(times))
            return
        try:
            while True:
                if word in os.read(fd, _RECORD_BYTES):
                    times.append(time.monotonic_ns())
        except BlockingIOError:
            continue
        except BrokenPipeError:
            continue


def piped(marker: str, *words: str) -> None:
    """Runs a command, and notes when each line with `marker` comes out of it.

    Says `ready` at the first such line, or the command's last words when it ends before. When stdin ends,
    and nothing has come for a second, prints CLOCK_MONOTONIC in ns of each as one JSON list.
    """
    word, stdin = marker.encode(), sys.stdin.fileno()
    times: list[int] = []
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    ) as watched:
        assert watched.stdout is not None
        out = watched.stdout.fileno()
        poller = select.poll()
        poller.register(out, select.POLLIN)
        poller.register(stdin, select.POLLIN)
        rest, last, is_ending = b"", b"", False
        while ready := dict(poller.poll(1000 if is_ending else None)):
            if stdin in ready:
                poller.unregister(stdin)
                is_ending = True
            if out not in ready:
                continue
            data = os.read(out, 1 << 16)
            now = time.monotonic_ns()
            if not data and not times:
                _say((rest or last).decode(errors="replace"))
                return
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            last = next((line for line in reversed(lines) if line.strip()), last)
            found = [now for line in lines if word in line]
            if found and not times:
                _say("ready")
            times += found
        os.killpg(watched.pid, signal.SIGKILL)
    _say(json.dumps(times))


def bare_flood_reader(path: str, last_word: str, word: str) -> None:
    """Reads every record as fast as Python can, until one holds `last_word`.

    Prints as JSON: records read, records lost by sequence number, processor seconds used, and `matched`,
    those with `word`.
    """
    end, wanted = last_word.encode(), word.encode()
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if path == str(KMSG):
        os.lseek(fd, 0, os.SEEK_END)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    _say("ready")
    began = time.process_time()
    read = lost = matched = 0
    last: int | None = None
    while True:
        poller.poll()
        try:
            while True:
                record = os.read(fd, _RECORD_BYTES)
                read += 1
                sequence = int(record.split(b",", 2)[1])
                if last is not None:
                    lost += sequence - last - 1
                last = sequence
                matched += wanted in record
                if end in record:
                    used = time.process_time() - began
                    _say(json.dumps({"read": read, "lost": lost, "cpu_s": used, "matched": matched}))
                    return
        except (BlockingIOError, BrokenPipeError):
            continue


def flood(count: str, every: str, xid_line: str) -> None:
    """Writes `count` lines of 110 bytes into /dev/kmsg at full speed, each `every`th one `xid_line`.

    Level 7, so that no console prints them. Prints lines a second.
    """
    total, step = int(count), int(every)
    noise = (
        b"<7>mlx5_core 0000:41:00.1: Port module event: module 1, Cable unplugged".ljust(112, b".") + b"\n"
    )
    xid = f"<7>{xid_line}\n".encode()
    fd = os.open(KMSG, os.O_WRONLY)
    _say("ready")
    sys.stdin.readline()
    began = time.monotonic()
    for index in range(total):
        os.write(fd, xid if index % step == step // 2 else noise)
    _say(f"{total / (time.monotonic() - began):.0f}")


def smallest_mcp() -> None:
    """The SDK's smallest server on /mcp."""
    import uvicorn  # noqa: PLC0415  (not in the processes that are to be bare)

    _serve(uvicorn.Config(_smallest().streamable_http_app(), log_level="warning"))


def smallest_mcp_stdio() -> None:
    """The SDK's smallest server on stdin and stdout. It says nothing before it is asked."""
    _smallest().run("stdio")


def _smallest() -> MCPServer:
    """One tool that returns a word."""
    from mcp.server import MCPServer  # noqa: PLC0415

    server = MCPServer("smallest", log_level="WARNING")

    @server.tool()
    def hello() -> str:
        """Say hello."""
        return "hello"

    return server


def sse_broadcast() -> None:
    """The plainest sse-starlette server: every line of stdin goes to every subscriber of /events."""
    import uvicorn  # noqa: PLC0415
    from sse_starlette import EventSourceResponse  # noqa: PLC0415
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.requests import Request  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    lines: list[str] = []
    news = asyncio.Condition()

    async def frames() -> AsyncIterator[dict[str, str]]:
        seen = len(lines)
        yield {"event": "hello", "data": "{}"}
        while True:
            async with news:
                while seen == len(lines):
                    await news.wait()
            while seen < len(lines):
                yield {"data": lines[seen]}
                seen += 1

    async def events(request: Request) -> EventSourceResponse:
        return EventSourceResponse(frames())

    async def broadcast() -> None:
        reader = asyncio.StreamReader(limit=2**20)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            async with news:
                lines.append(line.decode().rstrip("\n"))
                news.notify_all()
        os._exit(0)  # the streams would keep the server up

    app = Starlette(routes=[Route("/events", events)])
    _serve(uvicorn.Config(app, log_level="warning"), broadcast())


def json_echo(path: str) -> None:
    """An asyncio server on a unix socket that parses each line as JSON and answers with it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(json.dumps(json.loads(line)).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_unix_server(answer, path)
        _say("ready")
        await server.serve_forever()

    asyncio.run(main())


def _serve(config: uvicorn.Config, beside: Coroutine[None, None, None] | None = None) -> None:
    import uvicorn  # noqa: PLC0415

    async def main() -> None:
        # With the protocol named, asyncio sets TCP_NODELAY; uvicorn's own bind leaves it out, and each
        # answer then waits 40 ms for a delayed acknowledgement.
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.bind(("127.0.0.1", 0))
        bound.listen(2048)  # uvicorn does so later: whoever knows the port may connect at once
        _say(str(bound.getsockname()[1]))
        task = asyncio.create_task(beside) if beside is not None else None
        await uvicorn.Server(config).serve(sockets=[bound])
        if task is not None:
            task.cancel()

    asyncio.run(main())


PEERS: dict[str, Callable[..., None]] = {
    work.__name__: work
    for work in (
        bare_kmsg,
        piped,
        bare_flood_reader,
        flood,
        smallest_mcp,
        smallest_mcp_stdio,
        sse_broadcast,
        json_echo,
    )
}

if __name__ == "__main__":
    PEERS[sys.argv[1]](*sys.argv[2:])
