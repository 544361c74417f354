"""Silence ends an incident only while someone listens, and not before what was said meanwhile was read."""

from __future__ import annotations

from collections.abc import Sequence

from probes.health import ProbeHealth
from tests.support.incidents import SECOND, Node
from tests.support.records import GPU, record, xid

LOST = "GPU has fallen off the bus."
MINUTE_S = 60.0


def probe(node: Node, at_s: float, *, hears: bool, others_hear: Sequence[str] = ()) -> None:
    """The probe of the kernel log goes down, or comes back."""
    node.wait(at_s)
    health = ProbeHealth("kmsg", hears=hears, live=True, reason=None if hears else "refused", hint=None)
    at_us = round(at_s * SECOND)
    node.revisions += node.pipeline.probe_changed(
        health, boot_id=node.boot, at_us=at_us, wall_us=at_us, others_hear=others_hear
    )


def state(node: Node) -> str:
    return str(node.incident().detail["state"])


def rebooted() -> Node:
    """A GPU was lost, and the node has been rebooted since."""
    node = Node()
    node.hear(1, xid(79, LOST))
    node.restart(boot="second", now_s=20)
    return node


def test_a_reboot_is_no_cure_as_long_as_nobody_hears_whether_it_was_one() -> None:
    node = rebooted()
    probe(node, 21, hears=False)
    node.wait(100 * MINUTE_S)
    assert state(node) == "open"
    probe(node, 100 * MINUTE_S, hears=True)
    assert state(node) == "open"
    node.wait(102 * MINUTE_S)
    assert state(node) == "recovered"


def test_a_probe_that_is_down_does_not_matter_while_another_one_hears() -> None:
    node = rebooted()
    probe(node, 21, hears=False, others_hear=["bpf"])
    node.wait(15 * MINUTE_S)
    assert state(node) == "recovered"


def test_what_the_log_says_once_it_is_heard_again_comes_before_the_judgement() -> None:
    node = rebooted()
    probe(node, 21, hears=False)
    probe(node, 100 * MINUTE_S, hears=True)
    at_us = 50 * 60 * SECOND
    node.say(f"NVRM: GPU {GPU}.0: RmInitAdapter failed! (0x22:0x56:894)", at_us, boot_id="second")
    node.wait(200 * MINUTE_S)
    assert state(node) == "open"
    assert [each["rule"] for each in node.incident().detail["escalations"]] == ["survived_reboot"]


def test_after_a_restart_the_log_is_read_before_silence_is_judged() -> None:
    node = Node()
    for n in range(3):
        node.hear(1 + 7 * n, xid(31, f"pid={n}, name=train, channel 0x0000000a"))
    node.restart(now_s=1000)  # nobody lived between 15 and 1000 s
    node.hear(1000.1, xid(31, "pid=9, name=train, channel 0x0000000a"))
    node.wait(1010)
    assert (state(node), len(node.incident().detail["members"])) == ("open", 4)
    node.wait(1400)
    assert state(node) == "recovered"


def test_a_process_that_was_stopped_reads_what_waits_before_it_judges_silence() -> None:
    node = rebooted()
    late_us = 3600 * SECOND
    node.revisions += node.pipeline.tick(late_us)  # the timer of 620 s fires only now
    assert state(node) == "open"
    node.revisions += node.pipeline.feed(
        record(xid(79, LOST), 300 * SECOND, arrival_us=late_us, boot_id="second")
    )
    node.wait(2 * 3600)
    assert state(node) == "open"
    assert len(node.incidents()) == 1
