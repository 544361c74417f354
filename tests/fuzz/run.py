"""`python -m tests.fuzz.run`: every target under the fuzzer, as many at a time as there are processors.

What reaches new code is kept in `.cache/fuzz/found`, where the next run goes on from it. What breaks a
property is kept in `crashes`, where a test replays it. At the end a table says what was run and what it
reaches. `make fuzz` runs this with what it needs installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz.targets import CORPUS, CRASHES, HERE, TARGETS

ROOT: Final = HERE.parents[1]
FOUND: Final = ROOT / ".cache" / "fuzz" / "found"
"""A folder for each target: inputs that reached something new; not committed."""
_EXECUTED = re.compile(r"^stat::number_of_executed_units:\s*([0-9]+)", re.MULTILINE)
_LONGEST_INPUT_S: Final = 10
"""An input that takes longer is a finding of its own."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one target."""

    name: str
    executions: int
    broke: str | None
    """The last words of the fuzzer, where an input broke a property."""
    reached: dict[str, tuple[int, int]]
    """`lines` and `branches`: how many were reached, of how many."""


def main() -> int:
    """1 when a property was broken, 2 where it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Run the fuzzer.")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target; default 60")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time")
    asked = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not there: `make fuzz` installs it, for Python 3.11 to 3.13 on x86-64 Linux")
    names = asked.targets or list(TARGETS)
    with ThreadPoolExecutor(asked.jobs) as pool:
        results = list(pool.map(lambda name: run(name, asked.seconds), names))
    sys.stdout.write("\n".join(table(results)) + "\n")
    return int(any(result.broke for result in results))


def run(name: str, seconds: int) -> Result:
    """Fuzz one target for so long, then see what all its inputs reach."""
    folders = [FOUND / name, CORPUS / name, CRASHES / name]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    log = FOUND / f"{name}.log"
    with log.open("wb") as out:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.one", name),
                *(f"-max_total_time={seconds}", f"-timeout={_LONGEST_INPUT_S}", "-print_final_stats=1"),
                *(f"-artifact_prefix={folders[-1]}/", *map(str, folders)),
            ],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    said = log.read_text(encoding="utf-8", errors="replace")
    executed = _EXECUTED.search(said)
    if not any(folders[-1].iterdir()):
        folders[-1].rmdir()
    reached = _reached(name, folders)
    broke = None if done.returncode == 0 else f"exit code {done.returncode}, see {log}"
    return Result(name, int(executed[1]) if executed else 0, broke, reached)


def _reached(name: str, folders: Sequence[Path]) -> dict[str, tuple[int, int]]:
    """What the inputs reach. Raises CalledProcessError where the program cannot even be imported."""
    measured = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.reach", name, *map(str, folders)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    found: dict[str, tuple[int, int]] = json.loads(measured.stdout)
    return found


def table(results: Sequence[Result]) -> Iterator[str]:
    """One line a target, as docs/fuzzing.md shows them."""
    yield "| target | executions | lines reached | branches reached | |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for result in results:
        shares = " | ".join(
            f"{reached} of {of}" for reached, of in (result.reached["lines"], result.reached["branches"])
        )
        yield f"| {result.name} | {result.executions:,} | {shares} | {result.broke or 'no finding'} |"
    yield f"\n{sum(result.executions for result in results):,} executions"


if __name__ == "__main__":
    sys.exit(main())
