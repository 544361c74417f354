"""What the tests of bad input share: an ordinary fault, and how an error has to look."""

from __future__ import annotations

from tests.support.command import Result

GPU = "0000:91:00"


def fault(code: int, pid: int) -> str:
    """A line as the driver prints it."""
    return f"NVRM: Xid (PCI:{GPU}): {code}, pid={pid}, name=python3, Ch 00000008"


def is_one_sentence(result: Result) -> None:
    """The error of a user: a sentence, mostly with a hint, no traceback, exit code 2."""
    assert result.code == 2, result
    assert "Traceback" not in result.err
    first, *rest = result.err.removesuffix("\n").split("\n")
    assert first.startswith("xidwatch: ")
    assert all(line.startswith("hint: ") for line in rest)
    assert len(rest) <= 1
    assert result.out == ""
