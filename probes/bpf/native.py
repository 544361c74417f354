"""The native loader: the object in this package, bpf(2), and nothing to install.

No libbpf, no compiler, no kernel headers, no tracefs; BTF of the kernel only for `fexit/printk_sprint`. It
takes 8 ms, nearly all of it in the kernel's verifier, and 0.1 s more where BTF must be read.
"""

from __future__ import annotations

from pathlib import Path

from probes.bpf import surroundings
from probes.bpf.descriptors import Descriptors
from probes.bpf.hooks import CONSOLE, PRINTK_SPRINT, SPRINT, Hook, Printing
from probes.bpf.loading import Loading, read_object
from probes.bpf.syscalls import BpfError

NAME = "native"
OBJECTS = Path(__file__).parent
OBJECT = OBJECTS / CONSOLE.object_file
_TRACEPOINT = "console"
_RING, _COUNTS = "lines", "counts"


def load(objects: Path = OBJECTS, printing: Printing | None = None) -> Descriptors:
    """Load a program of `objects` and attach it to the best hook that this kernel lets it have.

    `printing` is read from this kernel unless given. Raises BpfError, of the best hook, or ObjectError, and
    leaves nothing behind then.
    """
    printing = printing or surroundings.printing()
    first: BpfError | None = None
    for hook in printing.hooks or (CONSOLE,):
        try:
            return _attach(objects, hook, printing)
        except BpfError as error:
            first = first or error
    assert first is not None
    raise first


def _attach(objects: Path, hook: Hook, printing: Printing) -> Descriptors:
    program = read_object(objects / hook.object_file, frozenset({hook.section}), frozenset({_RING, _COUNTS}))
    with Loading(program) as loading:
        if hook is PRINTK_SPRINT and printing.sprint is not None:
            loading.fexit(hook.section, printing.sprint, SPRINT)
        else:
            loading.raw_tracepoint(hook.section, _TRACEPOINT)
        loading.keep()
    return Descriptors(
        loader=NAME,
        hook=hook.name,
        ring=loading.maps[_RING],
        ring_bytes=program.maps[_RING].max_entries,
        counts=loading.maps[_COUNTS],
        programs=tuple(loading.programs),
        links=tuple(loading.links),
        facility=hook.facility,
    )
