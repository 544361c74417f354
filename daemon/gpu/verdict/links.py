"""Rules about what connects a GPU: PCIe, NVLink, and the fabric of NVSwitches.

A link that idles may run slower, a board may leave NVLinks unwired, and healthy links count a few
errors (an H200 fresh from boot showed CRC and PCIe receiver errors). What counts is less than the
link could do while it is in use, fewer links than were seen before, and errors that go on.
"""

from __future__ import annotations

from collections.abc import Iterator

from daemon.gpu.readings import ClockReason, FabricState
from daemon.gpu.verdict.look import Look
from daemon.gpu.verdict.memory import DCGM_HEALTH
from daemon.gpu.verdict.reason import Code, Reason, Severity, Source

PCIE_REPLAYS_PER_MINUTE = 8
"""DCGM_LIMIT_MAX_PCIREPLAY_RATE: more are not normal."""
CRC_ERRORS_PER_SECOND = 100
"""DCGM_LIMIT_MAX_NVLINK_CRC_ERROR."""
FABRIC_GUIDE = "NVIDIA Fabric Manager User Guide (docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide)"


def pcie(look: Look) -> Iterator[Reason]:
    """Width and generation against what GPU and slot can do, and replays by their rate."""
    link = look.health.pcie
    if link.width is not None and link.width_max is not None and link.width < link.width_max:
        sentence = f"The PCIe link has {link.width} of {link.width_max} lanes."
        yield Reason(Code.PCIE_WIDTH, Severity.DEGRADED, sentence, "pcie.width", link.width, link.width_max)
    now, most = link.generation, link.generation_max
    if now is not None and most is not None and now < most and _is_busy(look):
        sentence = f"The PCIe link runs at generation {now} of {most}, although the GPU is in use."
        yield Reason(Code.PCIE_GENERATION, Severity.DEGRADED, sentence, "pcie.generation", now, most)
    earlier = look.earlier
    grown = look.growth(earlier.health.pcie.replays, link.replays) if earlier is not None else None
    if grown is not None and earlier is not None:
        # A burst just after the earlier look is no rate: less than a minute counts as one.
        allowed = round(PCIE_REPLAYS_PER_MINUTE * max(earlier.seconds_ago / 60, 1))
        if grown > allowed:
            yield Reason(
                Code.PCIE_REPLAYS,
                Severity.DEGRADED,
                f"{grown} PCIe replays in {earlier.seconds_ago:.0f} s: the link to the host loses packets.",
                "pcie.replays",
                grown,
                allowed,
                Source.NVIDIA,
                DCGM_HEALTH,
            )


def nvlink(look: Look) -> Iterator[Reason]:
    """Links that are down and should be up, and errors that go on."""
    links = look.health.nvlink
    up, down = links.links_up, links.links_down
    if up is not None and down:
        yield _down(look, up, down)
    if links.recovery_errors and look.earlier is None:
        yield Reason(
            Code.NVLINK_RETRAINED,
            Severity.NOTE,
            f"NVLinks had to be trained again {links.recovery_errors} times since the driver was loaded.",
            "nvlink.recovery_errors",
            links.recovery_errors,
            0,
            Source.JUDGEMENT,
        )
    yield from _erring(look)


