"""NVML's word beside the log's: one event for one fault, whichever comes first, and alone without the log."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from daemon.event import Event, Kind, Mig, Severity, Witness, from_dict, to_dict
from daemon.nvml_witness import BELONGS_US, LOG_WAIT_US, NvmlEvent, NvmlEventKind
from daemon.pipeline import Pipeline, Snapshot
from probes.line import KernelLine, Origin
from tests.support.records import BOOT, EPOCH_US, GPU, OTHER_GPU, UUID, Heard, record, xid

MS = 1_000
SECOND = 1_000_000
PCI = f"{GPU}.0"
FAULT_31 = xid(31, "pid=446, name=fault, channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS")
FAULT_79 = xid(79, "pid=666, name=victim, GPU has fallen off the bus.")
OPENING_13 = xid(13, "pid=5, name=a, Graphics SM Warp Exception on (GPC 0, TPC 0, SM 0): Out Of Range")
CLOSING_13 = xid(13, "pid=5, name=a, Graphics Exception: ChID 000a, Class 0000cbc0, Offset 00000000")


def said(
    code: int | None = 31,
    at_us: int = SECOND,
    *,
    what: NvmlEventKind = NvmlEventKind.XID,
    pci: str = PCI,
    mig: Mig | None = None,
) -> NvmlEvent:
    """What NVML says at this arrival time."""
    return NvmlEvent(what, code, pci, mig, at_us, EPOCH_US + at_us, BOOT)


class Both(Heard):
    """Hears the log and NVML."""

    def nvml(self, event: NvmlEvent) -> list[Event]:
        """NVML says this; the revisions it led to."""
        news = self.kept(self.pipeline.nvml_said(event))
        self.revisions += news
        return news


def test_after_the_line_nvml_is_a_witness_with_its_delay() -> None:
    heard = Both()
    [event] = heard.say(FAULT_31, SECOND)
    assert heard.nvml(said(at_us=SECOND + 40 * MS)) == []  # not at once: at most a revision a second
    heard.pass_time(3 * SECOND)
    [last] = heard.events()
    assert last.id == event.id
    assert last.witnesses == (Witness("kmsg", 0), Witness("nvml", 40 * MS))
    assert (last.count, last.lines, last.revision) == (1, (FAULT_31,), 2)


def test_before_the_line_nvml_waits_and_joins_the_event_of_the_line() -> None:
    heard = Both()
    assert heard.nvml(said()) == []
    [event] = heard.say(FAULT_31, SECOND + 3 * MS)
    heard.pass_time(10 * SECOND)
    [last] = heard.events()
    assert last.id == event.id
    assert last.witnesses == (Witness("kmsg", 0), Witness("nvml", 0))
    assert heard.pipeline.counters.nvml_alone == 0


def test_without_a_line_nvml_stands_alone_after_its_wait_and_says_so() -> None:
    heard = Both()
    heard.nvml(said(48, mig=Mig(5, 0)))
    assert heard.pass_time(SECOND + LOG_WAIT_US - 1) == []
    [event] = heard.pass_time(SECOND + LOG_WAIT_US)
    assert (event.kind, event.code, event.origin, event.lines) == (Kind.XID, 48, Origin.KERNEL, ())
    assert event.severity.rank >= Severity.CRITICAL.rank
    assert event.gpu is not None
    assert (event.gpu.pci, event.gpu.uuid, event.gpu.mig) == (PCI, UUID, Mig(5, 0))
    assert event.time_us == EPOCH_US + SECOND
    assert event.detail["heard_by"] == "NVML alone: the kernel log has no line of it"
    assert event.witnesses == (Witness("nvml", 0),)
    assert from_dict(json.loads(json.dumps(to_dict(event, 1, stored=True)))) == event


def test_a_line_after_that_becomes_part_of_the_event_and_makes_no_second_one() -> None:
    heard = Both()
    heard.nvml(said())
    [alone] = heard.pass_time(2 * SECOND)
    heard.say(FAULT_31, SECOND - 2 * MS, arrival_us=2 * SECOND, seq=17)
    heard.pass_time(10 * SECOND)
    [last] = heard.events()
    assert (last.id, last.count, last.lines, last.kmsg_seq) == (alone.id, 1, (FAULT_31,), 17)
    assert last.process is not None
    assert last.process.pid == 446
    assert "heard_by" not in last.detail
    assert last.witnesses == (Witness("nvml", 0), Witness("kmsg", SECOND))


def test_then_the_log_counts_its_repeats() -> None:
    heard = Both()
    heard.nvml(said())
    heard.nvml(said(at_us=SECOND + 100 * MS))
    [*_, alone] = heard.pass_time(4 * SECOND)
    assert alone.count == 2
    for at_us in (SECOND, SECOND + 100 * MS):
        heard.say(FAULT_31, at_us, arrival_us=4 * SECOND)
    heard.pass_time(10 * SECOND)
    assert [(event.id, event.count) for event in heard.events()] == [(alone.id, 2)]


def test_all_lines_of_a_fault_that_nvml_told_first_belong_to_its_event() -> None:
    heard = Both()
    heard.nvml(said(13))
    heard.pass_time(2 * SECOND)
    for text in (OPENING_13, CLOSING_13):
        heard.say(text, SECOND, arrival_us=2 * SECOND)
    heard.pass_time(10 * SECOND)
    [last] = heard.events()
    assert (last.count, last.lines) == (1, (OPENING_13, CLOSING_13))


def test_a_burst_that_nvml_merges_gives_it_only_to_the_event_it_names() -> None:
    heard = Both()
    for code, at_us in ((13, 0), (13, 1), (13, 2), (43, 3)):
        heard.say(xid(code, f"pid=5, name=a, channel {code}"), SECOND + at_us * MS)
    heard.nvml(said(43, SECOND + 60 * MS))
    heard.pass_time(10 * SECOND)
    witnesses = {event.code: [each.probe for each in event.witnesses] for event in heard.events()}
    assert witnesses == {13: ["kmsg"], 43: ["kmsg", "nvml"]}


def test_two_words_for_two_processes_are_given_to_both_events() -> None:
    heard = Both()
    for pid in (7, 8):
        heard.say(xid(31, f"pid={pid}, name=a, channel 0x0a"), SECOND)
    for after_ms in (20, 30):
        heard.nvml(said(at_us=SECOND + after_ms * MS))
    heard.pass_time(10 * SECOND)
    assert sorted(event.witnesses[-1].delay_us for event in heard.events()) == [20 * MS, 30 * MS]


@pytest.mark.parametrize(
    "word",
    [
        said(43),
        said(pci=f"{OTHER_GPU}.0"),
        said(at_us=SECOND + BELONGS_US + 1),
        replace(said(), boot_id="another"),
    ],
    ids=["another code", "another gpu", "too late", "another boot"],
)
def test_a_word_about_something_else_is_an_event_of_its_own(word: NvmlEvent) -> None:
    heard = Both()
    heard.say(FAULT_31, SECOND)
    heard.nvml(word)
    heard.pass_time(20 * SECOND)
    assert [[each.probe for each in event.witnesses] for event in heard.events()] == [["kmsg"], ["nvml"]]


def test_a_word_about_another_mig_instance_is_an_event_of_its_own() -> None:
    heard = Both()
    heard.say(xid(94, "pid=1, name=a, Contained: SM (0x1)", f"{GPU} GPU-I:05"), SECOND)
    heard.nvml(said(94, mig=Mig(6, None)))
    heard.nvml(said(94, mig=Mig(5, 0)))
    heard.pass_time(20 * SECOND)
    found = {event.gpu.mig.gi: [each.probe for each in event.witnesses] for event in heard.events()}  # type: ignore[union-attr]  # each has both
    assert found == {5: ["kmsg", "nvml"], 6: ["nvml"]}


def test_what_no_one_can_prove_is_not_proved_by_nvml() -> None:
    heard = Both()
    heard.say(FAULT_31, SECOND, origin=Origin.UNKNOWN)
    heard.nvml(said())
    heard.pass_time(10 * SECOND)
    assert [(event.origin, len(event.witnesses)) for event in heard.events()] == [
        (Origin.UNKNOWN, 1),
        (Origin.KERNEL, 1),
    ]


def by_bpf(text: str, printed_us: int) -> KernelLine:
    return record(text, printed_us, arrival_us=printed_us + 50, origin=Origin.UNKNOWN, probe="bpf")


def unconfirmed_then_said() -> tuple[Both, Event]:
    """Only eBPF heard a line, and then NVML told of that device and code."""
    heard = Both()
    heard.take(by_bpf(FAULT_79, SECOND))
    [doubted] = heard.pass_time(SECOND + 25 * MS)
    assert (doubted.origin, doubted.severity) == (Origin.UNKNOWN, Severity.WARNING)
    heard.nvml(said(79, SECOND + 40 * MS))
    heard.pass_time(2 * SECOND)
    return heard, doubted


def test_what_only_ebpf_heard_is_the_event_of_nvml_and_says_what_nvml_proves() -> None:
    heard, doubted = unconfirmed_then_said()
    [event] = heard.events()
    assert (event.id, event.count) == (doubted.id, 1)
    assert (event.origin, event.severity, event.code) == (Origin.KERNEL, Severity.FATAL, 79)
    assert (event.lines, event.process) == ((), None)
    assert [each.probe for each in event.witnesses] == ["bpf", "nvml"]
    assert "victim" not in json.dumps(to_dict(event, 1, stored=True))


def test_the_log_completes_that_event() -> None:
    heard, doubted = unconfirmed_then_said()
    heard.take(record(FAULT_79, SECOND, arrival_us=2 * SECOND + 1, seq=7))
    heard.pass_time(10 * SECOND)
    [event] = heard.events()
    assert (event.id, event.count, event.lines) == (doubted.id, 1, (FAULT_79,))
    assert event.process is not None
    assert event.process.pid == 666
    assert "heard_by" not in event.detail


def test_where_the_log_shows_that_the_line_was_forged_the_word_of_nvml_stands() -> None:
    heard, doubted = unconfirmed_then_said()
    heard.take(record(FAULT_79, SECOND, arrival_us=2 * SECOND + 1, origin=Origin.USERSPACE, seq=7))
    true = xid(79, "pid=5, name=true, GPU has fallen off the bus.")
    heard.take(
        replace(record(true, SECOND + 10 * MS, arrival_us=2 * SECOND + 2, seq=8), wall_us=EPOCH_US + SECOND)
    )
    heard.pass_time(10 * SECOND)
    [event] = heard.events()
    assert (event.id, event.count, event.lines, event.origin) == (doubted.id, 1, (true,), Origin.KERNEL)


@pytest.mark.parametrize("word", [said(31), said(79, pci=f"{OTHER_GPU}.0")], ids=["code", "gpu"])
def test_nvml_does_not_raise_a_line_of_another_code_or_gpu(word: NvmlEvent) -> None:
    heard = Both()
    heard.take(by_bpf(FAULT_79, SECOND))
    heard.nvml(word)
    heard.pass_time(10 * SECOND)
    found = {tuple(each.probe for each in event.witnesses): event.origin for event in heard.events()}
    assert found == {("bpf",): Origin.UNKNOWN, ("nvml",): Origin.KERNEL}


def test_a_changed_recovery_action_is_the_xid_154_of_the_log() -> None:
    heard = Both()
    text = xid(154, "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)")
    heard.nvml(said(None, what=NvmlEventKind.RECOVERY_ACTION))
    [alone] = heard.pass_time(2 * SECOND)
    assert (alone.kind, alone.code, alone.name) == (Kind.NVRM, None, "GPU_RECOVERY_ACTION_CHANGED")
    heard.nvml(said(154))
    heard.say(text, SECOND, arrival_us=2 * SECOND)
    heard.nvml(said(None, 2 * SECOND, what=NvmlEventKind.RECOVERY_ACTION))
    heard.pass_time(10 * SECOND)
    [last] = heard.events()
    assert (last.id, last.kind, last.code, last.count) == (alone.id, Kind.XID, 154, 1)
    assert last.detail["recovery_to"] == 1


@pytest.mark.parametrize("first", ["nvml", "log"])
def test_an_unavailable_gpu_is_the_fatal_fault_of_the_log(first: str) -> None:
    heard = Both()
    word = said(None, what=NvmlEventKind.GPU_UNAVAILABLE)
    if first == "nvml":
        heard.nvml(word)
        [alone] = heard.pass_time(2 * SECOND)
        assert (alone.kind, alone.name, alone.severity) == (Kind.NVRM, "GPU_UNAVAILABLE", Severity.FATAL)
    heard.say(xid(79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus."), SECOND)
    if first == "log":
        heard.nvml(word)
    heard.pass_time(10 * SECOND)
    [last] = heard.events()
    assert (last.kind, last.code, len(last.witnesses)) == (Kind.XID, 79, 2)


def test_an_ecc_storm_stands_alone_as_what_it_means() -> None:
    heard = Both()
    heard.nvml(said(None, what=NvmlEventKind.ECC_STORM))
    [event] = heard.pass_time(2 * SECOND)
    assert (event.kind, event.code, event.name) == (Kind.NVRM, None, "EXCESSIVE_SBE_INTERRUPTS")
    assert event.detail["nvml_event"] == "ecc_storm"


def test_after_a_restart_the_line_still_joins_what_nvml_told() -> None:
    heard = Both()
    heard.nvml(said())
    [alone] = heard.pass_time(2 * SECOND)
    again = Both(Pipeline(node="test-node"))
    again.pipeline.restore(heard.pipeline.snapshot(), boot_id=BOOT, now_us=2 * SECOND)
    old = replace(record(FAULT_31, SECOND, arrival_us=30 * SECOND), wall_us=EPOCH_US + SECOND)
    again.take(old)
    again.pass_time(60 * SECOND)
    [last] = again.events()
    assert (last.id, last.lines) == (alone.id, (FAULT_31,))


@pytest.mark.parametrize("log_has_it", [True, False])
def test_what_waited_when_the_process_was_killed_is_not_lost(log_has_it: bool) -> None:
    heard = Both()
    heard.nvml(said())
    assert heard.pipeline.has_changes
    kept = heard.pipeline.take_changes().faults
    assert not heard.pipeline.has_changes
    again = Both(Pipeline(node="test-node"))
    again.pipeline.restore(Snapshot(kept, None), boot_id=BOOT, now_us=9 * SECOND)
    if log_has_it:
        again.take(replace(record(FAULT_31, SECOND, arrival_us=9 * SECOND), wall_us=EPOCH_US + SECOND))
    again.pass_time(60 * SECOND)
    [last] = again.events()
    assert (last.code, last.time_us) == (31, EPOCH_US + SECOND)
    assert [each.probe for each in last.witnesses] == (["kmsg", "nvml"] if log_has_it else ["nvml"])


def test_what_no_longer_waits_is_no_longer_kept() -> None:
    heard = Both()
    heard.nvml(said())
    (key,) = heard.pipeline.take_changes().faults
    heard.say(FAULT_31, SECOND)
    changes = heard.pipeline.take_changes()
    assert key in changes.dropped
    assert key not in changes.faults


def test_what_is_kept_and_cannot_be_read_is_counted_and_left_out() -> None:
    pipeline = Pipeline(node="test-node")
    pipeline.restore(Snapshot({"nvml waiting": '[{"mig": null}]'}, None), boot_id=BOOT, now_us=0)
    assert pipeline.counters.state_errors == 1
    assert "nvml waiting" in pipeline.take_changes().dropped


def test_in_a_storm_of_the_whole_node_a_word_still_finds_its_own_event() -> None:
    heard = Both(real_gpus=())
    for number in range(60):
        heard.say(xid(number + 1, "a", f"0000:{number + 1:02x}:00"), SECOND + number)
    heard.say(xid(1, "a", "0000:01:00"), SECOND + 100)
    heard.nvml(said(1, SECOND + 200, pci="0000:01:00.0"))
    heard.pass_time(20 * SECOND)
    [told] = [event for event in heard.events() if len(event.witnesses) == 2]
    assert (told.kind, told.device) == (Kind.XID, "0000:01:00.0")


def test_a_storm_that_is_counted_and_not_listed_is_not_listed_by_nvml_either() -> None:
    heard = Both()
    for pid in range(1, 60):
        heard.say(xid(31, f"pid={pid}, name=a, channel 0x0a"), SECOND + pid)
    before = len(heard.events())
    for at_ms in range(40):
        heard.nvml(said(at_us=SECOND + at_ms * MS))
    heard.pass_time(20 * SECOND)
    assert len(heard.events()) == before
