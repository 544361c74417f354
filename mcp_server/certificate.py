"""What a certificate says, read by OpenSSL itself: by having a client in memory shake hands with its owner.

The standard library shows a certificate only to the other end of a connection. So the check is also the proof
that a client gets through.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daemon.event import rfc3339
from daemon.text import clean

MAX_NAME: Final = 200
"""Characters of a name that are kept: it goes into logs and answers."""
_IGNORE_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h, since 1.1.0): the dates are read, and judged here."""
_ROUNDS: Final = 4
"""Turns of each side until a handshake is over; TLS 1.2 needs three."""
_SHORT: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "domainComponent": "DC",
    "userId": "UID",
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """Whose it is, and when it is valid."""

    subject: str
    """`CN=gpu-17,O=Example` (RFC 4514: the last part first); "" when it names nobody there."""
    names: tuple[str, ...]
    """Its subject alternative names, without their kind: `gpu-17.example`, `10.0.0.5`, `spiffe://…`."""
    valid_from_s: int
    """Unix time."""
    valid_until_s: int
    """Unix time."""

    def __str__(self) -> str:
        """`CN=gpu-17, valid until 2027-…`, for a log line."""
        return f"{self.subject or ', '.join(self.names)}, valid until {_date(self.valid_until_s)}"

    def why_not_valid_at(self, now_s: float) -> str | None:
        """`it expired on …`; None: it is valid at that time."""
        if now_s > self.valid_until_s:
            return f"it expired on {_date(self.valid_until_s)}"
        if now_s < self.valid_from_s:
            return f"it is not valid before {_date(self.valid_from_s)}; this clock says {_date(int(now_s))}"
        return None

    def is_valid_at(self, now_s: float) -> bool:
        """Whether that Unix time is between its dates."""
        return self.why_not_valid_at(now_s) is None


def of_peer(found: Mapping[str, Any]) -> Certificate:
    """From what `ssl.SSLObject.getpeercert()` gives."""
    return Certificate(
        subject=clean(_rfc4514(found["subject"]), MAX_NAME),
        names=tuple(clean(str(name[1]), MAX_NAME) for name in found.get("subjectAltName", ())),
        valid_from_s=ssl.cert_time_to_seconds(found["notBefore"]),
        valid_until_s=ssl.cert_time_to_seconds(found["notAfter"]),
    )


def seen_by_a_client(context: ssl.SSLContext, leaf: str) -> Certificate:
    """Have a client that trusts `leaf` (PEM) shake hands with a server that asks for no certificate.

    Raises ssl.SSLError when it refuses, for example a certificate that is not for servers.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.load_verify_locations(cadata=leaf)
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _IGNORE_TIME
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_ROUNDS):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    found = client.getpeercert()
    assert found, "a handshake that is over has shown a certificate"
    return of_peer(found)


def expired_authorities(authorities: Iterable[Mapping[str, Any]]) -> str | None:
    """Why no certificate of these authorities can be valid now; None: some can."""
    ends = [ssl.cert_time_to_seconds(each["notAfter"]) for each in authorities]
    if not ends or max(ends) >= time.time():
        return None
    return f"it expired on {_date(max(ends))}" if len(ends) == 1 else "every certificate in it has expired"


def _date(seconds: int) -> str:
    return rfc3339(seconds * 1_000_000)


def _rfc4514(subject: Iterable[Iterable[tuple[str, str]]]) -> str:
    parts = ["+".join(f"{_SHORT.get(key, key)}={_escaped(value)}" for key, value in rdn) for rdn in subject]
    return ",".join(reversed(parts))


def _escaped(value: str) -> str:
    text = "".join(f"\\{each}" if each in '"+,;<>\\' else each for each in value)
    return f"\\{text}" if text.startswith((" ", "#")) else text
