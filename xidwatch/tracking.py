"""The process tracker of `xidwatch serve`: whether it runs here, and what it says of itself.

It is no ear of the kernel log, and costs next to nothing: it is on wherever eBPF may be used. Beside
another file that stands in for the log (`--kmsg`) it runs only when eBPF is required: the processes of that
log are seldom those of this node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from daemon.afterlife import Afterlife
from daemon.config import Config, Ebpf
from daemon.gpu.process import ProcessReader
from daemon.intake import Intake
from daemon.paths import path
from probes.bpf import tracker, tracker_load
from probes.health import Check, Verdict
from probes.kernel import Clock

_KERNEL_LOG = path("/dev/kmsg")


def why_off(config: Config) -> str | None:
    """Why the settings keep the tracker from running; None when they do not."""
    if config.ebpf is Ebpf.OFF:
        return "eBPF is off (--ebpf off)"
    if config.ebpf is Ebpf.AUTO and config.kmsg != _KERNEL_LOG:
        return f"{config.kmsg} stands in for the kernel log; --ebpf required runs it all the same"
    return None


def off(reason: str) -> Mapping[str, Any]:
    """The state of a tracker that nobody started."""
    return {"runs": False, "state": "off", "reason": reason, "hint": None, "blind_to": [], "counters": {}}


def check(config: Config) -> Check:
    """Whether it can run here, for the doctor."""
    reason = why_off(config)
    return tracker.check() if reason is None else Check(tracker.NAME, Verdict.OFF, reason)


class Tracking:
    """Belongs to the event loop's thread."""

    def __init__(
        self,
        config: Config,
        *,
        intake: Intake,
        processes: ProcessReader,
        clock: Clock,
        load: tracker.TrackerLoader | None = None,
    ) -> None:
        """`load` stands in for the tracker's own loader."""
        self._why_off = why_off(config)
        self._intake = intake
        self._afterlife = (
            None
            if self._why_off is not None
            else Afterlife(
                partial(tracker.ProcessTracker, loader=load or tracker_load.load),
                intake.found_out,
                clock=clock,
                start_of=start_of(processes),
            )
        )

    def start(self) -> None:
        """Hear how processes end, and which of them events name, from now on; before `Intake.start`."""
        if self._afterlife is not None:
            self._afterlife.start()
            self._intake.listen(self._afterlife.heard)

    def close(self) -> None:
        """Let the program go."""
        if self._afterlife is not None:
            self._afterlife.close()

    def status(self) -> Mapping[str, Any]:
        """Its state, for `xidwatch status`."""
        if self._afterlife is not None:
            return self._afterlife.status()
        return off(self._why_off or "off")


def start_of(processes: ProcessReader) -> Callable[[int], int | None] | None:
    """Tells when the process of a pid began; None where this program cannot look at the host's processes."""
    if not processes.has_host_pids:
        return None
    return lambda pid: processes.facts(pid).start_ticks