def fabric(look: Look) -> Iterator[Reason]:
    """Registration with the fabric manager, and what the fabric says of its health."""
    fabric = look.health.fabric
    state = fabric.state
    if state == FabricState.NOT_STARTED:
        sentence = "The fabric manager has not set this GPU up: CUDA cannot use it."
        yield _not_ready(Severity.UNHEALTHY, sentence, "fabric.state", state)
    elif state == FabricState.IN_PROGRESS:
        sentence = "The fabric manager is still setting this GPU up: CUDA cannot use it yet."
        yield _not_ready(Severity.DEGRADED, sentence, "fabric.state", state)
    elif state == FabricState.COMPLETED and fabric.status is not None and fabric.status.lower() != "success":
        sentence = f"The fabric manager could not set this GPU up: {fabric.status}."
        yield _not_ready(Severity.UNHEALTHY, sentence, "fabric.status", fabric.status, wanted="success")
    ill, poor = (Code.FABRIC_UNHEALTHY, Severity.UNHEALTHY), (Code.FABRIC_DEGRADED, Severity.DEGRADED)
    said = (
        (fabric.health == "unhealthy", ill, "health", "healthy", "The fabric says that it is unhealthy."),
        (fabric.health == "limited_capacity", poor, "health", "healthy", "The fabric has limited capacity."),
        (fabric.degraded_bandwidth, poor, "degraded_bandwidth", False, "The fabric's bandwidth is degraded."),
        (fabric.route_unhealthy, ill, "route_unhealthy", False, "A route through the fabric is unhealthy."),
        (fabric.route_recovery, poor, "route_recovery", False, "Routes through the fabric are recovered."),
        (
            fabric.access_timeout_recovery,
            poor,
            "access_timeout_recovery",
            False,
            "The fabric recovers from an access that timed out.",
        ),
    )
    for holds, (code, severity), name, wanted, sentence in said:
        if holds:
            value = fabric.health if name == "health" else True
            yield Reason(code, severity, sentence, f"fabric.{name}", value, wanted)
    if fabric.incorrect_configuration not in (None, "none"):
        sentence = f"The fabric is configured wrongly: {fabric.incorrect_configuration}."
        yield Reason(*ill, sentence, "fabric.incorrect_configuration", fabric.incorrect_configuration, "none")


def _down(look: Look, up: int, down: tuple[int, ...]) -> Reason:
    which = f"NVLink {down[0]} is" if len(down) == 1 else f"NVLinks {_numbers(down)} are"
    in_fabric = look.health.fabric.state not in (None, FabricState.NOT_SUPPORTED)
    expected = up + len(down) if in_fabric else look.links_expected
    if expected is not None and up < expected:
        source = Source.DRIVER if in_fabric else Source.JUDGEMENT
        why = "a GPU of a fabric has all its links" if in_fabric else f"{expected} were up before"
        severity = Severity.DEGRADED if up else Severity.UNHEALTHY
        sentence = f"{which} down: {up} of {expected} are up, and {why}."
        return Reason(Code.NVLINK_DOWN, severity, sentence, "nvlink.links_up", up, expected, source)
    sentence = f"{which} down, which is normal where the board does not wire them."
    return Reason(
        Code.NVLINK_DOWN, Severity.NOTE, sentence, "nvlink.links_up", up, expected, Source.JUDGEMENT
    )


def _erring(look: Look) -> Iterator[Reason]:
    earlier, now = look.earlier, look.health.nvlink
    if earlier is None:
        return
    past = earlier.health.nvlink
    # Each look may show counters that were read a while before it.
    seconds = max(earlier.seconds_ago + (past.errors_age_s or 0.0) - (now.errors_age_s or 0.0), 1.0)
    for name, before, count, what, allowed in (
        (
            "recovery_errors",
            past.recovery_errors,
            now.recovery_errors,
            "times an NVLink was trained again",
            0,
        ),
        ("replay_errors", past.replay_errors, now.replay_errors, "NVLink packets were sent again", 0),
        (
            "crc_errors",
            past.crc_errors,
            now.crc_errors,
            "NVLink packets arrived damaged",
            round(CRC_ERRORS_PER_SECOND * seconds),
        ),
    ):
        grown = look.growth(before, count)
        if grown is not None and grown > allowed:
            yield Reason(
                Code.NVLINK_ERRORS,
                Severity.DEGRADED,
                f"{grown} {what} in the last {seconds:.0f} s.",
                f"nvlink.{name}",
                grown,
                allowed,
                Source.NVIDIA,
                DCGM_HEALTH,
            )


def _not_ready(
    severity: Severity, sentence: str, reading: str, value: str, *, wanted: str = FabricState.COMPLETED.value
) -> Reason:
    return Reason(
        Code.FABRIC_NOT_READY, severity, sentence, reading, value, wanted, Source.NVIDIA, FABRIC_GUIDE
    )


def _is_busy(look: Look) -> bool:
    reasons = look.health.clock_events.reasons
    busy = reasons is not None and ClockReason.GPU_IDLE not in reasons
    return busy and look.health.clocks.performance_state == 0


def _numbers(links: tuple[int, ...]) -> str:
    return ", ".join(map(str, links))
