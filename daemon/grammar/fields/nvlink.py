"""NVLink: 74 and 136 (up to NVLink 4), 144 to 150 and 155 (NVLink 5).

What the words of 74 and 144 to 150 ask for is NVIDIA's to say: `daemon.nvlink_rules`.
"""

from __future__ import annotations

import re

from daemon import pci
from daemon.decoded import Word
from daemon.grammar.fields.values import HEX, PRINTED_SEVERITY, Fields, words

_VERDICT = re.compile(r"\b(non-?)?fatal error detected on link\b", re.IGNORECASE)
_LINK = re.compile(r"\blink (-?[0-9]{1,4})(?=[^0-9])")
_LINKS = re.compile(rf"\bfor links (0x{HEX}{{1,16}})(?=[^0-9a-fA-F])")
_REMOTE = re.compile(rf"\bto remote (PCI:{HEX}{{4,8}}:{HEX}{{2}}:{HEX}{{2}})(?!\w)")
_NVLINK5 = re.compile(
    r"([A-Z][A-Z0-9_/]{1,60}(?: Degraded)?) +(Fatal|Non-?fatal)\b"
    r"(?: +(XC[0-9]{1,3})(?= )(?: +i([0-9]{1,3})(?= )(?: +Link +(-?[0-9]{1,4})(?=[^0-9]))?)?)?",
    re.IGNORECASE,
)


def nvlink4(text: str) -> Fields:
    """74, 136: the link, its error words, and the peer that it could not be trained to."""
    found: Fields = {}
    if match := _VERDICT.search(text, 0, 256):
        found[PRINTED_SEVERITY] = Word.NONFATAL if match[1] else Word.FATAL
    end = 0
    if match := _LINK.search(text, 0, 256):
        found["link"], end = int(match[1]), match.end()
    elif match := _LINKS.search(text, 0, 256):
        found["link_mask"], end = match[1], match.end()
    if end and (printed := words(text, end)):
        found["words"] = printed
    if match := _REMOTE.search(text, 0, 256):
        remote = pci.normalize(match[1])
        if remote is not None:
            found["remote_pci"] = remote
    return found


def nvlink5(text: str) -> Fields:
    """144 to 150, 155: unit, verdict, cross-containment, link (-1: none in particular) and the words.

    Word 1 has two layouts: NVIDIA's sub-code is bits 9:5 before R575 and bits 6:0 from R575 on; both
    readings are given, named for the branch they hold for. Bits 25:20 are the reason. Word 2 is the
    error status.
    """
    match = _NVLINK5.match(text)
    if match is None:
        return {}
    found: Fields = {
        "unit": match[1],
        PRINTED_SEVERITY: Word.FATAL if match[2].lower() == "fatal" else Word.NONFATAL,
    }
    if match[3]:
        found["xc"] = match[3]
    if match[4]:
        found["injected"] = match[4].strip("0") != ""
    if match[5]:
        found["link"] = int(match[5])
    printed = words(text, match.end())
    if printed:
        first = int(printed[0], 16)
        found |= {
            "words": printed,
            "reason": first >> 20 & 0x3F,
            "subcode_before_r575": first >> 5 & 0x1F,
            "subcode_from_r575": first & 0x7F,
        }
    if len(printed) > 1:
        found["error_status"] = printed[1]
    return found
