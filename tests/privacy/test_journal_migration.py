"""A journal of the version before keeps everything, and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.privacy.journal_v1 import OldJournal
from tests.privacy.test_journal import finding, report
from tests.support.imaging import breast_image, finding_for

from edgeward.messages import ItemsQuery, Verdict
from edgeward.privacy.items import Identity
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.privacy.sealing import patient_key


@pytest.fixture
def key() -> SiteKey:
    return SiteKey(os.urandom(32))


def verdict(number: int, item: str = "item3", finding_id: str = "f3") -> Verdict:
    return Verdict(
        verdict_id=f"v{number}", item_id=item, finding_id=finding_id, action="confirm", by="dr.no", at_ns=number
    )


def write(path: Path, key: SiteKey) -> None:
    """An item in every state, two verdicts on one of them, reports, refusals."""
    old = OldJournal(path, key)
    old.item(1, "admitted")
    old.item(2, "failed", patient="", reason="broken", study_instance_uid="")
    old.analysed(3, finding("item3", 3), state="closed", handed_ns=5, delivered_ns=6)
    old.analysed(4, finding_for(breast_image(), "item4"), handed_ns=5, patient="OTHER")
    old.analysed(5, finding("item5", 5), handed_ns=0)
    old.delivery("item3", "pacs", report(item="item3"))
    old.delivery("item4", "pacs", None)
    old.verdict(verdict(1))
    old.verdict(verdict(2))
    old.quarantined("unknown AE title", 3)
    old.close()


def test_everything_of_version_1_is_there_after_the_migration(tmp_path: Path, key: SiteKey) -> None:
    write(tmp_path / "journal.db", key)

    journal = Journal(tmp_path / "journal.db", key)

    rows = {row.item_id: row for row in journal.summaries(ItemsQuery(), 0)}
    assert {name: row.state for name, row in rows.items()} == {
        "item1": "admitted",
        "item2": "failed",
        "item3": "closed",
        "item4": "analysed",
        "item5": "analysed",
    }
    assert rows["item2"].reason == "broken"
    assert rows["item3"].verdicts == [verdict(1), verdict(2)]
    assert rows["item3"].deliveries == [report(item="item3")]
    assert rows["item4"].finding is not None
    assert journal.quarantined()[0].count == 3
    assert journal.find("1.2.3.1", (1).to_bytes(32, "big")) == "item1"
    assert journal.held("1.2.3.1") == "1.2.840.10008.5.1.4.1.1.6.1"
    item = journal.item("item3")
    assert (item.rows, item.frames, item.revision) == (-1, -1, 2)  # what pixels it has was not kept then
    journal.close()


def test_the_work_of_version_1_goes_on_and_its_verdicts_are_handed_over(tmp_path: Path, key: SiteKey) -> None:
    write(tmp_path / "journal.db", key)
    journal = Journal(tmp_path / "journal.db", key)

    assert [name for name, state, _ in journal.open_items() if state != "analysed"] == ["item1"]
    assert sorted(journal.items_due(0)) == ["item3", "item5"]  # item4 is with deliver
    assert journal.due("item3", 0) == [1, 2]
    assert journal.due("item5", 0) == [0]
    assert journal.delivery(report(item="item4")).state == "closed"  # type: ignore[union-attr]
    assert journal.verdict(verdict(3)) == 3
    journal.close()


def test_what_was_sealed_can_be_looked_up_after_the_migration(tmp_path: Path, key: SiteKey) -> None:
    write(tmp_path / "journal.db", key)
    journal = Journal(tmp_path / "journal.db", key)

    same = [row.item_id for row in journal.summaries(ItemsQuery(same_patient_as="item1"), 0)]
    assert same == ["item5", "item3", "item1"]
    assert journal.summaries(ItemsQuery(order="priority"), 0)[0].item_id == "item4"
    assert [row.item_id for row in journal.summaries(ItemsQuery(suspicious=True), 0)] == ["item4"]
    state = journal.studies.state("1.2.3")
    assert state is not None
    assert (state.complete, state.instances) == (True, 4)
    journal.close()


def test_a_second_opening_changes_nothing_more(tmp_path: Path, key: SiteKey) -> None:
    write(tmp_path / "journal.db", key)
    Journal(tmp_path / "journal.db", key).close()

    journal = Journal(tmp_path / "journal.db", key)

    assert sum(journal.counts().values()) == 5
    assert journal.due("item3", 0) == [1, 2]
    journal.close()


def test_another_key_does_not_carry_a_file_over(tmp_path: Path, key: SiteKey) -> None:
    write(tmp_path / "journal.db", key)

    with pytest.raises(WrongKey):
        Journal(tmp_path / "journal.db", SiteKey(os.urandom(32)))

    journal = Journal(tmp_path / "journal.db", key)
    assert len(journal.summaries(ItemsQuery(same_patient_as="item1"), 0)) == 3
    journal.close()


DYING = """
import os, sys
from pathlib import Path
from edgeward.privacy.database import Database
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
write, left = Database.write, int(sys.argv[2])
def limited(self, work):
    global left
    if not left:
        os.kill(os.getpid(), 9)
    left -= 1
    return write(self, work)
Database.write = limited
Journal(Path(sys.argv[1]), SiteKey(bytes(32)))
"""


@pytest.mark.fault
@pytest.mark.parametrize("survived", [0, 1])
def test_a_kill_while_a_file_is_carried_over_loses_nothing(tmp_path: Path, survived: int) -> None:
    key, path = SiteKey(bytes(32)), tmp_path / "journal.db"
    old = OldJournal(path, key)
    for number in range(1, 1200):
        old.item(number, "closed")
    old.close()

    died = subprocess.run([sys.executable, "-c", DYING, str(path), str(survived)], check=False, timeout=60)
    assert died.returncode == -9

    journal = Journal(path, key)
    assert journal.counts()["closed"] == 1199
    mine = patient_key(key, Identity(patient_id="PID-4711"))
    assert journal._db.one("SELECT count(*) FROM items WHERE patient_key = ?", (mine,)) == (1199,)
    journal.close()
