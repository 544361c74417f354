"""`xidwatch sinks test`: send a marked test alarm through each sink, and say what came back.

It sends by itself, with the configuration that a daemon would use, and touches no state: no cursor moves,
and it works beside a running daemon or without one. The alarm is a drill and says so in every field that
a person or a rule may look at. Exit code 0 when every sink took it, 1 when one did not.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from daemon.config import Config
from daemon.event import Action, Blame, Event, Gpu, Item, Kind, Severity, event_id
from daemon.settings import did_you_mean
from probes import kernel
from probes.errors import UserError
from xidwatch import alarms
from xidwatch.terminal import Style, columns, for_stream

if TYPE_CHECKING:
    from daemon.sinks.outcome import Outcome
    from daemon.sinks.targets import SinkConfig
    from daemon.thread import DiskThread

NOT_TAKEN = 1
"""Exit code: a receiver did not take the message. 2 is for a command that was wrong."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one sink's receiver said."""

    sink: SinkConfig
    outcome: Outcome
    took_s: float


def test(config: Config, name: str | None, *, as_json: bool, out: TextIO) -> int:
    """Try every sink, or the one of this name. Raises UserError."""
    sinks = alarms.configured(config)
    if not sinks:
        raise UserError("there are no sinks to test", hint="name their file: --on-event FILE")
    if name is not None and name not in (sink.name for sink in sinks):
        known = [sink.name for sink in sinks]
        hint = did_you_mean(name, known) or f"the sinks are {', '.join(known)}"
        raise UserError(f"there is no sink {name!r} in {config.on_event}", hint=hint)
    chosen = [sink for sink in sinks if name in (None, sink.name)]
    answers = asyncio.run(_try_all(chosen, config.node_name))
    if as_json:
        print(json.dumps([_as_dict(answer) for answer in answers]), file=out)
    else:
        style = for_stream(out)
        for line in columns([_row(answer, style) for answer in answers]):
            print(line, file=out)
    return 0 if all(answer.outcome.is_delivered for answer in answers) else NOT_TAKEN


def test_alarm(node: str, boot_id: str, now_us: int) -> Event:
    """What is sent: an Xid 79 of no GPU, as `xidwatch drill 79` makes it, that says that it is a test."""
    return Event(
        id=event_id(boot_id, now_us, "test alarm"),
        revision=1,
        kind=Kind.XID,
        code=79,
        name="TEST_ALARM",
        summary=f"TEST ALARM from xidwatch on {node}: nothing is wrong",
        severity=Severity.FATAL,
        blame=Blame.UNKNOWN,
        action=Action.IGNORE,
        action_text="Nothing: somebody tests whether alarms arrive.",
        time_us=now_us,
        time_is_estimate=False,
        last_time_us=now_us,
        count=1,
        gpu=Gpu("0000:00:00.0"),
        nvswitch=None,
        process=None,
        detail={"test": True},
        lines=(),
        lines_dropped=0,
        origin="userspace",
        drill=True,
        witnesses=(),
        node=node,
        boot_id=boot_id,
        kmsg_seq=None,
    )


async def _try_all(sinks: Sequence[SinkConfig], node: str) -> list[_Answer]:
    """At the same time, each within its own deadline."""
    from daemon.thread import DiskThread

    disk = DiskThread("sinks")
    try:
        return list(await asyncio.gather(*(_try(sink, node, disk) for sink in sinks)))
    finally:
        disk.close()


async def _try(sink: SinkConfig, node: str, disk: DiskThread) -> _Answer:
    from daemon.sinks.batch import Batch
    from daemon.sinks.sinks import courier_of

    now_us = time.time_ns() // 1000
    alarm = Item.of(0, test_alarm(node, kernel.boot_id(), now_us), stored=False)
    courier = courier_of(sink, agent=alarms.AGENT, disk=disk)
    begun = time.monotonic()
    try:
        outcome = await courier.send(Batch(sink.name, node, now_us, [alarm], is_test=True))
    finally:
        await courier.close()
    return _Answer(sink, outcome, time.monotonic() - begun)


def _as_dict(answer: _Answer) -> dict[str, object]:
    return {
        "sink": answer.sink.name,
        "type": answer.sink.type.value,
        "target": answer.sink.shown_target,
        "taken": answer.outcome.is_delivered,
        "said": answer.outcome.said,
        "took_s": round(answer.took_s, 3),
    }


def _row(answer: _Answer, style: Style) -> tuple[str, ...]:
    taken = answer.outcome.is_delivered
    word = style.green("taken") if taken else style.red("NOT TAKEN")
    where = f"{answer.sink.type} {answer.sink.shown_target}"
    return word, style.bold(answer.sink.name), where, f"{answer.outcome.said} ({answer.took_s * 1000:.0f} ms)"
