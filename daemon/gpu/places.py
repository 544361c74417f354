"""How many questions may be under way at the same time: so many about each GPU, so many about all.

So what happens to one GPU takes nothing from another, and addresses that nobody has seen cannot take
all there is.
"""

from __future__ import annotations

from collections import Counter


class Places:
    """See the module's docstring. For one owner; not thread-safe."""

    def __init__(self, *, each: int, together: int) -> None:
        """`each`: about one GPU; `together`: about all of them."""
        self._each = each
        self._together = together
        self._taken: Counter[str | None] = Counter()

    def take(self, gpu: str | None, *, share: float = 1.0) -> bool:
        """Take a place for a question about this GPU (None: about none); False when there is none left.
        `share`: the part of all places that such questions may fill."""
        of_all = self._taken.total() < self._together * share
        if not of_all or self._taken[gpu] >= self._each * share:
            return False
        self._taken[gpu] += 1
        return True

    def holds(self, gpu: str | None) -> bool:
        """True while a question about this GPU is under way."""
        return self._taken[gpu] > 0

    def give_back(self, gpu: str | None) -> None:
        """The question is answered."""
        self._taken[gpu] -= 1
        if not self._taken[gpu]:
            del self._taken[gpu]
