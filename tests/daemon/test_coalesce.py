"""Lines of one fault, repeats of one fault, and the limits on what one device may say."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.allowance import NEW_EVENTS
from daemon.event import Kind, Severity
from daemon.fault import MAX_LINES
from probes.kmsg_record import parse
from tests.support.records import GPU, OTHER_GPU, Heard, record, xid

SECOND = 1_000_000
WARP = xid(13, "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address")
ESR = xid(13, "Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0 0x519728=0x1f81fb60 0x51972c=0x1174")
CAPTURE = Path(__file__).parents[3] / "shared" / "data" / "h200_capture.jsonl"


def closing(pid: int) -> str:
    return xid(
        13, f"pid={pid}, name=fault, Graphics Exception: channel 0x0000000a, Class 0000cbc0, Data 0017e2ac"
    )


def mmu(pid: int, gpu: str = GPU) -> str:
    return xid(
        31, f"pid={pid}, name=fault, channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS", gpu
    )


class TestLinesOfOneFault:
    def test_the_lines_of_an_xid_13_are_one_event_that_is_out_with_the_first_of_them(self) -> None:
        heard = Heard()
        [first] = heard.say(WARP, 1_000)
        assert (first.revision, first.process) == (1, None)
        assert heard.say(ESR, 2_500) == []
        [complete] = heard.say(closing(452), 4_000)
        assert (complete.revision, complete.count) == (2, 1)
        assert complete.process is not None
        assert complete.process.pid == 452
        assert complete.lines == (WARP, ESR, closing(452))

    def test_without_a_closing_line_the_fault_is_complete_after_100_ms_of_silence(self) -> None:
        heard = Heard()
        heard.say(WARP, 1_000)
        heard.say(ESR, 2_000)
        assert heard.pass_time(101_999) == []
        [complete] = heard.pass_time(102_000)
        assert (complete.revision, len(complete.lines)) == (2, 2)

    def test_a_line_of_another_fault_on_the_device_completes_it(self) -> None:
        heard = Heard()
        heard.say(WARP, 1_000)
        heard.say(ESR, 2_000)
        complete, other = heard.say(xid(43, "pid=480, name=fault, channel 0x0000000a"), 3_000)
        assert (complete.code, complete.revision, other.code) == (13, 2, 43)

    def test_a_line_of_another_device_does_not(self) -> None:
        heard = Heard()
        heard.say(WARP, 1_000)
        heard.say(mmu(7, OTHER_GPU), 1_500)
        heard.say(closing(452), 2_000)
        assert [(event.code, len(event.lines)) for event in heard.events()] == [(13, 2), (31, 1)]

    def test_a_closing_line_alone_is_a_whole_fault(self) -> None:
        heard = Heard()
        [event] = heard.say(closing(452), 1_000)
        assert event.process is not None
        assert event.process.pid == 452
        assert heard.pass_time(60 * SECOND) == []

    def test_an_sxid_is_one_event_with_its_severity_and_data_lines(self) -> None:
        heard = Heard(real_gpus=())
        head = "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)"
        heard.say(head, 1_000)
        heard.say(
            "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Severity 1 Engine instance 30",
            1_010,
        )
        heard.say("nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Data {0x00000001, 0x00000000}", 1_020)
        heard.pass_time(SECOND)
        [event] = heard.events()
        assert (event.kind, event.code, event.count, len(event.lines)) == (Kind.SXID, 20034, 1, 3)
        assert event.nvswitch is not None
        assert (event.nvswitch.pci, event.nvswitch.instance) == ("0000:a9:00.0", 3)
        assert event.gpu is None

    @pytest.mark.parametrize("order", [1, -1])
    def test_an_xid_79_and_its_fallen_off_the_bus_line_are_one_event_in_either_order(
        self, order: int
    ) -> None:
        heard = Heard()
        pair = [
            xid(79, "pid=5, name=a, GPU has fallen off the bus."),
            f"NVRM: GPU {GPU}.0: GPU has fallen off the bus.",
        ]
        for n, text in enumerate(pair[::order]):
            heard.say(text, 1_000 + n)
        heard.pass_time(10 * SECOND)
        [event] = heard.events()
        assert (event.kind, event.code, event.count, len(event.lines)) == (Kind.XID, 79, 1, 2)
        assert event.severity is Severity.FATAL

    def test_two_xid_79s_of_different_processes_are_two_faults(self) -> None:
        heard = Heard()
        for pid in (446, 447):
            heard.say(xid(79, f"pid={pid}, name=a, GPU has fallen off the bus."), pid)
        heard.say(f"NVRM: GPU {GPU}.0: GPU has fallen off the bus.", 500)
        heard.pass_time(10 * SECOND)
        told = [
            (event.process and event.process.pid, event.count, len(event.lines)) for event in heard.events()
        ]
        assert told == [(446, 1, 1), (447, 1, 2)]

    def test_a_gpu_lost_without_an_xid_is_an_event(self) -> None:
        heard = Heard(real_gpus=())
        [event] = heard.say(
            "NVRM: The NVIDIA GPU 0000:b3:00.0\nNVRM: (PCI ID: 10de:2335) installed in this system has\n"
            "NVRM: fallen off the bus and is not responding to commands.",
            1_000,
        )
        assert (event.kind, event.code) == (Kind.GPU_LOST, None)
        assert event.gpu is not None
        assert event.gpu.pci == "0000:b3:00.0"

    def test_the_dump_after_a_119_belongs_to_it(self) -> None:
        heard = Heard()
        heard.say(
            xid(
                119,
                "pid=7, name=a, Timeout after 6s of waiting for RPC response from GPU0 GSP!",
            ),
            1_000,
        )
        heard.say(
            "NVRM: GPU0 GSP RPC buffer contains function 76 (GSP_RM_CONTROL) and data 0x20801 0x4.", 1_010
        )
        heard.pass_time(10 * SECOND)
        [event] = heard.events()
        assert (event.code, event.count, len(event.lines)) == (119, 1, 2)

    def test_a_dump_without_its_xid_is_counted_and_is_no_event(self) -> None:
        heard = Heard()
        heard.say(
            "NVRM: GPU0 GSP RPC buffer contains function 76 (GSP_RM_CONTROL) and data 0x20801 0x4.", 1_010
        )
        assert heard.events() == []
        assert heard.pipeline.unattached == 1


class TestTheSameFaultAgain:
    def test_repeats_are_counted_and_told_once_a_second(self) -> None:
        heard = Heard()
        for n in range(3_000):
            heard.say(mmu(446), n * 1_000)
        heard.pass_time(60 * SECOND)
        [event] = heard.events()
        assert event.count == 3_000
        assert event.last_time_us - event.time_us == 2_999_000
        assert len(heard.revisions) == 4

    def test_the_last_pending_revision_always_goes_out(self) -> None:
        heard = Heard()
        heard.say(mmu(446), 0)
        heard.say(mmu(446), 10)
        assert [event.count for event in heard.pass_time(SECOND)] == [2]
        assert heard.pipeline.next_deadline() is None

    def test_after_the_quiet_gap_it_is_a_new_event(self) -> None:
        heard = Heard()
        heard.say(mmu(446), 0)
        heard.say(mmu(446), 5 * SECOND)
        heard.say(mmu(446), 10 * SECOND + 1)
        heard.pass_time(60 * SECOND)
        assert [event.count for event in heard.events()] == [2, 1]

    def test_the_gap_is_one_of_kernel_time_however_late_the_lines_are_read(self) -> None:
        heard = Heard()
        for at_us in (0, 6 * SECOND, 12 * SECOND):
            heard.say(mmu(446), at_us, arrival_us=100 * SECOND)
        assert [event.count for event in heard.events()] == [1, 1, 1]

    @pytest.mark.parametrize(
        "other",
        [
            mmu(447),
            mmu(446, OTHER_GPU),
            mmu(446, f"{GPU} GPU-I:01"),
            xid(32, "pid=446, name=fault, x"),
            xid(31, "channel 0x0000000a"),
        ],
    )
    def test_another_pid_device_mig_instance_or_code_is_another_fault(self, other: str) -> None:
        heard = Heard()
        heard.say(mmu(446), 0)
        heard.say(other, 1)
        heard.say(mmu(446), 2)
        heard.pass_time(SECOND)
        assert [event.count for event in heard.events()] == [2, 1]

    def test_an_unknown_pid_equals_an_unknown_pid(self) -> None:
        heard = Heard()
        heard.say(xid(63, "Row Remapper: New row marked"), 0)
        heard.say(xid(63, "pid='<unknown>', name=<unknown>, Row Remapper: New row marked"), 1)
        heard.pass_time(SECOND)
        assert [event.count for event in heard.events()] == [2]

    def test_a_repeat_that_is_worse_makes_the_event_worse(self) -> None:
        heard = Heard()
        [first] = heard.say(
            xid(149, "NETIR_LINK_EVT  Nonfatal   XC0 i0 Link 01 (0x021425c6 0x0 0x0 0x0 0x0 0x0)"), 0
        )
        heard.say(xid(149, "NETIR_LINK_EVT  Fatal   XC0 i0 Link 02 (0x021425c6 0x0 0x0 0x0 0x0 0x0)"), 1)
        [worse] = heard.pass_time(SECOND)
        assert worse.severity.rank > first.severity.rank
        assert worse.count == 2

    def test_a_fault_that_has_fallen_silent_leaves_memory_though_nothing_else_is_due(self) -> None:
        heard = Heard()
        for number in range(100):
            heard.say(mmu(1000 + number), number * 60 * SECOND)
        open_faults = [key for key in heard.pipeline.snapshot().faults if key.startswith("ev_")]
        assert len(open_faults) <= 17


class TestHolding:
    def test_an_opening_line_inside_the_gap_is_held_and_counted_as_a_repeat_if_the_pid_is_equal(self) -> None:
        heard = Heard()
        for start in (0, SECOND, 2 * SECOND):
            for n, text in enumerate((WARP, ESR, closing(452))):
                heard.say(text, start + n * 1_500)
        heard.pass_time(60 * SECOND)
        [event] = heard.events()
        assert event.count == 3
        assert event.lines == (WARP, ESR, closing(452))
        assert event.lines_dropped == 6

    def test_it_becomes_an_event_of_its_own_if_the_pid_is_another(self) -> None:
        heard = Heard()
        for n, text in enumerate((WARP, ESR, closing(452))):
            heard.say(text, n * 1_500)
        assert heard.say(WARP, SECOND) == []
        assert heard.say(ESR, SECOND + 1_500) == []
        [event] = heard.say(closing(470), SECOND + 3_000)
        assert (event.revision, event.count) == (1, 1)
        assert event.process is not None
        assert event.process.pid == 470
        assert event.lines == (WARP, ESR, closing(470))
        assert event.time_us - heard.revisions[0].time_us == SECOND

    def test_it_is_held_for_100_ms_of_silence_at_the_most(self) -> None:
        heard = Heard()
        heard.say(closing(452), 0)
        heard.say(WARP, SECOND)
        assert heard.pass_time(SECOND + 99_999) == []
        [event] = heard.pass_time(SECOND + 100_000)
        assert (event.process, event.lines) == (None, (WARP,))

    def test_an_opening_line_heard_again_means_that_it_happened_again(self) -> None:
        heard = Heard()
        for n in range(1_000):
            heard.say(WARP, n * 10)
        heard.pass_time(60 * SECOND)
        [event] = heard.events()
        assert event.count == 1_000
        assert len(event.lines) + event.lines_dropped == 1_000

    def test_a_fault_of_hundreds_of_lines_on_a_slow_console_is_one_fault(self) -> None:
        heard = Heard()
        for n in range(300):
            heard.say(WARP.replace("GPC 1, TPC 4", f"GPC {n // 30}, TPC {n % 30}"), n * 10_000)
        heard.say(closing(452), 3_000_000)
        heard.pass_time(60 * SECOND)
        [event] = heard.events()
        assert (event.count, len(event.lines), event.lines_dropped) == (1, MAX_LINES, 301 - MAX_LINES)
        assert event.process is not None
        assert event.process.pid == 452


class TestOverflow:
    def test_the_21st_new_event_in_10_s_folds_into_one_that_counts(self) -> None:
        heard = Heard()
        for pid in range(1, 1 + 1_000):
            heard.say(mmu(pid), pid * 100)
        heard.pass_time(60 * SECOND)
        *single, overflow = heard.events()
        assert [event.kind for event in single] == [Kind.XID] * NEW_EVENTS
        assert (overflow.kind, overflow.code, overflow.count) == (Kind.OVERFLOW, 31, 1_000 - NEW_EVENTS)
        assert overflow.detail["distinct_pids"] == 1_000 - NEW_EVENTS
        assert overflow.detail["lines"] == 1_000 - NEW_EVENTS
        assert overflow.gpu is not None
        assert overflow.gpu.pci == f"{GPU}.0"

    def test_faults_of_several_lines_fold_as_one_fault_each(self) -> None:
        heard = Heard()
        for pid in range(1, 1 + 50):
            for n, text in enumerate((WARP, ESR, closing(pid))):
                heard.say(text, pid * 10_000 + n)
        heard.pass_time(60 * SECOND)
        overflow = heard.events()[-1]
        assert (overflow.kind, overflow.count) == (Kind.OVERFLOW, 50 - NEW_EVENTS)
        assert overflow.detail["lines"] == 3 * (50 - NEW_EVENTS)

    def test_each_real_gpu_has_an_allowance_of_its_own(self) -> None:
        heard = Heard()
        for pid in range(1, 1 + 100):
            heard.say(mmu(pid), pid * 100)
        [event] = heard.say(mmu(7, OTHER_GPU), 20_000)
        assert event.kind is Kind.XID

    def test_addresses_that_never_matched_a_real_gpu_share_one(self) -> None:
        heard = Heard(real_gpus=())
        for n in range(200):
            heard.say(mmu(7, f"0000:{n:02x}:00"), n * 100)
        heard.pass_time(60 * SECOND)
        assert sum(event.kind is Kind.XID for event in heard.events()) == NEW_EVENTS
        overflows = [event for event in heard.events() if event.kind is Kind.OVERFLOW]
        assert len(overflows) == NEW_EVENTS + 1
        assert sum(event.count for event in overflows) == 200 - NEW_EVENTS
        assert overflows[-1].gpu is None

    def test_a_storm_of_milder_faults_does_not_fold_the_gpus_own_end(self) -> None:
        heard = Heard()
        for pid in range(1, 1 + 100):
            heard.say(mmu(pid), pid * 100)
        [event] = heard.say(xid(79, "pid=7, name=a, GPU has fallen off the bus."), 20_000)
        assert (event.kind, event.code, event.severity) == (Kind.XID, 79, Severity.FATAL)

    def test_critical_faults_are_limited_as_well(self) -> None:
        heard = Heard()
        for pid in range(1, 1 + 30):
            heard.say(xid(48, f"pid={pid}, name=a, DBE"), pid * 100)
        heard.pass_time(60 * SECOND)
        *single, overflow = heard.events()
        assert len(single) == NEW_EVENTS
        assert (overflow.kind, overflow.code, overflow.count) == (Kind.OVERFLOW, 48, 30 - NEW_EVENTS)
        assert overflow.severity.rank >= Severity.CRITICAL.rank
        assert overflow.summary == f"More Xid 48 on {GPU}.0 than are listed one by one: counted here"


def test_the_capture_of_a_real_h200_is_one_event_per_fault() -> None:
    if not CAPTURE.exists():
        pytest.skip(f"{CAPTURE} is not here: the capture is not part of the repository")
    heard = Heard(real_gpus=())
    for row in map(json.loads, CAPTURE.read_text().splitlines()):
        if row["witness"] != "kmsg":
            continue
        kmsg = parse(row["record"].encode())
        assert kmsg is not None
        heard.pass_time(row["monotonic_ns"] // 1_000)
        heard.take(record(kmsg.text, kmsg.kernel_us, arrival_us=row["monotonic_ns"] // 1_000, seq=kmsg.seq))
    heard.pass_time(100 * SECOND)
    told = [(event.code, event.process and event.process.pid) for event in heard.events()]
    assert told == [(31, 446), (13, 452), (43, 458), (43, 464), (13, 470), (13, None), (43, 480), (31, 486)]
    assert {event.count for event in heard.events()} == {1}
    assert {event.blame for event in heard.events()} == {"application"}
    assert {event.gpu and event.gpu.uuid for event in heard.events()} == {
        "GPU-11111111-2222-3333-4444-555555555555"
    }


LINES = st.sampled_from(
    [WARP, ESR, closing(1), closing(2), WARP.replace("GPC 1", "GPC 2"), mmu(1), mmu(2), mmu(1, OTHER_GPU)]
    + [mmu(pid) for pid in range(3, 40)]
    + [xid(79, "GPU has fallen off the bus."), xid(48, "DBE")]
)
STEPS = st.one_of(st.integers(0, 2_000), st.integers(90_000, 110_000), st.integers(900_000, 7_000_000))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(LINES, STEPS, STEPS), max_size=80))
def test_nothing_is_lost_or_doubled_whatever_comes(steps: list[tuple[str, int, int]]) -> None:
    heard = Heard()
    at_us = arrival_us = 0
    for text, step_us, delay_us in steps:
        at_us += step_us
        arrival_us = max(arrival_us, at_us + delay_us)
        heard.pass_time(arrival_us)
        heard.say(text, at_us, arrival_us=arrival_us)
    heard.pass_time(arrival_us + 60 * SECOND)
    deadline = heard.pipeline.next_deadline()  # of incidents, which wait for longer silence
    assert deadline is None or deadline > arrival_us + 60 * SECOND
    events = heard.events()
    assert sum(len(event.lines) + event.lines_dropped for event in events) == len(steps)
    whole = Counter(text for text, _, _ in steps if ": 31, " in text)
    assert sum(event.count for event in events if event.code == 31) == whole.total()
    published: dict[str, int] = {}
    for event in heard.revisions:
        assert event.revision == published.get(event.id, 0) + 1
        published[event.id] = event.revision
    for _, burst in itertools.groupby(events, key=lambda event: event.time_us // (10 * SECOND)):
        assert sum(event.kind is Kind.XID for event in burst) <= 4 * NEW_EVENTS
