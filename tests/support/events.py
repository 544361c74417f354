"""Events as values, for tests of what shows, keeps or sends them."""

from __future__ import annotations

import dataclasses

from daemon.event import Action, Blame, Event, Gpu, Item, Kind, Process, Severity

TIME_US = 1_795_346_406_994_671
"""2026-11-22T11:20:06.994671Z."""

XID_79 = Event(
    id="ev_79",
    revision=1,
    kind=Kind.XID,
    code=79,
    name="GPU_HAS_FALLEN_OFF_THE_BUS",
    summary="GPU no longer answers on PCIe",
    severity=Severity.FATAL,
    blame=Blame.HARDWARE,
    action=Action.REBOOT_NODE,
    action_text="Reboot the node.",
    time_us=TIME_US,
    time_is_estimate=False,
    last_time_us=TIME_US,
    count=1,
    gpu=Gpu("0000:91:00.0", uuid="GPU-11111111-2222-3333-4444-555555555555", index=3),
    nvswitch=None,
    process=Process(446, "python3"),
    detail={},
    lines=("NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus.",),
    lines_dropped=0,
    origin="kernel",
    drill=False,
    witnesses=(),
    node="test-node",
    boot_id="0f1e2d3c",
    kmsg_seq=360,
)
"""A fault with everything a line can tell."""


def item(cursor: int, event: Event = XID_79, *, stored: bool = True, **changes: object) -> Item:
    """`event`, changed, at a place in the stream."""
    return Item.of(cursor, dataclasses.replace(event, **changes), stored=stored)  # type: ignore[arg-type]  # names of fields
