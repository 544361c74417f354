"""The head that Xid and SXid lines share: device, MIG instance, code; and the process behind it.

`(PCI:0000:3b:00 GPU-I:01 GPU-CI:02): 31, pid=9, name=a, text`, as `krcReportXid` prints it
(open-gpu-kernel-modules 595.45.04, kernel_rc.c). Every pattern is anchored at its start and holds
no nested repetition, so that the cost grows with the length of the line and no faster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from daemon import pci
from daemon.event import Mig

MAX_NUMBER = 2**32 - 1
"""Codes and pids are 32-bit numbers in the driver; a greater one is neither."""

MAX_CODE_TEXT = 64
"""Digits kept of a number that is no code."""

COMM_LENGTH = 15
"""Longest process name: TASK_COMM_LEN less the NUL."""

UNKNOWN = "<unknown>"
"""What drivers up to 565 print for a process they do not know."""

_HEAD = re.compile(
    r"\(([0-9A-Za-z:.]{1,40})(?: GPU-I:([0-9]{1,5}))?(?: GPU-CI:([0-9]{1,5}))?\): ?([0-9]++)(?:, ?|\s*+\Z)"
)
_PID = re.compile(r"pid=('?)(<unknown>|[0-9]*+)\1(?:, ?|\s*+\Z)")
_QUOTED_NAME = re.compile(r"'([^']{0,64})'(?:, ?|\s*+\Z)")
_KNOWN_TEXT = re.compile(
    r"(?:ch(?:annel)?(?: id)?|chid) (?:0x)?[0-9a-f]|graphics |class |timeout after |(?:un)?contained: |"
    r"gpu |nvlink|row remapper|dynamic page|an uncorrectable |gsp|mmu fault|"
    r"[a-z0-9_/]{3,40} {1,4}(?:fatal|nonfatal) ",
    re.IGNORECASE,
)
"""How driver text begins: tells where a process name that holds a comma ends."""


@dataclass(frozen=True, slots=True)
class Head:
    """Device and code of a line."""

    pci: str
    """Normalised address."""
    mig: Mig | None
    code: int | None
    """None for a number beyond 32 bits."""
    digits: str
    """The number as printed."""
    rest: str
    """What follows the code and its comma."""


def parse_head(message: str) -> Head | None:
    """The head at the very start of `message`; None when it is malformed in any part."""
    match = _HEAD.match(message)
    if match is None:
        return None
    device = pci.normalize(match[1])
    if device is None:
        return None
    gi, ci, digits = match[2], match[3], match[4]
    mig = Mig(int(gi) if gi else None, int(ci) if ci else None) if gi or ci else None
    return Head(device, mig, _number(digits), digits[:MAX_CODE_TEXT], message[match.end() :])


def _number(digits: str) -> int | None:
    significant = digits.lstrip("0")
    if len(significant) > 10:  # also keeps int() away from thousands of digits, which it refuses
        return None
    number = int(significant or "0")
    return number if number <= MAX_NUMBER else None


def split_process(rest: str) -> tuple[int | None, str | None, str]:
    """(pid, process name, text) of what follows the code. Unknown and absent are both None."""
    pid, quoted = None, False
    if match := _PID.match(rest):
        quoted = bool(match[1])
        pid = _number(match[2]) if match[2].isdigit() else None
        rest = rest[match.end() :]
    if not rest.startswith("name="):
        return pid, None, rest
    name, text = _split_name(rest[len("name=") :], quoted=quoted)
    return pid, None if name in ("", UNKNOWN) else name, text


def _split_name(body: str, *, quoted: bool) -> tuple[str, str]:
    """Process name and the text behind it.

    The driver escapes nothing, so a name that holds ", " is ambiguous: of the separators that a
    name of at most 15 bytes allows, the first one followed by known driver text wins, else the
    first one.
    """
    if quoted and (match := _QUOTED_NAME.match(body)):
        return match[1], body[match.end() :]
    ends = [at for at in range(min(len(body), COMM_LENGTH + 1)) if body.startswith(", ", at)]
    if not ends:
        end = body.find(", ")
        if end < 0:
            return body.removesuffix(","), ""
        ends = [end]
    end = next((at for at in ends if _KNOWN_TEXT.match(body, at + 2)), ends[0])
    return body[:end], body[end + 2 :]
