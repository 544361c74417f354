from __future__ import annotations

import os
import time

from daemon.gpu import call_notes
from daemon.gpu.call_notes import CallNotes


def test_a_call_is_seen_through_another_mapping_while_it_lasts() -> None:
    descriptor = call_notes.create()
    writer, reader = CallNotes(os.dup(descriptor)), CallNotes(descriptor)
    slot = writer.slot("0000:18:00.0")
    assert reader.open_calls() == {}
    before = time.monotonic_ns()
    slot.begin("nvmlDeviceGetTemperature")
    call = reader.open_calls()["0000:18:00.0"]
    assert (call.gpu, call.function) == ("0000:18:00.0", "nvmlDeviceGetTemperature")
    assert before <= call.since_ns <= time.monotonic_ns()
    assert call.seconds >= 0
    slot.end()
    assert reader.open_calls() == {}


def test_each_gpu_has_its_own_slot() -> None:
    notes = CallNotes(call_notes.create())
    slots = {gpu: notes.slot(gpu) for gpu in ("library", "0000:18:00.0", "#3")}
    for gpu, slot in slots.items():
        slot.begin(f"nvml of {gpu}")
    slots["#3"].end()
    functions = {gpu: call.function for gpu, call in notes.open_calls().items()}
    assert functions == {"library": "nvml of library", "0000:18:00.0": "nvml of 0000:18:00.0"}


def test_a_shorter_name_leaves_nothing_of_a_longer_one() -> None:
    notes = CallNotes(call_notes.create())
    slot = notes.slot("#0")
    slot.begin("nvmlDeviceGetConfComputeProtectedMemoryUsage")
    slot.end()
    slot.begin("nvmlDeviceGetName")
    assert notes.open_calls()["#0"].function == "nvmlDeviceGetName"


def test_names_too_long_and_gpus_too_many_are_cut_and_shared_not_fatal() -> None:
    notes = CallNotes(call_notes.create())
    for index in range(call_notes.SLOTS + 10):
        notes.slot(f"#{index}").begin("nvml" + "x" * 500)
    calls = notes.open_calls()
    assert len(calls) == call_notes.SLOTS
    assert all(call.function.startswith("nvmlxxx") for call in calls.values())
