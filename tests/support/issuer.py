"""An OAuth authorization server of a test: real HTTP on loopback, with keys of its own."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm


class Issuer:
    """Gives out tokens, and serves the keys they are signed with. `asked` are the paths it was asked for."""

    def __init__(self, audience: str = "http://localhost/mcp") -> None:
        self.audience = audience
        self.asked: list[str] = []
        self.grants = {"read"}
        """Scopes that its token endpoint gives to whoever asks."""
        self.answers = True
        """False: it takes requests and says nothing."""
        self.keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
            "rsa": rsa.generate_private_key(65537, 2048),
            "ec": ec.generate_private_key(ec.SECP256R1()),
        }
        self._silence = threading.Event()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer._answer(self, issuer._get(self.path))

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers.get("content-length", 0)))
                issuer._answer(self, issuer._post(self.path, parse_qs(form.decode())))

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: pytest shows what matters."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="issuer")
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Issuer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Nobody listens at its address any more. Twice is once."""
        if self._thread.is_alive():
            self._silence.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def rotate(self) -> None:
        """Its RSA key is another one, with another id."""
        del self.keys["rsa"]
        self.keys["rsa-2"] = rsa.generate_private_key(65537, 2048)

    def jwks(self) -> dict[str, Any]:
        """The public keys."""
        keys = []
        for key_id, key in self.keys.items():
            if isinstance(key, rsa.RSAPrivateKey):
                public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
            else:
                public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
            keys.append({**public, "kid": key_id, "use": "sig"})
        return {"keys": keys}

    def token(
        self, key_id: str = "rsa", *, headers: dict[str, Any] | None = None, without: str = "", **claims: Any
    ) -> str:
        """An access token; `claims` beside and in place of the usual ones."""
        key = self.keys[key_id]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        said = {
            "iss": self.url,
            "aud": self.audience,
            "sub": "alice",
            "client_id": "night-shift",
            "exp": int(time.time()) + 300,
            "scope": "read",
            **claims,
        }
        said.pop(without, None)
        return jwt.encode(said, key, algorithm, {"kid": key_id, "typ": "at+jwt", **(headers or {})})

    def _get(self, path: str) -> dict[str, Any] | None:
        match path:
            case "/.well-known/oauth-authorization-server":
                return {
                    "issuer": self.url,
                    "jwks_uri": f"{self.url}/keys",
                    "authorization_endpoint": f"{self.url}/authorize",
                    "token_endpoint": f"{self.url}/token",
                    "response_types_supported": ["code"],
                    "grant_types_supported": ["client_credentials"],
                    "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                }
            case "/keys":
                return self.jwks()
        return None

    def _post(self, path: str, form: dict[str, list[str]]) -> dict[str, Any] | None:
        if path != "/token":
            return None
        [asked] = form.get("scope", [""])
        scope = " ".join(each for each in asked.split() if each in self.grants)
        token = self.token(scope=scope)
        return {"access_token": token, "token_type": "Bearer", "expires_in": 300, "scope": scope}

    def _answer(self, request: BaseHTTPRequestHandler, found: dict[str, Any] | None) -> None:
        self.asked.append(request.path)
        if not self.answers:
            self._silence.wait()
            return
        body = json.dumps(found or {}).encode()
        request.send_response(200 if found is not None else 404)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
