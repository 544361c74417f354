"""Where records become kept events: one commit a batch, the resume point, timers, and bad records."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon import intake as intake_module
from daemon.event import Event, Kind
from daemon.filter import EVERYTHING
from daemon.intake import Intake
from daemon.pipeline import Pipeline
from daemon.store import Store
from probes.health import ProbeHealth
from probes.kernel import SystemClock
from probes.line import Batch, KernelLine, LostRecords, ResumePoint
from tests.support.records import BOOT, GPU, UUID, record, xid

CLOCK = SystemClock()


def batch(*items: KernelLine | LostRecords, last_seq: int | None = None) -> Batch:
    return Batch("kmsg", BOOT, items, last_seq)


def heard_now(text: str, seq: int, *, at_us: int | None = None) -> KernelLine:
    return record(text, CLOCK.monotonic_us() if at_us is None else at_us, seq=seq)


def mmu(pid: int) -> str:
    return xid(31, f"pid={pid}, name=fault, channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS")


def opened(state_dir: Path, proc: Path = Path("/nonexistent")) -> tuple[Intake, Store, Pipeline]:
    pipeline = Pipeline(node="n")
    store = Store.open(state_dir, reserve_key=pipeline.reserve_key)
    intake = Intake(pipeline, store, boot_id=BOOT, clock=CLOCK, proc=proc)
    intake.start()
    return intake, store, pipeline


async def closed(intake: Intake, store: Store) -> None:
    intake.close()
    await store.close()


async def events_of(store: Store) -> list[Event]:
    page = await store.stream.page(0, 1000, EVERYTHING)
    return [item.event for item in page.items]


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine test in a loop of its own."""

    def run(tmp_path: Path, **fixtures: Any) -> None:
        asyncio.run(test(tmp_path, **fixtures))

    run.__name__ = test.__name__
    return run


@in_loop
async def test_a_batch_is_kept_with_its_resume_point(tmp_path: Path) -> None:
    intake, store, _ = opened(tmp_path)
    intake.take(batch(heard_now(mmu(1), 7), last_seq=9))
    await store.stream.wait_beyond(0)
    await closed(intake, store)
    reopened = Store.open(tmp_path)
    assert reopened.resume == ResumePoint(BOOT, 9)
    assert [event.kmsg_seq for event in await events_of(reopened)] == [7]
    await reopened.close()


@in_loop
async def test_records_up_to_the_resume_point_teach_and_are_not_told_again(tmp_path: Path) -> None:
    intake, store, _ = opened(tmp_path)
    log = [heard_now(f"NVRM: GPU at PCI:{GPU}: {UUID}", 1), heard_now(mmu(1), 2)]
    intake.take(batch(*log, last_seq=2))
    await closed(intake, store)

    intake, store, _ = opened(tmp_path)
    intake.take(batch(*log, heard_now(mmu(2), 3), last_seq=3))
    await closed(intake, store)
    events = await events_of(store)
    assert [(event.process and event.process.pid, event.count) for event in events] == [(1, 1), (2, 1)]
    assert events[1].gpu is not None
    assert events[1].gpu.uuid == UUID
    assert store.resume == ResumePoint(BOOT, 3)


@in_loop
async def test_where_another_probe_reads_the_log_after_a_restart_it_tells_nothing_again(
    tmp_path: Path,
) -> None:
    start_us = CLOCK.monotonic_us()
    told: list[KernelLine] = []
    for turn, probe in enumerate(("kmsg", "klog", "kmsg", "klog")):
        intake, store, pipeline = opened(tmp_path)
        pids = (2 * turn, 2 * turn + 1)
        told += [heard_now(mmu(pid), pid, at_us=start_us + pid * 20_000) for pid in pids]
        seq = told[-1].seq if probe == "kmsg" else None
        log = [replace(line, probe=probe, seq=line.seq if probe == "kmsg" else None) for line in told]
        intake.take(Batch(probe, BOOT, log, seq))
        await closed(intake, store)
        faults = [event for event in await events_of(store) if event.kind is Kind.XID]
        assert len(faults) == len(told)
        assert pipeline.counters.faults == len(pids)


