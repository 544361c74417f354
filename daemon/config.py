"""Every setting of the daemon, described once: type, default, flag, environment variable, TOML key.

A setting called `quiet-gap` is the flag `--quiet-gap`, the variable `XIDWATCH_QUIET_GAP` and the
key `quiet-gap` of the file given with `--config`. A flag beats the environment, which beats the
file, which beats the default. Unknown `XIDWATCH_` variables are ignored, because Kubernetes
injects some for a service of that name, and an empty variable counts as not set; an unknown key
in the file is an error. Every error is a `UserError` that names where the value came from.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from daemon import access, paths
from daemon.node_reports.kinds import NodeReport, parse_reports
from daemon.otlp.target import parse_endpoint
from daemon.paths import path
from daemon.settings import (
    ENV_PREFIX,
    METADATA,
    Setting,
    at_least,
    choice,
    did_you_mean,
    setting,
    socket_path,
    switch,
    whole_number,
)
from daemon.units import duration_us, size_bytes
from probes.errors import UserError

BUILT_IN: Final = "built-in"
"""What `mock-scenario` says for the fleet that needs no file."""


class ProbeName(StrEnum):
    """A source of kernel lines that `--probes` can name."""

    KMSG = "kmsg"
    KLOG = "klog"
    BPF = "bpf"
    DRIVER = "driver"
    NVML = "nvml"


class Ebpf(StrEnum):
    """Whether to hear the kernel through eBPF."""

    AUTO = "auto"
    OFF = "off"
    REQUIRED = "required"
    """Refuse to start without it."""


class EbpfLoader(StrEnum):
    """What loads the eBPF program."""

    AUTO = "auto"
    NATIVE = "native"
    """The prebuilt object, through bpf(2)."""
    BCC = "bcc"
    """Compiled on the spot by the BPF Compiler Collection."""


class GpuBackend(StrEnum):
    """Where readings of GPUs come from."""

    AUTO = "auto"
    NVML = "nvml"
    MOCK = "mock"
    """Invented GPUs, for demonstrations; every answer from them says so."""
    OFF = "off"


class Mode(StrEnum):
    """Whether clients may change anything on the node."""

    READ_ONLY = "read-only"
    OPERATOR = "operator"


class LogLevel(StrEnum):
    """The least important messages that go to stderr."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How messages on stderr look."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address to listen on; port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """`127.0.0.1:8080`, `[::1]:8080`, `localhost:0`. The host must be named. Raises UserError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    port_ok = port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65_536
    if not (colon and host and port_ok) or (":" in host and not bracketed) or any(c.isspace() for c in host):
        raise UserError(
            f"{text!r} is not HOST:PORT",
            hint="write for example 127.0.0.1:8080, [::1]:8080, or 0.0.0.0:8080 for all interfaces",
        )
    return Address(host, int(port))


def _probes(text: str) -> frozenset[ProbeName] | None:
    if text == "auto":
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in set(ProbeName):
            valid = ", ".join(ProbeName)
            raise UserError(
                f"{name!r} is not auto, nor a list of {valid}", hint=did_you_mean(name, ProbeName)
            )
    return frozenset(ProbeName(name) for name in names)


def _program(text: str) -> Path | None:
    return None if text == "own" else path(text)


def _scenario(text: str) -> Path | None:
    return None if text == BUILT_IN else path(text)


def _node_name(text: str) -> str:
    if not text.isprintable() or not text.strip() or len(text) > 253:
        raise UserError(f"{text!r} is not a node name", hint="use the name the cluster knows this host by")
    return text.strip()


@dataclass(frozen=True, slots=True)
class Config:
    """The daemon's settings; `Config()` is all defaults."""

    listen: Address = setting(
        "listen", parse_address, "127.0.0.1:8080", "HOST:PORT", "where HTTP listens; port 0 takes a free one"
    )
    token_file: Path | None = setting(
        "token-file",
        access.optional_path,
        access.NONE,
        "FILE",
        "bearer tokens that HTTP clients have to show, made by `xidwatch token`; read anew when it changes",
    )
    """None: whoever reaches HTTP may read."""
    allow_anonymous: bool = setting(
        "allow-anonymous",
        switch,
        "false",
        None,
        "listen beyond loopback although nobody has to show a token: whoever reaches it may read",
    )
    allowed_hosts: frozenset[str] = setting(
        "allowed-hosts",
        access.host_names,
        access.NONE,
        "LIST",
        "further names under which clients address this daemon",
    )
    allowed_origins: frozenset[str] = setting(
        "allowed-origins",
        access.origins,
        access.NONE,
        "LIST",
        "further places whose web pages may ask this daemon: https://dash.example.com",
    )
    rate_limit: access.Rate | None = setting(
        "rate-limit",
        access.rate,
        "200/s",
        "RATE",
        "requests of one HTTP client, ten seconds' worth at once; off: as many as it likes",
    )
    """None: no limit."""
    socket_operators: tuple[str, ...] = setting(
        "socket-operators",
        access.users,
        access.NONE,
        "LIST",
        "users, and groups with @, who may act on the node through the unix socket beside root and this user",
    )
    oauth_issuer: str | None = setting(
        "oauth-issuer",
        access.optional_url,
        access.NONE,
        "URL",
        "OAuth authorization server whose access tokens are accepted",
    )
    oauth_audience: str | None = setting(
        "oauth-audience",
        access.optional_word,
        access.NONE,
        "TEXT",
        "audience that an access token has to name: this daemon's URL, or what the issuer calls it",
    )
    oauth_resource: str | None = setting(
        "oauth-resource",
        access.optional_url,
        access.NONE,
        "URL",
        "URL of /mcp as clients know it; none: the audience",
    )
    oauth_jwks: str | None = setting(
        "oauth-jwks",
        access.optional_word,
        access.NONE,
        "URL|FILE",
        "keys of the issuer; none: where the issuer says that they are",
    )
    tls_cert: Path | None = setting(
        "tls-cert",
        access.optional_path,
        access.NONE,
        "FILE",
        "certificate chain (PEM): HTTP becomes HTTPS, with --tls-key",
    )
    """None: HTTP is not encrypted."""
    tls_key: Path | None = setting(
        "tls-key",
        access.optional_path,
        access.NONE,
        "FILE",
        "private key of the certificate (PEM, not encrypted)",
    )
    tls_client_ca: Path | None = setting(
        "tls-client-ca",
        access.optional_path,
        access.NONE,
        "FILE",
        "take only clients whose certificate one of these authorities signed (mutual TLS)",
    )
    """None: clients need no certificate."""
    socket: Path = setting(
        "socket", socket_path, paths.default_socket, "PATH", "unix socket for local clients"
    )
    state_dir: Path = setting("state-dir", path, paths.default_state_dir, "DIR", "directory of the journal")
    kmsg: Path = setting("kmsg", path, "/dev/kmsg", "PATH", "kernel log device")
    probes: frozenset[ProbeName] | None = setting(
        "probes",
        _probes,
        "auto",
        "LIST",
        "probes to run, with commas: kmsg, klog, bpf, driver, nvml; auto: what works here",
    )
    """None: every probe that works here."""
    ebpf: Ebpf = setting("ebpf", choice(Ebpf), "auto", "|".join(Ebpf), "hear the kernel through eBPF")
    ebpf_loader: EbpfLoader = setting(
        "ebpf-loader", choice(EbpfLoader), "auto", "|".join(EbpfLoader), "what loads the eBPF program"
    )
    ebpf_program: Path | None = setting(
        "ebpf-program",
        _program,
        "own",
        "FILE",
        "eBPF program in C that bcc compiles, with xidwatch's event layout; own: xidwatch's",
    )
    """None: the one in this package."""
    gpu: GpuBackend = setting(
        "gpu", choice(GpuBackend), "auto", "|".join(GpuBackend), "where readings of GPUs come from"
    )
    mock_scenario: Path | None = setting(
        "mock-scenario",
        _scenario,
        BUILT_IN,
        "FILE",
        "with --gpu mock: which GPUs there are and what happens to them, read anew when the file changes",
    )
    """None: the fleet that needs no file."""
    mode: Mode = setting(
        "mode",
        choice(Mode),
        "read-only",
        "|".join(Mode),
        "operator: clients may act on the node, after asking",
    )
    allow_drills: bool = setting(
        "allow-drills",
        switch,
        "false",
        None,
        "let lines written by `xidwatch drill` become events, marked as such",
    )
    on_event: Path | None = setting(
        "on-event",
        access.optional_path,
        access.NONE,
        "FILE",
        "TOML file with a [[sink]] for each webhook, Alertmanager or command that events are sent to",
    )
    """None: events wait to be asked for."""
    node_name: str = setting(
        "node-name", _node_name, lambda: os.uname().nodename, "NAME", "name of this node in events"
    )
    quiet_gap_us: int = setting(
        "quiet-gap",
        at_least("1ms", duration_us),
        "5s",
        "DURATION",
        "a fault that comes again within this time is counted, not told anew",
    )
    """Kernel time in µs."""
    ring_size: int = setting(
        "ring-size",
        whole_number(1, 1_000_000),
        "4096",
        "COUNT",
        "events kept in memory; older ones are read from disk",
    )
    retention_us: int = setting(
        "retention",
        at_least("1s", duration_us),
        "30d",
        "DURATION",
        "how long the journal keeps events",
    )
    """µs."""
    retention_bytes: int = setting(
        "retention-size",
        at_least("1MiB", size_bytes),
        "512MiB",
        "SIZE",
        "how large the journal may grow",
    )
    node_reports: frozenset[NodeReport] = setting(
        "node-reports",
        parse_reports,
        "none",
        "LIST",
        "what Kubernetes is told of its node, with commas: events, conditions",
    )
    otlp_endpoint: str | None = setting(
        "otlp-endpoint",
        parse_endpoint,
        "none",
        "URL",
        "OpenTelemetry receiver of events (logs) and traces over HTTP: http://collector:4318",
    )
    """None: nothing is sent."""
    log_level: LogLevel = setting(
        "log-level", choice(LogLevel), "info", "|".join(LogLevel), "least important messages to print"
    )
    log_format: LogFormat = setting(
        "log-format", choice(LogFormat), "text", "|".join(LogFormat), "form of messages on stderr"
    )


