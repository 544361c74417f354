"""The native loader: the object in this package, bpf(2), and nothing to install.

No libbpf, no compiler, no kernel headers, no BTF of the kernel, no tracefs. It takes 8 ms, nearly all
of it in the kernel's verifier.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from probes.bpf import elf, syscalls
from probes.bpf.descriptors import Descriptors
from probes.bpf.elf import BpfObject
from probes.bpf.memlock import unlimited_on_old_kernels
from probes.bpf.object_error import ObjectError

NAME = "native"
HOOK = "printk:console"
OBJECT = Path(__file__).with_name("xid.bpf.o")
_SECTION = "raw_tp/console"
_TRACEPOINT = "console"
_RING, _COUNTS = "lines", "counts"


def load(path: Path = OBJECT) -> Descriptors:
    """Load the program and attach it. Raises BpfError or ObjectError, and leaves nothing behind then."""
    program = _object(path)
    with ExitStack() as undo:

        def kept(fd: int) -> int:
            undo.callback(os.close, fd)
            return fd

        with unlimited_on_old_kernels():
            maps = {name: kept(syscalls.create_map(map_)) for name, map_ in program.maps.items()}
            loaded = kept(
                syscalls.load_program(
                    syscalls.PROG_TYPE_RAW_TRACEPOINT,
                    f"xidwatch_{_TRACEPOINT}"[:15],
                    program.programs[_SECTION].bound_to(maps),
                    program.license,
                )
            )
        link = kept(syscalls.open_raw_tracepoint(_TRACEPOINT, loaded))
        undo.pop_all()
    return Descriptors(
        loader=NAME,
        hook=HOOK,
        ring=maps[_RING],
        ring_bytes=program.maps[_RING].max_entries,
        counts=maps[_COUNTS],
        programs=(loaded,),
        links=(link,),
    )


def _object(path: Path) -> BpfObject:
    try:
        found = elf.read(path.read_bytes())
    except OSError as error:
        raise ObjectError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if _SECTION not in found.programs or found.maps.keys() != {_RING, _COUNTS}:
        raise ObjectError(f"{path.name} holds another program")
    return found
