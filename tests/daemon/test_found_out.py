"""What is found out about an event after it was published becomes a revision of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from daemon.event import Event, Gpu, Kind, Process, Severity, from_dict, to_dict
from daemon.fault import Facts
from daemon.own_events import Operation
from daemon.pipeline import Pipeline
from tests.support.records import BOOT, EPOCH_US, GPU, UUID, Heard, xid

SECOND_US = 1_000_000
FAULT = xid(48, "pid=446, name=train, DBE (double bit error)")
PROCESS = Process(
    446, "python3", "c0ffee", in_container=True, command_line="train --all", user="ann", started_us=EPOCH_US
)
TELEMETRY = {"time": "2026-11-22T10:00:00.000000Z", "took_ms": 2.0, "readings": {"power_draw_w": 70.5}}


def found(heard: Heard, event: Event, facts: Facts, at_us: int) -> list[Event]:
    """The revisions of faults that this led to by two seconds later."""
    now = heard.pipeline.found_out(event.id, facts, at_us=at_us)
    later = heard.pipeline.tick(at_us + 2 * SECOND_US)
    return [one for one in (*now, *later) if one.kind is not Kind.INCIDENT]


def test_a_process_and_readings_that_are_found_are_a_revision() -> None:
    heard = Heard()
    [event] = heard.say(FAULT, SECOND_US)
    [revision] = found(heard, event, Facts(process=PROCESS, telemetry=TELEMETRY), SECOND_US + 5_000)
    assert (revision.id, revision.revision) == (event.id, 2)
    assert revision.process == replace(PROCESS, name="train")  # what the driver's line says stays
    assert revision.telemetry == TELEMETRY
    assert from_dict(json.loads(json.dumps(to_dict(revision, 1, stored=True)))) == revision


def test_what_is_found_again_is_no_news() -> None:
    heard = Heard()
    [event] = heard.say(FAULT, SECOND_US)
    found(heard, event, Facts(telemetry=TELEMETRY), SECOND_US + 5_000)
    assert found(heard, event, Facts(telemetry=TELEMETRY), 4 * SECOND_US) == []


def test_a_process_of_another_pid_and_a_gpu_of_another_address_are_not_taken() -> None:
    heard = Heard()
    [event] = heard.say(FAULT, SECOND_US)
    facts = Facts(process=replace(PROCESS, pid=447), gpu=Gpu("0000:92:00.0", index=4))
    assert found(heard, event, facts, SECOND_US + 5_000) == []


def test_a_gpu_that_is_known_better_keeps_the_mig_instance_of_the_line() -> None:
    heard = Heard()
    [event] = heard.say(f"NVRM: Xid (PCI:{GPU} GPU-I:05): 94, pid=1, name=a, Contained: SM (0x1)", SECOND_US)
    better = Gpu("0000:91:00.0", UUID, index=3, name="NVIDIA H200")
    [revision] = found(heard, event, Facts(gpu=better), SECOND_US + 5_000)
    assert event.gpu is not None
    assert revision.gpu == replace(better, mig=event.gpu.mig)


def test_an_event_that_nobody_knows_changes_nothing() -> None:
    heard = Heard()
    heard.say(FAULT, SECOND_US)
    assert heard.pipeline.found_out("ev_unknown", Facts(telemetry=TELEMETRY), at_us=2 * SECOND_US) == ()


def test_what_was_found_survives_a_restart() -> None:
    heard = Heard()
    [event] = heard.say(FAULT, SECOND_US)
    heard.pipeline.found_out(event.id, Facts(process=PROCESS, telemetry=TELEMETRY), at_us=SECOND_US + 5_000)
    later = Pipeline(node="test-node")
    later.restore(heard.pipeline.snapshot(), boot_id=BOOT, now_us=2 * SECOND_US)
    after = Heard(later, real_gpus=())
    after.say(FAULT, 4 * SECOND_US)
    last = after.pass_time(6 * SECOND_US)[-1]
    assert (last.count, last.telemetry, last.process) == (2, TELEMETRY, replace(PROCESS, name="train"))


def test_who_a_gpu_is_is_part_of_what_is_heard_of_it_later() -> None:
    heard = Heard()
    heard.pipeline.learn_from_nvml([Gpu("0000:91:00.0", UUID, "1650", 3, "NVIDIA H200")])
    [event] = heard.say(FAULT, SECOND_US)
    assert event.gpu == Gpu("0000:91:00.0", UUID, "1650", 3, "NVIDIA H200")


def test_what_an_operator_did_is_an_event_of_its_own_each_time() -> None:
    heard = Heard()
    done = Operation(
        "KILL_GPU_PROCESS", "Ended process 446.", True, "0000:91:00.0", PROCESS, {"signal": "TERM"}
    )
    refused = Operation("RESET_GPU", "Refused: processes run.", False, "0000:91:00.0")
    [first] = heard.pipeline.operated(done, boot_id=BOOT, at_us=SECOND_US, wall_us=EPOCH_US)
    [second] = heard.pipeline.operated(refused, boot_id=BOOT, at_us=SECOND_US + 1, wall_us=EPOCH_US)
    assert (first.kind, first.name, first.summary) == (
        Kind.OPERATOR,
        "KILL_GPU_PROCESS",
        "Ended process 446.",
    )
    assert (first.severity, second.severity) == (Severity.INFO, Severity.WARNING)
    assert first.gpu is not None
    assert first.gpu.uuid == UUID
    assert first.process == PROCESS
    assert first.detail["signal"] == "TERM"
    assert first.id != second.id


END = Process(446, "train", container_id="c0ffee", exit_signal=9, exited_after_us=12_000, cgroup="/c0ffee")


@pytest.mark.parametrize("order", [(PROCESS, END), (END, PROCESS)], ids=["looked up first", "ended first"])
def test_what_two_sources_tell_of_a_process_is_put_together(order: tuple[Process, Process]) -> None:
    heard = Heard()
    [event] = heard.say(FAULT, SECOND_US)
    heard.pipeline.found_out(event.id, Facts(process=order[0]), at_us=SECOND_US + 5_000)
    *_, revision = found(heard, event, Facts(process=order[1]), SECOND_US + 10_000)
    assert revision.process == replace(
        PROCESS, name="train", exit_signal=9, exited_after_us=12_000, cgroup="/c0ffee"
    )
    assert from_dict(json.loads(json.dumps(to_dict(revision, 1, stored=True)))) == revision


def test_an_event_that_an_earlier_version_stored_knows_no_end() -> None:
    [event] = Heard().say(FAULT, SECOND_US)
    row = json.loads(json.dumps(to_dict(event, 1, stored=True)))
    for name in ("cgroup", "exit_signal", "exited_after_us"):
        assert row["process"].pop(name) is None
    assert from_dict(row) == event
