"""Moves the fake GPUs while the daemon reads them: they hang, crash, vanish and come back.

The driver is loaded anew now and then.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Final

from tests.support.fake_nvml import GPU_IS_LOST, Scenario

GPUS: Final = 8
_HOLD_S: Final = 3.0
"""How long a trouble lasts, on average."""


class Gpus(threading.Thread):
    """Trouble after trouble, each taken back before the next, until it is stopped."""

    def __init__(self, fleet: Scenario, seed: int) -> None:
        super().__init__(name="gpus", daemon=True)
        self.counts: Counter[str] = Counter()
        """Troubles by name."""
        self._fleet = fleet
        self._chance = random.Random(seed)
        self._leave = threading.Event()
        self._generation = 1

    def run(self) -> None:
        """Until it is stopped; then every GPU is well."""
        troubles: tuple[Callable[[int], None], ...] = (
            self.hang, self.crash, self.lose, self.vanish, self.reload, self.heat,
        )  # fmt: skip
        while not self._leave.is_set():
            gpu, trouble = self._chance.randrange(GPUS), self._chance.choice(troubles)
            trouble(gpu)
            self.counts[trouble.__name__] += 1
            self._leave.wait(_HOLD_S * self._chance.uniform(0.3, 1.7))
            self._fleet.behaves(gpu=gpu)
            self._fleet.present(range(GPUS))
            self._leave.wait(_HOLD_S * self._chance.uniform(0.3, 1.7))

    def stop(self) -> Counter[str]:
        """Stop and give the counts."""
        self._leave.set()
        self.join()
        return self.counts

    def hang(self, gpu: int) -> None:
        """No call on it returns."""
        self._fleet.hangs(gpu=gpu)

    def crash(self, gpu: int) -> None:
        """Every call on it ends the process that makes it."""
        self._fleet.crashes(gpu=gpu)

    def lose(self, gpu: int) -> None:
        """NVML says that it is lost."""
        self._fleet.fails(GPU_IS_LOST, gpu=gpu)

    def vanish(self, gpu: int) -> None:
        """It is not there, without a trace."""
        self._fleet.present([each for each in range(GPUS) if each != gpu])

    def reload(self, gpu: int) -> None:
        """The driver is loaded anew, for every GPU."""
        self._generation += 1
        self._fleet.reloads(self._generation)

    def heat(self, gpu: int) -> None:
        """Its temperature is another one."""
        self._fleet.answers("nvmlDeviceGetTemperature", self._chance.randrange(30, 95), gpu=gpu)
        self._fleet.takes(20_000, "nvmlDeviceGetTemperature", gpu=gpu)
