"""One conversation of a client with the daemon, from its first word to its return after an absence."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.clients import curl, inspector, sdk
from tests.clients.cells import Cell, Client, Transport
from tests.clients.outcome import Outcome
from tests.clients.place import Place, alone, daemon_of_this_machine
from tests.support.installed import UnavailableError


def hold(cell: Cell, places: Callable[[Transport], Place], directory: Path) -> Outcome:
    """The conversation of a cell: with the daemon, or in `directory` with no daemon at all."""
    if cell.transport is not Transport.ALONE:
        return converse(cell, places(cell.transport))
    if (other := daemon_of_this_machine()) is not None:
        return Outcome(unavailable=f"{other} exists: a daemon of this machine would be used")
    with alone(directory) as place:
        return converse(cell, place)


def converse(cell: Cell, place: Place) -> Outcome:
    """Have this client connect, call, be pushed to and resume, as far as it comes."""
    outcome = Outcome()
    talk = {Client.INSPECTOR: inspector.converse, Client.CURL: curl.converse}.get(cell.client, sdk.converse)
    try:
        talk(cell, place, outcome)
    except UnavailableError as error:
        outcome.unavailable = str(error)
    except (AssertionError, LookupError, ValueError, OSError, subprocess.SubprocessError) as error:
        outcome.failed = f"{type(error).__name__}: {error}"
    return outcome