_FIELDS: dict[str, tuple[str, Setting]] = {
    field.metadata[METADATA].name: (field.name, field.metadata[METADATA])
    for field in dataclasses.fields(Config)
}
SETTINGS: tuple[Setting, ...] = tuple(each for _, each in _FIELDS.values())
"""In the order of `--help`."""


def load(flags: Mapping[str, str], environ: Mapping[str, str], file: Path | None = None) -> Config:
    """The settings in force. `flags` holds the texts of the flags given, by setting name; `file` is the
    TOML file of `--config`, or else of XIDWATCH_CONFIG. Raises UserError."""
    if file is None and environ.get(f"{ENV_PREFIX}CONFIG"):
        file = Path(environ[f"{ENV_PREFIX}CONFIG"])
    written = _read_file(file) if file is not None else {}
    chosen: dict[str, Any] = {}
    for name, (field_name, each) in _FIELDS.items():
        if name in flags:
            chosen[field_name] = _parse(each, flags[name], each.flag)
        elif environ.get(each.variable):
            chosen[field_name] = _parse(each, environ[each.variable], each.variable)
        elif name in written:
            chosen[field_name] = _parse(each, written[name], f"{name} in {file}")
    config = Config(**chosen)
    if config.mock_scenario is not None and config.gpu is not GpuBackend.MOCK:
        raise UserError(
            f"a mock scenario is given ({config.mock_scenario}), but --gpu is {config.gpu}",
            hint="add --gpu mock, or leave out --mock-scenario",
        )
    _check_tls(config)
    return config


