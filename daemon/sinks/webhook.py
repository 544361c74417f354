"""A webhook: the batch as JSON, signed, or one line of text an event for a chat.

The signature is the header `X-Xidwatch-Signature: t=SECONDS,v1=HEX`: the HMAC-SHA256 of
`SECONDS.BODY` under the key of `secret-file`. SECONDS is the Unix time of sending, so that a receiver
can refuse what somebody recorded and sends again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Final

from daemon.sinks import wording
from daemon.sinks.batch import Batch, sentence_of_missed
from daemon.sinks.credentials import read_secret
from daemon.sinks.http_post import Poster
from daemon.sinks.news import Memory
from daemon.sinks.outcome import Fate, Outcome
from daemon.sinks.targets import BodyFormat, WebhookTarget
from daemon.text import clean
from daemon.thread import DiskThread
from probes.errors import UserError

SIGNATURE: Final = "x-xidwatch-signature"
MOST_LINES: Final = 20
"""Events that one message of a chat names; of more it says how many."""


class Webhook:
    """One webhook. Belongs to the event loop."""

    takes_many = True

    def __init__(self, target: WebhookTarget, memory: Memory, *, agent: str, disk: DiskThread) -> None:
        """Raises UserError for a secret that cannot be read."""
        self._target = target
        self._memory = memory
        self._disk = disk
        self._poster = Poster(target.http, agent=agent)
        self._key = self._read_key()

    @property
    def memory(self) -> Memory:
        """What it told."""
        return self._memory

    async def send(self, batch: Batch) -> Outcome:
        """Post it. After a refusal the secrets are read anew for the next try."""
        body = (batch.to_json() if self._target.format is BodyFormat.JSON else slack(batch)).encode("ascii")
        headers = {}
        if self._key is not None:
            headers[SIGNATURE] = signature(self._key, body, int(time.time()))
        outcome = await self._poster.post(body, headers)
        if outcome.fate in (Fate.CLOSED, Fate.REFUSED):
            await self._disk.call(self._read_again)
        return outcome

    async def close(self) -> None:
        """Close the connection."""
        await self._poster.close()

    def _read_again(self) -> None:
        self._poster.read_again()
        try:
            self._key = self._read_key()
        except UserError:
            return  # what was read before is still the best guess

    def _read_key(self) -> str | None:
        file = self._target.secret_file
        return None if file is None else read_secret(file)


def signature(key: str, body: bytes, seconds: int) -> str:
    """The value of the header for a body sent at this Unix time."""
    digest = hmac.new(key.encode("ascii"), b"%d." % seconds + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def slack(batch: Batch) -> str:
    """`{"text": …}` with a line an event. What Slack would take for a link or a mention is escaped."""
    lines = ["*TEST ALARM*: nothing is wrong"] if batch.is_test else []
    for item in batch.items[:MOST_LINES]:
        todo = wording.advice(item.event)
        lines.append(_escaped(wording.headline(item.event)) + (f"\n> {_escaped(todo)}" if todo else ""))
    if len(batch.items) > MOST_LINES:
        lines.append(f"and {len(batch.items) - MOST_LINES} more")
    node = _escaped(clean(batch.node, 253))
    if batch.missed is not None:
        lines.append(f"{node}: {sentence_of_missed(batch.missed)}")
    lines += [f"{node}: {each.id} could not be sent: {_escaped(each.reason)}" for each in batch.skipped[:5]]
    return json.dumps({"text": "\n".join(lines)})


def _escaped(text: str) -> str:
    """https://docs.slack.dev/messaging/formatting-message-text: these three, and no others."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
