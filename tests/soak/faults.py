"""Writes the kernel log of a node on which much goes wrong, and keeps the model of it.

The log is a FIFO, so its records are of kernel origin, none is lost but those left out on purpose, and
nobody else writes to it. Times are those of this machine, as the kernel would stamp them.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

from tests.soak.written import Fault, Written
from tests.support import fake_nvml
from tests.support.kernel_log import FakeKernelLog

GPUS: Final = tuple(fake_nvml.pci(gpu) for gpu in range(8))
SWITCH: Final = "0000:05:00.0"
DRIVER: Final = "580.159.04"
NO_PROCESS: Final = 2**22
"""No process has this pid or a higher one, so nothing is found out about it."""
USER: Final = 12
"""Priority of a record that a program wrote: facility user, level warning."""
_LOADING: Final = f"NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  {DRIVER}  Release Build"
_NOISE: Final = (
    "usb 1-1: new high-speed USB device number {n} using xhci_hcd",
    'audit: type=1400 audit({n}.1:2): apparmor="STATUS"',
    "nvme nvme0: I/O {n} QID 7 timeout, completion polled",
    "TCP: request_sock_TCP: Possible SYN flooding on port {n}. Sending cookies.",
    "nvidia-modeset: Allocated GPU:{n}",
)
_APART_S: Final = 12.0
"""Between two losses of one GPU, and two loads of the driver: longer than any quiet gap."""
_TORN_S: Final = 0.05
"""Lines of one fault are complete after 100 ms without another one; half of it is left to the daemon."""
_ROUND_S: Final = 20.0
"""Quiet, steady, bursts: again and again."""


class Faults(threading.Thread):
    """Writes until it is told to stop; `written` is whole once the thread has ended."""

    def __init__(self, log: FakeKernelLog, seed: int, *, first_pid: int) -> None:
        super().__init__(name="faults", daemon=True)
        self.written = Written(first_seq=log.next_seq)
        self.pid = first_pid
        """The next process to have a fault."""
        self.failure: BaseException | None = None
        self._log = log
        self._chance = random.Random(seed)
        self._leave = threading.Event()
        self._last: dict[str, float] = {}
        self._scenes: tuple[tuple[int, Callable[[], None]], ...] = (
            (60, self.noise),
            (30, self.program_error),
            (12, self.memory_error),
            (10, self.repeats),
            (8, self.three_lines),
            (8, self.switch),
            (6, self.drill),
            (5, self.bad_record),
            (4, self.adapter),
            (3, self.loss),
            (3, self.gap),
            (2, self.reload),
        )

    def stop(self) -> Written:
        """Stop and give the model."""
        self._leave.set()
        self.join()
        if self.failure is not None:
            raise self.failure
        return self.written

    def run(self) -> None:
        """Quiet for a fifth of each round, then steady, then a burst; after some rounds a storm."""
        weights, scenes = zip(*self._scenes, strict=True)
        began = time.monotonic()
        storms = 0
        try:
            self.introduce()
            while not self._leave.is_set():
                at_s = time.monotonic() - began
                part = at_s % _ROUND_S / _ROUND_S
                if at_s // _ROUND_S > storms:
                    storms += 1
                    self._chance.choice((self.storm_of_one, self.storm_of_many))()
                pause_s = 0.5 if part < 0.2 else 0.08 if part < 0.85 else 0.01
                if part >= 0.2:
                    self._chance.choices(scenes, weights)[0]()
                self._leave.wait(pause_s * self._chance.uniform(0.5, 1.5))
        except BaseException as error:  # a thread's boundary: handed to whoever stops it
            self.failure = error

    # -- scenes ------------------------------------------------------------------------------------

    def introduce(self) -> None:
        """The driver names its GPUs."""
        for gpu, pci in enumerate(GPUS):
            self._write(f"NVRM: GPU at PCI:{pci[:-2]}: {fake_nvml.uuid(gpu)}")

    def noise(self) -> None:
        """Lines of other drivers."""
        for _ in range(self._chance.randrange(5, 60)):
            self._write(self._chance.choice(_NOISE).format(n=self._log.next_seq), priority=6)

    def program_error(self) -> None:
        """A program touched what is not its own."""
        self._xid(self._chance.choice((31, 32, 43, 45)), "Ch 00000008, intr 00000000. MMU Fault")

    def memory_error(self) -> None:
        """A GPU's memory failed."""
        self._xid(self._chance.choice((48, 63, 64, 92, 94, 95)), "DBE (double bit error)")

    def repeats(self) -> None:
        """The same fault of the same process, again and again."""
        self._xid(31, "Ch 00000008", times=self._chance.randrange(2, 40))

    def three_lines(self) -> None:
        """An Xid 13 comes as three lines, of which only the last names the process."""
        pci, pid = self._chance.choice(GPUS), self._next_pid()
        fault, began = Fault("13", pci, False), time.monotonic()
        for rest in (
            "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Misaligned Address",
            "Graphics Exception: ESR 0x519730=0x500000f 0x519734=0x0 0x519728=0x1f81fb60 0x51972c=0x1174",
            f"pid={pid}, name=fault, Graphics Exception: channel 0x0000000a, Class 0000cbc0, Data 0017e2ac",
        ):
            self._write(f"NVRM: Xid (PCI:{pci[:-2]}): 13, {rest}")
        self.written.fault(fault, pid=pid)
        if time.monotonic() - began > _TORN_S:
            self.written.torn[fault] += 1

    def switch(self) -> None:
        """An NVSwitch fault comes as three lines."""
        for rest in (
            "Fatal, Link 30 LTSSM Fault Up (First)",
            "Severity 1 Engine instance 30",
            "Data {0x00000001, 0x00000000}",
        ):
            self._write(f"nvidia-nvswitch0: SXid (PCI:{SWITCH}): 20034, {rest}")
        self.written.fault(Fault("20034", SWITCH, False))

    def drill(self) -> None:
        """A test line of `xidwatch drill`, which a program wrote."""
        pci, pid = self._chance.choice(GPUS), self._next_pid()
        text = f"xidwatch-drill: xid (PCI:{pci[:-2]}): 48, pid={pid}, name=xidwatch, drill"
        self._write(text, priority=USER)
        self.written.fault(Fault("48", pci, True), pid=pid)

    def bad_record(self) -> None:
        """A record that is none."""
        self._log.write_raw(
            self._chance.choice((b"\xff\xfe\x00garbage", b"4;no header\n", b"-1,-1,-1;\n", b"x"))
        )
        self.written.malformed += 1

    def adapter(self) -> None:
        """The driver cannot start a GPU."""
        pci = self._chance.choice(GPUS)
        self._write(f"NVRM: GPU {pci}: RmInitAdapter failed! (0x26:0x56:1474)")
        self.written.fault(Fault("RM_INIT_ADAPTER_FAILED", pci, False))

    def loss(self) -> None:
        """A GPU falls off the bus."""
        pci = self._chance.choice(GPUS)
        if self._is_apart(pci):
            self._xid(79, "GPU has fallen off the bus.", pci=pci)

    def reload(self) -> None:
        """The driver is loaded anew: what was lost is back."""
        if self._is_apart("driver"):
            self._write(_LOADING)
            self.written.fault(Fault("", "", False))

    def gap(self) -> None:
        """Records that nobody can read any more."""
        first = self._log.next_seq
        last = first + self._chance.randrange(1, 50)
        self._log.next_seq = last + 1
        self.written.lost.append((first, last))
        self.noise()

    def storm_of_one(self) -> None:
        """One process, hundreds of faults."""
        self._xid(31, "Ch 00000008", times=500)

    def storm_of_many(self) -> None:
        """Hundreds of processes with a fault each, on one GPU: most are told in one overflow event."""
        pci = self._chance.choice(GPUS)
        for _ in range(200):
            self._xid(31, "Ch 00000008", pci=pci)

    # -- lines -------------------------------------------------------------------------------------

    def one_fault(self) -> None:
        """A fault of one line, of which the model knows the record."""
        pid = self.pid
        # One GPU after the other, so that none has more than are told one by one.
        self.written.seqs[pid] = self._xid(43, "Ch 00000008", pci=GPUS[pid % len(GPUS)])

    def _xid(self, code: int, rest: str, *, pci: str | None = None, times: int = 1) -> int:
        pci, pid, seq = pci or self._chance.choice(GPUS), self._next_pid(), 0
        for _ in range(times):
            seq = self._write(f"NVRM: Xid (PCI:{pci[:-2]}): {code}, pid={pid}, name=python3, {rest}")
        self.written.fault(Fault(str(code), pci, False), pid=pid, times=times)
        return seq

    def _write(self, text: str, *, priority: int = 4) -> int:
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        seq = self._log.write(text, time_us=max(now_us, self._log.time_us + 1), priority=priority)
        self.written.records += 1
        return seq

    def _next_pid(self) -> int:
        self.pid += 1
        return self.pid - 1

    def _is_apart(self, what: str) -> bool:
        now = time.monotonic()
        if now - self._last.get(what, -_APART_S) < _APART_S:
            return False
        self._last[what] = now
        return True
