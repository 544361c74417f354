"""How the process of an event ended, in words for people and assistants."""

from __future__ import annotations

import signal

from daemon.event import Process

_ID_CHARS = 12
"""Of a container id: as many as `docker ps` and `crictl ps` show."""


def how_it_ended(process: Process) -> str | None:
    """`was killed by signal 9 (SIGKILL) 12 ms after`, to follow a name for the process; None while nobody
    knows that it ended."""
    when = None if process.exited_after_us is None else _after(process.exited_after_us)
    match process.exit_signal, process.exit_code:
        case None, None:
            words = None if when is None else "ended"
        case None, code:
            words = f"exited with code {code}"
        case number, _:
            words = f"was killed by {_signal(number)}"
    return f"{words} {when}" if words and when else words


def container(process: Process) -> str | None:
    """`container 4f0c1d2e3b4a`; None when it is not known, or it ran in none."""
    return None if process.container_id is None else f"container {process.container_id[:_ID_CHARS]}"


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal has no name of its own
        return f"signal {number}"


def _after(us: int) -> str:
    return f"{_span(abs(us))} {'after' if us >= 0 else 'before'}"


def _span(us: int) -> str:
    """To about two digits: the time of an event is no more exact than that."""
    if us < 10_000:
        return f"{us / 1000:.1f} ms"
    return f"{us // 1000} ms" if us < 1_000_000 else f"{us / 1e6:.1f} s"
