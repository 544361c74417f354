"""The receiver of OTLP/HTTP: one POST at a time, within a deadline.

The exporter of OpenTelemetry's SDK is not used: it follows redirects, and takes the headers with their
secrets along to another host; it reads an answer that never ends into memory; and it blocks a thread.
Here an answer is read as it comes, up to a bound, and never unpacked.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from typing import Final

import httpx2

from daemon.otlp.target import OtlpTarget
from daemon.sinks.names import NameLookup
from daemon.sinks.outcome import SAID_CHARS, Fate, Outcome, fate_of, retry_after_s, status_words
from daemon.text import clean

TIMEOUT_S: Final = 10.0
"""For one request: the default of the OTLP exporter's specification."""
_MOST_BYTES: Final = 65_536
"""Of an answer; a longer one is cut."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request."""

    outcome: Outcome
    content: bytes = b""
    """What the receiver sent, not decoded."""


class Receiver:
    """One signal's way there. Belongs to the event loop it was made in. The connection is kept for a
    minute, without a timer."""

    def __init__(
        self, target: OtlpTarget, signal: str, *, version: str, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`signal`: `logs` or `traces`. The certificates of `target` were found to be good."""
        self._url = target.url(signal)
        self._timeout_s = timeout_s
        self._names = NameLookup()
        # Made now: the system's certificates take 0.1 s to load, in which nothing else would be sent.
        self._client = httpx2.AsyncClient(
            verify=_trusted(target),
            headers={
                "user-agent": f"xidwatch/{version}",
                **target.headers,
                "content-type": "application/x-protobuf",
                "accept-encoding": "identity",
            },
            timeout=None,  # the whole request has a deadline, which a slow trickle cannot stretch
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=60),
            follow_redirects=False,
        )

    async def post(self, body: bytes) -> Answer:
        """One try. Never raises for what the receiver does."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._names.look_up(self._url)
                async with self._client.stream("POST", self._url, content=body) as answer:
                    content = bytearray()
                    async for chunk in answer.aiter_raw():
                        content += chunk[: _MOST_BYTES - len(content)]
                        if len(content) == _MOST_BYTES:
                            break
        except TimeoutError:
            return Answer(Outcome(Fate.AWAY, f"no answer within {self._timeout_s:g} s"))
        except (httpx2.HTTPError, OSError, UnicodeError) as error:
            words = error.strerror if isinstance(error, OSError) else str(error)
            return Answer(Outcome(Fate.AWAY, clean(words or type(error).__name__, SAID_CHARS)))
        status = answer.status_code
        asked = retry_after_s(answer.headers.get("retry-after"), time.time())
        return Answer(Outcome(fate_of(status), status_words(status), asked), bytes(content))

    async def close(self) -> None:
        """Close the connection."""
        self._names.close()
        await self._client.aclose()


def _trusted(target: OtlpTarget) -> ssl.SSLContext | bool:
    if target.ca_file is not None:
        return ssl.create_default_context(cafile=str(target.ca_file))
    if target.endpoint.startswith("https:"):
        return True
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # encrypts nothing, and so trusts nobody
