"""Where the daemon keeps its socket and its state, and where clients look for them.

Root's daemon uses the system paths. Anyone else's uses the XDG directories of that user. A client
tries the system path first, so that a person on a node finds the node's daemon before their own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM_SOCKET = Path("/run/xidwatch/mcp.sock")
SYSTEM_STATE_DIR = Path("/var/lib/xidwatch")


def default_state_dir() -> Path:
    """State directory of a daemon started by this user."""
    return SYSTEM_STATE_DIR if os.geteuid() == 0 else user_state_dir(os.environ)


def default_socket() -> Path:
    """Socket of a daemon started by this user."""
    return SYSTEM_SOCKET if os.geteuid() == 0 else user_socket(os.environ)


def client_sockets() -> tuple[Path, ...]:
    """Sockets a client tries when none is named, in this order."""
    return (SYSTEM_SOCKET, user_socket(os.environ))


def client_state_dirs() -> tuple[Path, ...]:
    """State directories in which a client without a daemon looks for the journal, in this order."""
    return (SYSTEM_STATE_DIR, user_state_dir(os.environ))


def user_state_dir(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/xidwatch`, by default `~/.local/state/xidwatch`."""
    base = _absolute(environ.get("XDG_STATE_HOME"))
    return (base or Path.home() / ".local" / "state") / "xidwatch"


def user_socket(environ: Mapping[str, str]) -> Path:
    """`$XDG_RUNTIME_DIR/xidwatch/mcp.sock`; beside the journal where a session has no runtime directory
    (a path in /tmp that others can foretell would let them answer in the daemon's place)."""
    base = _absolute(environ.get("XDG_RUNTIME_DIR"))
    return (base / "xidwatch" if base else user_state_dir(environ)) / "mcp.sock"


def _absolute(value: str | None) -> Path | None:
    # The XDG base directory specification has relative paths ignored.
    return Path(value) if value and value.startswith("/") else None
