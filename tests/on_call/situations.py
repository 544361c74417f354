"""The situations: what happened on the node, what is asked, and how good the answer is.

`says` and `never_says` hold the judgement to the text: what a person on call has to read in it, and what
would mislead them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.on_call.scene import BY_A_PROCESS, GPUS, Scene

GPU, LAST_GPU = GPUS[3], GPUS[6]
TRAINING = "pid=4711, name=python3"
NOBODY = "pid='<unknown>', name=<unknown>"
FAULT = (
    "channel 0x0000000a, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_8 faulted @ "
    "0x7f3a_57e00000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE"
)
DBE = (
    f"{TRAINING}, An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at "
    "partition 4, subpartition 0."
)
FELL_OFF = f"{NOBODY}, GPU has fallen off the bus."
SILENT = (
    f"{TRAINING}, Timeout after 45s of waiting for RPC response from GPU3 GSP! Expected function 76 "
    "(GSP_RM_CONTROL) (0xa06f0112 0x1)."
)
SILENT_AGAIN = (
    f"{TRAINING}, Timeout after 6s of waiting for RPC response from GPU3 GSP! Expected function 10 (FREE) "
    "(0xa55a0210 0x0)."
)
ACTIONS = {
    "none": "0x0 (None)",
    "reset": "0x1 (GPU Reset Required)",
    "reboot": "0x2 (Node Reboot Required)",
    "drain": "0x4 (Drain and Reset)",
}
"""Recovery actions as a 154 prints them."""
EARLIER_BOOT = "0b007000-0000-4000-8000-000000000001"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the kernel log."""

    at_s: float
    """Seconds of kernel time since the first line."""
    text: str
    by_a_process: bool = False
    lost_before: int = 0
    """Records before it that were overwritten before anyone read them."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One of them."""

    title: str
    story: str
    """What happened, in a sentence or two."""
    judgement: str
    """Whether the answer is true and of use, and what it lacks."""
    lines: Sequence[Line] = ()
    """Printed while the daemon listens."""
    past: Sequence[Line] = ()
    """Heard by an earlier daemon."""
    ago_s: float = 0.0
    """Seconds since the first of `past`."""
    rebooted: bool = False
    """The node was rebooted after `past`."""
    counts: Mapping[int, int] = field(default_factory=dict)
    """How often each code is to be counted, so that the answer can be asked for."""
    members: int = 0
    """Events that belong to incidents."""
    ignored: int = 0
    """Lines that are not believed."""
    questions: Sequence[Mapping[str, str]] = ({},)
    """Arguments of analyze_xid_errors; the answer to each is told."""
    allow_drills: bool = False
    readable: bool = True
    says: Sequence[str] = ()
    """In the first answer."""
    never_says: Sequence[str] = ()

    def play(self, scene: Scene) -> None:
        """Let it happen, and wait until the daemon has told all of it."""
        if self.past:
            lines = [(line.at_s, line.text) for line in self.past]
            boot_id = EARLIER_BOOT if self.rebooted else None
            quiet_s = 60.0 if self.rebooted else 3600.0
            scene.remember(self.ago_s, lines, quiet_s=quiet_s, boot_id=boot_id)
        scene.start()
        for line in self.lines:
            priority = BY_A_PROCESS if line.by_a_process else 4
            scene.say(line.at_s, line.text, priority=priority, lost_before=line.lost_before)
        scene.wait_until_told(self.counts, members=self.members, ignored=self.ignored)


def _xid(at_s: float, code: int, rest: str, gpu: str = GPU) -> Line:
    return Line(at_s, f"NVRM: Xid (PCI:{gpu}): {code}, {rest}")


def _advice(at_s: float, before: str, now: str) -> Line:
    return _xid(at_s, 154, f"GPU recovery action changed from {ACTIONS[before]} to {ACTIONS[now]}")


