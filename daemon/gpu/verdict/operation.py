"""Rules about how a GPU runs: what the driver asks for, its temperature, what slows it, what bars it.

Idle, at the power limit, at clocks that somebody set: all of these are clock-event reasons and none
is throttling. Heat, the power brake and the hardware's own slowdown are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from daemon.gpu.readings import ClockEvents, ClockReason, RecoveryAction
from daemon.gpu.verdict.look import Look
from daemon.gpu.verdict.reason import Code, Reason, Severity, Source

SLOWED_SHARE = 0.1
"""Share of the time between two looks from which on being slowed counts, although it is over."""
SLOWED_NOTE_US = 60_000_000
"""Total time of being slowed by heat that is worth a note."""

_ACTIONS = {
    RecoveryAction.GPU_RESET: (Severity.UNHEALTHY, "The driver asks for a reset of the GPU."),
    RecoveryAction.NODE_REBOOT: (Severity.UNHEALTHY, "The driver asks for a reboot of the node."),
    RecoveryAction.BUS_RESET: (Severity.UNHEALTHY, "The driver asks for a reset of the PCIe bus."),
    RecoveryAction.SYSTEM_REBOOT: (Severity.UNHEALTHY, "The driver asks for a reboot of the whole system."),
    RecoveryAction.DRAIN_P2P: (
        Severity.DEGRADED,
        "The driver asks to end all work that uses peer-to-peer access to this GPU.",
    ),
    RecoveryAction.DRAIN_AND_RESET: (
        Severity.DEGRADED,
        "The driver asks to let work end, give it no more, and reset the GPU.",
    ),
    RecoveryAction.RECOVER_IMEX_DOMAIN: (
        Severity.DEGRADED,
        "The driver asks to recover the IMEX domain: memory shared between nodes is cut off.",
    ),
}
_STEPS = (
    (Severity.UNHEALTHY, "it shuts itself down"),
    (Severity.DEGRADED, "the hardware slows it down"),
    (Severity.DEGRADED, "the driver lowers its clocks"),
)
_THERMAL = (ClockReason.HW_THERMAL_SLOWDOWN, ClockReason.SW_THERMAL_SLOWDOWN)


def recovery(look: Look) -> Iterator[Reason]:
    """What the driver says must be done to recover the GPU."""
    action = look.health.recovery_action
    if action is None or action == RecoveryAction.NONE:
        return
    severity, sentence = _ACTIONS.get(
        action,  # type: ignore[call-overload]  # a text equals its member of the StrEnum
        (
            Severity.DEGRADED,
            f"The driver asks for a recovery action that this program does not know: {action}.",
        ),
    )
    yield Reason(
        Code.RECOVERY_ACTION, severity, sentence, "recovery_action", action, RecoveryAction.NONE.value
    )


def temperature(look: Look) -> Iterator[Reason]:
    """Against the GPU's own thresholds: by the margin to its moving limit where it has one."""
    now = look.health.temperature
    by_margin = (now.shutdown_margin_c, now.slowdown_margin_c, now.gpu_max_margin_c)
    by_degrees = (now.shutdown_c, now.slowdown_c, now.gpu_max_c)
    margin, degrees = now.margin_c, now.gpu_c
    if margin is not None and any(threshold is not None for threshold in by_margin):
        if (crossed := _crossed(by_margin, lambda threshold: margin <= threshold)) is not None:
            threshold, severity, what = crossed
            sentence = f"The margin to its temperature limit is {margin} °C; at {threshold} °C {what}."
            yield Reason(Code.GPU_TEMPERATURE, severity, sentence, "temperature.margin_c", margin, threshold)
    elif (
        degrees is not None and (crossed := _crossed(by_degrees, lambda limit: degrees >= limit)) is not None
    ):
        threshold, severity, what = crossed
        sentence = f"The GPU is at {degrees} °C; at {threshold} °C {what}."
        yield Reason(Code.GPU_TEMPERATURE, severity, sentence, "temperature.gpu_c", degrees, threshold)
    if now.memory_c is not None and now.memory_max_c is not None and now.memory_c >= now.memory_max_c:
        yield Reason(
            Code.MEMORY_TEMPERATURE,
            Severity.DEGRADED,
            f"Memory is at {now.memory_c} °C, where the driver lowers the clocks ({now.memory_max_c} °C).",
            "temperature.memory_c",
            now.memory_c,
            now.memory_max_c,
        )


