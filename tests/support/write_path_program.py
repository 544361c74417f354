"""The write path as a process: probe, pipeline, intake and store of a daemon, and no way out but a file.

Reads orders from stdin, one JSON object a line, and forks a process for each: a kill then costs no start of
an interpreter. It kills that process when its time is over, and answers with its wait status. The process
appends to the file of acknowledgements what a client would have seen, as it is published.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import select
import signal
import sys
from pathlib import Path
from typing import Any

from daemon import journal
from daemon.intake import Intake
from daemon.pipeline import Pipeline
from daemon.store import Store
from probes import kernel
from probes.kmsg import KmsgProbe
from probes.kmsg_access import OpenLog

_F_SETPIPE_SZ = 1031  # linux/fcntl.h
_PIPE_BYTES = 1 << 20
"""256 packets."""


def main() -> None:
    """Serve orders until stdin ends."""
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _live(order)
        _kill_after(pid, order["lives_s"])
        sys.stdout.write(f"{os.waitpid(pid, 0)[1]}\n")
        sys.stdout.flush()


def _kill_after(pid: int, seconds: float) -> None:
    """Kill it when it has not ended by then."""
    process = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([process], [], [], seconds)
        if not ended:
            signal.pidfd_send_signal(process, signal.SIGKILL)
    finally:
        os.close(process)


def _live(order: dict[str, Any]) -> None:
    code = 1
    try:
        records = Path(order["records"]).read_bytes().splitlines(keepends=True)
        asyncio.run(_run(order, records))
        code = 0
    finally:
        os._exit(code)


async def _run(order: dict[str, Any], records: list[bytes]) -> None:
    boot_id = str(order["boot_id"])
    kernel.boot_id = lambda: boot_id
    journal.CHECKPOINT_BYTES = order["checkpoint_bytes"]
    acks = os.open(order["acks"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    reading, writing = os.pipe2(os.O_DIRECT | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(writing, _F_SETPIPE_SZ, _PIPE_BYTES)
    pipeline = Pipeline(node="test-node")
    store = Store.open(Path(order["state"]), reserve_key=pipeline.reserve_key)
    intake = Intake(pipeline, store, boot_id=boot_id, clock=kernel.SystemClock())
    acknowledging = asyncio.create_task(_acknowledge(store, acks))
    intake.start()
    # What /dev/kmsg does: who opens it is given all that was printed before, and then what comes.
    for record in records[: order["shown"]]:
        os.write(writing, record)
    probe = KmsgProbe(
        Path("kmsg"), intake.take, resume=store.resume, opener=lambda path: OpenLog(reading, is_device=True)
    )
    probe.start()
    await _print_on(records, order, writing, acks)
    while probe.health().counters["records"] < len(records) or store.health().unstored:
        await asyncio.sleep(0.001)
    probe.close()
    intake.close()
    await store.close()
    await acknowledging


async def _print_on(records: list[bytes], order: dict[str, Any], writing: int, acks: int) -> None:
    """Print the rest of the log, some faults at a time."""
    rng = random.Random(order["seed"])
    printed = order["shown"]
    pauses = list(order["pauses"])
    while pauses:
        several = rng.choice([1, 1, 1, 2, 3, 8])
        upto = pauses[:several][-1]
        del pauses[:several]
        for record in records[printed:upto]:
            os.write(acks, b"printed %d\n" % (printed := printed + 1))
            os.write(writing, record)
        await asyncio.sleep(rng.choice([0, 0, 0.0005, 0.002]))


async def _acknowledge(store: Store, acks: int) -> None:
    cursor = store.stream.newest
    while not store.stream.closed:
        await store.stream.wait_beyond(cursor)
        page = await store.stream.page(cursor, 1000)
        for item in page.items:
            event = item.event
            os.write(acks, f"{item.cursor} {event.id} {event.revision} {int(item.stored)}\n".encode())
        cursor = page.next_cursor


if __name__ == "__main__":
    main()
