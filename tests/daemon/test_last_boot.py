"""At the first start of a boot the end of the last one is taken over, and nothing is doubled."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

from daemon.event import Event, Kind
from daemon.last_boot import Outcome, events_of, read_on
from daemon.pipeline import Pipeline
from daemon.store import Store
from probes.last_boot import Places
from probes.line import KernelLine, Origin, ResumePoint
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


def places(directory: Path, records: list[Printed]) -> Places:
    """The dump of a panic that holds these records."""
    dump = directory / "dmesg-efi_pstore-1"
    dump.write_bytes(RENDERERS["pstore"](records))
    written_s = (records[-1].wall_us + SECOND_US) / 1e6
    os.utime(dump, (written_s, written_s))
    return Places(pstore=(directory,), journalctl="/nonexistent/journalctl")


def after_a_crash(
    tmp_path: Path, resume: ResumePoint | None
) -> tuple[Outcome | None, Outcome | None, list[Event]]:
    """Read on twice, as two starts in a row would."""

    async def run() -> tuple[Outcome | None, Outcome | None, list[Event]]:
        store = Store.open(tmp_path / "state")
        store.put(events_of([line(record) for record in HEARD], MAKE, next_boot=THIS_BOOT))
        where = places(tmp_path, [*HEARD, *UNHEARD])
        again = partial(
            read_on,
            store,
            resume,
            boot_id=THIS_BOOT,
            before_us=BOOT_US + 1000 * SECOND_US,
            make_pipeline=MAKE,
            places=where,
        )
        await store.stream.wait_beyond(0)
        newest = store.stream.newest
        first = await again()
        if first is not None and first.events:
            await store.stream.wait_beyond(newest)
        second = await again()
        page = await store.stream.page(0, 1000)
        await store.close()
        return first, second, [item.event for item in page.items if item.event.kind is Kind.XID]

    (tmp_path / "state").mkdir()
    return asyncio.run(run())


def test_faults_that_no_one_lived_to_hear_are_found_once_and_the_others_not_again(tmp_path: Path) -> None:
    first, second, events = after_a_crash(tmp_path, ResumePoint(BOOT_ID, 7))
    assert first is not None
    assert second is not None
    assert (first.events > 0, second.events) == (True, 0)
    assert sorted((event.code, event.count) for event in events) == [(31, 1), (43, 2), (48, 1), (79, 1)]
    assert {event.boot_id for event in events} == {BOOT_ID}
    as_live = {
        event.id
        for event in events_of([line(each) for each in [*HEARD, *UNHEARD]], MAKE, next_boot=THIS_BOOT)
    }
    assert {event.id for event in events} <= as_live


def test_within_one_boot_and_at_the_very_first_start_nothing_is_read(tmp_path: Path) -> None:
    first, _, events = after_a_crash(tmp_path, ResumePoint(THIS_BOOT, 7))
    assert first is None
    assert [event.code for event in events] == [31, 43]


def test_without_a_resume_point_nothing_is_read(tmp_path: Path) -> None:
    assert after_a_crash(tmp_path, None)[0] is None
