"""The files of HTTPS: what they have to be, and what is made of them.

Nothing is used that was not tried: a client in memory shakes hands with what the files give. Whatever is
wrong with them is one sentence. Only time is no error here: a certificate that has expired, or that a wrong
clock makes look so, is for the caller to judge.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon import regular_file
from daemon.config import Config
from daemon.regular_file import OPEN_TO_OTHERS, UnfitFileError
from mcp_server.certificate import Certificate, expired_authorities, seen_by_a_client
from probes.errors import UserError
from probes.health import Check, Verdict

NAME: Final = "tls"
ENDS_SOON_S: Final = 14 * 86_400
"""From when on `doctor` warns of a certificate's end."""
SETTLED_S: Final = 1.0
"""A file that changed within this time may change again without looking different: the clock of a file
system has ticks."""
MOST_BYTES: Final = 1024 * 1024
"""Of a file. A whole system's list of authorities has a quarter of that."""
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption. TLS 1.3 has no other ones."""

_CERTIFICATE: Final = "the TLS certificate"
_KEY: Final = "the TLS key"
_CLIENT_CA: Final = "the client CA"
_RENEW: Final = "renew it; the files are read anew when they change"
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_ENCRYPTED = re.compile(r"BEGIN ENCRYPTED PRIVATE KEY|Proc-Type: 4,ENCRYPTED")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificate and key are; PEM files."""

    certificate: Path
    """The server's certificate, and those between it and its authority."""
    key: Path
    """Its private key, not encrypted."""
    client_ca: Path | None
    """Authorities of the clients' certificates; None: clients need none."""

    @classmethod
    def of(cls, config: Config) -> TlsFiles | None:
        """The files that the settings name; None: HTTP is not encrypted."""
        if config.tls_cert is None or config.tls_key is None:
            return None
        return cls(config.tls_cert, config.tls_key, config.tls_client_ca)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(each for each in (self.certificate, self.key, self.client_ca) if each is not None)

    def what(self, path: Path) -> str:
        """Which of them it is, in words."""
        return {self.certificate: _CERTIFICATE, self.key: _KEY}.get(path, _CLIENT_CA)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files gave, ready for handshakes."""

    context: ssl.SSLContext
    certificate: Certificate
    """The server's own."""
    digest: bytes
    """Of the contents of the files."""
    read_us: int
    """When it was read, Unix µs."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells a file from what it was before."""

    stats: tuple[tuple[int, ...], ...]
    changed_s: float
    """When the last of the files changed, Unix time."""

    def is_settled_at(self, now_s: float) -> bool:
        """Whether a later change would look different."""
        return not 0 <= now_s - self.changed_s < SETTLED_S


