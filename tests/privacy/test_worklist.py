"""The worklist shows what was asked for, in the order that was asked for, and counts it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs
from tests.privacy.test_journal import finding, new_item, report

from edgeward.messages import Finding, FrameFinding, ItemsQuery, Lesion, Quarantined, Verdict
from edgeward.privacy import worklist as worklist_module
from edgeward.privacy.items import CONFLICT, Identity
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey

PEOPLE = {
    1: Identity(
        patient_name="Muster^Erika", patient_id="P-1", accession_number="A100", study_description="Breast left"
    ),
    2: Identity(patient_name="MUSTER^MAX", patient_id="P-2", accession_number="A200", study_description="Thyroid"),
    3: Identity(patient_name="Müller^Änne", patient_id="P-1", issuer_of_patient_id="OTHER", accession_number="B1"),
    4: Identity(patient_name="Muster^Erika", patient_id="P-1 ", study_date="20250101"),
    5: Identity(patient_name="Nobody"),
    6: Identity(patient_name="Nobody"),
}


def found(number: int, malignancy: float | None, *, analysed: bool = True) -> Finding:
    return structs.replace(
        finding(f"item{number}", number),
        status="analysed" if analysed else "not_analysed",
        malignancy=malignancy,
        suspicious=bool(malignancy and malignancy > 0.5),
    )


def verdict(number: int, verdict_number: int = 1) -> Verdict:
    return Verdict(
        verdict_id=f"v{number}.{verdict_number}",
        item_id=f"item{number}",
        finding_id=f"f{number}",
        action="confirm",
        by="dr.no",
        at_ns=1,
    )


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Six items: 1 and 4 of one patient, 2 and 3 of others, 5 and 6 without a patient id."""
    journal = Journal(tmp_path / "journal.db", SiteKey(os.urandom(32)))
    for number, identity in PEOPLE.items():
        journal.admit(
            new_item(
                number,
                identity=identity,
                device="ct1" if number == 2 else "us1",
                modality="CT" if number == 2 else "US",
                study_instance_uid={5: "1.9", 6: "1.9"}.get(number, f"1.{number}"),
                series_instance_uid=f"1.{number}.1",
                rows=10,
            )
        )
    journal.analysed("item1", found(1, 0.7), None, 1.0, 20)
    journal.analysed("item2", found(2, 0.1), None, 1.0, 20)
    journal.analysed("item3", found(3, 0.9), None, 1.0, 20)
    journal.analysed("item4", found(4, 0.95), None, 1.0, 20)
    journal.analysed("item5", found(5, None, analysed=False), None, 1.0, 20)
    journal.verdict(verdict(4))
    yield journal
    journal.close()


def numbers(journal: Journal, **query: object) -> list[int]:
    rows, total = journal.worklist.page(ItemsQuery(**query), 0)  # type: ignore[arg-type]
    if not {"limit", "offset"} & set(query):
        assert total == len(rows)
    return [int(row.item_id.removeprefix("item")) for row in rows]


def test_by_priority_undecided_suspicion_comes_first_the_most_probable_first(journal: Journal) -> None:
    assert numbers(journal, order="priority") == [3, 1, 2, 6, 5, 4]


def test_a_verdict_takes_an_item_out_of_the_front(journal: Journal) -> None:
    journal.verdict(verdict(3))

    assert numbers(journal, order="priority") == [1, 2, 6, 5, 4, 3]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"device": "ct1"}, [2]),
        ({"modality": "US"}, [6, 5, 4, 3, 1]),
        ({"study_instance_uid": "1.9"}, [6, 5]),
        ({"suspicious": True}, [4, 3, 1]),
        ({"suspicious": False}, [2]),
        ({"decided": True}, [4]),
        ({"decided": False, "suspicious": True}, [3, 1]),
        ({"since_ns": 3 * 10**9, "before_ns": 5 * 10**9}, [4, 3]),
        ({"state": "admitted"}, [6]),
        ({"item_id": "item3"}, [3]),
        ({"item_id": "item3", "device": "ct1"}, []),
    ],
)
def test_conditions_hold_together(journal: Journal, query: dict[str, object], expected: list[int]) -> None:
    assert numbers(journal, **query) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("muster", [4, 2, 1]),
        ("ERIKA muster", [4, 1]),
        ("Muster^Erika", [4, 1]),
        ("müller", [3]),
        ("änne", [3]),
        ("a100", [1]),
        ("p-1", [4, 3, 1]),
        ("thyr", [2]),
        ("Muster, Erika", [4, 1]),
        ("(Erika) Muster,", [4, 1]),
        ("no such", []),
        ("   ", [6, 5, 4, 3, 2, 1]),
        ("%", []),
        ("*", []),
    ],
)
def test_text_is_found_in_what_is_sealed(journal: Journal, text: str, expected: list[int]) -> None:
    assert numbers(journal, text=text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "王小东",
        "王 小东",
        "王^小东",
        "wang, xiaodong",
        "Wang^XiaoDong",
        "Wang, XiaoDong (王小东)",
        "Wang，XiaoDong（王小东）",
    ],
)
def test_a_name_is_found_as_it_is_shown_and_as_it_was_sent(journal: Journal, text: str) -> None:
    identity = Identity(patient_name="Wang^XiaoDong=王^小东", patient_id="P-9")
    journal.admit(new_item(9, identity=identity))

    assert numbers(journal, text=text) == [9]
    assert numbers(journal, text="王小西") == []


