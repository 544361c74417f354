"""Boots and times of a saved log: which boot a line belongs to, and when it was printed.

A boot ends where the log says so (another boot id, `-- Boot … --`, `-- Reboot --`, the kernel's greeting
`Linux version`) or where kernel time steps back by more than a second. Boots that the log does not name
are called `replay-1`, `replay-2` …

`arrival_us` of a replayed line is a time of its own that never goes back: kernel time in the first boot,
beyond it a minute after the boot before. A log that has only wall times runs by those.
"""

from __future__ import annotations

from dataclasses import dataclass

from probes.replay.coverage import Boot
from probes.replay.timestamps import SECOND_US, WallTime

STEP_BACK_US = SECOND_US
"""Kernel time may be some milliseconds out of order within a boot; a step back beyond this is another one."""

BETWEEN_BOOTS_US = 60 * SECOND_US
"""Longer than anything in the pipeline waits: what was pending in one boot is over in the next."""

GOES_ON_WITHIN_US = 60 * SECOND_US
"""A file whose first line is so much later than the last one of the file before goes on with its boot:
parts of a pstore dump, rotated logs."""

GREETING = "Linux version "
"""How the kernel's first line begins."""


class Timeline:
    """Gives each line its boot, and its place in replay time. Lives as long as the replay."""

    def __init__(self, boots: list[Boot]) -> None:
        """`boots`: where each new boot is noted."""
        self._boots = boots
        self._unnamed = 0
        self._places = 0
        self._boot: Boot | None = None
        self._may_go_on: Boot | None = None
        self.source = ""
        """Name of the file being read."""

    @property
    def place(self) -> int:
        """Number of the stretch of log being read: within one nothing is told twice."""
        return self._places

    def new_place(self, source: str) -> None:
        """Another file begins, or another section of one. Its boot is another one until it is named."""
        self.source = source
        self._places += 1
        self._may_go_on = self._boot or self._may_go_on
        self._boot = None

    def end_boot(self, boot_id: str = "") -> None:
        """The log says that another boot begins; its id may be known."""
        if boot_id:
            self._begin(boot_id)
        else:
            self._boot = self._may_go_on = None

    def see(self, *, kernel_us: int | None, wall_us: int | None, boot_id: str, greets: bool) -> Boot:
        """The boot of a line."""
        boot = self._boot
        if boot is None and not boot_id and self._goes_on(kernel_us, wall_us, greets=greets):
            boot = self._boot = self._may_go_on
        if boot_id and (boot is None or boot.id != boot_id):
            boot = self._begin(boot_id)
        elif boot is None:
            boot = self._begin("")
        elif not boot_id and self._is_another(boot, kernel_us, greets=greets):
            self._places += 1
            boot = self._begin("")
        boot.see(kernel_us, wall_us)
        if kernel_us is not None and wall_us is not None:
            boot.offset_us = wall_us - kernel_us
        return boot

    def _goes_on(self, kernel_us: int | None, wall_us: int | None, *, greets: bool) -> bool:
        """True when the first line of a file or section follows closely on the last one of another."""
        before, self._may_go_on = self._may_go_on, None
        if before is None or greets:
            return False
        if kernel_us is not None and before.last_kernel_us is not None:
            follows = 0 <= kernel_us - before.last_kernel_us <= GOES_ON_WITHIN_US
        elif kernel_us is None and wall_us is not None and before.last_wall_us is not None:
            follows = 0 <= wall_us - before.last_wall_us <= GOES_ON_WITHIN_US
        else:
            follows = False
        self._may_go_on = before if follows else None
        return follows

    @staticmethod
    def _is_another(boot: Boot, kernel_us: int | None, *, greets: bool) -> bool:
        if kernel_us is None or boot.last_kernel_us is None:
            return greets and boot.lines > 0
        if greets:
            return kernel_us < boot.last_kernel_us
        return kernel_us < boot.last_kernel_us - STEP_BACK_US

    def _begin(self, boot_id: str) -> Boot:
        if boot_id:
            for boot in self._boots:
                if boot.id == boot_id:
                    self._boot = boot
                    return boot
        else:
            self._unnamed += 1
        boot = Boot(id=boot_id or f"replay-{self._unnamed}", is_named=bool(boot_id), source=self.source)
        self._boots.append(boot)
        self._boot = boot
        return boot


class ReplayTime:
    """The arrival time of replayed lines: it never goes back, and boots lie a minute apart."""

    def __init__(self) -> None:
        self._boot: Boot | None = None
        self._base_us = 0
        self._wall_base_us: int | None = None
        self._last_us = 0
        self._seconds = _WholeSeconds()

    def of(self, boot: Boot, kernel_us: int | None, wall: WallTime) -> int:
        """Arrival time of the next line of a boot, µs."""
        if boot is not self._boot:
            self._base_us = 0 if self._boot is None else self._last_us + BETWEEN_BOOTS_US
            self._boot, self._wall_base_us, self._seconds = boot, None, _WholeSeconds()
        if kernel_us is not None:
            at_us = self._base_us + kernel_us
        elif boot.offset_us is not None and boot.first_kernel_us is not None:
            at_us = self._base_us + self._seconds.place(wall) - boot.offset_us
        else:
            wall_us = self._seconds.place(wall)
            if self._wall_base_us is None:
                self._wall_base_us = wall_us - max(self._last_us - self._base_us, 0)
            at_us = self._base_us + wall_us - self._wall_base_us
        self._last_us = max(self._last_us, at_us)
        return self._last_us


@dataclass(slots=True)
class _WholeSeconds:
    """Spreads stamps of whole seconds so that lines printed together stay together.

    Two lines in neighbouring seconds may be a microsecond or two seconds apart, and the lines of one
    fault are printed within milliseconds. So the first line after a silence is put at the end of its
    second, and each further one as early as its own second allows.
    """

    stamp_us: int | None = None
    at_us: int = 0

    def place(self, wall: WallTime) -> int:
        if wall.resolution_us == 1:
            return wall.us
        if self.stamp_us is None or not 0 <= wall.us - self.stamp_us <= SECOND_US:
            self.at_us = wall.us + SECOND_US - 1
        else:
            self.at_us = max(self.at_us, wall.us)
        self.stamp_us = wall.us
        return self.at_us
