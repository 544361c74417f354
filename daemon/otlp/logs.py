"""Events as OTLP log records: an outlet of the sinks, with their cursor, pace and retries.

Every event is sent when it is heard, and again when it turned out worse, when its incident ended or its
advice changed: a record cannot be changed, so `xidwatch.event.revision` tells which is the newer one.
Nothing is lost while the receiver is away: it is a reader of the journal. The SDK's own exporter keeps
records in memory and a thread that wakes every five seconds, so its encoding is used and not its queue.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemon.filter import EVERYTHING
from daemon.otlp.target import OtlpTarget
from daemon.sinks.batch import Batch
from daemon.sinks.news import Memory, News, Updates
from daemon.sinks.outcome import Fate, Outcome, fate_of, retry_after_s, status_words
from daemon.text import clean

if TYPE_CHECKING:
    import httpx2

NAME: Final = "otlp-logs"
TIMEOUT_S: Final = 10.0
"""For one request: the default of the OTLP exporter's specification."""
_MOST_BYTES: Final = 65_536
"""Of an answer."""
_SAID_CHARS: Final = 200

_log = logging.getLogger(__name__)


class OtlpLogs:
    """Belongs to the event loop."""

    takes_many = True

    def __init__(self, target: OtlpTarget, *, version: str, timeout_s: float = TIMEOUT_S) -> None:
        self.rejected = 0
        """Records that the receiver took note of and did not keep, since start."""
        self._target = target
        self._version = version
        self._timeout_s = timeout_s
        self._memory = News(EVERYTHING, Updates.IMPORTANT, drills=True)
        self._client: httpx2.AsyncClient | None = None

    @property
    def memory(self) -> Memory:
        """All of the stream concerns it."""
        return self._memory

    async def send(self, batch: Batch) -> Outcome:
        """One export."""
        import httpx2  # noqa: PLC0415 (0.2 s, only with an endpoint)

        from daemon.otlp.log_records import request  # noqa: PLC0415 (needs the extra)

        export = request(batch, self._target.resource, version=self._version)
        try:
            client = self._client = self._client or self._connect()
            async with asyncio.timeout(self._timeout_s):
                answer = await _post(client, self._target.url("logs"), export.SerializeToString())
        except TimeoutError:
            return Outcome(Fate.AWAY, f"no answer within {self._timeout_s:g} s")
        except (httpx2.HTTPError, OSError) as error:
            return Outcome(Fate.AWAY, clean(str(error) or type(error).__name__, _SAID_CHARS))
        fate = fate_of(answer.status)
        if fate is Fate.DELIVERED:
            self._note_rejected(answer.content)
        return Outcome(fate, status_words(answer.status), retry_after_s(answer.retry_after, time.time()))

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _note_rejected(self, content: bytes) -> None:
        """A receiver that took the request may say that it keeps only part of it, for good."""
        # protobuf is shipped without types.
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # noqa: PLC0415
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (  # noqa: PLC0415
            ExportLogsServiceResponse,
        )

        try:
            partial = ExportLogsServiceResponse.FromString(content).partial_success
        except DecodeError:
            return  # not what the specification asks for, and yet it said 200
        if partial.rejected_log_records:
            self.rejected += partial.rejected_log_records
            why = clean(partial.error_message, _SAID_CHARS)
            _log.error("OTLP: %d log records were rejected: %s", partial.rejected_log_records, why)

    def _connect(self) -> httpx2.AsyncClient:
        import httpx2  # noqa: PLC0415 (loaded by the caller)

        ca_file = self._target.ca_file
        return httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=str(ca_file)) if ca_file is not None else True,
            headers={
                "user-agent": f"xidwatch/{self._version}",
                **self._target.headers,
                "content-type": "application/x-protobuf",
            },
            timeout=None,  # the whole request has a deadline, which a slow trickle cannot stretch
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=60),
            follow_redirects=False,
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    retry_after: str | None
    content: bytes
    """Cut where it is longer than any that is expected."""


async def _post(client: httpx2.AsyncClient, url: str, body: bytes) -> _Answer:
    async with client.stream("POST", url, content=body) as answer:
        content = bytearray()
        async for chunk in answer.aiter_bytes():
            content += chunk
            if len(content) > _MOST_BYTES:
                break
    return _Answer(answer.status_code, answer.headers.get("retry-after"), bytes(content))