def _lost(at_s: float, gpu: str = GPU) -> Iterator[Line]:
    yield _xid(at_s, 79, FELL_OFF, gpu)
    yield Line(at_s + 0.0001, f"NVRM: GPU {gpu}.0: GPU has fallen off the bus.")


def _storm() -> Iterator[Line]:
    for number in range(10_000):
        yield _xid(50 + number * 0.05, 31, f"pid={10_000 + number // 20}, name=worker, {FAULT}")
        if number == 5_000:
            yield from _lost(50 + number * 0.05 + 0.01, LAST_GPU)


LOST_FORGED_DRILLED = (
    Line(50, _xid(0, 48, DBE).text, lost_before=2310),
    Line(60, _xid(0, 79, "GPU has fallen off the bus.", GPUS[0]).text, by_a_process=True),
    Line(61, f"xidwatch-drill: xid (PCI:{GPUS[1]}): 79, pid=1, name=drill, drill", by_a_process=True),
)

SITUATIONS = (
    Situation(
        "A quiet node",
        "The kernel log is readable; the driver has named its eight GPUs and said nothing more.",
        "True, and worth something because it names the time and the probe. It says nothing of faults that "
        "the driver does not print; there is no reading of the GPUs in it.",
        questions=({}, {"since": "24h"}),
        says=("No errors of severity warning or worse", "heard by kmsg."),
        never_says=("Cannot say",),
    ),
    Situation(
        "A node whose kernel log cannot be read",
        "The daemon runs without the right to read the log.",
        "Cannot be taken for the quiet node: the first words are that nothing can be said, then why, and "
        "what to change.",
        readable=False,
        says=("Cannot say whether test-node has errors", "do not let user", "chmod"),
        never_says=("No errors", "No open incident"),
    ),
    Situation(
        "One program's own errors",
        "A training script reads beyond its memory (31); half a minute later another program's kernel does "
        "(13) and loses its channel (43).",
        "True: the first line acquits the hardware, both programs are named with their pids, and nobody is "
        "sent to drain a node. That each is its own fault is seen from the pids.",
        lines=(
            _xid(50, 31, f"{TRAINING}, {FAULT}"),
            _xid(80, 13, "Graphics SM Warp Exception on (GPC 1, TPC 4, SM 0): Out Of Range Address"),
            _xid(80.001, 13, "Graphics SM Global Exception on (GPC 1, TPC 4, SM 0): Multiple Warp Errors"),
            _xid(
                80.002,
                13,
                "Graphics Exception: ESR 0x519730=0x200000e 0x519734=0x24 0x519728=0x1f81fb60 "
                "0x51972c=0x1174",
            ),
            _xid(80.003, 43, "pid=4788, name=train.py, channel 0x0000000a"),
        ),
        counts={31: 1, 13: 1, 43: 1},
        members=2,
        says=("all of it is blamed on applications", 'pid 4711 named "python3"', 'pid 4788 named "train.py"'),
        never_says=("Blame: hardware", "reset_gpu", "reboot"),
    ),
    Situation(
        "A GPU falls off the bus in the midst of a job",
        "79 with its second line, the driver's advice (154: reboot), and the job's channels taken down (45).",
        "True: one incident, the loss is the cause, the 45s are not, and the job that was hit is named. "
        "Which of eight boards it is has to be looked up by its PCI address; what the driver advised (154) "
        "has to be read off the action.",
        lines=(
            *_lost(50),
            _advice(50.3, "none", "reboot"),
            *(_xid(51 + n / 10, 45, f"{TRAINING}, Ch {n:08x}") for n in range(4)),
        ),
        counts={79: 1, 154: 1, 45: 4},
        members=3,
        says=("1 open incident", "the worst is fatal", "Xid 79", "Action: reboot_node", GPU),
        never_says=("Blame: application", "single fault"),
    ),
    Situation(
        "An uncorrectable memory error that was contained",
        "48, the row is marked for remapping (63), the error is contained (94), the job's channel goes (45).",
        "True: the numbers that follow are put in words, and draining comes before the reset, as the job of "
        "nobody else was hit.",
        lines=(
            _xid(50, 48, DBE),
            _xid(
                50.01,
                63,
                f"{NOBODY}, Row Remapper: New row (0x00000012bac1c3e0) marked for remapping, reset gpu to "
                "activate.",
            ),
            _xid(50.02, 94, f"{NOBODY}, Contained: SM (0x1). RST: No, D-RST: No"),
            _xid(50.1, 45, f"{TRAINING}, Ch 00000008"),
        ),
        counts={48: 1, 63: 1, 94: 1, 45: 1},
        members=4,
        says=("1 open incident", "Xid 48", "Blame: hardware", "drain_and_reset", "contained"),
        never_says=("restart_app",),
    ),
    Situation(
        "An uncorrectable memory error whose row could not be remapped",
        "48, remapping fails (64), the error is not contained (95), the job's channel goes (45).",
        "True: worse than the one before and said to be so. That the board has to be replaced is told as a "
        "condition, because 64 is also printed when only the record of a remapping failed.",
        lines=(
            _xid(50, 48, DBE),
            _xid(50.01, 64, "Row remapping failure"),
            _xid(50.02, 95, f"{TRAINING}, Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No"),
            _xid(50.1, 45, f"{TRAINING}, Ch 00000008"),
        ),
        counts={48: 1, 64: 1, 95: 1, 45: 1},
        members=4,
        says=("1 open incident", "the worst is fatal", "Blame: hardware", "replaced"),
        never_says=("restart_app",),
    ),
    Situation(
        "A link fails: both GPUs and the switch report it",
        "149 on one GPU, 20034 on the NVSwitch, 145 and 74 on the GPU at the other end, then the driver's "
        "advice (154) and the job's channel (45).",
        "True: one incident with three devices instead of six faults, blamed on the fabric, and the GPU to "
        "drain is named. Which end is broken nobody can say from these lines, and it does not; whether the "
        "GPU at the other end needs a reset too it leaves open.",
        lines=(
            _xid(
                50,
                149,
                "NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 0x00000000 0x00000000 "
                "0x00000000 0x00000000)",
            ),
            *(
                Line(50.001 + n / 1e5, f"nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, {rest}")
                for n, rest in enumerate(
                    (
                        "Fatal, Link 30 LTSSM Fault Up (First)",
                        "Severity 1 Engine instance 30 Sub-engine instance 00",
                        "Data {0x50610002, 0x10100030}",
                    )
                )
            ),
            _xid(
                50.01,
                145,
                "RLW_RXPIPE Nonfatal XC0 i0 Link 01 (0x00000006 0x00000001 0x00000000 0x00000000 "
                "0x00000000 0x00000000)",
                GPUS[4],
            ),
            _xid(
                50.02,
                74,
                f"{NOBODY}, NVLink: fatal error detected on link 1(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
                GPUS[4],
            ),
            _advice(50.3, "none", "drain"),
            _xid(51, 45, f"{TRAINING}, Ch 00000001 caused by previous Xid 149"),
        ),
        counts={149: 1, 20034: 1, 145: 1, 74: 1, 154: 1, 45: 1},
        members=6,
        says=("1 open incident", "Blame: fabric", "3 devices", "drain_and_reset"),
        never_says=("single fault",),
    ),
    Situation(
        "The firmware of a GPU stops answering",
        "119 twice (45 s, then 6 s), the firmware's own report (120), the driver asks for a reset (154).",
        "True: one incident, a reset of one GPU and not of the node, and the warning that matters most: no "
        "nvidia-smi before the reset.",
        lines=(
            _xid(50, 119, SILENT),
            _xid(56, 119, SILENT_AGAIN),
            _xid(62, 120, "GSP task exception: load access page fault (cause:0xd) @ pc:0x1234, task:1"),
            _advice(62.1, "none", "reset"),
        ),
        counts={119: 2, 120: 1, 154: 1},
        members=4,
        says=("1 open incident", "Xid 119", "Action: reset_gpu", "nvidia-smi"),
        never_says=("Blame: application", "reboot_node"),
    ),
    Situation(
        "The same code on all eight GPUs within seconds",
        "31 and 43 on every GPU, each of another process of one job.",
        "True: one incident of the node instead of eight, blamed on the application, with the question to "
        "ask: what do they share. It cannot say itself that it was one job.",
        lines=tuple(
            line
            for n, gpu in enumerate(GPUS)
            for line in (
                _xid(50 + n / 5, 31, f"pid={5000 + n}, name=python3, {FAULT}", gpu),
                _xid(50.1 + n / 5, 43, f"pid={5000 + n}, name=python3, channel 0x0000000a", gpu),
            )
        ),
        counts={31: 8, 43: 8},
        members=16,
        says=("1 open incident", "8 of 8 GPUs", "Look for what these GPUs share"),
        never_says=("Blame: hardware", "single fault"),
    ),
    Situation(
        "A storm, and one fault that matters in its midst",
        "10,000 lines of 31 from one pod in a crash loop (500 processes in eight minutes); after the first "
        "half, another GPU falls off the bus.",
        "True: the lost GPU comes first, the storm is one paragraph that blames its program, and every one "
        "of its lines is counted. The number of processes is that of the ones remembered, not of all.",
        lines=tuple(_storm()),
        counts={31: 10_000, 79: 1},
        members=501,
        says=("2 open incidents", "Xid 31: 10000 times", "Blame: application", "reboot_node"),
        never_says=("Only the newest",),
    ),
    Situation(
        "Records were lost; a line was forged; someone drills",
        "The log overran (2,310 records) just before a memory error. Then a process wrote a line as the "
        "driver would, and someone ran a drill. Drills are allowed.",
        "True: the fault stands, what was not heard is said, and neither line of a process is a fault. Where "
        "drills are allowed a forged line cannot be told from an exact drill.",
        lines=LOST_FORGED_DRILLED,
        counts={48: 1, 79: 2},
        members=3,
        allow_drills=True,
        says=("1 open incident", "2310 kernel records were lost", "Left out: 2 kinds of drill"),
        never_says=("Xid 79",),
    ),
    Situation(
        "The same where drills are not allowed",
        "As above, without --allow-drills.",
        "True: whoever ran the drill learns why nothing came of it, and whoever forged a line is noticed.",
        lines=LOST_FORGED_DRILLED,
        counts={48: 1},
        members=1,
        ignored=2,
        says=("1 open incident", "2310 kernel records were lost", "Not believed: 2 lines"),
        never_says=("Xid 79",),
    ),
    Situation(
        "An error of yesterday, recovered, and quiet since",
        "119 twenty hours ago; the driver asked for a reset, a quarter of an hour later for nothing more.",
        "True: nothing is open, and what was is one line. Asked for the last hour only, it is not brought up "
        "again.",
        past=(_xid(50, 119, SILENT), _advice(50.1, "none", "reset"), _advice(900, "reset", "none")),
        ago_s=20 * 3600.0,
        counts={119: 1, 154: 2},
        members=3,
        questions=({}, {"since": "1h"}),
        says=("No open incident", "1 incident", "recovered"),
        never_says=("OPEN", "Action: reset_gpu"),
    ),
    Situation(
        "A fault in the boot before, and the node was rebooted",
        "79 and the driver's advice to reboot three hours ago; the daemon has just come up in a new boot.",
        "True: it does not ask for a second reboot, and does not call it cured before ten minutes of quiet. "
        "Whether the GPU came back at all it cannot say: count them (nvidia-smi -L).",
        past=(*_lost(50), _advice(50.3, "none", "reboot")),
        ago_s=3 * 3600.0,
        rebooted=True,
        counts={79: 1, 154: 1},
        members=2,
        says=("the node was rebooted since", "Action: ignore", "10 minutes"),
        never_says=("Action: reboot_node",),
    ),
)
