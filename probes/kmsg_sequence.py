"""Which records of one log were lost, judged by nothing but their sequence numbers."""

from __future__ import annotations

_NONE_LOST = range(0)


class SequenceTracker:
    """Follows the sequence numbers of one log; owned by the probe that reads it.

    The kernel numbers records without holes, so a hole in what was read is exactly what was lost.
    """

    def __init__(self, expected: int | None = None) -> None:
        """`expected` is the first number not yet known; None: whatever comes first sets the base.

        A log that begins before `expected` is read from its beginning: nothing is lost.
        """
        self.last: int | None = None
        """Newest sequence number taken; None before the first."""
        self.restarts = 0
        """How often the numbers went back, as when a FIFO's writer began another log."""
        self._expected = expected
        self._rereading = False
        self._newest_reread: int | None = None

    def take(self, seq: int) -> range | None:
        """Account for the record numbered `seq`: the numbers lost right before it, mostly none.

        None when the record was taken before and comes again because the log is being reread.
        """
        expected = self._expected
        if seq != expected and expected is not None:
            if seq > expected:
                return self._advance(seq, range(expected, seq))
            if self._rereading:
                self._newest_reread = seq
                return None
            if self.last is not None:
                self.restarts += 1
        return self._advance(seq, _NONE_LOST)

    def reread(self) -> None:
        """The log was opened again and will be read from its oldest record."""
        self._rereading = self.last is not None
        self._newest_reread = None

    def caught_up(self) -> bool:
        """Word that the newest record has been read. False when rereading ended before the last
        record taken: this is another log, and its records are yet to be told."""
        same_log = not self._rereading or self._newest_reread == self.last
        self._rereading = False
        return same_log

    def _advance(self, seq: int, lost: range) -> range:
        self._rereading = False
        self.last = seq
        self._expected = seq + 1
        return lost
