"""Secrets in files: a signing key, a header's value, a URL that holds a token.

A file that others on the node may read is no secret and is refused. Group members may: that is how a
service reads a file of root's. Files are read at start, and again after a receiver refused us, so that a
secret that was replaced is taken up without a restart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from daemon import regular_file
from daemon.regular_file import OPEN_TO_OTHERS, TooLongError, UnfitFileError
from probes.errors import UserError

MOST_BYTES: Final = 8_192
"""What web servers take as one header (nginx, Apache), and so more than any secret that they accept."""
_HINT: Final = "chmod o-rwx the file; in a Kubernetes volume set defaultMode: 0400"


def read_secret(path: Path) -> str:
    """The first and only line of a secret file. Raises UserError."""
    try:
        content = regular_file.read(path, MOST_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except TooLongError:
        raise UserError(_not_one_line(path)) from None
    except UnfitFileError as error:
        raise UserError(f"{path} {error}", hint="write the secret into a file, in one line") from None
    if content.status.st_mode & OPEN_TO_OTHERS:
        raise UserError(f"{path} holds a secret and others may read or write it", hint=_HINT)
    try:
        text = content.data.decode("ascii").strip("\r\n \t")
    except UnicodeDecodeError:
        raise UserError(f"{path} holds something else than ASCII text") from None
    if not text:
        raise UserError(f"{path} is empty", hint="write the secret into it, in one line")
    if not text.isprintable():
        raise UserError(_not_one_line(path))
    return text


def _not_one_line(path: Path) -> str:
    return f"{path} is not one line of at most {MOST_BYTES} characters"
