"""At the first start of a boot the end of the last one is taken over, and nothing is doubled or left out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from daemon.event import Event, Kind
from daemon.intake import Intake
from daemon.last_boot import MOST_TRIES, Live, Outcome, play, read_on
from daemon.pipeline import Pipeline, Snapshot
from daemon.store import Store
from probes.last_boot import Places
from probes.line import Batch, KernelLine, Origin
from tests.support.saved_logs import BOOT_ID, BOOT_US, RENDERERS, Printed

SECOND_US = 1_000_000
THIS_BOOT = "99999999-2222-3333-4444-555555555555"
MAKE = partial(Pipeline, node="n")


def xid(at_s: float, code: int) -> Printed:
    return Printed(int(at_s * SECOND_US), f"NVRM: Xid (PCI:0000:91:00): {code}, pid=1, name=a, x")


HEARD = [xid(10, 31), xid(50, 43)]
UNHEARD = [xid(52, 43), xid(100, 48), xid(200, 79)]


def line(record: Printed) -> KernelLine:
    return KernelLine(
        text=record.text,
        origin=Origin.KERNEL,
        boot_id=BOOT_ID,
        seq=1,
        kernel_us=record.kernel_us,
        arrival_us=record.kernel_us,
        wall_us=record.wall_us,
        wall_is_estimate=False,
        probe="kmsg",
    )


HOUR_US = 3600 * SECOND_US


def dump_of(directory: Path, records: list[Printed], *, age_us: int = 0) -> Places:
    """The dump of a panic that holds these records, written `age_us` before the last one was printed."""
    directory.mkdir(exist_ok=True)
    dump = directory / "dmesg-efi_pstore-1"
    dump.write_bytes(RENDERERS["pstore"](records))
    written_s = (records[-1].wall_us + SECOND_US - age_us) / 1e6
    os.utime(dump, (written_s, written_s))
    return Places(pstore=(directory,), journalctl="/nonexistent/journalctl")


@dataclass
class Clock:
    """Arrival time in seconds since this boot, set by the test."""

    at_s: float = 20.0

    def monotonic_us(self) -> int:
        return int(self.at_s * SECOND_US)

    def wall_us(self) -> int:
        return BOOT_US + 1000 * SECOND_US + self.monotonic_us()


@dataclass
class Node:
    """One daemon after another on one state directory, each of them a start in the second boot."""

    tmp_path: Path
    clock: Clock = field(default_factory=Clock)

    def state(self) -> Path:
        directory = self.tmp_path / "state"
        directory.mkdir(exist_ok=True)
        return directory

    async def lived(self, records: list[Printed]) -> None:
        """The daemon of the first boot, which heard these records."""
        store = Store.open(self.state())
        pipeline = MAKE()
        intake = Intake(pipeline, store, boot_id=BOOT_ID, clock=self.clock, proc=Path("/nonexistent"))
        intake.start()
        intake.take(Batch("kmsg", BOOT_ID, [line(each) for each in records], last_seq=7))
        intake.keep(pipeline.tick(records[-1].kernel_us + 2 * SECOND_US))
        intake.close()
        await store.close()

    async def start(self, where: Places, *, killed: bool = False, after_s: float = 0) -> Outcome | None:
        """A start, and the reading on, in the second boot; `killed` as soon as something was heard in it.
        Then so many seconds pass."""
        store = Store.open(self.state())
        pipeline = MAKE()
        intake = Intake(pipeline, store, boot_id=THIS_BOOT, clock=self.clock, proc=Path("/nonexistent"))
        resume = store.resume
        intake.start()
        reading = asyncio.create_task(
            read_on(
                store,
                resume,
                Live(pipeline, intake.keep, self.clock.monotonic_us),
                boot_id=THIS_BOOT,
                before_us=BOOT_US + 1000 * SECOND_US,
                make_pipeline=MAKE,
                places=where,
            )
        )
        outcome = None
        if killed:
            await asyncio.sleep(0)  # its first step, as in the daemon before the first record is read
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        else:
            outcome = await reading
        intake.take(Batch("kmsg", THIS_BOOT, [], last_seq=3))
        self.clock.at_s += after_s
        while (due := pipeline.next_deadline()) is not None and due <= self.clock.monotonic_us():
            intake.keep(pipeline.tick(due))
        intake.close()
        await store.close()
        return outcome

    async def events(self) -> Sequence[Event]:
        """Everything that is kept."""
        store = Store.open(self.state())
        page = await store.stream.page(0, 1000)
        await store.close()
        return [item.event for item in page.items]


def codes(events: Sequence[Event]) -> list[tuple[int | None, int]]:
    """Code and count of each Xid."""
    return sorted((event.code or 0, event.count) for event in events if event.kind is Kind.XID)


def incidents(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.kind is Kind.INCIDENT]


def test_faults_that_no_one_lived_to_hear_are_found_once_and_the_others_not_again(tmp_path: Path) -> None:
    async def run() -> tuple[Outcome | None, Outcome | None, Sequence[Event]]:
        node = Node(tmp_path)
        await node.lived(HEARD)
        where = dump_of(tmp_path / "pstore", [*HEARD, *UNHEARD])
        return await node.start(where), await node.start(where), await node.events()

    first, second, events = asyncio.run(run())
    assert first is not None
    assert (first.events > 0, second) == (True, None)
    assert codes(events) == [(31, 1), (43, 2), (48, 1), (79, 1)]
    assert {event.boot_id for event in events if event.kind is Kind.XID} == {BOOT_ID}
    as_live = play([line(each) for each in [*HEARD, *UNHEARD]], MAKE, next_boot=THIS_BOOT)
    assert {event.id for event in events} <= {event.id for event in as_live.events}


def test_what_was_open_at_the_crash_is_followed_until_the_reboot_has_cured_it(tmp_path: Path) -> None:
    async def run() -> list[Sequence[Event]]:
        node = Node(tmp_path)
        await node.lived(HEARD)
        where = dump_of(tmp_path / "pstore", [*HEARD, *UNHEARD])
        await node.start(where)
        soon = await node.events()
        await node.start(where, after_s=700)
        return [soon, await node.events()]

    soon, later = asyncio.run(run())
    lost = next(event for event in incidents(soon) if event.code == 79)
    assert (lost.detail["state"], lost.detail["waiting_for"][:10]) == ("open", "10 minutes")
    assert [event.incident for event in soon if event.kind is Kind.XID and event.code == 79] == [lost.id]
    [after] = [event for event in incidents(later) if event.code == 79]
    assert (after.id, after.detail["recovered_by"]["how"]) == (lost.id, "reboot")


def test_an_incident_of_lines_that_show_no_printer_says_so() -> None:
    lines = [replace(line(each), origin=Origin.UNKNOWN) for each in UNHEARD]
    played = play(lines, MAKE, next_boot=THIS_BOOT)
    pipeline = MAKE()
    pipeline.restore(Snapshot({}, None), boot_id=THIS_BOOT, now_us=0)
    told = pipeline.take_over(played.state, now_us=0)
    assert [(event.code, event.origin) for event in told] == [(48, Origin.UNKNOWN), (79, Origin.UNKNOWN)]


def test_an_incident_that_was_over_by_the_crash_is_told_as_it_was_found(tmp_path: Path) -> None:
    to_none = "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"
    cured = Printed(100 * SECOND_US, f"NVRM: Xid (PCI:0000:91:00): 154, {to_none}")

    async def run() -> Sequence[Event]:
        node = Node(tmp_path)
        await node.lived(HEARD)
        await node.start(dump_of(tmp_path / "pstore", [*HEARD, xid(90, 48), cured, xid(400, 31)]))
        return await node.events()

    events = asyncio.run(run())
    [memory] = [event for event in incidents(events) if event.code == 48]
    assert memory.detail["recovered_by"]["how"] == "recovery_action_none"
    assert {event.incident for event in events if event.code in {48, 154} and event is not memory} == {
        memory.id
    }


def test_an_event_that_is_known_is_told_again_with_the_incident_that_it_turned_out_to_be_of(
    tmp_path: Path,
) -> None:
    row = Printed(50 * SECOND_US, "NVRM: Xid (PCI:0000:91:00): 63, Row Remapper: New row (0x12) marked")

    async def run() -> Sequence[Event]:
        node = Node(tmp_path)
        await node.lived([row])
        await node.start(dump_of(tmp_path / "pstore", [row, xid(50.1, 48)]))
        return await node.events()

    events = asyncio.run(run())
    [incident] = incidents(events)
    assert [event.incident for event in events if event.kind is Kind.XID] == [incident.id] * 2


def test_a_start_that_does_not_live_to_read_it_leaves_it_to_the_next_one(tmp_path: Path) -> None:
    async def run() -> tuple[Outcome | None, Sequence[Event]]:
        node = Node(tmp_path)
        await node.lived(HEARD)
        where = dump_of(tmp_path / "pstore", [*HEARD, *UNHEARD])
        await node.start(where, killed=True)
        return await node.start(where), await node.events()

    outcome, events = asyncio.run(run())
    assert outcome is not None
    assert codes(events) == [(31, 1), (43, 2), (48, 1), (79, 1)]


def test_a_reading_that_ends_every_process_is_given_up(tmp_path: Path) -> None:
    async def run() -> list[Outcome | None]:
        node = Node(tmp_path)
        await node.lived(HEARD)
        where = dump_of(tmp_path / "pstore", [*HEARD, *UNHEARD])
        for _ in range(MOST_TRIES):
            await node.start(where, killed=True)
        return [await node.start(where), await node.start(where)]

    outcome, after = asyncio.run(run())
    assert outcome is not None
    assert (outcome.problems, after) == ([f"{MOST_TRIES} processes ended over it"], None)


def test_a_dump_that_is_older_than_what_is_known_is_not_of_the_boot_before(tmp_path: Path) -> None:
    async def run() -> tuple[Outcome | None, Sequence[Event]]:
        node = Node(tmp_path)
        await node.lived(HEARD)
        where = dump_of(tmp_path / "pstore", UNHEARD, age_us=HOUR_US)
        return await node.start(where), await node.events()

    outcome, events = asyncio.run(run())
    assert outcome is not None
    assert (outcome.events, codes(events)) == (0, [(31, 1), (43, 1)])


def test_where_nothing_is_known_a_dump_of_days_ago_is_not_of_the_boot_before(tmp_path: Path) -> None:
    noise = Printed(10 * SECOND_US, "NVRM: nothing that is a fault")

    async def run() -> Sequence[Event]:
        node = Node(tmp_path)
        await node.lived([noise])
        await node.start(dump_of(tmp_path / "pstore", UNHEARD, age_us=48 * HOUR_US))
        return await node.events()

    assert asyncio.run(run()) == []


def test_within_one_boot_and_at_the_very_first_start_nothing_is_read(tmp_path: Path) -> None:
    async def run() -> list[Outcome | None]:
        node = Node(tmp_path)
        where = dump_of(tmp_path / "pstore", UNHEARD)
        return [await node.start(where), await node.start(where)]

    assert asyncio.run(run()) == [None, None]
