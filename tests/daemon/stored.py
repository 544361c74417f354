"""Events and stores for the tests of what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from daemon.event import Action, Blame, Event, Gpu, Item, Kind, Severity

T = TypeVar("T")
DEADLINE_S = 30.0


def event(
    number: int,
    *,
    device: int | None = 0,
    revision: int = 1,
    severity: Severity = Severity.WARNING,
    code: int = 31,
) -> Event:
    """An Xid; `number` is its identity, `device` the bus of its GPU."""
    gpu = None if device is None else Gpu(f"0000:{device:02x}:00.0", uuid=f"GPU-{device:08d}", index=device)
    return Event(
        id=f"ev_{number}",
        revision=revision,
        kind=Kind.XID,
        code=code,
        name=None,
        summary="A fault",
        severity=severity,
        blame=Blame.UNKNOWN,
        action=Action.CONTACT_SUPPORT,
        action_text="",
        time_us=1_769_079_606_994_671,
        time_is_estimate=False,
        last_time_us=1_769_079_606_994_671,
        count=revision,
        gpu=gpu,
        nvswitch=None,
        process=None,
        detail={},
        lines=("NVRM: Xid",),
        lines_dropped=0,
        origin="kernel",
        drill=False,
        witnesses=(),
        node="node",
        boot_id="boot",
        kmsg_seq=number,
    )


def item(cursor: int, number: int | None = None, *, stored: bool = True, **fields: Any) -> Item:
    """An item; its event is a new one unless `number` names it."""
    return Item.of(cursor, event(cursor if number is None else number, **fields), stored=stored)


def revised(old: Event) -> Event:
    """Its next revision."""
    return replace(old, revision=old.revision + 1, count=old.count + 1)


def in_loop(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the body of a test in an event loop, with a deadline."""

    async def limited() -> T:
        async with asyncio.timeout(DEADLINE_S):
            return await main()

    return asyncio.run(limited())


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; the caller's deadline ends it."""
    while not condition():
        await asyncio.sleep(0.005)
