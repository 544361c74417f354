"""Which alerts fire at an Alertmanager, as its API v2 wants them. Pure: the caller brings the clock.

An alert is a state, not a message. So an open incident is an alert, and one that is over resolves it; a
fault that belongs to an incident makes no alert of its own. What belongs to none (a gap, a probe that
went down) fires for `NOTICE_US`.

* Labels are few and bounded: `alertname`, `severity`, `node`, `kind`, and where known `code`, `gpu` (PCI
  address) and `uuid`, and the ones of the configuration. The same fault of the same GPU is the same alert.
* When a label of an incident changes (it got worse, another cause was found), the old alert is resolved
  and a new one fires.
* An Alertmanager forgets its alerts when it restarts, and resolves one at its `endsAt`. So what fires is
  sent again every `resend`, and ends `hold` after it was last sent: a node that dies with its fault does
  not resolve it by falling silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daemon.event import Event, Item, Kind, rfc3339
from daemon.filter import EVERYTHING, EventFilter
from daemon.sinks import wording
from daemon.sinks.batch import Batch, Skipped, sentence_of_missed
from daemon.text import clean

NOTICE_US: Final = 15 * 60 * 1_000_000
"""How long an alert fires that nothing can resolve."""
MOST_FIRING: Final = 128
"""Twice as many as incidents are followed at once; beyond, the oldest is not sent again."""

_NAMES: Final = {kind: "Xidwatch" + "".join(map(str.capitalize, kind.split("_"))) for kind in Kind}


@dataclass(frozen=True, slots=True)
class Firing:
    """An open incident, as it was last sent."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_us: int

    def saved(self) -> dict[str, Any]:
        """As the cursor's file holds it."""
        return {"labels": self.labels, "annotations": self.annotations, "starts_us": self.starts_us}

    def to_dict(self, ends_us: int) -> dict[str, Any]:
        """As the API takes it: resolved when `ends_us` is over. It may not end before it starts. Where the
        clock was set back its start gives way: an end that lies ahead would let it fire until then."""
        return {
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "startsAt": rfc3339(min(self.starts_us, ends_us)),
            "endsAt": rfc3339(ends_us),
        }


