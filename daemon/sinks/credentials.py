"""Secrets in files: a signing key, a header's value, a URL that holds a token.

A file that others on the node may read is no secret and is refused. Group members may: that is how a
service reads a file of root's. Files are read at start, and again after a receiver refused us, so that a
secret that was replaced is taken up without a restart.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from probes.errors import UserError

MOST_BYTES: Final = 8_192
_HINT: Final = "chmod o-rwx the file; in a Kubernetes volume set defaultMode: 0400"


def read_secret(path: Path) -> str:
    """The first and only line of a secret file. Raises UserError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{path} is not a file")
            if status.st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise UserError(f"{path} holds a secret and others may read or write it", hint=_HINT)
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        text = content.decode("ascii").strip("\r\n \t")
    except UnicodeDecodeError:
        raise UserError(f"{path} holds something else than ASCII text") from None
    if not text:
        raise UserError(f"{path} is empty", hint="write the secret into it, in one line")
    if len(content) > MOST_BYTES or not text.isprintable():
        raise UserError(f"{path} is not one line of at most {MOST_BYTES} characters")
    return text
