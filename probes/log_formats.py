r"""One line of a saved log: which format it is in, who printed it, when, and what it says.

`parse` looks at one line and nothing else, so that a file may mix formats; it never raises. Formats:

* `/dev/kmsg` records: `4,360,26994672,c;text`;
* dmesg: plain `[   12.345678] text`, `-T`, `-e`, `--time-format iso`, each also behind `kern  :warn  : `
  (`-x`), `<4>` (`-r`, klogctl, pstore) and with a caller `[    T1]`;
* the text forms of journalctl and syslog files: RFC 3164 with or without a year, RFC 5424, ISO times,
  weekday and zone, Unix time, monotonic time, with or without the kernel's own stamp behind `kernel: `;
* journalctl -o json: one object a line;
* a bare message that begins as the driver's do.

What a format proves about who printed a line: the facility of a kmsg record, of `dmesg -x`, and of the
journal's trusted fields (`_TRANSPORT`, `SYSLOG_FACILITY`). A `kernel: ` tag proves nothing, any user can
call itself so; neither does a priority below 8 in `<…>`, because util-linux (seen in 2.38.1) writes
`dmesg -r` with facility and level ORed into one digit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from probes import kmsg_record
from probes.line import Origin

MARKERS = ("NVRM: ", "nvidia-nvswitch", "xidwatch-drill: ")
"""How every message of the driver begins that anyone here can read."""


class Format(StrEnum):
    """How a line was written down; the value is what a person calls it."""

    KMSG = "kmsg record"
    DMESG = "dmesg"
    DMESG_CTIME = "dmesg -T"
    DMESG_ISO = "dmesg --time-format iso"
    DMESG_RELTIME = "dmesg -e"
    DMESG_JSON = "dmesg --json"
    PSTORE = "pstore dump"
    SYSLOG = "syslog or journalctl short"
    SYSLOG_ISO = "syslog or journalctl with ISO time"
    SYSLOG_5424 = "syslog RFC 5424"
    JOURNAL_FULL = "journalctl short-full"
    JOURNAL_UNIX = "journalctl short-unix"
    JOURNAL_MONOTONIC = "journalctl short-monotonic"
    JOURNAL_JSON = "journalctl json"
    JOURNAL_EXPORT = "journalctl export"
    BARE = "bare message"


class Clue(StrEnum):
    """A line that is no message but tells where the next ones come from."""

    NEW_BOOT = "new boot"
    """`-- Boot ID --` or `-- Reboot --` of journalctl."""
    NEW_PART = "new part"
    """First line of a pstore dump."""
    NEW_SECTION = "new section"
    """A rule of an nvidia-bug-report: the output of another command follows."""
    REMARK = "remark"
    """A remark of journalctl, such as `-- No entries --`."""


class LogLine(NamedTuple):
    """What one line of a file gives."""

    format: Format | None
    """None for a clue."""
    text: str | None
    """The kernel's message; None for a line of another program, of which only the time counts."""
    origin: Origin = Origin.UNKNOWN
    kernel_us: int | None = None
    """Kernel time in µs since boot; None when the line does not carry it."""
    stamp: str | int | None = None
    """The wall time as written; an int is already µs since the Unix epoch."""
    boot_id: str = ""
    """As in /proc; "" when the line does not say."""
    seq: int | None = None
    """kmsg sequence number."""
    clue: Clue | None = None
    priority: int | None = None
    """The number in `<…>` before a dmesg line; None without one."""
    host: str = ""
    """Host named before the kernel's message; "" when the line does not say."""
    width: int = 0
    """Columns that stood before the message: further lines of it are indented by as many."""


