"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mcp_server.tls_files import TlsFiles
from tests.support.waiting import DEADLINE_S

DAY = datetime.timedelta(days=1)
Valid = tuple[datetime.timedelta, datetime.timedelta]
"""From and until, from now on."""
_ONLY_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
"""Strict clients, such as Python 3.13, want it of an authority."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes

    def write(self, certificate: Path, key: Path) -> None:
        """Put them where a daemon looks for them, each in one step."""
        put(key, self.key)
        put(certificate, self.certificate)


class Authority:
    """Signs certificates."""

    def __init__(self, name: str = "test authority", valid: Valid = (-DAY, 60 * DAY)) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = (
            _builder(self._name, self._name, self._key, valid)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_ONLY_SIGNS, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def server(self, name: str = "gpu-17", valid: Valid = (-DAY, 30 * DAY)) -> Signed:
        """For a server at 127.0.0.1 and `name`; `valid`: from and until, from now on."""
        names = [x509.DNSName(name), x509.DNSName("localhost")]
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return self._signed(name, [*names, address], ExtendedKeyUsageOID.SERVER_AUTH, valid)

    def client(self, name: str = "alice") -> Signed:
        """For a client of that name."""
        uri = x509.UniformResourceIdentifier(f"spiffe://example/{name}")
        return self._signed(name, [uri], ExtendedKeyUsageOID.CLIENT_AUTH, (-DAY, DAY))

    def _signed(
        self,
        name: str,
        names: list[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        valid: Valid,
    ) -> Signed:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(name), self._name, key, valid)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return Signed(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


class Https:
    """The files of a server, and clients for it."""

    def __init__(self, directory: Path, *, mutual: bool = False) -> None:
        self.directory = directory
        self.authority = Authority()
        self.files = TlsFiles(
            directory / "tls.crt", directory / "tls.key", directory / "clients.crt" if mutual else None
        )
        self.authority.server().write(self.files.certificate, self.files.key)
        self.clients = Authority("test clients")
        if self.files.client_ca is not None:
            put(self.files.client_ca, self.clients.pem)

    @property
    def flags(self) -> list[str]:
        """For `xidwatch serve`."""
        mutual = ["--tls-client-ca", str(self.files.client_ca)] if self.files.client_ca else []
        return ["--tls-cert", str(self.files.certificate), "--tls-key", str(self.files.key), *mutual]

    def client(self, signed: Signed | None = None, trusts: Authority | None = None) -> ssl.SSLContext:
        """A client that trusts the server's authority and shows this certificate."""
        context = ssl.create_default_context(cadata=(trusts or self.authority).pem.decode())
        if signed is not None:
            certificate, key = self.directory / "client.crt", self.directory / "client.key"
            signed.write(certificate, key)
            context.load_cert_chain(certificate, key)
        return context

    def get(
        self, port: int, path: str, client: ssl.SSLContext | None = None, source: str = "127.0.0.1"
    ) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=DEADLINE_S, context=client or self.client(), source_address=(source, 0)
        )
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def put(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, in one step."""
    new = path.with_name(f".{path.name}.new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    os.replace(new, path)  # noqa: PTH105  (the name says that it is one step)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    valid: Valid,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + valid[0])
        .not_valid_after(now + valid[1])
    )
