"""A scenario file that is edited while it is used: saving it is how a demonstration gives its commands.

Every look at the fleet asks whether the file has changed, which costs one stat(2). A file that can no
longer be read, or says what cannot be, changes nothing: that is logged once for each change, and said
until it is mended.
"""

from __future__ import annotations

import logging
from pathlib import Path

from daemon.gpu.mock.scenario import Scenario, load
from probes.errors import UserError

log = logging.getLogger(__name__)

_Version = tuple[int, int, int] | None
"""Time of change, size and inode; None: it is not there."""


class ScenarioFile:
    """The file, read once to begin with."""

    def __init__(self, path: Path) -> None:
        """Raises UserError naming the file when it holds no scenario."""
        self._path = path
        self._version = _version(path)
        self.first = load(path)
        """What it held at first."""
        self.trouble: str | None = None
        """Why it cannot be used as it is now, a sentence without its full stop; None: it can."""

    def changed(self) -> Scenario | None:
        """What it holds now, if that is new and can be used; else None."""
        version = _version(self._path)
        if version == self._version:
            return None
        self._version = version
        try:
            scenario = load(self._path)
        except UserError as error:
            hint = f" ({error.hint})" if error.hint else ""
            self.trouble = f"{error.message}{hint}"
            log.warning("the mock fleet stays as it was: %s", self.trouble)
            return None
        self.trouble = None
        log.info("the mock scenario %s was read anew", self._path)
        return scenario


def _version(path: Path) -> _Version:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
