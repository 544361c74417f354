"""Whose request a JSON-RPC line was of which only the beginning and the end are known.

Standard library only: the relay of `xidwatch stdio` uses it too.
"""

from __future__ import annotations

import json
import re
from typing import Final

BEGINNING: Final = 1024
"""Bytes of a line that is too long that are enough to look at first."""
END: Final = 512
"""And from its end."""

_VALUE = rb'(-?\d{1,18}|"[^"\\]{1,256}")'
_FIRST = re.compile(
    rb'\s*\{\s*(?:"(?:jsonrpc|method)"\s*:\s*"[^"\\]{0,128}"\s*,\s*){0,2}"id"\s*:\s*' + _VALUE + rb"\s*[,}]"
)
_LAST = re.compile(rb'"id"\s*:\s*' + _VALUE + rb'\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')


def id_in(beginning: bytes, end: bytes = b"") -> int | str | None:
    """The id, where it stands among the first members or last; None when it cannot be made out."""
    found = _FIRST.match(beginning) or _LAST.search(end)
    if found is None:
        return None
    try:
        value: int | str = json.loads(found[1])
    except ValueError:  # a control character, or 007
        return None
    return value
