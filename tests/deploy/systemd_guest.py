"""Tries the service inside the machine that `systemd_machine.py` boots: the only program of its kind there.

Runs as root under systemd and tells what it saw as JSON lines, one a trial, on the second serial line.
Standard library only, and nothing of this project is imported: it is a user of the installed service.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

UNIT = "xidwatch.service"
DEADLINE_S = 400.0
CONFIG = Path("/etc/xidwatch/config.toml")
SOCKET = Path("/run/xidwatch/mcp.sock")
_STATUS_KEYS = ("Uid", "CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")


def run(*command: str) -> dict[str, Any]:
    """What a command says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"rc": done.returncode, "out": done.stdout, "err": done.stderr}


def shown(name: str) -> str:
    """A property of the unit."""
    return str(run("systemctl", "show", "--value", "-p", name, UNIT)["out"]).strip()


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """Wait until it is true; the seconds that took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > DEADLINE_S:
            log = run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT)["out"]
            raise AssertionError(f"waited in vain for {what}\n{log[-3000:]}")
        time.sleep(0.1)
    return time.monotonic() - began


def is_active() -> bool:
    """True between its READY=1 and its end."""
    return shown("ActiveState") == "active"


def mode_of(path: Path) -> str:
    """`xidwatch xidwatch 660`, also of a socket."""
    found = path.stat()
    return f"{path.owner()} {path.group()} {stat.S_IMODE(found.st_mode):o}"


def drill(code: int) -> None:
    """A test line with this code, of another device each."""
    done = run("xidwatch", "drill", str(code), "--pci", f"0000:{code:02x}:00.0")
    assert done["rc"] == 0, done


def events() -> list[dict[str, Any]]:
    """Every drill that the daemon keeps, as it tells it."""
    said = run("xidwatch", "tail", "--json", "--since", "0", "--kind", "xid")
    assert said["rc"] == 0, said
    return [json.loads(line) for line in said["out"].splitlines()]


def wait_for_codes(codes: Sequence[int]) -> list[dict[str, Any]]:
    """The events once these codes are among them."""
    wait_for(lambda: set(codes) <= {event["code"] for event in events()}, f"Xids {codes}")
    return [{key: event[key] for key in ("cursor", "id", "code", "drill", "witnesses")} for event in events()]


def up() -> dict[str, Any]:
    """What runs after the boot, and with which rights."""
    wait_for(is_active, "the service to be active")
    pid = shown("MainPID")
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    micros = {
        name: int(shown(name))
        for name in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    }
    return {
        "boot_s": micros["ActiveEnterTimestampMonotonic"] / 1e6,
        "start_s": (micros["ActiveEnterTimestampMonotonic"] - micros["ExecMainStartTimestampMonotonic"])
        / 1e6,
        "failed_units": run("systemctl", "--failed", "--no-legend")["out"],
        "verify": run("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}"),
        "status_text": shown("StatusText"),
        "watchdog_us": shown("WatchdogUSec"),
        "process": {key: status[key].split()[0] for key in _STATUS_KEYS},
        "user": Path(f"/proc/{pid}").owner(),
        "oom_score_adj": Path(f"/proc/{pid}/oom_score_adj").read_text().strip(),
        "modes": {str(path): mode_of(path) for path in (SOCKET, SOCKET.parent, Path("/var/lib/xidwatch"))},
        "memory_bytes": int(shown("MemoryCurrent")),
        "daemon": json.loads(run("xidwatch", "status", "--json")["out"]),
    }


def devices() -> dict[str, Any]:
    """What a process of the service may open. Without a driver, one that it may open is ENXIO."""
    for name, major, minor in (("nvidia0", 195, 0), ("nvidiactl", 195, 255), ("nvidia-uvm", 238, 0)):
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    readable = {f"{name} r": os.O_RDONLY for name in ("kmsg", "mem", "nvidia0", "nvidiactl", "nvidia-uvm")}
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        Path(f"/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs").write_text(str(os.getpid()))
        found = {what: attempt(what, flags) for what, flags in (readable | {"kmsg w": os.O_WRONLY}).items()}
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return {"opened": json.loads(os.read(reading, 4096))}


def attempt(what: str, flags: int) -> str:
    """What becomes of opening the device before the last word."""
    try:
        os.close(os.open(f"/dev/{what[:-2]}", flags))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "opened"


def heard() -> dict[str, Any]:
    """A test line reaches a client."""
    drill(13)
    return {"events": wait_for_codes([13])}


def asked_by_others() -> dict[str, Any]:
    """A member of the group may ask, a stranger may not."""
    for name, groups in (("member", ["--groups", "xidwatch"]), ("stranger", [])):
        assert run("useradd", *groups, name)["rc"] == 0
    return {name: run("runuser", "-u", name, "--", "xidwatch", "status") for name in ("member", "stranger")}


def stopped() -> dict[str, Any]:
    """The whole process is stopped: the watchdog ends it, and the next tells what was printed meanwhile."""
    before, pid = events(), shown("MainPID")
    os.kill(int(pid), signal.SIGSTOP)
    began = time.monotonic()
    for code in (31, 48, 63):
        drill(code)
    wait_for(lambda: shown("MainPID") != pid, "the watchdog to end it")
    killed_after_s = time.monotonic() - began
    wait_for(is_active, "the restart")
    serves_after_s = time.monotonic() - began
    return {
        "before": [event["id"] for event in before],
        "events": wait_for_codes([31, 48, 63]),
        "restarts": int(shown("NRestarts")),
        "killed_after_s": killed_after_s,
        "serves_after_s": serves_after_s,
        "log": run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT)["out"],
    }


def restarted() -> dict[str, Any]:
    """A restart asked for keeps the directory of the socket, which containers may have mounted."""
    before = SOCKET.parent.stat().st_ino
    done = run("systemctl", "restart", UNIT)
    return {
        "rc": done["rc"],
        "same_directory": SOCKET.parent.stat().st_ino == before,
        "events": wait_for_codes([13]),
    }


def misconfigured() -> dict[str, Any]:
    """A setting that is none keeps it from starting, with the reason; once mended it comes by itself."""
    good = CONFIG.read_text()
    CONFIG.write_text(f"{good}\nlissten = 1\n")
    failed = run("systemctl", "restart", UNIT)
    wait_for(lambda: int(shown("NRestarts")) >= 2, "further attempts")
    log = run("journalctl", "--no-pager", "-o", "cat", "-n", "40", "-u", UNIT)["out"]
    CONFIG.write_text(good)
    return {"rc": failed["rc"], "log": log, "back_after_s": wait_for(is_active, "it to come back")}


def ended() -> dict[str, Any]:
    """It ends as asked, without having to be killed."""
    began = time.monotonic()
    run("systemctl", "stop", UNIT)
    return {
        "seconds": time.monotonic() - began,
        "result": shown("Result"),
        "state": shown("ActiveState"),
        "run_directory_gone": not SOCKET.parent.exists(),
        "kept": len(events()),
    }


TRIALS: tuple[Callable[[], dict[str, Any]], ...] = (
    up,
    devices,
    heard,
    asked_by_others,
    stopped,
    restarted,
    misconfigured,
    ended,
)


def main() -> None:
    """Every trial, whatever became of those before."""
    Path("/proc/sys/kernel/printk_devkmsg").write_text("on\n")
    with Path("/dev/ttyS1").open("w", encoding="utf-8") as report:

        def tell(what: dict[str, Any]) -> None:
            report.write(json.dumps(what) + "\n")
            report.flush()

        for trial in TRIALS:
            try:
                tell({"trial": trial.__name__, **trial()})
            except Exception:
                tell({"trial": trial.__name__, "failed": traceback.format_exc()})
        tell({"trial": "end"})


if __name__ == "__main__":
    main()
