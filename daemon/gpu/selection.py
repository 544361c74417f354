"""Which GPUs a person or an assistant means: by index, UUID, beginning of a UUID, PCI address, MIG UUID.

Pure. The choices are what the node is known to have, lost GPUs included: they keep UUID and PCI
address, but their index may have passed to another GPU. An index means the GPU that has it now, or, when
none has, the one that had it last. Letter case does not matter. A text that fits no choice, or several,
is a `UserError` that names the valid ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from daemon import pci
from daemon.text import clean
from probes.errors import UserError

MAX_VALUES = 256
"""Values of one question; a node has at most a few dozen GPUs and MIG instances."""

_SHOWN = 16
_INDEX = re.compile(r"[0-9]{1,4}", re.ASCII)
_UUID_PREFIX = re.compile(r"(?:gpu-)?[0-9a-f][0-9a-f-]*", re.ASCII)
_MIG_PREFIX = re.compile(r"mig-[0-9a-f-]+", re.ASCII)
_MIG_BEFORE_470 = re.compile(r"mig-(gpu-[0-9a-f-]{36})/([0-9]{1,4})/([0-9]{1,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class MigChoice:
    """A MIG instance that can be named."""

    uuid: str | None
    """`MIG-…`; None when it could not be read."""
    gi: int | None
    """GPU instance id."""
    ci: int | None
    """Compute instance id."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A GPU that can be named."""

    pci: str
    """Domain:bus:device.function, lower-case hex; `#3` where the index alone is known."""
    index: int | None = None
    """NVML index it has now; None for a GPU that is lost or was never read."""
    uuid: str | None = None
    mig: tuple[MigChoice, ...] = ()
    was_index: int | None = None
    """The index that it had last, where it is not known to have one now and no GPU has had that since."""

    def __str__(self) -> str:
        address = None if self.pci == f"#{self.index}" else self.pci
        names = [str(self.index) if self.index is not None else None, self.uuid, address]
        was = f" (was index {self.was_index})" if self.was_index is not None else ""
        return " = ".join(name for name in names if name is not None) + was


@dataclass(frozen=True, slots=True)
class Selected:
    """One GPU that was named."""

    gpu: Choice
    mig: MigChoice | None = None
    """The instance, when a MIG UUID was given; None means the whole GPU."""


def select(wanted: Sequence[str], choices: Sequence[Choice]) -> tuple[Selected, ...]:
    """What `wanted` names, each once, in the order given; every GPU when it names nothing.

    A value may hold several names separated by commas; empty ones are ignored, so that an empty
    field of a form selects all. Raises UserError.
    """
    names = [part.strip() for text in wanted for part in text.split(",") if part.strip()]
    if len(names) > MAX_VALUES:
        raise UserError("too many GPUs were named", hint=f"give at most {MAX_VALUES}, or none for all")
    if not names:
        return tuple(Selected(gpu) for gpu in choices)
    return tuple(dict.fromkeys(select_one(name, choices) for name in names))


def select_one(name: str, choices: Sequence[Choice]) -> Selected:
    """The GPU or MIG instance that `name` means. Raises UserError."""
    lower = name.strip().lower()
    if is_index(lower):
        number = int(lower)
        now = [Selected(gpu) for gpu in choices if gpu.index == number]
        return _only(name, now or [Selected(gpu) for gpu in choices if gpu.was_index == number], choices)
    if (address := pci.normalize(lower)) is not None:
        return _only(name, [Selected(gpu) for gpu in choices if gpu.pci == address], choices)
    if old := _MIG_BEFORE_470.fullmatch(lower):
        return _only(name, list(_instances(choices, old[1], int(old[2]), int(old[3]))), choices)
    if _MIG_PREFIX.fullmatch(lower):
        found = [found for found in _all_instances(choices) if _begins(_mig_uuid(found), lower)]
        return _only(name, found, choices)
    if _UUID_PREFIX.fullmatch(lower):
        start = lower if lower.startswith("gpu-") else f"gpu-{lower}"
        return _only(name, [Selected(gpu) for gpu in choices if _begins(gpu.uuid, start)], choices)
    raise UserError(
        f"{_shown(name)} names no GPU",
        hint=f"give an index, a UUID or its beginning, a PCI address or a MIG UUID; {_valid(choices)}",
    )


def is_index(name: str) -> bool:
    """True when this can only be an NVML index."""
    return _INDEX.fullmatch(name.strip()) is not None


def _only(name: str, found: Sequence[Selected], choices: Sequence[Choice]) -> Selected:
    if len(found) == 1:
        return found[0]
    if found:
        exact = [one for one in found if _uuid(one).lower() == name.strip().lower()]
        if len(exact) == 1:
            return exact[0]
        raise UserError(
            f"{_shown(name)} could be any of {_listed(_uuid(one) for one in found)}", hint="give more of it"
        )
    raise UserError(f"no GPU of this node is {_shown(name)}", hint=_valid(choices, mig=_is_mig(name)))


def _instances(choices: Sequence[Choice], uuid: str, gi: int, ci: int) -> Iterator[Selected]:
    for found in _all_instances(choices):
        mig = found.mig
        if mig is not None and (mig.gi, mig.ci) == (gi, ci) and (found.gpu.uuid or "").lower() == uuid:
            yield found


def _all_instances(choices: Sequence[Choice]) -> Iterator[Selected]:
    return (Selected(gpu, mig) for gpu in choices for mig in gpu.mig)


def _begins(uuid: str | None, start: str) -> bool:
    return uuid is not None and uuid.lower().startswith(start)


def _mig_uuid(found: Selected) -> str | None:
    return found.mig.uuid if found.mig is not None else None


def _uuid(found: Selected) -> str:
    return (found.gpu.uuid if found.mig is None else found.mig.uuid) or found.gpu.pci


def _is_mig(name: str) -> bool:
    return name.strip().lower().startswith("mig-")


def _valid(choices: Sequence[Choice], *, mig: bool = False) -> str:
    if mig:
        instances = [_uuid(found) for found in _all_instances(choices)]
        return f"its MIG instances are {_listed(instances)}" if instances else "no GPU here has MIG instances"
    return f"the valid ones are {_listed(map(str, choices))}" if choices else "no GPU is known on this node"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + rest


def _shown(name: str) -> str:
    return f"'{clean(name, 80)}'"
