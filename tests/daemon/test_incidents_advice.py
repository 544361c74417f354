"""What an incident says is to be done, where the driver's advice (Xid 154) meets the cause."""

from __future__ import annotations

import pytest

from daemon.catalog import lookup
from daemon.event import Kind
from tests.support.incidents import Node
from tests.support.records import xid

RESET = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
REBOOT = "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
TIMEOUT = (
    "pid=7, name=a, Timeout after 45s of waiting for RPC response from GPU3 GSP! Expected function 76 "
    "(GSP_RM_CONTROL) (0xa06f0112 0x1)."
)


@pytest.mark.parametrize(
    ("code", "rest", "advice"), [(119, TIMEOUT, RESET), (79, "GPU has fallen off the bus.", REBOOT)]
)
def test_where_the_advice_is_what_the_cause_asks_for_the_cause_knows_more(
    code: int, rest: str, advice: str
) -> None:
    node = Node()
    node.hear(1, xid(code, rest))
    node.hear(2, xid(154, advice))
    node.wait(5)
    cause = lookup(Kind.XID, code)
    assert cause is not None
    assert node.incident().action is cause.action
    assert node.incident().action_text == cause.action_text


def test_advice_that_goes_further_than_the_cause_is_told() -> None:
    node = Node()
    node.hear(1, xid(119, TIMEOUT))
    node.hear(2, xid(154, REBOOT))
    node.wait(5)
    assert node.incident().action == "reboot_node"
    assert "reboot" in node.incident().action_text


def test_after_a_reboot_it_does_not_ask_for_another_one_unless_the_fault_is_still_there() -> None:
    node = Node()
    node.hear(1, xid(79, "GPU has fallen off the bus."))
    node.restart(boot="second", now_s=20)
    node.wait(30)
    assert (node.incident().detail["state"], node.incident().action) == ("open", "ignore")
    assert "the node was rebooted since. It called for: Drain and reboot" in node.incident().action_text
    node.hear(40, "NVRM: GPU 0000:91:00.0: RmInitAdapter failed! (0x22:0x56:894)")
    node.wait(50)
    assert node.incident().action == "reboot_node"
