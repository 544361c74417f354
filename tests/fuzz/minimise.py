"""`python -m tests.fuzz.minimise`: keep in `corpus`, of all that was found, what reaches something new.

An input counts for the steps from line to line that it takes through the modules its target is about, and for
how often, in powers of two. The shortest inputs are looked at first, so that of two which reach the same the
simpler one stays.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from tests.fuzz.reach import sources
from tests.fuzz.run import FOUND
from tests.fuzz.targets import CORPUS, TARGETS, Target

Step = tuple[str, int, int]
"""File, line left, line reached."""

_MOST_SHOWN: Final = 8
"""Repetitions are told apart up to 2**8."""


def main(names: list[str]) -> None:
    """Minimise these targets, or all."""
    for name in names or TARGETS:
        target = TARGETS[name]
        folders = (CORPUS / name, FOUND / name)
        inputs = {path.read_bytes() for folder in folders if folder.is_dir() for path in folder.iterdir()}
        kept = minimised(target, inputs)
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for path in (CORPUS / name).iterdir():
            path.unlink()
        for data in kept:
            (CORPUS / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        sys.stdout.write(f"{name}: {len(kept)} of {len(inputs)} inputs, {sum(map(len, kept))} bytes\n")


def minimised(target: Target, inputs: set[bytes]) -> list[bytes]:
    """The inputs that reach something that no shorter one does."""
    files = {str(path) for path in sources(target.about)}
    reached: set[tuple[Step, int]] = set()
    kept = []
    check = target.load()
    for data in sorted(inputs, key=lambda each: (len(each), each)):
        fresh = steps(check, data, files) - reached
        if fresh:
            reached |= fresh
            kept.append(data)
    return kept


def steps(check: Callable[[bytes], None], data: bytes, files: set[str]) -> set[tuple[Step, int]]:
    """The steps that an input takes through these files, each with the power of two of how often."""
    counts: Counter[Step] = Counter()

    def trace(frame: FrameType, event: str, _: Any) -> Callable[[FrameType, str, Any], Any] | None:
        name = frame.f_code.co_filename
        if name not in files:
            return None
        last = frame.f_lineno

        def step(frame: FrameType, event: str, _: Any) -> Callable[[FrameType, str, Any], Any]:
            nonlocal last
            if event == "line":
                counts[name, last, frame.f_lineno] += 1
                last = frame.f_lineno
            return step

        return step

    sys.settrace(trace)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return {(step, min(count.bit_length(), _MOST_SHOWN)) for step, count in counts.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
