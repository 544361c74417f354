"""Writes deploy/config.toml from the settings themselves: `python -m tests.deploy.config_toml`."""

from __future__ import annotations

import textwrap

from daemon import paths
from daemon.config import SETTINGS
from daemon.settings import Setting
from tests.support.daemon import ROOT

FILE = ROOT / "deploy" / "config.toml"
_WIDTH = 100
_HEAD = """\
# Settings of the daemon: /etc/xidwatch/config.toml.
#
# Each line shows a default: take its # away and change it. A setting called `quiet-gap` is also the flag
# --quiet-gap of `xidwatch serve` and the variable XIDWATCH_QUIET_GAP. A flag beats the variable, which beats
# this file. A key that is not a setting keeps the daemon from starting, and it says so.
#
# After a change: systemctl restart xidwatch
"""
_OF_THE_NODE = {
    "socket": (str(paths.SYSTEM_SOCKET), "xidwatch.service sets this"),
    "state-dir": (str(paths.SYSTEM_STATE_DIR), "xidwatch.service sets this"),
    "node-name": ("gpu-17", "default: the host's name"),
}
"""What a default that depends on user and host is here, and a word on it."""


def text() -> str:
    """The whole file."""
    return "\n".join([_HEAD, *map(_paragraph, SETTINGS)])


def line_of(setting: Setting) -> str:
    """The setting with its default, as it reads without its `#`."""
    shown, _ = _OF_THE_NODE.get(setting.name, (setting.shown_default, ""))
    bare = setting.metavar is None or (isinstance(setting.parse(shown), int) and shown.isdigit())
    return f"{setting.name} = {shown if bare else _quoted(shown)}"


def has_fixed_default(setting: Setting) -> bool:
    """False where the default depends on user and host."""
    return setting.name not in _OF_THE_NODE


def _paragraph(setting: Setting) -> str:
    sentence = setting.help if setting.help[1:2].isupper() else setting.help[:1].upper() + setting.help[1:]
    remark = _OF_THE_NODE.get(setting.name, ("", ""))[1]
    form = "true or false" if setting.metavar is None else setting.metavar.replace("|", ", ")
    said = f"{sentence}; {remark}. ({form})" if remark else f"{sentence}. ({form})"
    comment = textwrap.fill(said, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    return f"{comment}\n#{line_of(setting)}\n"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


if __name__ == "__main__":
    FILE.write_text(text())