def test_text_goes_with_conditions_order_and_pages(journal: Journal) -> None:
    assert numbers(journal, text="muster", modality="US") == [4, 1]
    assert numbers(journal, text="muster", order="priority") == [1, 2, 4]
    assert numbers(journal, text="muster", order="priority", limit=1, offset=1) == [2]
    assert journal.worklist.page(ItemsQuery(text="muster", limit=1), 0)[1] == 3


def test_a_search_that_had_to_end_early_does_not_claim_a_total(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worklist_module, "SEARCHED", 3)

    rows, total = journal.worklist.page(ItemsQuery(text="muster"), 0)

    assert ([row.item_id for row in rows], total) == (["item4"], -1)


def test_the_same_patient_is_the_same_number_of_the_same_issuer(journal: Journal) -> None:
    assert numbers(journal, same_patient_as="item1") == [4, 1]
    assert numbers(journal, same_patient_as="item3") == [3]
    assert numbers(journal, same_patient_as="item2") == [2]
    assert numbers(journal, same_patient_as="nobody") == []


def test_without_a_patient_id_only_the_study_says_who_it_is(journal: Journal) -> None:
    assert numbers(journal, same_patient_as="item5") == [6, 5]


def test_late_is_what_was_late_or_is_overdue(journal: Journal) -> None:
    journal.late("item2")
    rows, _ = journal.worklist.page(ItemsQuery(late=True), 7 * 10**9 + 1)
    assert [row.item_id for row in rows] == ["item6", "item5", "item4", "item3", "item2", "item1"]
    assert [row.item_id for row in journal.worklist.page(ItemsQuery(late=True), 0)[0]] == ["item2"]
    assert len(journal.worklist.page(ItemsQuery(late=False), 0)[0]) == 5


def test_pages_by_offset_do_not_overlap(journal: Journal) -> None:
    pages = [numbers(journal, order="priority", limit=2, offset=offset) for offset in (0, 2, 4, 6)]

    assert pages == [[3, 1], [2, 6], [5, 4], []]
    assert journal.worklist.page(ItemsQuery(limit=2), 0)[1] == 6


def test_an_item_tells_which_others_came_under_its_uid(journal: Journal) -> None:
    for number in (7, 8):
        item, _ = journal.admit(new_item(number, sop_instance_uid="1.2.3.1"))
        assert item.reason == CONFLICT
    journal.quarantine([Quarantined(at_ns=1, where="dicom", peer="us1", reason=CONFLICT, item_id="item8")])
    journal.quarantine([Quarantined(at_ns=0, where="dicom", peer="us1", reason="late", item_id="item1")])

    told = {name: journal.summaries(ItemsQuery(item_id=name), 0)[0].same_uid for name in ("item1", "item2", "item8")}

    assert told == {"item1": ["item7", "item8"], "item2": [], "item8": ["item1", "item7"]}
    assert [(one.item_id, one.other_item_id) for one in journal.quarantined()] == [("item8", "item1"), ("item1", "")]


def test_filters_have_what_occurs(journal: Journal) -> None:
    assert journal.worklist.modalities() == ["CT", "US"]
    assert journal.worklist.devices() == ["ct1", "us1"]


