"""The ledger: durable, idempotent, and silent about keys."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.support.imaging import breast_image, finding_for

from edgeward.clinic.imaging.ledger import NOWHERE, Ledger, LedgerError
from edgeward.home import Home
from edgeward.messages import DeliverRequest, ObjectRef, StageTime, encode
from edgeward.privacy.keys import SiteKey

KEY = b"K" * 32


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    SiteKey.create(home)
    return home


@pytest.fixture
def ledger(home: Home):
    ledger = Ledger(home.db("deliver"), SiteKey.load(home))
    yield ledger
    ledger.close()


def request(item_id: str = "item-1", **changes) -> DeliverRequest:
    plain = DeliverRequest(
        item_id=item_id,
        trace_id="t",
        received_ns=1,
        deadline_ns=2,
        object=ObjectRef(object_id="o" * 32, path="/nowhere", data_key=KEY, size=1),
        finding=finding_for(breast_image(rows=8, columns=8, SOPInstanceUID="1.2.3.4"), item_id),
    )
    return msgspec.structs.replace(plain, **changes)


def told(ledger: Ledger) -> None:
    for report in ledger.untold():
        ledger.told(report)


def settle(ledger: Ledger, item_id: str, destination: str) -> None:
    owed = ledger.due(destination, 10)
    assert owed is not None
    assert owed.item_id == item_id
    ledger.begun(owed)
    ledger.confirmed(owed, ["1.2.3"], 77, [StageTime(name="send", ms=1.0)], "note")


def test_what_was_accepted_is_owed_to_every_destination(ledger):
    assert ledger.accept(request(), ["a", "b"], 5)

    for name in ("a", "b"):
        owed = ledger.due(name, 10)
        assert (owed.item_id, owed.accepted_ns, owed.attempts) == ("item-1", 5, 0)
    assert ledger.request("item-1") == request()


def test_nobody_else_may_read_its_files(ledger, home):
    ledger.accept(request(), ["pacs"], 5)
    files = list(home.db("deliver").parent.glob("deliver.db*"))
    assert files
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)


def test_the_same_item_twice_is_owed_once(ledger):
    ledger.accept(request(), ["a"], 5)

    assert not ledger.accept(request(), ["a"], 6)

    assert ledger.tally()["a"].waiting == 1


def test_items_are_taken_in_the_order_they_came(ledger):
    for n in range(3):
        ledger.accept(request(f"item-{n}"), ["a"], n)

    for n in range(3):
        settle(ledger, f"item-{n}", "a")
    assert ledger.due("a", 10) is None
    assert ledger.next_due_ns("a") is None


def test_a_postponed_item_lets_others_pass_until_its_time(ledger):
    ledger.accept(request("first"), ["a"], 1)
    ledger.accept(request("second"), ["a"], 2)

    ledger.postponed(ledger.due("a", 10), "refused", next_try_ns=100, faults=1)

    assert ledger.due("a", 10).item_id == "second"
    assert ledger.due("a", 100).item_id == "first"
    assert ledger.due("a", 100).faults == 1


def test_a_destination_that_is_back_gets_what_waited_for_it_at_once(ledger):
    ledger.accept(request("waited"), ["a"], 1)
    ledger.accept(request("at fault"), ["a"], 1)
    ledger.postponed(ledger.due("a", 10), "interrupted", next_try_ns=10**12, faults=0)
    ledger.postponed(ledger.due("a", 10), "refused", next_try_ns=10**12, faults=2)

    ledger.hurry("a")

    assert ledger.due("a", 10).item_id == "waited"
    settle(ledger, "waited", "a")
    assert ledger.due("a", 10) is None


def test_a_settled_row_is_told_until_it_is_acknowledged(ledger):
    ledger.accept(request(), ["a", "b"], 5)
    settle(ledger, "item-1", "a")

    (report,) = ledger.untold()
    assert (report.destination, report.state, report.reason) == ("a", "delivered", "note")
    assert (report.sop_instance_uids, report.stored_ns, report.attempts) == (["1.2.3"], 77, 1)
    assert report.stages == [StageTime(name="send", ms=1.0)]
    assert ledger.untold() == [report]
    told(ledger)
    assert ledger.untold() == []


def test_a_dead_letter_is_told_with_its_reason(ledger):
    ledger.accept(request(), ["a"], 5)
    ledger.dead(ledger.due("a", 10), "it refuses", 5, 20)

    (report,) = ledger.untold()
    assert (report.state, report.reason) == ("failed", "it refuses")
    assert ledger.dead_letters() == [report]
    assert ledger.tally()["a"].dead == 1


def test_accepting_a_settled_item_again_tells_again_and_sends_nothing(ledger):
    ledger.accept(request(), ["a"], 5)
    settle(ledger, "item-1", "a")
    told(ledger)

    assert not ledger.accept(request(), ["a"], 9)

    assert ledger.due("a", 10) is None
    assert len(ledger.untold()) == 1


def test_an_item_without_destinations_comes_to_a_visible_end(ledger):
    ledger.accept(request(), [], 5)

    (report,) = ledger.untold()
    assert (report.destination, report.state) == (NOWHERE, "failed")
    assert "no destination" in report.reason


def test_what_is_owed_to_a_removed_destination_is_given_up_with_a_reason(ledger):
    ledger.accept(request(), ["old", "kept"], 5)

    assert ledger.bury_unknown(["kept"], 9) == 1

    (report,) = ledger.untold()
    assert report.destination == "old"
    assert "no longer in the settings" in report.reason
    assert ledger.due("kept", 10) is not None


def test_removing_every_destination_buries_everything(ledger):
    ledger.accept(request(), ["old"], 5)

    assert ledger.bury_unknown([], 9) == 1


def test_the_data_key_is_never_on_disk_in_clear_and_gone_once_settled(home, ledger):
    ledger.accept(request(), ["a", "b"], 5)
    ledger.keep_report("item-1", "a report")
    settle(ledger, "item-1", "a")
    told(ledger)
    assert ledger.request("item-1") is not None, "b still needs it"
    settle(ledger, "item-1", "b")
    told(ledger)

    assert ledger.request("item-1") is None
    assert ledger.report("item-1") == "a report"
    for file in home.data.iterdir():
        assert KEY not in file.read_bytes(), file.name
        assert b"a report" not in file.read_bytes(), file.name


def test_a_request_sealed_for_one_item_does_not_open_as_another(home, ledger):
    ledger.accept(request("one"), ["a"], 5)
    ledger.accept(request("two"), ["a"], 5)
    with ledger._write() as db:
        db.execute("UPDATE item SET request = (SELECT request FROM item WHERE item_id = 'one') WHERE item_id = 'two'")

    again = Ledger(home.db("deliver"), SiteKey.load(home))  # what it just took over it has at hand
    assert again.request("one") is not None
    assert again.request("two") is None
    again.close()


def test_old_settled_items_are_forgotten_and_open_ones_are_not(ledger):
    ledger.accept(request("settled"), ["a"], 5)
    settle(ledger, "settled", "a")
    ledger.accept(request("untold"), ["a"], 5)
    settle(ledger, "untold", "a")
    ledger.accept(request("open"), ["a"], 5)
    ledger.told(ledger.untold()[0])

    assert ledger.prune(before_ns=80) == 1

    assert ledger.due("a", 10).item_id == "open"
    assert [report.item_id for report in ledger.untold()] == ["untold"]


def test_a_full_disk_is_an_error_that_says_so_and_changes_nothing(ledger):
    ledger.accept(request("before"), ["a"], 5)
    ledger._db.execute("PRAGMA max_page_count = 1")  # SQLite's own way of a full disk

    def fill() -> None:
        for n in range(200):
            ledger.accept(request(f"after-{n}"), ["a"], 6)

    with pytest.raises(LedgerError, match="full"):
        fill()

    ledger._db.execute("PRAGMA max_page_count = 100000")
    settle(ledger, "before", "a")


def test_revisions_of_an_item_are_owed_one_after_the_other(ledger):
    for revision in (0, 1, 2):
        assert ledger.accept(request(revision=revision), ["a"], revision)
    assert not ledger.accept(request(revision=1), ["a"], 9)

    for revision in (0, 1, 2):
        owed = ledger.due("a", 10)
        assert owed.revision == revision
        assert ledger.request("item-1", revision) == request(revision=revision)
        ledger.confirmed(owed, ["1.2"], 77, [])
    assert [report.revision for report in ledger.untold()] == [0, 1, 2]


def test_a_study_keeps_its_order_at_each_destination(ledger):
    for n, study in enumerate(("1.1", "1.1", "1.2")):
        ledger.accept(request(f"item-{n}", study_instance_uid=study), ["a", "b"], n)
    ledger.postponed(ledger.due("a", 10), "refused", next_try_ns=100, faults=1)

    assert ledger.due("a", 10).item_id == "item-2", "item-1 waits behind item-0"
    assert ledger.due("b", 10).item_id == "item-0"
    ledger.dead(ledger.due("a", 100), "refused", 5, 20)
    assert ledger.due("a", 10).item_id == "item-1"


def test_what_comes_after_one_that_is_being_sent(ledger):
    for n in range(3):
        ledger.accept(request(f"item-{n}", study_instance_uid="1.1"), ["a"], n)
    first = ledger.due("a", 10)

    following = ledger.due("a", 10, after=first.seq)

    assert following.item_id == "item-1"
    assert ledger.due("a", 10).item_id == "item-0"


def test_a_result_that_can_still_be_in_time_goes_first_if_it_is_asked_for(ledger):
    ledger.accept(request("old", deadline_ns=5), ["a"], 1)
    ledger.accept(request("later", deadline_ns=300), ["a"], 2)
    ledger.accept(request("soon", deadline_ns=200), ["a"], 3)
    ledger.accept(request("first", deadline_ns=100, study_instance_uid="1.1"), ["a"], 4)
    ledger.accept(request("behind it", deadline_ns=90, study_instance_uid="1.1"), ["a"], 5)

    assert ledger.due("a", 10).item_id == "old"
    assert ledger.due("a", 10, fresh=True).item_id == "first"
    ledger.postponed(ledger.due("a", 10, fresh=True), "no", next_try_ns=1000, faults=1)
    assert ledger.due("a", 10, fresh=True).item_id == "soon"
    assert ledger.due("a", 250, fresh=True).item_id == "later"
    assert ledger.due("a", 400, fresh=True).item_id == "old", "none is in time any more"


def test_a_study_that_a_person_has_judged_passes_the_backlog_in_its_own_order(ledger):
    for n in range(5):
        ledger.accept(request(f"old-{n}", study_instance_uid=f"1.{n}"), ["a"], n)
    ledger.accept(request("in time", deadline_ns=500), ["a"], 6)
    ledger.accept(request("old-3", revision=1, study_instance_uid="1.3"), ["a"], 7)

    taken = []
    for _ in range(3):
        owed = ledger.due("a", 10, fresh=True)
        taken.append((owed.item_id, owed.revision))
        ledger.confirmed(owed, ["1.2"], 77, [])

    assert taken == [("old-3", 0), ("old-3", 1), ("in time", 0)]
    assert ledger.due("a", 10).item_id == "old-0", "the oldest has its turn all the same"


def bury(ledger: Ledger, *items: str, at_ns: int = 20) -> None:
    for item in items:
        owed = ledger.due("a", 10**12)
        assert owed.item_id == item
        ledger.dead(owed, "it refuses", 5, at_ns)


def test_a_dead_letter_can_be_sent_again_and_the_gateway_hears_twice(ledger):
    ledger.accept(request(), ["a"], 5)
    bury(ledger, "item-1")
    told(ledger)
    assert ledger.due("a", 10) is None

    assert ledger.resend(["a"], 30) == 1

    owed = ledger.due("a", 10)
    assert (owed.item_id, owed.faults) == ("item-1", 0)
    assert ledger.request("item-1") == request()
    assert ledger.untold() == []
    ledger.confirmed(owed, ["1.2"], 77, [])
    assert [report.state for report in ledger.untold()] == ["delivered"]
    told(ledger)
    assert ledger.request("item-1") is None


@pytest.mark.parametrize(
    ("chosen", "count"), [({}, 3), ({"item_id": "two"}, 2), ({"destination": "b"}, 1), ({"item_id": "none"}, 0)]
)
def test_dead_letters_are_chosen_by_item_or_destination(ledger, chosen, count):
    ledger.accept(request("one"), ["a"], 5)
    ledger.accept(request("two"), ["a", "b"], 5)
    bury(ledger, "one", "two")
    ledger.dead(ledger.due("b", 10), "it refuses", 5, 20)

    assert ledger.resend(["a", "b"], 30, **chosen) == count


def test_what_arrived_in_part_does_not_hide_what_did_not_arrive(ledger):
    """A PACS that takes no presentation states lacks them of every image."""
    ledger.accept(request("item-1"), ["a"], 5)
    bury(ledger, "item-1")
    for n in range(2, 5):
        ledger.accept(request(f"item-{n}"), ["a"], 30 + n)
        owed = ledger.due("a", 99)
        ledger.begun(owed)
        ledger.partly(owed, ["1.2.3"], 77, [], "it does not accept: gsps")
    assert [letter.item_id for letter in ledger.dead_letters(2)] == ["item-1", "item-4"]
    assert [letter.item_id for letter in ledger.dead_letters()] == ["item-1", "item-4", "item-3", "item-2"]
    assert [letter.item_id for letter in ledger.dead_letters(1)] == ["item-1"]


def test_a_dead_letter_goes_back_to_its_place_before_later_ones_of_its_study(ledger):
    ledger.accept(request("first", study_instance_uid="1.1"), ["a"], 5)
    ledger.accept(request("second", study_instance_uid="1.1"), ["a"], 6)
    bury(ledger, "first")

    ledger.resend(["a"], 30)

    assert ledger.due("a", 10).item_id == "first"


def test_a_revision_that_a_later_one_has_overtaken_says_so(ledger):
    ledger.accept(request(), ["a", "b"], 5)
    bury(ledger, "item-1")
    ledger.accept(request(revision=1), ["a", "b"], 6)
    assert not ledger.due("b", 10).superseded
    ledger.confirmed(ledger.due("a", 10), ["1.2"], 77, [])

    ledger.resend(["a"], 30)

    owed = ledger.due("a", 10)
    assert (owed.revision, owed.superseded) == (0, True)


def test_an_answer_about_an_older_state_does_not_hide_the_newer_one(ledger):
    ledger.accept(request(), ["a"], 5)
    bury(ledger, "item-1")
    (before,) = ledger.untold()
    ledger.resend(["a"], 30)

    ledger.told(before)
    ledger.confirmed(ledger.due("a", 10), ["1.2"], 77, [])

    assert [report.state for report in ledger.untold()] == ["delivered"]


def test_a_dead_letter_keeps_its_request_until_its_time_is_over(ledger):
    ledger.accept(request(), ["a"], 5)
    bury(ledger, "item-1", at_ns=20)
    assert ledger.forget(before_ns=1000) == 0, "the gateway has not heard yet"
    told(ledger)

    assert ledger.forget(before_ns=20) == 0
    assert ledger.request("item-1") is not None
    assert ledger.forget(before_ns=21) == 1

    assert ledger.request("item-1") is None
    assert ledger.resend(["a"], 30) == 0
    assert [letter.reason for letter in ledger.dead_letters()] == ["it refuses"]


def test_the_key_of_an_erased_object_does_not_outlive_it_in_a_dead_letter(home, ledger):
    ledger.accept(request(), ["a"], 5)
    bury(ledger, "item-1")
    told(ledger)
    assert ledger.forget(0, lambda path: path == "/nowhere") == 0

    assert ledger.forget(0, lambda path: False) == 1

    assert ledger.request("item-1") is None
    for file in home.data.iterdir():
        assert KEY not in file.read_bytes(), file.name


OLD_SCHEMA = """
CREATE TABLE IF NOT EXISTS item (
    seq INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, accepted_ns INTEGER NOT NULL, request BLOB, report BLOB
);
CREATE TABLE IF NOT EXISTS delivery (
    seq INTEGER NOT NULL REFERENCES item(seq), destination TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'confirmed', 'dead')),
    reason TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0, faults INTEGER NOT NULL DEFAULT 0,
    next_try_ns INTEGER NOT NULL DEFAULT 0, stored_ns INTEGER NOT NULL DEFAULT 0,
    uids BLOB NOT NULL DEFAULT x'90', stages BLOB NOT NULL DEFAULT x'90', reported INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (seq, destination)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS owed ON delivery (destination, seq) WHERE state IN ('pending', 'sent');
