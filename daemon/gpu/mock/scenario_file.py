"""A scenario file that is edited while it is used: saving it is how a demonstration gives its commands.

Every look at the fleet asks whether the file has changed, which costs one stat(2). A file that can no
longer be read, or says what cannot be, changes nothing: that is logged once for each change, and said
until it is mended. So is one that named GPUs and is empty, or names none any more.

A file may be met while it is being written, when it ends too early. One that names fewer GPUs than before
is taken at its word only once it has rested for a second; GPUs that seemed to vanish would be missed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from daemon.gpu.mock.scenario import Scenario, load
from probes.errors import UserError

log = logging.getLogger(__name__)

RESTS_S = 1.0
"""So long after its last change, a file is not being written any more."""

_Version = tuple[int, int, int] | None
"""Time of change, size and inode; None: it is not there."""


class ScenarioFile:
    """The file, read once to begin with."""

    def __init__(self, path: Path, wall_ns: Callable[[], int] = time.time_ns) -> None:
        """Raises UserError naming the file when it holds no scenario."""
        self._path = path
        self._wall_ns = wall_ns
        self._version = _version(path)
        self.first = load(path)
        """What it held at first."""
        self._now = self.first
        self.trouble: str | None = None
        """Why it cannot be used as it is now, a sentence without its full stop; None: it can."""

    def changed(self) -> Scenario | None:
        """What it holds now, if that is new and can be used; else None."""
        version = _version(self._path)
        if version == self._version:
            return None
        try:
            scenario = self._load()
        except UserError as error:
            hint = f" ({error.hint})" if error.hint else ""
            self.trouble = f"{error.message}{hint}"
            self._version = version
            log.warning("the mock fleet stays as it was: %s", self.trouble)
            return None
        if len(scenario.gpus) < len(self._now.gpus) and self._is_restless(version):
            return None
        self._version, self._now, self.trouble = version, scenario, None
        log.info("the mock scenario %s was read anew", self._path)
        return scenario

    def _load(self) -> Scenario:
        scenario = load(self._path)
        if self._now.names_gpus and not scenario.names_gpus:
            raise UserError(
                f"the mock scenario {self._path} names no GPU any more",
                hint="write [[gpu]] for each, or start without a scenario for the default fleet",
            )
        return scenario

    def _is_restless(self, version: _Version) -> bool:
        """Whether it was changed a moment ago."""
        return version is not None and 0 <= self._wall_ns() - version[0] < RESTS_S * 1e9


def _version(path: Path) -> _Version:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
