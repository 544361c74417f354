"""How much of something one client may have open at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class OverQuotaError(Exception):
    """The client has as many open as it may."""


class Quota:
    """Counts what is open by client. Belongs to the event loop."""

    def __init__(self, most: int) -> None:
        self.most = most
        """The most one client may have open."""
        self._open: Counter[str] = Counter()

    @contextmanager
    def taken_by(self, client: str) -> Iterator[None]:
        """One more of this client's, for as long as the block runs. Raises OverQuotaError."""
        if self._open[client] >= self.most:
            raise OverQuotaError
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
