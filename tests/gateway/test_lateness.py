"""A late item names the stage that ate its time."""

from __future__ import annotations

import pytest

from edgeward.gateway.lateness import explain, stages_of, stuck_in
from edgeward.messages import DeliveryReport, Finding, StageTime
from edgeward.privacy.items import Item

MS = 1_000_000


def item(
    *, store: int = 5, wait: int = 2, engine: int = 100, infer: float = 80.0, hand: int = 3, deliver: int = 40
) -> Item:
    stored = store * MS
    asked = stored + wait * MS
    analysed = asked + engine * MS
    handed = analysed + hand * MS
    finding = Finding(
        finding_id="f",
        item_id="i",
        sop_instance_uid="1",
        status="analysed",
        model="m",
        model_version="1",
        stages=[StageTime(name="infer", ms=infer)],
    )
    return Item(
        item_id="i",
        state="closed",
        reason="",
        received_ns=0,
        deadline_ns=1,
        stored_ns=stored,
        asked_ns=asked,
        analysed_ns=analysed,
        handed_ns=handed,
        delivered_ns=handed + deliver * MS,
        late=False,
        attempts=1,
        crashes=0,
        device="d",
        sop_class_uid="",
        sop_instance_uid="1",
        transfer_syntax_uid="",
        object_id="o",
        wrapped_key=b"",
        size=1,
        finding=finding,
    )


def report(ms: float) -> DeliveryReport:
    return DeliveryReport(item_id="i", destination="pacs", state="delivered", stages=[StageTime(name="send", ms=ms)])


def test_the_stages_add_up_to_the_whole() -> None:
    assert sum(stages_of(item(), [report(30.0)]).values()) == pytest.approx(150.0)


@pytest.mark.parametrize(
    ("late", "reports", "stage"),
    [
        (item(), [report(30.0)], "engine.infer"),
        (item(store=900), [report(30.0)], "receive"),
        (item(wait=900), [report(30.0)], "wait"),
        (item(engine=900), [report(30.0)], "engine.rest"),
        (item(hand=900), [report(30.0)], "hand over"),
        (item(deliver=900), [report(30.0)], "deliver.rest"),
        (item(deliver=900), [report(10.0), report(890.0)], "deliver.send"),
        (item(deliver=900), [], "deliver.rest"),
    ],
)
def test_the_longest_stage_explains(late: Item, reports: list[DeliveryReport], stage: str) -> None:
    assert explain(late, reports) == stage


@pytest.mark.parametrize(
    ("state", "handed", "stage"),
    [
        ("admitted", False, "wait"),
        ("dispatched", False, "engine"),
        ("analysed", False, "hand over"),
        ("analysed", True, "deliver"),
    ],
)
def test_an_open_item_is_stuck_where_its_state_says(state: str, handed: bool, stage: str) -> None:
    assert stuck_in(state, handed) == stage
