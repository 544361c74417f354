"""What a decoded line means: how bad it is, whose fault it usually is, and what to do first.

The one place where a `Fault` gets its meaning: the table of codes, corrected by what the line
itself says. `detail` adds to its fields what only the driver's version and NVIDIA's tables tell.
`lookup`, `codes`, `meaning_of` and `page` ask the tables and pages alone. None of them raises,
whatever the line holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from daemon import nvlink_rules
from daemon.code_pages import CodePage, page
from daemon.codes import Entry, Meaning, bucket_text, codes, lookup, meaning_of
from daemon.decoded import Fault, Word
from daemon.event import Action, Blame, Kind, Severity

__all__ = [
    "CodePage",
    "Entry",
    "Meaning",
    "bucket_text",
    "codes",
    "detail",
    "lookup",
    "meaning",
    "meaning_of",
    "page",
]

_MAX_SHOWN_DIGITS = 32


def meaning(fault: Fault, driver_version: str | None = None) -> Meaning:
    """What a decoded line means on this driver: the catalogue, corrected by the line's own words."""
    if fault.kind not in _NUMBERED:
        return meaning_of(fault.kind, fault.name)
    entry = lookup(fault.kind, fault.code, driver_version) if fault.code is not None else None
    if entry is None:
        return _unknown_code(fault)
    if fault.kind is Kind.SXID:
        return entry if entry.code in _WORD_MISLEADS else _by_word(entry, fault)
    # A rule belongs to a name, since a number may have meant something else on an older driver.
    rule = _RULES.get(entry.name or "")
    return entry if rule is None else rule(entry, fault, driver_version)


def detail(fault: Fault, driver_version: str | None = None) -> dict[str, Any]:
    """The decoded fields, and for NVLink errors NVIDIA's rule for them on this driver."""
    found = dict(fault.detail)
    if fault.kind is not Kind.XID:
        return found
    if fault.code == _NVLINK_4:
        if readings := nvlink_rules.readings(found.get("words")):
            found["error_bits"] = readings
    elif fault.code is not None and fault.code in _NVLINK_5:
        if (subcode := nvlink_rules.subcode(found, driver_version)) is not None:
            found["subcode"] = subcode
        if (rule := nvlink_rules.rule(fault.code, found, driver_version)) is not None:
            promoted = fault.word is Word.FATAL and rule.action_if_fatal
            found |= {
                "subcode": rule.subcode,
                "nvidia_action": promoted or rule.action,
                "nvidia_investigation": rule.investigation,
                "nvidia_severity": rule.severity,
            }
            if rule.origin:
                found["nvidia_origin"] = rule.origin
    return found


_NVLINK_4 = 74
_NVLINK_5 = range(144, 151)

_NUMBERED = frozenset({Kind.XID, Kind.SXID})
_LABELS = {Kind.XID: "Xid", Kind.SXID: "SXid"}

_WORD_MISLEADS = frozenset({11004, 12028, 19084, 19055, 19057, 19059})
"""SXids whose printed word is not how bad it is. 11004, 12028, 19084: Non-fatal for the switch, while the
GPU's NVLink traffic stalls. 19055, 19057, 19059: Fatal for a limit of corrected single-bit errors."""

_NOT_ENOUGH = frozenset({Action.IGNORE, Action.CHECK_MECHANICAL, Action.CONTACT_SUPPORT})
"""Actions that cannot be the first step when the line says Fatal."""

_LINK_FATAL = "Link Fatal"
"""NVIDIA: one link is lost; the GPU goes on until its work has ended, then it needs a reset."""


def _unknown_code(fault: Fault) -> Meaning:
    number = str(fault.detail.get("code_text", "?") if fault.code is None else fault.code)
    if len(number) > _MAX_SHOWN_DIGITS:
        number = number[:_MAX_SHOWN_DIGITS] + "…"
    return Meaning(
        None,
        f"{_LABELS[fault.kind]} {number}: not in the catalogue of this version",
        Severity.WARNING,
        Blame.UNKNOWN,
        Action.CONTACT_SUPPORT,
        "Look the number up in NVIDIA's Xid documentation of your driver, or ask NVIDIA support.",
    )


def _by_word(entry: Entry, fault: Fault, _driver_version: str | None = None) -> Meaning:
    """The line's own Fatal or Nonfatal beats the table: it depends on whether the fault was contained."""
    if fault.word is Word.FATAL and entry.severity is not Severity.FATAL:
        if entry.action not in _NOT_ENOUGH:
            return replace(entry, severity=Severity.FATAL)
        return replace(
            entry,
            severity=Severity.FATAL,
            action=Action.RESET_GPU,
            action_text="Drain the GPU on this link and reset it; if the error returns, "
            "reset all GPUs and NVSwitches together.",
        )
    if fault.word is Word.NONFATAL and entry.severity.rank > Severity.WARNING.rank:
        return replace(
            entry,
            severity=Severity.WARNING,
            action=Action.IGNORE,
            action_text="Nothing to do for a single one: the link goes on; "
            "look at both ends of the link if it keeps coming.",
        )
    return entry


