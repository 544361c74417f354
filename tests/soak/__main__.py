"""`python -m tests.soak --minutes 60 --report FILE`: a soak, its table on stdout, its series as JSON.

Exit code 0 when everything held, 1 when something did not, 2 when it could not be run to its end.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.soak.plan import SHORTEST_MINUTES, Plan
from tests.soak.soak import Soak

HOUR: Final = 60.0
"""Minutes."""


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=HOUR, metavar="N", help="how long (default: 60)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="where the series are written as JSON")
    parser.add_argument("--document", type=Path, metavar="FILE", help="where to put the table of an hour")
    parser.add_argument("--seed", type=int, default=1, help="the load is drawn from it (default: 1)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work there, and leave journal and log behind"
    )
    asked = parser.parse_args()
    if asked.minutes < SHORTEST_MINUTES:
        parser.error(f"a soak takes {SHORTEST_MINUTES:g} minutes at least")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    say = logging.getLogger("soak").info
    plan = Plan.of(asked.minutes, asked.seed)
    with tempfile.TemporaryDirectory(prefix="xidwatch-soak-") as scratch:
        place = asked.keep or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        soak = Soak(plan, place, say)
        try:
            report = soak.run()
        except (AssertionError, OSError) as error:
            sys.stdout.write(f"{soak.report.table()}\n")
            sys.stderr.write(f"the soak could not go on: {error}\n")
            return 2
    sys.stdout.write(f"{report.table()}\n")
    if asked.report is not None:
        report.write(asked.report)
    if asked.document is not None and plan.minutes >= HOUR:
        report.write_into(asked.document)
    for failure in report.failures:
        sys.stderr.write(f"does not hold: {failure}\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
