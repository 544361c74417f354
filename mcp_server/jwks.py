"""The keys with which an OAuth issuer signs: fetched when they are needed, kept, never waited for twice.

Keys come from a file, a URL, or where the issuer's own metadata says (RFC 8414, else OpenID Connect). A
fetch runs in a thread of its own, one at a time, with a deadline for whoever waits: an issuer that hangs
holds up nobody who brings a token of a known key, and everybody else for `FETCH_S` at most.

* A known key is used at once. Once the keys are `FRESH_S` old, the next token has them fetched again in
  the background; when that fails they stay.
* An unknown key has them fetched, at most every `COOL_DOWN_S`: made-up key ids do not become requests to
  the issuer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from jwt import PyJWK, PyJWKSet
from jwt.exceptions import PyJWTError

from daemon import regular_file
from daemon.regular_file import UnfitFileError

log = logging.getLogger(__name__)

FETCH_S: Final = 5.0
"""How long a client with a token of an unknown key waits: it is let in or told 503 by then."""
FRESH_S: Final = 600.0
"""Until then keys are not asked for again: a key that was withdrawn counts that much longer."""
COOL_DOWN_S: Final = 10.0
"""Between two fetches for unknown keys: all that made-up key ids can cost the issuer."""
MOST_BYTES: Final = 1024 * 1024
"""Of a key set. One of `MOST_KEYS` RSA keys with their certificates has a tenth of that."""
MOST_KEYS: Final = 64
"""Of an issuer; of more the first ones count."""


class NoKeysError(Exception):
    """The issuer's keys cannot be had. The message is a clause."""


class KeySource(Protocol):
    """Where keys come from."""

    def __call__(self) -> Sequence[PyJWK]:
        """All keys, now. May block; raises NoKeysError."""


