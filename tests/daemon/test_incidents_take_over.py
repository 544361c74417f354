"""The end of the boot before, read only after this one began, joins what is followed by then."""

from __future__ import annotations

from daemon.event import Event
from tests.support.incidents import SECOND, Node, primary, roles
from tests.support.records import GPU, OTHER_GPU, xid

LOST = "GPU has fallen off the bus."
DBE = "pid=1, name=a, An uncorrectable double bit error (DBE) has been detected"
ROW = "Row Remapper: New row (0x00000012bac1c3e0) marked for remapping, reset gpu to activate."
TIMEOUT = "Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 10 (FREE) (0x1 0x0)."
SECOND_BOOT = "99999999-2222-3333-4444-555555555555"


def first_boot(*lines: tuple[float, str]) -> Node:
    """A node that heard these lines."""
    node = Node()
    for at_s, text in lines:
        node.hear(at_s, text)
    return node


def take_over(node: Node, whole: Node, now_s: float) -> list[Event]:
    """What the node tells of what the whole log says."""
    told = list(node.pipeline.take_over(whole.pipeline.snapshot(), now_us=round(now_s * SECOND)))
    node.revisions += told
    return told


def test_a_gpu_that_failed_again_before_its_past_was_read_has_not_survived_the_reboot_unseen() -> None:
    whole = first_boot((1, xid(48, DBE)), (3, xid(79, LOST)))
    node = first_boot((1, xid(48, DBE, OTHER_GPU)))
    node.restart(boot=SECOND_BOOT, now_s=20)
    node.hear(21, f"NVRM: GPU {GPU}.0: RmInitAdapter failed! (0x22:0x56:894)")
    take_over(node, whole, 22)
    node.wait(3000)
    incident = next(each for each in node.incidents() if each.gpu and each.gpu.pci == f"{GPU}.0")
    assert incident.detail["state"] == "open"
    assert roles(incident)[0] == (48, "cause")
    assert [each["rule"] for each in incident.detail["escalations"]] == ["survived_reboot"]
    assert incident.detail["escalations"][0]["why"].startswith("RM_INIT_ADAPTER_FAILED came after")
    assert len(node.incidents()) == 2


def test_a_fault_that_already_survived_the_reboot_does_not_wait_for_quiet() -> None:
    node = first_boot((1, xid(119, f"pid=7, name=a, {TIMEOUT}")))
    whole = first_boot((1, xid(119, f"pid=7, name=a, {TIMEOUT}")), (2, xid(79, LOST)))
    node.restart(boot=SECOND_BOOT, now_s=20)
    node.hear(21, xid(119, f"pid=7, name=a, {TIMEOUT}"))
    take_over(node, whole, 22)
    node.wait(3000)
    incident = node.incident()
    assert (primary(incident), incident.detail["state"]) == (79, "open")


def test_what_is_known_already_is_not_told_again() -> None:
    node = first_boot((1, xid(119, f"pid=7, name=a, {TIMEOUT}")))
    node.wait(5)
    whole = first_boot((1, xid(119, f"pid=7, name=a, {TIMEOUT}")))
    node.restart(boot=SECOND_BOOT, now_s=20)
    node.wait(25)
    assert take_over(node, whole, 30) == []


def test_a_log_whose_beginning_is_gone_adds_to_the_incident_that_has_the_same_members() -> None:
    said = ((1.0, xid(48, DBE)), (1.5, xid(94, "Contained: SM (0x1). RST: No, D-RST: No")))
    node = first_boot(*said)
    node.wait(5)
    tail = first_boot(said[1], (2, xid(63, ROW)))
    node.restart(boot=SECOND_BOOT, now_s=20)
    take_over(node, tail, 21)
    node.wait(30)
    assert roles(node.incident()) == [(48, "cause"), (94, "consequence"), (63, "consequence")]


def test_a_place_that_failed_unheard_is_remembered() -> None:
    whole = first_boot((1, xid(63, ROW)))
    node = first_boot()
    node.restart(boot=SECOND_BOOT, now_s=20)
    take_over(node, whole, 21)
    node.hear(200, xid(63, ROW))
    node.wait(300)
    assert node.incident().detail["pattern"] == "same_memory"


def test_incidents_that_turn_out_to_be_one_of_the_whole_node_become_that_one() -> None:
    said = tuple((1.0 + n, xid(79, LOST, gpu)) for n, gpu in enumerate((GPU, OTHER_GPU, "0000:3b:00")))
    node = first_boot(*said[:2])
    node.wait(5)
    whole = first_boot(*said)
    node.restart(boot=SECOND_BOOT, now_s=20)
    take_over(node, whole, 21)
    node.wait(30)
    incident = node.incident()
    assert (incident.detail["pattern"], len(incident.detail["members"])) == ("many_gpus", 3)
    node.wait(900)
    assert node.incident().detail["recovered_by"]["how"] == "reboot"
