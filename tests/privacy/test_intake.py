"""Admission: durable in the intake log at once, in the journal's file before anybody looks, and both after a crash."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeward.messages import ItemsQuery
from edgeward.privacy import intake, plainrow
from edgeward.privacy.database import DatabaseError, DatabaseFull
from edgeward.privacy.items import CONFLICT, Identity, NewItem
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.lane import Arrived
from edgeward.privacy.vault import FileVault, StoredObject, read

KEY = SiteKey(bytes(32))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", KEY)
    yield journal
    journal.close()


def new_item(number: int = 1, **changes: object) -> NewItem:
    item = NewItem(
        item_id=f"item{number}",
        received_ns=1_000_000_000 * number,
        deadline_ns=1_000_000_000 * number + 1_000_000_000,
        stored_ns=1_000_000_000 * number,
        device="ct1",
        modality="CT",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"1.2.3.{number}",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.0",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        rows=512,
        columns=256,
        digest=number.to_bytes(16, "big"),
        stored=StoredObject(object_id=f"{number:032x}", path=Path("x"), wrapped_key=b"wrapped", size=100),
        identity=Identity(patient_name="MUSTERFRAU^ERIKA", patient_id="PID-4711"),
    )
    return replace(item, **changes)  # type: ignore[arg-type]


def in_the_file(folder: Path) -> int:
    """Rows that another program would find there now."""
    db = sqlite3.connect(folder / "journal.db")
    (count,) = db.execute("SELECT count(*) FROM items").fetchone()
    db.close()
    return int(count)


def after_a_crash(folder: Path) -> Journal:
    """The journal of the next start, from the files as they are now."""
    copy = folder.with_name(f"{folder.name}-crashed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return Journal(copy / "journal.db", KEY)


def test_an_admitted_item_is_not_in_the_file_until_somebody_looks(journal: Journal, tmp_path: Path) -> None:
    item, _ = journal.admit(new_item(1))
    journal.admit(new_item(2))
    assert in_the_file(tmp_path) == 0, "else nothing was won"

    assert journal.item("item1") == item
    assert in_the_file(tmp_path) == 2


@pytest.mark.parametrize("look", ["worklist", "catalogue", "studies", "held", "open", "knows"])
def test_whoever_looks_finds_it(journal: Journal, look: str) -> None:
    journal.admit(new_item(1))

    seen = {
        "worklist": lambda: [row.item_id for row in journal.summaries(ItemsQuery(), 0)] == ["item1"],
        "catalogue": lambda: [held.item_id for held in journal.catalogue.held("1.2.3")] == ["item1"],
        "studies": lambda: journal.studies.growing() == [("1.2.3", 1_000_000_000)],
        "held": lambda: journal.held("1.2.3.1") == "1.2.840.10008.5.1.4.1.1.2",
        "open": lambda: journal.open_items() == [("item1", "admitted", False)],
        "knows": lambda: journal.knows_object(f"{1:032x}"),
    }[look]

    assert seen()


def test_a_change_to_an_item_that_is_not_in_the_file_yet_finds_it(journal: Journal) -> None:
    journal.admit(new_item(1))

    assert journal.dispatched("item1", 5).state == "dispatched"
    assert journal.failed("item1", "why").reason == "why"


def test_many_rows_are_written_in_one_commit(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_ROWS", 50)
    commits: list[str] = []
    journal._db._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

    for number in range(1, 202):
        journal.admit(new_item(number))

    assert len(commits) == 4
    assert journal.counts()["admitted"] == 201
    assert journal.studies.growing() == [("1.2.3", 201_000_000_000)]
    state = journal.studies.state("1.2.3")
    assert state is not None
    assert (state.first_ns, state.instances) == (1_000_000_000, 201)


@pytest.mark.parametrize("looked", [False, True])
def test_what_was_admitted_is_there_after_a_crash(journal: Journal, tmp_path: Path, looked: bool) -> None:
    told = [journal.admit(new_item(number))[0] for number in range(1, 6)]
    conflict, _ = journal.admit(new_item(6, sop_instance_uid="1.2.3.1"))
    if looked:
        journal.counts()
        told.append(journal.admit(new_item(7))[0])

    crashed = after_a_crash(tmp_path)

    assert [crashed.item(item.item_id) for item in told] == told
    assert (crashed.item("item6").state, crashed.item("item6").reason) == ("failed", CONFLICT)
    assert sum(crashed.counts().values()) == len(told) + 1
    assert crashed.summaries(ItemsQuery(), 0)[0].patient_id == "PID-4711"
    again, is_new = crashed.admit(new_item(8, sop_instance_uid="1.2.3.1", digest=new_item(1).digest))
    assert (again.item_id, is_new) == ("item1", False)
    crashed.close()
    assert conflict.item_id == "item6"


def stored(vault: FileVault, data: bytes) -> tuple[StoredObject, object]:
    coming = vault.begin()
    coming.write(data)
    return coming.commit(journalled=True), coming


def test_a_small_object_whose_file_was_lost_is_put_back(journal: Journal, tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault", KEY)
    data = os.urandom(39_000)
    one, coming = stored(vault, data)
    journal.admit(new_item(1, stored=one))
    coming.abort()  # type: ignore[attr-defined]

    crashed = after_a_crash(tmp_path)
    other = FileVault(tmp_path.with_name(f"{tmp_path.name}-crashed") / "vault", KEY)
    other.path_of(one.object_id).unlink()
    assert crashed.unsettled() == [one.object_id]
    other.restore(one.object_id, crashed.unsettled_content(one.object_id))

    reference = other.reference(one.object_id, crashed.item("item1").wrapped_key, one.size)
    assert read(reference.path, reference.data_key) == data
    crashed.settled([one.object_id])
    crashed.close()


def test_an_object_that_was_being_written_in_a_power_cut_is_no_item(journal: Journal, tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault", KEY)
    journal.admit(new_item(1))
    one, coming = stored(vault, os.urandom(39_000))
    journal.admit(new_item(2, stored=one))
    coming.abort()  # type: ignore[attr-defined]
    log = tmp_path / "journal.db-intake0"
    content = log.read_bytes()
    at = content.index(b"EWVAULT1") + 8192
    log.write_bytes(content[:at] + bytes(4096) + content[at + 4096 :])  # a block that did not reach the disk

    crashed = after_a_crash(tmp_path)

    assert [item for item, _, _ in crashed.open_items()] == ["item1"]
    assert crashed.unsettled() == []
    crashed.close()


def test_an_object_that_was_erased_does_not_come_back(journal: Journal, tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault", KEY)
    one, coming = stored(vault, os.urandom(39_000))
    journal.admit(new_item(1, stored=one))
    coming.abort()  # type: ignore[attr-defined]
    journal._db.write(lambda db: db.execute("UPDATE items SET wrapped_key = NULL"))

    crashed = after_a_crash(tmp_path)

    assert crashed.unsettled() == []
    assert crashed.item("item1").wrapped_key == b""
    crashed.close()


def test_after_settling_a_crash_finds_nothing_to_take_over(journal: Journal, tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "vault", KEY)
    one, coming = stored(vault, os.urandom(39_000))
    journal.admit(new_item(1, stored=one))
    coming.abort()  # type: ignore[attr-defined]

    account = journal.turn()
    assert account is not None
    assert in_the_file(tmp_path) == 1, "a row leaves the log only once it is in the file"
    vault.settle()
    journal.forget(account)

    crashed = after_a_crash(tmp_path)
    assert crashed.unsettled() == []
    assert crashed.item("item1").size == one.size
    crashed.close()


def test_one_that_waits_for_the_same_instance_takes_its_place_if_it_fails(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.admit(new_item(1))
    account = journal.turn()
    assert account is not None
    entered, release, outcomes, real = threading.Event(), threading.Event(), dict[str, object](), os.pwritev

    def fail_once(*given: object) -> int:
        if not entered.is_set():
            entered.set()
            release.wait(10)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*given)  # type: ignore[arg-type]

    def admit(number: int) -> None:
        try:
            outcomes[f"item{number}"] = journal.admit(new_item(number, sop_instance_uid="1.9", digest=b"same"))[1]
        except DatabaseError as error:
            outcomes[f"item{number}"] = type(error)

    monkeypatch.setattr(os, "pwritev", fail_once)
    first = threading.Thread(target=admit, args=(2,))
    first.start()
    assert entered.wait(10)
    second = threading.Thread(target=admit, args=(3,))
    second.start()
    while not journal._intake._news._waiters:  # type: ignore[attr-defined]
        threading.Event().wait(0.001)
    assert journal.find("1.9", b"same") == "", "what is not durable is no item"
    release.set()
    first.join(10)
    second.join(10)

    # The file of the first failed, so the second is refused with it; it is not told of an item that is none.
    assert outcomes["item2"] is DatabaseFull
    assert outcomes["item3"] is DatabaseError
    journal.forget(account)
    assert journal.turn() is not None
    assert journal.admit(new_item(4, sop_instance_uid="1.9", digest=b"same"))[1] is True


def test_a_row_that_cannot_be_written_is_kept_and_nothing_more_is_taken(journal: Journal) -> None:
    told = [journal.admit(new_item(number))[0].item_id for number in range(1, 101)]
    (pages,) = journal._db._writer.execute("PRAGMA page_count").fetchone()
    journal._db._writer.execute(f"PRAGMA max_page_count = {pages}")
    journal._db.backlog = None  # fill the file to the last byte
    with pytest.raises(DatabaseFull):
        for _ in range(10_000):
            journal._db.write(lambda db: db.execute("INSERT INTO intake VALUES (hex(randomblob(9)), zeroblob(900))"))
    journal._db.backlog = journal._intake

    with pytest.raises(DatabaseFull):
        journal.turn()
    with pytest.raises(DatabaseFull):
        journal.admit(new_item(200))
    assert journal.open_items() == []
    journal._db._writer.execute("PRAGMA max_page_count = 1000000")

    assert [item for item, _, _ in journal.open_items()] == told
    assert journal.turn() is not None
    journal.admit(new_item(200))
    assert journal.counts()["admitted"] == 101


class Handed:
    """What the compiled admission hands over, and what it was given back."""

    waiting = True

    def __init__(self, *numbers: int) -> None:
        self.coming = [Arrived(number, admitted_there(number)) for number in numbers]
        self.back: list[int] = []

    def take(self) -> list[Arrived]:
        coming, self.coming = self.coming, []
        return coming

    def give(self, arrived: list[Arrived]) -> None:
        self.back += [one.slot for one in arrived]

    def close(self) -> None:
        self.waiting = False


def admitted_there(number: int) -> bytes:
    """What the compiled admission says of `new_item`."""
    new, common = new_item(number), plainrow.common("ct1", "1.2.840.1", "1.2.840.2")
    assert common is not None
    numbers = (plainrow.MARK, 0, new.received_ns, new.deadline_ns, new.stored_ns, 100)
    ids = (number.to_bytes(12, "big"), os.urandom(16), os.urandom(32), new.digest)
    uid = new.sop_instance_uid.encode()
    return plainrow._HEAD.pack(*numbers, *ids) + common + bytes([len(uid)]) + uid


def test_what_was_handed_over_while_the_file_could_not_be_read_comes_with_the_next(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = Handed(1, 2)
    monkeypatch.setattr(journal._intake, "lane", handed)

    def unreadable(*_: object) -> None:
        raise DatabaseError("disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(journal._db, "peek", unreadable)
        with pytest.raises(DatabaseError):
            journal.drain()
    assert handed.back == []

    journal.drain()
    assert handed.back == [1, 2]
    assert sum(journal.counts().values()) == 2


def test_a_read_that_fails_in_the_middle_keeps_what_was_decided(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.admit(new_item(1))  # so that each is looked up alone
    handed, real, left = Handed(1, 2, 3), journal._db.peek, [2]

    def peek(*query: object) -> object:
        left[0] -= 1
        if left[0] <= 0:
            raise DatabaseError("disk I/O error")
        return real(*query)  # type: ignore[arg-type]

    monkeypatch.setattr(journal._intake, "lane", handed)
    with monkeypatch.context() as broken:
        broken.setattr(journal._db, "peek", peek)
        with pytest.raises(DatabaseError):
            journal.drain()
    decided = list(handed.back)
    journal.drain()

    assert decided == [1, 2]
    assert handed.back == [1, 2, 3]
    assert sum(journal.counts().values()) == 3


def test_nobody_waits_for_the_same_object_of_another_association(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = journal.begin(new_item(1))
    assert isinstance(other, intake.Admission)
    handed = Handed(1, 2)
    monkeypatch.setattr(journal._intake, "lane", handed)

    journal.drain()
    assert handed.back == []

    other.failed(OSError(errno.EIO, "an error of the disk"))
    journal.drain()
    assert handed.back == [1, 2]
    assert sum(journal.counts().values()) == 2
