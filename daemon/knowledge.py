"""What earlier lines and /proc taught, and later events need: the GPUs, and the driver's version."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable

from daemon.decoded import Context, Fault
from daemon.devices import DeviceMap
from daemon.event import Event, Gpu, Kind, NvSwitch
from daemon.fault import Slot, Trust
from daemon.grammar import find
from probes.line import KernelLine, Origin
from probes.procfs import ProcGpu


class Knowledge:
    """Device map and driver version of one boot. Only lines of kernel origin teach it.

    Owned by the pipeline, not thread-safe.
    """

    def __init__(self) -> None:
        self.devices = DeviceMap()
        self.driver_version: str | None = None
        """As the log or /proc gave it last, or else NVML; None until then."""
        self.boot_id = ""
        self.changed = False
        """True while the saved copy is out of date."""

    def learn(self, line: KernelLine) -> None:
        """Take what a record of the log teaches, be it old or new."""
        if line.origin is Origin.KERNEL:
            decoded = find(line.text)
            if isinstance(decoded, Context):
                self.learn_device(decoded)
            elif decoded is not None:
                self.learn_driver(decoded)

    def learn_device(self, context: Context) -> None:
        """Take what a decoded line of kernel origin says about a GPU."""
        self.changed |= self.devices.learn(context)

    def learn_driver(self, fault: Fault) -> None:
        """Take the version from the driver's own greeting."""
        version = fault.detail.get("driver_version")
        if fault.kind is Kind.DRIVER_LOADED and not fault.glued and version != self.driver_version:
            self.driver_version = version
            self.changed = True

    def learn_from_proc(self, gpus: Iterable[ProcGpu], driver_version: str | None) -> None:
        """Take what the driver shows under /proc/driver/nvidia."""
        self.changed |= self.devices.learn_from_proc(gpus)
        if driver_version is not None and driver_version != self.driver_version:
            self.driver_version = driver_version
            self.changed = True

    def learn_from_nvml(self, gpus: Iterable[Gpu], driver_version: str | None = None) -> None:
        """Take who the GPUs are, as NVML names them, and the driver's version where nothing else has told
        it."""
        self.changed |= self.devices.learn_from_nvml(gpus)
        if driver_version is not None and self.driver_version is None:
            self.driver_version = driver_version
            self.changed = True

    def device_of(self, fault: Fault) -> tuple[Gpu | None, NvSwitch | None]:
        """The GPU or the NVSwitch that the line names, or neither."""
        if fault.pci is None:
            return None, None
        if fault.kind is Kind.SXID or fault.nvswitch is not None:
            return None, NvSwitch(fault.pci, fault.nvswitch)
        return self.devices.gpu(fault.pci, fault.mig), None

    def allowance_of(self, slot: Slot) -> Hashable:
        """Whose allowance of new events a fault draws on.

        A real GPU has its own; all other addresses, the NVSwitches and the node share one each.
        """
        if slot.kind is Kind.SXID:
            return (slot.trust, Kind.SXID)
        if slot.device is None:
            return (slot.trust, Kind.NVRM)
        return (slot.trust, slot.device if self.devices.is_real(slot.device) else None)

    def reserve_key(self, event: Event) -> str:
        """In whose name an event is kept when others are deleted: the same division as the allowance's."""
        if event.drill:
            return Trust.DRILL
        if event.origin != Origin.KERNEL:
            return Trust.UNPROVED
        if event.nvswitch is not None:
            return Kind.SXID
        if event.device is None:
            return Kind.NVRM
        return event.device if self.devices.is_real(event.device) else ""

    def dump(self) -> str:
        """The knowledge as one JSON text, for `load`."""
        self.changed = False
        return json.dumps(
            {"boot_id": self.boot_id, "driver_version": self.driver_version, "devices": self.devices.dump()}
        )

    def load(self, text: str) -> None:
        """Take up a dumped knowledge of this boot, beneath what is known already.

        Raises ValueError, TypeError, KeyError or AttributeError when the text is none.
        """
        saved = json.loads(text)
        if saved["boot_id"] == self.boot_id:
            self.devices.load(saved["devices"])
            self.driver_version = self.driver_version or saved["driver_version"]
