"""What a daemon says of itself, asked over its socket without a command of its own."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.support.daemon import Daemon
from tests.support.waiting import DEADLINE_S


def status(daemon: Daemon) -> dict[str, Any]:
    """As `xidwatch status --json` prints it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(daemon.socket))
        connection.sendall(b'{"xidwatch": {"want": "status"}}\n')
        with connection.makefile("rb") as answer:
            said: dict[str, Any] = json.loads(answer.readline())
    return said


def probes(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """Each probe by its name."""
    return {probe["name"]: probe for probe in status(daemon)["probes"]}
