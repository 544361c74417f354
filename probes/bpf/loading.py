"""Puts the programs of one object into the kernel, all of what it takes or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from probes.bpf import elf, syscalls
from probes.bpf.elf import BpfObject
from probes.bpf.memlock import unlimited_on_old_kernels
from probes.bpf.object_error import ObjectError


class Loading:
    """A block in which programs are loaded and attached; what is not kept is gone at its end.

    `with Loading(read_object(path, …)) as loading:` makes the maps. Raises BpfError.
    """

    def __init__(self, program: BpfObject) -> None:
        self._object = program
        self._undo = ExitStack()
        self._fds: dict[str, int] = {}
        self.programs: list[int] = []
        self.links: list[int] = []

    def __enter__(self) -> Loading:
        try:
            with unlimited_on_old_kernels():
                for name, definition in self._object.maps.items():
                    self._fds[name] = self._kept(syscalls.create_map(definition))
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    @property
    def maps(self) -> Mapping[str, int]:
        """Descriptors by name."""
        return self._fds

    def raw_tracepoint(self, section: str, tracepoint: str) -> None:
        """Load the program of `section` and attach it. ENOENT: the kernel has no such tracepoint."""
        with unlimited_on_old_kernels(), ExitStack() as undo:
            program = syscalls.load_program(
                syscalls.PROG_TYPE_RAW_TRACEPOINT, _named(tracepoint), *self._code(section)
            )
            undo.callback(os.close, program)
            link = syscalls.open_raw_tracepoint(tracepoint, program)
            undo.pop_all()
        self._attached(program, link)

    def fexit(self, section: str, function: int, name: str) -> None:
        """Load the program of `section` and let it run as a kernel function, by its BTF number, returns."""
        with unlimited_on_old_kernels(), ExitStack() as undo:
            program = syscalls.load_fexit(function, _named(name), *self._code(section))
            undo.callback(os.close, program)
            link = syscalls.attach_fexit(program)
            undo.pop_all()
        self._attached(program, link)

    def keep(self) -> None:
        """All descriptors belong to the caller from now on."""
        self._undo.pop_all()

    def _code(self, section: str) -> tuple[bytes, bytes]:
        return self._object.programs[section].bound_to(self._fds), self._object.license

    def _attached(self, program: int, link: int) -> None:
        self.programs.append(self._kept(program))
        self.links.append(self._kept(link))

    def _kept(self, fd: int) -> int:
        self._undo.callback(os.close, fd)
        return fd


def read_object(path: Path, sections: frozenset[str], maps: frozenset[str]) -> BpfObject:
    """The object of this package that holds these programs and maps. Raises ObjectError."""
    try:
        found = elf.read(path.read_bytes())
    except OSError as error:
        raise ObjectError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not sections <= found.programs.keys() or found.maps.keys() != maps:
        raise ObjectError(f"{path.name} holds another program")
    return found


def _named(place: str) -> str:
    """What bpftool shows the program as."""
    return f"xidwatch_{place}"
