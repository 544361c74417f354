"""A unix socket that answers with prepared bytes: a daemon that misbehaves on purpose."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Any


class SocketStub:
    """Reads the first line of each connection, answers, hangs up.

    Who asks for events gets the prepared answers one after the other; who asks for the status gets `status`.
    """

    def __init__(self, path: Path, *answers: bytes, status: bytes = b"") -> None:
        self.requests: list[dict[str, Any]] = []
        """What the clients that wanted events asked, in order."""
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen()
        self._answers = iter(answers)
        self._status = status
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> SocketStub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                line = lines.readline()
                if not line:  # a client that was ended before it asked
                    continue
                request = json.loads(line)["xidwatch"]
                if request["want"] == "status":
                    connection.sendall(self._status)
                    continue
                self.requests.append(request)
                answer = next(self._answers, None)
                if answer is None:
                    return
                connection.sendall(answer)
