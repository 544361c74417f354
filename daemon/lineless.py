"""Faults that begin without a line of the log: what NVML tells, what befalls the daemon, what is done to the
node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daemon.codes import Meaning
from daemon.event import Event, Gpu, Process, Witness, event_id
from daemon.fault import OpenFault, Slot, Sufferer
from probes.line import Origin


def opened(
    slot: Slot,
    means: Meaning,
    *,
    identity: str,
    witness: str,
    at_us: int,
    wall_us: int,
    detail: Mapping[str, Any],
    node: str,
    driver_version: str | None,
    code: int | None = None,
    gpu: Gpu | None = None,
    process: Process | None = None,
) -> OpenFault:
    """The open fault that the first report of `witness` becomes.

    `identity` tells it from others of the same boot and arrival time `at_us` (µs of CLOCK_MONOTONIC);
    `wall_us` is the same moment by the wall clock, µs since the Unix epoch.
    """
    event = Event(
        id=event_id(slot.boot_id, at_us, identity),
        revision=0,
        kind=slot.kind,
        code=code,
        name=means.name,
        summary=means.summary,
        severity=means.severity,
        blame=means.blame,
        action=means.action,
        action_text=means.action_text,
        time_us=wall_us,
        time_is_estimate=False,
        last_time_us=wall_us,
        count=1,
        gpu=gpu,
        nvswitch=None,
        process=process,
        detail=detail,
        lines=(),
        lines_dropped=0,
        origin=Origin.KERNEL,
        drill=False,
        witnesses=(Witness(witness, 0),),
        node=node,
        boot_id=slot.boot_id,
        kmsg_seq=None,
        driver_version=driver_version,
    )
    return OpenFault(
        slot=slot,
        sufferer=Sufferer(gpu.mig if gpu is not None else None, None),
        event=event,
        count=1,
        began_us=at_us,
        last_us=at_us,
        last_time_us=wall_us,
        last_arrival_us=at_us,
        lines=[],
        detail=dict(detail),
        witnesses=event.witnesses,
        process=process,
    )
