"""`helm test`: the program of the chart's test pod, asking real daemons."""

from __future__ import annotations

import importlib.util
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from tests.deploy.chart import CHART
from tests.support.certificates import Authority, Https
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.token_file import TokenFileOnDisk

Start = Callable[..., Daemon]
Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program; it does not wait for DNS."""
    specification = importlib.util.spec_from_file_location("reach", CHART / "files" / "reach.py")
    assert specification is not None
    assert specification.loader is not None
    program = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(program)
    monkeypatch.setattr(program, "DEADLINE_S", 0.0)
    return program


@pytest.fixture
def ask(
    reach: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Ask:
    """Run it against an address; exit code, what it printed, and its errors."""

    def run(door: str, port: int, *, tls: bool = False, service: str = "127.0.0.1") -> tuple[int, str, str]:
        variables = {
            **{"SERVICE": service, "DOOR": door, "PORT": str(port), "TLS": "yes" if tls else "no"},
            **{"TOKEN_FILE": str(tmp_path / "token"), "AUTHORITY_FILE": str(tmp_path / "ca.crt")},
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        code: int = reach.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def start(tmp_path: Path, kernel_log: FakeKernelLog) -> Iterator[Start]:
    """Starts a daemon with these flags, waits until it hears, and ends it."""
    with ExitStack() as stack:

        def with_flags(*flags: str, tls: ssl.SSLContext | None = None, token: str | None = None) -> Daemon:
            daemon = Daemon(tmp_path, kmsg=kernel_log.path, flags=flags, tls=tls, token=token)
            stack.callback(daemon.stop)
            return daemon.start()

        yield with_flags


def test_a_service_without_ready_pods_fails(ask: Ask) -> None:
    code, _, said = ask("closed", 1, service="no-such-service.invalid")
    assert (code, "no pod of no-such-service.invalid is ready" in said) == (1, True)


def test_where_nobody_can_come_in_a_ready_pod_is_enough(ask: Ask) -> None:
    code, said, _ = ask("closed", 1)
    assert (code, "nothing else can be asked from here" in said) == (0, True)


def test_an_open_door_is_what_was_asked_for_or_a_failure(ask: Ask, running_daemon: Daemon) -> None:
    assert ask("open", running_daemon.port)[0] == 0
    code, said, _ = ask("locked", running_daemon.port)
    assert (code, "/readyz without a token answers 200 and not 401" in said) == (1, True)


def test_a_pod_that_does_not_answer_fails(ask: Ask, running_daemon: Daemon) -> None:
    running_daemon.stop()
    code, said, _ = ask("open", running_daemon.port)
    assert (code, "/healthz without a token answers nothing" in said) == (1, True)


def test_a_locked_door_opens_to_the_token_only(ask: Ask, start: Start, tmp_path: Path) -> None:
    tokens = TokenFileOnDisk(tmp_path / "tokens")
    secret = tokens.add("tester")
    daemon = start("--token-file", str(tokens.path), token=secret)
    assert ask("locked", daemon.port)[0] == 0
    (tmp_path / "token").write_text(f"{secret}\n")
    assert ask("locked", daemon.port)[0] == 0
    (tmp_path / "token").write_text("xidwatch_" + "A" * 43)
    code, said, _ = ask("locked", daemon.port)
    assert (code, "/readyz with the token answers 401 and not 200" in said) == (1, True)


def test_a_daemon_with_tls_is_known_by_its_authority(ask: Ask, start: Start, tmp_path: Path) -> None:
    https = Https(tmp_path)
    daemon = start(*https.flags, tls=https.client())
    assert ask("open", daemon.port, tls=True)[0] == 0
    (tmp_path / "ca.crt").write_bytes(https.authority.pem)
    assert ask("open", daemon.port, tls=True)[0] == 0
    (tmp_path / "ca.crt").write_bytes(Authority("somebody else").pem)
    code, _, said = ask("open", daemon.port, tls=True)
    assert (code, "certificate verify failed" in said) == (1, True)


def test_a_token_is_not_shown_to_whom_we_do_not_know(ask: Ask, start: Start, tmp_path: Path) -> None:
    https, tokens = Https(tmp_path), TokenFileOnDisk(tmp_path / "tokens")
    secret = tokens.add("tester")
    daemon = start(*https.flags, "--token-file", str(tokens.path), tls=https.client(), token=secret)
    (tmp_path / "token").write_text("xidwatch_" + "A" * 43)
    assert ask("locked", daemon.port, tls=True)[0] == 0  # a wrong token was never sent
    (tmp_path / "ca.crt").write_bytes(https.authority.pem)
    assert ask("locked", daemon.port, tls=True)[0] == 1


def test_with_mutual_tls_a_client_without_certificate_stays_outside(
    ask: Ask, start: Start, tmp_path: Path
) -> None:
    https = Https(tmp_path, mutual=True)
    daemon = start(*https.flags, tls=https.client(https.clients.client()))
    assert ask("certificate", daemon.port, tls=True)[0] == 0
