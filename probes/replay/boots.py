"""Boots and times of a saved log: which boot a line belongs to, and when it was printed.

A boot ends where the log says so (another boot id, `-- Boot … --`, `-- Reboot --`, the kernel's greeting
`Linux version`) or where kernel time steps back by more than a second. Boots that the log does not name
are called `replay-1`, `replay-2` … That another file or section begins is no sign of a reboot: its first
line belongs to a boot seen before if their times agree (`_known`), else to one of its own.

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
parts of a pstore dump, which carry kernel time alone."""

SAME_BOOT_US = 60 * SECOND_US
"""Wall time less kernel time differs by less within a boot: NTP sets the clock, suspend stops kernel time."""

SAME_BEGINNING_US = 2 * SECOND_US
"""A boot that begins so close to another one is the same, told by another log."""

GREETING = "Linux version "
"""How the kernel's first line begins."""


class Timeline:
    """Gives each line its boot, and its place in replay time. Lives as long as the replay."""

    def __init__(self, boots: list[Boot]) -> None:
        """`boots`: where each new boot is noted."""
        self._boots = boots
        self._unnamed = 0
        self._places = 0
        self._sections = 0
        self._boot: Boot | None = None
        self._before: Boot | None = None
        """The boot in which the place before ended."""
        self._ended = False
        """The log said that another boot begins, and no line of it has come yet."""
        self._next_id = ""
        """The id that it named."""
        self._by_id: dict[str, Boot] = {}
        self._reached_us: int | None = None
        """Latest kernel time of this boot in this place."""
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
        self._sections += 1
        self._before = self._boot or self._before
        self._boot = None
        self._ended = False
        self._next_id = ""
        self._reached_us = None

    def end_boot(self, boot_id: str = "") -> None:
        """The log says that another boot begins; its id may be known."""
        self._boot = self._reached_us = None
        self._ended = True
        self._next_id = boot_id

    def see(self, *, kernel_us: int | None, wall_us: int | None, boot_id: str, greets: bool) -> Boot:
        """The boot of a line."""
        boot = self._boot
        boot_id = boot_id or self._next_id
        if boot_id:
            if boot is None or self._by_id.get(boot_id) is not boot:
                boot = self._named(boot_id, kernel_us, wall_us)
        elif boot is None:
            begins = greets or self._ended
            boot = self._known(kernel_us, wall_us, begins=begins) or self._begin("", is_begun=begins)
        elif self._is_another(boot, kernel_us, greets=greets):
            self._places += 1
            self._reached_us = None
            boot = self._known(kernel_us, wall_us, begins=True) or self._begin("", is_begun=True)
        self._boot, self._ended, self._next_id = boot, False, ""
        boot.see(kernel_us, wall_us)
        if kernel_us is not None:
            self._reached_us = max(kernel_us, self._reached_us or 0)
        if kernel_us is not None and wall_us is not None:
            boot.offset_us = wall_us - kernel_us
        return boot

    def merge(self, boot: Boot, into: Boot, offset_us: int) -> None:
        """Another log shows that `boot`, of which only kernel times are known, is `into`."""
        into.absorb(boot, offset_us)
        self._boots.remove(boot)
        if self._boot is boot:
            self._boot = into
        if self._before is boot:
            self._before = into
        self._by_id = {name: into if each is boot else each for name, each in self._by_id.items()}

    def _known(self, kernel_us: int | None, wall_us: int | None, *, begins: bool) -> Boot | None:
        """The boot seen before that the first line of a place, or of a boot (`begins`), belongs to."""
        before, self._before = self._before, None
        if begins:
            return self._begun_at(wall_us)
        if kernel_us is not None and wall_us is not None:
            offset_us = wall_us - kernel_us
            found = (boot for boot in reversed(self._boots) if boot.is_offset_by(offset_us, SAME_BOOT_US))
            return next(found, None)
        if wall_us is not None:
            return self._running_at(wall_us)
        if kernel_us is None or before is None or before.last_kernel_us is None:
            return None
        return before if 0 <= kernel_us - before.last_kernel_us <= GOES_ON_WITHIN_US else None

    def _named(self, boot_id: str, kernel_us: int | None, wall_us: int | None) -> Boot:
        """The boot with that id: known by it, or told before by a log that names none, or another one."""
        boot = self._by_id.get(boot_id)
        if boot is None and wall_us is not None:
            taken = {id(each) for each in self._by_id.values()}
            boot = next(
                (
                    each
                    for each in self._boots
                    if id(each) not in taken and each.is_shown_at(kernel_us, wall_us, SAME_BEGINNING_US)
                ),
                None,
            )
        if boot is None:
            boot = self._begin(boot_id, is_begun=True)
        if boot is not self._boot:
            self._boot, self._reached_us = boot, None
        self._by_id[boot_id] = boot
        return boot

    def _begun_at(self, wall_us: int | None) -> Boot | None:
        for boot in reversed(self._boots):
            if wall_us is None or boot.first_wall_us is None or not boot.is_begun:
                continue
            if abs(boot.first_wall_us - wall_us) <= SAME_BEGINNING_US:
                return boot
        return None

    def _running_at(self, wall_us: int) -> Boot | None:
        """The last boot that began before then; one with a known id is not stretched beyond its lines."""
        begun = [
            boot
            for boot in self._boots
            if boot.first_wall_us is not None and boot.first_wall_us <= wall_us + SAME_BEGINNING_US
        ]
        boot = max(begun, key=lambda boot: boot.first_wall_us or 0, default=None)
        if boot is None or boot.last_wall_us is None:
            return None
        return None if boot.is_named and wall_us > boot.last_wall_us + GOES_ON_WITHIN_US else boot

    def _is_another(self, boot: Boot, kernel_us: int | None, *, greets: bool) -> bool:
        if kernel_us is None or self._reached_us is None:
            return greets and boot.lines > 0
        return kernel_us < self._reached_us - (0 if greets else STEP_BACK_US)

    def _begin(self, boot_id: str, *, is_begun: bool) -> Boot:
        if not boot_id:
            self._unnamed += 1
        boot = Boot(
            id=boot_id or f"replay-{self._unnamed}",
            is_named=bool(boot_id),
            source=self.source,
            section=self._sections,
            is_begun=is_begun,
        )
        self._boots.append(boot)
        self._boot, self._reached_us = boot, None
        return boot


