"""One POST, within a deadline, and what came of it.

httpx2 is the HTTP client that the MCP SDK uses: in `serve` it is loaded anyway, elsewhere only where a
sink is used. A connection is kept for the next event, in the event loop and without a timer. Redirects
are not followed. Proxies of the environment (HTTPS_PROXY, NO_PROXY) are used.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from daemon.sinks.configuration import post_url
from daemon.sinks.credentials import read_secret
from daemon.sinks.names import NameLookup
from daemon.sinks.outcome import Fate, Outcome, fate_of, retry_after_s, status_words
from daemon.sinks.targets import HttpTarget
from daemon.text import clean
from probes.errors import UserError

if TYPE_CHECKING:
    import httpx2

SHOWN_CHARS: Final = 200
"""Of what a receiver says in a refusal."""
_READ_BYTES: Final = 65_536
"""Of an answer; with a longer one the connection is not used again."""


class Poster:
    """Posts to one target. Belongs to the event loop."""

    def __init__(self, target: HttpTarget, *, agent: str) -> None:
        """`agent`: the User-Agent. Raises UserError for a secret that cannot be read."""
        self._target = target
        self._agent = agent
        self._url = target.url
        self._headers = self._read()
        # Made now: the system's certificates take 0.1 s to load, in which nothing else would be sent.
        self._is_encrypted = self._url.startswith("https:")
        self._client = _client(target, is_encrypted=self._is_encrypted)
        self._names = NameLookup()

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> Outcome:
        """One try with a body of JSON."""
        import httpx2  # noqa: PLC0415 (loaded when this object was made)

        if self._is_encrypted != self._url.startswith("https:"):  # the URL is another since `read_again`
            await self._client.aclose()
            self._is_encrypted = not self._is_encrypted
            self._client = _client(self._target, is_encrypted=self._is_encrypted)
        all_headers = {**self._headers, **(headers or {})}
        answer: httpx2.Response | None = None
        said = ""
        try:
            async with asyncio.timeout(self._target.timeout_s):
                await self._names.look_up(self._url)
                async with self._client.stream(
                    "POST", self._url, content=body, headers=all_headers
                ) as answer:
                    said = await _beginning(answer)
        except (OSError, UnicodeError, httpx2.HTTPError) as error:
            # With its status the receiver has said what it made of it; what comes behind that may be lost.
            if answer is None:
                return Outcome(Fate.AWAY, self._why(error))
        assert answer is not None, "without one there was an error"
        fate = fate_of(answer.status_code)
        words = status_words(answer.status_code)
        if fate is Fate.DELIVERED:
            return Outcome(fate, words)
        asked = retry_after_s(answer.headers.get("retry-after"), time.time())
        return Outcome(fate, f"{words}: {said}" if said else words, asked)

    def read_again(self) -> str | None:
        """Take up secrets that were replaced; why not, when they cannot be read. For a thread."""
        try:
            self._headers = self._read()
        except UserError as error:
            return error.message
        return None

    async def close(self) -> None:
        """Close the connection."""
        self._names.close()
        await self._client.aclose()

    def _why(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._target.timeout_s:g} s"
        return _why(error)

    def _read(self) -> dict[str, str]:
        target = self._target
        if target.url_file is not None:
            self._url = post_url(read_secret(target.url_file), target.below)
        secret = {name: read_secret(file) for name, file in target.header_files.items()}
        return {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": self._agent,
            **target.headers,
            **secret,
        }


def _client(target: HttpTarget, *, is_encrypted: bool) -> httpx2.AsyncClient:
    """A client; one that encrypts nothing trusts nobody, and saves the 1.5 MB of the system's
    certificates."""
    import httpx2  # noqa: PLC0415 (0.2 s, only where a sink is used)

    for name in ("httpx2", "httpcore2"):
        # They log each URL and, asked for more, each header: secrets.
        logging.getLogger(name).setLevel(logging.WARNING)
    trusted: ssl.SSLContext | bool = True
    if target.ca_file is not None:
        trusted = ssl.create_default_context(cafile=str(target.ca_file))
    elif not is_encrypted:
        trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx2.AsyncClient(
        verify=trusted,
        timeout=None,
        limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=60),
        follow_redirects=False,
    )


async def _beginning(answer: httpx2.Response) -> str:
    """The first characters of an answer, fit to be printed; reads on, so that the connection can be kept."""
    content = b""
    length = 0
    async for chunk in answer.aiter_raw():
        length += len(chunk)
        content = content or chunk[: 4 * SHOWN_CHARS]
        if length > _READ_BYTES:
            break
    return clean(content.decode("utf-8", "replace").strip(), SHOWN_CHARS)


def _why(error: Exception) -> str:
    """A clause about a connection that failed, from the innermost cause that has words."""
    cause: BaseException | None = error
    words = ""
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {clean(cause.verify_message, SHOWN_CHARS)}"
        if isinstance(cause, ssl.SSLError):  # its number is OpenSSL's own
            return f"TLS failed: {clean((cause.reason or str(cause)).replace('_', ' ').lower(), SHOWN_CHARS)}"
        if isinstance(cause, BaseExceptionGroup):  # a name with several addresses: none answered
            cause = cause.exceptions[-1]
            continue
        if isinstance(cause, OSError) and cause.errno:
            # What asyncio says holds the address; a look-up of a name has negative numbers of its own.
            words = (os.strerror(cause.errno) if cause.errno > 0 else cause.strerror or "").lower()
        words = words or str(cause)
        cause = cause.__cause__ or cause.__context__
    return clean(words or type(error).__name__, SHOWN_CHARS)
