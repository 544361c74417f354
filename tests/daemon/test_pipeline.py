"""From records to events: origin, drills, what a line teaches, losses, and state over a restart."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.event import Blame, Kind, Severity, from_dict, to_dict
from daemon.incidents import PREFIX
from daemon.pipeline import Pipeline, Snapshot
from probes.health import ProbeHealth
from probes.line import Origin
from probes.procfs import ProcGpu
from tests.support.records import BOOT, EPOCH_US, GPU, OTHER_GPU, UUID, Heard, lost, record, xid

FAULT_31 = xid(31, "pid=446, name=fault, channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS")
DRILL_79 = "xidwatch-drill: xid (PCI:0000:91:00): 79, pid=7, name=drill, GPU has fallen off the bus."


def test_a_line_becomes_an_event_at_once_with_everything_it_says() -> None:
    heard = Heard()
    [event] = heard.say(FAULT_31, 1_000_000, seq=360)
    assert (event.kind, event.code, event.revision, event.count) == (Kind.XID, 31, 1, 1)
    assert event.severity is Severity.WARNING
    assert event.blame is Blame.APPLICATION
    assert event.gpu is not None
    assert (event.gpu.pci, event.gpu.uuid) == ("0000:91:00.0", UUID)
    assert event.process is not None
    assert (event.process.pid, event.process.name) == (446, "fault")
    assert event.lines == (FAULT_31,)
    assert (event.kmsg_seq, event.boot_id, event.node) == (360, BOOT, "test-node")
    assert event.time_us == EPOCH_US + 1_000_000
    assert [witness.probe for witness in event.witnesses] == ["kmsg"]


def test_an_event_survives_its_public_form_unchanged() -> None:
    [event] = Heard().say(FAULT_31, 1_000_000, seq=360)
    public = json.loads(json.dumps(to_dict(event, 7, stored=True)))
    assert from_dict(public) == event
    assert public["cursor"] == 7
    assert public["nvswitch"] is None


def test_the_same_record_gives_the_same_id_and_another_record_another() -> None:
    [first] = Heard().say(FAULT_31, 1_000_000)
    [again] = Heard().say(FAULT_31, 1_000_000)
    [later] = Heard().say(FAULT_31, 1_000_001)
    assert first.id == again.id != later.id


def test_an_unknown_code_is_an_event_too() -> None:
    [event] = Heard().say(xid(999, "pid=1, name=a, something new"), 1)
    assert (event.code, event.severity, event.blame) == (999, Severity.WARNING, Blame.UNKNOWN)


def test_a_code_beyond_32_bits_keeps_its_digits() -> None:
    [event] = Heard().say(xid(99999999999999999999, "what"), 1)
    assert (event.kind, event.code) == (Kind.XID, None)
    assert event.detail["code_text"] == "99999999999999999999"


class TestOrigin:
    def test_a_line_a_process_wrote_is_counted_as_forged_and_is_no_event(self) -> None:
        heard = Heard()
        assert heard.say(xid(79, "GPU has fallen off the bus."), 1, origin=Origin.USERSPACE) == []
        assert heard.pipeline.counters.forged == 1

    def test_a_drill_is_an_event_marked_as_one_when_drills_are_allowed(self) -> None:
        heard = Heard(Pipeline(node="n", allow_drills=True))
        for text in (DRILL_79, xid(48, "DBE")):
            [event] = heard.say(text, 1, origin=Origin.USERSPACE)
            assert event.drill
            assert event.origin == "userspace"

    def test_a_drill_is_forged_where_drills_are_not_allowed(self) -> None:
        heard = Heard()
        assert heard.say(DRILL_79, 1, origin=Origin.USERSPACE) == []
        assert heard.pipeline.counters.forged == 1

    def test_a_drill_never_counts_as_a_repeat_of_a_real_fault(self) -> None:
        heard = Heard(Pipeline(node="n", allow_drills=True))
        [real] = heard.say(xid(48, "DBE"), 1_000)
        [drill] = heard.say(xid(48, "DBE"), 2_000, origin=Origin.USERSPACE)
        assert real.id != drill.id
        assert (real.drill, drill.drill) == (False, True)

    def test_a_process_cannot_teach_the_device_map(self) -> None:
        heard = Heard(Pipeline(node="n", allow_drills=True), real_gpus=())
        heard.say(f"NVRM: GPU at PCI:{GPU}: {UUID}", 1, origin=Origin.USERSPACE)
        [event] = heard.say(FAULT_31, 2)
        assert event.gpu is not None
        assert event.gpu.uuid is None

    def test_an_xid_behind_other_text_is_unproved_and_never_above_a_warning(self) -> None:
        text = "systemd[1]: user text " + xid(79, "GPU has fallen off the bus.")
        [event] = Heard().say(text, 1)
        assert (event.origin, event.severity, event.code) == ("unknown", Severity.WARNING, 79)

    def test_text_in_a_kernel_line_cannot_change_what_the_kernel_said(self) -> None:
        real = xid(48, "pid=446, name=a, DBE")
        forged = "evil[7]: segfault at 0 in " + real
        for lines in ([real, *[forged] * 5], [*[forged] * 5, real]):
            heard = Heard()
            for n, text in enumerate(lines):
                heard.say(text, n)
            heard.pass_time(10_000_000)
            told = {event.origin: (event.count, event.severity) for event in heard.events()}
            assert told == {"kernel": (1, Severity.CRITICAL), "unknown": (5, Severity.WARNING)}

    def test_forged_lines_do_not_use_up_a_gpus_allowance(self) -> None:
        heard = Heard()
        for pid in range(100):
            heard.say("evil: " + xid(79, f"pid={pid}, name=a, x"), pid)
        [event] = heard.say(xid(79, "pid=446, name=a, GPU has fallen off the bus."), 1_000)
        assert (event.kind, event.origin, event.severity) == (Kind.XID, "kernel", Severity.FATAL)


class TestKnowledge:
    def test_what_was_saved_never_hides_what_is_known_now(self) -> None:
        saved = Heard(real_gpus=()).pipeline.snapshot()
        pipeline = Pipeline(node="n")
        pipeline.learn_from_proc([ProcGpu(f"{GPU}.0", UUID, "NVIDIA H200", 0, None)], "580.159.04")
        pipeline.restore(saved, boot_id="", now_us=0)
        [event] = pipeline.feed(record(FAULT_31, 1))
        assert event.gpu is not None
        assert (event.gpu.uuid, event.gpu.name) == (UUID, "NVIDIA H200")
        assert event.driver_version == "580.159.04"

    def test_serial_number_and_driver_version_are_learned_from_the_log(self) -> None:
        heard = Heard(real_gpus=())
        [loaded] = heard.say(
            "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build", 1
        )
        heard.say(f"NVRM: GPU at PCI:{GPU}: {UUID}", 2)
        heard.say("NVRM: GPU Board Serial Number: 1650123456789", 3)
        [event] = heard.say(FAULT_31, 4)
        assert loaded.kind is Kind.DRIVER_LOADED
        assert event.driver_version == "580.159.04"
        assert event.gpu is not None
        assert event.gpu.serial == "1650123456789"

    def test_a_driver_reload_ends_the_open_faults(self) -> None:
        heard = Heard()
        heard.say(FAULT_31, 1_000)
        heard.say("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build", 2_000)
        heard.say(FAULT_31, 3_000)
        assert [event.count for event in heard.events() if event.code == 31] == [1, 1]

    def test_every_change_of_the_recovery_action_is_an_event_of_its_own(self) -> None:
        heard = Heard()
        heard.say(xid(154, "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"), 1_000)
        heard.say(xid(154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"), 2_000)
        assert [event.severity for event in heard.events()] == [Severity.FATAL, Severity.INFO]


class TestGaps:
    def test_lost_records_are_an_event_with_their_numbers(self) -> None:
        [event] = Heard().take(lost(100, 149, 1_000))
        assert event.kind is Kind.GAP
        assert event.detail == {
            "lost_records": 50,
            "first_seq": 100,
            "last_seq": 149,
            "ranges": [[100, 149]],
        }

    def test_the_losses_of_one_storm_merge(self) -> None:
        heard = Heard()
        for n in range(40):
            heard.take(lost(n * 100, n * 100 + 9, n * 1_000))
        heard.pass_time(10_000_000)
        [event] = heard.events()
        assert event.count == 40
        assert event.detail["lost_records"] == 400
        assert (event.detail["first_seq"], event.detail["last_seq"]) == (0, 3909)
        assert len(event.detail["ranges"]) == 16

    def test_a_loss_of_unknown_size_is_never_counted_as_zero(self) -> None:
        heard = Heard()
        heard.take(lost(100, 149, 1_000))
        heard.take(lost(None, None, 2_000))
        heard.pass_time(10_000_000)
        [event] = heard.events()
        assert event.detail["lost_records"] is None
        assert event.detail["first_seq"] == 100


def test_a_probe_that_goes_down_and_comes_back_is_two_events() -> None:
    pipeline = Pipeline(node="n")
    down = ProbeHealth("kmsg", hears=False, live=True, reason="device gone", hint="look")
    [event] = pipeline.probe_changed(down, boot_id=BOOT, at_us=1, wall_us=EPOCH_US)
    assert (event.kind, event.name, event.severity) == (Kind.PROBE, "PROBE_DOWN", Severity.WARNING)
    assert event.detail["reason"] == "device gone"
    up = ProbeHealth("kmsg", hears=True, live=True)
    [event] = pipeline.probe_changed(up, boot_id=BOOT, at_us=2, wall_us=EPOCH_US)
    assert (event.name, event.severity) == ("PROBE_UP", Severity.INFO)


@pytest.mark.parametrize(
    ("health", "name", "severity", "words"),
    [
        (
            ProbeHealth("nvml", hears=False, live=False, reason="let go until then", on_request=True),
            "SECOND_WITNESS_RELEASED",
            Severity.INFO,
            "A second witness let go of the driver on request; kernel messages are heard as before",
        ),
        (
            ProbeHealth("nvml", hears=False, live=False, reason="no driver"),
            "SECOND_WITNESS_DOWN",
            Severity.WARNING,
            "A second witness is not heard; kernel messages are heard as before",
        ),
        (
            ProbeHealth("nvml", hears=True, live=False),
            "SECOND_WITNESS_UP",
            Severity.INFO,
            "A second witness is heard again beside the kernel messages",
        ),
    ],
    ids=["let go", "down", "up"],
)
def test_a_second_witness_that_comes_or_goes_costs_no_kernel_message_and_says_so(
    health: ProbeHealth, name: str, severity: Severity, words: str
) -> None:
    [event] = Pipeline(node="n").probe_changed(health, boot_id=BOOT, at_us=1, wall_us=EPOCH_US)
    assert (event.kind, event.name, event.severity, event.summary) == (Kind.PROBE, name, severity, words)
    assert event.detail["reason"] == health.reason


class TestWitnesses:
    def test_the_same_record_from_a_second_probe_is_a_witness_not_a_repeat(self) -> None:
        heard = Heard()
        heard.say(FAULT_31, 1_000)
        heard.say(FAULT_31, 1_000, arrival_us=3_000, probe="klog")
        heard.pass_time(10_000_000)
        [event] = heard.events()
        assert event.count == 1
        assert [(witness.probe, witness.delay_us) for witness in event.witnesses] == [
            ("kmsg", 0),
            ("klog", 2_000),
        ]

    def test_two_real_repeats_are_never_merged(self) -> None:
        heard = Heard()
        for probe in ("kmsg", "kmsg", "klog", "klog"):
            heard.say(FAULT_31, 1_000, probe=probe)
        heard.pass_time(10_000_000)
        [event] = heard.events()
        assert event.count == 2


def restarted(pipeline: Pipeline, *, boot_id: str = BOOT, now_us: int = 0) -> Heard:
    """Another process that takes up the state of `pipeline`."""
    heard = Heard(Pipeline(node="test-node"), real_gpus=())
    saved = pipeline.snapshot()
    heard.revisions += heard.pipeline.restore(saved, boot_id=boot_id, now_us=now_us)
    return heard


class TestRestart:
    def test_counting_goes_on_where_it_stopped(self) -> None:
        before = Heard()
        before.pipeline.restore(Snapshot({}, None), boot_id=BOOT, now_us=0)
        for n in range(3):
            before.say(FAULT_31, 1_000 + n)
        after = restarted(before.pipeline)
        after.say(FAULT_31, 5_000)
        after.pass_time(10_000_000)
        [event] = after.events()
        assert event.id == before.revisions[0].id
        assert event.count == 4
        assert event.revision > before.revisions[-1].revision
        assert event.gpu is not None
        assert event.gpu.uuid == UUID

    def test_a_pending_revision_still_goes_out(self) -> None:
        before = Heard()
        for n in range(3):
            before.say(FAULT_31, 1_000 + n)
        assert before.revisions[-1].count == 1
        after = restarted(before.pipeline)
        [event] = after.pass_time(10_000_000)
        assert event.count == 3

    def test_a_held_fault_is_not_lost(self) -> None:
        opening = xid(13, "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address")
        before = Heard()
        before.say(opening, 1_000_000)
        before.pass_time(2_000_000)
        before.say(opening, 2_500_000)
        after = restarted(before.pipeline)
        after.say(xid(13, "pid=452, name=fault, Graphics Exception: channel 0x0a, Class 0000cbc0"), 2_501_000)
        [event] = after.events()
        assert event.process is not None
        assert (event.process.pid, event.count, len(event.lines)) == (452, 1, 2)

    def test_faults_of_another_boot_say_their_last_word_and_are_over(self) -> None:
        before = Heard()
        for n in range(3):
            before.say(FAULT_31, 1_000 + n)
        after = restarted(before.pipeline, boot_id="another")
        assert [event.count for event in after.revisions] == [3]
        assert all(key.startswith(PREFIX) for key in after.pipeline.snapshot().faults)

    def test_unreadable_state_is_counted_and_left_out(self) -> None:
        pipeline = Pipeline(node="n")
        pipeline.restore(Snapshot({"ev_1": "{", "ev_2": "[]"}, "nonsense"), boot_id=BOOT, now_us=0)
        assert pipeline.counters.state_errors == 3
        assert pipeline.take_changes().dropped == {"ev_1", "ev_2"}

    def test_changes_written_one_by_one_amount_to_the_snapshot(self) -> None:
        heard = Heard()
        kept: dict[str, str] = {}
        context = None
        for n in range(200):
            heard.say(xid(13 + n % 3, f"pid={n % 7}, name=a, x"), n * 400_000)
            changes = heard.pipeline.take_changes()
            kept.update(changes.faults)
            for key in changes.dropped:
                kept.pop(key, None)
            context = changes.context or context
        snapshot = heard.pipeline.snapshot()
        assert kept == snapshot.faults
        assert context is not None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=200), st.integers(0, 10**13)), max_size=20))
def test_no_text_makes_the_pipeline_raise(lines: list[tuple[str, int]]) -> None:
    heard = Heard(Pipeline(node="n", allow_drills=True))
    for text, at_us in lines:
        for origin in Origin:
            heard.say(text, at_us, origin=origin)
            heard.say("NVRM: Xid (PCI:0000:91:00): " + text, at_us, origin=origin)


@pytest.mark.parametrize("origin", [Origin.KERNEL, Origin.USERSPACE])
def test_control_characters_never_leave_the_program(origin: Origin) -> None:
    heard = Heard(Pipeline(node="n", allow_drills=True))
    text = xid(31, "pid=5, name=\x1b[2Jevil\x00\u202e, channel \x07")
    [event] = [*heard.pipeline.feed(record(text, 1, origin=origin))]
    public = json.dumps(to_dict(event, 1, stored=True), ensure_ascii=False)
    assert all(character.isprintable() for character in json.loads(public)["lines"][0])
    assert "\x1b" not in public
    assert "\u202e" not in public


def test_other_gpus_are_told_apart() -> None:
    heard = Heard()
    heard.say(FAULT_31, 1)
    heard.say(FAULT_31.replace(GPU, OTHER_GPU), 2)
    assert [event.count for event in heard.events()] == [1, 1]


@pytest.mark.parametrize("forged", [3, 2])
def test_unconfirmed_repeats_that_the_log_disproves_keep_their_count_where_they_become_a_drill(
    forged: int,
) -> None:
    heard = Heard(Pipeline(node="n", allow_drills=True))
    stamps = [1_000_000 + n * 100_000 for n in range(forged)]
    for at_us in stamps:
        heard.take(record(FAULT_31, at_us, arrival_us=at_us + 50, origin=Origin.UNKNOWN, probe="bpf"))
        heard.pass_time(at_us + 50_000)
    for at_us in stamps:
        heard.take(record(FAULT_31, at_us, arrival_us=at_us + 600_000, origin=Origin.USERSPACE))
    heard.pass_time(20_000_000)
    [event] = heard.events()
    assert (event.drill, event.origin, event.count) == (True, Origin.USERSPACE, forged)


def test_of_unconfirmed_repeats_only_those_count_that_no_process_wrote() -> None:
    heard = Heard(Pipeline(node="n", allow_drills=True))
    stamps = (1_000_000, 1_100_000, 1_200_000)
    for at_us in stamps:
        heard.take(record(FAULT_31, at_us, arrival_us=at_us + 50, origin=Origin.UNKNOWN, probe="bpf"))
        heard.pass_time(at_us + 50_000)
    for at_us, origin in zip(stamps, (Origin.USERSPACE, Origin.USERSPACE, Origin.KERNEL), strict=True):
        heard.take(record(FAULT_31, at_us, arrival_us=at_us + 600_000, origin=origin))
    heard.pass_time(20_000_000)
    [event] = heard.events()
    assert (event.drill, event.origin, event.count) == (False, Origin.KERNEL, 1)