class ReplayTime:
    """The arrival time of replayed lines: it never goes back, and boots lie a minute apart.

    Lines without kernel time are at least a microsecond apart: which came first is all that some logs say.
    """

    def __init__(self) -> None:
        self._boot: Boot | None = None
        self._place = 0
        self._base_us = 0
        self._wall_base_us: int | None = None
        self._last_us = 0
        self._seconds = _WholeSeconds()

    def of(self, boot: Boot, place: int, kernel_us: int | None, wall: WallTime) -> int:
        """Arrival time of the next line of a boot, µs."""
        if boot is not self._boot:
            self._base_us = 0 if self._boot is None else self._last_us + BETWEEN_BOOTS_US
            self._boot, self._wall_base_us, self._seconds = boot, None, _WholeSeconds()
        at_us = self._base_us + self._in_boot(boot, kernel_us, wall)
        if place != self._place and at_us < self._last_us - STEP_BACK_US:
            # Another log of the same hours: what only it tells must not fall on one moment.
            self._base_us += self._last_us + BETWEEN_BOOTS_US - at_us
            at_us = self._last_us + BETWEEN_BOOTS_US
        self._place = place
        self._last_us = max(at_us, self._last_us + (kernel_us is None))
        return self._last_us

    def _in_boot(self, boot: Boot, kernel_us: int | None, wall: WallTime) -> int:
        if kernel_us is not None:
            return kernel_us
        wall_us = self._seconds.place(wall)
        if boot.offset_us is not None and boot.first_kernel_us is not None:
            return wall_us - boot.offset_us
        if self._wall_base_us is None:
            self._wall_base_us = wall_us - max(self._last_us - self._base_us, 0)
        return wall_us - self._wall_base_us


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
