"""The health readings of a mock H200, by what it is doing.

At rest they are those of two real H200s (SXM, driver 580.159.04); under load those that such a card
shows in training. The same reads are missing as on the real ones.
"""

from __future__ import annotations

from dataclasses import replace

from daemon.gpu.mock.gpu import WORKING, Board, Condition
from daemon.gpu.mock.h200 import (
    BROKEN_LINK,
    LINKS,
    NOT_SUPPORTED,
    RESERVED_BYTES,
    TOTAL_BYTES,
    used_bytes,
)
from daemon.gpu.readings import (
    ClockEvents,
    ClockReason,
    Clocks,
    ConfidentialComputing,
    Ecc,
    EccCounts,
    EccLocation,
    Fabric,
    FabricState,
    Health,
    Memory,
    Modes,
    NvLinkSums,
    Pcie,
    Power,
    RecoveryAction,
    RemapBanks,
    RowRemapping,
    SramErrors,
    Temperature,
    Utilization,
)

_HARDWARE_SLOW_US = 84_000_000


def health(board: Board, condition: Condition) -> Health:
    """How it is, while it answers."""
    found = _working(board) if condition in WORKING else _idle(board)
    match condition:
        case Condition.THROTTLING:
            return _throttling(found)
        case Condition.DEGRADING:
            return _degrading(found)
    return found


def _idle(board: Board) -> Health:
    on = bool(board.mig)
    return Health(
        recovery_action=RecoveryAction.NONE.value,
        memory=Memory(
            total_bytes=TOTAL_BYTES,
            used_bytes=0,
            free_bytes=TOTAL_BYTES - RESERVED_BYTES,
            reserved_bytes=RESERVED_BYTES,
            bar1_total_bytes=274_877_906_944,
            bar1_used_bytes=1_703_936,
        ),
        temperature=Temperature(
            gpu_c=34 + board.index % 3,
            memory_c=35 + board.index % 2,
            margin_c=53 - board.index % 3,
            slowdown_c=89,
            shutdown_c=95,
            gpu_max_c=87,
            memory_max_c=95,
            slowdown_margin_c=-2,
            shutdown_margin_c=-8,
            gpu_max_margin_c=0,
            memory_max_margin_c=0,
        ),
        power=Power(
            draw_w=100.0 + board.index,
            draw_instant_w=83.2 + board.index,
            limit_w=700.0,
            limit_requested_w=700.0,
            limit_default_w=700.0,
            limit_min_w=200.0,
            limit_max_w=700.0,
        ),
        clocks=Clocks(graphics_mhz=510, sm_mhz=510, memory_mhz=3201, video_mhz=765, performance_state=0),
        clock_events=ClockEvents(
            reasons=(ClockReason.GPU_IDLE.value,),
            throttling=(),
            sw_power_cap_us=0,
            sync_boost_us=0,
            sw_thermal_slowdown_us=0,
            hw_thermal_slowdown_us=0,
            hw_power_brake_slowdown_us=0,
            board_limit_us=0,
            reliability_us=0,
        ),
        utilization=Utilization(
            gpu_percent=None if on else 0,
            memory_percent=None if on else 0,
            encoder_percent=0,
            decoder_percent=0,
            jpeg_percent=0,
            ofa_percent=0,
        ),
        ecc=_ecc(),
        row_remapping=RowRemapping(
            correctable=0,
            uncorrectable=0,
            correctable_inactive=0,
            uncorrectable_inactive=0,
            pending=False,
            failure=False,
            banks=RemapBanks(max=3072, high=0, partial=0, low=0, none=0),
        ),
        pcie=Pcie(
            generation=5,
            generation_max=5,
            generation_gpu_max=5,
            width=16,
            width_max=16,
            replays=0,
            replay_rollovers=0,
        ),
        nvlink=NvLinkSums(
            links=LINKS,
            links_up=LINKS,
            links_down=(),
            replay_errors=0,
            recovery_errors=0,
            crc_errors=0,
            errors_age_s=0.0,
        ),
        fabric=Fabric(
            state=FabricState.COMPLETED.value,
            status="success",
            clique_id=0,
            cluster_uuid="00000000-0000-0000-0000-000000000000",
        ),
        modes=Modes(persistence=True, compute="default", mig=on, mig_pending=on),
        confidential_computing=ConfidentialComputing(
            enabled=False,
            environment="unavailable",
            devtools_mode=False,
            multi_gpu_mode="none",
            protected_memory_bytes=0,
        ),
        unread=_unread(mig_on=on),
    )


