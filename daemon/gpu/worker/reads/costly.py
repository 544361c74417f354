"""Readings of milliseconds, only on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as names_of

from daemon.gpu.readings import Costly
from daemon.gpu.worker.reads.convert import whole
from daemon.gpu.worker.reads.reader import Device, Field, GpuReader, call

_PCIE_ERRORS = {
    "pcie_correctable_errors": Field("NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS"),
    "pcie_non_fatal_errors": Field("NVML_FI_DEV_PCIE_COUNT_NON_FATAL_ERROR"),
    "pcie_fatal_errors": Field("NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR"),
    "pcie_unsupported_requests": Field("NVML_FI_DEV_PCIE_COUNT_UNSUPPORTED_REQ"),
    "pcie_receiver_errors": Field("NVML_FI_DEV_PCIE_COUNT_RECEIVER_ERROR"),
    "pcie_bad_tlps": Field("NVML_FI_DEV_PCIE_COUNT_BAD_TLP"),
    "pcie_bad_dllps": Field("NVML_FI_DEV_PCIE_COUNT_BAD_DLLP"),
    "pcie_lane_errors": Field("NVML_FI_DEV_PCIE_COUNT_LANE_ERROR"),
    "pcie_lcrc_errors": Field("NVML_FI_DEV_PCIE_COUNT_LCRC_ERROR"),
    "pcie_naks_received": Field("NVML_FI_DEV_PCIE_COUNT_NAKS_RECEIVED"),
    "pcie_naks_sent": Field("NVML_FI_DEV_PCIE_COUNT_NAKS_SENT"),
    "pcie_link_recoveries": Field("NVML_FI_DEV_PCIE_L0_TO_RECOVERY_COUNTER"),
}
ENERGY, THROUGHPUT, ERRORS = "energy", "pcie_throughput", "pcie_errors"
_SENT, _RECEIVED = 0, 1
_NOT_ASKED = "not asked for"


def costly(device: Device, arguments: Mapping[str, object]) -> dict[str, object]:
    """`readings.Costly` as JSON. `{"what": ["energy", "pcie_throughput", "pcie_errors"]}`; all without it."""
    asked = arguments.get("what", [ENERGY, THROUGHPUT, ERRORS])
    wanted = asked if isinstance(asked, list) else [asked]
    read = GpuReader(device)
    read.note([field.name for field in names_of(Costly) if field.name != "unread"], _NOT_ASKED)
    energy = sent = received = None
    counters: dict[str, int] = {}
    if ENERGY in wanted:
        energy = _value(read, "energy_j", "nvmlDeviceGetTotalEnergyConsumption")
    if THROUGHPUT in wanted:
        sent = _value(read, "pcie_sent_kb_per_s", "nvmlDeviceGetPcieThroughput", _SENT)
        received = _value(read, "pcie_received_kb_per_s", "nvmlDeviceGetPcieThroughput", _RECEIVED)
    if ERRORS in wanted:
        counters = read.fields(_PCIE_ERRORS)
        for name in counters:
            del read.unread[name]
    return Costly(
        energy_j=energy / 1000 if energy is not None else None,
        pcie_sent_kb_per_s=sent,
        pcie_received_kb_per_s=received,
        **counters,
        unread=read.unread,
    ).to_json()


def _value(read: GpuReader, path: str, function: str, *arguments: object) -> int | None:
    value = read.get(path, call(whole, function, *arguments))
    if value is not None:
        del read.unread[path]
    return value