def load(files: TlsFiles) -> Loaded:
    """Read and try them. Raises UserError with what is wrong, whichever file it is."""
    chain = _text(_content(files.certificate, _CERTIFICATE))
    leaf = _pem(chain, files.certificate, _CERTIFICATE, "CERTIFICATE")
    key = _key(files.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    # Without tickets every connection proves anew who it is, also after the client CA has changed.
    context.num_tickets = 0
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise _unusable(error, files) from None
    certificate = _try(context, leaf, files)
    authorities = ""
    if files.client_ca is not None:
        authorities = _trust(context, files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    digest = hashlib.sha256("\0".join((chain, key, authorities)).encode()).digest()
    return Loaded(context, certificate, digest, time.time_ns() // 1000)


def signature(files: TlsFiles) -> Signature:
    """What the files look like now. Raises UserError when one is not to be seen."""
    found = []
    for path in files.paths:
        try:
            found.append(path.stat())
        except OSError as error:
            raise _unreadable(path, files.what(path), error) from None
    return Signature(
        tuple(regular_file.signature(each) for each in found),
        max(each.st_ctime_ns for each in found) / 1e9,
    )


def check(files: TlsFiles | None) -> Check:
    """What `doctor` says of the files as they are now."""
    if files is None:
        return Check(NAME, Verdict.OFF, "not asked for: HTTP is not encrypted")
    try:
        signature(files)
        certificate = load(files).certificate
    except UserError as error:
        return Check(NAME, Verdict.FAIL, error.message, error.hint)
    now = time.time()
    if reason := certificate.why_not_valid_at(now):
        return Check(NAME, Verdict.FAIL, f"{files.certificate}: {reason}", _RENEW)
    if certificate.valid_until_s - now < ENDS_SOON_S:
        return Check(NAME, Verdict.WARN, f"certificate of {certificate}", _RENEW)
    clients = "" if files.client_ca is None else "; clients need one too"
    return Check(NAME, Verdict.OK, f"certificate of {certificate}{clients}")


def _content(path: Path, what: str) -> regular_file.Content:
    try:
        return regular_file.read(path, MOST_BYTES)
    except OSError as error:
        raise _unreadable(path, what, error) from None
    except UnfitFileError as error:
        raise UserError(f"{what} {path} {error}", hint="name a file in PEM") from None


def _text(content: regular_file.Content) -> str:
    """Words between the blocks may be of any language; OpenSSL takes text in ASCII only."""
    return content.data.decode("ascii", "replace").replace("\ufffd", "?")


def _unreadable(path: Path, what: str, error: OSError) -> UserError:
    return UserError(
        f"cannot read {what} {path}: {(error.strerror or str(error)).lower()}",
        hint="name a file that the daemon's user can read",
    )


def _pem(text: str, path: Path, what: str, kind: str) -> str:
    """The first block whose label ends like that. No block may be half there."""
    if "-----BEGIN" in _BLOCK.sub("", text):
        raise UserError(f"{what} {path} is cut off", hint="write it anew under another name, then rename it")
    for block in _BLOCK.finditer(text):
        if block[1].endswith(kind):
            return block[0]
    raise UserError(
        f"{what} {path} is no {kind.lower()} in PEM",
        hint="`openssl x509 -inform der` and `openssl pkey -inform der` make PEM of DER",
    )


def _key(path: Path) -> str:
    content = _content(path, _KEY)
    if content.status.st_mode & OPEN_TO_OTHERS:
        raise UserError(
            f"the TLS key {path} is open to every user of this machine",
            hint=f"chmod o-rw {path} (in Kubernetes: defaultMode: 0440 of the Secret's volume)",
        )
    text = _text(content)
    if _ENCRYPTED.search(text):
        raise UserError(
            f"the TLS key {path} is encrypted: nobody is there to type its passphrase",
            hint=f"`openssl pkey -in {path} -out plain.key` decrypts it; let only the daemon read that one",
        )
    _pem(text, path, _KEY, "PRIVATE KEY")
    return text


def _unusable(error: Exception, files: TlsFiles) -> UserError:
    reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
    # OpenSSL 3 says the last one of a key of another algorithm.
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return UserError(
            f"the TLS key {files.key} does not belong to the certificate {files.certificate}",
            hint="the first certificate of the file has to be the server's own",
        )
    return UserError(
        f"the TLS certificate {files.certificate} with the key {files.key} cannot be used: {_words(reason)}",
        hint="docs/tls.md makes some that can",
    )


def _try(context: ssl.SSLContext, leaf: str, files: TlsFiles) -> Certificate:
    try:
        return seen_by_a_client(context, leaf)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or str(error)
        raise UserError(
            f"a client would refuse the TLS certificate {files.certificate}: {_words(why)}",
            hint="a server's certificate has serverAuth among its extended key usages, or has none",
        ) from None
    except ValueError as error:  # its dates or its names are none
        raise _unusable(error, files) from None


def _trust(context: ssl.SSLContext, path: Path) -> str:
    text = _text(_content(path, _CLIENT_CA))
    _pem(text, path, _CLIENT_CA, "CERTIFICATE")
    try:
        context.load_verify_locations(cadata=text)
        reason = expired_authorities(context.get_ca_certs())
    except (ssl.SSLError, ValueError) as error:  # ValueError: its dates or its names are none
        why = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
        raise UserError(
            f"{_CLIENT_CA} {path} cannot be used: {_words(why)}", hint="it holds certificates in PEM"
        ) from None
    if reason is not None:
        raise UserError(
            f"{_CLIENT_CA} {path}: {reason}", hint="no client could connect; give one that is valid"
        )
    return text


def _words(reason: str) -> str:
    """`EE_KEY_TOO_SMALL` as words."""
    return reason.replace("_", " ").lower()
