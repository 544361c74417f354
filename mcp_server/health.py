"""`/healthz`, `/readyz`, `/version`: is it alive, does it hear, what is it.

Liveness is only that the event loop turns: a fault that blinds a probe must not get the one
process killed that could report it. Readiness is that at least one live source hears.
"""

from __future__ import annotations

import platform

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.responses import Response

from daemon.event import SCHEMA
from mcp_server.replies import object_reply
from mcp_server.services import Services


class HealthEndpoints:
    """The three endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def alive(self, request: Request) -> Response:
        """200 as long as anything can be answered at all."""
        return object_reply({"ok": True})

    async def ready(self, request: Request) -> Response:
        """200 while at least one live source hears, else 503; says which do not, and why."""
        probes = self._services.health()
        hears = any(probe.live and probe.hears for probe in probes)
        body = {
            "ready": hears,
            "probes": [
                {
                    "name": probe.name,
                    "hears": probe.hears,
                    "live": probe.live,
                    "state": probe.state.value,
                    "cause": probe.cause,
                    "reason": probe.reason,
                    "hint": probe.hint,
                }
                for probe in probes
            ],
        }
        return object_reply(body, 200 if hears else 503)

    async def version(self, request: Request) -> Response:
        """What this is and what it speaks."""
        return object_reply(
            {
                "name": "xidwatch",
                "version": self._services.version,
                "node": self._services.node,
                "event_schema": SCHEMA,
                "mcp_protocols": [*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS],
                "python": platform.python_version(),
            }
        )
