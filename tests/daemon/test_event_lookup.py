"""An event is found by its id, wherever its newest revision is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.devices import DeviceMap
from daemon.store import Store
from probes.errors import UserError
from probes.procfs import ProcGpu
from tests.daemon.stored import event, in_loop, revised


async def filled(state_dir: Path) -> Store:
    """A store with 100 events, few of them in memory."""
    store = Store.open(state_dir, ring_size=4)
    for number in range(100):
        newest = store.stream.newest
        store.put([event(number)])
        await store.stream.wait_beyond(newest)
    return store


def test_it_is_found_in_memory_and_in_the_journal(tmp_path: Path) -> None:
    async def main() -> None:
        store = await filled(tmp_path)
        for number in (0, 50, 99):
            found = await store.stream.event(f"ev_{number}")
            assert found is not None
            assert found.event.kmsg_seq == number
        assert await store.stream.event("ev_100") is None
        assert await store.stream.event("") is None
        await store.close()

    in_loop(main)


def test_its_newest_revision_is_given(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path, ring_size=4)
        store.put([event(1)])
        await store.stream.wait_beyond(0)
        newest = store.stream.newest
        store.put([revised(event(1))])
        await store.stream.wait_beyond(newest)
        found = await store.stream.event("ev_1")
        assert found is not None
        assert (found.event.revision, found.cursor) == (2, store.stream.newest)
        await store.close()

    in_loop(main)


def test_once_the_store_is_closed_what_is_only_on_disk_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        store = await filled(tmp_path)
        await store.close()
        assert await store.stream.event("ev_99") is not None
        with pytest.raises(UserError, match="shutting down"):
            await store.stream.event("ev_0")

    in_loop(main)


def test_every_known_gpu_is_listed_by_address() -> None:
    devices = DeviceMap()
    devices.learn_from_proc(
        [ProcGpu("0000:91:00.0", "GPU-b", "H200", 1, None), ProcGpu("0000:17:00.0", "GPU-a", "H200", 0, None)]
    )
    assert [gpu.uuid for gpu in devices.gpus()] == ["GPU-a", "GPU-b"]
