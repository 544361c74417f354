"""One spelling for PCI addresses: `dddd:bb:dd.f`, lower-case hex.

The sources disagree: an Xid line prints domain:bus:device without a function, an SXid and the
tracepoint print the function, NVML pads the domain to eight digits, people leave the domain out,
and drivers before 2010 printed the bus with four digits and no domain (`Xid (0001:00)`).
"""

from __future__ import annotations

import re

_HEX = "[0-9a-fA-F]"
_ADDRESS = rf"(?:({_HEX}{{4,8}}):)?({_HEX}{{2}}):({_HEX}{{2}})(?:\.([0-7]))?"
_WHOLE = re.compile(rf"(?:PCI:)?{_ADDRESS}", re.IGNORECASE)
_OLD = re.compile(rf"(?:PCI:)?00({_HEX}{{2}}):({_HEX}{{2}})", re.IGNORECASE)
_INSIDE = re.compile(rf"(?<![\w.:-])(?:PCI:)?{_ADDRESS}(?!\w|[:.]\w)")

LONGEST = 32
"""No spelling of an address is longer; anything beyond is not looked at."""


def normalize(text: str) -> str | None:
    """The address as `dddd:bb:dd.f`; None if `text` is not a PCI address in any known spelling.

    A missing domain is 0, a missing function is 0. A domain beyond 16 bits keeps all its digits.
    """
    text = text.strip(" ")
    if len(text) > LONGEST:
        return None
    if match := _WHOLE.fullmatch(text):
        return _spell(*match.groups())
    if match := _OLD.fullmatch(text):
        return _spell(None, match[1], match[2], None)
    return None


def search(text: str) -> str | None:
    """The first PCI address that stands alone within the first 256 characters of `text`, or None."""
    match = _INSIDE.search(text, 0, 256)
    return _spell(*match.groups()) if match else None


def _spell(domain: str | None, bus: str, device: str, function: str | None) -> str:
    return f"{int(domain or '0', 16):04x}:{bus.lower()}:{device.lower()}.{function or '0'}"
