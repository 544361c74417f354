"""What limits a report, in sentences: what is missing from the logs, what was guessed, what not believed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import tzinfo

from probes.replay.coverage import Coverage

_MOST_BOOTS = 8


def notes(coverage: Coverage, *, forged: int, let_go: int, zone: tzinfo) -> list[str]:
    """Every limit that applies, weightiest first."""
    return [
        *_of_files(coverage),
        *_of_belief(coverage, forged),
        *_of_times(coverage, zone),
        *_of_reach(coverage, let_go),
    ]


def _of_files(coverage: Coverage) -> Iterator[str]:
    for file in coverage.files:
        if file.problem is not None:
            part = "was read only in part" if file.lines else "was not read"
            hint = f" ({file.hint})" if file.hint else ""
            yield f"{file.name} {part}: {file.problem}{hint}."


def _of_belief(coverage: Coverage, forged: int) -> Iterator[str]:
    if forged:
        yield (
            f"{forged:,} lines look like the driver's but were written by a user process: "
            "they are not believed. --allow-drills shows them, marked as drills."
        )
    if coverage.unproved:
        yield (
            f"{coverage.unproved:,} of the driver's {coverage.messages:,} lines do not show who printed "
            "them, and are taken at their word: origin `unknown`. "
            "`dmesg -x` and `journalctl -k -o json` show it."
        )


def _of_times(coverage: Coverage, zone: tzinfo) -> Iterator[str]:
    assumed = coverage.assumed
    if coverage.estimated:
        yield f"Times marked ~ are estimates ({coverage.estimated:,} lines)."
    if any(boot.offset_us is not None for boot in coverage.boots) and coverage.estimated:
        yield (
            "Where a log has only the time since boot, its last line is taken to be as old as the file: "
            "real times may be earlier, the time between two lines is right."
        )
    if assumed.years:
        yield "Times without a year are taken to be the latest possible; --year says otherwise."
    if assumed.zones:
        yield f"Times without a zone are read as {zone}; --timezone or --utc-offset says otherwise."
    if assumed.unreadable:
        yield f"{assumed.unreadable:,} times could not be read; the time of the line before stands in."


def _of_reach(coverage: Coverage, let_go: int) -> Iterator[str]:
    cut = [boot for boot in coverage.boots if boot.head_is_missing]
    for boot in cut[:_MOST_BOOTS]:
        assert boot.first_kernel_us is not None
        yield (
            f"Boot {boot.id} ({boot.source}) begins {boot.first_kernel_us / 1e6:,.0f} s after the kernel's "
            "start: what was printed before is not in the log."
        )
    if len(cut) > _MOST_BOOTS:
        yield f"{len(cut) - _MOST_BOOTS:,} more boots lack their beginning."
    if coverage.duplicates:
        yield f"{coverage.duplicates:,} of the driver's lines stood in more than one place and count once."
    if coverage.outside:
        yield f"{coverage.outside:,} of the driver's lines lie outside the time asked for."
    if let_go:
        yield f"{let_go:,} events, the mildest and oldest, are beyond what a report keeps and were left out."
