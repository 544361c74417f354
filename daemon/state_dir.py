"""The directory that holds the journal and the lock: making sure that it can."""

from __future__ import annotations

import os
from pathlib import Path

from probes.errors import UserError


def make_state_dir(state_dir: Path) -> None:
    """Create the state directory if needed. Raises UserError when it cannot be one that we write to.

    A disk that is read-only is no such error: that may pass, and what is kept there can be read.
    """
    try:
        state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"the state directory {state_dir} is not a directory",
            hint="remove the file, or name another directory with --state-dir",
        ) from None
    except OSError as error:
        raise unusable(state_dir, error) from None
    wanted = os.R_OK | os.X_OK if is_read_only(state_dir) else os.R_OK | os.W_OK | os.X_OK
    if not os.access(state_dir, wanted):
        raise UserError(
            f"the state directory {state_dir} is not writable",
            hint="mend its mode, or use another --state-dir",
        )


def is_read_only(state_dir: Path) -> bool:
    """True when the disk, or its mount, takes no writes now (EROFS). Raises OSError."""
    return bool(os.statvfs(state_dir).f_flag & os.ST_RDONLY)


def unusable(state_dir: Path, error: OSError) -> UserError:
    """The error for a state directory with which a system call failed."""
    return UserError(
        f"cannot use the state directory {state_dir}: {(error.strerror or str(error)).lower()}",
        hint="run as root, or name a writable directory with --state-dir",
    )
