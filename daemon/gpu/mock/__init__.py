"""An invented node, for demonstrations and tests: eight H200 on an HGX board, some of them in trouble.

The readings look like those of real H200s (driver 580.159.04), and are the same each time: no clock
and no chance is in them. A scenario file says what the GPUs are doing, commands change it while it
runs, and every answer is marked as a mock. Nothing here touches a driver, a device or a process.
"""

from daemon.gpu.mock.fleet import Command, MockFleet
from daemon.gpu.mock.gpu import Board, Condition
from daemon.gpu.mock.scenario import DEFAULT, MockGpu, Scenario, Step, load, parse
from daemon.gpu.mock.source import MockSource

__all__ = [
    "DEFAULT",
    "Board",
    "Command",
    "Condition",
    "MockFleet",
    "MockGpu",
    "MockSource",
    "Scenario",
    "Step",
    "load",
    "parse",
]
