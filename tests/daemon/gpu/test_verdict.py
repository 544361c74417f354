"""The rules of health, each held against an otherwise healthy H200."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import pytest

from daemon.event import Blame, Event, Gpu, Kind, NvSwitch
from daemon.event import Severity as EventSeverity
from daemon.gpu.answers import HungCall
from daemon.gpu.expected_gpu import ExpectedGpu, LastEvent, Presence
from daemon.gpu.mock.gpu import Board, Condition
from daemon.gpu.mock.h200_health import health
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Health, Reading, RemapBanks, RetiredPages
from daemon.gpu.source import SourceName, SourceState
from daemon.gpu.verdict import Code, Earlier, Reason, Severity, Source, State, Verdict, judge, judge_node
from daemon.gpu.verdict.look import ABSENT
from tests.support.events import TIME_US, XID_79

PCI = "0000:91:00.0"
BOARD = Board(0, PCI)
IDLE, BUSY = health(BOARD, Condition.IDLE), health(BOARD, Condition.BUSY)
MINUTE = 60_000_000


def with_(base: Health, **paths: Any) -> Health:
    """`base` with values at paths, `__` for the dot: `row_remapping__pending=True`."""
    for path, value in paths.items():
        base = _put(base, path.split("__"), value)
    return base


def _put(section: Any, names: list[str], value: object) -> Any:
    name, *rest = names
    return replace(section, **{name: _put(getattr(section, name), rest, value) if rest else value})


def verdict(of: Health, **more: Any) -> Verdict:
    return judge(PCI, Reading(PCI, answered=True, health=of), now_us=TIME_US, **more)


def of_readings(base: Health = BUSY, **paths: Any) -> Verdict:
    return verdict(with_(base, **paths))


def only(found: Verdict) -> Reason:
    assert len(found.reasons) == 1, found.reasons
    return found.reasons[0]


def event(code: int, **changes: Any) -> Event:
    return replace(XID_79, id=f"ev_{code}", code=code, gpu=Gpu(PCI), **changes)


# -- what is no fault ----------------------------------------------------------------------------


@pytest.mark.parametrize("reading", [IDLE, BUSY], ids=["idle", "busy"])
def test_a_gpu_at_rest_and_one_that_is_used_to_the_full_are_healthy(reading: Health) -> None:
    found = verdict(reading)
    assert found.state is State.HEALTHY
    assert found.reasons == ()


@pytest.mark.parametrize(
    "paths",
    [
        {"memory__used_bytes": BUSY.memory.total_bytes, "memory__free_bytes": 0},
        {"utilization__gpu_percent": 100, "utilization__memory_percent": 100},
        {"power__draw_w": 712.0, "clock_events__reasons": ("sw_power_cap",)},
        {"clock_events__reasons": ("gpu_idle",)},
        {"clock_events__reasons": ("applications_clocks_setting", "sync_boost")},
        {"ecc__volatile__corrected": 4000},
        {"pcie__replays": 900},
        {"nvlink__crc_errors": 25},
    ],
)
def test_use_and_settings_and_corrected_errors_are_no_fault(paths: dict[str, Any]) -> None:
    assert of_readings(**paths).reasons == ()


def test_errors_of_a_lifetime_are_a_note_and_not_a_fault() -> None:
    found = of_readings(ecc__aggregate__uncorrected=7)
    assert found.state is State.HEALTHY
    assert only(found).code is Code.ECC_LIFETIME
    assert found.headline == "healthy"


# -- one reading, one reason ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "code", "severity"),
    [
        ({"recovery_action": "gpu_reset"}, Code.RECOVERY_ACTION, Severity.UNHEALTHY),
        ({"recovery_action": "node_reboot"}, Code.RECOVERY_ACTION, Severity.UNHEALTHY),
        ({"recovery_action": "drain_and_reset"}, Code.RECOVERY_ACTION, Severity.DEGRADED),
        ({"recovery_action": "unknown (9)"}, Code.RECOVERY_ACTION, Severity.DEGRADED),
        ({"ecc__volatile__uncorrected": 1}, Code.ECC_UNCORRECTED, Severity.UNHEALTHY),
        ({"ecc__sram__threshold_exceeded": True}, Code.SRAM_THRESHOLD, Severity.UNHEALTHY),
        ({"ecc__unrepairable_memory": True}, Code.MEMORY_UNREPAIRABLE, Severity.UNHEALTHY),
        ({"ecc__channel_repair_pending": True}, Code.REPAIR_PENDING, Severity.DEGRADED),
        ({"ecc__tpc_repair_pending": True}, Code.REPAIR_PENDING, Severity.DEGRADED),
        ({"ecc__enabled": False, "ecc__enabled_pending": False}, Code.ECC_OFF, Severity.NOTE),
        ({"row_remapping__failure": True}, Code.ROW_REMAP_FAILURE, Severity.UNHEALTHY),
        ({"row_remapping__pending": True}, Code.ROW_REMAP_PENDING, Severity.DEGRADED),
        (
            {"row_remapping__banks": RemapBanks(3071, 0, 0, 0, 1)},
            Code.SPARE_ROWS_USED_UP,
            Severity.NOTE,
        ),
        ({"retired_pages": RetiredPages(3, 1, True)}, Code.PAGE_RETIREMENT_PENDING, Severity.DEGRADED),
        ({"retired_pages": RetiredPages(60, 3, False)}, Code.PAGES_RETIRED, Severity.UNHEALTHY),
        ({"temperature__margin_c": 0}, Code.GPU_TEMPERATURE, Severity.DEGRADED),
        ({"temperature__margin_c": -8}, Code.GPU_TEMPERATURE, Severity.UNHEALTHY),
        ({"temperature__memory_c": 95}, Code.MEMORY_TEMPERATURE, Severity.DEGRADED),
        ({"clock_events__reasons": ("sw_thermal_slowdown",)}, Code.THERMAL_SLOWDOWN, Severity.DEGRADED),
        (
            {"clock_events__reasons": ("hw_slowdown", "hw_power_brake_slowdown")},
            Code.POWER_BRAKE,
            Severity.DEGRADED,
        ),
        ({"clock_events__reasons": ("hw_slowdown",)}, Code.HARDWARE_SLOWDOWN, Severity.DEGRADED),
        ({"clock_events__sw_thermal_slowdown_us": 2 * MINUTE}, Code.SLOWED_BEFORE, Severity.NOTE),
        ({"pcie__width": 8}, Code.PCIE_WIDTH, Severity.DEGRADED),
        ({"pcie__generation": 3}, Code.PCIE_GENERATION, Severity.DEGRADED),
        ({"nvlink__links_up": 17, "nvlink__links_down": (4,)}, Code.NVLINK_DOWN, Severity.DEGRADED),
        (
            {"nvlink__links_up": 0, "nvlink__links_down": tuple(range(18))},
            Code.NVLINK_DOWN,
            Severity.UNHEALTHY,
        ),
        ({"nvlink__recovery_errors": 2}, Code.NVLINK_RETRAINED, Severity.NOTE),
        ({"fabric__state": "not_started"}, Code.FABRIC_NOT_READY, Severity.UNHEALTHY),
        ({"fabric__state": "in_progress"}, Code.FABRIC_NOT_READY, Severity.DEGRADED),
        ({"fabric__status": "Unknown Error"}, Code.FABRIC_NOT_READY, Severity.UNHEALTHY),
        ({"fabric__health": "unhealthy"}, Code.FABRIC_UNHEALTHY, Severity.UNHEALTHY),
        ({"fabric__degraded_bandwidth": True}, Code.FABRIC_DEGRADED, Severity.DEGRADED),
        (
            {"fabric__incorrect_configuration": "insufficient_nvlinks"},
            Code.FABRIC_UNHEALTHY,
            Severity.UNHEALTHY,
        ),
        ({"modes__compute": "prohibited"}, Code.WORK_REFUSED, Severity.NOTE),
        (
            {"confidential_computing__enabled": True, "confidential_computing__gpus_ready": False},
            Code.WORK_REFUSED,
            Severity.NOTE,
        ),
        ({"modes__mig_pending": True}, Code.MODE_PENDING, Severity.NOTE),
    ],
)
def test_each_fault_gives_its_reason_with_reading_value_and_sentence(
    paths: dict[str, Any], code: Code, severity: Severity
) -> None:
    reason = only(of_readings(**paths))
    assert (reason.code, reason.severity) == (code, severity)
    assert reason.reading is not None
    assert reason.value is not None
    assert reason.sentence.endswith(".")
    assert (reason.reference is not None) == (reason.source is Source.NVIDIA)


def test_the_gravest_reason_decides_and_comes_first() -> None:
    found = of_readings(
        ecc__aggregate__uncorrected=1, row_remapping__pending=True, recovery_action="gpu_reset"
    )
    assert found.state is State.UNHEALTHY
    assert [reason.severity for reason in found.reasons] == ["unhealthy", "degraded", "note"]
    assert found.headline == "unhealthy: The driver asks for a reset of the GPU."


def test_the_threshold_of_a_temperature_is_the_gpus_own() -> None:
    reason = only(of_readings(temperature__margin_c=-3))
    assert (reason.value, reason.threshold, reason.source) == (-3, -2, Source.DRIVER)


def test_a_gpu_without_a_margin_is_judged_by_degrees() -> None:
    reason = only(of_readings(temperature__margin_c=None, temperature__gpu_c=91))
    assert (reason.reading, reason.value, reason.threshold) == ("temperature.gpu_c", 91, 89)


def test_slowdown_says_how_hot_and_how_long() -> None:
    found = verdict(health(BOARD, Condition.THROTTLING))
    assert found.state is State.DEGRADED
    slow = next(reason for reason in found.reasons if reason.code is Code.THERMAL_SLOWDOWN)
    assert "90 °C" in slow.sentence
    assert "1 min" in slow.sentence
    assert Code.HARDWARE_SLOWDOWN not in {reason.code for reason in found.reasons}


def test_an_idle_pcie_link_may_run_slower() -> None:
    assert of_readings(IDLE, pcie__generation=1).reasons == ()


def test_links_that_were_never_up_are_a_note_on_a_board_without_a_fabric() -> None:
    down = {"fabric__state": "not_supported", "nvlink__links_up": 12, "nvlink__links_down": tuple(range(6))}
    assert verdict(with_(BUSY, **down)).state is State.HEALTHY
    assert verdict(with_(BUSY, **down), links_expected=12).state is State.HEALTHY
    reason = only(verdict(with_(BUSY, **down), links_expected=18))
    assert (reason.severity, reason.value, reason.threshold) == (Severity.DEGRADED, 12, 18)


# -- growth since an earlier look ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "seconds_ago", "code"),
    [
        ({"pcie__replays": 50}, 60.0, Code.PCIE_REPLAYS),
        ({"nvlink__replay_errors": 1}, 60.0, Code.NVLINK_ERRORS),
        ({"nvlink__recovery_errors": 1}, 60.0, Code.NVLINK_ERRORS),
        ({"nvlink__crc_errors": 7000}, 60.0, Code.NVLINK_ERRORS),
        ({"clock_events__hw_thermal_slowdown_us": 20_000_000}, 60.0, Code.THERMAL_SLOWDOWN),
    ],
)
def test_errors_and_slowdown_that_go_on_are_a_fault(
    paths: dict[str, Any], seconds_ago: float, code: Code
) -> None:
    reason = only(verdict(with_(BUSY, **paths), earlier=Earlier(BUSY, seconds_ago)))
    assert (reason.code, reason.severity) == (code, Severity.DEGRADED)
    assert reason.threshold is not None


@pytest.mark.parametrize(
    "paths",
    [{"pcie__replays": 8}, {"nvlink__crc_errors": 100}, {"clock_events__hw_thermal_slowdown_us": 1_000_000}],
)
def test_a_few_since_the_earlier_look_are_not(paths: dict[str, Any]) -> None:
    assert verdict(with_(BUSY, **paths), earlier=Earlier(BUSY, 60.0)).reasons == ()


def test_a_burst_right_after_the_earlier_look_is_no_rate() -> None:
    assert verdict(with_(BUSY, pcie__replays=3), earlier=Earlier(BUSY, 0.1)).reasons == ()


def test_nvlink_errors_are_held_against_the_time_between_their_own_readings() -> None:
    before = Earlier(with_(BUSY, nvlink__errors_age_s=50.0), 1.0)
    assert verdict(with_(BUSY, nvlink__crc_errors=5000), earlier=before).reasons == ()
    assert only(verdict(with_(BUSY, nvlink__crc_errors=6000), earlier=before)).threshold == 5100


def test_a_counter_that_was_reset_counts_from_zero() -> None:
    before = Earlier(with_(BUSY, pcie__replays=100), 60.0)
    assert verdict(with_(BUSY, pcie__replays=5), earlier=before).reasons == ()
    assert only(verdict(with_(BUSY, pcie__replays=50), earlier=before)).value == 50


# -- what could not be read ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "recovery_action",
        "ecc__volatile__uncorrected",
        "row_remapping__failure",
        "temperature__gpu_c",
        "clock_events__reasons",
        "pcie__width",
        "nvlink__links_up",
        "fabric__state",
    ],
)
def test_a_reading_that_failed_is_unknown_and_not_healthy(path: str) -> None:
    dotted = path.replace("__", ".")
    found = verdict(with_(BUSY, **{path: None, "unread": {**BUSY.unread, dotted: "no permission"}}))
    assert found.state is State.UNKNOWN
    reason = only(found)
    assert (reason.code, reason.reading) == (Code.UNREAD, dotted)
    assert "no permission" in reason.sentence


def test_a_reading_that_is_missing_without_a_word_is_unknown_too() -> None:
    assert verdict(Health()).state is State.UNKNOWN


def test_the_reason_of_an_object_stands_for_all_within_it() -> None:
    unread = {**BUSY.unread, "pcie": "the driver timed out"}
    found = verdict(with_(BUSY, pcie__width=None, pcie__width_max=None, unread=unread))
    assert "the driver timed out" in only(found).sentence


def test_what_a_gpu_does_not_have_is_not_checked_and_no_fault() -> None:
    unread = {**BUSY.unread, "nvlink": "not supported by this GPU"}
    found = verdict(with_(BUSY, nvlink__links_up=None, unread=unread))
    assert found.state is State.HEALTHY
    assert {check.check for check in found.not_checked} == {"page retirement", "NVLink"}


def test_a_fault_that_was_read_outweighs_what_was_not() -> None:
    unread = {**BUSY.unread, "pcie": "failed"}
    found = verdict(with_(BUSY, row_remapping__pending=True, pcie__width=None, unread=unread))
    assert found.state is State.DEGRADED
    assert {reason.code for reason in found.reasons} == {Code.ROW_REMAP_PENDING, Code.UNREAD}


def test_the_words_for_what_a_gpu_lacks_are_those_of_the_reader() -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    from daemon.gpu.worker.reads import ecc, reader

    words = {reader.NOT_SUPPORTED, reader.OLD_DRIVER, reader.OLD_LIBRARY, reader.EMPTY, ecc._OFF}
    assert words == ABSENT


# -- GPUs that do not answer ---------------------------------------------------------------------


def test_a_lost_gpu_is_unhealthy_with_since_when_and_what_was_heard_last() -> None:
    words = LastEvent("ev_79", TIME_US, "xid", 79, "fatal", "GPU no longer answers on PCIe")
    lost = ExpectedGpu(PCI, presence=Presence.LOST, since_us=TIME_US, why="Xid 79", last_events=(words,))
    found = judge(PCI, Reading(PCI, answered=False, trouble="lost"), now_us=TIME_US, expected=lost)
    reason = only(found)
    assert (found.state, reason.code) == (State.UNHEALTHY, Code.GPU_LOST)
    assert "2026-11-22T11:20:06" in reason.sentence
    assert "GPU no longer answers on PCIe" in reason.sentence
    assert reason.events == ("ev_79",)


def test_a_gpu_that_the_driver_no_longer_lists_is_unhealthy() -> None:
    gone = ExpectedGpu(PCI, presence=Presence.GONE, since_us=TIME_US)
    assert only(judge(PCI, None, now_us=TIME_US, expected=gone)).code is Code.GPU_GONE


def test_a_gpu_that_nvml_calls_lost_is_lost_before_any_table_knows() -> None:
    assert (
        only(judge(PCI, Reading(PCI, answered=False, trouble="lost"), now_us=TIME_US)).code is Code.GPU_LOST
    )


def test_a_hanging_call_makes_the_gpu_unhealthy_and_is_named_with_its_time() -> None:
    call = HungCall(PCI, "nvmlDeviceGetTemperature", TIME_US - 5_000_000, Trouble.HUNG)
    found = judge(PCI, Reading(PCI, answered=False, trouble="hung"), now_us=TIME_US, hung=call)
    assert found.state is State.UNHEALTHY
    assert f"on this GPU: {call.told(TIME_US)}." in only(found).sentence
    assert call.told(TIME_US).endswith("Z (5 s)")


@pytest.mark.parametrize("trouble", ["slow", "crashed", "no_permission"])
def test_a_gpu_that_did_not_answer_for_another_reason_is_unknown(trouble: str) -> None:
    reading = Reading(PCI, answered=False, trouble=trouble, reason="it took too long")
    found = judge(PCI, reading, now_us=TIME_US)
    assert found.state is State.UNKNOWN
    assert "it took too long" in only(found).sentence


def test_a_gpu_that_was_left_alone_after_a_fatal_event_is_unhealthy_by_the_event() -> None:
    found = judge(PCI, None, now_us=TIME_US, events=[event(119)])
    assert found.state is State.UNHEALTHY
    assert {reason.code for reason in found.reasons} == {Code.FATAL_EVENTS, Code.NOT_ANSWERED}


# -- events --------------------------------------------------------------------------------------


def by_events(*events: Event, now_us: int = TIME_US + 4 * MINUTE) -> Verdict:
    return judge(PCI, Reading(PCI, answered=True, health=BUSY), now_us=now_us, events=events)


def test_a_fatal_event_of_the_last_hour_is_unhealthy_and_named_with_its_age() -> None:
    found = by_events(event(79))
    assert found.state is State.UNHEALTHY
    assert "Xid 79 (GPU no longer answers on PCIe), 4 min ago" in only(found).sentence
    assert only(found).events == ("ev_79",)


def test_a_critical_event_is_degraded_and_a_warning_is_a_note() -> None:
    assert by_events(event(48, severity=EventSeverity.CRITICAL)).state is State.DEGRADED
    found = by_events(event(63, severity=EventSeverity.WARNING, count=3))
    assert found.state is State.HEALTHY
    assert "and 2 more" in only(found).sentence


def test_errors_of_programs_say_nothing_against_the_gpu() -> None:
    found = by_events(event(31, severity=EventSeverity.CRITICAL, blame=Blame.APPLICATION))
    assert found.state is State.HEALTHY
    assert only(found).code is Code.APPLICATION_EVENTS


def test_lines_that_nobody_can_prove_the_kernel_printed_are_a_note() -> None:
    found = by_events(event(79, origin="unknown"))
    assert (found.state, only(found).code) == (State.HEALTHY, Code.UNPROVED_EVENTS)


@pytest.mark.parametrize(
    "changes",
    [
        {"drill": True},
        {"severity": EventSeverity.INFO},
        {"last_time_us": TIME_US - 61 * MINUTE, "time_us": TIME_US - 61 * MINUTE},
        {"kind": Kind.PROBE},
    ],
)
def test_drills_and_old_and_other_events_are_left_out(changes: dict[str, Any]) -> None:
    assert by_events(event(79, **changes)).reasons == ()


def test_events_of_other_gpus_are_not_held_against_this_one() -> None:
    assert by_events(replace(event(79), gpu=Gpu("0000:b3:00.0"))).reasons == ()


@pytest.mark.parametrize(
    "after",
    [
        {"kind": Kind.DRIVER_LOADED, "gpu": None, "code": None},
        {"code": 154, "detail": {"recovery_to": 0}, "severity": EventSeverity.INFO},
    ],
)
def test_a_fault_is_over_once_the_driver_says_so(after: dict[str, Any]) -> None:
    later = TIME_US + MINUTE
    found = by_events(event(79), replace(event(1, time_us=later, last_time_us=later), **after))
    assert found.state is State.HEALTHY
    assert only(found).code is Code.RECOVERED_EVENTS


@pytest.mark.parametrize(
    ("state", "code"), [("recovered", Code.RECOVERED_EVENTS), ("open", Code.FATAL_EVENTS)]
)
def test_a_fault_is_over_once_its_incident_has_recovered(state: str, code: Code) -> None:
    incident = replace(XID_79, id="inc_1", kind=Kind.INCIDENT, detail={"state": state})
    assert only(by_events(event(79, incident="inc_1"), incident)).code is code


def test_recovery_actions_of_the_past_do_not_outweigh_the_present_one() -> None:
    assert by_events(event(154, detail={"recovery_to": 1})).reasons == ()
    unread = judge(PCI, None, now_us=TIME_US, events=[event(154, detail={"recovery_to": 1})])
    assert unread.state is State.UNHEALTHY


# -- the node ------------------------------------------------------------------------------------


def node(verdicts: dict[str, Verdict], events: Iterable[Event] = ()) -> Verdict:
    return judge_node(verdicts, now_us=TIME_US, events=events)


def test_one_lost_gpu_makes_the_node_unhealthy() -> None:
    gone = ExpectedGpu(PCI, presence=Presence.GONE, since_us=TIME_US)
    found = node({"0000:1b:00.0": verdict(BUSY), PCI: judge(PCI, None, now_us=TIME_US, expected=gone)})
    assert found.state is State.UNHEALTHY
    assert only(found).sentence.startswith(f"GPU {PCI} is unhealthy: The GPU is gone from the driver's list")


def test_a_node_with_healthy_gpus_is_healthy_and_one_without_any_is_unknown() -> None:
    assert node({PCI: verdict(IDLE)}).state is State.HEALTHY
    assert node({}).state is State.UNKNOWN


@pytest.mark.parametrize(
    ("name", "state"),
    [
        (SourceName.NO_DRIVER, State.UNKNOWN),
        (SourceName.NO_PERMISSION, State.UNKNOWN),
        (SourceName.OFF, State.UNKNOWN),
        (SourceName.VERSION_MISMATCH, State.UNHEALTHY),
        (SourceName.HUNG, State.UNHEALTHY),
    ],
)
def test_a_node_whose_gpus_cannot_be_looked_at_is_not_healthy(name: SourceName, state: State) -> None:
    found = judge_node({}, now_us=TIME_US, source=SourceState(name, reason="this is why"))
    assert (found.state, only(found).code) == (state, Code.GPUS_UNREADABLE)
    assert "this is why" in only(found).sentence


def test_faults_of_switches_and_of_the_node_count_for_the_node() -> None:
    of_switch = replace(event(20034), gpu=None, nvswitch=NvSwitch("0000:05:00.0", 0), kind=Kind.SXID)
    found = node({PCI: verdict(BUSY)}, [of_switch, event(79)])
    assert found.state is State.UNHEALTHY
    assert "SXid 20034" in only(found).sentence


def test_the_public_form_is_json_with_every_key() -> None:
    data = json.loads(json.dumps(of_readings(row_remapping__pending=True).to_json()))
    assert data["state"] == "degraded"
    (reason,) = data["reasons"]
    assert reason["threshold_source"] == "nvidia"
    assert set(reason) == {field.name for field in fields(Reason)} - {"source"} | {"threshold_source"}
