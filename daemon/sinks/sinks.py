"""All sinks of a daemon: made from the configuration, each in a task of its own, ended together.

A sink that fails, hangs or has a bug stops nothing but itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from daemon.sinks.alertmanager import Alertmanager
from daemon.sinks.batch import Node
from daemon.sinks.command import Command
from daemon.sinks.courier import Courier, Standing
from daemon.sinks.cursor import FOLDER, CursorFile, forget_others, path_of
from daemon.sinks.delivery import Delivery
from daemon.sinks.health import SinkHealth
from daemon.sinks.news import News
from daemon.sinks.targets import AlertmanagerTarget, CommandTarget, SinkConfig, WebhookTarget
from daemon.sinks.upkeep import Upkeep
from daemon.sinks.webhook import Webhook
from daemon.stream import EventStream
from daemon.thread import DiskThread

CLOSE_S: Final = 2.0
"""How long the end of the process waits for the cursors to be saved."""


def courier_of(config: SinkConfig, *, agent: str, disk: DiskThread) -> Courier:
    """What carries the events of a sink. Raises UserError for a secret that cannot be read."""
    match config.target:
        case WebhookTarget() as webhook:
            return Webhook(webhook, _news(config), agent=agent, disk=disk)
        case AlertmanagerTarget() as alertmanager:
            return Alertmanager(alertmanager, drills=config.drills, agent=agent, disk=disk)
        case CommandTarget() as command:
            return Command(config.name, command, _news(config))


def _news(config: SinkConfig) -> News:
    return News(config.match, config.updates, drills=config.drills)


class Sinks:
    """See the module's docstring. Belongs to the event loop it was made in."""

    def __init__(
        self, configs: Sequence[SinkConfig], stream: EventStream, *, state_dir: Path, node: Node, agent: str
    ) -> None:
        """Made before the first record is read, so that a new sink misses none. `agent`: the User-Agent.
        Raises UserError for a secret that cannot be read."""
        self._state_dir = state_dir
        self._names = [config.name for config in configs]
        self._disk = DiskThread("sinks")
        self._couriers: list[Courier] = []
        self._files: list[CursorFile] = []
        self._deliveries: list[Delivery] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stream = stream
        for config in configs:
            self._add(config, node, agent)

    def _add(self, config: SinkConfig, node: Node, agent: str) -> None:
        courier = courier_of(config, agent=agent, disk=self._disk)
        upkeep = None
        if isinstance(courier, Alertmanager):
            standing: Standing = courier
            upkeep = Upkeep(config.name, courier, standing, self._stream, node)
        file = CursorFile(path_of(self._state_dir, config.name), self._disk)
        self._couriers.append(courier)
        self._files.append(file)
        self._deliveries.append(Delivery(config, courier, self._stream, file, node=node, upkeep=upkeep))

    def start(self) -> None:
        """Begin to send."""
        self._disk.submit(partial(forget_others, self._state_dir / FOLDER, self._names))
        for delivery in self._deliveries:
            name = f"sink {delivery.health.name}"
            self._tasks.append(asyncio.create_task(delivery.serve(), name=name))

    def health(self) -> Sequence[SinkHealth]:
        """How each of them does, in the order of the configuration."""
        return [delivery.health for delivery in self._deliveries]

    async def close(self) -> None:
        """End them, and save where they are; what is under way is broken off and sent again next time."""
        for task in self._tasks:
            task.cancel()
        for courier in self._couriers:
            await courier.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for delivery, file in zip(self._deliveries, self._files, strict=True):
            if delivery.has_begun:
                file.save(delivery.position)
        await asyncio.gather(*(file.settled(CLOSE_S) for file in self._files))
        for file in self._files:
            file.close()
        self._disk.close()
