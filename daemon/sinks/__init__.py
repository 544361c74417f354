"""Alarms that need no client: each sink is a reader of the stream with a cursor of its own, kept across
restarts, that sends what matches to a webhook, an Alertmanager or a local command."""
