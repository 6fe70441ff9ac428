"""One file, many writers: what is told to be written is on the disk, and those who wait share a commit."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeward.privacy.database import Database, DatabaseError, DatabaseFull

SCHEMA = ("CREATE TABLE rows (value INTEGER PRIMARY KEY);",)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "a.db", name="test", application_id=7, migrations=SCHEMA)
    yield database
    database.close()


def insert(database: Database, value: int) -> int:
    def work(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO rows VALUES (?)", (value,))
        return value * 10

    return database.write(work)


def values(database: Database) -> list[int]:
    return [row[0] for row in database.all("SELECT value FROM rows ORDER BY value")]


class Crowd:
    """Writers that all wait while one of them is held up within its transaction."""

    def __init__(self, database: Database) -> None:
        self._database, self._threads = database, list[threading.Thread]()
        self._release, entered = threading.Event(), threading.Event()
        self.commits: list[str] = []

        def first(_: sqlite3.Connection) -> None:
            entered.set()
            self._release.wait(120)  # on a busy machine the others take their time to come

        self._start(lambda: database.write(first))
        assert entered.wait(30)
        database._writer.set_trace_callback(lambda sql: self.commits.append(sql) if sql == "COMMIT" else None)

    def _start(self, work: object) -> None:
        thread = threading.Thread(target=work)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def add(self, work: object) -> None:
        waiting = len(self._database._queue)
        self._start(work)
        while len(self._database._queue) == waiting:
            threading.Event().wait(0.001)

    def go(self) -> None:
        self._release.set()
        for thread in self._threads:
            thread.join(60)


def test_writers_that_wait_share_one_commit(database: Database) -> None:
    crowd, results = Crowd(database), list[int]()

    for value in range(20):
        crowd.add(lambda value=value: results.append(insert(database, value)))
    crowd.go()

    assert values(database) == list(range(20))
    assert sorted(results) == [value * 10 for value in range(20)]
    assert len(crowd.commits) == 2  # the one that held them up, and theirs


def test_one_that_fails_takes_nobody_with_it(database: Database) -> None:
    crowd, errors = Crowd(database), list[Exception]()

    def fail(error: Exception) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO rows VALUES (1000)")
            raise error

        try:
            database.write(work)
        except Exception as caught:
            errors.append(caught)

    for value in range(5):
        crowd.add(lambda value=value: insert(database, value))
    crowd.add(lambda: fail(KeyError("mine")))
    crowd.add(lambda: fail(RuntimeError("mine too")))
    for value in range(5, 8):
        crowd.add(lambda value=value: insert(database, value))
    crowd.go()

    assert values(database) == list(range(8))
    assert sorted(type(error).__name__ for error in errors) == ["KeyError", "RuntimeError"]


def test_a_constraint_is_the_error_of_who_broke_it(database: Database) -> None:
    insert(database, 1)
    crowd, errors = Crowd(database), list[str]()

    def again() -> None:
        try:
            insert(database, 1)
        except sqlite3.IntegrityError as error:
            errors.append(str(error))

    crowd.add(again)
    crowd.add(lambda: insert(database, 2))
    crowd.go()

    assert values(database) == [1, 2]
    assert len(errors) == 1


def test_a_full_disk_is_told_to_each_and_room_again_is_used(database: Database) -> None:
    (pages,) = database._writer.execute("PRAGMA page_count").fetchone()
    database._writer.execute(f"PRAGMA max_page_count = {pages}")

    def large(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE large (a)")
        db.execute("INSERT INTO large VALUES (zeroblob(100000))")

    with pytest.raises(DatabaseFull):
        database.write(large)
    database._writer.execute("PRAGMA max_page_count = 100000")
    database.write(large)

    assert database.one("SELECT length(a) FROM large") == (100_000,)


def test_a_closed_file_is_an_error_and_holds_up_nobody(tmp_path: Path) -> None:
    database = Database(tmp_path / "b.db", name="test", application_id=7, migrations=SCHEMA)
    database.close()

    for value in range(2):
        with pytest.raises((DatabaseError, sqlite3.ProgrammingError)):
            insert(database, value)
