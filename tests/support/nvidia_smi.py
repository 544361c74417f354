"""`nvidia-smi -q -x` beside the readings: the same GPU by the driver's own tool, field by field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from daemon.pci import normalize

Value = object
Convert = Callable[[str], Value]

_NONE = {"N/A", "[N/A]", "", "Not Available", "Not Found", "Not Supported", "Unknown Error"}


def gpus(xml: str) -> list[ElementTree.Element]:
    """The `gpu` elements, in the order of nvidia-smi's index."""
    # No DTD is fetched: it is a name only, and the text comes from the machine's own driver.
    return ElementTree.fromstring(xml).findall("gpu")  # noqa: S314


def shared(xml: str, name: str) -> str | None:
    """What stands above the GPUs: `driver_version`, `cuda_version`."""
    return ElementTree.fromstring(xml).findtext(name)  # noqa: S314


def pci_address(gpu: ElementTree.Element) -> str:
    """In this program's one spelling."""
    return _pci(gpu.findtext("pci/pci_bus_id") or "")


@dataclass(frozen=True, slots=True)
class Same:
    """A reading, where nvidia-smi prints it, and how."""

    path: str
    where: str
    convert: Convert
    within: float | None = None
    """The two are read at different moments: allowed distance; None: equal."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that is not the same."""

    path: str
    ours: Value
    theirs: Value


def compare(ours: Mapping[str, object], gpu: ElementTree.Element, table: list[Same]) -> Iterator[Difference]:
    """The fields of `table` that differ between a payload's JSON and nvidia-smi."""
    for same in table:
        printed = (gpu.findtext(same.where) or "").strip()
        theirs = None if printed in _NONE else same.convert(printed)
        mine = at(ours, same.path)
        if same.within is not None and isinstance(mine, int | float) and isinstance(theirs, int | float):
            if abs(mine - theirs) > same.within:
                yield Difference(same.path, mine, theirs)
        elif mine != theirs:
            yield Difference(same.path, mine, theirs)


def at(payload: Mapping[str, object], path: str) -> Value:
    """The value under a path of a payload; null objects on the way make it null."""
    value: object = payload
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value[name]
    return value


def _number(text: str) -> int:
    return int(float(text.split(maxsplit=1)[0].rstrip("x")))


def _watts(text: str) -> float:
    return float(text.split(maxsplit=1)[0])


def _hex(text: str) -> int:
    return int(text, 16)


def _device_id(text: str) -> str:
    return f"0x{text.lower()}"


def _yes(text: str) -> bool:
    return {
        "Yes": True,
        "No": False,
        "Enabled": True,
        "Disabled": False,
        "Active": True,
        "Not Active": False,
    }[text]


def _lower(text: str) -> str:
    return re.sub(r"[ -]", "_", text.lower())


def _passthrough(text: str) -> str:
    return {"pass_through": "passthrough", "host_vsga": "host_vsga"}.get(_lower(text), _lower(text))


def _pci(text: str) -> str:
    return normalize(text) or text


def _state(text: str) -> int:
    return int(text.removeprefix("P"))


def _recovery(text: str) -> str:
    return {"reset": "gpu_reset", "reboot": "node_reboot"}.get(_lower(text), _lower(text))


def _mib(text: str) -> float:
    return float(text.split(maxsplit=1)[0]) * 2**20


MIB = float(2**20)
"""nvidia-smi prints whole MiB, rounded up or down by field."""

IDENTITY = [
    Same("name", "product_name", str),
    Same("brand", "product_brand", str),
    Same("architecture", "product_architecture", _lower),
    Same("serial", "serial", str),
    Same("uuid", "uuid", str),
    Same("minor_number", "minor_number", int),
    Same("vbios_version", "vbios_version", str),
    Same("board_id", "board_id", _hex),
    Same("board_part_number", "board_part_number", str),
    Same("module_id", "platformInfo/module_id", int),
    Same("inforom_image_version", "inforom_version/img_version", str),
    Same("inforom_oem_version", "inforom_version/oem_object", str),
    Same("inforom_ecc_version", "inforom_version/ecc_object", str),
    Same("gsp_firmware_version", "gsp_firmware_version", str),
    Same("pci", "pci/pci_bus_id", _pci),
    Same("pci_device_id", "pci/pci_device_id", _device_id),
    Same("pci_subsystem_id", "pci/pci_sub_system_id", _device_id),
    Same("virtualization", "gpu_virtualization_mode/virtualization_mode", _passthrough),
    Same("memory_total_bytes", "fb_memory_usage/total", _mib, MIB),
    Same("max_clocks.graphics_mhz", "max_clocks/graphics_clock", _number),
    Same("max_clocks.sm_mhz", "max_clocks/sm_clock", _number),
    Same("max_clocks.memory_mhz", "max_clocks/mem_clock", _number),
    Same("max_clocks.video_mhz", "max_clocks/video_clock", _number),
    Same("mig.enabled", "mig_mode/current_mig", _yes),
    Same("mig.enabled_pending", "mig_mode/pending_mig", _yes),
]

