"""Real incidents, as the pipeline makes them of lines, to publish in tests."""

from __future__ import annotations

from daemon.event import Event
from tests.support.incidents import Node
from tests.support.records import OTHER_GPU, xid

DBE = "pid=1, name=a, An uncorrectable double bit error (DBE) has been detected"
ROW = "Row Remapper: New row (0x00000012bac1c3e0) marked for remapping, reset gpu to activate."
FAULT = "Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ 0x7f3a_00000000."

PAGE_FAULT_EVENTS = 2
"""Events of `page_fault` beside the incident."""


def memory_error() -> list[Event]:
    """48, 63 and 45 on one GPU, then their open incident."""
    node = Node()
    node.hear(1.0, xid(48, DBE))
    node.hear(1.008, xid(63, ROW))
    node.hear(2.0, xid(45, "pid=1, name=a, Ch 00000008"))
    node.wait(5)
    return [*node.faults(), node.incident()]


def page_fault(*, name: str = "a.out", is_over: bool = False) -> list[Event]:
    """31 and 43 of a program on another GPU, then its incident; quiet ends it when it `is_over`."""
    node = Node()
    node.hear(1.0, xid(31, f"pid=77, name={name}, {FAULT}", gpu=OTHER_GPU))
    node.hear(1.5, xid(43, f"pid=77, name={name}, Ch 00000008", gpu=OTHER_GPU))
    node.wait(900 if is_over else 5)
    return [*node.faults(), node.incident()]
