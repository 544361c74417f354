"""`python -m tests.door.document`: ask a real daemon for everything and write docs/security-door.md."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcp_server.identity import Scope
from tests.door.table import Asker, rows
from tests.support.daemon import ROOT, Daemon
from tests.support.issuer import Issuer
from tests.support.kernel_log import FakeKernelLog
from tests.support.token_file import TokenFileOnDisk

DOCUMENT = ROOT / "docs" / "security-door.md"
HEADER = """\
# Who gets in

What every endpoint answers to whom, where the daemon has a token file (`--token-file`), an OAuth issuer
(`--oauth-issuer`) and runs in operator mode. The cells are the HTTP status. A real daemon is asked for all of
them by `make test`, which fails when an answer is no longer the one printed here; `python -m
tests.door.document` writes it anew. The last column is what a client without a certificate gets where the
daemon asks for one (`--tls-client-ca`): the TLS handshake fails, and no endpoint is reached.
"""
FOOTER = """\
* 401 without a token, or with one that is wrong, has expired or was taken out of the file. The answer carries
  `WWW-Authenticate: Bearer`; with OAuth also where its metadata is.
* 403 for a page of a foreign origin, and for an access token with neither the scope `read` nor `operate`.
* 421 for a Host header that is not this daemon's: somebody else's name leads here.
* 429 beyond the rate limit, with `Retry-After`. 503 where the keys of the OAuth issuer cannot be had.
* 400, 404 and 406 come from behind the door: the request was let in and asks for something that is not there.
* An operator tool is not listed for a client that may only read; a call of it is refused and recorded.

Without a token file and an issuer the daemon listens on loopback only, and everybody there may read and
nobody may operate, unless `--allow-anonymous` says otherwise about the address. The unix socket asks for no
token: the kernel says who is there.
"""


@contextmanager
def daemon_with_a_door(directory: Path) -> Iterator[tuple[Daemon, dict[str, str]]]:
    """A daemon that asks for tokens, and the secrets of two, by scope."""
    disk = TokenFileOnDisk(directory / "tokens")
    secrets = {"read": disk.add("dash"), "operate": disk.add("on-call", Scope.OPERATE)}
    with FakeKernelLog(directory / "kmsg") as log, Issuer() as issuer:
        keys = directory / "keys.json"
        keys.write_text(json.dumps(issuer.jwks()), encoding="utf-8")
        flags = (
            *("--token-file", str(disk.path), "--mode", "operator", "--gpu", "mock"),
            *("--oauth-issuer", issuer.url, "--oauth-audience", issuer.audience, "--oauth-jwks", str(keys)),
        )
        daemon = Daemon(directory, kmsg=log.path, flags=flags, token=secrets["read"])
        try:
            yield daemon.start(), secrets
        finally:
            daemon.stop()


def text(directory: Path) -> str:
    """The document, as the daemon answers now."""
    heading = ("asked for", *(asker.value for asker in Asker), "no certificate")
    with daemon_with_a_door(directory) as (daemon, secrets):
        cells = [heading, ("---",) * len(heading), *rows(daemon, secrets)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    return f"{HEADER}\n{table}\n\n{FOOTER}"


def main() -> int:
    """Write the document."""
    with tempfile.TemporaryDirectory() as directory:
        DOCUMENT.write_text(text(Path(directory)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
