"""A fleet of GPUs that is not there: the fake libnvidia-ml.so.1 and the scenario that drives it.

The real nvidia-ml-py loads it (LD_LIBRARY_PATH), so the real worker is what is tested. What a GPU
answers unless told otherwise was read from an H200: values_h200.txt.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

_HERE = Path(__file__).parent

DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
VERSION_MISMATCH = 18
NO_PERMISSION = 4
UNINITIALIZED = 1


def build(folder: Path) -> Path:
    """Compiles the library into `folder` and returns `folder`; skips the test without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here: neither gcc nor cc is installed")
    exports = ["#include <stdint.h>", "int serve(const char *, const char *, const uintptr_t *);"]
    for line in (_HERE / "functions.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, signature = line.split(" ", 1)
            registers = ", ".join(f"uintptr_t {letter}" for letter in "abcdef")
            exports.append(
                f"int {name}({registers}) {{ const uintptr_t all[] = {{a, b, c, d, e, f}}; "
                f'return serve("{name}", "{signature}", all); }}'
            )
    source = folder / "exports.c"
    source.write_text("\n".join(exports) + "\n")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread",
         "-Wl,-soname,libnvidia-ml.so.1", "-o", folder / "libnvidia-ml.so.1", _HERE / "library.c", source],
        check=True,
    )  # fmt: skip
    return folder


def pci(gpu: int) -> str:
    """The PCI address of the fake GPU number `gpu`, in this program's one spelling."""
    return f"0000:{0x18 + gpu:02x}:00.0"


def uuid(gpu: int) -> str:
    """The UUID of the fake GPU number `gpu`."""
    return f"GPU-{gpu:08x}-2222-3333-4444-555555555555"


class Scenario:
    """What the fake driver and its GPUs do; every change is in force with the next call.

    A `gpu` is its number, which is its index while no GPU is missing; None means every GPU, or for
    `fails`, `hangs` and so on with function "*", every call of the library.
    """

    def __init__(self, folder: Path, library: Path, *, gpus: int = 8, costs: bool = False) -> None:
        self.path = folder / "scenario.txt"
        self.log = folder / "calls.txt"
        self._library = library
        self._base = (_HERE / "values_h200.txt").read_text()
        if costs:  # as measured on that H200, first calls and later ones
            self._base += (_HERE / "values_h200_costs.txt").read_text()
        self._entries: dict[str, str] = {}
        for gpu in range(gpus):
            self._identify(gpu)
        self.present(range(gpus))

    def environment(self) -> dict[str, str]:
        """The variables that make a process load this library and play this scenario."""
        return {
            "LD_LIBRARY_PATH": str(self._library),
            "FAKE_NVML_SCENARIO": str(self.path),
            "FAKE_NVML_LOG": str(self.log),
        }

    def calls(self) -> list[tuple[int, str, str]]:
        """Every call so far: pid, function, number of the GPU ("-" for none, "3m0" for a MIG device)."""
        if not self.log.exists():
            return []
        words = (line.split() for line in self.log.read_text().splitlines())
        return [(int(pid), function, gpu) for pid, function, gpu in words]

    def answers(self, function: str, *values: object, gpu: int | str | None = None) -> None:
        """`function` answers `values`: numbers and strings, a structure's members in order, none: []."""
        words = (f'"{value}"' if isinstance(value, str) else str(value) for value in values)
        self._set(function, " ".join(words) or "-", gpu)

    def field(self, field: int | str, value: int | float, *, type: int = 1, gpu: int | None = None) -> None:
        """The field value `field` ("94,7": of scope 7) is `value`; `type` is its nvmlValueType_t."""
        self._set(f"field({field})", f"0 {type} {value} 1", gpu)

    def fails(self, code: int, function: str = "*", *, gpu: int | None = None) -> None:
        """`function` answers the error `code`."""
        self._set(function, f"error {code}", gpu)

    def hangs(self, function: str = "*", *, gpu: int | None = None) -> None:
        """`function` never returns."""
        self._set(function, "hang", gpu)

    def crashes(self, function: str = "*", *, gpu: int | None = None) -> None:
        """`function` ends the process with SIGSEGV."""
        self._set(function, "crash", gpu)

    def writes(self, path: Path, function: str = "*", *, gpu: int | None = None) -> None:
        """`function` first writes to `path`: on a frozen file system it sleeps uninterruptibly."""
        self._set(function, f"write {path}", gpu)

    def takes(self, microseconds: int, function: str, *, gpu: int | None = None) -> None:
        """`function` takes this long."""
        self._set(f"{function}@us", str(microseconds), gpu)

    def behaves(self, function: str = "*", *, gpu: int | None = None) -> None:
        """Takes back what `fails`, `hangs`, `crashes`, `writes` or `answers` said."""
        self._entries.pop(self._key(function, gpu), None)
        self._write()

    def present(self, gpus: Sequence[int]) -> None:
        """These GPUs are there, in the order of their index; the others are gone without a trace."""
        self._set("gpus", " ".join(map(str, gpus)), None)

    def reloads(self, generation: int, *, stale: int = UNINITIALIZED) -> None:
        """The driver was unloaded and loaded: whoever initialised before is answered `stale`."""
        self._entries["stale"] = str(stale)
        self._set("generation", str(generation), None)

    def event(self, number: int, gpu: int, code: int, *, type: int = 8) -> None:
        """The `number`th event of the event set, counted from 1: an Xid `code` unless `type` says other."""
        self._set(f"event({number})", f"{gpu} {type} {code}", None)

    def _identify(self, gpu: int) -> None:
        bus = 0x18 + gpu
        self.answers(
            "nvmlDeviceGetPciInfo_v3",
            pci(gpu), 0, bus, 0, 590680286, 415174878, f"00000000:{bus:02X}:00.0", gpu=gpu,
        )  # fmt: skip
        self.answers("nvmlDeviceGetUUID", uuid(gpu), gpu=gpu)
        self.answers("nvmlDeviceGetSerial", str(1650000000001 + gpu), gpu=gpu)
        for function in ("nvmlDeviceGetMinorNumber", "nvmlDeviceGetModuleId"):
            self.answers(function, gpu, gpu=gpu)

    @staticmethod
    def _key(function: str, gpu: int | str | None) -> str:
        return function if gpu is None else f"{gpu}.{function}"

    def _set(self, function: str, value: str, gpu: int | str | None) -> None:
        self._entries[self._key(function, gpu)] = value
        self._write()

    def _write(self) -> None:
        lines = [f"{key} {value}" for key, value in self._entries.items()]
        draft = self.path.with_suffix(".draft")
        draft.write_text(self._base + "\n".join(lines) + "\n")
        draft.replace(self.path)
