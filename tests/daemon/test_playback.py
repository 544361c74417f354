"""Records written down in any format lead to the events that were heard live."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from daemon.event import Event, Kind, Severity
from daemon.pipeline import Pipeline
from daemon.playback import Playback
from probes import replay
from probes.line import KernelLine, Origin
from probes.replay.reading import may_matter
from tests.support.saved_logs import (
    BOOT_ID,
    BOOT_US,
    HAS_WALL_TIME,
    NAMES_ITS_BOOT,
    PROVES_ORIGIN,
    RENDERERS,
    Printed,
)

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
UUID = "GPU-11111111-2222-3333-4444-555555555555"

FAULTS: dict[str, tuple[str, ...]] = {
    "31": (
        "NVRM: Xid (PCI:0000:{gpu}:00): 31, pid=446, name=fault, channel 0x0000000a, intr 00000000. "
        "MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_8 faulted @ 0x0_00000000. "
        "Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE",
    ),
    "31 and what follows": (
        "NVRM: Xid (PCI:0000:{gpu}:00): 31, pid=447, name=fault, Ch 0000000a, intr 00000000. MMU Fault",
        "NVRM: Xid (PCI:0000:{gpu}:00): 43, pid=447, name=fault, Ch 00000008",
    ),
    "13": (
        "NVRM: Xid (PCI:0000:{gpu}:00): 13, Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): "
        "Misaligned Address",
        "NVRM: Xid (PCI:0000:{gpu}:00): 13, Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0",
        "NVRM: Xid (PCI:0000:{gpu}:00): 13, pid=452, name=py [a]: b, Graphics Exception: channel 0x0000000a",
    ),
    "79": (
        "NVRM: Xid (PCI:0000:{gpu}:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        "NVRM: GPU 0000:{gpu}:00.0: GPU has fallen off the bus.",
    ),
    "94": (
        "NVRM: Xid (PCI:0000:{gpu}:00 GPU-I:03): 94, pid=5120, name=python, Contained: SM (0x1). "
        "RST: No, D-RST: No",
    ),
    "sxid": (
        "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up (First)",
        "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Severity 1 Engine instance 30 Sub-engine 00",
        "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Data {{0x00000000, 0x00000000}}",
    ),
    "lost": (
        "NVRM: The NVIDIA GPU 0000:{gpu}:00.0\n"
        "NVRM: (PCI ID: 10de:2330) installed in this system has\n"
        "NVRM: fallen off the bus and is not responding to commands.",
    ),
    "named": ("NVRM: GPU at PCI:0000:{gpu}:00: " + UUID,),
    "noise": ("audit: type=1400 apparmor=STATUS", "mlx5_core 0000:41:00.1: Port module event"),
}


@st.composite
def printed(draw: st.DrawFn) -> list[Printed]:
    """Faults some seconds apart, the lines of each within milliseconds of the others."""
    at_us = 0
    records = [Printed(0, "Linux version 6.8.0 (builder@host)")]
    for name in draw(st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, max_size=8)):
        # Far from every limit of the rules, which a stamp in whole seconds can pass by a second.
        at_us += draw(st.sampled_from([8 * SECOND_US, 1000 * SECOND_US]))
        gpu = draw(st.sampled_from(["1b", "91"]))
        for text in FAULTS[name]:
            at_us += draw(st.integers(1, 3_000))
            records.append(Printed(at_us, text.format(gpu=gpu)))
    return records


def live(records: list[Printed]) -> list[Event]:
    """The events of these records heard by the kmsg probe."""
    playback = Playback(lambda: Pipeline(node="n"))
    events: dict[str, Event] = {}
    for seq, record in enumerate(record for record in records if may_matter(record.text)):
        line = KernelLine(
            text=record.text,
            origin=Origin.KERNEL,
            boot_id=BOOT_ID,
            seq=seq,
            kernel_us=record.kernel_us,
            arrival_us=record.kernel_us,
            wall_us=record.wall_us,
            wall_is_estimate=False,
            probe="kmsg",
        )
        events.update((event.id, event) for event in playback.play(line))
    events.update((event.id, event) for event in playback.end())
    return list(events.values())


def replayed(*paths: Path, coverage: replay.Coverage | None = None) -> list[Event]:
    playback = Playback(lambda: Pipeline(node="n"))
    events: dict[str, Event] = {}
    names = [str(path) for path in paths]
    settings = replay.Settings(zone_is_given=True)
    for line in replay.read(replay.sources(names), settings, coverage or replay.Coverage()):
        events.update((event.id, event) for event in playback.play(line))
    events.update((event.id, event) for event in playback.end())
    return list(events.values())


def told(events: list[Event]) -> list[tuple[object, ...]]:
    """What a person would compare."""
    return [
        (
            event.kind,
            event.code,
            event.name,
            event.severity,
            event.action,
            event.gpu,
            event.nvswitch,
            event.process,
            event.count,
            event.lines,
            re.sub("inc_[0-9a-f]+", "INCIDENT", event.summary),  # made of an id, which needs the boot's
        )
        for event in events
    ]


def save(path: Path, form: str, records: list[Printed]) -> Path:
    path.write_bytes(RENDERERS[form](records))
    written_s = records[-1].wall_us / 1e6
    os.utime(path, (written_s, written_s))
    return path


def a_minute_begins_within_seconds(records: list[Printed]) -> bool:
    return any(
        later.wall_us - earlier.wall_us < MINUTE_US
        and later.wall_us // MINUTE_US > earlier.wall_us // MINUTE_US
        for earlier, later in pairwise(records)
    )


@pytest.mark.parametrize("form", RENDERERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=printed())
def test_a_log_in_any_format_gives_the_events_that_were_heard_live(
    form: str, records: list[Printed], tmp_path: Path
) -> None:
    # "dmesg -e" names only the minute where a new one begins: seconds apart may read as a minute.
    assume(form != "dmesg -e" or not a_minute_begins_within_seconds(records))
    heard = live(records)
    coverage = replay.Coverage()
    events = replayed(save(tmp_path / "dmesg-saved", form, records), coverage=coverage)
    assert told(events) == told(heard)
    assert coverage.lines == coverage.understood
    assert len(coverage.boots) == 1
    origin = Origin.KERNEL if form in PROVES_ORIGIN else Origin.UNKNOWN
    assert {event.origin for event in events} <= {origin}
    for event, original in zip(events, heard, strict=True):
        if form != "dmesg -e":
            assert abs(event.time_us - original.time_us) <= SECOND_US
        if form in HAS_WALL_TIME and "%Y" not in form:
            assert event.time_is_estimate is (form in _YEARLESS)
        if form in NAMES_ITS_BOOT:
            assert (event.id, event.boot_id) == (original.id, original.boot_id)


_YEARLESS = {"journal short", "journal short-precise", "syslog", "syslog without uptime"}


def test_a_line_that_a_process_wrote_is_forged_or_a_drill(tmp_path: Path) -> None:
    xid = FAULTS["79"][0].format(gpu="91")
    path = tmp_path / "log"
    path.write_text(f"user  :warn  : [    1.000000] {xid}\n12,5,2000000,-;{xid}\n")
    playback = Playback(lambda: Pipeline(node="n"))
    for line in replay.read(replay.sources([str(path)]), replay.Settings(), replay.Coverage()):
        assert playback.play(line) == []
    assert playback.end() == []
    assert playback.forged == 2


def test_a_saved_line_is_taken_at_its_word_but_a_glued_one_is_not(tmp_path: Path) -> None:
    xid = FAULTS["79"][0].format(gpu="91")
    path = tmp_path / "log"
    path.write_text(f"[    1.000000] {xid}\n[   90.000000] foo: bar {xid}\n")
    events = [event for event in replayed(path) if event.kind is Kind.XID]
    assert [(event.severity, event.origin) for event in events] == [
        (Severity.FATAL, Origin.UNKNOWN),
        (Severity.WARNING, Origin.UNKNOWN),
    ]


def test_each_boot_of_a_log_begins_anew(tmp_path: Path) -> None:
    records = [Printed(0, "Linux version 6.8.0"), Printed(9 * SECOND_US, FAULTS["31"][0].format(gpu="91"))]
    path = tmp_path / "log"
    path.write_bytes(RENDERERS["dmesg"](records) * 2)
    coverage = replay.Coverage()
    # Printed at the same microsecond of two boots: one record in two places as far as anyone can tell.
    assert len([event for event in replayed(path, coverage=coverage) if event.kind is Kind.XID]) == 1
    later = [records[0], Printed(9 * SECOND_US + 17, records[1].text)]
    path.write_bytes(RENDERERS["dmesg"](records) + RENDERERS["dmesg"](later))
    events = [event for event in replayed(path) if event.kind is Kind.XID]
    assert [event.boot_id for event in events] == ["replay-1", "replay-2"]
    assert events[0].time_us < events[1].time_us


def test_the_same_log_in_several_formats_is_counted_once(tmp_path: Path) -> None:
    records = [Printed(0, "Linux version 6.8.0")]
    for number in range(5):
        records += [
            Printed((number * 20 + 9) * SECOND_US + place * 10, text.format(gpu="91"))
            for place, text in enumerate(FAULTS["13"])
        ]
    heard = live(records)
    forms = ("journal json", "journal short", "dmesg", "syslog", "dmesg -T")
    paths = [save(tmp_path / f"{place} {form}", form, records) for place, form in enumerate(forms)]
    coverage = replay.Coverage()
    events = replayed(*paths, coverage=coverage)
    assert told(events) == told(heard)
    assert coverage.duplicates == 15 * (len(forms) - 1)


def test_wall_times_of_a_boot_are_anchored_at_the_end_of_the_log(tmp_path: Path) -> None:
    records = [Printed(9 * SECOND_US, FAULTS["31"][0].format(gpu="91")), Printed(60 * SECOND_US, "noise: x")]
    [event] = [
        event for event in replayed(save(tmp_path / "log", "dmesg", records)) if event.kind is Kind.XID
    ]
    assert (event.time_us, event.time_is_estimate) == (BOOT_US + 9 * SECOND_US, True)
