"""When faults that come again mean more than each of them: the table of escalations.

Each row says what must come together, within which time, and what follows from it. Times are wall
clock: most of these spans outlive a boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.event import Action, Blame
from daemon.incidents.member import Member
from daemon.incidents.memory import SIGHTINGS_OF_A_SORT, Sighting
from daemon.incidents.outcome import Escalation
from daemon.incidents.signs import LOST

MINUTE_S, DAY_S = 60, 86_400

MANY_GPUS = "many_gpus"
"""Pattern of an incident of the whole node."""
OF_PROGRAMS = frozenset({"same_sm", "many_programs", "crash_loop"})
"""Patterns of programs' errors: further ones on the same GPU belong to them."""
CAME_BACK = "came_back"
SURVIVED_REBOOT = "survived_reboot"
WENT_ON = "went_on"

GPUS_AT_ONCE = 3
"""The same code on so many GPUs at once is no fault of one GPU; fewer if the node has fewer."""
AT_ONCE_US = 10_000_000
"""Kernel time: within so much of each other counts as at once."""
PROGRAMS_US = 10 * MINUTE_S * 1_000_000
"""Kernel time: programs' errors of one GPU this close together count as one matter."""
CAME_BACK_US = DAY_S * 1_000_000


@dataclass(frozen=True, slots=True)
class Pattern:
    """One row: faults at one place of one device."""

    name: str
    sorts: frozenset[str]
    """Kinds of place that it looks at (`daemon.incidents.memory.Sighting.sort`)."""
    within_s: int
    why: str
    """Half a sentence; `{place}`, `{times}`, `{processes}`, `{programs}` and `{program}` (the newest one's
    name) are filled in."""
    source: str
    times: int = 1
    """Least number of times, counted once in `apart_s`."""
    apart_s: int = 0
    processes: int = 0
    """Least number of distinct pids."""
    programs: int = 0
    """Least number of distinct process names."""
    only_one_program: bool = False
    share: float = 0.0
    """Least share of this place among all places of its kind on the device."""
    blame: Blame | None = None
    action: Action | None = None
    action_text: str | None = None


PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        "same_sm",
        frozenset({"sm"}),
        within_s=7 * DAY_S,
        processes=3,
        programs=2,
        share=0.5,
        why="{processes} processes of {programs} programs failed on the same {place}",
        source="NVIDIA Xid catalogue: 13 on the same GPC and TPC points to the GPU. A small kernel always "
        "runs on the same SM, so one program alone proves nothing (seen on an H200)",
        blame=Blame.HARDWARE,
        action=Action.RUN_DIAGNOSTICS,
        action_text="Take the GPU out of use and test it (dcgmi diag -r 3): one SM fails several programs.",
    ),
    Pattern(
        "same_memory",
        frozenset({"row", "page", "address"}),
        within_s=30 * DAY_S,
        times=2,
        apart_s=MINUTE_S,
        why="the same {place} failed {times} times within 30 days",
        source="NVIDIA GPU Memory Error Management: a remapped row is not used again after the reset",
        blame=Blame.HARDWARE,
        action=Action.RUN_DIAGNOSTICS,
        action_text="Reset the GPU if it was not reset since; if the same place fails after a reset, have "
        "the GPU replaced.",
    ),
    Pattern(
        "same_link",
        frozenset({"link"}),
        within_s=7 * DAY_S,
        times=2,
        apart_s=10 * MINUTE_S,
        why="the same NVLink ({place}) failed {times} times within 7 days",
        source="NVIDIA Xid catalogue: 74: check the link mechanically if it repeats on the same link",
        blame=Blame.FABRIC,
        action=Action.CHECK_MECHANICAL,
        action_text="Check this link at both ends; have GPU or baseboard replaced if it goes on.",
    ),
    Pattern(
        "many_programs",
        frozenset({"program"}),
        within_s=PROGRAMS_US // 1_000_000,
        processes=3,
        programs=2,
        why="{processes} processes of {programs} programs failed on this GPU within 10 minutes",
        source="NVIDIA Xid catalogue: 13, 31: suspect the GPU if many programs fail on it",
        blame=Blame.UNKNOWN,
        action=Action.RUN_DIAGNOSTICS,
        action_text="Several programs fail on this GPU: move them elsewhere; if they run there, test "
        "this GPU (dcgmi diag -r 3).",
    ),
    Pattern(
        "crash_loop",
        frozenset({"program"}),
        within_s=PROGRAMS_US // 1_000_000,
        processes=3,
        programs=1,
        only_one_program=True,
        why="{processes} processes named {program} failed within 10 minutes",
        source="our judgement: a program that is restarted and fails again is at fault itself",
        blame=Blame.APPLICATION,
        action=Action.RESTART_APP,
        action_text="Fix the program: a restart alone does not help (compute-sanitizer finds the access). "
        "If it runs on another GPU, test this one.",
    ),
)
"""The whole table; of several that hold for the same kind of place, the first is told."""


