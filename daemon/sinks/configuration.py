"""The file of `--on-event`: TOML with a `[[sink]]` table for each way out.

Every error is a `UserError` that names the sink and the key, and is found at start: an alarm that is
configured wrongly must not be found out in the night in which it is needed. The file names commands that
run as the daemon, so it, and each command, must not be writable by others.
"""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from daemon import regular_file, toml_text
from daemon.event import Kind, Severity
from daemon.filter import EventFilter
from daemon.paths import path
from daemon.regular_file import UnfitFileError
from daemon.settings import at_least, choice
from daemon.sinks.credentials import read_secret
from daemon.sinks.news import Updates
from daemon.sinks.table import Table
from daemon.sinks.targets import (
    AlertmanagerTarget,
    BodyFormat,
    CommandTarget,
    HttpTarget,
    SinkConfig,
    SinkType,
    WebhookTarget,
)
from daemon.units import duration_us
from probes.errors import UserError

MOST_BYTES: Final = 1024 * 1024
"""Far more than `MOST_SINKS` sinks with all their keys need."""
MOST_SINKS: Final = 16
"""Each has a cursor of its own and reads the stream: more belong behind one receiver that distributes."""
MOST_LABELS: Final = 16
"""Beside those of the event; Alertmanager groups by few."""
MOST_A_MINUTE: Final = 600
"""Ten a second are no longer read by people, and a stream has `/events`."""
SHORTEST_KEY: Final = 16
"""Characters of a signing key, at least: a shorter one can be guessed from one signed body."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_OWN_LABELS: Final = frozenset(
    {"alertname", "severity", "node", "kind", "code", "gpu", "nvswitch", "uuid", "drill", "sink"}
)
_OF_CREDENTIALS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
_OWN_HEADERS: Final = frozenset(
    {"content-type", "content-length", "host", "transfer-encoding", "x-xidwatch-signature"}
)


def load(file: Path) -> tuple[SinkConfig, ...]:
    """The sinks of a file, in its order. Raises UserError."""
    try:
        content = regular_file.read(file, MOST_BYTES)
        text = content.data.decode("utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read the sinks in {file}: {(error.strerror or str(error)).lower()}"
        ) from None
    except UnfitFileError as error:
        raise UserError(f"{file} {error}", hint="write the sinks into a file of their own") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text") from None
    if content.status.st_mode & stat.S_IWOTH:
        raise UserError(f"others may write {file}, which names commands to run", hint=f"chmod o-w {file}")
    try:
        tables = toml_text.parse(text)
    except toml_text.TomlError as error:
        raise UserError(f"{file} {error}") from None
    for key in tables.keys() - {"sink"}:
        raise UserError(f"unknown key {key!r} in {file}", hint="each way out is a [[sink]] table")
    sinks = tables.get("sink")
    if not isinstance(sinks, list) or not sinks or not all(isinstance(each, dict) for each in sinks):
        raise UserError(f"{file} has no sink", hint='write [[sink]], name = "…" and type = "webhook"')
    if len(sinks) > MOST_SINKS:
        raise UserError(f"{file} has {len(sinks)} sinks", hint=f"there can be {MOST_SINKS}")
    found = tuple(_sink(Table(each, f"sink {number} in {file}")) for number, each in enumerate(sinks, 1))
    names = [sink.name for sink in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two sinks in {file} are called {name!r}", hint="a name is for one")
    return found


def _sink(table: Table) -> SinkConfig:
    name = table.text("name", _name)
    table.what = f"sink {name!r}"
    kind = table.text("type", choice(SinkType))
    target, per_minute = _TARGETS[kind](table)
    match = _filter(table)
    if kind is SinkType.ALERTMANAGER and match.kinds and Kind.INCIDENT not in match.kinds:
        raise table.refuse(
            "kind leaves out `incident`, and an Alertmanager is told faults as incidents",
            'add "incident" to kind, or leave kind out',
        )
    updates = (
        Updates.IMPORTANT
        if kind is SinkType.ALERTMANAGER
        else table.text("updates", choice(Updates), Updates.IMPORTANT)
    )
    sink = SinkConfig(
        name=name,
        match=match,
        drills=table.switch("drills"),
        updates=updates,
        per_minute=table.number("per-minute", per_minute, 1, MOST_A_MINUTE),
        target=target,
    )
    table.done()
    return sink


def _filter(table: Table) -> EventFilter:
    severity = table.text("severity", str, Severity.WARNING)
    lists = {key: table.words(key) for key in ("code", "kind", "gpu")}
    try:
        return EventFilter.parse(severity, **lists)
    except UserError as error:
        raise table.refuse(error.message, error.hint) from None


# -- where it goes: the target, and how many a minute by default ------------------------------


def _webhook(table: Table) -> tuple[WebhookTarget, int]:
    secret_file = table.optional("secret-file", path)
    if (
        secret_file is not None
        and len(table.checked("secret-file", _secret, str(secret_file))) < SHORTEST_KEY
    ):
        raise table.refuse(
            f"secret-file: the key in {secret_file} is shorter than {SHORTEST_KEY} characters",
            f"openssl rand -hex 32 > {secret_file}",
        )
    body = table.text("format", choice(BodyFormat), BodyFormat.JSON)
    return WebhookTarget(_http(table), body, secret_file), 60


def _alertmanager(table: Table) -> tuple[AlertmanagerTarget, int]:
    http = _http(table, below="/api/v2/alerts")
    labels = table.pairs("labels")
    for label, value in labels.items():
        if not _LABEL.fullmatch(label) or not value.isprintable() or len(value) > 256:
            raise table.refuse(f"labels: {label!r} is not a label with a short text")
        if label in _OWN_LABELS:
            raise table.refuse(f"labels: {label!r} is one that xidwatch sets")
    if len(labels) > MOST_LABELS:
        raise table.refuse(f"labels: there can be {MOST_LABELS}")
    resend_us = table.text("resend", at_least("10s", duration_us), "5m")
    hold_us = table.text("hold", at_least("1m", duration_us), "24h")
    if hold_us < 2 * resend_us:
        raise table.refuse(
            "hold is shorter than twice resend: an alert would end between two of them",
            "make hold the time that an alert may outlive this node",
        )
    return AlertmanagerTarget(http, labels, resend_us, hold_us), 60


def _command(table: Table) -> tuple[CommandTarget, int]:
    argv = table.words("command")
    if not argv or not argv[0]:
        raise table.refuse(
            "command is missing", 'write it as a list: command = ["/usr/local/bin/page", "gpu"]'
        )
    if any("\0" in word for word in argv):
        raise table.refuse("command: a NUL character is no part of an argument")
    program = shutil.which(argv[0])
    if program is None or not Path(argv[0]).is_absolute():
        hint = "give its absolute path, and chmod +x it" if program is None else f"write {program}"
        raise table.refuse(f"command: {argv[0]!r} is not the absolute path of an executable", hint)
    if Path(program).stat().st_mode & stat.S_IWOTH:
        raise table.refuse(f"command: others may write {program}", f"chmod o-w {program}")
    return CommandTarget((program, *argv[1:]), table.text("timeout", _timeout_s, "30s")), 30


_TARGETS: Final[
    Mapping[SinkType, Callable[[Table], tuple[WebhookTarget | AlertmanagerTarget | CommandTarget, int]]]
] = {
    SinkType.WEBHOOK: _webhook,
    SinkType.ALERTMANAGER: _alertmanager,
    SinkType.COMMAND: _command,
}


def post_url(url: str, below: str) -> str:
    """The URL to post to: the given one, with the path of an API behind it. Raises UserError."""
    return _url(url).rstrip("/") + below if below else _url(url)


def _http(table: Table, below: str = "") -> HttpTarget:
    plain, url_file = table.optional("url", _url), table.optional("url-file", path)
    if (plain is None) == (url_file is None):
        raise table.refuse("give either url or url-file", "a URL that holds a token belongs into a file")
    url = plain or table.checked("url-file", lambda text: _url(_secret(text)), str(url_file))
    headers = table.pairs("headers")
    header_files = {name: Path(text) for name, text in table.pairs("header-files").items()}
    for name in (*headers, *header_files):
        if not _HEADER.fullmatch(name) or name.lower() in _OWN_HEADERS:
            raise table.refuse(f"{name!r} is not a header that can be set")
    for name, value in headers.items():
        if name.lower() in _OF_CREDENTIALS:
            raise table.refuse(f"headers: {name} holds a secret", f'header-files = {{ {name} = "/path" }}')
        if not value.isascii() or not value.isprintable():
            raise table.refuse(f"headers: the value of {name} is not printable ASCII")
    for name, file in header_files.items():
        table.checked(f"header-files: {name}", _secret, str(file))
    parts = urlsplit(url)
    return HttpTarget(
        url=post_url(url, below),
        shown=f"{parts.scheme}://{parts.netloc}",
        url_file=url_file,
        below=below,
        headers=headers,
        header_files=header_files,
        ca_file=table.optional("ca-file", _ca_file),
        timeout_s=table.text("timeout", _timeout_s, "10s"),
    )


# -- single values ----------------------------------------------------------------------------


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise UserError(f"{text!r} is not a name", hint="use up to 32 of a-z, 0-9, - and _")
    return text


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        is_good, parts = False, urlsplit("")
    if not is_good or not text.isascii() or not text.isprintable() or " " in text:
        raise UserError(
            "it is not a URL that can be posted to", hint="write for example https://alerts.example.com/gpu"
        )
    if parts.username is not None:
        raise UserError(
            "it holds a user name or password", hint="send them with header-files: Authorization = Basic …"
        )
    return text


def _secret(text: str) -> str:
    return read_secret(path(text))


def _ca_file(text: str) -> Path:
    import ssl  # noqa: PLC0415 (only for those who bring their own certificates)

    file = path(text)
    try:
        ssl.create_default_context(cafile=str(file))
    except ssl.SSLError:
        raise UserError(f"{file} holds no certificate in PEM form") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from None
    return file


def _timeout_s(text: str) -> float:
    seconds = at_least("100ms", duration_us)(text) / 1e6
    if seconds > 300:
        raise UserError(f"{text!r} is too long", hint="at most 5m")
    return seconds