def _by_rule(entry: Entry, fault: Fault, driver_version: str | None) -> Meaning:
    """144 to 150: the line's word says how bad it is, NVIDIA's rule for its words what to do.

    For one reason of 149 the driver prints Fatal although NVIDIA's own table says to ignore it.
    """
    found = _by_word(entry, fault)
    rule = nvlink_rules.rule(entry.code, fault.detail, driver_version)
    if rule is None:
        return found
    fatal = fault.word is Word.FATAL
    if fatal and (rule.action_if_fatal or rule.action) == "RESET_GPU":
        drain = rule.severity == _LINK_FATAL
        return replace(
            found,
            action=Action.DRAIN_AND_RESET if drain else Action.RESET_GPU,
            action_text="The link is lost: start no new work on this GPU, let the rest end, then reset it."
            if drain
            else "Stop all work on the GPU and reset it; if the error returns, have it replaced.",
        )
    if rule.action == "IGNORE" and fatal and rule.severity == _LINK_FATAL:
        return replace(
            found,
            severity=Severity.WARNING,
            action=Action.IGNORE,
            action_text="Nothing to do: NVIDIA says to ignore this reason, although the line may say Fatal.",
        )
    if rule.action == "XID_154_EVAL" and not fatal:
        return replace(
            found,
            action=Action.RESTART_APP,
            action_text="Do what an Xid 154 beside it says; without one, restart the application it hit.",
        )
    return found


def _clean_up(entry: Entry, fault: Fault, _driver_version: str | None) -> Meaning:
    """45: only ever a consequence; driver 570.123 and later name its cause."""
    cause = fault.detail.get("caused_by_xid")
    if not isinstance(cause, int):
        return entry
    return replace(
        entry,
        summary=f"A channel was cleaned up after Xid {cause}",
        action_text=f"Nothing to do by itself: follow the Xid {cause} before it.",
    )


_GSP_HALTED = "GSP-RISCV"
"""In the text of a 94 that comes from the GPU's own firmware core: only a reset brings it back."""


def _contained(entry: Entry, fault: Fault, _driver_version: str | None) -> Meaning:
    """94: by itself the work of one application is lost; the line says when the GPU must be reset."""
    if fault.detail.get("reset_required") is True or _GSP_HALTED in fault.text:
        return replace(
            entry,
            severity=Severity.FATAL,
            action=Action.RESET_GPU,
            action_text="Stop all work on the GPU and reset it: the line asks for it; "
            "have it replaced if this returns.",
        )
    if fault.detail.get("drain_and_reset_required") is True:
        return replace(
            entry,
            action=Action.DRAIN_AND_RESET,
            action_text="Restart the application it hit; let no new work start, then reset the GPU: "
            "the line asks for it.",
        )
    return entry


def _uncontained(entry: Entry, fault: Fault, _driver_version: str | None) -> Meaning:
    """95: every context is affected, but not every time is a reset needed."""
    if fault.detail.get("reset_required") is not False:
        return entry
    without_reset = replace(entry, severity=Severity.CRITICAL)
    if fault.detail.get("drain_and_reset_required") is True:
        return replace(
            without_reset,
            action=Action.DRAIN_AND_RESET,
            action_text="Let no new work start, then reset the GPU: the line asks for it.",
        )
    return replace(
        without_reset,
        action=Action.RESTART_APP,
        action_text="Restart the applications on this GPU: the line says that no reset is needed.",
    )


_RECOVERY: Mapping[int, tuple[Severity, Action, str, str]] = {
    0: (
        Severity.INFO,
        Action.IGNORE,
        "The GPU has recovered: the driver asks for no action any more",
        "Nothing to do: the GPU can be used again.",
    ),
    1: (
        Severity.FATAL,
        Action.RESET_GPU,
        "The driver asks for a reset of this GPU",
        "Stop all work on the GPU and reset it; look for the Xid that led to this.",
    ),
    2: (
        Severity.FATAL,
        Action.REBOOT_NODE,
        "The driver asks for a reboot of this node",
        "Drain and reboot the node; look for the Xid that led to this.",
    ),
    3: (
        Severity.WARNING,
        Action.DRAIN_AND_RESET,
        "The driver asks to end this GPU's traffic with other GPUs",
        "Start no new multi-GPU work here, let the running work end, then reset the GPU.",
    ),
    4: (
        Severity.WARNING,
        Action.DRAIN_AND_RESET,
        "The driver asks to drain this GPU and then to reset it",
        "Start no new work on the GPU, let the running work end, then reset it.",
    ),
    5: (
        Severity.CRITICAL,
        Action.FOLLOW_RECOVERY_ACTION,
        "The driver asks to recover the IMEX domain of this GPU",
        "Stop the jobs that span nodes, then restart IMEX (nvidia-imex) on the nodes of the domain.",
    ),
}
"""Xid 154 by the number of its new action (NVML_GPU_RECOVERY_ACTION_* of nvml.h)."""


def _recovery_action(entry: Entry, fault: Fault, _driver_version: str | None) -> Meaning:
    """154: the driver's own advice; the new action decides everything."""
    new = fault.detail.get("recovery_to")
    if not isinstance(new, int) or new not in _RECOVERY:
        return entry
    severity, action, summary, action_text = _RECOVERY[new]
    return replace(entry, severity=severity, action=action, summary=summary, action_text=action_text)


_RULES: Mapping[str, Callable[[Entry, Fault, str | None], Meaning]] = {
    "PREEMPTIVE_REMOVAL": _clean_up,
    "CONTAINED_ERROR": _contained,
    "UNCONTAINED_ERROR": _uncontained,
    "NVLINK_ERROR": _by_word,
    "NVLINK_SAW_ERROR": _by_rule,
    "NVLINK_RLW_ERROR": _by_rule,
    "NVLINK_TLW_ERROR": _by_rule,
    "NVLINK_TREX_ERROR": _by_rule,
    "NVLINK_NVLPW_CTRL_ERROR": _by_rule,
    "NVLINK_NETIR_ERROR": _by_rule,
    "NVLINK_MSE_ERROR": _by_rule,
    "GPU_RECOVERY_ACTION_CHANGED": _recovery_action,
}
"""Xids of which the line says more than the number, by name: 45, 74, 94, 95, 144 to 150, 154."""
