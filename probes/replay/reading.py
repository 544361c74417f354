"""From the lines of a saved log to the records of the kernel's log.

Here the lines of one record come together again: dmesg and journalctl indent the further ones, pstore
and old dmesg repeat the prefix, `dmesg --json` puts each field on a line of its own. Only the driver's
records are handed on; of all other lines the time counts.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from probes.line import Origin
from probes.log_formats import Clue, Format, LogLine, from_dmesg_fields, parse
from probes.replay import export, lines, unpacking
from probes.replay.boots import GREETING, Timeline
from probes.replay.coverage import Boot, FileCoverage
from probes.replay.timestamps import Stamps, WallTime
from probes.replay.unpacking import Source

_MOST_JOINED = 64
_LOST_GPU = "NVRM: The NVIDIA GPU "
_LOST_GPU_GOES_ON = ("NVRM: (PCI ID", "NVRM: fallen off the bus")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[mK]")
_JSON_FRAME = re.compile(r'(?:\s*[{}\[\]],?)+\s*\Z|\s+"dmesg": *\[\s*\Z')
"""The lines of `dmesg --json` that hold no field."""
_LONGEST_FRAME = 24
_WRAPPED = re.compile(r"(?:> ?)+|[^\s:]{1,255}:(?: (?=\S)|(?:[0-9]{1,9}:)?)")
"""What grep, pdsh and a mail put before a line: `messages.1:12:`, `gpu-17: `, `> `."""
_FAULT = ("NVRM: Xid", "SXid (")
_LOST = re.compile(r"Missed ([0-9]{1,9}) kernel messages|: ([0-9]{1,9}) messages lost due to rate-limiting")
"""journald on the kernel's messages that were overwritten before it read them; rsyslog on its own limit."""
_OVERRUN = "/dev/kmsg buffer overrun, some messages lost"
"""What journald writes into the kernel's log when it was too slow: dmesg still has what a journal lacks."""
_HAS_ALL = frozenset(
    {Format.DMESG, Format.DMESG_CTIME, Format.DMESG_ISO, Format.DMESG_RELTIME, Format.DMESG_JSON}
)
_MOST_HOSTS = 32
_JSON_FIELD = re.compile(r'\s+"(fac|pri|time|caller|msg)": *(.*?),?\s*\Z')


@dataclass(slots=True)
class Record:
    """One of the driver's records, on its way."""

    line: LogLine
    text: str
    boot: Boot
    place: int
    wall: WallTime | None


