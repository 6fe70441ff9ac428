"""Groups for the pages: refusals, revisions and their deliveries, orders, what the viewer is told."""

from __future__ import annotations

import msgspec
import pytest

from edgeward.console.viewer import picture_facts, viewer_data
from edgeward.console.views import date_text, datetime_text, order_view, refusals, revisions
from edgeward.messages import DeliveryReport, Order, Quarantined, RegionScale, Rendered, Verdict
from tests.support.synthetic import make_item


def refused(
    at: int, reason: str = "r", where: str = "dicom", peer: str = "a", count: int = 1, item: str = ""
) -> Quarantined:
    return Quarantined(at_ns=at, where=where, peer=peer, reason=reason, what_to_do="d", count=count, item_id=item)


def test_like_cases_stand_together_and_are_counted() -> None:
    groups = refusals(
        [refused(1, count=3), refused(5, peer="b", item="i"), refused(3, reason="other"), refused(2, where="mqtt")]
    )

    assert [(g.where, g.reason, g.count, g.last_ns) for g in groups] == [
        ("dicom", "r", 4, 5),
        ("dicom", "other", 1, 3),
        ("mqtt", "r", 1, 2),
    ]
    assert groups[0].peers == ["b", "a"]
    assert groups[0].item_ids == ["i"]


def test_a_conflict_stands_with_the_one_that_came_first() -> None:
    entry = refused(1, item="i")

    (group,) = refusals([msgspec.structs.replace(entry, other_item_id="first"), refused(2, item="j")])

    assert (group.item_ids, group.others) == (["j", "i"], {"i": "first"})


def test_a_group_shows_some_peers_and_counts_the_rest() -> None:
    (group,) = refusals([refused(i, peer=f"10.0.0.{i}") for i in range(40)])

    assert len(group.shown_peers) + group.more_peers == 40


def report(destination: str, revision: int, state: str = "delivered", at: int = 0) -> DeliveryReport:
    return DeliveryReport(item_id="i", destination=destination, state=state, revision=revision, at_ns=at)  # type: ignore[arg-type]


def verdict(at: int, action: str = "confirm") -> Verdict:
    return Verdict(verdict_id=str(at), item_id="i", finding_id="f", action=action, by="lee", at_ns=at)  # type: ignore[arg-type]


def test_each_verdict_is_a_revision_with_the_last_word_of_each_destination() -> None:
    item, _ = make_item(0, "malignant")
    item = msgspec.structs.replace(
        item,
        verdicts=[verdict(20, "reject"), verdict(10)],
        deliveries=[
            report("emr", 0),
            report("pacs", 0, "failed", 1),
            report("pacs", 0, "delivered", 2),
            report("pacs", 1),
        ],
    )

    found = revisions(item)

    assert [(r.number, r.verdict.action if r.verdict else "") for r in found] == [
        (2, "reject"),
        (1, "confirm"),
        (0, ""),
    ]
    assert found[0].reports == (), "on its way"
    assert [(r.destination, r.state) for r in found[2].reports] == [("emr", "delivered"), ("pacs", "delivered")]


def test_what_was_never_sent_has_no_revisions() -> None:
    item, _ = make_item(0, "outside")

    assert revisions(msgspec.structs.replace(item, deliveries=[])) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [("20261123", "2026-11-23"), ("2026112310", "2026-11-23 10:00"), ("202611231015", "2026-11-23 10:15"), ("20261123101530.5", "2026-11-23 10:15"), ("", ""), ("soon", "soon"), ("20261332", "20261332")],
)  # fmt: skip
def test_dicom_times_are_written_for_people(value: str, text: str) -> None:
    assert datetime_text(value) == text


def test_a_date_that_is_none_is_shown_as_it_is() -> None:
    assert date_text("1964") == "1964"


def test_an_engineer_sees_an_order_without_the_patient() -> None:
    order = Order(order_id="o", accession_number="A1", status="scheduled", patient_id="P1", patient_name="Wang^Li", birth_date="19640229", procedure="Breast, after mastectomy")  # fmt: skip

    hidden = order_view(order, identity=False)

    assert (hidden.patient, hidden.patient_id, hidden.accession, hidden.born, hidden.procedure) == ("",) * 5
    assert order_view(order, identity=True).patient == "Wang, Li"


def test_the_viewer_is_told_every_frame_and_how_far_it_is_verified() -> None:
    loop, _ = make_item(2, "benign")
    single, _ = make_item(0, "malignant")
    waiting, _ = make_item(8, "waiting")

    assert [f["frame"] for f in viewer_data(loop, identity=True)["found"]] == [0, 3, 9, 15, 21]
    assert len(viewer_data(single, identity=True)["found"]) == 1
    assert viewer_data(single, identity=True)["verification"] == "preliminary"
    decided = msgspec.structs.replace(single, verdicts=[verdict(1), verdict(2, "reject")])
    assert viewer_data(decided, identity=True)["verification"] == "reject"
    assert viewer_data(waiting, identity=True)["found"] == []
    assert viewer_data(waiting, identity=True)["verification"] == ""
    assert viewer_data(single, identity=False)["title"] == ""


def test_facts_fit_into_a_header() -> None:
    rendered = Rendered(data=b"", media_type="image/png", width=1, height=1, scale=1.0, rows=1, columns=1, frame=0, frames=1, spacing_mm=(0.1, 0.1), spacing_source="Abstand\r\n量", scales=(RegionScale(box=(0, 0, 9, 9)),) * 16)  # fmt: skip

    text = msgspec.json.encode(picture_facts(rendered))

    assert text.isascii()
    assert b"\r" not in text
    assert b"\n" not in text
    assert len(text) < 2000
