"""Attaches to the tracepoints that the NVIDIA driver calls for an Xid or SXid."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from probes.bpf import syscalls
from probes.bpf.descriptors import Descriptors
from probes.bpf.kernel_structs import VMLINUX, KernelStructs
from probes.bpf.loading import Loading, read_object
from probes.bpf.syscalls import BpfError
from probes.bpf.unavailable import LoaderError, State

OBJECT = Path(__file__).with_name("driver.bpf.o")
HOOK = "nvidia:nvidia_dev_xid"
BOTH = "nvidia:nvidia_dev_xid, nvswitch:nvswitch_dev_sxid"
_XID, _SXID = "nvidia_dev_xid", "nvswitch_dev_sxid"
_SECTIONS = frozenset({f"raw_tp/{_XID}", f"raw_tp/{_SXID}"})
_RING, _COUNTS, _NAME_AT = "lines", "counts", "name_at"


def load(path: Path = OBJECT, types: Path = VMLINUX) -> Descriptors:
    """Load and attach both programs; without the NVSwitch's tracepoint, the GPU's alone.

    Raises BpfError (ENOENT at Step.ATTACH: no driver, or one without the tracepoint), LoaderError or
    ObjectError, and leaves nothing behind then.
    """
    program = read_object(path, _SECTIONS, frozenset({_RING, _COUNTS, _NAME_AT}))
    offset = name_offset(types)
    with Loading(program) as loading:
        syscalls.update(loading.maps[_NAME_AT], 0, struct.pack("=Q", offset))
        loading.raw_tracepoint(f"raw_tp/{_XID}", _XID)
        try:
            loading.raw_tracepoint(f"raw_tp/{_SXID}", _SXID)
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
        loading.keep()
    os.close(loading.maps[_NAME_AT])  # the programs hold the map
    return Descriptors(
        loader="native",
        hook=BOTH if len(loading.links) > 1 else HOOK,
        ring=loading.maps[_RING],
        ring_bytes=program.maps[_RING].max_entries,
        counts=loading.maps[_COUNTS],
        programs=tuple(loading.programs),
        links=tuple(loading.links),
        facility=True,
    )


def name_offset(types: Path = VMLINUX) -> int:
    """Byte offset of `pci_dev.dev.kobj.name`. Raises LoaderError."""
    try:
        structs = KernelStructs(types.read_bytes())
    except (OSError, ValueError) as error:
        raise _no_types(f"{types} cannot be read") from error
    steps = [structs.offset(*step) for step in (("pci_dev", "dev"), ("device", "kobj"), ("kobject", "name"))]
    if None in steps:
        raise _no_types(f"{types} does not describe a PCI device")
    return sum(step for step in steps if step is not None)


def _no_types(why: str) -> LoaderError:
    return LoaderError(
        State.NO_BTF,
        f"the kernel does not say where it keeps a device's name: {why}",
        "use a kernel with CONFIG_DEBUG_INFO_BTF and let its file be seen; kmsg and bpf hear without it",
    )
