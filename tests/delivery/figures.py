"""Where tests put what they measured; `conftest` shows it at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

Figures = Callable[[str], None]
"""Takes one line."""