def slowdown(look: Look) -> Iterator[Reason]:
    """What holds the clocks down now, or did since the earlier look."""
    clocks = look.health.clock_events
    reasons = clocks.reasons or ()
    thermal = next((reason for reason in _THERMAL if reason in reasons), None)
    thermal_us = _slowed_us(clocks)
    brake_us = clocks.hw_power_brake_slowdown_us
    if thermal is not None:
        by = "the hardware" if thermal is ClockReason.HW_THERMAL_SLOWDOWN else "the driver"
        hot = look.health.temperature
        at = f" at {hot.gpu_c} °C" if hot.gpu_c is not None else ""
        sentence = f"Slowed down by {by} because of heat{at}{_lasting(thermal_us)}."
        yield _active(Code.THERMAL_SLOWDOWN, sentence, thermal)
    if ClockReason.HW_POWER_BRAKE_SLOWDOWN in reasons:
        sentence = f"Slowed down by the power brake, from outside the GPU{_lasting(brake_us)}."
        yield _active(Code.POWER_BRAKE, sentence, ClockReason.HW_POWER_BRAKE_SLOWDOWN)
    explained = {ClockReason.HW_THERMAL_SLOWDOWN, ClockReason.HW_POWER_BRAKE_SLOWDOWN}
    if ClockReason.HW_SLOWDOWN in reasons and not explained.intersection(reasons):
        sentence = "Slowed down to half its clocks or less by the hardware, which does not say why."
        yield _active(Code.HARDWARE_SLOWDOWN, sentence, ClockReason.HW_SLOWDOWN)
    if thermal is None:
        yield from _slowed_before(look, thermal_us)


def _slowed_before(look: Look, thermal_us: int | None) -> Iterator[Reason]:
    reading = "clock_events.hw_thermal_slowdown_us + clock_events.sw_thermal_slowdown_us"
    earlier = look.earlier
    if earlier is not None:
        grown = look.growth(_slowed_us(earlier.health.clock_events), thermal_us)
        allowed = round(SLOWED_SHARE * earlier.seconds_ago * 1e6)
        if grown is not None and grown > allowed:
            yield Reason(
                Code.THERMAL_SLOWDOWN,
                Severity.DEGRADED,
                f"Slowed down because of heat for {_seconds(grown)} of the last {earlier.seconds_ago:.0f} s.",
                reading,
                grown,
                allowed,
                Source.JUDGEMENT,
            )
            return
    if thermal_us is not None and thermal_us >= SLOWED_NOTE_US:
        yield Reason(
            Code.SLOWED_BEFORE,
            Severity.NOTE,
            f"Was slowed down because of heat for {_seconds(thermal_us)} since the driver was loaded.",
            reading,
            thermal_us,
            SLOWED_NOTE_US,
            Source.JUDGEMENT,
        )


def modes(look: Look) -> Iterator[Reason]:
    """Settings that keep work away, and settings that change at the next reset."""
    health = look.health
    if health.modes.compute == "prohibited":
        yield Reason(
            Code.WORK_REFUSED,
            Severity.NOTE,
            "The compute mode is set to prohibited: no program can use CUDA on it.",
            "modes.compute",
            "prohibited",
            "default",
            Source.JUDGEMENT,
        )
    secret = health.confidential_computing
    if secret.enabled and secret.gpus_ready is False:
        yield Reason(
            Code.WORK_REFUSED,
            Severity.NOTE,
            "Confidential computing is on and the GPU was not released for work: it waits for attestation.",
            "confidential_computing.gpus_ready",
            False,
            True,
        )
    for what, reading, now, pending in (
        ("MIG", "modes.mig_pending", health.modes.mig, health.modes.mig_pending),
        ("ECC", "ecc.enabled_pending", health.ecc.enabled, health.ecc.enabled_pending),
    ):
        if now is not None and pending is not None and now != pending:
            sentence = f"{what} is {_on(now)} and becomes {_on(pending)} at the next GPU reset."
            yield Reason(Code.MODE_PENDING, Severity.NOTE, sentence, reading, pending, now)


def _crossed(
    thresholds: tuple[int | None, int | None, int | None], holds: Callable[[int], bool]
) -> tuple[int, Severity, str] | None:
    """The gravest of the three thresholds (shutdown, slowdown, highest for full clocks) that holds."""
    for threshold, (severity, what) in zip(thresholds, _STEPS, strict=True):
        if threshold is not None and holds(threshold):
            return threshold, severity, what
    return None


def _active(code: Code, sentence: str, reason: ClockReason) -> Reason:
    return Reason(code, Severity.DEGRADED, sentence, "clock_events.reasons", reason.value, "not active")


def _lasting(total_us: int | None) -> str:
    return "" if total_us is None else f", {_seconds(total_us)} in all since the driver was loaded"


def _slowed_us(clocks: ClockEvents) -> int | None:
    """Total time of being slowed by heat; drivers before R570 do not count by cause."""
    by_cause = (clocks.hw_thermal_slowdown_us, clocks.sw_thermal_slowdown_us)
    known = [part for part in by_cause if part is not None]
    return sum(known) if known else clocks.thermal_policy_us


def _seconds(us: int) -> str:
    seconds = us / 1e6
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def _on(mode: bool) -> str:
    return "on" if mode else "off"
