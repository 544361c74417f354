"""The probes of `xidwatch serve`: which of them run here, and what they say of themselves.

/dev/kmsg is the ear that knows most; eBPF is a second one beside it, and the live one where /dev/kmsg is
closed; syslog(2) is the weaker source that takes its place only there. Another file named by `--kmsg`
stands in for the whole log: the other ears, which hear the real one, run beside it only when asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.config import Config, Ebpf, EbpfLoader, ProbeName
from daemon.intake import Intake
from daemon.origin_look import LookFor, OriginLook
from daemon.paths import path
from daemon.pipeline import Pipeline
from probes import klog
from probes.bpf import native
from probes.bpf.descriptors import Loader
from probes.bpf.probe import NAME as BPF
from probes.bpf.probe import BpfProbe
from probes.errors import UserError
from probes.health import ProbeHealth
from probes.klog import KlogProbe
from probes.kmsg import KmsgProbe
from probes.line import Batch, ResumePoint

_KERNEL_LOG = path("/dev/kmsg")
NO_BCC = "the bcc loader is not part of this version"
USE_NATIVE = "use --ebpf-loader native: it needs nothing installed"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which probes run."""

    kmsg: bool
    klog: bool
    """From the start on, whatever /dev/kmsg says."""
    klog_instead: bool
    """Where /dev/kmsg is refused."""
    bpf: bool


def choose(config: Config) -> Choice:
    """Which probes the settings ask for. Raises UserError where they contradict each other."""
    named = config.probes
    if config.ebpf is Ebpf.REQUIRED and config.ebpf_loader is EbpfLoader.BCC:
        raise UserError(f"eBPF is required, and {NO_BCC}", hint=USE_NATIVE)
    if named is None:
        is_real = config.kmsg == _KERNEL_LOG
        wanted = config.ebpf is Ebpf.REQUIRED or (config.ebpf is Ebpf.AUTO and is_real)
        return Choice(kmsg=True, klog=False, klog_instead=is_real, bpf=wanted)
    if set(named) == {ProbeName.NVML}:
        raise UserError(
            "NVML's events are a second witness: they do not tell of every fault",
            hint="name a source of kernel messages too: --probes kmsg,nvml",
        )
    if not named & {ProbeName.KMSG, ProbeName.KLOG, ProbeName.BPF}:
        raise UserError(
            f"none of the probes asked for hears the kernel log: {', '.join(sorted(named))}",
            hint="leave out --probes, or name kmsg, bpf or klog",
        )
    if ProbeName.BPF in named and config.ebpf is Ebpf.OFF:
        raise UserError(
            "--probes names bpf, and --ebpf off forbids it",
            hint="leave out one of the two",
        )
    return Choice(
        kmsg=ProbeName.KMSG in named,
        klog=ProbeName.KLOG in named,
        klog_instead=False,
        bpf=ProbeName.BPF in named or config.ebpf is Ebpf.REQUIRED,
    )


class Ears:
    """The probes of one daemon. Belongs to the event loop's thread."""

    def __init__(
        self,
        config: Config,
        *,
        intake: Intake,
        pipeline: Pipeline,
        resume: ResumePoint | None,
        load: Loader = native.load,
        look_for: LookFor = klog.look_for,
        read_log: klog.ReadLog = klog.read_log,
    ) -> None:
        """Raises UserError where the settings contradict each other."""
        self._config = config
        self._choice = choice = choose(config)
        self._intake = intake
        self._pipeline = pipeline
        self._read_log = read_log
        self._look_for = look_for
        self._kmsg = (
            KmsgProbe(config.kmsg, self.take, resume=resume, on_change=self._changed) if choice.kmsg else None
        )
        self._has_loader = config.ebpf_loader is not EbpfLoader.BCC
        runs_bpf = choice.bpf and self._has_loader
        self._bpf = BpfProbe(self.take, on_change=self._changed, loader=load) if runs_bpf else None
        self._klog: KlogProbe | None = None
        self._given_up: ProbeHealth | None = None
        self._look = OriginLook(
            pipeline.unconfirmed, intake.looked, kmsg_hears=self._kmsg_hears, look_for=look_for
        )

    def start(self) -> None:
        """Begin to hear. Raises UserError when eBPF is required and cannot be, or a path is no kernel log."""
        if self._bpf is not None:
            self._note_how_far_the_log_goes()
            self._bpf.start()
        self._insist_on_ebpf()
        if self._kmsg is not None:
            self._kmsg.start()
        if self._choice.klog or (
            self._choice.klog_instead and not self._kmsg_hears() and self._log_is_open()
        ):
            self._start_klog()

    def close(self) -> None:
        """Stop hearing; nothing is delivered afterwards."""
        self._look.close()
        for probe in (self._kmsg, self._bpf, self._klog):
            if probe is not None:
                probe.close()

    def health(self) -> Sequence[ProbeHealth]:
        """Each probe that runs or was asked for, as of now."""
        found = [self._given_up] if self._given_up is not None else []
        found += [probe.health() for probe in (self._kmsg, self._bpf, self._klog) if probe is not None]
        if self._choice.bpf and not self._has_loader:
            found.append(ProbeHealth(BPF, hears=False, live=True, reason=NO_BCC, hint=USE_NATIVE))
        return found

    def take(self, batch: Batch) -> None:
        """The sink of every probe. Never raises."""
        self._intake.take(batch)
        if batch.last_seq is not None:
            self._check_bpf(batch.last_seq)
        if batch.probe == BPF and self._kmsg is not None and self._pipeline.unconfirmed():
            self._kmsg.read_now()  # the record is there 2 ms before its readers are woken (Linux 6.18)
        self._look.consider()

    def _check_bpf(self, seq: int) -> None:
        """Let eBPF know how far the real log goes."""
        is_real = self._config.kmsg == _KERNEL_LOG
        if self._bpf is not None and self._kmsg is not None and is_real and self._kmsg.caught_up:
            self._bpf.log_goes_on(seq)

    def _kmsg_hears(self) -> bool:
        return self._kmsg is not None and self._kmsg.health().hears

    def _insist_on_ebpf(self) -> None:
        why = self._bpf.unavailable if self._bpf is not None else None
        if why is not None and self._config.ebpf is Ebpf.REQUIRED:
            raise UserError(f"eBPF is required, and it cannot be: {why.reason}", hint=why.hint)

    def _note_how_far_the_log_goes(self) -> None:
        """What is in the log before eBPF hears cannot be what it hears."""
        with contextlib.suppress(OSError):  # without the right to look, only live lines are matched
            newest_us = self._look_for(()).newest_us
            if newest_us is not None:
                self._pipeline.begin_to_confirm(newest_us)

    def _log_is_open(self) -> bool:
        """Whether syslog(2) shows the log; where it does not, waiting for /dev/kmsg is all there is."""
        try:
            self._read_log()
        except OSError:
            return False
        return True

    def _start_klog(self) -> None:
        if self._kmsg is not None and not self._choice.klog:
            # From here on the log is read this way only: opened later, /dev/kmsg would tell all of it again.
            self._given_up = self._kmsg.health()
            self._kmsg.close()
            self._kmsg = None
        self._klog = KlogProbe(self.take, on_change=self._changed, read=self._read_log)
        self._klog.start()

    def _changed(self, health: ProbeHealth) -> None:
        others = [
            each.name for each in self.health() if each.name != health.name and each.live and each.hears
        ]
        self._intake.probe_changed(health, others)
