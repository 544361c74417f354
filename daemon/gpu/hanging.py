"""Calls that do not return, told in one answer by one call and one clock.

A GPU may have hung in two calls, once as `#3` and once at its address, and its reading keeps the words of
when it was asked. Here every part of an answer gets the longest of its calls, as of the same moment. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from daemon.gpu.answers import HungCall
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Reading
from daemon.gpu.source import SourceName, SourceState


def one_each(calls: Iterable[HungCall]) -> tuple[HungCall, ...]:
    """The longest call of each GPU, the longest first."""
    first: dict[str | None, HungCall] = {}
    for call in sorted(calls, key=lambda call: call.since_us):
        first.setdefault(call.gpu, call)
    return tuple(first.values())


def state_as_of(state: SourceState, now_us: int) -> SourceState:
    """`state` with the call of the library that hangs told as of now (wall clock, µs since the Unix
    epoch)."""
    library = next((call for call in state.hung if call.gpu is None), None)
    if state.name is not SourceName.HUNG or library is None:
        return state
    return replace(state, reason=library.told(now_us))


def reading_as_of(reading: Reading, state: SourceState, now_us: int) -> Reading:
    """`reading` with the call that hangs as `state` has it, told as of now."""
    if reading.answered or reading.trouble != Trouble.HUNG:
        return reading
    hung = {call.gpu: call for call in state.hung if call.trouble is Trouble.HUNG}
    call = hung.get(reading.pci) or (hung.get(None) if state.name is SourceName.HUNG else None)
    return reading if call is None else replace(reading, reason=call.told(now_us))
