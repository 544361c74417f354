"""Where the daemon keeps its socket and its state, and where clients look for them.

Root's daemon uses the system paths. Anyone else's uses the XDG directories of that user. A client
tries the system path first, so that a person on a node finds the node's daemon before their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from probes.errors import UserError

SYSTEM_SOCKET = Path("/run/xidwatch/mcp.sock")
SYSTEM_STATE_DIR = Path("/var/lib/xidwatch")


def path(text: str) -> Path:
    """An absolute path; `~` is the home directory, symbolic links stay."""
    if not text or "\0" in text:
        raise UserError(f"{text!r} is not a path")
    return Path(os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 (pathlib would resolve links)


def default_state_dir() -> Path:
    """State directory of a daemon started by this user."""
    return SYSTEM_STATE_DIR if os.geteuid() == 0 else user_state_dir(os.environ)


def default_socket() -> Path:
    """Socket of a daemon started by this user."""
    return SYSTEM_SOCKET if os.geteuid() == 0 else user_socket(os.environ)


def client_sockets() -> tuple[Path, ...]:
    """Sockets a client tries when none is named, in this order."""
    return _with_the_users(SYSTEM_SOCKET, user_socket)


def client_state_dirs() -> tuple[Path, ...]:
    """State directories in which a client without a daemon looks for the journal, in this order."""
    return _with_the_users(SYSTEM_STATE_DIR, user_state_dir)


def user_state_dir(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/xidwatch`, by default `~/.local/state/xidwatch`. Raises UserError for a user without
    a home directory."""
    base = _absolute(environ.get("XDG_STATE_HOME"))
    return (base or _home() / ".local" / "state") / "xidwatch"


def user_socket(environ: Mapping[str, str]) -> Path:
    """`$XDG_RUNTIME_DIR/xidwatch/mcp.sock`; beside the journal where a session has no runtime directory
    (a path in /tmp that others can foretell would let them answer in the daemon's place). Raises UserError
    for a user without either."""
    base = _absolute(environ.get("XDG_RUNTIME_DIR"))
    return (base / "xidwatch" if base else user_state_dir(environ)) / "mcp.sock"


def _with_the_users(system: Path, of_user: Callable[[Mapping[str, str]], Path]) -> tuple[Path, ...]:
    """The system's path and the user's; a user without a home directory has none."""
    try:
        return (system, of_user(os.environ))
    except UserError:
        return (system,)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and no entry in passwd: a container's arbitrary user id
        raise UserError(
            f"user {os.geteuid()} has no home directory to keep state and socket in",
            hint="name both places with --state-dir and --socket, or set HOME",
        ) from None


def _absolute(value: str | None) -> Path | None:
    # The XDG base directory specification has relative paths ignored.
    return Path(value) if value and value.startswith("/") else None
