"""What the decoders of the families share: types, keys, and how a number is read."""

from __future__ import annotations

import re

Value = int | str | bool | list[str] | dict[str, str]
Fields = dict[str, Value]

PRINTED_SEVERITY = "printed_severity"
"""Key of the line's own verdict, a `Word`."""

HEX = "[0-9a-fA-F]"
HEX_8 = rf"(?:0x)?({HEX}{{8}}(?!\w)|{HEX}{{1,8}}(?=[,. ]))"
"""A number that the driver prints with at least eight hex digits; fewer count only when something
follows, as the last one of a cut line may have lost some."""

LONGEST_TEXT = 512
"""Characters of a text that are searched; the driver's longest forms have about 200."""

_WORD = re.compile(rf"0x(?:{HEX}{{8}}(?!\w)|{HEX}{{1,8}}(?=[,) ]))")


def hexadecimal(digits: str) -> str:
    """`0x17e2ac` for `0017e2ac` or `0x0017e2ac`."""
    return f"0x{int(digits, 16):x}"


def words(text: str, start: int = 0) -> list[str]:
    """The register words of a text from `start` on, as printed; one that may be cut is left out."""
    return _WORD.findall(text, start, LONGEST_TEXT)
