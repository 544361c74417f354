"""`--gpu mock`: a `GpuSource` whose GPUs are invented, and say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypedDict

from daemon.gpu.mock import h200
from daemon.gpu.mock.fleet import HANGING_CALL, MockFleet
from daemon.gpu.mock.gpu import WORKING, Board, Condition
from daemon.gpu.mock.h200_health import health
from daemon.gpu.mock.scenario_file import ScenarioFile
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Costly, Health, Identity, NvLink, Processes, Reading
from daemon.gpu.source import SourceName, SourceState, Sweep

REASON = "these GPUs are invented (--gpu mock)"

_TROUBLES = {
    Condition.LOST: (Trouble.LOST, "GPU is lost"),
    Condition.HUNG: (Trouble.HUNG, f"{HANGING_CALL} did not return"),
    Condition.GONE: (Trouble.NOT_FOUND, "the driver knows no GPU at this address"),
}


class _Payload(TypedDict, total=False):
    """The part of a `Reading` that a question fills."""

    identity: Identity
    health: Health
    processes: Processes
    nvlink: NvLink
    costly: Costly


class MockSource:
    """A `GpuSource` over a `MockFleet`. It answers at once, also for a GPU that hangs."""

    def __init__(self, fleet: MockFleet, file: ScenarioFile | None = None) -> None:
        """`file` is where the fleet's scenario is from: it is read anew at the first question after a
        change."""
        self.fleet = fleet
        """For commands."""
        self._file = file

    def state(self) -> SourceState:
        """Ok, or no GPU when all have vanished; always marked as a mock, and saying so in its reason."""
        name = SourceName.OK if self.fleet.listed() else SourceName.NO_GPU
        trouble = self._file.trouble if self._file is not None else None
        reason = REASON if trouble is None else f"{REASON}; the scenario before is in force: {trouble}"
        return SourceState(name, reason=reason, mock=True, hung=self.fleet.hung())

    async def listed(self) -> Sequence[str] | None:
        """The GPUs that have not vanished."""
        return list(self.fleet.listed())

    async def inventory(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `identity`; of a GPU that does not answer, what /proc would say of it."""
        driver = self.fleet.driver_version
        sweep = self._sweep(gpus, 0.4, lambda board, now: {"identity": h200.identity(board, driver)})
        listed = set(self.fleet.listed())
        readings = (
            reading
            if reading.answered or reading.pci not in listed
            else replace(reading, identity=h200.without_nvml(self.fleet.boards[reading.pci], driver))
            for reading in sweep.gpus
        )
        return replace(sweep, gpus=tuple(readings))

    async def health(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `health`."""
        return self._sweep(gpus, 1.6, lambda board, now: {"health": health(board, now)})

    async def processes(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `processes`, of pids that no real process can have."""
        return self._sweep(gpus, 0.1, lambda board, now: {"processes": h200.processes(board, now)})

    async def nvlink(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `nvlink`."""
        return self._sweep(gpus, 2.1, lambda board, now: {"nvlink": h200.nvlink(now)})

    async def costly(self, gpus: Sequence[str] | None = None, *, insist: bool = False) -> Sweep:
        """Readings with `costly`."""
        return self._sweep(gpus, 45.0, lambda board, now: {"costly": _costly(now)})

    async def close(self) -> None:
        """Nothing runs."""

    def _sweep(
        self, gpus: Sequence[str] | None, took_ms: float, read: Callable[[Board, Condition], _Payload]
    ) -> Sweep:
        """`took_ms`: what such a read costs on a real H200, rounded."""
        if self._file is not None and (scenario := self._file.changed()) is not None:
            self.fleet.take(scenario)
        self.fleet.look()
        wanted = self.fleet.listed() if gpus is None else sorted(set(gpus))
        readings = []
        for pci in wanted:
            board = self.fleet.boards.get(pci)
            condition = Condition.GONE if board is None else self.fleet.condition(pci)
            if board is None or condition in _TROUBLES:
                trouble, reason = _TROUBLES[condition]
                readings.append(Reading(pci, answered=False, trouble=trouble.value, reason=reason))
            else:
                readings.append(Reading(pci, answered=True, took_ms=took_ms, **read(board, condition)))
        return Sweep(self.state(), tuple(readings))


def _costly(condition: Condition) -> Costly:
    busy = condition in WORKING
    return Costly(
        energy_j=41_280_000.0 if busy else 2_424.7,
        pcie_sent_kb_per_s=1_840_000 if busy else 1007,
        pcie_received_kb_per_s=2_310_000 if busy else 563,
        pcie_correctable_errors=0,
        pcie_non_fatal_errors=0,
        pcie_fatal_errors=0,
        pcie_unsupported_requests=0,
        pcie_receiver_errors=11,
        pcie_bad_tlps=15,
        pcie_bad_dllps=0,
        pcie_lane_errors=21,
        pcie_lcrc_errors=0,
        pcie_naks_received=0,
        pcie_naks_sent=11,
        pcie_link_recoveries=383,
    )
