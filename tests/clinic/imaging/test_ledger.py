"""The ledger: durable, idempotent, and silent about keys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.imaging import breast_image, finding_for

from edgeward.clinic.imaging.ledger import NOWHERE, Ledger, LedgerError
from edgeward.home import Home
from edgeward.messages import DeliverRequest, ObjectRef, StageTime
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


def request(item_id: str = "item-1") -> DeliverRequest:
    return DeliverRequest(
        item_id=item_id,
        trace_id="t",
        received_ns=1,
        deadline_ns=2,
        object=ObjectRef(object_id="o" * 32, path="/nowhere", data_key=KEY, size=1),
        finding=finding_for(breast_image(rows=8, columns=8, SOPInstanceUID="1.2.3.4"), item_id),
    )


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
    ledger.told("item-1", "a")
    assert ledger.untold() == []


def test_a_dead_letter_is_told_with_its_reason(ledger):
    ledger.accept(request(), ["a"], 5)
    ledger.dead(ledger.due("a", 10), "it refuses", faults=5)

    (report,) = ledger.untold()
    assert (report.state, report.reason) == ("failed", "it refuses")
    assert ledger.dead_letters() == [report]
    assert ledger.tally()["a"].dead == 1


def test_accepting_a_settled_item_again_tells_again_and_sends_nothing(ledger):
    ledger.accept(request(), ["a"], 5)
    settle(ledger, "item-1", "a")
    ledger.told("item-1", "a")

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

    assert ledger.bury_unknown(["kept"]) == 1

    (report,) = ledger.untold()
    assert report.destination == "old"
    assert "no longer in the settings" in report.reason
    assert ledger.due("kept", 10) is not None


def test_removing_every_destination_buries_everything(ledger):
    ledger.accept(request(), ["old"], 5)

    assert ledger.bury_unknown([]) == 1


def test_the_data_key_is_never_on_disk_in_clear_and_gone_once_settled(home, ledger):
    ledger.accept(request(), ["a", "b"], 5)
    ledger.keep_report("item-1", "a report")
    settle(ledger, "item-1", "a")
    ledger.told("item-1", "a")
    assert ledger.request("item-1") is not None, "b still needs it"
    settle(ledger, "item-1", "b")
    ledger.told("item-1", "b")

    assert ledger.request("item-1") is None
    assert ledger.report("item-1") == "a report"
    for file in home.data.iterdir():
        assert KEY not in file.read_bytes(), file.name
        assert b"a report" not in file.read_bytes(), file.name


def test_a_request_sealed_for_one_item_does_not_open_as_another(ledger):
    ledger.accept(request("one"), ["a"], 5)
    ledger.accept(request("two"), ["a"], 5)
    with ledger._write() as db:
        db.execute("UPDATE item SET request = (SELECT request FROM item WHERE item_id = 'one') WHERE item_id = 'two'")

    assert ledger.request("one") is not None
    assert ledger.request("two") is None


def test_old_settled_items_are_forgotten_and_open_ones_are_not(ledger):
    ledger.accept(request("settled"), ["a"], 5)
    settle(ledger, "settled", "a")
    ledger.accept(request("untold"), ["a"], 5)
    settle(ledger, "untold", "a")
    ledger.accept(request("open"), ["a"], 5)
    ledger.told("settled", "a")

    assert ledger.prune(before_ns=6) == 1

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