class Keys:
    """The keys of one issuer. Belongs to the event loop."""

    def __init__(self, source: KeySource, *, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now = now
        self._keys: Sequence[PyJWK] = ()
        self._fetched_at: float | None = None
        """When the keys came; None: never."""
        self._tried_at: float | None = None
        self._fetching: asyncio.Future[None] | None = None
        self.problem: str | None = None
        """Why the last fetch failed; None when it did not."""

    async def find(self, key_id: str | None) -> Sequence[PyJWK]:
        """The keys with this id; all of them for a token that names none. Empty when there is none.

        Raises NoKeysError when it is not known whether there is one, within `FETCH_S`.
        """
        found = self._known(key_id)
        now = self._now()
        if found:
            if self._fetched_at is None or now - self._fetched_at > FRESH_S:
                self._fetch_unless_tried(now)
            return found
        self._fetch_unless_tried(now)
        if self._fetching is not None:
            try:
                async with asyncio.timeout(FETCH_S):
                    await asyncio.shield(self._fetching)
            except TimeoutError:
                raise NoKeysError(f"the issuer did not answer within {FETCH_S:g} s") from None
        if self.problem is not None:
            raise NoKeysError(self.problem)
        return self._known(key_id)

    def _known(self, key_id: str | None) -> Sequence[PyJWK]:
        return [key for key in self._keys if key_id is None or key.key_id == key_id]

    def _fetch_unless_tried(self, now: float) -> None:
        if self._fetching is not None or (self._tried_at is not None and now - self._tried_at < COOL_DOWN_S):
            return
        self._tried_at = now
        loop = asyncio.get_running_loop()
        fetching: asyncio.Future[None] = loop.create_future()
        self._fetching = fetching

        def take(keys: Sequence[PyJWK], problem: str | None) -> None:
            self._fetching = None
            if problem is None:
                self._keys, self._fetched_at = keys, self._now()
            elif problem != self.problem:
                log.warning("the keys of the OAuth issuer cannot be had: %s", problem)
            self.problem = problem
            if not fetching.done():
                fetching.set_result(None)

        def fetch() -> None:
            keys: Sequence[PyJWK] = ()
            problem: str | None = None
            try:
                keys = self._source()
            except NoKeysError as error:
                problem = str(error)
            except Exception:  # the boundary: whatever an issuer sends must not leave others waiting
                log.exception("fetching the keys of the OAuth issuer failed")
                problem = "an error inside xidwatch: its log has the details"
            if not loop.is_closed():
                loop.call_soon_threadsafe(take, keys, problem)

        # Not the loop's executor: a name server that hangs would use up the threads of everybody else.
        threading.Thread(target=fetch, name="oauth keys", daemon=True).start()


def key_source(issuer: str, jwks: str | None) -> KeySource:
    """Where the keys of this issuer are: in the file or at the URL `jwks`, else where its metadata says."""
    if jwks is None:
        return lambda: keys_in(_get_json(_discover(issuer)))
    if jwks.startswith(("http://", "https://")):
        return lambda: keys_in(_get_json(jwks))
    return lambda: keys_in(_read_json(Path(jwks)))


def keys_in(found: object) -> Sequence[PyJWK]:
    """The signing keys of a JWK set. Raises NoKeysError."""
    if not isinstance(found, dict):
        raise NoKeysError("the issuer's keys are no JWK set")
    try:
        keys = PyJWKSet.from_dict(found).keys
    except (PyJWTError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise NoKeysError(f"the issuer's keys are no JWK set: {type(error).__name__}") from None
    # A key for HMAC in a public set is a mistake, and would make everybody an issuer.
    return [key for key in keys if key.public_key_use in ("sig", None) and key.key_type != "oct"][:MOST_KEYS]


def is_safe(url: str) -> bool:
    """Whether nobody between here and there can answer in the place of what the URL names."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return True
    try:
        return parts.scheme == "http" and ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"


def _discover(issuer: str) -> str:
    """Where the issuer says that its keys are. Raises NoKeysError."""
    parts = urlsplit(issuer)
    base, place = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    tried: list[str] = []
    for url in (
        f"{base}/.well-known/oauth-authorization-server{place}",
        f"{base}{place}/.well-known/openid-configuration",
    ):
        try:
            found = _get_json(url)
        except NoKeysError as error:
            tried.append(str(error))
            continue
        if not isinstance(found, dict) or found.get("issuer") != issuer:
            raise NoKeysError(f"{url} is the metadata of another issuer")
        where = found.get("jwks_uri")
        if not isinstance(where, str) or not is_safe(where):
            raise NoKeysError(f"{url} names no https URL for the issuer's keys")
        return where
    raise NoKeysError("; ".join(tried))


def _get_json(url: str) -> object:
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 (http or https)
    try:
        with _OPENER.open(request, timeout=FETCH_S) as answer:
            return _json(_read(answer), url)
    except urllib.error.HTTPError as error:
        error.close()
        raise NoKeysError(f"{url} answers {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise NoKeysError(f"{url}: {str(why)[:200]}") from None


def _read(answer: HTTPResponse) -> bytes:
    """The body as far as it is looked at. Raises TimeoutError: the timeout of a connection is for each of its
    pieces, and as long as one fetch is under way there is no other."""
    ends_at = time.monotonic() + FETCH_S
    data = b""
    while len(data) <= MOST_BYTES and (piece := answer.read1(MOST_BYTES + 1 - len(data))):
        data += piece
        if time.monotonic() > ends_at:
            raise TimeoutError(f"its answer takes longer than {FETCH_S:g} s")
    return data


def _read_json(path: Path) -> object:
    try:
        return _json(regular_file.read(path, MOST_BYTES).data, str(path))
    except OSError as error:
        raise NoKeysError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except UnfitFileError as error:
        raise NoKeysError(f"{path} {error}") from None


def _json(data: bytes, where: str) -> object:
    if len(data) > MOST_BYTES:
        raise NoKeysError(f"{where}: longer than {MOST_BYTES} bytes")
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError):
        raise NoKeysError(f"{where}: no JSON") from None
    return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys are at their own address, or nowhere."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
