"""A run of benchmarks on disk: `figures.json`, to be read by people and programs, and `samples.json`, every
single measurement, from which distributions are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.outcome import Outcome
from benchmarks.samples import Samples, merged

FIGURES, SAMPLES = "figures.json", "samples.json"
SCHEMA = 1


class UnreadableError(Exception):
    """A file that is no result of benchmarks; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    machine: Mapping[str, str]
    """See `machine.describe`; as it was when the run began."""
    extent: str
    """`quick`, `usual` or `full`."""
    seconds: float
    """How long it took, of CLOCK_MONOTONIC."""
    outcomes: Sequence[Outcome]

    @property
    def held(self) -> bool:
        """False when a limit of any row is missed."""
        return all(outcome.held for outcome in self.outcomes)

    @property
    def samples(self) -> Sequence[Samples]:
        """The distributions of all rows, those of one chart together."""
        return merged(samples for outcome in self.outcomes for samples in outcome.samples)

    def write(self, figures: Path) -> None:
        """Write the figures there."""
        content = {
            "schema": SCHEMA,
            "machine": dict(self.machine),
            "extent": self.extent,
            "seconds": round(self.seconds, 1),
            "held": self.held,
            "rows": [outcome.to_dict() for outcome in self.outcomes],
        }
        figures.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def write_samples(self, samples: Path) -> None:
        """Write the samples there."""
        content = [each.to_dict() for each in self.samples]
        samples.write_text(json.dumps(content) + "\n", encoding="utf-8")


def read(figures: Path) -> Result:
    """The run that these figures belong to, without its samples. Raises UnreadableError."""
    data = _json(figures)
    try:
        if data["schema"] != SCHEMA:
            raise UnreadableError(f"{figures} has schema {data['schema']}, and this program reads {SCHEMA}")
        outcomes = [Outcome.from_dict(row) for row in data["rows"]]
        return Result(data["machine"], data["extent"], data["seconds"], outcomes)
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"{figures} holds no figures of benchmarks: {error!r}") from error


def read_samples(samples: Path) -> Sequence[Samples]:
    """The samples of a run. Raises UnreadableError."""
    data = _json(samples)
    try:
        return [Samples.from_dict(each) for each in data]
    except TypeError as error:
        raise UnreadableError(f"{samples} holds no samples of benchmarks: {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UnreadableError(f"cannot read {path}: {reason}") from error
