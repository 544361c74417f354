"""`python -m tests.clients.matrix`: hold every conversation and write the table to docs/clients-matrix.md."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.clients.cells import POSSIBLE, Cell
from tests.clients.conversation import hold
from tests.clients.outcome import Outcome
from tests.clients.place import one_daemon
from tests.clients.table import lines
from tests.support.daemon import ROOT

DOCUMENT = ROOT / "docs" / "clients-matrix.md"
HEADER = """\
# Clients, transports, eras

What was tried against a running daemon, and how each client was reached. Made by
`python -m tests.clients.matrix`; `make test` asks for every cell anew. Versions are in
`tests/clients/npm/package.json`, `tests/clients/requirements-1.x.lock` and `requirements.lock`.

*legacy* is the handshake of 2024-11-05 to 2025-11-25. *stdio* is `xidwatch stdio` where no daemon runs,
*unix socket* the same as a relay to the daemon. *Resumes* means: faults that happened while the client was
away are read, each once, from the cursor it had.

The MCP conformance suite passes for 2025-11-25 and 2026-07-28, but for 17 scenarios of features that are not
offered: questions to the client's model or user, and arguments repeated in headers
(`tests/conformance/baseline.yml`).

"""


def main() -> int:
    """Write the document; 1 when a client could not do what it should."""
    outcomes: dict[Cell, Outcome] = {}
    with tempfile.TemporaryDirectory() as directory, one_daemon(Path(directory)) as places:
        for number, cell in enumerate(POSSIBLE):
            own = Path(directory) / str(number)
            own.mkdir()
            outcomes[cell] = hold(cell, places, own)
            sys.stderr.write(f"{cell}: {outcomes[cell].failed or outcomes[cell].unavailable or 'ok'}\n")
    DOCUMENT.write_text(HEADER + "\n".join(lines(outcomes)) + "\n", encoding="utf-8")
    return int(any(outcome.failed for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
