"""Processes that are not to be ended: the system's first one, this program's own, the display server.

A display server is known by its command name, which a process chooses itself: the check keeps a
person from an accident, not a program from a lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from daemon.gpu.process import PROC

DISPLAY_SERVERS: Final = frozenset(
    {
        "x",
        "xorg",
        "xorg.bin",
        "xwayland",
        "gnome-shell",
        "kwin_x11",
        "kwin_wayland",
        "plasmashell",
        "mutter",
        "muffin",
        "cinnamon",
        "budgie-wm",
        "gala",
        "xfwm4",
        "compiz",
        "sway",
        "hyprland",
        "weston",
        "wayfire",
        "labwc",
        "niri",
        "cosmic-comp",
        "mir",
        "gdm-x-session",
        "gdm-wayland-ses",
        "sddm",
        "lightdm",
    }
)
"""Command names in lower case, as the kernel cuts them: at most 15 bytes."""

_MOST_ANCESTORS = 1_000


def is_display_server(name: str | None) -> bool:
    """True for the command name of an X server, a Wayland compositor or what keeps them running."""
    return name is not None and name.lower() in DISPLAY_SERVERS


def why_protected(pid: int, proc: Path = PROC, *, own_pid: int | None = None) -> str | None:
    """Why the process must never be ended, a clause; None when it may. `own_pid` is this program's.

    `proc` has to show the pid namespace that `pid` is of. Raises OSError or ValueError when the
    parents of either cannot be told.
    """
    own = own_pid if own_pid is not None else os.getpid()
    if pid == 1:
        return "it is the first process of the system, whose end takes everything with it"
    if pid == own:
        return "it is xidwatch itself"
    if pid in _ancestors(own, proc):
        return "it is a parent of xidwatch"
    if own in _ancestors(pid, proc):
        return "it is a worker of xidwatch"
    return None


def _ancestors(pid: int, proc: Path) -> Iterator[int]:
    for _ in range(_MOST_ANCESTORS):
        stat = (proc / str(pid) / "stat").read_bytes()
        # Fields of proc_pid_stat(5) after the command name, which may hold anything.
        pid = int(stat.rpartition(b")")[2].split()[1])
        if pid == 0:
            return
        yield pid