_FACILITIES = "kern|user|mail|daemon|auth|syslog|lpr|news|uucp|cron|authpriv|ftp|res[0-9]|local[0-7]"
_DECODED = re.compile(rf"({_FACILITIES}) *: *(?:emerg|alert|crit|err|warn|notice|info|debug) *: ?")
_PRIORITY = re.compile(r"<([0-9]{1,6})>")
_CALLER = r"(?:\[ *[CT][0-9]{1,10}\] ?)?"
_DELTA = r"(?: <[ +]*[0-9.]+>)?"
_DATE, _CLOCK = r"[0-9]{4}-[0-9]{2}-[0-9]{2}", r"[0-9]{2}:[0-9]{2}:[0-9]{2}"
_UPTIME = re.compile(rf"\[ *([0-9]{{1,9}})\.([0-9]{{6}}){_DELTA}\] ?{_CALLER}")
_CTIME = re.compile(
    rf"\[([A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ 0-9][0-9] {_CLOCK} [0-9]{{4}}){_DELTA}\] ?{_CALLER}"
)
_RELTIME = re.compile(
    rf"\[([A-Z][a-z]{{2}} ?[0-9]{{1,2}} [0-9]{{2}}:[0-9]{{2}}| *\+[0-9]+\.[0-9]{{6}})\] ?{_CALLER}"
)
_OTHER_STAMP = re.compile(rf"\[(?:[^\]\n]{{0,48}})\] ?{_CALLER}")
_ISO = re.compile(rf"({_DATE}[T ]{_CLOCK}([.,][0-9]{{1,9}})?(?:Z|[+-][0-9]{{2}}(?::?[0-9]{{2}})?)?) ")
_FULL = re.compile(rf"\w{{2,12}}\.? ({_DATE} {_CLOCK}(?:\.[0-9]{{1,9}})? \S{{1,12}}) ")
_UNIX = re.compile(r"([0-9]{9,11}\.[0-9]{6}) ")
_MONTH_DAY = re.compile(
    r"(?:[^\W\d]{2,10}\.?|[0-9]{1,2}月) {1,2}[0-9]{1,2}(?: [0-9]{4})? " + _CLOCK + r"(?:[.,][0-9]{1,9})? "
)
_RFC5424 = re.compile(
    r"1 (\S{1,40}) (\S{1,255}) (\S{1,48}) \S{1,128} \S{1,32} (?:-|(?:\[(?:[^\]\\]|\\.){0,2000}\])+)(?: |$)"
)
_HOST = re.compile(r"(?:([^\s:\[\]]{1,255}) )?(?=kernel: )")
_INNER_UPTIME = re.compile(r"\[ *([0-9]{1,9})\.([0-9]{6})\] ?")
_TAG = "kernel: "
_OCTAL = re.compile(r"#([01][0-7]{2}|2[0-3][0-7])")
"""How rsyslog writes control characters into its files."""

_MOST_DIGITS = 16
"""Of a time in µs: the year 2286. Garbage has more."""
_BOOT_ID = re.compile(r"[0-9a-f]{32}")
"""As journald writes it."""
_NEW_BOOT = re.compile(r"-- (?:Boot ([0-9a-f]{32})|Reboot) --\s*\Z")
_REMARK = re.compile(r"-- .{1,120} --\s*\Z|-- (?:Logs begin|Journal begins) at ")
_PSTORE_HEAD = re.compile(
    r"(?:Panic|Oops|Emergency|Shutdown|Unknown|Restart|Halt|Poweroff)#[0-9]+ Part[0-9]+\s*\Z"
)
_RULE = re.compile(r"_{20,}\s*\Z")


def parse(line: str) -> LogLine | None:
    """What the line gives; None when it is in no format known here."""
    first = line[:1]
    reader = _BY_FIRST.get(first)
    if reader is not None:
        return reader(line)
    if line.startswith(MARKERS):
        return LogLine(Format.BARE, line)
    if line.startswith(_TAG):
        return _message(Format.BARE, line, len(_TAG), None)
    return _from_digit(line) if first.isdecimal() else _from_word(line)


