"""Which of several faults is told as the cause, and which fault is a matter of its own."""

from __future__ import annotations

from daemon.event import Blame
from tests.support.incidents import Node, primary, roles
from tests.support.records import GPU, OTHER_GPU, xid

LOST = "GPU has fallen off the bus."
DBE = "pid=1, name=a, An uncorrectable double bit error (DBE) has been detected"
TIMEOUT = "Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 10 (FREE) (0x1 0x0)."
NVLINK = "pid=<unknown>, name=<unknown>, NVLink: fatal error detected on link 6(0x10000, 0x0, 0x0)"


def program_error(node: Node, at_s: float, pid: int) -> None:
    """An Xid 13 of one process."""
    node.hear(at_s, xid(13, "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address"))
    node.hear(at_s + 0.003, xid(13, f"pid={pid}, name=a, Graphics Exception: channel 0x0000000a"))


class TestProgramAndMemory:
    def test_a_programs_error_before_a_memory_error_is_not_its_cause(self) -> None:
        node = Node()
        program_error(node, 1, pid=1)
        node.hear(2, xid(48, DBE))
        node.hear(2.1, xid(43, "pid=1, name=a, channel 0x0000000a"))
        node.wait(10)
        incident = node.incident()
        assert (primary(incident), incident.blame) == (48, Blame.HARDWARE)
        assert roles(incident) == [(13, "related"), (48, "cause"), (43, "consequence")]
        first = incident.detail["alternatives"][0]
        assert (first["code"], first["why_not"][:24]) == (13, "printed 1 s before Xid 4")

    def test_the_channel_that_another_process_lost_by_its_own_error_is_no_part_of_a_memory_error(
        self,
    ) -> None:
        node = Node()
        program_error(node, 1, pid=5)
        node.hear(2, xid(48, DBE))
        node.hear(2.1, xid(43, "pid=5, name=b, channel 0x0000000a"))
        node.wait(10)
        assert [roles(incident) for incident in node.incidents()] == [
            [(48, "cause")],
            [(13, "cause"), (43, "consequence")],
        ]

    def test_what_explains_a_member_best_is_told_even_if_it_joined_later(self) -> None:
        node = Node()
        program_error(node, 1, pid=1)
        node.hear(2, xid(48, DBE))
        node.hear(2.1, xid(43, "pid=1, name=a, channel 0x0000000a"))
        node.wait(10)
        lost_channel = node.incident().detail["members"][2]
        assert lost_channel["why"] == "the process lost its GPU channel through its own error"


class TestOneGpu:
    def test_a_loss_a_minute_after_a_silent_firmware_belongs_to_it_and_neither_is_said_to_follow(
        self,
    ) -> None:
        node = Node()
        node.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        node.hear(61, xid(79, LOST))
        node.wait(70)
        incident = node.incident()
        assert roles(incident) == [(119, "cause"), (79, "related")]
        assert "nothing in the log says which" in incident.detail["alternatives"][0]["why_not"]

    def test_the_firmware_falls_silent_after_its_power_unit_halted(self) -> None:
        node = Node()
        node.hear(1, xid(62, "0x1234 0x0"))
        node.hear(21, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        node.wait(30)
        assert roles(node.incident()) == [(62, "cause"), (119, "consequence")]

    def test_a_refused_peer_access_explains_the_lost_channel(self) -> None:
        node = Node()
        node.hear(1, xid(137, "pid=9, name=a, NVLink: remote access refused"))
        node.hear(1.1, xid(43, "pid=9, name=a, channel 0x00000001"))
        node.wait(10)
        assert roles(node.incident()) == [(137, "cause"), (43, "consequence")]


class TestTwoGpus:
    def test_a_process_that_dies_of_one_gpu_is_cleaned_up_on_its_others(self) -> None:
        node = Node()
        node.hear(1, xid(79, f"pid=10, name=train, {LOST}"))
        node.hear(1.5, xid(45, "pid=10, name=train, Ch 00000001", OTHER_GPU))
        node.hear(1.6, xid(45, "pid=10, name=train, Ch 00000001"))
        node.wait(10)
        incident = node.incident()
        assert roles(incident) == [(79, "cause"), (45, "consequence"), (45, "consequence")]
        assert incident.detail["blast_radius"]["scope"] == "gpu"
        assert incident.detail["blast_radius"]["gpus"] == [f"{GPU}.0", f"{OTHER_GPU}.0"]

    def test_the_clean_up_elsewhere_is_found_through_the_one_on_the_lost_gpu(self) -> None:
        node = Node()
        node.hear(1, xid(79, LOST))
        node.hear(1.5, xid(45, "pid=10, name=train, Ch 00000001", OTHER_GPU))
        node.hear(1.6, xid(45, "pid=10, name=train, Ch 00000001"))
        node.wait(10)
        assert primary(node.incident()) == 79
        assert node.loose() == []

    def test_another_process_on_another_gpu_stays_apart(self) -> None:
        node = Node()
        node.hear(1, xid(79, f"pid=10, name=train, {LOST}"))
        node.hear(1.5, xid(45, "pid=11, name=train, Ch 00000001", OTHER_GPU))
        node.wait(10)
        assert node.loose() == [45]

    def test_a_link_that_cannot_be_trained_is_told_at_both_ends(self) -> None:
        node = Node()
        node.hear(1, xid(136, "NVLink: Link training failed for link 3"))
        node.hear(2, xid(136, "NVLink: Link training failed for link 3", OTHER_GPU))
        node.wait(10)
        assert len(node.incident().detail["members"]) == 2
