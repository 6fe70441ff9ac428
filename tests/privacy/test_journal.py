"""The journal keeps what it acknowledged, once, through crashes; and says so when it cannot."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from edgeward.messages import DeliveryReport, Finding, ItemsQuery, Quarantined, Verdict
from edgeward.privacy.database import DatabaseError, DatabaseFull
from edgeward.privacy.items import CONFLICT, NO_DESTINATION, Identity, NewItem
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.privacy.refusals import QUARANTINE_ROWS
from edgeward.privacy.vault import StoredObject

NAME = "MUSTERFRAU^ERIKA"


@pytest.fixture
def key() -> SiteKey:
    return SiteKey(os.urandom(32))


@pytest.fixture
def journal(tmp_path: Path, key: SiteKey) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", key)
    yield journal
    journal.close()


def new_item(number: int = 1, **changes: object) -> NewItem:
    item = NewItem(
        item_id=f"item{number}",
        received_ns=1_000_000_000 * number,
        deadline_ns=1_000_000_000 * number + 1_000_000_000,
        stored_ns=1_000_000_000 * number + 5_000_000,
        device="us1",
        modality="US",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.6.1",
        sop_instance_uid=f"1.2.3.{number}",
        study_instance_uid="1.2.3",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        digest=number.to_bytes(32, "big"),
        stored=StoredObject(object_id=f"{number:032x}", path=Path("x"), wrapped_key=b"wrapped", size=100),
        identity=Identity(patient_name=NAME, patient_id="PID-4711", study_description="left breast"),
    )
    return replace(item, **changes)  # type: ignore[arg-type]


def finding(item: str = "item1", number: int = 1) -> Finding:
    return Finding(
        finding_id=f"f{number}",
        item_id=item,
        sop_instance_uid="1.2.3.1",
        status="analysed",
        model="m",
        model_version="1",
    )


def report(destination: str = "pacs", state: str = "delivered", item: str = "item1", **more: object) -> DeliveryReport:
    return DeliveryReport(item_id=item, destination=destination, state=state, stored_ns=5_000_000_000, **more)  # type: ignore[arg-type]


def preview() -> StoredObject:
    return StoredObject(object_id="f" * 32, path=Path("p"), wrapped_key=b"pk", size=10)


def test_the_disk_has_every_commit_before_it_returns(journal: Journal) -> None:
    db = journal._db._writer

    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_an_item_goes_from_admission_to_closed(journal: Journal) -> None:
    journal.admit(new_item())
    journal.dispatched("item1", 10)
    journal.analysed("item1", finding(), preview(), 0.5, 20)
    assert journal.open_items() == [("item1", "analysed", False)]
    journal.handed("item1", ["pacs", "archive"], 30)
    assert journal.item("item1").open

    journal.delivery(report("pacs"))
    assert journal.item("item1").open
    item = journal.delivery(report("archive"))

    assert item is not None
    assert (item.state, item.delivered_ns, item.attempts) == ("closed", 5_000_000_000, 1)
    assert journal.open_items() == []
    assert journal.counts() == {"admitted": 0, "dispatched": 0, "analysed": 0, "closed": 1, "failed": 0}
    assert journal.preview("item1") == ("f" * 32, b"pk", 10, 0.5)


def test_the_same_instance_twice_is_one_item(journal: Journal) -> None:
    first, new = journal.admit(new_item(1))
    again, new_again = journal.admit(new_item(2, sop_instance_uid="1.2.3.1", digest=new_item(1).digest))

    assert (new, new_again) == (True, False)
    assert again.item_id == first.item_id
    assert sum(journal.counts().values()) == 1
    assert journal.find("1.2.3.1", new_item(1).digest) == "item1"
    assert journal.find("1.2.3.1", b"other") == ""


def test_the_same_uid_with_other_content_is_kept_and_fails_visibly(journal: Journal) -> None:
    journal.admit(new_item(1))
    second, new = journal.admit(new_item(2, sop_instance_uid="1.2.3.1"))

    assert new
    assert (second.state, second.reason) == ("failed", CONFLICT)
    assert journal.item("item1").state == "admitted"
    assert journal.knows_object(second.object_id)
    # Sent again, it is still that one.
    _, new_again = journal.admit(new_item(3, sop_instance_uid="1.2.3.1", digest=new_item(2).digest))
    assert not new_again


def test_a_second_answer_to_a_repeated_request_changes_nothing(journal: Journal) -> None:
    journal.admit(new_item())
    journal.analysed("item1", finding(number=1), preview(), 1.0, 20)
    journal.analysed("item1", finding(number=2), None, 1.0, 30)

    item = journal.item("item1")
    assert item.finding is not None
    assert (item.finding.finding_id, item.analysed_ns) == ("f1", 20)


def test_a_report_that_overtakes_the_hand_over_closes_the_item(journal: Journal) -> None:
    journal.admit(new_item())
    journal.analysed("item1", finding(), None, 1.0, 20)

    journal.delivery(report())
    assert journal.item("item1").open
    journal.handed("item1", ["pacs"], 30)

    assert journal.item("item1").state == "closed"


def test_a_failed_delivery_fails_the_item_and_a_later_success_closes_it(journal: Journal) -> None:
    journal.admit(new_item())
    journal.analysed("item1", finding(), None, 1.0, 20)
    journal.handed("item1", ["pacs"], 30)

    item = journal.delivery(report(state="failed", reason="refused: out of resources"))
    assert item is not None
    assert (item.state, item.reason) == ("failed", "not delivered to pacs: refused: out of resources")

    item = journal.delivery(report())
    assert item is not None
    assert (item.state, item.reason) == ("closed", "")
    # What was delivered stays delivered, whatever is told later.
    item = journal.delivery(report(state="failed"))
    assert item is not None
    assert item.state == "closed"


def test_what_arrives_later_of_a_delivered_result_changes_its_note_and_not_its_time(journal: Journal) -> None:
    journal.admit(new_item())
    journal.analysed("item1", finding(), None, 1.0, 20)
    journal.handed("item1", ["pacs"], 30)
    lacking = structs.replace(
        report(), reason="it does not accept: seg", stored_ns=40, at_ns=40, sop_instance_uids=["1.2"]
    )
    whole = structs.replace(report(), stored_ns=90, at_ns=90, sop_instance_uids=["1.2", "1.3"])

    for told in (lacking, whole, lacking):
        journal.delivery(told)

    (kept,) = journal.summaries(ItemsQuery(item_id="item1"), 0)[0].deliveries
    assert (kept.reason, kept.sop_instance_uids, kept.stored_ns) == ("", ["1.2", "1.3"], 40)
    assert journal.item("item1").delivered_ns == 40


def test_without_a_destination_an_item_closes_and_says_so(journal: Journal) -> None:
    journal.admit(new_item())
    journal.analysed("item1", finding(), None, 1.0, 20)
    item = journal.handed("item1", [], 30)

    assert (item.state, item.reason) == ("closed", NO_DESTINATION)


def test_a_report_for_an_unknown_item_is_told_apart(journal: Journal) -> None:
    assert journal.delivery(report(item="nobody")) is None


def test_an_ended_item_does_not_fail_afterwards(journal: Journal) -> None:
    journal.admit(new_item())
    journal.analysed("item1", finding(), None, 1.0, 20)
    journal.handed("item1", [], 30)

    assert journal.failed("item1", "too late").state == "closed"


def test_a_verdict_needs_its_item_and_finding_and_counts_once(journal: Journal) -> None:
    journal.admit(new_item())
    journal.analysed("item1", finding(), None, 1.0, 20)
    verdict = Verdict(
        verdict_id="v1", item_id="item1", finding_id="f1", action="confirm", by="dr.no", at_ns=7, comment="secret text"
    )

    assert journal.verdict(verdict)
    assert journal.verdict(verdict)
    assert not journal.verdict(
        Verdict(verdict_id="v2", item_id="item1", finding_id="f9", action="confirm", by="x", at_ns=1)
    )
    assert not journal.verdict(
        Verdict(verdict_id="v3", item_id="none", finding_id="f1", action="confirm", by="x", at_ns=1)
    )

    summary = journal.summary("item1", 0)
    assert summary is not None
    assert summary.verdicts == [verdict]


def test_the_worklist_is_newest_first_and_opens_identity(journal: Journal) -> None:
    for number in (1, 3, 2):
        journal.admit(new_item(number))
    journal.failed("item2", "broken")

    rows = journal.summaries(ItemsQuery(limit=10), now_ns=3_500_000_000)

    assert [row.item_id for row in rows] == ["item3", "item2", "item1"]
    assert {row.patient_name for row in rows} == {NAME}
    assert [row.late for row in rows] == [False, False, True]  # open and past its deadline: only the first
    assert [row.item_id for row in journal.summaries(ItemsQuery(before_ns=2_500_000_000), 0)] == ["item2", "item1"]
    assert [row.item_id for row in journal.summaries(ItemsQuery(state="failed"), 0)] == ["item2"]
    assert [row.item_id for row in journal.summaries(ItemsQuery(limit=1), 0)] == ["item3"]
    assert journal.summaries(ItemsQuery(item_id="nobody"), 0) == []


def test_identity_is_not_readable_in_the_file(tmp_path: Path, key: SiteKey) -> None:
    journal = Journal(tmp_path / "journal.db", key)
    journal.admit(new_item())
    journal.analysed("item1", finding(), None, 1.0, 20)
    journal.verdict(
        Verdict(
            verdict_id="v1", item_id="item1", finding_id="f1", action="reject", by="d", at_ns=7, comment="Erika said"
        )
    )
    journal.close()

    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in (b"MUSTERFRAU", b"PID-4711", b"left breast", b"Erika said"):
        assert secret not in content
    assert b"1.2.3.1" in content
    other = Journal(tmp_path / "journal.db", SiteKey(os.urandom(32)))
    with pytest.raises(WrongKey):
        other.summaries(ItemsQuery(), 0)
    other.close()


def test_overdue_and_unreported_items_are_found(journal: Journal) -> None:
    journal.admit(new_item(1))
    journal.admit(new_item(2))
    journal.analysed("item1", finding(), None, 1.0, 20)
    journal.handed("item1", ["pacs"], 100)

    assert journal.overdue(2_500_000_000) == [("item1", "analysed", True)]
    assert journal.late("item1")
    assert not journal.late("item1")
    assert journal.overdue(2_500_000_000) == []
    assert (journal.items_due(101), journal.due("item1", 101)) == (["item1"], [0])
    assert (journal.items_due(100), journal.due("item1", 100)) == ([], [])
    journal.handed("item1", ["pacs"], 500)
    assert journal.items_due(101) == []


def test_quarantine_counts_repeats_and_stays_bounded(journal: Journal) -> None:
    entry = Quarantined(at_ns=1, where="dicom", peer="10.0.0.9", reason="unknown AE title", what_to_do="enrol it")
    journal.quarantine([entry, replace_at(entry, 2)])
    journal.quarantine([replace_at(entry, 3)])
    assert journal.quarantined() == [replace_at(entry, 3, count=3)]

    for start in range(0, QUARANTINE_ROWS + 200, 100):
        journal.quarantine([replace_at(entry, 10 + n, peer=f"p{n}") for n in range(start, start + 100)])

    rows = journal.quarantined(limit=10_000)
    assert len(rows) == QUARANTINE_ROWS
    assert rows[0].peer == f"p{QUARANTINE_ROWS + 199}"


def replace_at(entry: Quarantined, at_ns: int, **changes: object) -> Quarantined:
    values = {name: getattr(entry, name) for name in entry.__struct_fields__}
    return Quarantined(**values | {"at_ns": at_ns} | changes)


def test_many_threads_write_and_read_at_once(journal: Journal) -> None:
    errors: list[BaseException] = []

    def admit(worker: int) -> None:
        try:
            for n in range(25):
                journal.admit(new_item(worker * 100 + n))
                journal.counts()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=admit, args=(worker,)) for worker in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert journal.counts()["admitted"] == 200


def test_the_same_instance_from_many_threads_is_one_item(journal: Journal) -> None:
    outcomes: list[bool] = []

    def admit(worker: int) -> None:
        item = new_item(worker, sop_instance_uid="1.2.3", digest=b"d" * 32)
        outcomes.append(journal.admit(item)[1])

    threads = [threading.Thread(target=admit, args=(worker,)) for worker in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == [False] * 7 + [True]
    assert sum(journal.counts().values()) == 1


def test_a_failed_write_leaves_nothing_and_the_next_one_works(journal: Journal) -> None:
    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO quarantine VALUES ('a', 'b', 'c', '', '', 1, 1)")
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        journal._db.write(half)

    assert journal.quarantined() == []
    journal.admit(new_item())
    assert journal.counts()["admitted"] == 1


def test_a_full_disk_is_told_as_such_and_what_was_admitted_before_is_there(journal: Journal) -> None:
    db = journal._db._writer
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")

    admitted = []

    def admit_until_full() -> None:
        for number in range(1, 2000):
            journal.admit(new_item(number))
            admitted.append(f"item{number}")

    with pytest.raises(DatabaseFull):
        admit_until_full()
    assert journal.counts()["admitted"] < len(admitted), "reading goes on without what could not be written"
    with pytest.raises(DatabaseFull):  # the first failure is remembered: nothing more is taken in
        journal.admit(new_item(5000))
    db.execute("PRAGMA max_page_count = 1000000")
    journal.admit(new_item(5000))

    assert [item for item, _, _ in journal.open_items()] == [*admitted, "item5000"]


def test_a_foreign_database_is_refused_and_left_alone(tmp_path: Path, key: SiteKey) -> None:
    path = tmp_path / "journal.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE recipes (name TEXT)")
    other.commit()
    other.close()
    before = path.read_bytes()

    with pytest.raises(DatabaseError, match="another program's"):
        Journal(path, key)

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"this is not a database at all, it is prose" * 100, b"SQLite format 3\0" + b"\xff" * 4000]
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, key: SiteKey, content: bytes) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(content)

    with pytest.raises(DatabaseError, match="not a usable journal"):
        Journal(path, key)

    assert path.read_bytes() == content


def test_a_damaged_journal_is_refused(tmp_path: Path, key: SiteKey) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path, key)
    for number in range(1, 300):
        journal.admit(new_item(number))
    journal.close()
    data = bytearray(path.read_bytes())
    for offset in range(8192, len(data), 4096):
        data[offset : offset + 200] = os.urandom(200)
    path.write_bytes(data)

    with pytest.raises(DatabaseError, match="not a usable journal"):
        Journal(path, key)


def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path, key: SiteKey) -> None:
    path = tmp_path / "journal.db"
    Journal(path, key).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.commit()
    db.close()

    with pytest.raises(DatabaseError, match="newer Edgeward"):
        Journal(path, key)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_journal import finding, new_item
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
journal = Journal(Path(sys.argv[1]), SiteKey(bytes(32)))
start = 1 + sum(journal.counts().values())
for number in range(start, start + 10_000):
    journal.admit(new_item(number))
    print("admitted", f"item{number}", flush=True)
    journal.analysed(f"item{number}", finding(f"item{number}"), None, 1.0, 5)
    print("analysed", f"item{number}", flush=True)
"""


@pytest.mark.fault
def test_every_row_acknowledged_before_a_kill_is_there_afterwards(tmp_path: Path) -> None:
    path, chance = tmp_path / "journal.db", random.Random(5)
    told: set[tuple[str, str]] = set()
    for _ in range(6):
        command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            told.add(tuple(writer.stdout.readline().split()))  # type: ignore[arg-type]
            time.sleep(chance.uniform(0.0, 0.15))  # the moment of death is the variable under test
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout.read().splitlines(keepends=True):
                if line.endswith("\n"):
                    told.add(tuple(line.split()))  # type: ignore[arg-type]

    journal = Journal(path, SiteKey(bytes(32)))
    states = {item: journal.item(item).state for _, item in told}
    extra = sum(journal.counts().values()) - len(states)
    journal.close()

    assert len(told) > 10
    assert 0 <= extra <= 6  # at most the one row per run whose acknowledgement was cut off
    for state, item in told:
        assert states[item] == "analysed" or (state, states[item]) == ("admitted", "admitted")
