"""The report for programs: one JSON object, its events in the public schema of `daemon.event`."""

from __future__ import annotations

import json
from typing import Any

from daemon.event import Event, rfc3339, to_dict
from probes.replay.coverage import Boot, Coverage
from xidwatch.report.summary import Report

SCHEMA = 1


def write(report: Report) -> str:
    """One object, indented, ending with a newline. Cursors are null: a replay is no stream."""
    return json.dumps(as_dict(report), indent=1) + "\n"


def as_dict(report: Report) -> dict[str, Any]:
    """The report as a JSON object."""
    return {
        "schema": SCHEMA,
        "headline": report.headline,
        "node": report.node,
        "incidents": [_event(finding.incident) for finding in report.findings],
        "events": [_event(event) for event in report.timeline],
        "events_left_out": report.let_go,
        "devices": [
            {
                "pci": device.pci,
                "label": device.label,
                "uuid": device.uuid,
                "worst": device.worst,
                "events": device.events,
                "faults": device.faults,
                "codes": dict(device.codes),
                "first_time": rfc3339(device.first_us),
                "last_time": rfc3339(device.last_us),
            }
            for device in report.devices
        ],
        "advice": [
            {"severity": each.severity, "action": each.action, "text": each.text, "because": each.because}
            for each in report.advice
        ],
        "coverage": _coverage(report.coverage),
        "notes": list(report.notes),
    }


def _event(event: Event) -> dict[str, Any]:
    return {**to_dict(event, 0, stored=False), "cursor": None}


def _coverage(coverage: Coverage) -> dict[str, Any]:
    return {
        "first_time": _time(coverage.first_wall_us),
        "last_time": _time(coverage.last_wall_us),
        "lines": coverage.lines,
        "understood": coverage.understood,
        "not_understood": coverage.lines - coverage.understood,
        "kernel_lines": coverage.kernel,
        "driver_lines": coverage.messages,
        "unproved_lines": coverage.unproved,
        "duplicate_lines": coverage.duplicates,
        "lines_outside": coverage.outside,
        "estimated_times": coverage.estimated,
        "guessed_years": coverage.assumed.years,
        "assumed_zones": coverage.assumed.zones,
        "quoted_lines": coverage.quoted,
        "absent_records": coverage.absent,
        "lost_messages": coverage.lost,
        "hosts": coverage.hosts,
        "formats": dict(coverage.formats),
        "files": [
            {
                "name": file.name,
                "lines": file.lines,
                "understood": file.understood,
                "other_programs": file.other_programs,
                "formats": dict(file.formats),
                "problem": file.problem,
                "newest_first": file.runs_backward,
            }
            for file in coverage.files
        ],
        "boots": [_boot(boot) for boot in coverage.boots],
    }


def _boot(boot: Boot) -> dict[str, Any]:
    return {
        "id": boot.id,
        "id_is_the_kernels": boot.is_named,
        "source": boot.source,
        "times_are_of_the_file": boot.is_anchored,
        "first_time": _time(boot.first_wall_us),
        "last_time": _time(boot.last_wall_us),
        "first_kernel_us": boot.first_kernel_us,
        "last_kernel_us": boot.last_kernel_us,
        "beginning_is_missing": boot.head_is_missing,
        "lines": boot.lines,
    }


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else rfc3339(time_us)