def _ecc() -> Ecc:
    none = EccLocation(corrected=0, uncorrected=0)
    counts = EccCounts(corrected=0, uncorrected=0, dram=none, sram=none)
    sram = SramErrors(
        volatile_corrected=0,
        volatile_uncorrected_parity=0,
        volatile_uncorrected_secded=0,
        aggregate_corrected=0,
        aggregate_uncorrected_parity=0,
        aggregate_uncorrected_secded=0,
        aggregate_uncorrected_l2=0,
        aggregate_uncorrected_sm=0,
        aggregate_uncorrected_pcie=0,
        aggregate_uncorrected_microcontroller=0,
        aggregate_uncorrected_other=0,
        threshold_exceeded=False,
    )
    return Ecc(
        enabled=True,
        enabled_pending=True,
        volatile=counts,
        aggregate=counts,
        sram=sram,
        channel_repair_pending=False,
        tpc_repair_pending=False,
        unrepairable_memory=False,
    )


def _unread(*, mig_on: bool) -> dict[str, str]:
    old = ("l1_cache", "l2_cache", "register_file", "texture", "texture_shared", "cbu")
    unread = {
        f"ecc.{since}.{location}": NOT_SUPPORTED for since in ("volatile", "aggregate") for location in old
    }
    unread |= {f"retired_pages.{name}": NOT_SUPPORTED for name in ("single_bit", "double_bit", "pending")}
    if mig_on:
        unread |= {f"utilization.{name}": NOT_SUPPORTED for name in ("gpu_percent", "memory_percent")}
    silent = (
        "health",
        "degraded_bandwidth",
        "route_recovery",
        "route_unhealthy",
        "access_timeout_recovery",
        "incorrect_configuration",
        "partition_assigned",
    )
    unread |= {f"fabric.{name}": "the fabric does not tell" for name in silent}
    return unread | {
        "clock_events.thermal_policy_us": "counted as sw_thermal_slowdown_us and hw_thermal_slowdown_us",
        "confidential_computing.gpus_ready": "confidential computing is off",
        "temperature.fan_percent": "this GPU has no fan of its own",
    }


def _working(board: Board) -> Health:
    idle = _idle(board)
    used = used_bytes(board)
    return replace(
        idle,
        memory=replace(
            idle.memory,
            used_bytes=used,
            free_bytes=TOTAL_BYTES - RESERVED_BYTES - used,
            bar1_used_bytes=25_165_824,
        ),
        temperature=replace(
            idle.temperature, gpu_c=64 + board.index % 3, memory_c=76, margin_c=23 - board.index % 3
        ),
        power=replace(idle.power, draw_w=699.1, draw_instant_w=702.6),
        clocks=replace(idle.clocks, graphics_mhz=1620, sm_mhz=1620, video_mhz=1365),
        clock_events=replace(
            idle.clock_events, reasons=(ClockReason.SW_POWER_CAP.value,), sw_power_cap_us=5_412_000_000
        ),
        utilization=idle.utilization
        if board.mig
        else replace(idle.utilization, gpu_percent=100, memory_percent=62),
    )


def _throttling(busy: Health) -> Health:
    reasons = (ClockReason.HW_SLOWDOWN.value, ClockReason.HW_THERMAL_SLOWDOWN.value)
    return replace(
        busy,
        temperature=replace(busy.temperature, gpu_c=90, memory_c=93, margin_c=-3),
        power=replace(busy.power, draw_w=388.4, draw_instant_w=371.9),
        clocks=replace(busy.clocks, graphics_mhz=810, sm_mhz=810, video_mhz=765),
        clock_events=replace(
            busy.clock_events,
            reasons=reasons,
            throttling=reasons,
            hw_thermal_slowdown_us=_HARDWARE_SLOW_US,
        ),
    )


def _degrading(busy: Health) -> Health:
    volatile, life = busy.ecc.volatile, busy.ecc.aggregate
    return replace(
        busy,
        ecc=replace(
            busy.ecc,
            volatile=replace(volatile, corrected=212, dram=EccLocation(corrected=212, uncorrected=0)),
            aggregate=replace(
                life, corrected=1873, uncorrected=2, dram=EccLocation(corrected=1873, uncorrected=2)
            ),
        ),
        row_remapping=replace(
            busy.row_remapping,
            correctable=1,
            uncorrectable=2,
            uncorrectable_inactive=1,
            pending=True,
            banks=RemapBanks(max=3069, high=3, partial=0, low=0, none=0),
        ),
        nvlink=replace(
            busy.nvlink,
            links_up=LINKS - 1,
            links_down=(BROKEN_LINK,),
            replay_errors=4096,
            recovery_errors=9,
            crc_errors=311,
        ),
    )
