"""The mock fleet: what each GPU is doing now, the commands that change it, the steps that come by themselves.

Owned by one event loop. Time passes in it for steps that wait for it, and for a call that is said to hang.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

from daemon.gpu.answers import HungCall
from daemon.gpu.mock.gpu import Board, Condition
from daemon.gpu.mock.h200 import mig
from daemon.gpu.mock.scenario import Scenario
from daemon.gpu.protocol import Trouble
from daemon.gpu.selection import Choice, MigChoice, select_one

HANGING_CALL = "nvmlDeviceGetTemperature"


class Command(StrEnum):
    """What can be done to a mock GPU while the daemon runs."""

    FALL_OFF = "fall-off"
    """Off the bus: NVML says `GPU is lost`."""
    VANISH = "vanish"
    """Out of the driver's list."""
    THROTTLE = "throttle"
    DEGRADE = "degrade"
    HANG = "hang"
    COME_BACK = "come-back"
    """To what it did before, if that was to work or to idle; otherwise to idling."""


_CONDITIONS = {
    Command.FALL_OFF: Condition.LOST,
    Command.VANISH: Condition.GONE,
    Command.THROTTLE: Condition.THROTTLING,
    Command.DEGRADE: Condition.DEGRADING,
    Command.HANG: Condition.HUNG,
}
_SOUND = (Condition.IDLE, Condition.BUSY)


def _wall_us() -> int:
    return time.time_ns() // 1000


class MockFleet:
    """See the module's docstring."""

    def __init__(
        self,
        scenario: Scenario,
        wall_us: Callable[[], int] = _wall_us,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall_us = wall_us
        self._clock_s = clock_s
        self._hung_since: dict[str, int] = {}
        self.take(scenario)

    def take(self, scenario: Scenario) -> None:
        """Be the fleet of this scenario from now on. A call that hung goes on hanging if its GPU does."""
        self.driver_version = scenario.driver_version
        self.boards = {gpu.board.pci: gpu.board for gpu in scenario.gpus}
        """By PCI address."""
        self._conditions = {gpu.board.pci: gpu.condition for gpu in scenario.gpus}
        self._before = {pci: c if c in _SOUND else Condition.IDLE for pci, c in self._conditions.items()}
        hung = (pci for pci, c in self._conditions.items() if c is Condition.HUNG)
        self._hung_since = {pci: self._hung_since.get(pci, self._wall_us()) for pci in hung}
        self._steps = list(scenario.steps)
        self._by_index = [gpu.board.pci for gpu in scenario.gpus]
        self._looks = 0
        self._began_s = self._clock_s()

    def look(self) -> None:
        """Somebody looks at the fleet: what the scenario has planned up to now happens."""
        elapsed_s = self._clock_s() - self._began_s
        due = [step for step in self._steps if step.is_due(self._looks, elapsed_s)]
        self._steps = [step for step in self._steps if step not in due]
        for step in due:
            self.put(self._by_index[step.gpu], step.condition)
        self._looks += 1

    def condition(self, pci: str) -> Condition:
        """What the GPU at this address is doing."""
        return self._conditions[pci]

    def put(self, pci: str, condition: Condition) -> None:
        """Let it do something else."""
        if condition in _SOUND:
            self._before[pci] = condition
        self._conditions[pci] = condition
        if condition is Condition.HUNG:
            self._hung_since.setdefault(pci, self._wall_us())
        else:
            self._hung_since.pop(pci, None)

    def command(self, command: Command, gpu: str) -> Board:
        """Do it to the GPU that `gpu` names: index, UUID, PCI address, … Raises UserError."""
        pci = select_one(gpu, self.choices()).gpu.pci
        self.put(pci, _CONDITIONS.get(command, self._before[pci]))
        return self.boards[pci]

    def choices(self) -> tuple[Choice, ...]:
        """Every GPU of the fleet, whatever it is doing, as something that can be named."""
        return tuple(
            Choice(
                board.pci,
                board.index,
                board.uuid,
                tuple(
                    MigChoice(compute.uuid, instance.id, compute.id)
                    for instance in mig(board).gpu_instances or ()
                    for compute in instance.compute_instances
                ),
            )
            for board in self.boards.values()
        )

    def listed(self) -> tuple[str, ...]:
        """PCI addresses that the driver would list, in order."""
        return tuple(sorted(pci for pci, c in self._conditions.items() if c is not Condition.GONE))

    def hung(self) -> tuple[HungCall, ...]:
        """The calls that are said not to return, the longest first."""
        since = sorted(self._hung_since.items(), key=lambda entry: entry[1])
        return tuple(HungCall(pci, HANGING_CALL, since_us, Trouble.HUNG) for pci, since_us in since)
