"""What is wrong with files of HTTPS, each in one sentence with what to do."""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mcp_server import tls_files
from mcp_server.tls_files import TlsFiles, load
from probes.errors import UserError
from tests.support.certificates import DAY, Authority, Https, Valid, put

NONSENSE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture
def https(tmp_path: Path) -> Https:
    """Files that can be used, with an authority for clients."""
    return Https(tmp_path, mutual=True)


def _another_key(https: Https) -> None:
    put(https.files.key, Authority().server().key)


def _another_kind_of_key(https: Https) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    put(https.files.key, _pem(rsa.generate_private_key(65_537, 2048)))


def _an_encrypted_key(https: Https) -> None:
    key = serialization.load_pem_private_key(https.files.key.read_bytes(), None)
    put(https.files.key, _pem(key, serialization.BestAvailableEncryption(b"secret")))


def _der(https: Https) -> None:
    put(https.files.certificate, ssl.PEM_cert_to_DER_cert(https.files.certificate.read_text()))


def _a_clients_certificate(https: Https) -> None:
    https.authority.client().write(https.files.certificate, https.files.key)


def _pem(key: object, encryption: serialization.KeySerializationEncryption | None = None) -> bytes:
    kept = encryption or serialization.NoEncryption()
    written: bytes = key.private_bytes(  # type: ignore[attr-defined]  # each kind of key has it
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kept
    )
    return written


def _client_ca(content: bytes) -> Callable[[Https], None]:
    def write(https: Https) -> None:
        assert https.files.client_ca is not None
        put(https.files.client_ca, content)

    return write


def _without_an_end(path: Path) -> None:
    """Its second date, the end, is none."""
    der = ssl.PEM_cert_to_DER_cert(path.read_text())
    head, begin, end = der.split(b"\x17\x0d", 2)  # UTCTime of 13 bytes
    spoilt = b"\x17\x0d".join((head, begin, b"XX" + end[2:]))
    put(path, ssl.DER_cert_to_PEM_cert(spoilt).encode())


def _an_authority_without_an_end(https: Https) -> None:
    assert https.files.client_ca is not None
    _without_an_end(https.files.client_ca)


def _a_pipe(https: Https) -> None:
    https.files.certificate.unlink()
    os.mkfifo(https.files.certificate, 0o600)


def _a_file_without_end(https: Https) -> None:
    with https.files.key.open("ab") as file:
        file.truncate(tls_files.MOST_BYTES + 1)


WRONG: list[tuple[Callable[[Https], object], str, str]] = [
    (lambda it: it.files.certificate.unlink(), "cannot read the TLS certificate .*: no such file", "name a"),
    (lambda it: it.files.key.unlink(), "cannot read the TLS key .*: no such file", "name a file"),
    (
        lambda it: _without_an_end(it.files.certificate),
        "the TLS certificate .* cannot be used",
        "docs/tls.md",
    ),
    (_an_authority_without_an_end, "the client CA .* cannot be used", "certificates in PEM"),
    (
        lambda it: put(it.files.certificate, it.files.certificate.read_bytes().replace(b"MII", b"M\xffI", 1)),
        "the TLS certificate .* cannot be used",
        "docs/tls.md",
    ),
    (
        _client_ca(NONSENSE.replace(b"AAAA", b"A\xffAA")),
        "the client CA .* cannot be used",
        "certificates in PEM",
    ),
    (_a_pipe, "the TLS certificate .* is no regular file", "in PEM"),
    (_a_file_without_end, "the TLS key .* is longer than 1048576 bytes", "in PEM"),
    (lambda it: put(it.files.certificate, b""), "the TLS certificate .* is no certificate in PEM", "openssl"),
    (_der, "the TLS certificate .* is no certificate in PEM", "-inform der"),
    (lambda it: put(it.files.key, b"secret"), "the TLS key .* is no private key in PEM", "openssl"),
    (
        lambda it: put(it.files.certificate, it.files.certificate.read_bytes()[:400]),
        "the TLS certificate .* is cut off",
        "rename",
    ),
    (lambda it: put(it.files.key, it.files.key.read_bytes()[:100]), "the TLS key .* is cut off", "rename"),
    (_another_key, "the TLS key .* does not belong to the certificate", "the server's own"),
    (_another_kind_of_key, "the TLS key .* does not belong to the certificate", "the server's own"),
    (_an_encrypted_key, "the TLS key .* is encrypted", "openssl pkey"),
    (lambda it: it.files.key.chmod(0o644), "the TLS key .* is open to every user", "chmod o-rw"),
    (lambda it: it.files.key.chmod(0o602), "the TLS key .* is open to every user", "defaultMode"),
    (_a_clients_certificate, "a client would refuse the TLS certificate .* purpose", "serverAuth"),
    (
        lambda it: put(
            it.files.certificate, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        ),
        "the TLS certificate .* cannot be used",
        "docs/tls.md",
    ),
    (_client_ca(b"nothing"), "the client CA .* is no certificate in PEM", "openssl"),
    (
        _client_ca(NONSENSE),
        "the client CA .* cannot be used",
        "certificates in PEM",
    ),
    (
        _client_ca(Authority(valid=(-2 * DAY, -DAY)).pem),
        "the client CA .*: it expired on",
        "one that is valid",
    ),
]


