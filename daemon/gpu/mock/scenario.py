"""The scenario of a mock fleet: which GPUs there are, what they do, and what happens to them.

A TOML file; everything in it is optional, and anything not known is an error that names what is:

    driver = "580.159.04"

    [[gpu]]                      # one for each GPU, in the order of their index; default: eight
    state = "busy"               # idle, busy, throttling, degrading, hung, lost, gone
    mig = ["3g.71gb", "2g.35gb"]
    pci = "0000:1b:00.0"

    [[step]]                     # so many seconds after the file was read …
    at_s = 30
    gpu = 3                      # … this GPU …
    state = "lost"               # … does this

A step may come after so many looks at the fleet instead: `after_looks = 3`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon import pci, toml_text
from daemon.gpu.mock.gpu import COMPUTE_SLICES, MEMORY_SLICES, PROFILES, Board, Condition
from daemon.settings import did_you_mean
from probes.errors import UserError

MOST_GPUS = 16
SIZE_LIMIT = 64 * 1024
LONGEST = 10**9
"""Most looks or seconds that a step may wait for."""

_WHEN = ("at_s", "after_looks")
_HGX = ("1b", "43", "52", "61", "9d", "c3", "d1", "df")
_DRIVER = "580.159.04"
_VERSION = re.compile(r"[0-9]{2,4}(\.[0-9]{1,4}){1,2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class MockGpu:
    """One GPU and what it does at first."""

    board: Board
    condition: Condition = Condition.IDLE


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens by itself, by looks or by time."""

    gpu: int
    """Index of the GPU."""
    condition: Condition
    """What it does from then on."""
    after_looks: int | None = None
    """Once the fleet was looked at so often; None: it waits for `at_s`."""
    at_s: float | None = None
    """Seconds after the scenario was read; None: it waits for `after_looks`."""

    def is_due(self, looks: int, elapsed_s: float) -> bool:
        """Whether it has come, after so many looks and so much time."""
        if self.at_s is not None:
            return self.at_s <= elapsed_s
        return self.after_looks is not None and self.after_looks <= looks


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fleet and what happens to it."""

    gpus: tuple[MockGpu, ...]
    steps: tuple[Step, ...] = ()
    """In the order in which they come; those that wait for looks first."""
    driver_version: str = _DRIVER
    names_gpus: bool = False
    """Whether its GPUs are written down; False: it has the default ones."""


DEFAULT = Scenario(
    tuple(
        MockGpu(
            Board(index, f"0000:{bus}:00.0", ("3g.71gb", "2g.35gb", "1g.18gb") if index == 2 else ()), state
        )
        for index, (bus, state) in enumerate(
            zip(
                _HGX,
                (
                    Condition.IDLE,
                    Condition.BUSY,
                    Condition.BUSY,
                    Condition.BUSY,
                    Condition.THROTTLING,
                    Condition.DEGRADING,
                    Condition.BUSY,
                    Condition.IDLE,
                ),
                strict=True,
            )
        )
    )
)
"""Eight H200: most at work, one of them cut into MIG instances, one throttling, one degrading."""


def load(path: Path) -> Scenario:
    """The scenario of a file. Raises UserError naming the file."""
    try:
        if path.exists() and not path.is_file():  # opening a FIFO would wait for its writer
            raise UserError(f"the mock scenario {path} is not a file")
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot read the mock scenario {path}: {reason}") from None
    if len(data) > SIZE_LIMIT:
        raise UserError(f"the mock scenario {path} is larger than {SIZE_LIMIT // 1024} KiB")
    try:
        return parse(data.decode())
    except UnicodeDecodeError:
        raise UserError(f"the mock scenario {path} is not UTF-8") from None
    except UserError as error:
        raise UserError(f"the mock scenario {path}: {error.message}", hint=error.hint) from None


def parse(text: str) -> Scenario:
    """The scenario of a TOML text. Raises UserError."""
    try:
        data = toml_text.parse(text)
    except toml_text.TomlError as error:
        raise UserError(f"it {error}") from None
    _check_keys(data, ("driver", "gpu", "step"), "the file")
    driver = data.get("driver", _DRIVER)
    if not isinstance(driver, str) or not _VERSION.fullmatch(driver):
        raise UserError("driver is not a version", hint=f'write for example driver = "{_DRIVER}"')
    entries = _tables(data, "gpu")
    gpus = tuple(_gpu(entry, index) for index, entry in enumerate(entries)) if entries else DEFAULT.gpus
    if len(gpus) > MOST_GPUS:
        raise UserError(f"there are {len(gpus)} GPUs", hint=f"the most is {MOST_GPUS}")
    taken = [gpu.board.pci for gpu in gpus]
    for address in taken:
        if taken.count(address) > 1:
            raise UserError(f"two GPUs have the PCI address {address}")
    steps = tuple(_step(entry, n, len(gpus)) for n, entry in enumerate(_tables(data, "step"), start=1))
    return Scenario(gpus, tuple(sorted(steps, key=_moment)), driver, names_gpus=bool(entries))


def _gpu(entry: Mapping[str, object], index: int) -> MockGpu:
    where = f"gpu {index}"
    _check_keys(entry, ("state", "mig", "pci"), where)
    bus = _HGX[index] if index < len(_HGX) else f"{0xE0 + index:02x}"
    given = entry.get("pci", f"0000:{bus}:00.0")
    address = pci.normalize(given) if isinstance(given, str) else None
    if address is None:
        raise UserError(f"the pci of {where} is not a PCI address", hint='write for example "0000:1b:00.0"')
    condition = _condition(entry["state"], where) if "state" in entry else Condition.IDLE
    return MockGpu(Board(index, address, _mig(entry.get("mig", []), where)), condition)


def _mig(profiles: object, where: str) -> tuple[str, ...]:
    if not isinstance(profiles, list):
        raise UserError(f"mig of {where} is not a list", hint='write for example mig = ["3g.71gb"]')
    for profile in profiles:
        if not isinstance(profile, str) or profile not in PROFILES:
            raise UserError(f"mig of {where}: there is no profile {profile!r}", hint=_valid(PROFILES))
    compute = sum(PROFILES[profile].compute_slices for profile in profiles)
    memory = sum(PROFILES[profile].memory_slices for profile in profiles)
    if compute > COMPUTE_SLICES or memory > MEMORY_SLICES:
        raise UserError(
            f"mig of {where} takes {compute} compute and {memory} memory slices",
            hint=f"a GPU has {COMPUTE_SLICES} and {MEMORY_SLICES}",
        )
    return tuple(profiles)


def _step(entry: Mapping[str, object], number: int, gpus: int) -> Step:
    where = f"step {number}"
    _check_keys(entry, (*_WHEN, "gpu", "state"), where)
    needs = f"a step needs {' or '.join(_WHEN)}, gpu, state"
    for name in ("gpu", "state"):
        if name not in entry:
            raise UserError(f"{where} has no {name}", hint=needs)
    given = [name for name in _WHEN if name in entry]
    if len(given) != 1:
        raise UserError(f"{where} has {'both' if given else 'neither'} of {' and '.join(_WHEN)}", hint=needs)
    gpu = _whole(entry["gpu"])
    if gpu is None or not 0 <= gpu < gpus:
        raise UserError(f"gpu of {where} is none of the fleet", hint=f"valid ones are 0 to {gpus - 1}")
    condition = _condition(entry["state"], where)
    if "at_s" in entry:
        return Step(gpu, condition, at_s=_seconds(entry["at_s"], where))
    after = _whole(entry["after_looks"])
    if after is None or not 0 <= after <= LONGEST:
        raise UserError(f"after_looks of {where} is not a whole number from 0")
    return Step(gpu, condition, after_looks=after)


def _seconds(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST:
        return float(value)
    raise UserError(f"at_s of {where} is not a number of seconds from 0")


def _moment(step: Step) -> tuple[bool, float]:
    return (step.at_s is not None, step.at_s if step.at_s is not None else step.after_looks or 0)


def _condition(value: object, where: str) -> Condition:
    try:
        return Condition(value)  # type: ignore[arg-type]  # anything else is no member either
    except ValueError:
        raise UserError(f"state of {where}: there is no state {value!r}", hint=_valid(Condition)) from None


def _tables(data: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    tables = data.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{name} is not a list of tables", hint=f"write [[{name}]] before each")
    return tables


def _check_keys(data: Mapping[str, object], valid: Iterable[str], where: str) -> None:
    for key in data:
        if key not in valid:
            near = did_you_mean(key, valid)
            hint = f"{near} {_valid(valid)}" if near else _valid(valid)
            raise UserError(f"{where} has an unknown key {key!r}", hint=hint)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _valid(names: Iterable[str]) -> str:
    return f"valid ones are {', '.join(names)}"