class AlertBook:
    """The alerts of one sink; its `Memory`."""

    def __init__(self, labels: Mapping[str, str], *, hold_us: int, drills: bool) -> None:
        self._labels = dict(labels)
        self._hold_us = hold_us
        self._drills = drills
        self._firing: dict[str, Firing] = {}
        self._before: dict[str, int] = {}  # incidents of before the sink was set up: id → last time

    @property
    def reads(self) -> EventFilter:
        """Everything: an incident that fires has to be seen to its end, whatever becomes of it."""
        return EVERYTHING

    @property
    def firing(self) -> Sequence[str]:
        """Ids of the incidents that fire, oldest first."""
        return list(self._firing)

    def select(self, items: Sequence[Item], match: EventFilter) -> list[Item]:
        """Items that change what fires."""
        return [item for item in items if self._matters(item.event, match)]

    def note(self, items: Iterable[Item]) -> None:
        """The alerts of these were sent."""
        for event in (item.event for item in items if item.event.kind is Kind.INCIDENT):
            self._firing.pop(event.id, None)
            self._before.pop(event.id, None)
            if self._goes_on(event):
                self._firing[event.id] = self._alert(event)
        while len(self._firing) > MOST_FIRING:
            del self._firing[next(iter(self._firing))]

    def pass_over(self, items: Iterable[Item]) -> None:
        """These incidents fire only when they go on."""
        for event in (item.event for item in items if item.event.kind is Kind.INCIDENT):
            self._before[event.id] = event.last_time_us
        while len(self._before) > MOST_FIRING:
            del self._before[next(iter(self._before))]

    def alerts(self, batch: Batch) -> list[dict[str, Any]]:
        """What to post for a batch; resolved ones first."""
        now_us = batch.sent_us
        after = dict(self._firing)
        ended: dict[tuple[tuple[str, str], ...], Firing] = {}
        notices: list[dict[str, Any]] = []
        for event in (item.event for item in batch.items):
            alert = self._alert(event)
            if event.kind is not Kind.INCIDENT:
                notices.append(alert.to_dict(now_us + NOTICE_US))
                continue
            old = after.pop(event.id, None)
            if self._goes_on(event):
                after[event.id] = alert
            if old is not None:
                # The last words about an alert, where it is still the same one.
                last = alert if _key(alert) == _key(old) else old
                ended[_key(old)] = last
        live = {_key(each) for each in after.values()}
        resolved = [old.to_dict(now_us) for key, old in ended.items() if key not in live]
        changed = {item.event.id for item in batch.items}
        fresh = [
            alert.to_dict(now_us + self._hold_us) for event_id, alert in after.items() if event_id in changed
        ]
        return [*resolved, *fresh, *notices, *self._about_the_sink(batch)]

    def refreshed(self, now_us: int) -> list[dict[str, Any]]:
        """Everything that fires, once more."""
        return [alert.to_dict(now_us + self._hold_us) for alert in self._firing.values()]

    def drop(self, event_id: str) -> None:
        """Nobody can say any more what became of it: it is not sent again, and ends `hold` after it was."""
        self._firing.pop(event_id, None)

    def dump(self) -> dict[str, Any]:
        """`{"firing": {id: …}, "before": {id: …}}`."""
        return {
            "firing": {key: alert.saved() for key, alert in self._firing.items()},
            "before": dict(self._before),
        }

    def load(self, data: dict[str, Any]) -> None:
        """See `Memory`."""
        firing = {str(key): Firing(**each) for key, each in data["firing"].items()}
        self._before = {str(key): int(each) for key, each in data["before"].items()}
        self._firing = firing

    # -- one event ---------------------------------------------------------------------------

    def _matters(self, event: Event, match: EventFilter) -> bool:
        if event.kind is not Kind.INCIDENT:
            return event.incident is None and match.matches(event) and self._wants(event)
        known = self._firing.get(event.id)
        if known is not None:
            return not self._goes_on(event) or self._alert(event) != known
        if event.last_time_us <= self._before.get(event.id, 0):
            return False
        return self._goes_on(event) and match.matches(event)

    def _wants(self, event: Event) -> bool:
        return self._drills or not event.drill

    def _goes_on(self, event: Event) -> bool:
        """True while the incident is open, and no drill that nobody asked for."""
        return wording.state(event) == wording.OPEN and self._wants(event)

    def _alert(self, event: Event) -> Firing:
        labels = {
            "alertname": _NAMES[event.kind],
            "severity": event.severity.value,
            "node": clean(event.node, 253),
            "kind": event.kind.value,
        }
        if event.code is not None:
            labels["code"] = str(event.code)
        if event.device is not None:
            labels["gpu" if event.gpu is not None else "nvswitch"] = clean(event.device, 40)
        if event.gpu is not None and event.gpu.uuid is not None:
            labels["uuid"] = clean(event.gpu.uuid, 60)
        if event.drill:
            labels["drill"] = "true"
        annotations = {
            "summary": wording.headline(event),
            "description": clean(event.summary, 1024),
            "action": event.action.value,
            "action_text": clean(event.action_text, 1024),
            "event_id": event.id,
        }
        return Firing({**self._labels, **labels}, annotations, event.time_us)

    def _about_the_sink(self, batch: Batch) -> list[dict[str, Any]]:
        """An alert that says that alerts were lost."""
        told = [sentence_of_missed(batch.missed)] if batch.missed is not None else []
        told += [_sentence_of_skipped(each) for each in batch.skipped[-3:]]
        if not told:
            return []
        labels = {
            "alertname": "XidwatchAlarmsLost",
            "severity": "warning",
            "node": clean(batch.node, 253),
            "sink": batch.sink,
        }
        text = clean(f"{batch.node}: {'; '.join(told)}", 1024)
        lost = Firing({**self._labels, **labels}, {"summary": text}, batch.sent_us)
        return [lost.to_dict(batch.sent_us + NOTICE_US)]


def _key(alert: Firing) -> tuple[tuple[str, str], ...]:
    """What an Alertmanager tells alerts apart by."""
    return tuple(sorted(alert.labels.items()))


def _sentence_of_skipped(skipped: Skipped) -> str:
    return f"{skipped.id} was given up: {skipped.reason}"
