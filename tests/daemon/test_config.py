"""Settings: where they come from, which one wins, and how bad ones are refused."""

from __future__ import annotations

import dataclasses
import os
import pwd
from pathlib import Path
from typing import NoReturn

import pytest

from daemon import config, paths
from daemon.config import Address, Config, Ebpf, LogLevel, Mode, ProbeName, load
from probes.errors import UserError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_without_anything_said_the_defaults_hold() -> None:
    assert load({}, {}) == Config()
    settings = Config()
    assert settings.listen == Address("127.0.0.1", 8080)
    assert settings.mode is Mode.READ_ONLY
    assert not settings.allow_drills
    assert settings.probes is None
    assert settings.quiet_gap_us == 5_000_000
    assert settings.retention_us == 30 * 86_400_000_000
    assert settings.retention_bytes == 512 * 2**20


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", 'quiet-gap = "1s"\nring-size = 100\nnode-name = "of-file"')
    environ = {"XIDWATCH_QUIET_GAP": "2s", "XIDWATCH_RING_SIZE": "200"}
    settings = load({"quiet-gap": "3s"}, environ, file)
    assert settings.quiet_gap_us == 3_000_000
    assert settings.ring_size == 200
    assert settings.node_name == "of-file"
    assert settings.log_level is LogLevel.INFO


def test_every_setting_means_the_same_as_flag_variable_and_key(tmp_path: Path) -> None:
    texts = {
        "listen": "[::1]:0",
        "tls-cert": "/etc/xidwatch/tls.crt",
        "tls-key": "/etc/xidwatch/tls.key",
        "tls-client-ca": "/etc/xidwatch/ca.crt",
        "token-file": "/etc/xidwatch/tokens",
        "allow-anonymous": "true",
        "allowed-hosts": "gpu-17.example,gpu-17",
        "allowed-origins": "https://dash.example",
        "rate-limit": "600/m",
        "socket-operators": "alice,@gpu-admins",
        "oauth-issuer": "https://login.example/realms/gpu",
        "oauth-audience": "xidwatch",
        "oauth-resource": "https://gpu-17.example/mcp",
        "oauth-jwks": "/etc/xidwatch/keys.json",
        "socket": "/tmp/x.sock",
        "state-dir": "/tmp/x",
        "kmsg": "/tmp/kmsg",
        "probes": "kmsg,bpf",
        "ebpf": "required",
        "ebpf-loader": "bcc",
        "ebpf-program": "/etc/xidwatch/mine.c",
        "gpu": "mock",
        "mock-scenario": "/tmp/fleet.toml",
        "mode": "operator",
        "allow-drills": "true",
        "on-event": "/etc/xidwatch/sinks.toml",
        "node-name": "gpu-17",
        "quiet-gap": "250ms",
        "ring-size": "64",
        "retention": "7d",
        "retention-size": "1GiB",
        "node-reports": "events,conditions",
        "otlp-endpoint": "http://collector:4318",
        "log-level": "debug",
        "log-format": "json",
    }
    assert set(texts) == {setting.name for setting in config.SETTINGS}
    by_flag = load(texts, {})
    by_variable = load({}, {setting.variable: texts[setting.name] for setting in config.SETTINGS})
    file = write(tmp_path / "c.toml", "".join(f"{name} = {text!r}\n" for name, text in texts.items()))
    assert by_flag == by_variable == load({}, {}, file)
    untouched = [
        f.name for f in dataclasses.fields(Config) if getattr(by_flag, f.name) == getattr(Config(), f.name)
    ]
    assert untouched == [], "each text above differs from the default"
    assert by_flag.probes == frozenset({ProbeName.KMSG, ProbeName.BPF})
    assert by_flag.ebpf is Ebpf.REQUIRED
    assert str(by_flag.listen) == "[::1]:0"


def test_a_mock_scenario_without_mock_gpus_is_an_error_that_says_what_to_add(tmp_path: Path) -> None:
    for gpu in ({}, {"gpu": "nvml"}):
        with pytest.raises(UserError, match="a mock scenario is given") as caught:
            load({"mock-scenario": "/tmp/fleet.toml", **gpu}, {})
        assert "--gpu mock" in (caught.value.hint or "")
    with pytest.raises(UserError, match="a mock scenario is given"):
        load({}, {"XIDWATCH_MOCK_SCENARIO": "/tmp/fleet.toml"})
    mixed = load({"gpu": "mock"}, {}, write(tmp_path / "c.toml", 'mock-scenario = "/tmp/fleet.toml"'))
    assert mixed.mock_scenario == Path("/tmp/fleet.toml")
    assert load({"gpu": "mock", "mock-scenario": "built-in"}, {}).mock_scenario is None


