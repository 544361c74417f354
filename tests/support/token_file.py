"""A token file of a test, and the secrets that it holds the hashes of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx2
from mcp.client._transport import Transport
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from mcp_server.identity import Scope
from mcp_server.tokens import Token, new_secret, token_of


def bearer(secret: str) -> dict[str, str]:
    """The header that shows it."""
    return {"Authorization": f"Bearer {secret}"}


class TokenFileOnDisk:
    """Replaced whole at every change, as `xidwatch token` and Kubernetes do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tokens: dict[str, Token] = {}
        self.secrets: dict[str, str] = {}

    def add(self, name: str, scope: Scope = Scope.READ, expires: float | None = None) -> str:
        """A new token is in the file; its secret."""
        secret = self.secrets[name] = new_secret()
        self._tokens[name] = token_of(secret, name, scope, expires)
        self._write()
        return secret

    def remove(self, name: str) -> None:
        """The token is in the file no more."""
        del self._tokens[name]
        self._write()

    def text(self) -> str:
        """What the file holds."""
        return "".join(f"{token.line()}\n" for token in self._tokens.values())

    def write(self, text: str, mode: int = 0o600) -> None:
        """Put anything into the file."""
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode)
        fresh.chmod(mode)
        fresh.write_text(text)
        fresh.replace(self.path)

    def _write(self) -> None:
        self.write(self.text())


def http_client(secret: str | None, more: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    """What the SDK's client asks over, with the token shown."""
    return create_mcp_http_client(headers={**(bearer(secret) if secret else {}), **(more or {})})


def transport(url: str, secret: str | None) -> Transport:
    """The SDK's transport to /mcp, with the token shown."""
    return streamable_http_client(url, http_client=http_client(secret))
