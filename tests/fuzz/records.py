"""Records of /dev/kmsg: any bytes against a second reading of the format, and records that a model wrote.

The second reading follows Documentation/ABI/testing/dev-kmsg with splits in place of patterns.
"""

from __future__ import annotations

from typing import Final

from probes import kmsg_record
from probes.kmsg_record import Record
from tests.fuzz.choices import LOG_CHARACTERS, Choices
from tests.support.kernel_log import escape

MOST_DIGITS: Final = {"priority": 4, "number": 15}


def any_record(data: bytes) -> None:
    """Any bytes that a read of /dev/kmsg could give."""
    record = kmsg_record.parse(data)
    assert record == kmsg_record.parse(data), "two looks at the same record differ"
    assert kmsg_record.sequence_number(data) == (record and record.seq)
    assert kmsg_record.kernel_time(data) == (record and record.kernel_us)
    assert record == read_again(data)
    if record is not None:
        for text in (record.text, record.flags, record.caller or "", *record.dictionary.values()):
            text.encode()  # a lone surrogate could be neither stored nor sent


def written_record(data: bytes) -> None:
    """A record that the kernel could write comes back as what it was written from."""
    choices = Choices(data)
    facility, level = choices.number(1_000), choices.number(7)
    seq, kernel_us = choices.number(10**15 - 1), choices.number(10**15 - 1)
    flags = choices.one_of(("-", "c", "c+"))
    caller = choices.one_of((None, f"T{choices.number(2**22)}", f"C{choices.number(4096)}"))
    further = "".join(f",{choices.word('abc=', 8)}x=1" for _ in range(choices.number(2)))
    dictionary = {
        choices.word("ABCDEFGHIJ_", 12): _text(choices, 40) for _ in range(choices.one_of((0, 0, 1, 2)))
    }
    text = _text(choices, 200)
    header = f"{facility << 3 | level},{seq},{kernel_us},{flags}"
    header += (f",caller={caller}" if caller else "") + further
    lines = "".join(f" {key}={escape(value).decode()}\n" for key, value in dictionary.items())
    record = kmsg_record.parse(f"{header};".encode() + escape(text) + b"\n" + lines.encode())
    assert record == Record(facility, level, seq, kernel_us, flags, caller, text, dictionary)


def _text(choices: Choices, most: int) -> str:
    """Text with everything that the kernel escapes, a newline within it too."""
    raw = choices.raw(most)
    words = (choices.word(LOG_CHARACTERS + "\n\t\x1b\x00", 30), raw.decode("utf-8", "replace"))
    return choices.one_of(words)


def read_again(data: bytes) -> Record | None:
    """The record, read without the patterns of the program."""
    header, semicolon, rest = data.partition(b";")
    fields = header.split(b",")
    if not semicolon or b"\n" in header or len(fields) < 3 or not fields[0].isdigit():
        return None
    if not (fields[1].isdigit() and fields[2].isdigit()) or len(fields[0]) > MOST_DIGITS["priority"]:
        return None
    if max(len(fields[1]), len(fields[2])) > MOST_DIGITS["number"]:
        return None
    text, *lines = rest.split(b"\n ")
    if lines:
        lines[-1] = lines[-1].removesuffix(b"\n")
    callers = [each.removeprefix(b"caller=") for each in fields[4:] if each.startswith(b"caller=")]
    return Record(
        facility=int(fields[0]) // 8,
        level=int(fields[0]) % 8,
        seq=int(fields[1]),
        kernel_us=int(fields[2]),
        flags=unescaped(fields[3]) if len(fields) > 3 else "",
        caller=unescaped(callers[0]) if callers else None,
        text=unescaped(text.removesuffix(b"\n")),
        dictionary={
            unescaped(key): unescaped(value)
            for key, equals, value in (line.partition(b"=") for line in lines)
            if equals
        },
    )


def unescaped(data: bytes) -> str:
    r"""`\xNN` as the byte it stands for; then UTF-8, with U+FFFD for what is not."""
    first, *others = data.split(b"\\x")
    found = first
    for piece in others:
        digits = piece[:2]
        if len(digits) == 2 and all(digit in b"0123456789abcdefABCDEF" for digit in digits):
            found += bytes([int(digits, 16)]) + piece[2:]
        else:
            found += b"\\x" + piece
    return found.decode("utf-8", "replace")
