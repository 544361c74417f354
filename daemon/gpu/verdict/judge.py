"""Putting the rules together: one GPU's verdict, and the node's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from daemon.event import Event, rfc3339
from daemon.gpu.answers import HungCall
from daemon.gpu.expected_gpu import ExpectedGpu, Presence
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Health, Reading
from daemon.gpu.source import SourceName, SourceState
from daemon.gpu.verdict import links, memory, operation
from daemon.gpu.verdict.history import heard
from daemon.gpu.verdict.look import ABSENT, Earlier, Look, why_unread
from daemon.gpu.verdict.reason import Code, NotChecked, Reason, Severity, Source, State, Verdict

Rule = Callable[[Look], Iterator[Reason]]


@dataclass(frozen=True, slots=True)
class _Check:
    """A rule, and the readings without which it cannot say that all is well."""

    name: str
    rule: Rule
    needs: tuple[str, ...] = ()


_CHECKS = (
    _Check("recovery action", operation.recovery, ("recovery_action",)),
    _Check("memory errors", memory.ecc, ("ecc.volatile.uncorrected",)),
    _Check("memory repair", memory.repairs),
    _Check("row remapping", memory.row_remapping, ("row_remapping.failure", "row_remapping.pending")),
    _Check("page retirement", memory.retired_pages, ("retired_pages.pending",)),
    _Check("temperature", operation.temperature, ("temperature.gpu_c",)),
    _Check("slowdown", operation.slowdown, ("clock_events.reasons",)),
    _Check("modes", operation.modes),
    _Check("PCIe link", links.pcie, ("pcie.width", "pcie.width_max")),
    _Check("NVLink", links.nvlink, ("nvlink.links_up",)),
    _Check("fabric", links.fabric, ("fabric.state",)),
)


_UNUSABLE = frozenset({SourceName.VERSION_MISMATCH, SourceName.HUNG})
"""States of the driver in which no program can begin to use a GPU."""


def judge(
    pci: str,
    reading: Reading | None,
    *,
    now_us: int,
    events: Iterable[Event] = (),
    expected: ExpectedGpu | None = None,
    hung: HungCall | None = None,
    earlier: Earlier | None = None,
    links_expected: int | None = None,
) -> Verdict:
    """The verdict on the GPU at `pci`.

    `reading` is its answer to the health question, None when it was not asked. `events` may be those
    of the whole node, incidents included. `expected` is what the table of expected GPUs says of it,
    after it was told of this reading. `hung` is the NVML call because of which it is left alone.
    """
    every = tuple(events)
    health = reading.health if reading is not None and reading.answered else None
    reasons: list[Reason] = []
    not_checked: list[NotChecked] = []
    if expected is not None and expected.is_lost:
        reasons.append(_lost(expected))
    elif reading is not None and reading.lost:
        reasons.append(_lost(ExpectedGpu(pci, presence=Presence.LOST, since_us=now_us)))
    elif hung is not None and not (reading is not None and reading.answered):
        reasons.append(_hung(hung, now_us))
    elif health is None:
        reasons.append(_not_answered(reading))
    else:
        look = Look(health, earlier, links_expected)
        for check in _CHECKS:
            reasons += check.rule(look)
            unknown, absent = _unread(check, health)
            reasons += unknown
            not_checked += absent
    known = health is not None and health.recovery_action is not None
    reasons += heard(every, frozenset({pci}), now_us, advice_is_read=known)
    return Verdict.of(reasons, not_checked)


def judge_node(
    verdicts: Mapping[str, Verdict],
    *,
    now_us: int,
    events: Iterable[Event] = (),
    source: SourceState | None = None,
) -> Verdict:
    """The verdict on the node: its GPUs' (PCI address → verdict), and what was heard of no GPU of theirs.

    Each GPU that is not healthy is one reason. `source` is how the readings' source is: where it cannot
    look, that is a reason too. A node of which no GPU was judged is unknown.
    """
    every = tuple(events)
    reasons = [_of_gpu(pci, verdict) for pci, verdict in sorted(verdicts.items()) if _counts(verdict)]
    if source is not None and source.name not in (SourceName.OK, SourceName.UNASKED):
        reasons.append(_unreadable(source))
    elif not verdicts:
        reasons.append(Reason(Code.NOT_ANSWERED, Severity.UNKNOWN, "No GPU of this node was judged."))
    others = frozenset(event.device for event in every) - verdicts.keys() | {None}
    reasons += heard(every, others, now_us)
    return Verdict.of(reasons)


def _counts(verdict: Verdict) -> bool:
    return bool(verdict.reasons) and verdict.reasons[0].severity is not Severity.NOTE


def _of_gpu(pci: str, verdict: Verdict) -> Reason:
    gravest = verdict.reasons[0]
    return replace(
        gravest,
        sentence=f"GPU {pci} is {verdict.headline}",
        reading=f"gpu.{pci}",
        value=verdict.state.value,
        threshold=State.HEALTHY.value,
    )


def _unreadable(source: SourceState) -> Reason:
    why = (source.reason or source.name.value).rstrip(".")
    return Reason(
        Code.GPUS_UNREADABLE,
        Severity.UNHEALTHY if source.name in _UNUSABLE else Severity.UNKNOWN,
        f"The GPUs could not be looked at: {why}.",
        "source",
        source.name.value,
        SourceName.OK.value,
        Source.JUDGEMENT,
    )


def _lost(gpu: ExpectedGpu) -> Reason:
    is_gone = gpu.presence is Presence.GONE
    # One fault is often heard twice in the same words, and the last of them is why it is lost.
    heard = dict.fromkeys(words.summary for words in gpu.last_events[-2:] if words.summary != gpu.why)
    last = f" Last heard: {'; '.join(heard)}." if heard else ""
    state = "gone from the driver's list" if is_gone else "lost"
    why = f" ({gpu.why})" if gpu.why and not is_gone else ""
    return Reason(
        Code.GPU_GONE if is_gone else Code.GPU_LOST,
        Severity.UNHEALTHY,
        f"The GPU is {state} since {rfc3339(gpu.since_us)}{why}.{last}",
        "presence",
        gpu.presence.value,
        Presence.PRESENT.value,
        Source.DRIVER,
        events=tuple(words.id for words in reversed(gpu.last_events)),
    )


def _hung(hung: HungCall, now_us: int) -> Reason:
    call = hung.call or "an NVML call"
    seconds = max(now_us - hung.since_us, 0) / 1e6
    if hung.trouble is Trouble.CRASHED:
        sentence = f"NVML crashed in {call} on this GPU, {seconds:.0f} s ago; it is left alone for a while."
        return Reason(Code.NOT_ANSWERED, Severity.UNKNOWN, sentence, call)
    return Reason(
        Code.NVML_HUNG,
        Severity.UNHEALTHY,
        f"The driver did not return from a call on this GPU: {hung.told(now_us)}.",
        call,
        round(seconds, 1),
        None,
        Source.JUDGEMENT,
    )


def _not_answered(reading: Reading | None) -> Reason:
    if reading is None or reading.answered:
        return Reason(Code.NOT_ANSWERED, Severity.UNKNOWN, "Its health was not asked for.")
    why = (reading.reason or reading.trouble or "no reason is known").rstrip(".")
    if reading.trouble == Trouble.HUNG:
        sentence = f"The driver did not return from a call on this GPU: {why}."
        return Reason(Code.NVML_HUNG, Severity.UNHEALTHY, sentence, source=Source.JUDGEMENT)
    sentence = f"The GPU did not answer: {why}."
    return Reason(Code.NOT_ANSWERED, Severity.UNKNOWN, sentence, "answer", reading.trouble, "given")


def _unread(check: _Check, health: Health) -> tuple[list[Reason], list[NotChecked]]:
    missing = {path: why_unread(health.unread, path) for path in check.needs if _value(health, path) is None}
    failed = {path: why for path, why in missing.items() if why not in ABSENT}
    if failed:
        path, why = next(iter(failed.items()))
        sentence = f"Nothing can be said of the {check.name}: {path} could not be read ({why})."
        return [Reason(Code.UNREAD, Severity.UNKNOWN, sentence, path)], []
    if missing and len(missing) == len(check.needs):
        return [], [NotChecked(check.name, next(iter(missing.values())))]
    return [], []


def _value(health: Health, path: str) -> object:
    value: object = health
    for name in path.split("."):
        value = getattr(value, name, None)
    return value