@pytest.mark.parametrize(("spoil", "said", "hint"), WRONG)
def test_files_that_cannot_be_used_are_refused_with_the_reason(
    https: Https, spoil: Callable[[Https], object], said: str, hint: str
) -> None:
    load(https.files)
    spoil(https)
    with pytest.raises(UserError) as raised:
        load(https.files)
    assert re.search(said, raised.value.message)
    assert hint in str(raised.value.hint)
    assert tls_files.check(https.files).verdict == "fail"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can stop being root")
def test_a_key_of_another_user_is_refused() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own keep other users out
        Path(directory).chmod(0o755)
        files = Https(Path(directory)).files
        files.certificate.chmod(0o644)
        pid = os.fork()
        if pid == 0:
            os.setuid(65_534)
            try:
                load(files)
            except UserError as error:
                os._exit(0 if "cannot read the TLS key" in error.message else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_key_of_the_daemons_group_is_taken(https: Https) -> None:
    https.files.key.chmod(0o640)
    load(https.files)


def test_certificate_and_key_may_be_one_file(https: Https) -> None:
    both = https.files.certificate.read_bytes() + https.files.key.read_bytes()
    put(https.files.key, both)
    load(TlsFiles(https.files.key, https.files.key, None))


def test_words_around_the_blocks_do_no_harm(https: Https) -> None:
    text = (
        b"subject=CN = gpu-17\n" + https.files.certificate.read_bytes() + https.authority.pem + b"\nthe end\n"
    )
    put(https.files.certificate, text)
    load(https.files)
    assert https.files.client_ca is not None
    put(https.files.client_ca, "# Behörde für Kunden\n".encode() + https.files.client_ca.read_bytes())
    load(https.files)


@pytest.mark.parametrize("valid", [(-2 * DAY, -DAY), (DAY, 2 * DAY)])
def test_a_certificate_out_of_its_time_is_read_and_doctor_says_so(https: Https, valid: Valid) -> None:
    https.authority.server("gpu-17", valid).write(https.files.certificate, https.files.key)
    assert load(https.files).certificate.subject == "CN=gpu-17,O=Example"
    found = tls_files.check(https.files)
    assert found.verdict == "fail"
    assert re.search("it expired on|it is not valid before", found.finding)


def test_a_list_of_authorities_may_hold_one_that_has_expired(https: Https) -> None:
    assert https.files.client_ca is not None
    put(https.files.client_ca, Authority(valid=(-2 * DAY, -DAY)).pem + https.clients.pem)
    load(https.files)
