"""The bcc loader: a program compiled on the spot by the BPF Compiler Collection, ours or the operator's.

It returns what the native loader returns. It needs the distribution's package of bcc and half a second;
kernel headers only for an operator's program that includes some. The compiler runs in a process of its
own (`probes.bpf.bcc_compiler`), so that nothing of it stays behind in this one.

Whatever keeps it from loading is a `LoaderError` with a state of its own, or the `BpfError` that the
kernel gave; nothing is left behind then.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from probes.bpf import bcc_reasons, syscalls
from probes.bpf.bcc_compiler import DEADLINE_S, Compiled, Failed, Silent, compile_and_load
from probes.bpf.bcc_installed import Installation, installations
from probes.bpf.bcc_reasons import SOURCE, USE_NATIVE
from probes.bpf.btf import MapDefinition
from probes.bpf.descriptors import Descriptors
from probes.bpf.hooks import CONSOLE
from probes.bpf.memlock import unlimited_on_old_kernels
from probes.bpf.unavailable import LoaderError, State

NAME = "bcc"
HEADERS = Path(__file__).with_name("bcc_headers")
"""Stands in for a kernel's headers: enough for a program that touches no struct of the kernel."""
_KCONFIG = "include/linux/kconfig.h"
_MODULES = Path("/lib/modules")
_AT_CONSOLE = "raw tracepoint console"
_RING_BUFFER, _PERCPU_ARRAY = 27, 6  # enum bpf_map_type of <linux/bpf.h>
_COUNTS_BYTES = 32  # struct xid_counts


def load(
    program: Path | None = None,
    *,
    places: Sequence[Installation] | None = None,
    headers: Path = HEADERS,
    deadline_s: float = DEADLINE_S,
) -> Descriptors:
    """Compile, load and attach `program`, None: the one in this package.

    `places` stands in for the installations found here, `headers` for the stub headers. Raises
    LoaderError or BpfError, and leaves nothing behind then.
    """
    source = program or SOURCE
    _readable(source)
    _ask_the_kernel_first()
    answer = _compiled(source, installations() if places is None else places, headers, deadline_s)
    if isinstance(answer, Silent):
        raise bcc_reasons.silence(answer, deadline_s)
    if isinstance(answer, Failed):
        raise bcc_reasons.explain(answer, source)
    return _checked(answer, source)


def _readable(source: Path) -> None:
    try:
        if not stat.S_ISREG(source.stat().st_mode):  # reading a FIFO would wait for its writer
            raise OSError(errno.EINVAL, "not a regular file")
        with source.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise bcc_reasons.unreadable(source, error) from None


def _ask_the_kernel_first() -> None:
    """Raises BpfError where no map may be made: without half a second of compiling, and without bcc,
    whose words for that are those of a failed compilation."""
    with unlimited_on_old_kernels():
        os.close(
            syscalls.create_map(MapDefinition("xidwatch_try", _RING_BUFFER, os.sysconf("SC_PAGE_SIZE"), 0, 0))
        )


def _compiled(
    source: Path, places: Sequence[Installation], headers: Path, deadline_s: float
) -> Compiled | Failed | Silent:
    """What the first package that is the BPF Compiler Collection makes of the program."""
    if not (headers / _KCONFIG).is_file():
        raise bcc_reasons.no_stub(headers / _KCONFIG)
    refusals: list[Failed] = []
    for place in places:
        answer = _with_headers(source, place, headers, deadline_s)
        if not (isinstance(answer, Failed) and answer.stage in ("import", "namesake")):
            return answer
        refusals.append(answer)
    raise bcc_reasons.no_bcc(refusals)


def _with_headers(
    source: Path, place: Installation, stub: Path, deadline_s: float
) -> Compiled | Failed | Silent:
    """With the stub first, which fits every kernel; a program that includes more needs the real ones."""
    includes = [SOURCE.parent]
    try:
        answer = compile_and_load(source, place, kernel_source=stub, includes=includes, deadline_s=deadline_s)
        if not (isinstance(answer, Failed) and bcc_reasons.lacks_header(answer) and _kernel_headers()):
            return answer
        named = os.environ.get("BCC_KERNEL_SOURCE")
        real = Path(named) if named else None
        return compile_and_load(source, place, kernel_source=real, includes=includes, deadline_s=deadline_s)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise LoaderError(
            State.COMPILER_CRASHED, f"cannot start {place.python} for bcc: {words}", USE_NATIVE
        ) from None


def _kernel_headers() -> bool:
    """Whether bcc would find some. It would look for others by loading a kernel module otherwise."""
    named = os.environ.get("BCC_KERNEL_SOURCE")
    release = _MODULES / os.uname().release
    places = [Path(named)] if named else [release / "build", release / "source"]
    return any((place / _KCONFIG).is_file() for place in places)


def _checked(compiled: Compiled, source: Path) -> Descriptors:
    """Raises LoaderError when this is no program that we could read."""
    try:
        ring, counts = syscalls.map_info(compiled.lines), syscalls.map_info(compiled.counts)
        if ring.kind != _RING_BUFFER:
            raise bcc_reasons.foreign(source, "`lines` is no ring buffer")
        if (counts.kind, counts.key_bytes, counts.value_bytes) != (_PERCPU_ARRAY, 4, _COUNTS_BYTES):
            raise bcc_reasons.foreign(source, "`counts` is no per-CPU array of struct xid_counts")
        if not compiled.links:
            raise LoaderError(
                State.NO_PROGRAM,
                f"{source} attaches to nothing",
                "declare its function with one of bcc's macros: RAW_TRACEPOINT_PROBE(console)",
            )
    except BaseException:
        compiled.close()
        raise
    return Descriptors(
        loader=NAME,
        hook=CONSOLE.name if compiled.hooks == (_AT_CONSOLE,) else ", ".join(compiled.hooks),
        ring=compiled.lines,
        ring_bytes=ring.max_entries,
        counts=compiled.counts,
        programs=compiled.programs,
        links=compiled.links,
        note=f"the program is {source}, compiled by bcc {compiled.version}" if source != SOURCE else None,
    )
