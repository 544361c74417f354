"""The version, in one place; the build reads it from here."""

from __future__ import annotations

VERSION = "0.1.0"


def run(*, as_json: bool) -> int:
    """Print the version, and with JSON what it runs on."""
    if as_json:
        # Every command reads VERSION; only this one needs these.
        import json
        import platform
        import sqlite3

        about = {
            "version": VERSION,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "kernel": platform.release(),
        }
        print(json.dumps(about))
    else:
        print(f"xidwatch {VERSION}")
    return 0