def _from_word(line: str) -> LogLine | None:
    if match := _MONTH_DAY.match(line):
        return _tagged(Format.SYSLOG, line, match.end(), match[0])
    if match := _DECODED.match(line):
        origin = Origin.KERNEL if match[1] == "kern" else Origin.USERSPACE
        return _dmesg(line, origin, match.end())
    if match := _FULL.match(line):
        return _tagged(Format.JOURNAL_FULL, line, match.end(), match[1])
    if _PSTORE_HEAD.match(line):
        return LogLine(None, None, clue=Clue.NEW_PART)
    return None


def _from_digit(line: str) -> LogLine | None:
    if match := _ISO.match(line):
        if (match[2] or "").startswith(","):  # the comma is dmesg's
            return LogLine(Format.DMESG_ISO, line[match.end() :], stamp=match[1], width=match.end())
        return _tagged(Format.SYSLOG_ISO, line, match.end(), match[1])
    if match := _UNIX.match(line):
        return _tagged(Format.JOURNAL_UNIX, line, match.end(), int(match[1].replace(".", "")))
    if match := _MONTH_DAY.match(line):
        return _tagged(Format.SYSLOG, line, match.end(), match[0])
    record = kmsg_record.parse(line.encode("utf-8", "surrogatepass"))
    if record is None:
        return None
    origin = Origin.KERNEL if record.facility == 0 else Origin.USERSPACE
    return LogLine(Format.KMSG, record.text, origin, record.kernel_us, seq=record.seq)


def _with_priority(line: str) -> LogLine | None:
    match = _PRIORITY.match(line)
    if match is None:
        return None
    end = match.end()
    if header := _RFC5424.match(line, end):
        stamp = None if header[1] == "-" else header[1]
        if header[3] != "kernel":
            return LogLine(Format.SYSLOG_5424, None, stamp=stamp)
        return _message(Format.SYSLOG_5424, line, header.end(), stamp, header[2].strip("-"))
    origin = Origin.USERSPACE if int(match[1]) >= 8 else Origin.UNKNOWN
    if header := _MONTH_DAY.match(line, end):
        return _tagged(Format.SYSLOG, line, header.end(), header[0])
    found = _dmesg(line, origin, end)
    return found and found._replace(priority=int(match[1]))


def _dmesg(line: str, origin: Origin = Origin.UNKNOWN, at: int = 0) -> LogLine | None:
    """A line of dmesg whose time begins at `at`."""
    if match := _UPTIME.match(line, at):
        end, kernel_us = match.end(), int(match[1] + match[2])
        if at == 0 and (host := _HOST.match(line, end)):
            found = _message(Format.JOURNAL_MONOTONIC, line, host.end() + len(_TAG), None, host[1] or "")
            return found._replace(kernel_us=kernel_us)
        return LogLine(Format.DMESG, line[end:], origin, kernel_us, width=end)
    for pattern, form in _DMESG_STAMPS:
        if match := pattern.match(line, at):
            return LogLine(form, line[match.end() :], origin, stamp=match[1], width=match.end())
    end = match.end() if (match := _OTHER_STAMP.match(line, at)) else at
    if (end > at or at) and line.startswith((_TAG, *MARKERS), end):  # no time, or one that says nothing
        return LogLine(Format.DMESG, line[end:].removeprefix(_TAG), origin, width=end)
    return None


_DMESG_STAMPS = ((_CTIME, Format.DMESG_CTIME), (_RELTIME, Format.DMESG_RELTIME), (_ISO, Format.DMESG_ISO))


def _tagged(form: Format, line: str, at: int, stamp: str | int) -> LogLine:
    """A syslog line whose host begins at `at`; a line of another program keeps only its time."""
    host = _HOST.match(line, at)
    if host is None:
        return LogLine(form, None, stamp=stamp)
    return _message(form, line, host.end() + len(_TAG), stamp, host[1] or "")


