"""Messages of the daemon itself, on stderr only: stdout belongs to commands and protocols.

As text for people (`HH:MM:SS level name: message`) or as one JSON object a line for collectors.
Never a line that a kernel log reader could take for an Xid: log text in a message is quoted.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from daemon.config import LogFormat, LogLevel
from daemon.text import clean

_LIBRARIES = ("uvicorn", "mcp", "sse_starlette", "asyncio")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        name = record.name.partition(".")[2] or record.name
        text = f"{clock} {record.levelname.lower():<7} {name}: {clean(record.getMessage(), 4096)}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": clean(record.getMessage(), 4096),
        }
        if record.exc_info:
            message["traceback"] = self.formatException(record.exc_info)
        return json.dumps(message)


def set_up(level: LogLevel, form: LogFormat) -> None:
    """Send everything from `level` up to stderr. Libraries speak from warning up, unless debugging."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form is LogFormat.JSON else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(
            logging.DEBUG if level is LogLevel.DEBUG else max(logging.WARNING, root.level)
        )
