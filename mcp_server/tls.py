"""The certificate of HTTPS as it is in force, and how it follows its files.

* **A change is seen by the next handshake.** `Tls.context` looks at the files each time (`stat`, which also
  sees a Kubernetes Secret's links move on), so nothing polls. Connections that are open stay.
* **Bad files change nothing.** What was in force stays in force; the reason is logged once a change, and told
  by `report` for as long as it lasts.
* **A disk that hangs holds nobody up.** Files are looked at in a thread, for at most `LOOK_S`; after that
  handshakes go on with what is in force until that thread is back.
* **Time does not keep the daemon from starting.** An expired certificate is used with a warning: the node
  must go on recording, and clients refuse it by themselves. It never replaces one that is valid.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from daemon.config import Config
from daemon.event import rfc3339
from mcp_server.certificate import Certificate
from mcp_server.tls_files import Signature, TlsFiles, load, signature
from probes.errors import UserError

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How long a handshake waits for a look at the files."""


@dataclass(frozen=True, slots=True)
class TlsReport:
    """What is in force, for status and metrics."""

    files: TlsFiles
    certificate: Certificate
    read_us: int
    """When what is in force was read, Unix µs."""
    refused: str | None
    """Why what the last handshake found on disk is not in force; None: it is."""
    changes: int
    """Changes of the files that came into force since the start."""
    failed_handshakes: int
    """Connections since the start that ended before they were encrypted: no or an unknown client certificate,
    another protocol, too slow."""

    def to_dict(self) -> Mapping[str, Any]:
        """For JSON. Times are RFC 3339 in UTC."""
        return {
            "subject": self.certificate.subject,
            "names": list(self.certificate.names),
            "valid_from": rfc3339(self.certificate.valid_from_s * 1_000_000),
            "valid_until": rfc3339(self.certificate.valid_until_s * 1_000_000),
            "is_valid": self.certificate.is_valid_at(time.time()),
            "client_certificates": self.files.client_ca is not None,
            "read": rfc3339(self.read_us),
            "refused": self.refused,
            "changes": self.changes,
            "failed_handshakes": self.failed_handshakes,
        }


class Tls:
    """What is in force. Belongs to the event loop; a thread of its own reads the files."""

    def __init__(self, files: TlsFiles) -> None:
        """Reads the files. Raises UserError when they cannot be used."""
        self._files = files
        found = signature(files)
        self._seen: Signature | None = found if found.is_settled_at(time.time()) else None
        self._loaded = load(files)
        self._refused: str | None = None
        self._logged: tuple[Signature | None, str] | None = None
        self._changes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tls files")
        self._hanging: Future[None] | None = None
        self.failed_handshakes = 0
        """Counted by whoever shakes hands."""
        log.info("TLS certificate of %s", self._loaded.certificate)
        if reason := self._loaded.certificate.why_not_valid_at(time.time()):
            log.warning("%s: %s; clients that check it refuse it", files.certificate, reason)

    @classmethod
    def of(cls, config: Config) -> Tls | None:
        """As the settings ask for; None: HTTP is not encrypted. Raises UserError."""
        files = TlsFiles.of(config)
        return None if files is None else cls(files)

    async def context(self) -> ssl.SSLContext:
        """For a handshake that begins now, with what the files hold now."""
        if not self._hangs:
            look = self._thread.submit(self._look)
            try:
                await asyncio.wait_for(asyncio.wrap_future(look), LOOK_S)
            except TimeoutError:
                if not look.done():  # done: it waited behind the one that hangs, and was cancelled
                    self._hanging = look
                    log.warning("looking at %s takes longer than %g s", self._files.certificate, LOOK_S)
        return self._loaded.context

    def report(self) -> TlsReport:
        """What is in force, and what the last handshake found."""
        return TlsReport(
            self._files,
            self._loaded.certificate,
            self._loaded.read_us,
            "looking at the files does not end" if self._hangs else self._refused,
            self._changes,
            self.failed_handshakes,
        )

    @property
    def _hangs(self) -> bool:
        return self._hanging is not None and not self._hanging.done()

    def _look(self) -> None:
        """Take over what changed. In the thread: only it writes what is written here."""
        found = None
        try:
            found = signature(self._files)
            if found != self._seen:
                self._take_over(found)
        except UserError as error:
            self._refuse(found, error.message)
        except Exception as error:  # the boundary: no content of a file keeps clients from what is in force
            if self._refuse(found, "an error inside xidwatch: its log has the details"):
                log.error("reading the TLS files failed", exc_info=error)

    def _take_over(self, found: Signature) -> None:
        now = time.time()
        self._seen = found if found.is_settled_at(now) else None
        loaded = load(self._files)
        reason = loaded.certificate.why_not_valid_at(now)
        if reason is not None and self._loaded.certificate.is_valid_at(now):
            self._seen = None  # time alone may mend it
            raise UserError(f"{self._files.certificate}: {reason}")
        if loaded.digest != self._loaded.digest:
            self._loaded = loaded
            self._changes += 1
            log.info("TLS files changed: certificate of %s", loaded.certificate)
        elif self._refused is not None:
            log.info("TLS files are again those in force")
        self._refused = None

    def _refuse(self, found: Signature | None, reason: str) -> bool:
        """Keep what is in force; whether that was news."""
        if found is None:
            self._seen = None
        self._refused = reason
        if self._logged == (found, reason):
            return False
        self._logged = found, reason
        log.warning("TLS files are not taken over, the former ones stay in force: %s", reason)
        return True
