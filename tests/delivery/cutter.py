"""Something between clients and a daemon that cuts their connections, in the middle of a message as well.

A proxy for TCP and for a unix socket. Each connection is given a number of bytes or a time after
which it is gone without a goodbye.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from pathlib import Path
from types import TracebackType

from tests.support.waiting import DEADLINE_S

_CHUNK = 16_384
_LIFE_S = (0.1, 1.5)
_LIFE_BYTES = (1e3, 5e5)


class Cutter:
    """The proxy, in a thread of its own while the block runs."""

    def __init__(self, rng: random.Random, *, to_port: int, to_socket: Path, socket: Path) -> None:
        self.count = 0
        """Connections cut so far."""
        self.port = 0
        """Where it listens on 127.0.0.1."""
        self.socket = socket
        """Where it listens as a unix socket."""
        self._cuts = False
        self._rng = rng
        self._to_port = to_port
        self._to_socket = to_socket
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="cutter")

    def __enter__(self) -> Cutter:
        self._thread.start()
        assert self._up.wait(DEADLINE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def cut(self) -> None:
        """Cut every connection there is."""

        def cut_all() -> None:
            self.count += len(self._open)
            for task in self._open:
                task.cancel()

        self._loop.call_soon_threadsafe(cut_all)

    def begin(self) -> None:
        """Cut every connection there is, and from now on each new one in its time."""
        self._cuts = True
        self.cut()

    def end(self) -> None:
        """Let new connections live."""
        self._cuts = False

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        tcp = await asyncio.start_server(self._tcp, "127.0.0.1", 0)
        unix = await asyncio.start_unix_server(self._unix, self.socket)
        self.port = tcp.sockets[0].getsockname()[1]
        self._up.set()
        await self._stop.wait()
        tcp.close()
        unix.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # by us; Python 3.11 would report it
            await self._pass_on(reader, writer, *await asyncio.open_connection("127.0.0.1", self._to_port))

    async def _unix(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._pass_on(reader, writer, *await asyncio.open_unix_connection(self._to_socket))

    async def _pass_on(
        self,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        from_daemon: asyncio.StreamReader,
        to_daemon: asyncio.StreamWriter,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        low, high = _LIFE_BYTES
        budget = int(low * (high / low) ** self._rng.random())
        try:
            async with asyncio.timeout(None) as life, asyncio.TaskGroup() as group:
                if self._cuts:
                    life.reschedule(self._loop.time() + self._rng.uniform(*_LIFE_S))
                group.create_task(self._copy(from_client, to_daemon, None))
                group.create_task(self._copy(from_daemon, to_client, budget if self._cuts else None))
        except* (TimeoutError, _CutError):
            self.count += 1
        except* OSError:
            pass  # one side left
        finally:
            for writer in (to_client, to_daemon):
                writer.transport.abort()
            self._open.discard(task)

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None
    ) -> None:
        """Everything from one to the other; with a budget only so many bytes."""
        while data := await reader.read(_CHUNK):
            if budget is not None and len(data) >= budget:
                writer.write(data[:budget])
                with contextlib.suppress(OSError):
                    await writer.drain()
                raise _CutError
            budget = None if budget is None else budget - len(data)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


class _CutError(Exception):
    """The budget is used up."""
