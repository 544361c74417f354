"""Where OTLP goes and who we are there: the endpoint, the headers, the resource.

What OpenTelemetry's specification has variables for is taken from them, so that secrets stay out of
settings: `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_CERTIFICATE`, `OTEL_RESOURCE_ATTRIBUTES`,
`OTEL_SERVICE_NAME`. The endpoint is a setting of ours, because it is what switches all this on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from probes.errors import UserError

_PARTS: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.common")


@dataclass(frozen=True, slots=True)
class OtlpTarget:
    """One endpoint."""

    endpoint: str
    """Base URL, without a slash at its end: `http://collector:4318`."""
    resource: Mapping[str, str]
    """Attributes that say who sends."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request; may hold secrets."""
    ca_file: Path | None = None
    """Certificates to trust in place of the system's; None: the system's."""

    @property
    def shown(self) -> str:
        """Scheme, host and port: what may be printed."""
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def url(self, signal: str) -> str:
        """Where `logs` or `traces` go."""
        return f"{self.endpoint}/v1/{signal}"


def parse_endpoint(text: str) -> str | None:
    """`http://collector:4318`, a base URL; None for `none`. Raises UserError."""
    if text == "none":
        return None
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:  # half an IPv6 address, or a port that is no number
        is_good, parts = False, urlsplit("")
    if not is_good or parts.query or parts.fragment:
        raise UserError(
            f"{text!r} is not the URL of an OTLP/HTTP receiver",
            hint="write for example http://collector:4318",
        )
    if parts.path.endswith(("/v1/logs", "/v1/traces")):
        base = text.rsplit("/v1/", 1)[0]
        raise UserError(f"{text!r} names one signal", hint=f"give the base URL: {base}")
    return text.rstrip("/")


def require_extra() -> None:
    """Raises UserError when the extra is not installed."""
    for part in _PARTS:
        try:
            found = find_spec(part)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise UserError(
                f"--otlp-endpoint is given, and the Python package {part} is not installed",
                hint="pip install 'xidwatch[otel]'",
            )


def target(endpoint: str, *, node: str, version: str, environ: Mapping[str, str]) -> OtlpTarget:
    """The target for this endpoint, with what the environment adds. Raises UserError."""
    require_extra()
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415 (only with an endpoint)

    resource = {"service.name": "xidwatch", "service.version": version, "host.name": os.uname().nodename}
    if environ.get("KUBERNETES_SERVICE_HOST"):
        resource["k8s.node.name"] = node
    resource |= parse_env_headers(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""), liberal=True)
    if name := environ.get("OTEL_SERVICE_NAME"):
        resource["service.name"] = name
    resource["xidwatch.node"] = node
    return OtlpTarget(
        endpoint,
        resource,
        _checked(parse_env_headers(environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""), liberal=True)),
        _ca_file(environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE")),
    )


def _checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Headers that HTTP takes: the words of its own error would hold the secret, and are shown."""
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable():
            raise UserError(f"OTEL_EXPORTER_OTLP_HEADERS: the value of {name} is not printable ASCII")
    return headers


def _ca_file(text: str | None) -> Path | None:
    if not text:
        return None
    import ssl  # noqa: PLC0415 (only for those who bring their own certificates)

    try:
        ssl.create_default_context(cafile=text)
    except ssl.SSLError:
        raise UserError(f"OTEL_EXPORTER_OTLP_CERTIFICATE: {text} holds no certificate in PEM form") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"OTEL_EXPORTER_OTLP_CERTIFICATE: cannot read {text}: {why}") from None
    return Path(text)
