"""Whether a line that eBPF heard is one that the log shows: by its text, and by when it was printed."""

from __future__ import annotations

from dataclasses import replace

from daemon.fragment import is_fragment, place_of
from probes.kmsg import NAME as KMSG
from probes.line import KernelLine, Origin


def stamp_of(line: KernelLine) -> int:
    """When eBPF heard it printed, by CLOCK_MONOTONIC."""
    if line.printed_us is not None:
        return line.printed_us
    return line.arrival_us if line.kernel_us is None else line.kernel_us


def first_line(text: str) -> str:
    """syslog(2) shows the lines of a record one by one, and the first one has its identity."""
    return text.partition("\n")[0]


def apart(one_us: int | None, other_us: int | None) -> int:
    """How far apart two times are; 0 where one is not known, so that only the order counts."""
    return 0 if one_us is None or other_us is None else abs(one_us - other_us)


def distance(expected_us: int | None, told_us: int | None, sure_us: int) -> tuple[bool, int]:
    """Sorts lines of the log by how likely each is the one that eBPF heard at `expected_us`, likeliest first.

    The log stamps a line before eBPF hears it. Where the two stamps are further apart than `sure_us`, a CPU
    stood still in between: a line that the log stamped later is an equal line that came after this one.
    """
    is_later = expected_us is not None and told_us is not None and told_us > expected_us + sure_us
    return is_later, apart(expected_us, told_us)


def may_be_same(heard: KernelLine, told: KernelLine) -> bool:
    """True when what eBPF heard can be this line of the log, or the fragment that tells of its fault."""
    return not contradict(heard, told) and (is_whole(heard, told) or is_fragment_of(heard, told))


def contradict(heard: KernelLine, told: KernelLine) -> bool:
    """True when both say who printed the line, and not the same: then there are two lines."""
    return Origin.UNKNOWN not in (heard.origin, told.origin) and heard.origin is not told.origin


def is_whole(heard: KernelLine, told: KernelLine) -> bool:
    """True when both are all of one record, of which syslog(2) shows the first line by itself."""
    if told.probe == KMSG:
        return heard.text == told.text
    return first_line(heard.text) == first_line(told.text)


def is_fragment_of(heard: KernelLine, told: KernelLine) -> bool:
    """True when what eBPF heard may be a fragment of this record, the one that tells of its fault.

    Never where a process began the record: what the kernel put behind it would be taken for that process's.
    """
    if told.origin is Origin.USERSPACE:
        return False
    return is_fragment(heard.text if told.probe == KMSG else first_line(heard.text), told.text)


def is_unproved(told: KernelLine) -> bool:
    """True for a line of the log that does not show who printed what it tells."""
    is_behind = told.origin is Origin.KERNEL and place_of(told.text) > 0
    return told.origin is Origin.UNKNOWN or is_behind


def as_logged(heard: KernelLine, told: KernelLine) -> KernelLine:
    """What eBPF heard, under the identity that the log gives it."""
    return replace(heard, text=told.text, origin=told.origin, kernel_us=told.kernel_us, seq=told.seq)
