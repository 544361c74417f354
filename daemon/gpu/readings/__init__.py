"""Everything that is read of a GPU, as values.

Units are in the names (`_c`, `_w`, `_bytes`, `_mhz`, `_us`, `_percent`). A value that was not read is
None, never 0, False or empty, and the payload's `unread` gives the reason under the value's path. The
worker builds these, the daemon reads them back (`to_json`, `from_json`), a mock may build its own.
"""

from daemon.gpu.readings.clock_events import ClockEvents, ClockReason
from daemon.gpu.readings.costly import Costly
from daemon.gpu.readings.fabric import Fabric, FabricState
from daemon.gpu.readings.health import (
    Clocks,
    ConfidentialComputing,
    Health,
    Memory,
    Modes,
    NvLinkSums,
    Pcie,
    Power,
    RecoveryAction,
    Temperature,
    Utilization,
)
from daemon.gpu.readings.identity import Identity, MaxClocks
from daemon.gpu.readings.memory_errors import (
    Ecc,
    EccCounts,
    EccLocation,
    RemapBanks,
    RetiredPages,
    RowRemapping,
    SramErrors,
)
from daemon.gpu.readings.mig import ComputeInstance, GpuInstance, MigLayout
from daemon.gpu.readings.nvlink import Link, NvLink
from daemon.gpu.readings.processes import GpuProcess, Processes
from daemon.gpu.readings.reading import Reading
from daemon.gpu.readings.section import Section

__all__ = [
    "ClockEvents",
    "ClockReason",
    "Clocks",
    "ComputeInstance",
    "ConfidentialComputing",
    "Costly",
    "Ecc",
    "EccCounts",
    "EccLocation",
    "Fabric",
    "FabricState",
    "GpuInstance",
    "GpuProcess",
    "Health",
    "Identity",
    "Link",
    "MaxClocks",
    "Memory",
    "MigLayout",
    "Modes",
    "NvLink",
    "NvLinkSums",
    "Pcie",
    "Power",
    "Processes",
    "Reading",
    "RecoveryAction",
    "RemapBanks",
    "RetiredPages",
    "RowRemapping",
    "Section",
    "SramErrors",
    "Temperature",
    "Utilization",
]
