"""The probes of `xidwatch serve`: which of them run here, and what they say of themselves.

/dev/kmsg is the ear that knows most; eBPF is a second one beside it, and the live one where /dev/kmsg is
closed; syslog(2) is the weaker source that takes its place only there. Another file named by `--kmsg`
stands in for the whole log: the other ears, which hear the real one, run beside it only when asked for. So
does the driver's own tracepoint: while it is attached, the driver cannot be unloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from daemon.config import Config, Ebpf, EbpfLoader, ProbeName
from daemon.intake import Intake
from daemon.origin_look import LookFor, OriginLook
from daemon.paths import path
from daemon.pipeline import Pipeline
from daemon.told_before import ToldBefore
from probes import klog, log_stamp
from probes.bpf import bcc, driver_loader, loaders, native
from probes.bpf.descriptors import Loader
from probes.bpf.driver_probe import DriverProbe
from probes.bpf.probe import NAME as BPF
from probes.bpf.probe import BpfProbe
from probes.errors import UserError
from probes.health import ProbeHealth
from probes.klog import KlogProbe
from probes.kmsg import NAME as KMSG
from probes.kmsg import KmsgProbe
from probes.line import Batch, KernelLine, LostRecords, ResumePoint

_KERNEL_LOG = path("/dev/kmsg")
_CLOCKS_EVERY_S = 10.0
"""How often the clocks are compared, while eBPF hears lines: NTP slews one of them by 5 ms in that time at
most."""
_FIRST_LOOK_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Which probes run."""

    kmsg: bool
    klog: bool
    """From the start on, whatever /dev/kmsg says."""
    klog_instead: bool
    """Where /dev/kmsg is refused."""
    bpf: bool
    driver: bool = False


def choose(config: Config) -> Choice:
    """Which probes the settings ask for. Raises UserError where they contradict each other."""
    named = config.probes
    if config.ebpf_program is not None and config.ebpf_loader is EbpfLoader.NATIVE:
        raise UserError(
            "the native loader loads no program but its own, and --ebpf-program names another",
            hint="leave out one of the two: the bcc loader compiles programs",
        )
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
    for name in (ProbeName.BPF, ProbeName.DRIVER):
        if name in named and config.ebpf is Ebpf.OFF:
            raise UserError(
                f"--probes names {name}, and --ebpf off forbids it", hint="leave out one of the two"
            )
    return Choice(
        kmsg=ProbeName.KMSG in named,
        klog=ProbeName.KLOG in named,
        klog_instead=False,
        bpf=ProbeName.BPF in named or config.ebpf is Ebpf.REQUIRED,
        driver=ProbeName.DRIVER in named,
    )


def loader_of(config: Config) -> Loader:
    """What brings the eBPF program into the kernel, by these settings."""
    program = config.ebpf_program
    if program is not None or config.ebpf_loader is EbpfLoader.BCC:
        return lambda: bcc.load(program)
    return native.load if config.ebpf_loader is EbpfLoader.NATIVE else loaders.automatic


