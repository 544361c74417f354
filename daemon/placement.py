"""To which fault a line of the log belongs, and NVML's word beside it: one fault, one event, whichever comes
first.

Owned by the pipeline; no clock of its own.
"""

from __future__ import annotations

from daemon.coalesce import Coalescer
from daemon.counters import Counters
from daemon.fault import OpenFault
from daemon.heard import Heard
from daemon.hindsight import Hindsight
from daemon.knowledge import Knowledge
from daemon.nvml_witness import PROBE, NvmlEvent, NvmlWitness, delay_us, is_repeat, told_alone


class Placement:
    """See the module's docstring."""

    def __init__(
        self,
        coalescer: Coalescer,
        hindsight: Hindsight,
        knowledge: Knowledge,
        counters: Counters,
        *,
        node: str,
    ) -> None:
        self._coalescer = coalescer
        self._hindsight = hindsight
        self._knowledge = knowledge
        self._counters = counters
        self._node = node
        self.nvml = NvmlWitness()
        """What NVML has told, and waits for its line."""

    def place(self, heard: Heard) -> OpenFault | None:
        """Count a line to its fault, the one that NVML told of before included; gives back the fault."""
        told = self.nvml.told_before(heard, self._coalescer.faults.holds)
        home = self._coalescer.adopt(told, heard) if told is not None else self._coalescer.line(heard)
        if home is not None:
            for event in self.nvml.line_read(home):
                self._told_of(self.nvml.known(event, self._coalescer.open_faults()) or home, event)
        return home

    def nvml_said(self, event: NvmlEvent) -> None:
        """Take NVML's word: of a fault that is known, or of one whose line may come."""
        self._counters.nvml_told += 1
        home = self.nvml.said(event, self._coalescer.open_faults())
        if home is not None:
            self._told_of(home, event)

    def tick(self, now_us: int) -> None:
        """What NVML said goes on without a line where that has had its time by arrival time `now_us`."""
        for event in self.nvml.due(now_us):
            self._alone(event)

    def _told_of(self, home: OpenFault, event: NvmlEvent) -> None:
        """NVML's word belongs to a fault that is known: one more witness of it."""
        if is_repeat(event, home):
            self._coalescer.report_again(home, at_us=event.arrival_us, wall_us=event.wall_us)
        else:
            self._hindsight.witness(home, PROBE, event.arrival_us, delay_us(event, home))

    def _alone(self, event: NvmlEvent) -> None:
        """The log has had its time: what NVML said is an event of its own, or one more of the last one."""
        home = self.nvml.known(event, self._coalescer.open_faults())
        if home is not None:
            self._told_of(home, event)
            return
        gpu = self._knowledge.devices.gpu(event.pci, event.mig)
        doubted = self.nvml.unproved(event, self._coalescer.open_faults())
        fault = told_alone(
            event,
            gpu,
            node=self._node,
            driver_version=self._knowledge.driver_version,
            has_line=doubted is not None,
        )
        if doubted is not None:
            fault = self._hindsight.raise_to(doubted, fault, delay_us(event, doubted))
        else:
            self._counters.nvml_alone += 1
            self._coalescer.report(fault, event.arrival_us)
        self.nvml.stands_alone(fault)