def found_in(seen: Sequence[Sighting], newest: Sighting) -> Escalation | None:
    """The pattern that the newest sighting completes, or goes on with."""
    for pattern in PATTERNS:
        if newest.sort in pattern.sorts:
            found = _look(pattern, seen, newest)
            if found is not None:
                return found
    return None


def _look(pattern: Pattern, seen: Sequence[Sighting], newest: Sighting) -> Escalation | None:
    recent = [
        each
        for each in seen
        if each.sort == newest.sort and 0 <= newest.time_us - each.time_us <= pattern.within_s * 1_000_000
    ]
    here = [each for each in recent if each.place == newest.place]
    processes = {each.pid for each in here if each.pid is not None}
    named = [each for each in here if each.pid is not None and each.process is not None]
    programs = {each.process for each in named}
    if pattern.only_one_program:
        processes = {each.pid for each in named if each.pid is not None}
    times = _times(here, pattern.apart_s)
    may_be_more = len(recent) >= SIGHTINGS_OF_A_SORT  # older ones may have been forgotten
    if (
        len(processes) < pattern.processes
        or len(programs) < pattern.programs
        or (pattern.only_one_program and programs != {newest.process})
        or times < pattern.times
        or len(here) < pattern.share * len(recent)
    ):
        return None
    why = pattern.why.format(
        place=_in_words(newest.place),
        times=times,
        processes=f"at least {len(processes)}" if may_be_more else len(processes),
        programs=len(programs),
        program=newest.process,
    )
    earlier = tuple(dict.fromkeys(each.event for each in here if each.event != newest.event))
    return Escalation(
        rule=pattern.name,
        why=why,
        time_us=newest.time_us,
        blame=pattern.blame,
        action=pattern.action,
        action_text=pattern.action_text,
        related=earlier[-MAX_RELATED:],
    )


MAX_RELATED = 8


def _times(sightings: Sequence[Sighting], apart_s: int) -> int:
    """How many times, where what is closer together than `apart_s` counts once."""
    count, last = 0, None
    for each in sorted(sightings, key=lambda sighting: sighting.time_us):
        if last is None or each.time_us - last >= apart_s * 1_000_000:
            count += 1
            last = each.time_us
    return count


def _in_words(place: str) -> str:
    sort, _, where = place.partition(" ")
    if sort == "sm":
        gpc, tpc, sm = where.split("/")
        return f"SM (GPC {gpc}, TPC {tpc}, SM {sm})"
    return f"{sort} {where}"


def recovery_of(fault: Member) -> str:
    """The place under which it is remembered that this fault had recovered; the two ways of telling that
    a GPU is lost have one."""
    return f"recovered {'loss of the GPU' if fault.sign in LOST else fault.label}"


def came_back(seen: Sequence[Sighting], fault: Member) -> Escalation | None:
    """The same fault within a day of its recovery."""
    place, now_us = recovery_of(fault), fault.event.time_us
    earlier = [each for each in seen if each.place == place and 0 <= now_us - each.time_us <= CAME_BACK_US]
    if not earlier:
        return None
    minutes = max(1, round((now_us - max(each.time_us for each in earlier)) / 60e6))
    after = f"{minutes} min" if minutes < 2 * 60 else f"{round(minutes / 60)} h"
    return Escalation(
        rule=CAME_BACK,
        why=f"it came back {after} later, although it had recovered",
        time_us=now_us,
        action_text="It came back after a recovery: test the GPU, and have it replaced if it fails again.",
        related=tuple(each.event for each in earlier[-MAX_RELATED:]),
    )


def survived_reboot(fault: Member) -> Escalation:
    """A serious fault of the same device soon after the node was rebooted."""
    return Escalation(
        rule=SURVIVED_REBOOT,
        why=f"{fault.label} came after the reboot: that did not cure the device",
        time_us=fault.event.time_us,
        action_text="A reboot did not help: take the device out of use, and have it tested or replaced.",
    )


def gpus_needed(known: int, *, is_of_link: bool) -> int:
    """On how many GPUs at once the same fault is a matter of the node, on a node of `known` GPUs
    (0: unknown). A node of one GPU cannot tell; two GPUs may just be the two ends of a link."""
    return GPUS_AT_ONCE if is_of_link or known < 2 else min(GPUS_AT_ONCE, known)


def at_once(label: str, gpus: int, known: int, time_us: int, blame: Blame, *, is_of_link: bool) -> Escalation:
    """The same fault on several GPUs of the node at once. A fault of links acquits none of the GPUs: one
    that fails is reported by all the others."""
    of = f"{gpus} of {known} GPUs" if known >= gpus else f"{gpus} GPUs"
    if is_of_link:
        points_to = "look for the GPU, switch or fabric manager that these links share"
        share = "Find what these links share: one GPU, an NVSwitch, the fabric manager."
    else:
        points_to = "not the fault of one GPU"
        share = "Look for what these GPUs share: one job, the driver, the fabric, power, a PCIe switch."
    return Escalation(
        rule=MANY_GPUS,
        why=f"{label} on {of} within seconds: {points_to}",
        time_us=time_us,
        blame=Blame.UNKNOWN if blame is Blame.HARDWARE else blame,
        action_text=share,
    )
