"""Readings that cost milliseconds each: only on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.gpu.readings.section import Section


@dataclass(frozen=True, slots=True)
class Costly(Section):
    """Energy and PCIe traffic. On an H200: energy 3 ms, throughput 21 ms a direction, errors 1.6 ms."""

    energy_j: float | None = None
    """Energy used since the driver was loaded."""
    pcie_sent_kb_per_s: int | None = None
    """KB/s as NVML counts them over the last 20 ms, GPU to host."""
    pcie_received_kb_per_s: int | None = None
    pcie_correctable_errors: int | None = None
    """This and the counters below: since the driver was loaded or the GPU reset."""
    pcie_non_fatal_errors: int | None = None
    pcie_fatal_errors: int | None = None
    pcie_unsupported_requests: int | None = None
    pcie_receiver_errors: int | None = None
    pcie_bad_tlps: int | None = None
    pcie_bad_dllps: int | None = None
    pcie_lane_errors: int | None = None
    pcie_lcrc_errors: int | None = None
    pcie_naks_received: int | None = None
    pcie_naks_sent: int | None = None
    pcie_link_recoveries: int | None = None
    """Times the link left L0 for recovery."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why a field is null: name → reason."""
