"""An invented node, for demonstrations and tests: eight H200 on an HGX board, some of them in trouble.

The readings look like those of real H200s (driver 580.159.04), and are the same each time: no clock
and no chance is in them. A scenario file says what the GPUs are doing and what happens to them, and is
read anew when it changes; every answer is marked as a mock. Nothing here touches a driver, a device,
a process or the kernel log.
"""

from daemon.gpu.mock.fleet import Command, MockFleet
from daemon.gpu.mock.gpu import Board, Condition
from daemon.gpu.mock.scenario import DEFAULT, MockGpu, Scenario, Step, load, parse
from daemon.gpu.mock.scenario_file import ScenarioFile
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
    "ScenarioFile",
    "Step",
    "load",
    "parse",
]