CREATE INDEX IF NOT EXISTS untold ON delivery (seq) WHERE state IN ('confirmed', 'dead') AND reported = 0;
"""


def test_a_ledger_of_version_0_1_is_taken_over_with_everything_it_owes(home):
    key = SiteKey.load(home)
    db = sqlite3.connect(home.db("deliver"), isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.executescript(OLD_SCHEMA)
    states = ("pending", "sent", "confirmed", "dead")
    for seq, state in enumerate(states, start=1):
        sealed = key.seal(encode(request(state)), b"deliver:" + state.encode())
        report = key.seal(b"a report", b"deliver:" + state.encode())
        db.execute("INSERT INTO item VALUES (?, ?, ?, ?, ?)", (seq, state, seq, sealed, report))
        db.execute(
            "INSERT INTO delivery VALUES (?, 'a', ?, 'why', 3, 2, 7, 77, ?, x'90', 0)", (seq, state, b"\x91\xa31.2")
        )
    db.close()

    ledger = Ledger(home.db("deliver"), key)

    assert [(r.item_id, r.state, r.at_ns) for r in ledger.untold()] == [
        ("confirmed", "delivered", 77),
        ("dead", "failed", 77),
    ]
    for state in ("pending", "sent"):
        owed = ledger.due("a", 100)
        assert (owed.item_id, owed.revision, owed.attempts, owed.faults, owed.uids) == (state, 0, 3, 2, ("1.2",))
        assert ledger.request(state) == request(state)
        ledger.confirmed(owed, ["1.2"], 77, [])
    assert ledger.report("pending") == "a report"
    assert ledger.accept(request("pending", revision=1, study_instance_uid="1.1"), ["a"], 100)
    assert ledger.resend(["a"], 100) == 1
    ledger.close()
    Ledger(home.db("deliver"), key).close()


def test_a_ledger_of_version_2_is_taken_over(home):
    key = SiteKey.load(home)
    before = Ledger(home.db("deliver"), key)
    before.accept(request("kept"), ["a"], 1)
    before.close()
    with contextlib.closing(sqlite3.connect(home.db("deliver"))) as db:
        db.executescript(
            "DROP INDEX owed_and_awaited; ALTER TABLE delivery DROP COLUMN awaited; PRAGMA user_version = 2;"
        )

    ledger = Ledger(home.db("deliver"), key)

    assert ledger.due("a", 10).item_id == "kept"
    assert ledger.accept(request("kept", revision=1), ["a"], 2)
    assert ledger.due("a", 10, fresh=True).item_id == "kept"
    ledger.close()


def test_a_ledger_of_a_newer_version_is_left_alone(home):
    Ledger(home.db("deliver"), SiteKey.load(home)).close()
    with contextlib.closing(sqlite3.connect(home.db("deliver"))) as db:
        db.execute("PRAGMA user_version = 99")

    with pytest.raises(LedgerError, match="newer"):
        Ledger(home.db("deliver"), SiteKey.load(home))


CRASH = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from edgeward.clinic.imaging.ledger import Ledger
from edgeward.home import Home
from edgeward.privacy.keys import SiteKey
from tests.clinic.imaging.test_ledger import request
home = Home(Path({home!r}))
ledger = Ledger(home.db("deliver"), SiteKey.load(home))
for n in range(100000):
    ledger.accept(request(f"item-{{n}}"), ["a"], n)
    if n % 3 == 0:
        owed = ledger.due("a", n)
        ledger.begun(owed)
    print(n, flush=True)
"""


@pytest.mark.fault
def test_everything_acknowledged_before_kill_9_is_still_owed(home):
    root = str(Path(__file__).resolve().parents[3])
    child = subprocess.Popen(
        [sys.executable, "-c", CRASH.format(root=root, home=str(home.path))], stdout=subprocess.PIPE, text=True
    )
    acknowledged = -1
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged >= 60:
            os.kill(child.pid, signal.SIGKILL)
            break
    rest = child.stdout.read().split()
    child.wait()
    acknowledged = int(rest[-1]) if rest else acknowledged

    ledger = Ledger(home.db("deliver"), SiteKey.load(home))

    assert ledger.tally()["a"].waiting >= acknowledged + 1
    for n in range(acknowledged + 1):
        assert ledger.request(f"item-{n}") is not None
    ledger.close()
