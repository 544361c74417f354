"""Where sinks send, as the file of `--on-event` says it: values that were checked when it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from daemon.filter import EventFilter
from daemon.sinks.news import Updates


class SinkType(StrEnum):
    """Where a sink sends."""

    WEBHOOK = "webhook"
    ALERTMANAGER = "alertmanager"
    COMMAND = "command"


class BodyFormat(StrEnum):
    """What a webhook is sent."""

    JSON = "json"
    """`Batch.to_json`."""
    SLACK = "slack"
    """`{"text": …}`, as the incoming webhooks of Slack, Mattermost and Rocket.Chat take it."""


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """Where a webhook or Alertmanager is, and how we show who we are. No secret is in it but for `url`."""

    url: str = field(repr=False)
    """With the path that is posted to."""
    shown: str
    """Scheme, host and port: what may be printed, as a path can hold a token."""
    url_file: Path | None
    """Where `url` was read; None when it stands in the file."""
    below: str
    """What comes after the URL that was given: the path of an API."""
    headers: Mapping[str, str]
    header_files: Mapping[str, Path]
    ca_file: Path | None
    """Certificates to trust in place of the system's; None: the system's."""
    timeout_s: float
    """For one try, from the look-up of the name to the last byte of the answer."""


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """A webhook."""

    http: HttpTarget
    format: BodyFormat
    secret_file: Path | None
    """Key of the signature; None: nothing is signed."""


@dataclass(frozen=True, slots=True)
class AlertmanagerTarget:
    """An Alertmanager; of a cluster, each one is a sink of its own."""

    http: HttpTarget
    labels: Mapping[str, str]
    resend_us: int
    hold_us: int


@dataclass(frozen=True, slots=True)
class CommandTarget:
    """A local program."""

    argv: tuple[str, ...]
    """Its absolute path and its arguments; no shell."""
    timeout_s: float


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """One `[[sink]]`."""

    name: str
    match: EventFilter
    drills: bool
    updates: Updates
    per_minute: int
    target: WebhookTarget | AlertmanagerTarget | CommandTarget

    @property
    def type(self) -> SinkType:
        """Where it sends."""
        match self.target:
            case WebhookTarget():
                return SinkType.WEBHOOK
            case AlertmanagerTarget():
                return SinkType.ALERTMANAGER
            case CommandTarget():
                return SinkType.COMMAND

    @property
    def shown_target(self) -> str:
        """Where it sends, fit to be printed: no path of a URL, as that may hold a token."""
        match self.target:
            case CommandTarget(argv=argv):
                return argv[0]
            case WebhookTarget(http=http) | AlertmanagerTarget(http=http):
                return http.shown
