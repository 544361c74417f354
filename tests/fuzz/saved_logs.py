"""Saved logs: any bytes as a file of any kind, and records that a model wrote down in every known format."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import IO, Final, cast

from daemon.event import rfc3339, to_dict
from daemon.pipeline import Pipeline
from daemon.playback import Playback
from probes import replay
from probes.line import KernelLine, Origin
from probes.replay.reading import may_matter
from tests.fuzz.choices import Choices
from tests.fuzz.driver_lines import driver_line
from tests.support.saved_logs import (
    BOOT_ID,
    HAS_WALL_TIME,
    NAMES_ITS_BOOT,
    PROVES_ORIGIN,
    RENDERERS,
    Printed,
)

MOST_RECORDS: Final = 6
SETTINGS: Final = replay.Settings(year=2026)
"""The year of the model's boot: a log without years is read the same in every year."""

PACKINGS: Final[Sequence[Callable[[bytes], bytes]]] = (bytes, gzip.compress, bz2.compress, lzma.compress)
LOST_GPU: Final = (
    "NVRM: The NVIDIA GPU 0000:b3:00.0\nNVRM: (PCI ID: 10de:2330)\n"
    "NVRM: fallen off the bus and is not responding to commands."
)

_WITHOUT_UPTIME: Final = HAS_WALL_TIME - NAMES_ITS_BOOT - {"syslog"}
"""Formats that say nothing of kernel time."""
_WHOLE_SECONDS: Final = frozenset(
    {
        *("dmesg -T", "dmesg -x -T", "journal short", "journal short-iso", "journal short-full"),
        *("syslog", "syslog without uptime"),
    }
)
_FAR_APART_US: Final = 3_600_000_000


def any_log(data: bytes) -> None:
    """Any bytes in a file: read to the end, counted right, and fit to become events."""
    lines, coverage = _read(data)
    again, _ = _read(data)
    assert [line.text for line in lines] == [line.text for line in again], "two looks at one file differ"
    assert coverage.messages == len(lines) == sum(file.messages for file in coverage.files)
    assert coverage.unproved == sum(line.origin is Origin.UNKNOWN for line in lines)
    for file in coverage.files:
        assert 0 <= file.understood <= file.lines, "more was understood than there is"
        assert file.kernel + file.other_programs <= file.understood
        assert file.problem is None or file.problem.strip()
    _check_lines(lines)
    _check_events(lines)


def written_log(data: bytes) -> None:
    """Records written down in one of the formats are found again, each once, with what the format keeps."""
    choices = Choices(data)
    form = choices.one_of(tuple(RENDERERS))
    pack = choices.one_of(PACKINGS)
    records = list(_records(choices))
    lines, coverage = _read(pack(RENDERERS[form](records)))
    told = [record for record in records if may_matter(record.text)]
    assert [line.text for line in lines] == [record.text for record in told], form
    assert [file.problem for file in coverage.files] == [None], form
    assert coverage.files[0].not_understood == 0, form
    for line, record in zip(lines, told, strict=True):
        assert line.origin is (Origin.KERNEL if form in PROVES_ORIGIN else Origin.UNKNOWN), form
        if form in NAMES_ITS_BOOT:
            assert line.boot_id == BOOT_ID, form
        if form not in _WITHOUT_UPTIME | {"dmesg -e"}:
            assert line.kernel_us == record.kernel_us, form
        if form in HAS_WALL_TIME:
            lost_us = record.wall_us % 1_000_000 if form in _WHOLE_SECONDS else 0
            assert line.wall_us == record.wall_us - lost_us, form
    _check_lines(lines)
    _check_events(lines)


def _records(choices: Choices) -> Iterator[Printed]:
    """Some records of one boot, the kernel's greeting before them."""
    kernel_us = choices.number(1_000_000)
    yield Printed(kernel_us, "Linux version 6.8.0")
    for _ in range(choices.between(1, MOST_RECORDS)):
        # Each a little later than the one before: of two equal ones no format says that they are two.
        kernel_us += choices.between(1, choices.one_of((2_000_000, _FAR_APART_US)))
        noise = ("usb 1-1: new device", "audit: type=1400 x=1", "NVRM: GPU initialized", LOST_GPU)
        text = choices.one_of((driver_line(choices).text, *noise))
        # A blank at the end of a line is kept by no program that writes logs.
        yield Printed(kernel_us, text.rstrip(" "))


def _read(data: bytes) -> tuple[list[KernelLine], replay.Coverage]:
    coverage = replay.Coverage()
    sources = replay.sources(["-"], SETTINGS, stdin=cast("IO[bytes]", io.BytesIO(data)))
    return list(replay.read(sources, SETTINGS, coverage)), coverage


def _check_lines(lines: Sequence[KernelLine]) -> None:
    """What a line has to be for everything behind it: storable text, times that can be shown, in order."""
    last_us = 0
    for line in lines:
        line.text.encode()  # a lone surrogate could be neither stored nor sent
        line.boot_id.encode()
        rfc3339(line.wall_us)
        assert line.arrival_us >= last_us, "replayed time went back"
        last_us = line.arrival_us
        assert line.boot_id
        assert line.kernel_us is not None


def _check_events(lines: Sequence[KernelLine]) -> None:
    """The lines lead to events that can be told, and tell of no origin that was not proved."""
    playback = Playback(partial(Pipeline, node="gpu-17", allow_drills=True))
    events = [event for line in lines for event in playback.play(line)]
    events += playback.end()
    proved = {line.origin for line in lines}
    for number, event in enumerate(events, start=1):
        json.dumps(to_dict(event, number, stored=True), allow_nan=False)
        assert event.origin in {"unknown", *proved} or event.drill, event.origin