_ECC = "ecc_errors"
_REMAP = "remapped_rows"
HEALTH = [
    Same("recovery_action", "gpu_recovery_action", _recovery),
    Same("memory.total_bytes", "fb_memory_usage/total", _mib, MIB),
    Same("memory.reserved_bytes", "fb_memory_usage/reserved", _mib, MIB),
    Same("memory.used_bytes", "fb_memory_usage/used", _mib, MIB),
    Same("memory.free_bytes", "fb_memory_usage/free", _mib, MIB),
    Same("memory.bar1_total_bytes", "bar1_memory_usage/total", _mib, MIB),
    Same("memory.bar1_used_bytes", "bar1_memory_usage/used", _mib, MIB),
    Same("temperature.slowdown_margin_c", "temperature/gpu_temp_slow_tlimit_threshold", _number),
    Same("temperature.shutdown_margin_c", "temperature/gpu_temp_max_tlimit_threshold", _number),
    Same("temperature.gpu_max_margin_c", "temperature/gpu_temp_max_gpu_tlimit_threshold", _number),
    Same("temperature.memory_max_margin_c", "temperature/gpu_temp_max_mem_tlimit_threshold", _number),
    Same("temperature.fan_percent", "fan_speed", _number),
    Same("power.limit_w", "gpu_power_readings/current_power_limit", _watts),
    Same("power.limit_requested_w", "gpu_power_readings/requested_power_limit", _watts),
    Same("power.limit_default_w", "gpu_power_readings/default_power_limit", _watts),
    Same("power.limit_min_w", "gpu_power_readings/min_power_limit", _watts),
    Same("power.limit_max_w", "gpu_power_readings/max_power_limit", _watts),
    Same("clocks.performance_state", "performance_state", _state),
    *(
        Same(
            f"clock_events.{ours}_us",
            f"clocks_event_reasons_counters/clocks_event_reasons_counters_{theirs}",
            _number,
        )
        for ours, theirs in {
            "sw_power_cap": "sw_power_cap",
            "sync_boost": "sync_boost",
            "sw_thermal_slowdown": "sw_therm_slowdown",
            "hw_thermal_slowdown": "hw_therm_slowdown",
            "hw_power_brake_slowdown": "hw_power_brake",
        }.items()
    ),
    Same("ecc.enabled", "ecc_mode/current_ecc", _yes),
    Same("ecc.enabled_pending", "ecc_mode/pending_ecc", _yes),
    *(
        Same(ours.format(when), f"{_ECC}/{when}/{theirs}", int)
        for when in ("volatile", "aggregate")
        for ours, theirs in {
            "ecc.{}.sram.corrected": "sram_correctable",
            "ecc.sram.{}_uncorrected_parity": "sram_uncorrectable_parity",
            "ecc.sram.{}_uncorrected_secded": "sram_uncorrectable_secded",
            "ecc.{}.dram.corrected": "dram_correctable",
            "ecc.{}.dram.uncorrected": "dram_uncorrectable",
        }.items()
    ),
    *(
        Same(
            f"ecc.sram.aggregate_uncorrected_{place}",
            f"{_ECC}/aggregate_uncorrectable_sram_sources/sram_{place}",
            int,
        )
        for place in ("l2", "sm", "microcontroller", "pcie", "other")
    ),
    Same("ecc.sram.threshold_exceeded", f"{_ECC}/aggregate/sram_threshold_exceeded", _yes),
    Same("ecc.channel_repair_pending", f"{_ECC}/channel_repair_pending", _yes),
    Same("ecc.tpc_repair_pending", f"{_ECC}/tpc_repair_pending", _yes),
    Same("ecc.unrepairable_memory", f"{_ECC}/unrepairable_memory", _yes),
    Same("retired_pages.single_bit", "retired_pages/multiple_single_bit_retirement/retired_count", int),
    Same("retired_pages.double_bit", "retired_pages/double_bit_retirement/retired_count", int),
    Same("retired_pages.pending", "retired_pages/pending_retirement", _yes),
    Same("row_remapping.correctable", f"{_REMAP}/remapped_row_corr", int),
    Same("row_remapping.correctable_inactive", f"{_REMAP}/remapped_row_corr_inactive", int),
    Same("row_remapping.uncorrectable", f"{_REMAP}/remapped_row_unc", int),
    Same("row_remapping.uncorrectable_inactive", f"{_REMAP}/remapped_row_unc_inactive", int),
    Same("row_remapping.pending", f"{_REMAP}/remapped_row_pending", _yes),
    Same("row_remapping.failure", f"{_REMAP}/remapped_row_failure", _yes),
    *(
        Same(
            f"row_remapping.banks.{left}",
            f"{_REMAP}/row_remapper_histogram/row_remapper_histogram_{left}",
            _number,
        )
        for left in ("max", "high", "partial", "low", "none")
    ),
    Same("pcie.generation", "pci/pci_gpu_link_info/pcie_gen/current_link_gen", int),
    Same("pcie.generation_max", "pci/pci_gpu_link_info/pcie_gen/max_link_gen", int),
    Same("pcie.generation_gpu_max", "pci/pci_gpu_link_info/pcie_gen/max_device_link_gen", int),
    Same("pcie.width", "pci/pci_gpu_link_info/link_widths/current_link_width", _number),
    Same("pcie.width_max", "pci/pci_gpu_link_info/link_widths/max_link_width", _number),
    Same("pcie.replays", "pci/replay_counter", int),
    Same("pcie.replay_rollovers", "pci/replay_rollover_counter", int),
    Same("fabric.state", "fabric/state", _lower),
    Same("fabric.status", "fabric/status", _lower),
    Same("fabric.clique_id", "fabric/cliqueId", int),
    Same("fabric.cluster_uuid", "fabric/clusterUuid", str),
    Same("fabric.health", "fabric/health/summary", _lower),
    Same("fabric.degraded_bandwidth", "fabric/health/bandwidth", lambda text: text == "Degraded"),
    Same("fabric.route_recovery", "fabric/health/route_recovery_in_progress", lambda text: text == "True"),
    Same("fabric.route_unhealthy", "fabric/health/route_unhealthy", lambda text: text == "True"),
    Same("modes.persistence", "persistence_mode", _yes),
    Same("modes.compute", "compute_mode", _lower),
    Same("modes.mig", "mig_mode/current_mig", _yes),
    Same("modes.mig_pending", "mig_mode/pending_mig", _yes),
    Same("confidential_computing.protected_memory_bytes", "cc_protected_memory_usage/total", _mib, MIB),
]
"""What stands still on an idle GPU."""

