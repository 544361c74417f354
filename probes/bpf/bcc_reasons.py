"""What bcc's failures mean: a state with a reason and a hint, or the errno of the kernel.

bcc has one exception for everything; what went wrong stands in what it and its compiler printed.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from probes.bpf.bcc_compiler import Failed, Silent
from probes.bpf.bcc_installed import HOW_TO_INSTALL
from probes.bpf.syscalls import BpfError, Step
from probes.bpf.unavailable import LoaderError, State

SOURCE = Path(__file__).with_name("xid.bcc.c")
"""The program in this package; every other is an operator's."""
USE_NATIVE = "use --ebpf-loader native, which needs no compiler"
_MEND = "mend the program; docs/ebpf.md shows one that works"
_VIRTUAL = "/virtual/main.c"
"""What the compiler calls the program."""
_ERROR = re.compile(r"^(?P<where>\S[^:\n]*:\d+):\d+: (?:fatal )?error: (?P<what>.+)$", re.MULTILINE)
_MISSING = re.compile(r"'(?P<header>[^']+)' file not found")
_NO_MAP = re.compile(r"could not open bpf map: (.+)")
_VERIFIER = re.compile(r"^bpf: Failed to load program: .*\n(?P<log>(?s:.*))", re.MULTILINE)


def unreadable(source: Path, error: OSError) -> LoaderError:
    """The program's file cannot be read."""
    words = (error.strerror or str(error)).lower()
    own = source == SOURCE
    return LoaderError(
        State.NO_PROGRAM,
        f"cannot read the eBPF program {source}: {words}",
        "install xidwatch again" if own else "name a C file that xidwatch may read with --ebpf-program",
    )


def no_stub(missing: Path) -> LoaderError:
    """What stands in for the kernel's headers is not there."""
    return LoaderError(
        State.NO_HEADERS,
        f"the stub of the kernel's headers is missing: no {missing}",
        f"install xidwatch again, or {USE_NATIVE}",
    )


def no_bcc(refusals: Sequence[Failed]) -> LoaderError:
    """No package named `bcc` was what it should be: each answered `import` or `namesake`."""
    for broken in refusals:
        if broken.stage == "import":
            return LoaderError(
                State.NO_BCC, f"the installed bcc cannot be imported: {broken.words}", HOW_TO_INSTALL
            )
    for namesake in refusals:
        return LoaderError(
            State.NAMESAKE_BCC,
            f"the package {namesake.words} is PyPI's bcc, which has nothing to do with BPF",
            HOW_TO_INSTALL,
        )
    return LoaderError(State.NO_BCC, "the BPF Compiler Collection is not installed", HOW_TO_INSTALL)


def lacks_header(answer: Failed) -> bool:
    """The compiler missed a header."""
    return _MISSING.search(answer.printed) is not None


def explain(answer: Failed, source: Path) -> LoaderError | BpfError:
    """bcc or the kernel refused."""
    match answer.stage:
        case "maps":
            return foreign(source, answer.words)
        case "compile":
            return _not_compiled(answer, source)
        case "load":
            return _not_loaded(answer, source)
    if source == SOURCE or answer.errno in (errno.EPERM, errno.EACCES):
        return BpfError(Step.ATTACH, answer.errno or errno.EINVAL)
    return LoaderError(
        State.TRACEPOINT_ABSENT if answer.errno == errno.ENOENT else State.FAILED,
        f"{source} cannot be attached: {_last_line(answer)}",
        "name a hook that this kernel has; TRACEPOINT_PROBE also needs tracefs to be mounted",
    )


def _not_loaded(answer: Failed, source: Path) -> LoaderError | BpfError:
    said = _VERIFIER.search(answer.printed)
    log = said["log"].strip() if said is not None else ""
    if source == SOURCE or not log:
        return BpfError(Step.LOAD_PROGRAM, answer.errno or errno.EINVAL, log)
    return LoaderError(
        State.VERIFIER,
        f"the kernel's verifier refuses {source}: {' / '.join(log.splitlines()[-2:])}",
        "mend the program: the verifier names the instruction that it cannot prove to be safe",
    )


def foreign(source: Path, what: str) -> LoaderError:
    """The program's maps are not those of xid.h."""
    return LoaderError(
        State.FOREIGN_LAYOUT,
        f"{source} has another event layout: {what}",
        f"declare `lines` and `counts` as {SOURCE} does, and fill them as its xid.h says",
    )


def silence(answer: Silent, deadline_s: float) -> LoaderError:
    """The child handed nothing over."""
    if answer.exit_code is None:
        return LoaderError(
            State.COMPILER_HANGS,
            f"bcc did not finish within {deadline_s:g} s, and was killed",
            f"give xidwatch more CPU while it starts, or {USE_NATIVE}",
        )
    ended = f"exit code {answer.exit_code}"
    if answer.exit_code < 0:
        ended = _signal(-answer.exit_code)
    last = _last_line(answer)
    said = f"; its last words: {last}" if last else ""
    return LoaderError(
        State.COMPILER_CRASHED,
        f"bcc handed over no program ({ended}){said}",
        f"give xidwatch 200 MB of memory while it starts, or {USE_NATIVE}"
        if answer.exit_code == -signal.SIGKILL
        else USE_NATIVE,
    )


def _signal(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


def _not_compiled(answer: Failed, source: Path) -> LoaderError:
    printed = answer.printed.replace(_VIRTUAL, str(source))
    refused = _NO_MAP.search(printed)
    if refused is not None:
        return LoaderError(State.FAILED, f"bcc cannot make the map {refused[1]}", None)
    error = _ERROR.search(printed)
    hint = USE_NATIVE if source == SOURCE else _MEND
    if error is None:
        return LoaderError(State.NOT_COMPILED, f"bcc does not compile {source}: {_last_line(answer)}", hint)
    missing = _MISSING.search(error["what"])
    if missing is None:
        return LoaderError(State.NOT_COMPILED, f"{error['where']}: {error['what']}", hint)
    return LoaderError(
        State.NO_HEADERS,
        f"{error['where']}: no header {missing['header']}: bcc has no headers of this kernel",
        f"install the package of headers for kernel {os.uname().release}, or name their directory in "
        "BCC_KERNEL_SOURCE",
    )


def _last_line(answer: Failed | Silent) -> str:
    lines = answer.printed.strip().splitlines()
    return lines[-1].strip() if lines else answer.words if isinstance(answer, Failed) else ""
