"""Events as OTLP log records: an outlet of the sinks, with their cursor, pace and retries.

Every event is sent when it is heard, and again when it turned out worse, when its incident ended or its
advice changed: a record cannot be changed, so `xidwatch.event.revision` tells which is the newer one.
Nothing is lost while the receiver is away: it is a reader of the journal. The SDK's own exporter keeps
records in memory and a thread that wakes every five seconds, so its encoding is used and not its queue.
"""

from __future__ import annotations

import logging
from typing import Final

from daemon.filter import EVERYTHING
from daemon.otlp.receiver import TIMEOUT_S, Receiver
from daemon.otlp.target import OtlpTarget
from daemon.sinks.batch import Batch
from daemon.sinks.news import Memory, News, Updates
from daemon.sinks.outcome import SAID_CHARS, Outcome
from daemon.text import clean

NAME: Final = "otlp-logs"

_log = logging.getLogger(__name__)


class OtlpLogs:
    """Belongs to the event loop."""

    takes_many = True

    def __init__(self, target: OtlpTarget, *, version: str, timeout_s: float = TIMEOUT_S) -> None:
        self.rejected = 0
        """Records that the receiver took note of and did not keep, since start."""
        self._target = target
        self._version = version
        self._memory = News(EVERYTHING, Updates.IMPORTANT, drills=True)
        self._receiver = Receiver(target, "logs", version=version, timeout_s=timeout_s)

    @property
    def memory(self) -> Memory:
        """All of the stream concerns it."""
        return self._memory

    async def send(self, batch: Batch) -> Outcome:
        """One export."""
        from daemon.otlp.log_records import request  # noqa: PLC0415 (needs the extra)

        export = request(batch, self._target.resource, version=self._version)
        answer = await self._receiver.post(export.SerializeToString())
        if answer.outcome.is_delivered:
            self._note_rejected(answer.content)
        return answer.outcome

    async def close(self) -> None:
        """Close the connection."""
        await self._receiver.close()

    def _note_rejected(self, content: bytes) -> None:
        """A receiver that took the request may say that it keeps only part of it, for good."""
        # Both come with an optional extra and are costly. protobuf is shipped without types.
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
            why = clean(partial.error_message, SAID_CHARS)
            _log.error("OTLP: %d log records were rejected: %s", partial.rejected_log_records, why)
