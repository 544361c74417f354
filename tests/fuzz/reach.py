"""`python -m tests.fuzz.reach TARGET FOLDER…`: lines and branches that the inputs in these folders reach.

Prints `{"lines": [reached, all], "branches": [reached, all]}` of the modules that the target is about. Needs
coverage.py: `make fuzz` has it installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS


def main(name: str, folders: list[str]) -> None:
    """Run every input, and print what was reached."""
    from coverage import Coverage  # type: ignore[import-not-found]  # no part of .venv

    # What runs when a module is imported counts too, so this comes before the first import of ours.
    target = TARGETS[name]
    coverage = Coverage(branch=True, data_file=None, source_pkgs=target.about)
    coverage.start()
    check = target.load()
    for folder in map(Path, folders):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            with contextlib.suppress(Exception):  # a finding: told by whoever looks for them
                check(path.read_bytes())
    coverage.stop()
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.json"
        coverage.json_report([str(path) for path in sources(target.about)], outfile=str(report))
        totals = json.loads(report.read_bytes())["totals"]
    reached = {
        "lines": [totals["covered_lines"], totals["num_statements"]],
        "branches": [totals["covered_branches"], totals["num_branches"]],
    }
    sys.stdout.write(json.dumps(reached))


def sources(modules: tuple[str, ...]) -> list[Path]:
    """The files of these modules, and of all that a package holds."""
    found: list[Path] = []
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None, module
        path = Path(spec.origin)
        found += sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
