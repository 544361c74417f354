"""What hears, and what keeps what was heard: the process without its ways out.

The store is open before anything can be heard, and whoever reads it (sinks, clients) is there before the
first record is: `opened` makes the parts, `at_work` lets them begin.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from daemon import last_boot
from daemon.config import Config
from daemon.intake import Intake
from daemon.pipeline import Pipeline
from daemon.store import Retention, Store
from daemon.told_before import ToldBefore
from probes import kernel
from probes.health import ProbeHealth
from xidwatch.ears import Ears
from xidwatch.gpu_side import GpuSide
from xidwatch.preload import Preloaded
from xidwatch.tracking import Tracking

CLOCK: Final = kernel.SystemClock()


@dataclass(frozen=True, slots=True)
class Inside:
    """Everything between the kernel and the stream. Belongs to the event loop's thread."""

    boot_id: str
    new_pipeline: partial[Pipeline]
    """Makes another pipeline like `pipeline`, with nothing in it."""
    pipeline: Pipeline
    store: Store
    intake: Intake
    ears: Ears
    gpu_side: GpuSide
    tracking: Tracking

    def health(self) -> Sequence[ProbeHealth]:
        """Each probe that runs or was asked for, as of now."""
        return [*self.ears.health(), *self.gpu_side.health()]

    def hears(self) -> bool:
        """Whether at least one live source hears now."""
        return any(probe.live and probe.hears for probe in self.health())

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Hear while the block runs; it begins when the first look was taken.

        Raises UserError when eBPF is required and cannot be, or a path is no kernel log.
        """
        resume = self.store.resume
        self.gpu_side.start()
        self.tracking.start()
        self.intake.start()
        with contextlib.ExitStack() as stack:
            stack.callback(self.intake.close)
            reading_on = asyncio.create_task(
                last_boot.read_on(
                    self.store,
                    resume,
                    last_boot.Live(self.pipeline, self.intake.keep, CLOCK.monotonic_us),
                    boot_id=self.boot_id,
                    before_us=CLOCK.wall_us() - CLOCK.monotonic_us(),
                    make_pipeline=self.new_pipeline,
                )
            )
            stack.callback(reading_on.cancel)
            stack.callback(self.ears.close)
            self.ears.start()
            self.gpu_side.listen()
            await self.ears.looked_once()
            yield


@asynccontextmanager
async def opened(
    config: Config, preloaded: Preloaded, *, predecessor_ended_us: int | None
) -> AsyncIterator[Inside]:
    """The parts while the block runs, none of which hears yet; the state directory is locked.

    `predecessor_ended_us`: CLOCK_MONOTONIC when the process that held it before had ended; None when there
    was none. Raises UserError.
    """
    boot_id = kernel.boot_id()
    new_pipeline = partial(
        Pipeline, node=config.node_name, quiet_gap_us=config.quiet_gap_us, allow_drills=config.allow_drills
    )
    pipeline = new_pipeline()
    async with contextlib.AsyncExitStack() as stack:
        store = Store.open(
            config.state_dir,
            ring_size=config.ring_size,
            retention=Retention(config.retention_us / 1e6, config.retention_bytes),
            reserve_key=pipeline.reserve_key,
        )
        stack.push_async_callback(store.close)
        intake = Intake(pipeline, store, boot_id=boot_id, clock=CLOCK)
        before = None
        if predecessor_ended_us is not None:
            before = ToldBefore.of(store, boot_id, until_us=predecessor_ended_us)
        ears = Ears(
            config,
            intake=intake,
            pipeline=pipeline,
            resume=store.resume,
            load=preloaded.load,
            begun_us=preloaded.begun_us,
            before=before,
            clocks=preloaded.clocks,
        )
        gpu_side = GpuSide(
            config, pipeline=pipeline, intake=intake, store=store, clock=CLOCK, tracepoint=ears.driver
        )
        stack.push_async_callback(gpu_side.close)
        tracking = Tracking(
            config,
            intake=intake,
            processes=gpu_side.processes,
            clock=CLOCK,
            load=preloaded.load_tracker,
        )
        stack.callback(tracking.close)
        yield Inside(boot_id, new_pipeline, pipeline, store, intake, ears, gpu_side, tracking)
