"""Events to publish in tests."""

from __future__ import annotations

import time
from dataclasses import replace

from daemon.event import Action, Blame, Event, Gpu, Kind, Process, Severity, Witness

GPU_UUID = "GPU-8f1c3d9a-0000-1111-2222-333344445555"
FELL_OFF = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."

STATUS = {
    "version": "0.0.test",
    "node": "gpu-17",
    "boot_id": "b0071d",
    "started": "2026-11-22T10:00:00.000000Z",
    "uptime_s": 12.5,
    "mode": "read-only",
    "drills_allowed": False,
    "driver_version": "580.159.04",
    "probes": [
        {
            "name": "kmsg",
            "hears": True,
            "live": True,
            "reason": None,
            "hint": None,
            "counters": {"records": 7},
        }
    ],
    "unavailable": [{"part": "ebpf", "reason": "not part of this version"}],
    "journal": {"state": "ok", "reason": None},
    "newest_cursor": 0,
    "oldest_cursor": 0,
    "counters": {"lines": 7},
}
"""The daemon's status object, as far as its schema names it."""


def xid(code: int = 79, *, number: int = 1, severity: Severity = Severity.FATAL, pid: int = 446) -> Event:
    """A plain Xid event; events with different `number` are different faults."""
    now_us = int(time.time() * 1e6)
    return Event(
        id=f"ev_{code}_{number}",
        revision=1,
        kind=Kind.XID,
        code=code,
        name="GPU_HAS_FALLEN_OFF_THE_BUS",
        summary="GPU no longer answers on PCIe",
        severity=severity,
        blame=Blame.HARDWARE,
        action=Action.REBOOT_NODE,
        action_text="Drain the node and reboot it.",
        time_us=now_us,
        time_is_estimate=False,
        last_time_us=now_us,
        count=1,
        gpu=Gpu(pci="0000:91:00.0", uuid=GPU_UUID, index=3),
        nvswitch=None,
        process=Process(pid=pid, name="python3"),
        detail={},
        lines=(FELL_OFF,),
        lines_dropped=0,
        origin="kernel",
        drill=False,
        witnesses=(Witness("kmsg", 0),),
        node="gpu-17",
        boot_id="b0071d",
        kmsg_seq=number,
    )


def revised(event: Event, *, count: int) -> Event:
    """The next revision of an event that was repeated."""
    return replace(event, revision=event.revision + 1, count=count)
