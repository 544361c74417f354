"""Incidents from sequences as the driver prints them: the primary cause, what follows, and the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.event import Action, Blame, Kind, Severity, from_dict, to_dict
from probes.line import Origin
from tests.support.incidents import HOUR, MINUTE, SECOND, Node, primary, roles
from tests.support.records import GPU, OTHER_GPU, xid

THIRD_GPU, FOURTH_GPU = "0000:3b:00", "0000:5d:00"
LOST = "GPU has fallen off the bus."
DBE = "pid=1, name=a, An uncorrectable double bit error (DBE) has been detected"
ROW = "Row Remapper: New row (0x00000012bac1c3e0) marked for remapping, reset gpu to activate."
CONTAINED = "Contained: SM (0x1). RST: No, D-RST: No"
TO_RESET = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
TO_NONE = "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"
TIMEOUT = "Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 10 (FREE) (0x1 0x0)."
GSP_CRASH = "GSP task exception: memory fault (cause:0x5) @ pc:0x1234"
LOADED = "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build"
CHANNEL = "channel 0x0000000a"
SM_EXCEPTION = "Graphics SM Warp Exception on (GPC 1, TPC 4, SM {sm}): Misaligned Address"
CLOSING_13 = "pid={pid}, name={name}, Graphics Exception: channel 0x0000000a, Class 0000cbc0"

CAPTURE = Path(__file__).parents[3] / "shared/data/h200_capture.jsonl"
CORPUS = Path(__file__).parents[3] / "shared/data/kernel_log_corpus.jsonl"


def sm_fault(node: Node, at_s: float, pid: int, name: str, sm: int = 0) -> None:
    """The lines of an Xid 13 of one process on one SM."""
    node.hear(at_s, xid(13, SM_EXCEPTION.format(sm=sm)))
    node.hear(at_s + 0.003, xid(13, CLOSING_13.format(pid=pid, name=name)))
    node.wait(at_s + 0.2)


class TestMemoryErrors:
    def test_an_uncorrectable_error_explains_its_row_its_reach_and_the_clean_up(self) -> None:
        node = Node()
        node.hear(1.0, xid(48, DBE))
        node.hear(1.008, xid(63, ROW))
        node.hear(1.009, xid(94, CONTAINED))
        node.hear(2.0, xid(45, "pid=1, name=a, Ch 00000008"))
        node.wait(5)
        incident = node.incident()
        assert primary(incident) == 48
        assert roles(incident) == [
            (48, "cause"),
            (63, "consequence"),
            (94, "consequence"),
            (45, "consequence"),
        ]
        assert (incident.severity, incident.blame) == (Severity.CRITICAL, Blame.HARDWARE)
        assert incident.detail["blast_radius"]["scope"] == "gpu"
        assert incident.detail["blast_radius"]["processes"] == [{"pid": 1, "name": "a"}]
        assert {event.incident for event in node.faults()} == {incident.id}

    def test_a_row_printed_before_the_error_it_belongs_to_is_still_a_consequence(self) -> None:
        node = Node()  # as captured on an A100
        node.hear(1.498, xid(63, "pid='<unknown>', name=<unknown>, " + ROW))
        node.hear(1.506, xid(94, "pid='<unknown>', name=<unknown>, " + CONTAINED))
        node.hear(1.521, xid(94, "pid=1248209, name=python3.10, Ch 00000008"))
        node.wait(5)
        incident = node.incident()
        assert roles(incident) == [(63, "consequence"), (94, "cause"), (94, "repeat")]
        [alternative] = incident.detail["alternatives"]
        assert (alternative["code"], "records the bad memory" in alternative["why_not"]) == (63, True)
        row = next(event for event in node.faults() if event.code == 63)
        assert (row.incident, row.revision) == (incident.id, 2)

    def test_the_kind_of_memory_error_is_a_detail_of_the_error(self) -> None:
        node = Node()
        node.hear(1.0, xid(171, "uncorrectable DRAM error"))
        node.hear(1.1, xid(48, DBE))
        node.wait(5)
        assert primary(node.incident()) == 48

    def test_a_contained_error_of_one_mig_instance_reaches_only_that(self) -> None:
        node = Node()
        node.hear(1.0, "NVRM: Xid (PCI:0000:91:00 GPU-I:05): 94, pid=7194, name=a, " + CONTAINED)
        node.hear(1.1, "NVRM: Xid (PCI:0000:91:00 GPU-I:05): 43, pid=7194, name=a, " + CHANNEL)
        node.hear(1.2, "NVRM: Xid (PCI:0000:91:00 GPU-I:03): 43, pid=7200, name=b, " + CHANNEL)
        node.wait(5)
        incident = node.incident()
        assert roles(incident) == [(94, "cause"), (43, "consequence")]
        radius = incident.detail["blast_radius"]
        assert (radius["scope"], radius["mig"]) == ("mig", [{"pci": f"{GPU}.0", "gi": 5, "ci": None}])
        assert node.loose() == [43]


class TestPrograms:
    def test_a_lone_application_error_is_no_incident(self) -> None:
        node = Node()
        node.hear(1, xid(31, "pid=446, name=fault, channel 0x0000000a. MMU Fault"))
        node.hear(400, xid(43, "pid=458, name=other, " + CHANNEL))
        node.wait(1000)
        assert node.incidents() == []

    def test_an_exception_and_the_channel_it_cost_are_one_mild_incident(self) -> None:
        node = Node()
        sm_fault(node, 1, 480, "train")
        node.hear(1.3, xid(43, "pid=480, name=train, " + CHANNEL))
        incident = node.incident()
        assert (primary(incident), roles(incident)[1]) == (13, (43, "consequence"))
        assert (incident.severity, incident.blame) == (Severity.WARNING, Blame.APPLICATION)
        assert incident.detail["blast_radius"]["scope"] == "process"
        assert incident.process is not None
        assert incident.process.pid == 480

    def test_a_43_in_place_of_the_line_with_the_pid_belongs_to_the_exception(self) -> None:
        node = Node()  # as captured on an H200
        node.hear(34.519, xid(13, "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Out Of Range Address"))
        node.hear(34.522, xid(13, "Graphics Exception: ESR 0x519730=0x200000e 0x519734=0x24"))
        node.hear(34.525, xid(43, "pid=480, name=fault, " + CHANNEL))
        node.wait(40)
        assert (primary(node.incident()), node.loose()) == (13, [])

    def test_it_is_over_after_five_minutes_of_quiet(self) -> None:
        node = Node()
        sm_fault(node, 1, 480, "train")
        node.hear(1.3, xid(43, "pid=480, name=train, " + CHANNEL))
        node.wait(299)
        assert node.incident().detail["state"] == "open"
        node.wait(310)
        incident = node.incident()
        assert incident.detail["state"] == "recovered"
        assert incident.detail["recovered_by"]["how"] == "quiet"
        assert incident.action is Action.IGNORE

    def test_the_clean_up_names_its_cause_and_is_believed(self) -> None:
        node = Node()
        node.hear(1, xid(31, "pid=5, name=a, " + CHANNEL))
        node.hear(9, xid(45, "pid=5, name=a, Ch 00000001 caused by previous Xid 31"))
        node.wait(12)
        incident = node.incident()
        assert primary(incident) == 31
        assert incident.detail["members"][1]["why"] == "the driver names it as the cause"


class TestLostGpu:
    def test_the_loss_explains_all_that_follows_on_the_gpu_and_the_switches(self) -> None:
        node = Node()  # 79 and the SXids as captured on an HGX A100
        node.hear(541.5, xid(79, f"pid='<unknown>', name=<unknown>, {LOST}"))
        node.hear(541.6, f"NVRM: GPU {GPU}.0: GPU has fallen off the bus.")
        node.hear(545, xid(119, f"pid=7, name=nvidia-smi, {TIMEOUT}"))
        node.hear(546, xid(154, "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"))
        node.hear(547, xid(45, "pid=9, name=train, Ch 00000001"))
        node.hear(553.4, "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 63 LTSSM Fault Up")
        node.hear(553.5, "nvidia-nvswitch2: SXid (PCI:0000:07:00.0): 20034, Fatal, Link 37 LTSSM Fault Up")
        node.wait(560)
        incident = node.incident()
        assert primary(incident) == 79
        assert [role for _, role in roles(incident)] == [
            "cause",
            "consequence",
            "advice",
            "consequence",
            "consequence",
            "consequence",
        ]
        assert incident.action is Action.REBOOT_NODE
        assert incident.detail["blast_radius"]["nvswitches"] == ["0000:05:00.0", "0000:07:00.0"]
        assert incident.detail["blast_radius"]["scope"] == "fabric"

    def test_a_timeout_just_before_the_loss_was_noted_is_a_sign_of_it(self) -> None:
        node = Node()
        node.hear(100, xid(119, f"pid=7, name=nvidia-smi, {TIMEOUT}"))
        node.hear(105, xid(79, LOST))
        node.wait(110)
        incident = node.incident()
        assert roles(incident) == [(119, "consequence"), (79, "cause")]

    def test_a_loss_without_an_xid_explains_the_failed_start(self) -> None:
        node = Node()
        node.hear(
            5,
            f"NVRM: The NVIDIA GPU {GPU}.0\nNVRM: (PCI ID: 10de:2330) installed in this system has\n"
            "NVRM: fallen off the bus and is not responding to commands.",
        )
        node.hear(5.1, "NVRM: The NVIDIA probe routine failed for 1 device(s).")
        node.wait(20)
        incident = node.incident()
        assert primary(incident) == "gpu_lost"
        assert [role for _, role in roles(incident)] == ["cause", "consequence"]

    def test_the_xid_of_a_loss_told_before_without_one_changes_the_incident_not_their_number(self) -> None:
        node = Node()
        node.hear(5, f"NVRM: GPU {GPU}.0: GPU has fallen off the bus.")
        node.hear(5.1, xid(79, LOST))
        node.wait(20)
        assert primary(node.incident()) == 79

    def test_faults_without_a_loss_do_not_make_one(self) -> None:
        node = Node()
        node.hear(1, xid(62, "0x1234 0x0"))
        node.hear(3, xid(45, "pid=3, name=a, Ch 00000001"))
        node.wait(10)
        assert primary(node.incident()) == 62


class TestFirmware:
    def test_the_first_silence_of_the_firmware_is_the_cause_and_the_advice_decides(self) -> None:
        node = Node()
        node.hear(100, xid(119, f"pid=7, name=nvidia-smi, {TIMEOUT}"))
        node.hear(130, xid(120, GSP_CRASH))
        node.hear(131, xid(154, TO_RESET))
        node.wait(140)
        incident = node.incident()
        assert roles(incident) == [(119, "cause"), (120, "consequence"), (154, "advice")]
        assert incident.action is Action.RESET_GPU
        assert incident.detail["waiting_for"] == "Xid 154 to None, a reload of the driver, or a reboot"

    def test_late_advice_belongs_to_what_is_open_on_the_gpu(self) -> None:
        node = Node()
        node.hear(1, xid(48, DBE))
        node.hear(1200, xid(154, TO_RESET))
        node.hear(1300, xid(154, TO_RESET, OTHER_GPU))
        node.wait(1400)
        assert [primary(incident) for incident in node.incidents()] == [48, 154]
        assert roles(node.incidents()[0]) == [(48, "cause"), (154, "advice")]

    def test_advice_alone_is_an_incident_that_says_so(self) -> None:
        node = Node()
        node.hear(1, xid(154, TO_RESET))
        node.wait(5)
        incident = node.incident()
        assert primary(incident) == 154
        assert "not the fault that led to it" in incident.detail["primary"]["why"][0]


class TestFabric:
    NVLINK = "pid=<unknown>, name=<unknown>, NVLink: fatal error detected on link 6(0x10000, 0x0, 0x0)"

    def test_both_ends_of_a_link_and_the_switch_between_are_one_incident(self) -> None:
        node = Node()
        node.hear(10, xid(74, self.NVLINK))
        node.hear(10.4, "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up")
        node.hear(10.9, xid(74, self.NVLINK, OTHER_GPU))
        node.wait(20)
        incident = node.incident()
        assert primary(incident) == 74
        assert incident.blame is Blame.FABRIC
        radius = incident.detail["blast_radius"]
        assert (radius["scope"], len(radius["gpus"]), len(radius["nvswitches"])) == ("fabric", 2, 1)
        [alternative] = incident.detail["alternatives"]
        assert alternative["code"] == 20034
        assert "nothing in the log says which" in alternative["why_not"]

    def test_a_link_that_names_its_far_end_joins_that_end_and_no_other(self) -> None:
        node = Node()
        train = "NVLink: Failed to train link 3 to remote PCI:{}"
        node.hear(10, xid(74, train.format(OTHER_GPU)))
        node.hear(11, xid(74, train.format(GPU), OTHER_GPU))
        node.hear(100, xid(74, train.format(GPU), THIRD_GPU))
        node.hear(101, xid(74, train.format(OTHER_GPU), FOURTH_GPU))
        node.wait(120)
        assert [incident.detail["blast_radius"]["gpus"] for incident in node.incidents()] == [
            [f"{GPU}.0", f"{OTHER_GPU}.0"],
            [f"{THIRD_GPU}.0"],
            [f"{FOURTH_GPU}.0"],
        ]


class TestSeveralGpus:
    def test_the_same_loss_on_three_gpus_is_one_incident_of_the_node(self) -> None:
        node = Node()
        for n, gpu in enumerate((GPU, OTHER_GPU, THIRD_GPU, FOURTH_GPU)):
            node.hear(1 + n * 0.5, xid(79, LOST, gpu))
        node.wait(10)
        incident = node.incident()
        assert incident.detail["pattern"] == "many_gpus"
        assert (incident.gpu, incident.detail["blast_radius"]["scope"]) == (None, "node")
        assert incident.blame is Blame.UNKNOWN
        assert "on 4 of 4 GPUs" in incident.summary
        assert {event.incident for event in node.faults()} == {incident.id}
        [merged] = [e for e in node.events() if e.kind is Kind.INCIDENT and e.detail["state"] == "closed"]
        assert merged.detail["recovered_by"]["how"] == "merged"

    def test_the_same_error_of_one_job_on_three_gpus_is_one_mild_incident(self) -> None:
        node = Node()
        for n, gpu in enumerate((GPU, OTHER_GPU, THIRD_GPU)):
            node.hear(1 + n, xid(31, f"pid={50 + n}, name=train, {CHANNEL}", gpu))
        node.wait(10)
        incident = node.incident()
        assert (incident.severity, incident.blame) == (Severity.WARNING, Blame.APPLICATION)
        assert "not the fault of one GPU" in incident.summary

    def test_both_gpus_of_a_node_of_two_are_all_of_them(self) -> None:
        node = Node(real_gpus=(GPU, OTHER_GPU))
        node.hear(1, xid(79, LOST))
        node.hear(2, xid(79, LOST, OTHER_GPU))
        node.wait(10)
        assert node.incident().detail["pattern"] == "many_gpus"

    def test_two_gpus_of_many_stay_two_incidents(self) -> None:
        node = Node()
        node.hear(1, xid(79, LOST))
        node.hear(2, xid(79, LOST, OTHER_GPU))
        node.wait(10)
        assert len(node.incidents()) == 2

    def test_the_whole_is_over_when_every_gpu_has_recovered(self) -> None:
        node = Node()
        for n, gpu in enumerate((GPU, OTHER_GPU, THIRD_GPU)):
            node.hear(1 + n, xid(119, f"pid=7, name=a, {TIMEOUT}", gpu))
        node.hear(60, xid(154, TO_NONE))
        node.hear(61, xid(154, TO_NONE, OTHER_GPU))
        node.wait(70)
        partly = node.incident()
        assert partly.detail["state"] == "open"
        assert partly.detail["recovered_gpus"] == [f"{GPU}.0", f"{OTHER_GPU}.0"]
        node.hear(80, xid(154, TO_NONE, THIRD_GPU))
        assert node.incident().detail["state"] == "recovered"


class TestNearMisses:
    def test_another_gpu(self) -> None:
        node = Node()
        node.hear(1, xid(48, DBE))
        node.hear(1.1, xid(45, "pid=2, name=a, Ch 00000001", OTHER_GPU))
        node.wait(5)
        assert node.loose() == [45]

    def test_too_late(self) -> None:
        node = Node()
        node.hear(1, xid(48, DBE))
        node.hear(70, xid(45, "pid=1, name=a, Ch 00000001"))
        node.wait(100)
        assert node.loose() == [45]

    def test_another_process(self) -> None:
        node = Node()
        node.hear(1, xid(31, f"pid=5, name=a, {CHANNEL}"))
        node.hear(2, xid(43, f"pid=6, name=b, {CHANNEL}"))
        node.wait(5)
        assert (node.incidents(), node.loose()) == ([], [31, 43])

    def test_an_application_error_after_the_recovery(self) -> None:
        node = Node()
        node.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        node.hear(30, xid(154, TO_NONE))
        node.hear(31, xid(43, f"pid=9, name=b, {CHANNEL}"))
        node.wait(40)
        assert (node.incident().detail["state"], node.loose()) == ("recovered", [43])

    def test_a_clean_up_that_names_another_cause(self) -> None:
        node = Node()
        node.hear(1, xid(48, DBE))
        node.hear(2, xid(45, "pid=1, name=a, Ch 00000001 caused by previous Xid 145"))
        node.wait(5)
        assert node.loose() == [45]

    def test_two_serious_faults_minutes_apart(self) -> None:
        node = Node()
        node.hear(1, xid(48, DBE))
        node.hear(300, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        node.wait(310)
        assert [primary(incident) for incident in node.incidents()] == [48, 119]

    def test_what_nobody_can_prove_the_kernel_said(self) -> None:
        node = Node()
        node.hear(1, xid(48, DBE))
        node.hear(2, "user text " + xid(154, TO_NONE))
        node.wait(5)
        assert (node.incident().detail["state"], node.loose()) == ("open", [154])

    def test_drills_and_real_faults_never_mix(self) -> None:
        node = Node()
        node.hear(1, xid(48, DBE))
        node.hear(2, xid(45, "pid=1, name=a, Ch 00000001"), origin=Origin.USERSPACE)
        node.hear(3, xid(79, LOST), origin=Origin.USERSPACE)
        node.hear(4, xid(154, TO_NONE), origin=Origin.USERSPACE)
        node.wait(10)
        real, drill = node.incidents()
        assert (real.drill, real.detail["state"], len(real.detail["members"])) == (False, "open", 1)
        assert (drill.drill, drill.detail["state"]) == (True, "recovered")
        assert all(event.drill == (event.incident != real.id) for event in node.faults())


class TestEnds:
    def test_the_driver_asks_for_nothing_any_more(self) -> None:
        node = Node()
        node.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        node.hear(2, xid(154, TO_RESET))
        node.hear(90, xid(154, TO_NONE))
        incident = node.incident()
        assert roles(incident)[-1] == (154, "recovery")
        assert incident.detail["recovered_by"]["how"] == "recovery_action_none"
        assert incident.action is Action.IGNORE
        assert primary(incident) == 119

    def test_a_driver_reload_ends_what_is_open(self) -> None:
        node = Node()
        node.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        node.hear(2, xid(48, DBE, OTHER_GPU))
        node.hear(90, LOADED)
        assert [each.detail["recovered_by"]["how"] for each in node.incidents()] == ["driver_loaded"] * 2

    def test_power_smoothing_is_off_until_it_is_on_again(self) -> None:
        node = Node()
        node.hear(1, xid(163, "power smoothing disengaged"))
        node.wait(3600)
        assert node.incident().detail["state"] == "open"
        node.hear(4000, xid(162, "power smoothing engaged"))
        assert node.incident().detail["recovered_by"]["how"] == "ended_by_code"

    def test_a_reboot_is_the_cure_once_the_gpu_has_been_quiet_for_ten_minutes(self) -> None:
        node = Node()
        node.hear(1, xid(79, LOST))
        node.restart(boot="second", now_s=20)
        node.hear(30, xid(43, f"pid=9, name=b, {CHANNEL}"))
        node.wait(500)
        assert node.incident().detail["waiting_for"].startswith("10 minutes")
        node.wait(700)
        assert node.incident().detail["recovered_by"]["how"] == "reboot"

    def test_a_reboot_that_does_not_cure_it_leaves_it_open_and_worse(self) -> None:
        node = Node()
        node.hear(1, xid(79, LOST))
        node.restart(boot="second", now_s=20)
        node.hear(40, f"NVRM: GPU {GPU}.0: RmInitAdapter failed! (0x22:0x56:894)")
        node.wait(5000)
        incident = node.incident()
        assert incident.detail["state"] == "open"
        assert [each["rule"] for each in incident.detail["escalations"]] == ["survived_reboot"]
        assert primary(incident) == 79

    def test_the_last_words_of_the_boot_before_are_taken_over_and_wait_for_the_reboot(self) -> None:
        node = Node()
        node.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        whole = Node()  # the same log, read to its end from what the panic left
        whole.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        whole.hear(2, xid(79, LOST))
        whole.hear(3, xid(48, DBE, OTHER_GPU))
        node.restart(boot="second", now_s=20)
        node.revisions += node.pipeline.take_over(whole.pipeline.snapshot(), now_us=21 * SECOND)
        node.wait(22)
        first, second = node.incidents()
        assert (roles(first), roles(second)) == ([(119, "consequence"), (79, "cause")], [(48, "cause")])
        told = [event.revision for event in node.revisions if event.id == first.id]
        assert told == list(range(1, first.revision + 1))
        assert first.detail["waiting_for"].startswith("10 minutes")
        node.wait(900)
        assert [each.detail["recovered_by"]["how"] for each in node.incidents()] == ["reboot"] * 2

    def test_a_fault_that_goes_on_after_it_seemed_over_opens_it_again(self) -> None:
        node = Node()
        node.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        node.hear(2, xid(154, TO_NONE))
        node.hear(3, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        node.wait(10)
        incident = node.incident()
        assert incident.detail["state"] == "open"
        assert incident.detail["escalations"][0]["rule"] == "went_on"

    def test_a_fault_that_needs_a_reset_is_not_over_because_it_is_quiet(self) -> None:
        node = Node()
        node.hear(1, xid(79, LOST))
        node.wait(3 * 86_400)
        assert node.incident().detail["state"] == "open"


class TestEscalation:
    def test_the_same_fault_within_a_day_of_its_recovery_came_back(self) -> None:
        node = Node()
        node.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        node.hear(60, xid(154, TO_NONE))
        node.hear(7260, xid(119, f"pid=8, name=a, {TIMEOUT}"))
        node.wait(7300)
        first, second = node.incidents()
        [escalation] = second.detail["escalations"]
        assert (escalation["rule"], escalation["related"]) == ("came_back", [first.id])
        assert "it came back 2 h later" in second.summary

    def test_after_more_than_a_day_it_is_a_new_fault(self) -> None:
        node = Node()
        node.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        node.hear(60, xid(154, TO_NONE))
        node.hear(90_000, xid(119, f"pid=8, name=a, {TIMEOUT}"))
        node.wait(90_100)
        assert node.incidents()[1].detail["escalations"] == []

    def test_one_sm_that_fails_for_several_programs_points_to_the_gpu(self) -> None:
        node = Node()
        for day, name in enumerate(("train", "render", "infer")):
            sm_fault(node, 1000 + day * 86_400, 100 + day, name)
        incident = node.incident()
        assert incident.detail["pattern"] == "same_sm"
        assert (incident.blame, incident.action) == (Blame.HARDWARE, Action.RUN_DIAGNOSTICS)
        assert "SM (GPC 1, TPC 4, SM 0)" in incident.summary
        assert len(incident.detail["escalations"][0]["related"]) == 2

    def test_one_sm_that_fails_for_one_program_points_to_the_program(self) -> None:
        node = Node()
        for day in range(3):
            sm_fault(node, 1000 + day * 86_400, 100 + day, "train")
        assert node.incidents() == []

    def test_what_failed_where_is_remembered_over_a_restart_and_a_reboot(self) -> None:
        node = Node()
        sm_fault(node, 1000, 100, "train")
        node.restart(now_s=2000)
        sm_fault(node, 3000, 101, "render")
        node.restart(boot="second", now_s=3500)
        sm_fault(node, 4000, 102, "infer")
        assert node.incident().detail["pattern"] == "same_sm"

    def test_several_programs_on_one_gpu_within_minutes_are_a_case_for_a_test(self) -> None:
        node = Node()
        for n, name in enumerate(("train", "render", "infer", "train")):
            node.hear(10 + 20 * n, xid(31, f"pid={60 + n}, name={name}, {CHANNEL}"))
        node.wait(100)
        incident = node.incident()
        assert (incident.detail["pattern"], incident.action) == ("many_programs", Action.RUN_DIAGNOSTICS)
        assert roles(incident)[0] == (31, "cause")

    def test_one_program_again_and_again_is_a_crash_loop(self) -> None:
        node = Node()
        for n in range(6):
            node.hear(10 + 60 * n, xid(43, f"pid={60 + n}, name=train, {CHANNEL}"))
        node.wait(400)
        incident = node.incident()
        assert (incident.detail["pattern"], incident.blame) == ("crash_loop", Blame.APPLICATION)
        assert len(incident.detail["blast_radius"]["processes"]) == 6

    def test_the_same_row_again_days_later_points_to_the_memory(self) -> None:
        node = Node()
        node.hear(1, xid(63, ROW))
        node.hear(5 * 86_400, xid(63, ROW))
        node.wait(5 * 86_400 + 10)
        incident = node.incident()
        assert (incident.detail["pattern"], incident.blame) == ("same_memory", Blame.HARDWARE)

    def test_the_same_link_again_points_to_the_link(self) -> None:
        node = Node()
        for at_s in (1, 86_400):
            node.hear(at_s, xid(74, TestFabric.NVLINK))
            node.hear(at_s + 60, xid(154, TO_NONE))
        rules = {each["rule"] for each in node.incidents()[1].detail["escalations"]}
        assert rules == {"same_link", "came_back"}


class TestStream:
    def test_a_serious_fault_is_pushed_first_and_its_incident_right_behind_it(self) -> None:
        node = Node()
        node.hear(1, xid(79, LOST))
        fault, incident = node.revisions
        assert (fault.kind, fault.incident, fault.revision) == (Kind.XID, incident.id, 1)
        assert (incident.kind, incident.revision, incident.detail["state"]) == (Kind.INCIDENT, 1, "open")
        assert incident.id == fault.id.replace("ev_", "inc_")

    def test_an_incident_survives_its_public_form_unchanged(self) -> None:
        node = Node()
        node.hear(1, xid(79, LOST))
        node.hear(2, xid(45, "pid=9, name=train, Ch 00000001"))
        node.wait(10)
        incident = node.incident()
        assert from_dict(json.loads(json.dumps(to_dict(incident, 7, stored=True)))) == incident

    def test_revisions_go_out_at_most_once_a_second_and_the_last_one_always(self) -> None:
        node = Node()
        node.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        for n in range(15):
            node.hear(1.1 + n * 0.01, xid(45, f"pid={n}, name=a, Ch 00000001"))
        node.wait(30)
        revisions = [event for event in node.revisions if event.kind is Kind.INCIDENT]
        assert len(revisions) <= 3
        assert len(revisions[-1].detail["members"]) == 16

    def test_a_large_incident_lists_the_first_and_the_last_and_counts_the_rest(self) -> None:
        node = Node()
        node.hear(1, xid(119, f"pid=7, name=a, {TIMEOUT}"))
        for n in range(60):
            node.hear(1.5 + n * 0.6, xid(45, f"pid={n}, name=a, Ch 00000001"))
        node.wait(60)
        detail = node.incident().detail
        assert len(detail["members"]) == 32
        assert detail["members_dropped"] == 29
        assert primary(node.incident()) == 119
        assert (len(detail["blast_radius"]["processes"]), detail["blast_radius"]["processes_is_minimum"]) == (
            32,
            True,
        )

    def test_more_incidents_than_can_be_followed_let_the_longest_silent_go(self) -> None:
        node = Node(real_gpus=[f"0000:{n:02x}:00" for n in range(1, 80)])
        for n in range(1, 80):
            node.hear(20 * n, xid(79, LOST, f"0000:{n:02x}:00"))
        node.wait(2000)
        closed = [e for e in node.events() if e.kind is Kind.INCIDENT and e.detail["state"] == "closed"]
        assert len(node.incidents()) == 64
        assert {each.detail["recovered_by"]["how"] for each in closed} == {"crowded_out"}
        assert len(closed) == 15


def test_a_restart_in_the_middle_changes_nothing() -> None:
    def tell(node: Node, *, restarts: bool) -> Node:
        node.hear(1.008, xid(63, ROW))
        node.hear(1.009, xid(94, CONTAINED))
        if restarts:
            node.restart(now_s=1.5)
        node.hear(2.0, xid(45, "pid=1, name=a, Ch 00000008"))
        node.hear(3.0, xid(154, TO_RESET))
        if restarts:
            node.restart(now_s=4)
        node.hear(90, xid(154, TO_NONE))
        node.wait(100)
        return node

    assert tell(Node(), restarts=True).incident() == tell(Node(), restarts=False).incident()


@pytest.mark.skipif(not CAPTURE.exists(), reason=f"{CAPTURE} is not here")
def test_seven_faults_of_one_program_on_a_real_h200_are_one_incident_of_the_program() -> None:
    node = Node(real_gpus=())
    for line in CAPTURE.read_text().splitlines():
        said = json.loads(line)
        if said["witness"] == "kmsg":
            header, _, text = said["record"].partition(";")
            node.hear(int(header.split(",")[2]) / SECOND, text.rstrip("\n"))
    node.wait(60)
    incident = node.incident()
    assert (incident.detail["pattern"], incident.blame) == ("crash_loop", Blame.APPLICATION)
    assert (primary(incident), incident.severity) == (31, Severity.WARNING)
    assert len(incident.detail["blast_radius"]["processes"]) == 7
    assert node.loose() == []


@pytest.mark.skipif(not CORPUS.exists(), reason=f"{CORPUS} is not here")
def test_a_real_storm_of_xid_13_without_pids_is_no_fault_of_the_gpu() -> None:
    node = Node(real_gpus=())
    for line in CORPUS.read_text().splitlines():
        said = json.loads(line)
        if said.get("group") == "storm-xid13-20250121":
            stamp, _, text = said["line"].partition("+00:00 ")
            hours, minutes, seconds = stamp.rpartition("T")[2].replace(",", ".").split(":")
            node.hear(int(hours) * HOUR / SECOND + int(minutes) * MINUTE / SECOND + float(seconds), text)
    node.wait(2 * 86_400)
    assert {event.code for event in node.faults()} == {13}
    assert all(incident.blame is Blame.APPLICATION for incident in node.incidents())
