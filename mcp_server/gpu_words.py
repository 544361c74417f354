"""How GPUs and their readings are put into words, and how a text keeps to its room.

A reading that is None is "unknown", in so many words. Names of GPUs come from the driver and are short;
anything that a process chose is quoted by who uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from daemon.event import Kind
from daemon.explanation import LABELS
from daemon.gpu.readings import Memory
from daemon.gpu.verdict import Reason, Severity, State, Verdict
from daemon.gpu.watch import GpuLook
from mcp_server.addresses import uri_of_event
from mcp_server.gpu_looks import index_of, name_of, uuid_of
from mcp_server.quote import moment, tokens

_WORST_FIRST: Final = (State.UNHEALTHY, State.DEGRADED, State.UNKNOWN, State.HEALTHY)


def amount(value: float | None, unit: str) -> str:
    """`36 °C`, `98.5 W`; `unknown` when it was not read."""
    return "unknown" if value is None else f"{value:.1f} {unit}".replace(".0 ", " ")


def gib(size_bytes: int | None) -> str:
    """`140.4 GiB`; `unknown` when it was not read."""
    return amount(_gib(size_bytes), "GiB")


def of(value: float | None, limit: float | None, unit: str) -> str:
    """`98.5 of 700 W`; what was not read is `unknown`."""
    return f"{amount(value, '').strip()} of {amount(limit, unit)}"


def memory_of(memory: Memory) -> str:
    """`138.4 of 140.4 GiB`; what was not read is `unknown`."""
    return of(_gib(memory.used_bytes), _gib(memory.total_bytes), "GiB")


def _gib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / 2**30, 1)


def counted(gpus: int) -> str:
    """`1 GPU`, `8 GPUs`."""
    return f"{gpus} GPU{'s' * (gpus != 1)}"


def short(gpu: GpuLook) -> str:
    """`GPU 3`, or by its PCI address when it has no index."""
    index = index_of(gpu)
    return f"GPU {gpu.pci}" if index is None else f"GPU {index}"


def label(gpu: GpuLook) -> str:
    """`GPU 3 0000:61:00.0 GPU-…`; of one that has no index now with the one it had."""
    index = index_of(gpu)
    parts = ["GPU" if index is None else f"GPU {index}", gpu.pci, *([uuid] if (uuid := uuid_of(gpu)) else [])]
    if index is None and gpu.was_index is not None:
        parts.append(f"(was index {gpu.was_index})")
    return " ".join(parts)


def listed(gpus: Sequence[GpuLook]) -> str:
    """`GPU 0, 1, 4`, or by PCI address those that have no index."""
    names = [gpu.pci if (index := index_of(gpu)) is None else str(index) for gpu in gpus]
    return f"GPU {', '.join(names)}"


def models(gpus: Iterable[GpuLook]) -> str:
    """`7 × NVIDIA H200, 1 × unknown model`."""
    counts: dict[str, int] = {}
    for gpu in gpus:
        name = name_of(gpu) or "unknown model"
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} × {name}" for name, count in counts.items())


def no_answer(gpu: GpuLook) -> str | None:
    """Why it did not answer, as a sentence without its full stop; None when it did."""
    if gpu.reading.answered:
        return None
    expected = gpu.expected
    if expected is not None and expected.is_lost:
        why = f" ({expected.why})" if expected.why else ""
        return f"{expected.presence.value.upper()} since {moment(expected.since_us)}{why}"
    reason = gpu.reading.reason or gpu.reading.trouble or "no reason is known"
    return f"did not answer: {reason.rstrip('.')}"


def last_events(gpu: GpuLook, most: int) -> Iterator[str]:
    """What was heard of a lost GPU last, newest first, one line each."""
    if gpu.expected is not None and gpu.expected.is_lost:
        for event in [*reversed(gpu.expected.last_events)][:most]:
            kind = LABELS.get(Kind(event.kind), event.kind)
            title = kind if event.code is None else f"{kind} {event.code}"
            yield (
                f"last event: {title} [{event.severity}] at {moment(event.time_us)}: {event.summary}; "
                f"{uri_of_event(event.id)}"
            )


def judged(gpu: GpuLook) -> Verdict:
    """Its verdict, in an answer in which each GPU has one."""
    assert gpu.verdict is not None, "health() judges every GPU"
    return gpu.verdict


def matters(reason: Reason) -> bool:
    """False for a note, which changes no verdict."""
    return reason.severity is not Severity.NOTE


def judged_lines(gpu: GpuLook, most: int | None, events: int) -> Iterator[str]:
    """The verdict on one GPU: so many reasons in words, the others that matter by name, and of a lost GPU so
    many of its last events. None: every reason, notes too."""
    verdict = judged(gpu)
    reasons = [reason for reason in verdict.reasons if most is None or matters(reason)]
    yield f"- {label(gpu)}: {verdict.state.value.upper()}"
    yield from (f"  {reason.severity.value}: {reason.sentence}" for reason in reasons[:most])
    yield from (f"  {line}" for line in last_events(gpu, events))
    if most is not None and (more := reasons[most:]):
        yield f"  also {named(more)}: detail=full"


def named(reasons: Iterable[Reason]) -> str:
    """`degraded: Xid 48, row_remap_pending; unknown: unread`."""
    found: dict[str, list[str]] = {}
    for reason in reasons:
        names = found.setdefault(reason.severity.value, [])
        if reason.name not in names:
            names.append(reason.name)
    return "; ".join(f"{severity}: {', '.join(names)}" for severity, names in found.items())


def told_or_named(paragraphs: Sequence[tuple[GpuLook, str]], room: int) -> Iterator[str]:
    """As many of these GPUs in the words of their paragraphs as there is room for, in tokens, the first in
    any case; of the others what is wrong with them, by name."""
    is_full = False
    for number, (gpu, text) in enumerate(paragraphs):
        room -= tokens(text)
        is_full = is_full or (number > 0 and room < 0)
        yield f"- {short(gpu)}: {named(filter(matters, judged(gpu).reasons))}." if is_full else text


def worst_first(gpus: Iterable[GpuLook]) -> list[GpuLook]:
    """GPUs that were judged, in the order to tell them."""
    judged = [(gpu, gpu.verdict.state) for gpu in gpus if gpu.verdict is not None]
    return [gpu for gpu, _ in sorted(judged, key=lambda each: _WORST_FIRST.index(each[1]))]


def states(gpus: Iterable[GpuLook]) -> str:
    """`1 unhealthy, 6 healthy`, worst first; "" for no GPUs."""
    found = [gpu.verdict.state for gpu in gpus if gpu.verdict is not None]
    counts = ((state, found.count(state)) for state in _WORST_FIRST)
    return ", ".join(f"{count} {state.value}" for state, count in counts if count)


def fitting(paragraphs: Sequence[str], room: int, left_out: str) -> Iterator[str]:
    """As many paragraphs as there is room for, in tokens, the first in any case; then `left_out`, with the
    number of the others in the place of `{}`."""
    for number, text in enumerate(paragraphs):
        room -= tokens(text)
        if number and room < 0:
            yield left_out.format(len(paragraphs) - number)
            return
        yield text
