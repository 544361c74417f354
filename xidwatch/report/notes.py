"""What limits a report, in sentences: what is missing from the logs, what was guessed, what not believed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import tzinfo

from probes.replay.coverage import Coverage
from xidwatch.report.summary import counted

_MOST_BOOTS = 8
_MOST_NAMED = 6


def notes(coverage: Coverage, *, forged: int, let_go: int, zone: tzinfo) -> list[str]:
    """Every limit that applies, weightiest first."""
    return [
        *_of_files(coverage),
        *_of_order(coverage),
        *_of_machines(coverage),
        *_of_losses(coverage),
        *_of_belief(coverage, forged),
        *_of_times(coverage, zone),
        *_of_reach(coverage, let_go),
    ]


def _of_files(coverage: Coverage) -> Iterator[str]:
    for file in coverage.files:
        if file.problem is not None:
            part = "was read only in part" if file.kernel else "gave nothing"
            hint = f" ({file.hint})" if file.hint else ""
            yield f"{file.name} {part}: {file.problem}{hint}."


def _of_order(coverage: Coverage) -> Iterator[str]:
    for file in coverage.files:
        if file.runs_backward:
            yield (
                f"The newest line of {file.name} stands first (journalctl -r): what belongs together was not "
                "seen in its order. Replay it the other way round: tac FILE | xidwatch replay -"
            )


def _of_machines(coverage: Coverage) -> Iterator[str]:
    if len(coverage.hosts) > 1:
        named = ", ".join(coverage.hosts[:_MOST_NAMED])
        yield (
            f"Lines of {len(coverage.hosts):,} hosts ({named}) were read as if of one machine: GPUs of the "
            "same address are mixed up. Replay one host at a time: grep -w HOST FILE | xidwatch replay -"
        )


def _of_losses(coverage: Coverage) -> Iterator[str]:
    if coverage.lost:
        yield f"The log says that it lost {coverage.lost:,} messages or more, so there may be more faults."
    if coverage.absent:
        yield (
            f"By their sequence numbers {counted(coverage.absent, 'record')} of the kernel's log are not in "
            "the files, lost or left out: there may have been more faults."
        )


def _of_belief(coverage: Coverage, forged: int) -> Iterator[str]:
    if forged:
        yield (
            f"Not believed: {counted(forged, 'line')} that look like the driver's but were written by a user "
            "process. --allow-drills shows test lines, marked as drills."
        )
    if coverage.quoted:
        yield (
            f"Not believed: {counted(coverage.quoted, 'line')} that hold what the driver prints for a fault, "
            "but are another program's or in no format known here."
        )
    if coverage.unproved:
        yield (
            f"{coverage.unproved:,} of {counted(coverage.messages, 'line')} of the driver were taken at "
            "their word (origin `unknown`), for their formats do not show who printed them; `dmesg -x` and "
            "`journalctl -k -o json` do."
        )


def _of_times(coverage: Coverage, zone: tzinfo) -> Iterator[str]:
    assumed = coverage.assumed
    if coverage.estimated:
        yield f"Times marked ~ are estimates ({counted(coverage.estimated, 'line')})."
    if any(boot.is_anchored for boot in coverage.boots):
        yield (
            "Where a log has only the time since boot, its last line is taken to be as old as the file: "
            "real times may be earlier, the time between two lines is right."
        )
    if assumed.years:
        yield "Times without a year are taken to be the latest possible; --year says otherwise."
    if assumed.zones:
        yield f"Times without a zone are read as {zone}; --timezone or --utc-offset says otherwise."
    if assumed.unreadable:
        yield f"{counted(assumed.unreadable, 'time')} could not be read; the line before stands in."


def _of_reach(coverage: Coverage, let_go: int) -> Iterator[str]:
    cut = [boot for boot in coverage.boots if boot.head_is_missing]
    for boot in cut[:_MOST_BOOTS]:
        assert boot.first_kernel_us is not None
        yield (
            f"Boot {boot.id} ({boot.source}) begins {boot.first_kernel_us / 1e6:,.0f} s after the kernel's "
            "start: what was printed before is not in the log."
        )
    if len(cut) > _MOST_BOOTS:
        yield f"{counted(len(cut) - _MOST_BOOTS, 'more boot')} begin late as well."
    if coverage.duplicates:
        yield f"Counted once: {counted(coverage.duplicates, 'line')} of the driver that stood elsewhere too."
    if coverage.outside:
        yield f"Outside the time asked for: {counted(coverage.outside, 'line')} of the driver."
    if let_go:
        yield f"Left out, the mildest and oldest: {counted(let_go, 'event')} beyond what a report keeps."