def test_a_row_tells_all_that_the_console_shows(journal: Journal) -> None:
    journal.handed("item1", ["pacs"], 30)
    journal.delivery(report(item="item1"))

    (row,) = journal.worklist.page(ItemsQuery(item_id="item1"), 0)[0]

    assert (row.series_instance_uid, row.accession_number, row.size) == ("1.1.1", "A100", 100)
    assert (row.study_complete, row.sop_class_uid) == (False, "1.2.840.10008.5.1.4.1.1.6.1")
    assert row.deliveries == [report(item="item1")]
    journal.studies.completed("1.1", 10**18, "quiet")
    journal._db.write(lambda db: db.execute("UPDATE items SET wrapped_key = NULL WHERE item_id = 'item1'"))
    (row,) = journal.worklist.page(ItemsQuery(item_id="item1"), 0)[0]
    assert (row.study_complete, row.size) == (True, 0)


def test_a_large_journal_is_paged_by_its_indexes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", SiteKey(os.urandom(32)))
    journal.admit(new_item(1, identity=PEOPLE[1]))
    # Rows are copied in one statement: only the plan is of interest, not the time of making them.
    journal._db.write(
        lambda db: db.execute(
            "INSERT INTO items (item_id, state, received_ns, deadline_ns, device, modality, sop_class_uid, "
            "sop_instance_uid, study_instance_uid, transfer_syntax_uid, digest, object_id, size, identity, patient_key) "
            "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
            "SELECT 'item' || i, 'closed', i, 0, 'us' || (i % 7), 'US', '1', '1.' || i, '1.2.' || i, '1', i, i, 1, x'00', "
            "x'01' FROM n"
        )
    )
    plans = {
        "received_ns DESC, seq DESC": "items_received",
        "rank, urgency DESC, received_ns DESC, seq DESC": "items_priority",
    }
    for order, index in plans.items():
        plan = journal._db.all(f"EXPLAIN QUERY PLAN SELECT item_id FROM items ORDER BY {order} LIMIT 10")
        assert index in str(plan), plan
    plan = journal._db.all(
        "EXPLAIN QUERY PLAN SELECT item_id FROM items WHERE patient_key = x'aa' ORDER BY received_ns"
    )
    assert "items_patient" in str(plan)
    started = time.process_time()
    assert journal.worklist.devices() == [f"us{n}" for n in range(7)]
    assert time.process_time() - started < 5
    journal.close()


def test_a_long_search_holds_up_neither_a_single_row_nor_the_work(journal: Journal) -> None:
    searching, go_on = threading.Event(), threading.Event()

    class Slow:
        def execute(self, *_: object) -> None:
            searching.set()
            assert go_on.wait(20)
            raise RuntimeError("enough")

    viewer, journal._db._viewer = journal._db._viewer, Slow()  # type: ignore[assignment]

    def look() -> None:
        with pytest.raises(RuntimeError, match="enough"):
            journal.worklist.page(ItemsQuery(text="x"), 0)

    search = threading.Thread(target=look)
    search.start()
    assert searching.wait(20)

    assert journal.item("item1").item_id == "item1"
    assert journal.summary("item1", 0) is not None
    assert journal.verdict(verdict(3)) == 1

    go_on.set()
    search.join()
    journal._db._viewer = viewer


def test_a_list_leaves_out_outlines_and_frames_and_a_single_item_has_them(journal: Journal) -> None:
    lesion = Lesion(
        contour=[(1.0, 1.0), (2.0, 1.0), (2.0, 2.0)],
        box=(1.0, 1.0, 2.0, 2.0),
        long_axis=1.0,
        short_axis=1.0,
        area=1.0,
        unit="px",
        probability=0.9,
    )
    frames = [FrameFinding(frame=number, status="analysed", lesions=[lesion]) for number in range(3)]
    whole = structs.replace(found(6, 0.2), lesions=[lesion], frame_findings=frames)
    journal.analysed("item6", whole, None, 1.0, 20)

    rows, _ = journal.worklist.page(ItemsQuery(), 0)
    listed = next(row.finding for row in rows if row.item_id == "item6")
    (single,), _ = journal.worklist.page(ItemsQuery(item_id="item6"), 0)

    assert listed is not None
    assert [one.contour for one in listed.lesions] == [[]]
    assert listed.frame_findings == []
    assert single.finding == whole
