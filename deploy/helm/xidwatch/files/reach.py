"""What `helm test` asks the daemons through their headless Service, from a pod of its own.

The Service names the pods that are ready, and a pod is ready when it hears. Where the daemons can be reached,
each is alive, and keeps its other paths to those who may come in. Standard library only. With TLS the token
goes only to a daemon whose certificate is of the authority that we know.
"""

import http.client
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

DEADLINE_S = 60.0
"""A name that did not resolve a moment ago is remembered by DNS for some seconds."""
TIMEOUT_S = 10.0


def main() -> int:
    """Print what was found; 0 when it is as it should be, else 1."""
    service, door = os.environ["SERVICE"], os.environ["DOOR"]
    addresses = ready(service)
    if not addresses:
        print(f"no pod of {service} is ready: look at `xidwatch status` in one of them", file=sys.stderr)
        return 1
    print(f"{len(addresses)} ready: {', '.join(addresses)}")
    if door == "closed":
        print("they listen on 127.0.0.1 of their pods, so nothing else can be asked from here")
        return 0
    token = Path(os.environ["TOKEN_FILE"])
    authority = Path(os.environ["AUTHORITY_FILE"])
    failures = 0
    for address in addresses:
        wrong = list(ask(service, address, door, token, authority))
        failures += len(wrong)
        print(f"{address}: {'; '.join(wrong) or 'as it should be'}")
    return 1 if failures else 0


def ready(service: str) -> list[str]:
    """The addresses behind the Service; none when none came up in time."""
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            found = socket.getaddrinfo(service, None, type=socket.SOCK_STREAM)
            return sorted({str(each[4][0]) for each in found})
        except socket.gaierror:
            if time.monotonic() >= until:
                return []
            time.sleep(2)


def ask(service: str, address: str, door: str, token: Path, authority: Path) -> Iterator[str]:
    """What is not as it should be with one daemon, a sentence each."""
    port, tls = int(os.environ["PORT"]), os.environ["TLS"] == "yes"
    known = authority.exists()
    context = ssl.create_default_context(cafile=authority if known else None) if tls else None
    if context and not known:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def get(path: str, secret: str = "") -> int | None:
        """The status of the answer; None when the daemon does not talk to us at all."""
        try:
            with socket.create_connection((address, port), TIMEOUT_S) as plain:
                connection = http.client.HTTPConnection(service, port)
                connection.sock = context.wrap_socket(plain, server_hostname=service) if context else plain
                shown = {"Authorization": f"Bearer {secret}"} if secret else {}
                connection.request("GET", path, headers=shown)
                status = connection.getresponse().status
                connection.close()
                return status
        except (OSError, http.client.HTTPException) as error:
            print(f"{address}{path}: {error}", file=sys.stderr)
            return None

    if door == "certificate":
        if get("/healthz") is not None:
            yield "lets a client without a certificate in"
        return
    wanted = [("/healthz", "", 200), ("/readyz", "", 200 if door == "open" else 401)]
    if token.exists() and (known or not tls):
        wanted.append(("/readyz", token.read_text(encoding="utf-8").strip(), 200))
    for path, secret, expected in wanted:
        status = get(path, secret)
        if status != expected:
            who = "with the token" if secret else "without a token"
            yield f"{path} {who} answers {status or 'nothing'} and not {expected}"


if __name__ == "__main__":
    sys.exit(main())
