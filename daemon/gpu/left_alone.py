"""GPUs that are not asked for a while, because the last question hung or killed the worker. No clock of
its own: `now` is time.monotonic()."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.gpu.answers import HungCall, Unanswered


@dataclass(frozen=True, slots=True)
class _Entry:
    call: HungCall
    answer: Unanswered
    until: float


class LeftAlone:
    """See the module's docstring. The library itself is the GPU None."""

    def __init__(self) -> None:
        self._entries: dict[str | None, _Entry] = {}

    def add(self, gpu: str | None, answer: Unanswered, *, since_us: int, until: float) -> None:
        """Leave `gpu` alone until then; whoever asks gets `answer`."""
        call = HungCall(gpu, answer.call or "", since_us, answer.trouble)
        self._entries[gpu] = _Entry(call, answer, until)

    def answer(self, gpu: str | None, now: float) -> Unanswered | None:
        """What to answer for it; None when it may be asked."""
        entry = self._entries.get(gpu)
        return entry.answer if entry is not None and now < entry.until else None

    def forgive(self, gpu: str | None) -> None:
        """It may be asked again."""
        self._entries.pop(gpu, None)

    def forgive_before(self, at_us: int) -> None:
        """Whatever was called before this time (wall clock, µs since the Unix epoch) may be asked again."""
        self._entries = {gpu: entry for gpu, entry in self._entries.items() if entry.call.since_us > at_us}

    def calls(self, now: float) -> tuple[HungCall, ...]:
        """The calls because of which somebody is left alone now, the longest first."""
        calls = (entry.call for entry in self._entries.values() if now < entry.until)
        return tuple(sorted(calls, key=lambda call: call.since_us))
