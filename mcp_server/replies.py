"""The JSON replies that several paths share."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

from probes.errors import UserError


def json_reply(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response whose body is JSON text made elsewhere."""
    return Response(text, status, dict(headers or {}), media_type="application/json")


def object_reply(data: Mapping[str, object], status: int = 200) -> Response:
    """A response whose body is this object, one key a line: people read it with curl."""
    return json_reply(json.dumps(data, indent=1) + "\n", status)


def error_json(error: UserError) -> str:
    """`{"error": sentence, "hint": sentence or null}`, one line."""
    return json.dumps({"error": error.message, "hint": error.hint})


def refusal(error: UserError, status: int = 400) -> Response:
    """The answer to a request the client can mend."""
    return json_reply(error_json(error) + "\n", status)
