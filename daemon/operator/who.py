"""Who asked: what the daemon itself knows of it, not what a client says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Way(StrEnum):
    """How somebody was told apart from others."""

    TOKEN = "token"  # noqa: S105  (a word, no secret)
    """By a bearer token of the token file."""
    OAUTH = "oauth"
    """By an access token of the OAuth issuer."""
    SOCKET = "socket"
    """By the kernel: the process at the other end of the unix socket."""
    CERTIFICATE = "certificate"
    """By a TLS client certificate, where no token is asked for."""
    ANONYMOUS = "anonymous"
    """Not at all."""


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody who asks; a value."""

    way: Way
    name: str | None = None
    """Name of the token; subject of the access token or certificate; user name of the process.
    None when there is none."""
    issuer: str | None = None
    """Of an access token; else None."""
    uid: int | None = None
    """User id of the process, as this process's user namespace numbers it; None beyond the socket."""
    pid: int | None = None
    """Process id, as this process's pid namespace numbers it; 0 for a process of another one; None beyond the
    socket."""

    def __str__(self) -> str:
        match self.way:
            case Way.TOKEN:
                return f"token {self.name}"
            case Way.OAUTH:
                return f"{self.name} of {self.issuer}"
            case Way.SOCKET:
                user = f"uid {self.uid}" + (f" ({self.name})" if self.name else "")
                return f"{user}, pid {self.pid or 'of another namespace'}"
            case Way.CERTIFICATE:
                return f"certificate {self.name}"
            case Way.ANONYMOUS:
                return "somebody without a token"

    def to_json(self) -> Mapping[str, str | int | None]:
        """Every field; null for what is not known."""
        return {
            "way": self.way.value,
            "name": self.name,
            "issuer": self.issuer,
            "uid": self.uid,
            "pid": self.pid,
        }