class Ears:
    """The probes of one daemon. Belongs to the event loop's thread."""

    def __init__(
        self,
        config: Config,
        *,
        intake: Intake,
        pipeline: Pipeline,
        resume: ResumePoint | None,
        load: Loader | None = None,
        begun_us: int | None = None,
        before: ToldBefore | None = None,
        clocks: log_stamp.Measured | None = None,
        load_driver: Loader = driver_loader.load,
        look_for: LookFor = klog.look_for,
        offset_us: Callable[[], int | None] = log_stamp.offset_us,
        read_log: klog.ReadLog = klog.read_log,
    ) -> None:
        """`load` stands in for the loader that the settings name, `load_driver` for the one of the driver's
        tracepoint. `begun_us`: what `load` hands over hears already; this is how far the log went before.
        `before`: an earlier process, which may have heard what `load` hands over; None when none did.
        `clocks`: as they were compared when that was allowed.

        Raises UserError where the settings contradict each other.
        """
        self._config = config
        self._choice = choice = choose(config)
        self._intake = intake
        self._pipeline = pipeline
        self._read_log = read_log
        self._look_for = look_for
        self._offset_us = offset_us
        self._compared_s: float | None = None
        self._begun_us = begun_us
        self._before = before
        self._clocks = clocks
        self._log_brings: bool | None = None
        self._kmsg = (
            KmsgProbe(config.kmsg, self.take, resume=resume, on_change=self._changed) if choice.kmsg else None
        )
        load = load or loader_of(config)
        self._bpf = BpfProbe(self.take, on_change=self._changed, loader=load) if choice.bpf else None
        self.driver = (
            DriverProbe(self.take, on_change=self._changed, loader=load_driver) if choice.driver else None
        )
        """The driver's own tracepoint; None where it was not asked for."""
        self._klog: KlogProbe | None = None
        self._given_up: ProbeHealth | None = None
        self._look = OriginLook(
            self._worth_a_look, intake.looked, kmsg_hears=self._kmsg_hears, look_for=look_for
        )
        intake.read_first(self._read_kmsg_first)

    def start(self) -> None:
        """Begin to hear. Raises UserError when eBPF is required and cannot be, or a path is no kernel log."""
        if self._bpf is not None:
            if self._clocks is not None:
                self._pipeline.log_clock(self._clocks.offset_us, self._clocks.at_us)
            self._compare_clocks()
            self._note_how_far_the_log_goes()
            self._bpf.start()
        self._insist_on_ebpf()
        if self.driver is not None:
            self.driver.start()
        if self._kmsg is not None:
            self._kmsg.start()
        if self._choice.klog or (
            self._choice.klog_instead and not self._kmsg_hears() and self._log_is_open()
        ):
            self._start_klog()

    async def looked_once(self) -> None:
        """Wait until it is known whether syslog(2), where it is an ear, shows the log; for 2 s at most."""
        if self._klog is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._klog.looked(), _FIRST_LOOK_WITHIN_S)

    def close(self) -> None:
        """Stop hearing; nothing is delivered afterwards."""
        self._look.close()
        for probe in self._probes():
            probe.close()

    def health(self) -> Sequence[ProbeHealth]:
        """Each probe that runs or was asked for, as of now."""
        found = [self._given_up] if self._given_up is not None else []
        return [*found, *(probe.health() for probe in self._probes())]

    def _probes(self) -> Sequence[KmsgProbe | BpfProbe | DriverProbe | KlogProbe]:
        every = (self._kmsg, self._bpf, self.driver, self._klog)
        return [probe for probe in every if probe is not None]

    def take(self, batch: Batch) -> None:
        """The sink of every probe. Never raises."""
        if batch.probe == BPF:
            self._compare_clocks()
            batch = self._not_told_before(batch)
        self._intake.take(batch)
        if batch.probe == KMSG:
            self._say_how_far_kmsg_is()
        if batch.last_seq is not None:
            self._check_bpf(batch.last_seq)
        if batch.probe == BPF and self._kmsg is not None and self._pipeline.unconfirmed():
            self._kmsg.read_now()  # the record is there 2 ms before its readers are woken (Linux 6.18)
        self._look.consider()

    def _not_told_before(self, batch: Batch) -> Batch:
        """Without the lines that eBPF heard while the process before still held the state directory. The log
        is read on from where that one was, and brings what it has not told. Where no log is read, nobody
        knows whether it had told a line that it did not save: that is a gap."""
        before = self._before
        if before is None:
            return batch
        news = [each for each in batch.items if _printed_us(each) >= before.until_us]
        if len(news) == len(batch.items):
            return batch
        early = [each for each in batch.items if isinstance(each, KernelLine) and each not in news]
        unknown = 0 if self._log_brings_it() else sum(before.may_be_lost(line) for line in early)
        return replace(batch, items=[*([_gap(early[-1], unknown)] if unknown else []), *news])

    def _log_brings_it(self) -> bool:
        """Whether another ear reads on in the real log where the process before has stopped."""
        if self._log_brings is None:
            reads_kmsg = self._config.kmsg == _KERNEL_LOG and self._kmsg_hears()
            self._log_brings = reads_kmsg or (self._klog is not None and self._log_is_open())
        return self._log_brings

    def _compare_clocks(self) -> None:
        """Without that, the two stamps of a line are brought together by the order of lines."""
        now_s = time.monotonic()
        if self._compared_s is not None and now_s - self._compared_s < _CLOCKS_EVERY_S:
            return
        self._compared_s = now_s
        offset_us = self._offset_us()
        if offset_us is not None:
            self._pipeline.log_clock(offset_us, int(now_s * 1e6))

    def _say_how_far_kmsg_is(self) -> None:
        if self._bpf is not None:
            self._intake.reached(None if self._kmsg is None else self._kmsg.reached)

    def _read_kmsg_first(self) -> None:
        """Before a line goes out unconfirmed: it may be in the log by now."""
        if self._kmsg is not None and self._pipeline.unconfirmed():
            self._kmsg.read_now()
            self._say_how_far_kmsg_is()

    def _worth_a_look(self) -> Collection[str]:
        """Texts that a look at the log may confirm now. While /dev/kmsg reads what was there before eBPF
        heard, it would bring lines of one fault out of order."""
        if self._kmsg is not None and self._kmsg.reached is not None and not self._kmsg.caught_up:
            return ()
        return self._pipeline.unconfirmed()

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
        newest_us = self._begun_us
        if newest_us is None:
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
            self._say_how_far_kmsg_is()
        self._klog = KlogProbe(self.take, on_change=self._changed, read=self._read_log)
        self._klog.start()

    def _changed(self, health: ProbeHealth) -> None:
        others = [
            each.name for each in self.health() if each.name != health.name and each.live and each.hears
        ]
        self._intake.probe_changed(health, others)
        if health.name == KMSG:
            self._say_how_far_kmsg_is()


def _gap(line: KernelLine, count: int) -> LostRecords:
    """So many lines up to this one may not have been told."""
    return LostRecords(line.boot_id, None, None, count, line.arrival_us, line.wall_us, BPF)


def _printed_us(item: KernelLine | LostRecords) -> int:
    """When eBPF heard a line, or something was found to be lost."""
    if isinstance(item, KernelLine) and item.kernel_us is not None:
        return item.kernel_us
    return item.arrival_us
