"""Which stage ate the time of a late item.

Pure: from the row and what others measured. Responsible for naming a stage, not for counting.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeward.messages import DeliveryReport
from edgeward.privacy.items import Item


def stages_of(item: Item, reports: Sequence[DeliveryReport]) -> dict[str, float]:
    """Return where the time of a delivered item went: milliseconds per stage, without overlap.

    Stages measured by engine and deliver carry their name in front; what is left of the time an item spent with them is
    their rest: waiting for the bus, the disk, the processor.
    """
    engine = item.finding.stages if item.finding else []
    delivery = max((report.stages for report in reports), key=lambda stages: sum(s.ms for s in stages), default=[])
    spent = {
        "receive": (item.stored_ns - item.received_ns) / 1e6,
        "wait": (item.asked_ns - item.stored_ns) / 1e6,
        "hand over": (item.handed_ns - item.analysed_ns) / 1e6,
    }
    for stage in engine:
        spent[f"engine.{stage.name}"] = spent.get(f"engine.{stage.name}", 0.0) + stage.ms
    for stage in delivery:
        spent[f"deliver.{stage.name}"] = spent.get(f"deliver.{stage.name}", 0.0) + stage.ms
    spent["engine.rest"] = (item.analysed_ns - item.asked_ns) / 1e6 - sum(stage.ms for stage in engine)
    spent["deliver.rest"] = (item.delivered_ns - item.handed_ns) / 1e6 - sum(stage.ms for stage in delivery)
    return {name: max(0.0, ms) for name, ms in spent.items()}


def explain(item: Item, reports: Sequence[DeliveryReport]) -> str:
    """Return the stage that took the most time of a delivered item."""
    spent = stages_of(item, reports)
    return max(spent, key=lambda name: spent[name])


def stuck_in(state: str, handed: bool) -> str:
    """Return the stage an open item is in."""
    if state == "analysed":
        return "deliver" if handed else "hand over"
    return "engine" if state == "dispatched" else "wait"