def _message(form: Format, line: str, at: int, stamp: str | int | None, host: str = "") -> LogLine:
    """The message that begins at `at`, behind the tag; the kernel's own stamp may stand before it."""
    kernel_us = None
    if match := _INNER_UPTIME.match(line, at):
        kernel_us, at = int(match[1] + match[2]), match.end()
    text = line[at:]
    if "#0" in text:
        text = _OCTAL.sub(lambda escape: chr(int(escape[1], 8)), text)
    return LogLine(form, text, Origin.UNKNOWN, kernel_us, stamp, host=host, width=at)


def _clue(line: str) -> LogLine | None:
    if match := _NEW_BOOT.match(line):
        return LogLine(None, None, boot_id=dashed(match[1] or ""), clue=Clue.NEW_BOOT)
    if _REMARK.match(line):
        return LogLine(None, None, clue=Clue.REMARK)
    return LogLine(None, None, clue=Clue.NEW_SECTION) if _RULE.match(line) else None


# -- JSON --------------------------------------------------------------------------------------


def _json(line: str) -> LogLine | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    if "msg" in fields:
        return from_dmesg_fields(fields)
    return from_journal_fields(fields, Format.JOURNAL_JSON)


def from_dmesg_fields(fields: Mapping[str, Any]) -> LogLine | None:
    """One object of `dmesg --json`. Its `pri` proves nothing (see the module's docstring), `fac` does."""
    text = fields.get("msg")
    if not isinstance(text, str):
        return None
    text = _storable(text)
    origin = Origin.UNKNOWN
    if isinstance(facility := fields.get("fac"), str):
        origin = Origin.KERNEL if facility == "kern" else Origin.USERSPACE
    time = fields.get("time")
    if isinstance(time, int | float) and 0 <= time < 1e9:
        return LogLine(Format.DMESG_JSON, text, origin, round(time * 1_000_000))
    return LogLine(Format.DMESG_JSON, text, origin, stamp=time.strip("[]") if isinstance(time, str) else None)


def from_journal_fields(fields: Mapping[str, Any], form: Format) -> LogLine | None:
    """One entry of the journal. Fields that begin with an underscore are journald's own, not the writer's."""
    if "__REALTIME_TIMESTAMP" not in fields:
        return None
    wall_us = _number(fields["__REALTIME_TIMESTAMP"])
    boot_id = fields.get("_BOOT_ID")
    boot_id = dashed(boot_id) if isinstance(boot_id, str) and _BOOT_ID.fullmatch(boot_id) else ""
    if fields.get("_TRANSPORT") != "kernel":
        return LogLine(form, None, stamp=wall_us, boot_id=boot_id)
    text = _journal_text(fields.get("MESSAGE"))
    origin = Origin.KERNEL if fields.get("SYSLOG_FACILITY", "0") == "0" else Origin.USERSPACE
    kernel_us = _number(fields.get("_SOURCE_MONOTONIC_TIMESTAMP"))
    host = fields.get("_HOSTNAME")
    host = _storable(host) if isinstance(host, str) else ""
    return LogLine(form, text, origin, kernel_us, wall_us, boot_id, host=host)


def _journal_text(value: object) -> str | None:
    """MESSAGE is a list of bytes when it is not printable text."""
    if isinstance(value, list):
        try:
            return bytes(value).decode("utf-8", "replace")
        except (ValueError, TypeError):
            return None
    return _storable(value) if isinstance(value, str) else None


def _storable(text: str) -> str:
    """Half a surrogate pair, which JSON can write and nothing can store, as U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _number(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def dashed(boot_id: str) -> str:
    """journald's 32 hex digits as /proc writes a boot id; anything else comes back as it is."""
    if len(boot_id) != 32:
        return boot_id
    return "-".join((boot_id[:8], boot_id[8:12], boot_id[12:16], boot_id[16:20], boot_id[20:]))


_BY_FIRST: Mapping[str, Callable[[str], LogLine | None]] = {
    "[": _dmesg,
    "{": _json,
    "<": _with_priority,
    "-": _clue,
    "_": _clue,
    **dict.fromkeys("0123456789", _from_digit),
}
"""How a line is read, by its first character; all others may begin with the name of a month."""
