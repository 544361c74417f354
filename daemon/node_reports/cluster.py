"""The API server of the cluster that this process runs in: where it is, and one request at a time.

The place is found as every in-cluster client finds it: two variables and a folder that kubelet puts
into the container. The token is read for each request, because kubelet replaces it every hour. Nothing
here raises for what the server does; the server's own certificate authority is the only one believed.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from daemon.sinks.outcome import SAID_CHARS, Fate, Outcome, fate_of, retry_after_s, status_words
from daemon.text import clean
from probes.errors import UserError

if TYPE_CHECKING:
    import httpx2

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S: Final = 10.0
"""For one request, from the connection to the last byte."""
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
"""Merges a list by the key of its members: conditions by their type, so that others' stay."""
_MOST_BYTES: Final = 4 * 1024 * 1024
"""Of an answer. A node with 1,000 images in its status has less than one MiB."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the API server is, and what opens it."""

    url: str
    """`https://10.96.0.1:443`."""
    token_file: Path
    ca_file: Path


def in_cluster(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Cluster:
    """The cluster of this process. Raises UserError where it is in none, or has no token."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise UserError(
            "this process does not run in a Kubernetes pod: KUBERNETES_SERVICE_HOST is not set",
            hint="leave out --node-reports, or run it as the DaemonSet of the chart",
        )
    cluster = Cluster(
        f"https://{f'[{host}]' if ':' in host else host}:{port}", folder / "token", folder / "ca.crt"
    )
    for file in (cluster.token_file, cluster.ca_file):
        if not file.is_file():
            raise UserError(
                f"the pod has no service account token: {file} is missing",
                hint="set automountServiceAccountToken: true in the pod; the chart does with nodeReports",
            )
    return cluster


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request."""

    status: int | None
    """None when there was no answer."""
    said: str
    """One clause for people; what the server wrote is cleaned and cut."""
    body: Mapping[str, Any]
    """The object that it sent; {} for none."""
    retry_after_s: float | None = None

    @property
    def outcome(self) -> Outcome:
        """As the sinks tell it."""
        fate = Fate.AWAY if self.status is None else fate_of(self.status)
        return Outcome(fate, self.said, self.retry_after_s)


class ApiServer:
    """Belongs to the event loop. The connection is kept for a minute, without a timer."""

    def __init__(self, cluster: Cluster, *, agent: str, timeout_s: float = TIMEOUT_S) -> None:
        """`agent`: the User-Agent."""
        self._cluster = cluster
        self._agent = agent
        self._timeout_s = timeout_s
        self._client: httpx2.AsyncClient | None = None

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """One try, within the deadline."""
        import httpx2  # noqa: PLC0415 (0.2 s, only where reports are asked for)

        try:
            client = self._client = self._client or self._connect()
            headers = {"authorization": f"Bearer {_token(self._cluster.token_file)}"}
            content = None
            if body is not None:
                headers["content-type"] = content_type
                content = json.dumps(body).encode("ascii")
            async with asyncio.timeout(self._timeout_s):
                async with client.stream(
                    method, f"{self._cluster.url}{path}", content=content, headers=headers
                ) as answer:
                    received = await _all_of(answer)
        except TimeoutError:
            return Answer(None, f"no answer within {self._timeout_s:g} s", {})
        except (httpx2.HTTPError, OSError, UnicodeDecodeError) as error:
            return Answer(None, clean(str(error) or type(error).__name__, SAID_CHARS), {})
        said = status_words(answer.status_code)
        message = received.get("message")
        if answer.status_code >= 300 and isinstance(message, str):
            said = f"{said}: {clean(message, SAID_CHARS)}"
        asked = retry_after_s(answer.headers.get("retry-after"), time.time())
        return Answer(answer.status_code, said, received, asked)

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _connect(self) -> httpx2.AsyncClient:
        import httpx2  # noqa: PLC0415 (loaded by the caller)

        return httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=str(self._cluster.ca_file)),
            headers={
                "user-agent": self._agent,
                "accept": "application/json",
                "accept-encoding": "identity",  # a small packed answer may be a large one
            },
            timeout=None,  # the whole request has a deadline, which a slow trickle cannot stretch
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=60),
            follow_redirects=False,
            trust_env=False,  # a proxy of the environment leads out of the cluster, and the token with it
        )


def _token(file: Path) -> str:
    """Raises OSError for what is none: the words of HTTP's own error would hold it, and are shown."""
    token = file.read_text("ascii").strip()
    if not token or not token.isprintable():
        raise OSError(f"{file} does not hold a token")
    return token


async def _all_of(answer: httpx2.Response) -> Mapping[str, Any]:
    """The object in the answer; {} when it is none, or longer than any that is expected."""
    content = bytearray()
    async for chunk in answer.aiter_raw():
        content += chunk
        if len(content) > _MOST_BYTES:
            return {}
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
