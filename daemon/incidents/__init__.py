"""Incidents: events on one GPU or fabric that belong together, with a primary cause and an end.

The last step of the pipeline. `Incidents` is its only entry; the rest is, in the order of reading,
the tables (`signs` and `rules`: what belongs together; `patterns`: what makes it worse; `recovery` and
`closing`: what ends it), the values (`member`, `incident`, `memory`), what is looked at when an event
comes (`nearby`, `placing`), those that are followed (`register`, `saved`), and the public form
(`report`, `advice`).
"""

from __future__ import annotations

from daemon.incidents.table import PREFIX, Incidents

__all__ = ["PREFIX", "Incidents"]
