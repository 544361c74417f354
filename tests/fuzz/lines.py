"""Lines of the kernel log: what the grammar may make of any line, and must make of one that a model wrote.

What a line may be taken for is judged here by plain searches in its text, none of which the grammar uses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import ConfigDict, create_model

from daemon.decoded import Context, Decoded, Fault
from daemon.event import Kind
from daemon.grammar import decode, find, strip_prefix
from daemon.grammar.fields import FIELDS
from daemon.grammar.prefix import MARKERS
from daemon.text import clean
from mcp_server.wire import EventOut
from probes.line import Origin
from tests.fuzz.choices import Choices
from tests.fuzz.driver_lines import driver_line
from tests.support.kernel_log import escape
from xidwatch.decode import decode_line

LINE_KEYS: Final = (
    *("kind", "code", "name", "summary", "severity", "blame", "action", "action_text", "gpu", "nvswitch"),
    *("process", "detail", "lines", "origin", "drill", "driver_version"),
)
"""Keys of an event that one line can give."""

_FIELDS: Final[dict[str, Any]] = {key: (EventOut.model_fields[key].annotation, ...) for key in LINE_KEYS}
LINE_OUT: Final = create_model("LineOut", __config__=ConfigDict(extra="forbid"), **_FIELDS)
"""The published schema of those keys: every one is there, and no other."""

MOST_EXACT: Final = 2**53
"""Greatest number that every JSON reader keeps exactly."""

PREFIXES: Final = (
    ("[   26.994672] ", Origin.UNKNOWN),
    ("kern  :warn  : [   26.994672] ", Origin.KERNEL),
    ("user  :notice: [   26.994672] ", Origin.USERSPACE),
    ("<12>[   26.994672] ", Origin.USERSPACE),
    ("[   26.994672] [  T123] ", Origin.UNKNOWN),
    ("2026-01-22T11:00:26,994672+00:00 ", Origin.UNKNOWN),
    ("[Thu Jan 22 11:00:26 2026] ", Origin.UNKNOWN),
)
"""What a saved log puts before a message, and whom that proves to have printed it."""
PRIORITIES: Final = ((4, Origin.KERNEL), (12, Origin.USERSPACE), (30, Origin.USERSPACE))
"""The same of a record of /dev/kmsg: facility << 3 | level."""

_HEAD: Final = {
    (Kind.XID, False): re.compile(r"NVRM: Xid \(([^)]*)\): ?([0-9]+)"),
    (Kind.XID, True): re.compile(r"xidwatch-drill: xid \(([^)]*)\): ?([0-9]+)"),
    (Kind.SXID, False): re.compile(r"nvidia-nvswitch[0-9]*: SXid \(([^)]*)\): ?([0-9]+)"),
    (Kind.SXID, True): re.compile(r"xidwatch-drill: sxid \(([^)]*)\): ?([0-9]+)"),
}
"""What stands in the text of everything that may count as an Xid or SXid: its device and its code."""


def any_line(data: bytes) -> None:
    """Any bytes as a line of a saved log, and as a message heard live."""
    line = data.partition(b"\n")[0].decode("utf-8", "backslashreplace")
    shown = decode_line(line)
    if shown is not None:
        check_shown(shown, strip_prefix(line)[0])
    live = data.decode("utf-8", "replace")  # a record may hold newlines
    decoded, found = decode(live), find.__wrapped__(live)
    assert decoded == decode(live), "two looks at the same text differ"
    check_decoded(decoded, live)
    check_decoded(found, live)
    assert not isinstance(decoded, Fault) or not decoded.glued
    if isinstance(found, Fault) and found.glued:
        assert live.endswith(found.text)
        assert found.kind in (Kind.XID, Kind.SXID, Kind.GPU_LOST)
    else:
        assert found == decoded
    if isinstance(decoded, Fault) and live.isprintable():
        check_prefixes(live)


def driver_lines(data: bytes) -> None:
    """A line that a model of the driver wrote decodes to what it was written from."""
    choices = Choices(data)
    written = driver_line(choices)
    decoded = decode(written.text)
    assert isinstance(decoded, Fault), written.text
    for key, value in written.expected.items():
        assert getattr(decoded, key) == value, (key, written.text)
    for key, value in written.detail.items():
        assert decoded.detail.get(key) == value, (key, written.text)
    assert find.__wrapped__(written.text) == decoded
    shown = decode_line(written.text)
    if written.is_told:
        assert shown is not None, written.text
        check_shown(shown, written.text)
        check_prefixes(written.text)
    else:
        assert shown is None, written.text
    check_decoded(decoded, written.text)
    check_cut(written.text, choices.number(len(written.text)))


def check_shown(shown: dict[str, Any], message: str) -> None:
    """What `xidwatch decode` prints is the published JSON, and holds nothing that could act."""
    again = json.loads(json.dumps(shown, allow_nan=False))
    LINE_OUT.model_validate(again)
    assert set(shown["detail"]) <= FIELDS.keys(), shown["detail"]
    for value in _values({**again, "lines": [], "action_text": None, "summary": None}):
        if isinstance(value, int):
            assert abs(value) < MOST_EXACT, value
    for text in again["lines"]:
        assert text.isprintable(), "a control character, or one that hides"
    assert again["lines"] == [clean(message)]


def _values(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _values(each)
    elif isinstance(value, list):
        for each in value:
            yield from _values(each)
    else:
        yield value


def check_decoded(decoded: Decoded, text: str) -> None:
    """Nothing is said of a line that does not stand in it."""
    if isinstance(decoded, Context):
        assert text.startswith(("NVRM: GPU at PCI:", "NVRM: GPU Board Serial Number:"))
        assert decoded.uuid is None or decoded.uuid.lower() in text.lower()
        assert decoded.serial is None or decoded.serial in text
        return
    if decoded is None:
        return
    assert text.endswith(decoded.text)
    assert any(marker in text for marker in MARKERS)
    assert decoded.glued or text.startswith(MARKERS)
    assert decoded.drill == (not decoded.glued and text.startswith("xidwatch-drill: "))
    assert decoded.pid is None or str(decoded.pid) in text
    assert decoded.process_name is None or decoded.process_name in text
    assert decoded.process_name != ""
    if decoded.pci is not None:
        assert decoded.pci[-7:-2] in text.lower(), "bus and device are read, not made up"
    if decoded.kind in (Kind.XID, Kind.SXID):
        _check_head(decoded, text)
    else:
        assert decoded.code is None
        assert not decoded.drill


def _check_head(fault: Fault, text: str) -> None:
    """An Xid or SXid has its marker before it; its device and its code are those in its head."""
    shape = _HEAD[fault.kind, fault.drill]
    heads = list(shape.finditer(text)) if fault.glued else [head for head in [shape.match(text)] if head]
    # Several may be glued together: one of them is the one that was read.
    assert any(_is_head_of(fault, device, digits) for device, digits in (head.groups() for head in heads))


def _is_head_of(fault: Fault, device: str, digits: str) -> bool:
    assert fault.pci is not None
    significant = digits.lstrip("0") or "0"
    number = int(significant) if len(significant) <= len(str(2**32)) else 2**32
    return fault.code == (number if number < 2**32 else None) and fault.pci[-7:-2] in device.lower()


def check_prefixes(message: str) -> None:
    """A message means the same behind every prefix of a saved log; only its origin is proved by it."""
    alone = decode_line(message)
    records = [
        (f"{header},360,26994672,c;{escape(message).decode()}", origin) for header, origin in PRIORITIES
    ]
    for line, origin in (*((prefix + message, origin) for prefix, origin in PREFIXES), *records):
        shown = decode_line(line)
        assert shown == (alone and {**alone, "origin": origin}), line


def check_cut(text: str, length: int) -> None:
    """A line that was cut tells of the device and the code that the whole one told of, or of none."""
    whole, cut = decode(text), decode(text[:length])
    if not (isinstance(whole, Fault) and isinstance(cut, Fault)) or cut.kind is not whole.kind:
        return
    if cut.code is not None and whole.code is not None and cut.code != whole.code:
        # Nothing tells a code that was cut in half from a whole one.
        assert text[:length].endswith(str(cut.code))
        return
    # Without its function an address means function 0.
    assert cut.pci is None or (whole.pci is not None and cut.pci[:-2] == whole.pci[:-2]), text[:length]
    assert cut.mig == whole.mig