class FileReader:
    """Reads one file. What it finds goes through the timeline that all files share."""

    def __init__(self, source: Source, stamps: Stamps, timeline: Timeline, found: FileCoverage) -> None:
        self._source = source
        self._stamps = stamps
        self._timeline = timeline
        self._found = found
        self._open: Record | None = None
        self._last: LogLine | None = None
        self._joined = 0
        self._object: dict[str, object] | None = None
        self._is_pstore = False
        self._is_json = False
        self._frame_lines = 0
        self._run_format: Format | None = None
        self._run_lines = 0
        self._host = ""
        self._seq: int | None = None
        self._last_wall_us = 0
        self.has_sections = False
        """A rule between the outputs of several commands was seen: an nvidia-bug-report."""

    def records(self) -> Iterator[Record]:
        """The driver's records, in the order of the file; a file that breaks off is noted as such."""
        self._timeline.new_place(self._source.name)
        stream = self._source.stream
        try:
            head = stream.peek(len(export.HEAD)) if isinstance(stream, io.BufferedReader) else b""
            yield from self._entries() if head.startswith(export.HEAD) else self._lines()
        except unpacking.BROKEN as error:
            self._found.problem = unpacking.reason(error)
        if (record := self._close()) is not None:
            yield record
        self._note_formats()
        if self._is_json:
            self._found.understood += self._frame_lines

    def _note_formats(self) -> None:
        """Count the lines of a run of one format; line by line, hashing the format's name would cost more."""
        if self._run_format is not None:
            self._found.formats[self._run_format] += self._run_lines
        self._run_lines = 0

    def _entries(self) -> Iterator[Record]:
        for entry in export.entries(self._source.stream):
            self._found.lines += 1
            if entry is not None and (record := self._take(entry)) is not None:
                yield record

    def _lines(self) -> Iterator[Record]:
        for batch in lines.lines(self._source.stream):
            for line in batch:
                if line and not line.isspace():
                    self._found.lines += 1
                    if (record := self._line(line)) is not None:
                        yield record
            if not self._found.understood and lines.looks_binary(batch):
                self._found.problem = "it is a binary file, not a log"
                return

    def _line(self, line: str) -> Record | None:
        """Take one line; gives back the record that it shows to be complete."""
        if "\x1b" in line:
            line = _COLOUR.sub("", line)
        if len(line) < _LONGEST_FRAME and _JSON_FRAME.match(line):
            self._frame_lines += 1
            return self._end_object() if "}" in line and self._object is not None else None
        if line[:1] in " \t":
            if self._continues(line):
                return None
            line = line.lstrip()  # a log that was pasted somewhere, or indented by another tool
        parsed = parse(line)
        if parsed is None or parsed.text is None:
            parsed = self._not_the_kernels(line, parsed)
        return self._take(parsed) if parsed is not None else None

    def _not_the_kernels(self, line: str, parsed: LogLine | None) -> LogLine | None:
        """A line of another program, or in no format: what of it is to be told, or what is wrapped in it."""
        if parsed is None and may_matter(line) and (wrapped := _WRAPPED.match(line)):
            inner = parse(line[wrapped.end() :])
            if inner is not None and inner.text is not None and inner.format is not Format.BARE:
                return inner._replace(width=inner.width + wrapped.end())
        if any(words in line for words in _FAULT):
            self._found.quoted += 1
        elif " messages" in line and (lost := _LOST.search(line)):
            self._found.lost += int(lost[1] or lost[2])
        return parsed

    def _take(self, line: LogLine) -> Record | None:
        self._found.understood += 1
        if line.format is None:
            self._last = None
            record = self._close()
            self._follow(line)
            return record
        if self._is_pstore and line.format is Format.DMESG:
            line = _of_pstore(line)
        if line.format is not self._run_format:
            self._note_formats()
            self._run_format = line.format
        self._run_lines += 1
        self._last = line
        if line.host != self._host:
            self._note_host(line.host)
        if line.seq is not None:
            self._note_seq(line.seq)
        text = line.text
        if text is None:
            self._found.other_programs += 1
        else:
            self._found.kernel += 1
            if _OVERRUN in text and line.format not in _HAS_ALL:
                self._found.lost += 1
            if self._open is not None and self._joins(line):
                return None
        record = self._close()
        wall = self._stamps.read(line.stamp) if line.stamp is not None else None
        if wall is not None:
            self._found.backward += wall.us < self._last_wall_us
            self._last_wall_us = wall.us
        boot = self._timeline.see(
            kernel_us=line.kernel_us,
            wall_us=wall.us if wall is not None else None,
            boot_id=line.boot_id,
            greets=text is not None and text.startswith(GREETING),
        )
        if text is not None and may_matter(text):
            self._open = Record(line, text, boot, self._timeline.place, wall)
            self._joined = 0
        return record

    def _note_host(self, host: str) -> None:
        self._host = host
        if host and len(self._found.hosts) < _MOST_HOSTS:
            self._found.hosts.add(host.partition(".")[0])

    def _note_seq(self, seq: int) -> None:
        """Count the records between this one and the last, unless another boot or another capture begins."""
        if self._seq is not None and seq > self._seq:
            self._found.absent += seq - self._seq - 1
        self._seq = seq

    def _close(self) -> Record | None:
        record, self._open = self._open, None
        return record

    def _follow(self, line: LogLine) -> None:
        match line.clue:
            case Clue.NEW_BOOT:
                self._timeline.end_boot(line.boot_id)
            case Clue.NEW_SECTION:
                self._is_pstore = False
                self.has_sections = True
                self._timeline.new_place(self._source.name)
            case Clue.NEW_PART:
                self._is_pstore = True
            case _:
                pass

    # -- lines of one record --------------------------------------------------------------------

    def _continues(self, line: str) -> bool:
        """Take a further line of a record, or a field of a JSON object, or nothing."""
        if match := _JSON_FIELD.match(line):
            if self._object is None:
                self._object = {}
            self._object[match[1]] = _json_value(match[2])
            self._found.understood += 1
            self._is_json = True
            return True
        last = self._last
        if last is None or last.format in (Format.BARE, Format.JOURNAL_JSON, Format.DMESG_JSON):
            return False
        self._found.understood += 1
        if self._open is not None and last.format is not Format.KMSG and self._joined < _MOST_JOINED:
            self._joined += 1
            head = line[: last.width]
            self._open.text += "\n" + (line.lstrip() if head.strip() else line[last.width :])
        return True

    def _end_object(self) -> Record | None:
        """The object of `dmesg --json` whose fields came line by line is complete."""
        fields, self._object = self._object, None
        entry = from_dmesg_fields(fields or {})
        if entry is None:
            return None
        self._found.understood -= 1  # its lines have been counted, and `_take` counts one more
        return self._take(entry)

    def _joins(self, line: LogLine) -> bool:
        """Join the lines that tell of a lost GPU where each carries the prefix of its record."""
        record = self._open
        if record is None or line.text is None or not record.text.startswith(_LOST_GPU):
            return False
        same = (line.kernel_us, line.boot_id) == (record.line.kernel_us, record.line.boot_id)
        if not same or not line.text.startswith(_LOST_GPU_GOES_ON):
            return False
        record.text += "\n" + line.text
        return True


def _of_pstore(line: LogLine) -> LogLine:
    """A line of a pstore dump: the kernel itself wrote its `<priority>`, facility and all."""
    origin = line.origin if line.priority is None or line.priority >= 8 else Origin.KERNEL
    return line._replace(format=Format.PSTORE, origin=origin)


def _json_value(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def may_matter(text: str) -> bool:
    """True for every message the line grammar has a use for; as `probes.kmsg.may_matter`, on text."""
    return (
        "NVRM" in text
        or "nvidia" in text
        or "Xid" in text
        or "fallen off the bus" in text
        or "xidwatch-drill" in text
    )
