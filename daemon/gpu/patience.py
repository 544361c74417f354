"""How long a client of the GPU worker waits, and how long it remembers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take or are remembered, in seconds."""

    start_s: float = 10.0
    """How long a worker may take until it reads requests; it takes a tenth of a second."""
    idle_s: float = 60.0
    """A worker nobody asks is ended after this: it keeps device files open, which a driver unload and a
    reset of a GPU wait for."""
    alone_s: float = 600.0
    """How long a GPU is left alone that hung, or crashed the worker."""
    together_s: float = 30.0
    """The same when several hung at once, where one may only have waited for a lock the other held."""
    again_s: float = 60.0
    """How often at most the library is initialised anew for one GPU that seems lost."""
    attach_s: float = 60.0
    """How long initialising the library or attaching a GPU may take before its worker is given up: a GPU
    without persistence mode takes seconds, and starting over would never come to an end."""
    attach_retry_s: float = 2.0
    """How long what is still attaching is left alone."""
    trouble_s: float = 5.0
    """How long a trouble of the library is remembered before it is tried again."""
