"""How many files this process may open, and how many of them connections may take.

Connections never get them all: the journal, the probes and what they read of other processes need some
for as long as the daemon lives, and a client that takes thousands must not take theirs.
"""

from __future__ import annotations

import resource
from typing import Final

OPEN_FILES: Final = 16_384
"""Soft limit of open files to ask for: the usual 1,024 would be used up by as many subscribers."""
OTHER_FILES: Final = 2_048
"""Open files that are no HTTP connections, where there are many: the unix socket's, the journal's, the
probes'."""


def open_files() -> int:
    """Raise the soft limit of open files as far as is wanted and allowed; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def for_http(files: int, most: int) -> int:
    """Room for HTTP connections where so many files may be open, at most `most`: a quarter of few files, of
    many what the others leave. It ends at twice that (see `Quota`)."""
    return max(1, min(most, max(files // 4, (files - OTHER_FILES) // 2)))


def for_socket(files: int, most: int) -> int:
    """Room for connections on the unix socket, likewise: an eighth of few files."""
    return max(1, min(most, files // 8))
