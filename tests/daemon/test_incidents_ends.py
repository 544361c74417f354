"""What an incident waits for, and that silence does not repair hardware."""

from __future__ import annotations

from tests.support.incidents import Node, primary, roles
from tests.support.records import GPU, xid

CONTAINED = "pid=7, name=a, Contained: SM (0x1). RST: No, D-RST: No"
LOST = "GPU has fallen off the bus."
LOADED = "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build"
GONE = (
    f"NVRM: The NVIDIA GPU {GPU}.0\nNVRM: (PCI ID: 10de:2330) installed in this system has\n"
    "NVRM: fallen off the bus and is not responding to commands."
)
HOUR_S = 3600.0


def test_a_contained_memory_error_has_not_recovered_because_it_is_quiet() -> None:
    node = Node()
    node.hear(1, xid(94, CONTAINED))
    node.wait(HOUR_S)
    incident = node.incident()
    assert (incident.detail["state"], incident.action) == ("open", "restart_app")
    assert incident.detail["waiting_for"].endswith("24 hours of quiet")
    node.wait(30 * HOUR_S)
    [closed] = [event for event in node.events() if event.id == incident.id]
    assert closed.detail["recovered_by"]["how"] == "not_heard_again"


def test_a_fault_of_a_switch_does_not_wait_for_what_only_a_gpu_says() -> None:
    node = Node()
    node.hear(1, "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up")
    node.wait(5)
    assert node.incident().detail["waiting_for"] == "a reload of the driver, or a reboot"


def test_a_gpu_lost_again_after_a_reload_came_back_under_whatever_name() -> None:
    node = Node()
    node.hear(1, xid(79, LOST))
    node.hear(100, LOADED)
    node.hear(101, GONE)
    node.hear(101.1, "NVRM: The NVIDIA probe routine failed for 1 device(s).")
    node.wait(110)
    first, second = node.incidents()
    assert (primary(first), primary(second)) == (79, "gpu_lost")
    assert [each["rule"] for each in second.detail["escalations"]] == ["came_back"]
    assert {each.detail["blast_radius"]["scope"] for each in (first, second)} == {"gpu"}


def test_a_row_that_could_not_be_recorded_belongs_with_the_one_that_was() -> None:
    node = Node()
    node.hear(1, xid(63, "Row Remapper: New row (0x00000012bac1c3e0) marked for remapping"))
    node.hear(20, xid(64, "Row Remapper: Error writing row (0x00000012bac1c3e0)"))
    node.wait(30)
    assert roles(node.incident()) == [(63, "related"), (64, "cause")]
