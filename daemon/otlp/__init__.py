"""OpenTelemetry: events as log records, and what the daemon does as traces, over OTLP/HTTP.

Part of the extra `[otel]`. Nothing of OpenTelemetry's SDK is loaded unless an endpoint is given.
"""
