r"""Log text made fit to leave the program: to a terminal, to JSON, to an assistant.

Anyone who can name a process can put text into a kernel line. What could act instead of being
read is shown as an escape: control characters and terminal escapes, bidirectional and invisible
format characters (the "tag" block can carry a hidden message), line separators, lone surrogates.
The result is for reading, not for decoding: a backslash that was there already is left alone.
"""

from __future__ import annotations

CUT = "…"
"""Stands at the end of a text that was cut."""


def clean(text: str, limit: int = 1024) -> str:
    r"""`text` as printable characters only, at most `limit` of them (`limit` >= 1).

    A character below U+0100 becomes `\xNN`, a raw byte that was smuggled in as a surrogate becomes
    `\xNN` too, others become `\uNNNN` or `\UNNNNNNNN`. No escape is cut in half.
    """
    head = text[:limit]  # one character of input gives at least one of output: the rest cannot matter
    if head.isascii() and head.isprintable():
        return head if len(text) <= limit else head[: limit - len(CUT)] + CUT
    pieces = [character if _is_harmless(character) else _escaped(character) for character in head]
    if len(text) <= limit and sum(map(len, pieces)) <= limit:
        return "".join(pieces)
    room = limit - len(CUT)
    kept: list[str] = []
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            break
        kept.append(piece)
    return "".join(kept) + CUT


def _is_harmless(character: str) -> bool:
    # Variation selectors are "printable" marks, but a run of them can encode bytes unseen.
    return character.isprintable() and not (
        "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    )


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: byte 0x80 … 0xff that was not valid UTF-8
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
