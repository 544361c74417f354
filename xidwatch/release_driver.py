"""`xidwatch release-driver`: the daemon lets go of the NVIDIA driver, so that it can be unloaded or updated.

What was let go is taken up again by the next question about a GPU, and the witness of NVML's events at the
time that is printed, or when the driver was loaded anew. Exit code 0 when the daemon holds nothing any more,
1 when a process of it is stuck in a call of the driver. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from daemon.text import clean
from xidwatch import socket_client

HELD_STILL = 1

_PATIENCE_S = 30.0
"""Questions that are being answered are waited for, and they have 5 s."""


def run(path: Path | None, *, as_json: bool, out: TextIO) -> int:
    """Ask the daemon at `path`, or at the default sockets, and print what it let go. Raises UserError."""
    answer = _ask(path)
    try:
        text = json.dumps(answer) if as_json else "\n".join(_told(answer))
        stuck = [pid for _, part in _parts(answer) for pid in part["stuck"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise socket_client.not_understood() from None
    print(text, file=out)
    return HELD_STILL if stuck else 0


def _ask(path: Path | None) -> dict[str, Any]:
    with socket_client.connect(path) as connection:
        socket_client.ask(connection, "release-driver")
        for line in socket_client.lines(connection, timeout_s=_PATIENCE_S):
            return socket_client.parse(line)
    raise socket_client.NoDaemonError("the daemon hung up before it answered: it may be restarting")


def _parts(answer: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    names = {"reader": "the process that reads GPUs", "events": "the process that hears NVML's events"}
    return [(name, answer[key]) for key, name in names.items() if answer[key] is not None]


def _told(answer: Mapping[str, Any]) -> Iterator[str]:
    parts = _parts(answer)
    ended = [f"{name} (pid {_pid(pid)}) has ended" for name, part in parts for pid in part["ended"]]
    stuck = [
        f"{name} (pid {_pid(pid)}) is stuck in a call of the driver and holds it until that returns; "
        "if it never does, only a reboot helps"
        for name, part in parts
        for pid in part["stuck"]
    ]
    tracepoint = answer.get("tracepoint")
    if tracepoint is not None and tracepoint["was_attached"]:
        ended.append("the driver's tracepoint is let go of")
    yield from ended
    yield from stuck
    if not stuck:
        yield "xidwatch holds the driver no more" if ended else "xidwatch did not hold the driver"
    if tracepoint is not None:
        yield "the tracepoint is heard again when the driver was loaded anew"
    if answer["reader"] is not None:
        yield "the next question about a GPU takes the driver up again"
    if answer["events"] is not None:
        until = clean(str(answer["events"]["until"]), 40)
        yield "kernel messages go on to be heard: nothing is lost"
        yield f"NVML's events are heard again from {until}, or when the driver was loaded anew"


def _pid(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("a pid is a number")
    return value