def test_toml_may_hold_its_own_types(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", 'allow-drills = true\nring-size = 64\nprobes = ["kmsg", "klog"]')
    settings = load({}, {}, file)
    assert settings.allow_drills
    assert settings.ring_size == 64
    assert settings.probes == frozenset({ProbeName.KMSG, ProbeName.KLOG})


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", 'mode = "operator"')
    assert load({}, {"XIDWATCH_CONFIG": str(file)}).mode is Mode.OPERATOR


def test_variables_that_kubernetes_injects_are_ignored() -> None:
    environ = {
        "XIDWATCH_SERVICE_HOST": "10.0.0.7",
        "XIDWATCH_PORT": "tcp://10.0.0.7:8080",
        "XIDWATCH_PORT_8080_TCP_PROTO": "tcp",
    }
    assert load({}, environ) == Config()


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({}, {"XIDWATCH_NODE_NAME": "", "XIDWATCH_CONFIG": ""}) == Config()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("mode", "opertor", "'opertor' is not one of read-only, operator"),
        ("ebpf", "", "not one of auto, off, required"),
        ("listen", "8080", "not HOST:PORT"),
        ("listen", ":8080", "not HOST:PORT"),
        ("listen", "::1:8080", "not HOST:PORT"),
        ("listen", "localhost:65536", "not HOST:PORT"),
        ("listen", "localhost:99999999999999999999", "not HOST:PORT"),
        ("listen", "local host:1", "not HOST:PORT"),
        ("quiet-gap", "5", "not a duration"),
        ("quiet-gap", "0s", "too small"),
        ("ring-size", "0", "not a whole number from 1 to"),
        ("ring-size", "1_000", "not a whole number"),
        ("ring-size", "9" * 5000, "not a whole number"),
        ("retention-size", "1KiB", "too small"),
        ("probes", "kmsg,kmesg", "'kmesg' is not auto, nor a list of kmsg, klog, bpf, driver, nvml"),
        ("probes", "", "is not auto"),
        ("allow-drills", "maybe", "not one of true, false"),
        ("socket", "/" + "x" * 200, "too long for a socket"),
        ("state-dir", "", "not a path"),
        ("kmsg", "a\0b", "not a path"),
        ("node-name", "a\x1b[31m", "not a node name"),
        ("log-level", "loud", "debug, info, warning, error"),
    ],
)
def test_a_bad_value_is_refused_wherever_it_comes_from(name: str, text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        load({name: text}, {})
    assert caught.value.message.startswith(f"--{name}: ")
    assert told in caught.value.message
    if text:
        variable = "XIDWATCH_" + name.replace("-", "_").upper()
        with pytest.raises(UserError) as caught:
            load({}, {variable: text})
        assert caught.value.message.startswith(f"{variable}: ")


def test_a_near_miss_is_answered_with_the_word_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load({"mode": "opertor"}, {})
    assert caught.value.hint == "did you mean 'operator'?"
    with pytest.raises(UserError, match="unknown key 'state_dir'") as caught:
        load({}, {}, write(tmp_path / "c.toml", 'state_dir = "/x"'))
    assert caught.value.hint == "did you mean 'state-dir'?"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ("listen = [", "is not TOML"),
        ("listen = 1.5", "is not a text"),
        ("probes = [1]", "is not a text"),
        ("[listen]\nport = 1", "is not a text"),
        ("probes = " + "[" * 5_000, "is nested too deeply"),
        ("probes = " + "[" * 100 + "]" * 100, "is nested too deeply"),
        ("ring-size = 0x" + "f" * 5_000, "more than 64 bits"),
        ("probes = [0x" + "f" * 5_000 + "]", "more than 64 bits"),
        ("oauth-issuer = 'https://[::1'", "is no URL"),
        ("oauth-resource = 'https://a:b'", "is no URL"),
        ('mode = "x"', "mode in "),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, content: str, told: str) -> None:
    file = write(tmp_path / "c.toml", content)
    with pytest.raises(UserError) as caught:
        load({}, {}, file)
    assert told in caught.value.message
    assert str(file) in caught.value.message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load({}, {}, tmp_path / "absent.toml")
    with pytest.raises(UserError, match="is a directory"):
        load({}, {}, tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'node-name = "\xe9"')
    with pytest.raises(UserError, match="is not TOML"):
        load({}, {}, tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"tls-cert": "/c"}, "without its key"),
        ({"tls-key": "/k"}, "without its certificate"),
        ({"tls-client-ca": "/ca"}, "there is no TLS"),
        ({"tls-key": "/k", "tls-client-ca": "/ca"}, "without its certificate"),
    ],
)
def test_half_of_the_tls_settings_is_refused(flags: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told) as raised:
        load(flags, {})
    assert "--tls-cert" in str(raised.value.hint)


def test_another_user_than_root_gets_the_xdg_directories() -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/1000", "XDG_STATE_HOME": "/home/ann/state"}
    assert paths.user_socket(environ) == Path("/run/user/1000/xidwatch/mcp.sock")
    assert paths.user_state_dir(environ) == Path("/home/ann/state/xidwatch")


def test_without_xdg_directories_everything_lies_below_the_home_directory() -> None:
    state = Path.home() / ".local" / "state" / "xidwatch"
    assert paths.user_state_dir({"XDG_STATE_HOME": "relative"}) == state
    assert paths.user_socket({}) == state / "mcp.sock"


def test_clients_try_the_socket_of_the_node_first() -> None:
    assert paths.client_sockets()[0] == Path("/run/xidwatch/mcp.sock")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who is not root, has no HOME, and is not in passwd."""

    def unknown(uid: int) -> NoReturn:
        raise KeyError(uid)

    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_clients_of_a_user_without_a_home_look_in_the_system_places_only() -> None:
    assert paths.client_sockets() == (paths.SYSTEM_SOCKET,)
    assert paths.client_state_dirs() == (paths.SYSTEM_STATE_DIR,)


@pytest.mark.usefixtures("homeless")
def test_a_daemon_of_a_user_without_a_home_has_to_be_told_where() -> None:
    with pytest.raises(UserError) as caught:
        load({}, {})
    assert caught.value.hint is not None
    assert "--state-dir" in caught.value.hint
    assert "--socket" in caught.value.hint
    config = load({"state-dir": "/srv/state", "socket": "/srv/s"}, {})
    assert (config.state_dir, config.socket) == (Path("/srv/state"), Path("/srv/s"))
