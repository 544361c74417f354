"""Whose events NVML is asked for: the GPUs that are there, those that are heard, and why others are not.

Pure, but for what it remembers of the last beginning. `now` is time.monotonic(). A GPU is named by its PCI
address, or `#N`, its index, where the library did not get as far as its address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

MOST_NAMED: Final = 8
"""GPUs that `Roll.sentence` names, of those that are not heard."""


@dataclass(frozen=True, slots=True)
class Present:
    """The GPUs of the node at one moment."""

    gpus: frozenset[str] = frozenset()
    """PCI addresses."""
    complete: bool = False
    """False: these were seen, and there may be others."""
    alone: Mapping[str, str] = field(default_factory=dict)
    """GPUs that must not be touched, and why, a clause."""


@dataclass(frozen=True, slots=True)
class Call:
    """Whom a beginning asks."""

    gpus: Sequence[str] | None
    """PCI addresses; None: every GPU that the library counts."""
    skip: Sequence[str]
    """Names of GPUs that are not touched."""


class Roll:
    """See the module's docstring. Not thread-safe."""

    def __init__(self) -> None:
        self.heard: Sequence[str] = ()
        """Whose events are heard now."""
        self.not_heard: Mapping[str, str] = {}
        """Who is there and not heard while others are, each with the reason."""
        self._tried: frozenset[str] = frozenset()
        self._unasked: Mapping[str, str] = {}
        self._left_out: dict[str, tuple[float, str]] = {}

    def leave_out(self, gpu: str, reason: str, *, until: float) -> None:
        """Do not ask this GPU at a beginning before `until`: it hung, or ended the worker."""
        self._left_out[gpu] = (until, reason)

    def forgive(self) -> None:
        """Ask every GPU at the next beginning."""
        self._left_out.clear()

    def call(self, there: Present, now: float) -> Call:
        """Whom to ask at a beginning, with these GPUs there."""
        self._left_out = {gpu: entry for gpu, entry in self._left_out.items() if now < entry[0]}
        unasked = {**{gpu: why for gpu, (_, why) in self._left_out.items()}, **there.alone}
        if there.complete:
            unasked = {gpu: why for gpu, why in unasked.items() if gpu in there.gpus}
        self._unasked = unasked
        self._tried = there.gpus - there.alone.keys()
        # By index nothing tells which GPU would be touched, so that none can be left alone.
        by_address = there.complete or any(not gpu.startswith("#") for gpu in unasked)
        return Call(sorted(there.gpus - unasked.keys()) if by_address else None, sorted(unasked))

    def answered(self, heard: Sequence[str], refused: Mapping[str, str]) -> None:
        """What came of the beginning."""
        self.heard = tuple(heard)
        self.not_heard = {**refused, **self._unasked}
        self._tried |= {*heard}

    def ended(self) -> None:
        """Nobody is heard any more."""
        self.heard, self.not_heard = (), {}

    def is_outdated(self, there: Present) -> bool:
        """True when a GPU is there that may be asked and was not before, or one that was is gone."""
        gone = self._tried - there.gpus if there.complete else frozenset()
        return bool(gone or there.gpus - there.alone.keys() - self._tried)

    def nobody(self) -> str:
        """Why no GPU is asked: a clause."""
        whys = "; ".join(f"{gpu}: {why}" for gpu, why in sorted(self._unasked.items()))
        return f"no GPU may be asked: {whys or 'none is there'}"

    def sentence(self) -> str | None:
        """Which GPUs are not heard and why, one sentence without its full stop; None when all are."""
        number, total = len(self.not_heard), len(self.not_heard) + len(self.heard)
        if number == 0:
            return None
        each = [f"{gpu} ({why})" for gpu, why in sorted(self.not_heard.items())]
        more = [f"and {number - MOST_NAMED} more"] if number > MOST_NAMED else []
        verb = "is" if number == 1 else "are"
        return f"{number} of {total} GPUs {verb} not heard: {'; '.join(each[:MOST_NAMED] + more)}"
