"""In which order conditions that come together are taken.

Responsible for ends only: of those that come at once, what another alarm hides ends before what hides it. Pure. Not
responsible for what hides what (``rules``) or for what an end sets in motion (``engine``).
"""

from __future__ import annotations

from collections.abc import Iterable

from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.rules import RULES


def hidden_ends_first(events: Iterable[ConditionEvent]) -> list[ConditionEvent]:
    """Return the events, but of ends that come together those first that other alarms hide.

    A beat ends an asystole and the pause before it. Were the asystole ended first, the pause would come up once more.
    """
    found = list(events)
    if len(found) < 2:
        return found
    ordered: list[ConditionEvent] = []
    ends: list[ConditionEvent] = []
    for event in found:
        if not event.present and (not ends or ends[0].source_id == event.source_id):
            ends.append(event)
            continue
        ordered += sorted(ends, key=_hiders, reverse=True)
        ends = []
        if event.present:
            ordered.append(event)
        else:
            ends.append(event)
    return ordered + sorted(ends, key=_hiders, reverse=True)


def _hiders(event: ConditionEvent) -> int:
    rule = RULES.get(event.code)
    return len(rule.superseded_by) if rule else 0