MOVING = [
    Same("temperature.gpu_c", "temperature/gpu_temp", _number, 5),
    Same("temperature.memory_c", "temperature/memory_temp", _number, 5),
    Same("temperature.margin_c", "temperature/gpu_temp_tlimit", _number, 5),
    Same("power.draw_w", "gpu_power_readings/average_power_draw", _watts, 60),
    Same("power.draw_instant_w", "gpu_power_readings/instant_power_draw", _watts, 60),
    Same("clocks.graphics_mhz", "clocks/graphics_clock", _number, 2000),
    Same("clocks.sm_mhz", "clocks/sm_clock", _number, 2000),
    Same("clocks.memory_mhz", "clocks/mem_clock", _number, 3500),
    Same("clocks.video_mhz", "clocks/video_clock", _number, 2000),
    Same("utilization.gpu_percent", "utilization/gpu_util", _number, 100),
    Same("utilization.memory_percent", "utilization/memory_util", _number, 100),
    Same("utilization.encoder_percent", "utilization/encoder_util", _number, 100),
    Same("utilization.decoder_percent", "utilization/decoder_util", _number, 100),
    Same("utilization.jpeg_percent", "utilization/jpeg_util", _number, 100),
    Same("utilization.ofa_percent", "utilization/ofa_util", _number, 100),
]
"""What moves between two reads: near, and read by both or by neither."""

_REASONS = "clocks_event_reasons"


def active_reasons(gpu: ElementTree.Element) -> set[str]:
    """The clock-event reasons that nvidia-smi calls active, by NVML's names."""
    found = set()
    for reason in gpu.findall(f"{_REASONS}/*"):
        if (reason.text or "").strip() == "Active":
            found.add(
                reason.tag.removeprefix("clocks_event_reason_").replace("clocks_setting", "clock_setting")
            )
    return {name.replace("applications_clock_setting", "applications_clocks_setting") for name in found}


def processes(gpu: ElementTree.Element) -> set[tuple[int, str]]:
    """Pid and kind of each process that nvidia-smi lists."""
    kinds = {"C": ("compute",), "G": ("graphics",), "C+G": ("compute", "graphics"), "M+C": ("compute",)}
    return {
        (int(process.findtext("pid") or "0"), kind)
        for process in gpu.findall("processes/process_info")
        for kind in kinds[(process.findtext("type") or "").strip()]
    }


def recorded() -> Path:
    """What nvidia-smi printed on a machine with two H200."""
    return Path(__file__).parents[3] / "shared" / "data" / "h200_x2_nvidia_smi.xml"
