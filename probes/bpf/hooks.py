"""Where a program can hear every line of the kernel log; on which kernel it can.

* `printk:console`, a raw tracepoint that every kernel has. From 5.19 on it is called for each line as it
  is printed. Earlier it is called for what is written to a console: at console log level 4, which is
  `quiet`, never for an Xid.
* `fexit/printk_sprint`, the function that formats each line, from 5.13 on. It is told the facility too,
  so it knows who printed. It needs the kernel's BTF and a trampoline, which x86-64 has, and arm64 from
  Linux 6.0 on.
"""

from __future__ import annotations

from dataclasses import dataclass

from probes.bpf.release import CONSOLE_HEARS_ALL, older_than

XID_LEVEL = 4
"""KERN_WARNING: a console shows it only when its log level is higher."""
SPRINT = "printk_sprint"
SPRINT_PARAMETERS = ("text", "size", "facility", "flags", "fmt", "args")
"""As the program reads them, by their place (kernel/printk/printk.c, 5.13 to 6.18)."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A place to attach to."""

    name: str
    object_file: str
    """In this package."""
    section: str
    """Of the program in it."""
    facility: bool
    """It is told who printed a line."""


CONSOLE = Hook("printk:console", "xid.bpf.o", "raw_tp/console", facility=False)
PRINTK_SPRINT = Hook(f"fexit/{SPRINT}", "sprint.bpf.o", f"fexit/{SPRINT}", facility=True)


@dataclass(frozen=True, slots=True)
class Printing:
    """What decides where lines are heard; None where it could not be read."""

    release: str
    version: tuple[int, int] | None
    console_loglevel: int | None
    """Lines of a lower level are written to the console (first number of sysctl kernel.printk)."""
    sprint: int | None
    """Number of printk_sprint() in the kernel's BTF; None without it, or where it was not looked for."""

    @property
    def console_hears_all(self) -> bool:
        """`printk:console` is called for every line."""
        return not older_than(CONSOLE_HEARS_ALL, self.version)

    @property
    def console_hears_xids(self) -> bool:
        """`printk:console` is called for Xids, now."""
        return self.console_hears_all or (self.console_loglevel or 0) > XID_LEVEL

    @property
    def why_muted(self) -> str:
        """What is wrong with `printk:console` here: one sentence without its end."""
        return (
            f"kernel {self.release} calls printk:console only for lines that it writes to a console, "
            f"and at console log level {self.console_loglevel} it writes no Xids"
        )

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """Where to attach, best first; none where nothing would hear an Xid."""
        if self.console_hears_all:
            return (CONSOLE,)
        sprint = (PRINTK_SPRINT,) if self.sprint is not None else ()
        return (*sprint, CONSOLE) if self.console_hears_xids else sprint

    def choice(self, hook: str) -> str | None:
        """Why a program of ours sits at this hook; None for a hook that someone else chose."""
        if hook == PRINTK_SPRINT.name:
            return (
                f"on kernel {self.release} printk:console is called only for lines written to a console, "
                "this function for each line, and it is told who printed it"
            )
        if hook != CONSOLE.name:
            return None
        if self.console_hears_all:
            return f"on kernel {self.release} it is called for each line as it is printed"
        return (
            f"on kernel {self.release} it hears Xids only while the console log level "
            f"(now {self.console_loglevel}) stays above {XID_LEVEL}"
        )
