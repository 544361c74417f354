r"""What stands before the message in a saved log: kmsg, dmesg or journal prefix.

Only `xidwatch decode` and replays need this; a live probe hands on the bare message. Nothing here
decides whether a line is a fault. Accepted:

* `/dev/kmsg`: `4,359,26994671,c,caller=T1;text`, escapes `\xNN`, dictionary lines behind the text;
* dmesg: `[ 12.345] `, `[Sat Oct 12 18:35:32 2024] `, an ISO time, a caller `[    T1] `, each also
  behind `<4>` (`--raw`) or `kern  :warn  : ` (`--decode`);
* the kernel's lines of a journal or syslog: time in any language, host, `kernel: `. Lines of other
  programs keep their prefix: a program that quotes an Xid in its own log reports nothing.
"""

from __future__ import annotations

import re

from probes import kmsg_record
from probes.line import Origin

MARKERS = ("NVRM: ", "nvidia-nvswitch", "xidwatch-drill: ")
"""How every message begins that the grammar knows."""

_RAW = re.compile(r"<([0-9]{1,6})>")
_DECODED = re.compile(
    r"(kern|user|mail|daemon|auth|syslog|lpr|news|uucp|cron|authpriv|ftp|local[0-7]) *: *"
    r"(?:emerg|alert|crit|err|warn|notice|info|debug) *: ?"
)
_STAMP = re.compile(
    r"(?:\[[^\]\n]{0,48}\]|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.,]{5,20}(?:Z|[+-][0-9:]{4,6})?) ?"
    r"(?:\[ *[CT][0-9]{1,10}\] ?)?"
)
_UPTIME = re.compile(r"\[ *[0-9]{1,12}\.[0-9]{1,9}\] ?")
_TIME = re.compile(r"[0-9]{1,2}:[0-9]{2}|\[?[0-9]{1,12}\.[0-9]{1,9}\]?\Z")
_ZONE = re.compile(r"[A-Z]{2,5}\Z|[+-][0-9]{2}(?::?[0-9]{2})?\Z")
_TAG = "kernel: "
_LONGEST_JOURNAL_HEAD = 200
_MOST_DATE_WORDS = 4


def strip_prefix(line: str) -> tuple[str, Origin]:
    """The message of a saved log line, and who printed it as far as the prefix says.

    A line without a known prefix comes back as it is. A journal prefix proves nothing: any user
    can call itself `kernel` there.
    """
    if line.startswith(MARKERS):
        return line, Origin.UNKNOWN
    if record := kmsg_record.parse(line.encode("utf-8", "surrogatepass")):
        return record.text, _origin(record.facility == 0)
    origin = Origin.UNKNOWN
    if match := _RAW.match(line):
        origin = _origin(int(match[1]) >> 3 == 0)
        line = line[match.end() :]
    elif match := _DECODED.match(line):
        origin = _origin(match[1] == "kern")
        line = line[match.end() :]
    message = _behind_journal_head(line)
    if message is not None:
        uptime = _UPTIME.match(message)
        return message[uptime.end() :] if uptime else message, origin
    stamp = _STAMP.match(line)
    return line[stamp.end() :] if stamp else line, origin


def _origin(from_kernel: bool) -> Origin:
    return Origin.KERNEL if from_kernel else Origin.USERSPACE


def _behind_journal_head(line: str) -> str | None:
    """What follows `kernel: ` when only a date, a time, a zone and a host stand before it."""
    at = line.find(_TAG, 0, _LONGEST_JOURNAL_HEAD)
    if at < 0:
        return None
    message = line[at + len(_TAG) :]
    if at == 0:
        return message
    words = line[:at].split(" ")
    if words.pop() != "":
        return None
    words = [word for word in words if word]
    time_at = next((i for i, word in enumerate(words[: _MOST_DATE_WORDS + 1]) if _TIME.search(word)), None)
    if time_at is None:
        return None
    behind = words[time_at + 1 :]
    if len(behind) > 1 and _ZONE.match(behind[0]):
        behind = behind[1:]
    is_host = len(behind) <= 1 and not any(word.endswith(":") for word in behind)
    return message if is_host else None
