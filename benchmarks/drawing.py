"""`python -m benchmarks plot DIR`: the plots of a run, drawn by matplotlib in an environment of its own.

matplotlib is no part of xidwatch, nor of what its tests are installed with: the first time it is installed
into `.cache/`, with the versions and hashes of `benchmarks/requirements.lock`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.result import FIGURES, UnreadableError
from tests.support.daemon import ROOT
from tests.support.installed import UnavailableError, installed, once, pip, run

__all__ = ["UnavailableError", "draw", "main"]

LOCK = Path(__file__).with_name("requirements.lock")


def main(arguments: Sequence[str]) -> int:
    """Draw the plots of one run anew; the exit code. Raises UnreadableError."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot", description="Draw the plots of a run.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where its figures and samples are")
    directory: Path = parser.parse_args(arguments).directory
    if not (directory / FIGURES).exists():
        raise UnreadableError(f"there is no {FIGURES} in {directory}")
    try:
        for plot in draw(directory):
            print(plot)
    except UnavailableError as reason:
        raise UnreadableError(f"cannot draw: {reason}") from reason
    return 0


def draw(directory: Path) -> Sequence[Path]:
    """Draw what the run there has samples or series for; the files. Those of an earlier run are removed.

    Raises UnavailableError when matplotlib cannot be had, or fails.
    """
    for old in directory.glob("*.svg"):
        old.unlink()
    python = _python()
    done = subprocess.run(
        [str(python), "-m", "benchmarks.plots", str(directory.absolute())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UnavailableError(f"the plots: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return [Path(line) for line in done.stdout.splitlines()]


@once
def _python() -> Path:
    """A Python that has matplotlib. Raises UnavailableError."""

    def install(place: Path) -> None:
        run([sys.executable, "-m", "venv", str(place)], place)
        pip(["install", "--require-hashes", "-r", str(LOCK)], place, python=str(place / "bin/python"))

    return installed("plots", LOCK, install) / "bin/python"