@in_loop
async def test_a_repeat_after_a_restart_is_counted_into_the_same_event(tmp_path: Path) -> None:
    intake, store, _ = opened(tmp_path)
    intake.take(batch(heard_now(mmu(1), 1), heard_now(mmu(1), 2), last_seq=2))
    await closed(intake, store)
    intake, store, _ = opened(tmp_path)
    intake.take(batch(heard_now(mmu(1), 3), last_seq=3))
    deadline = asyncio.get_running_loop().time() + 10
    while [event.count for event in await events_of(store)] != [3]:
        assert asyncio.get_running_loop().time() < deadline
        await store.stream.wait_beyond(store.stream.newest)
    await closed(intake, store)


@in_loop
async def test_the_pending_revision_goes_out_by_itself(tmp_path: Path) -> None:
    intake, store, _ = opened(tmp_path)
    intake.take(batch(heard_now(mmu(1), 1), heard_now(mmu(1), 2), last_seq=2))
    await store.stream.wait_beyond(0)
    await asyncio.wait_for(store.stream.wait_beyond(store.stream.newest), 10)
    assert [(event.revision, event.count) for event in await events_of(store)] == [(2, 2)]
    await closed(intake, store)


@pytest.fixture
def short_save(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "SAVE_RESUME_POINT_AFTER_S", 0.05)


def test_a_resume_point_over_noise_is_written_soon_but_not_each_time(
    tmp_path: Path, short_save: None
) -> None:
    async def run() -> None:
        intake, store, _ = opened(tmp_path)
        puts: list[ResumePoint | None] = []
        put = store.put

        def counted(events: Any, state: Any, resume: ResumePoint | None) -> None:
            puts.append(resume)
            put(events, state, resume)

        store.put = counted  # type: ignore[method-assign, assignment]  # to count the writes
        for seq in range(50):
            intake.take(batch(last_seq=seq))
        assert puts == []
        end = asyncio.get_running_loop().time() + 10
        while not puts:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.01)
        assert puts == [ResumePoint(BOOT, 49)]
        await closed(intake, store)

    asyncio.run(run())


def test_a_record_that_meets_a_bug_is_skipped_and_the_next_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        intake, store, pipeline = opened(tmp_path)
        feed = pipeline.feed

        def with_a_bug(item: KernelLine | LostRecords) -> Any:
            if isinstance(item, KernelLine) and "pid=13," in item.text:
                raise ZeroDivisionError("a bug")
            return feed(item)

        monkeypatch.setattr(pipeline, "feed", with_a_bug)
        intake.take(batch(*(heard_now(mmu(pid), pid) for pid in (12, 13, 14)), last_seq=14))
        await closed(intake, store)
        assert [event.process and event.process.pid for event in await events_of(store)] == [12, 14]
        assert intake.failures == 1

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "a bug" in caplog.text


@in_loop
async def test_a_probe_that_goes_down_is_an_event(tmp_path: Path) -> None:
    intake, store, _ = opened(tmp_path)
    intake.probe_changed(ProbeHealth("kmsg", hears=False, live=True, reason="gone"))
    await closed(intake, store)
    assert [event.name for event in await events_of(store)] == ["PROBE_DOWN"]


@in_loop
async def test_the_gpus_that_the_driver_lists_are_known_from_its_loading_on(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    intake, store, _ = opened(tmp_path / "state", proc)
    (proc / "gpus" / f"{GPU}.0").mkdir(parents=True)
    (proc / "gpus" / f"{GPU}.0" / "information").write_text(f"Model: \t NVIDIA H200\nGPU UUID: \t {UUID}\n")
    loading = "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build"
    intake.take(batch(heard_now(loading, 1), last_seq=1))
    intake.take(batch(heard_now(mmu(1), 2), last_seq=2))
    await closed(intake, store)
    [_, event] = await events_of(store)
    assert event.gpu is not None
    assert (event.gpu.uuid, event.gpu.name) == (UUID, "NVIDIA H200")


@in_loop
async def test_a_log_that_restarts_its_numbers_is_heard(tmp_path: Path) -> None:
    intake, store, _ = opened(tmp_path)
    intake.take(batch(heard_now(mmu(1), 500), last_seq=500))
    await closed(intake, store)
    intake, store, _ = opened(tmp_path)
    for pid, seq in ((2, 501), (3, 10)):
        intake.take(batch(heard_now(mmu(pid), seq), last_seq=seq))
    await closed(intake, store)
    xids = [event for event in await events_of(store) if event.kind is Kind.XID]
    assert [event.process and event.process.pid for event in xids] == [1, 2, 3]
