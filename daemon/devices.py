"""Which GPUs this node has, as far as the log and /proc have told.

The driver prints a GPU's UUID and board serial just before its first Xid, and lists every GPU it
drives under /proc/driver/nvidia; neither needs NVML, so identity survives a GPU that no longer
answers. Only records of kernel origin may teach the map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from daemon.decoded import Context
from daemon.event import Gpu, Mig
from probes.procfs import ProcGpu


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of one GPU beside its address; None where nothing has told."""

    uuid: str | None = None
    serial: str | None = None
    name: str | None = None
    index: int | None = None
    """NVML index; it may pass to another GPU when the driver is loaded anew."""


class DeviceMap:
    """PCI address → identity, for the GPUs that are known to be real. Owned by the pipeline."""

    def __init__(self) -> None:
        self._known: dict[str, Identity] = {}
        self._last_pci: str | None = None

    def learn(self, context: Context) -> bool:
        """Take what a `GPU at PCI` or `GPU Board Serial Number` line says; True when it was new.

        A serial number line names no GPU: it belongs to the GPU line right before it.
        """
        pci = context.pci or self._last_pci
        self._last_pci = context.pci
        if pci is None:
            return False
        return self._update(pci, uuid=context.uuid, serial=context.serial, name=None)

    def learn_from_proc(self, gpus: Iterable[ProcGpu]) -> bool:
        """Take the driver's own list of GPUs; True when something was new."""
        news = [self._update(gpu.pci, uuid=gpu.uuid, serial=None, name=gpu.model) for gpu in gpus]
        return any(news)

    def learn_from_nvml(self, gpus: Iterable[Gpu]) -> bool:
        """Take who the GPUs are, as NVML names them; True when something was new."""
        news = False
        for gpu in gpus:
            news |= self._update(gpu.pci, uuid=gpu.uuid, serial=gpu.serial, name=gpu.name)
            known = self._known[gpu.pci]
            if gpu.index is not None and known.index != gpu.index:
                self._take_index(gpu.index)
                self._known[gpu.pci] = replace(known, index=gpu.index)
                news = True
        return news

    def _take_index(self, index: int) -> None:
        """The GPU that had this index has it no more: NVML has numbered them anew."""
        for pci, known in self._known.items():
            if known.index == index:
                self._known[pci] = replace(known, index=None)

    def _update(self, pci: str, *, uuid: str | None, serial: str | None, name: str | None) -> bool:
        before = self._known.get(pci)
        known = before or Identity()
        if uuid is not None and known.uuid not in (None, uuid):
            known = Identity()  # the board in this slot was exchanged
        after = replace(
            known, uuid=uuid or known.uuid, serial=serial or known.serial, name=name or known.name
        )
        self._known[pci] = after
        return after != before

    def is_real(self, pci: str | None) -> bool:
        """True when the address once matched a GPU that the driver itself named."""
        return pci in self._known

    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU that is known, by address."""
        return tuple(self.gpu(pci, None) for pci in sorted(self._known))

    def gpu(self, pci: str, mig: Mig | None) -> Gpu:
        """The GPU at this address with everything known of it."""
        known = self._known.get(pci, Identity())
        return Gpu(pci, known.uuid, known.serial, known.index, known.name, mig)

    def dump(self) -> dict[str, dict[str, Any]]:
        """The map as a JSON object, for `load`."""
        return {pci: asdict(identity) for pci, identity in self._known.items()}

    def load(self, data: dict[str, dict[str, Any]]) -> None:
        """Take up a dumped map, beneath what is known already."""
        self._known = {pci: Identity(**identity) for pci, identity in data.items()} | self._known