def _check_tls(config: Config) -> None:
    if (config.tls_cert is None) != (config.tls_key is None):
        given, missing = ("certificate", "key") if config.tls_key is None else ("key", "certificate")
        raise UserError(
            f"a TLS {given} is given without its {missing}", hint="give both --tls-cert and --tls-key"
        )
    if config.tls_client_ca is not None and config.tls_cert is None:
        raise UserError(
            "clients are to show certificates (--tls-client-ca), but there is no TLS",
            hint="give --tls-cert and --tls-key too",
        )


def _parse(each: Setting, text: str, source: str) -> object:
    try:
        return each.parse(text)
    except UserError as error:
        raise UserError(f"{source}: {error.message}", hint=error.hint) from None


def _read_file(file: Path) -> dict[str, str]:
    """The settings of a TOML file as texts, so that a value means the same wherever it is written."""
    from daemon import toml_text  # noqa: PLC0415 (only when there is a file)

    try:
        table = toml_text.parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the config file {file}: {(error.strerror or str(error)).lower()}"
        ) from None
    except toml_text.TomlError as error:
        raise UserError(f"the config file {file} {error}") from None
    except ValueError as error:  # no UTF-8, or no path
        raise UserError(f"the config file {file} is not TOML: {error}") from None
    for key in table:
        if key not in _FIELDS:
            near = did_you_mean(key, _FIELDS)
            raise UserError(
                f"unknown key {key!r} in {file}", hint=near or f"known keys: {', '.join(_FIELDS)}"
            )
    return {key: _toml_text(key, value, file) for key, value in table.items()}


def _toml_text(key: str, value: object, file: Path) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int():
            return str(value)
        case list() if value and all(isinstance(part, str) for part in value):
            return ",".join(value)
    raise UserError(f"{key} in {file}: {value!r} is not a text, a whole number or true/false")
