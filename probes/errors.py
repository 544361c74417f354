"""The one error that is meant for the user's eyes."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: one clear sentence, and a hint that says what to do.

    The command line prints both on stderr and exits with code 2; HTTP and MCP answer them as a
    client error. Never used for bugs, nor for a missing probe or GPU (those are states).
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
