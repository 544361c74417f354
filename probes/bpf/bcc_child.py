"""The short-lived process in which bcc compiles a program: run by its path, never imported.

It belongs to the Python that bcc is installed for, which may be older than ours (3.8), and imports nothing
of ours. `bcc_child.py PARENT SOCKET DIRECTORY PROGRAM [FLAG]…` takes the `bcc` that lies in
DIRECTORY, lets it compile, load and attach PROGRAM, sends one message over SOCKET, and is gone; it does not
outlive the process PARENT. The message is JSON:

* `{"version", "hooks", "programs", "links"}` with the descriptors of `lines`, of `counts`, of so many
  programs and of so many links, in this order; or
* `{"failed", "words", "errno"}`, `failed` being a stage of `_Stage`.
"""

from __future__ import annotations

import array
import ctypes
import importlib
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

_PR_SET_PDEATHSIG = 1
_MAPS = ("lines", "counts")


class _Stage:
    """How far it came."""

    IMPORT = "import"
    NAMESAKE = "namesake"
    COMPILE = "compile"
    LOAD = "load"
    ATTACH = "attach"
    MAPS = "maps"


class _Failed(Exception):
    def __init__(self, stage: str, words: str, number: int = 0) -> None:
        super().__init__(words)
        self.message = {"failed": stage, "words": words, "errno": number}


def main(fd: int, directory: str, program: str, flags: list[str]) -> None:
    """Send what became of it over the socket `fd`, whatever that is."""
    answers = socket.socket(fileno=fd)
    try:
        message, descriptors = _loaded(_bcc(directory), program, flags)
    except _Failed as failure:
        message, descriptors = failure.message, []
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    answers.sendmsg([json.dumps(message).encode()], rights)


def _die_with(parent: int) -> None:
    """Be killed when the parent dies, and first of all when memory runs out."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")


def _bcc(directory: str) -> ModuleType:
    package = f"{directory}/bcc"
    if not Path(package, "libbcc.py").exists():
        # Not imported at all: PyPI's wants numpy, and its errors would say nothing of bcc.
        raise _Failed(_Stage.NAMESAKE, package)
    sys.path.insert(0, directory)
    try:
        found = importlib.import_module("bcc")
    except Exception as error:  # whatever a foreign package does when it is imported
        raise _Failed(_Stage.IMPORT, f"{type(error).__name__}: {error}") from error
    if not hasattr(found, "BPF"):
        raise _Failed(_Stage.NAMESAKE, package)
    return found


def _loaded(bcc: ModuleType, program: str, flags: list[str]) -> tuple[dict[str, Any], list[int]]:
    stage = _Stage.COMPILE
    superclass: Any = bcc.BPF

    class Program(superclass):  # type: ignore[misc] # its class is known only now
        """Notes how far bcc came: its exceptions do not say."""

        def load_func(self, *arguments: Any, **options: Any) -> Any:
            nonlocal stage
            stage = _Stage.LOAD
            ctypes.set_errno(0)
            loaded = super().load_func(*arguments, **options)
            stage = _Stage.ATTACH
            return loaded

    text = Path(program).read_bytes()
    try:
        compiled = Program(text=text, cflags=flags)
    except Exception as error:  # bcc knows no class of its own
        raise _Failed(stage, str(error), ctypes.get_errno()) from error
    maps = [_map(compiled, name) for name in _MAPS]
    programs = [function.fd for function in compiled.funcs.values()]
    hooks, links = _links(compiled)
    message = {
        "version": str(bcc.__version__),
        "hooks": hooks,
        "programs": len(programs),
        "links": len(links),
    }
    return message, [*maps, *programs, *links]


def _map(compiled: Any, name: str) -> int:
    try:
        return int(compiled[name].map_fd)
    except KeyError:
        raise _Failed(_Stage.MAPS, f"no map named `{name}`") from None


def _links(compiled: Any) -> tuple[list[str], list[int]]:
    """Where it is attached and by which descriptors: bcc keeps a dictionary for each kind of hook."""
    hooks: list[str] = []
    links: list[int] = []
    for name, attached in sorted(vars(compiled).items()):
        if not (name.endswith("_fds") and isinstance(attached, dict)):
            continue
        for hook, fds in attached.items():
            # Of a kprobe: a dictionary by the function attached to it.
            found = [fd for fd in (fds.values() if isinstance(fds, dict) else [fds]) if isinstance(fd, int)]
            if found:
                words = hook.decode("utf-8", "replace") if isinstance(hook, bytes) else str(hook)
                hooks.append(f"{name[: -len('_fds')].replace('_', ' ')} {words}")
                links += found
    return hooks, links


if __name__ == "__main__":
    _die_with(int(sys.argv[1]))
    main(int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
    # Without bcc's own end, which would switch off what is handed over: perf events, kprobes.
    os._exit(0)
