"""Which loader brings the eBPF program into the kernel, and never one in place of another silently."""

from __future__ import annotations

from dataclasses import replace

from probes.bpf import bcc, native
from probes.bpf.descriptors import Descriptors, Loader
from probes.bpf.object_error import ObjectError
from probes.bpf.syscalls import BpfError, Step
from probes.bpf.unavailable import LoaderError


def automatic(first: Loader = native.load, second: Loader = bcc.load) -> Descriptors:
    """The native loader's program, or bcc's where the one built beforehand is to blame.

    bcc compiles for this machine: it mends an object that cannot be read or is another one's, and
    instructions that this kernel's verifier refuses. All else would keep bcc from loading too. Raises
    what `first` raised, or a LoaderError that has the words of both.
    """
    try:
        return first()
    except (ObjectError, BpfError) as error:
        why = _mendable(error)
        if why is None:
            raise
        try:
            found = second()
        except (LoaderError, BpfError) as other:
            raise _neither(why, other, error) from error
    return replace(found, note=f"{found.loader} loads the program, because {why}")


def _mendable(error: ObjectError | BpfError) -> str | None:
    """What is wrong with the object, in words; None when it is not the object."""
    if isinstance(error, ObjectError):
        return f"the native loader cannot use its object: {error}"
    if error.step is Step.LOAD_PROGRAM and error.log:
        return f"the verifier refuses the native loader's object: {error.log.strip().splitlines()[-1]}"
    return None


def _neither(why: str, other: LoaderError | BpfError, error: ObjectError | BpfError) -> Exception:
    if isinstance(other, BpfError):
        return error  # the kernel's own no, which it gave both of them
    return LoaderError(other.why.state, f"{why}; and {other.why.reason}", other.why.hint)
