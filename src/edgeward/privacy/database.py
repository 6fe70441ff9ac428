"""An SQLite file whose commits have reached the disk: opened, checked, migrated, and written by one thread at a time.

Responsible for durability settings, schema versions and clear errors. Not responsible for what the tables mean.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

_log = logging.getLogger("edgeward.database")
T = TypeVar("T")
_CHECKPOINT_PAGES = 4000  # 16 MB of log before it is folded into the file: that costs two syncs
Row = tuple[Any, ...]


class DatabaseError(RuntimeError):
    """The file cannot be used or written; the text says why and what to do."""


class DatabaseFull(DatabaseError):
    """The disk is full: nothing was written."""


class Backlog(Protocol):
    """Rows that are durable elsewhere and still to be written here: with the next commit, and before any reading."""

    @property
    def waiting(self) -> bool:
        """Whether there are any."""

    def write(self, db: sqlite3.Connection) -> int:
        """Write them; return how many. May be called again if the commit fails."""

    def written(self, count: int) -> None:
        """Take note that so many of them are committed."""

    def drain(self) -> None:
        """Bring in what else is durable. Called without any of this database's locks."""


class _Job:
    """What one thread wants written."""

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.done = False
        self._result: Any = None
        self.error: BaseException | None = None

    def finish(self, result: Any) -> None:
        self._result, self.done = result, True

    def fail(self, error: BaseException) -> None:
        self.error, self.done = error, True

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self._result


class Database:
    """One SQLite file in WAL mode with ``synchronous = FULL``: a commit returns after it has reached the disk.

    Thread-safe: one connection writes, under a lock; another reads, under its own, and is not held up by a commit but
    that of a backlog; a third is for long queries (`view`). Nothing may be read in the midst of a `write` but through
    its own connection.
    Those who want to write while a commit is on its way to the disk share the next one.

    Parameters
    ----------
    path
        The file; made if missing, mode 0600.
    name
        What it is, for messages, such as "journal".
    application_id
        Tells our file from any other SQLite database (``PRAGMA application_id``).
    migrations
        One SQL script per schema version, applied in order, each in one transaction. A script never changes once it was
        released.

    Raises
    ------
    DatabaseError
        If the file is another program's, damaged, or was written by a newer version. It is then left as it was.
    """

    def __init__(self, path: Path, *, name: str, application_id: int, migrations: Sequence[str]) -> None:
        self.path, self._name = path, name
        self._write_lock, self._read_lock, self._view_lock = threading.Lock(), threading.Lock(), threading.Lock()
        self._queue: list[_Job] = []
        self._queue_lock = threading.Lock()
        self.backlog: Backlog | None = None
        self._behind: BaseException | None = None  # why the backlog could not be written, the last time
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._check_is_ours(application_id, len(migrations))
            self._writer = self._connect()
            self._migrate(application_id, migrations)
            self._reader, self._viewer = self._connect(), self._connect()
            for connection in (self._reader, self._viewer):
                connection.execute("PRAGMA query_only = 1")
        except sqlite3.DatabaseError as error:
            raise DatabaseError(
                f"{path} is not a usable {name} ({error}). Restore it from a backup, or move it away to start with an "
                "empty one."
            ) from error
        path.chmod(0o600)

    def close(self) -> None:
        """Close the file."""
        with self._write_lock, self._read_lock, self._view_lock:
            self._viewer.close()
            self._reader.close()
            self._writer.close()

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction and commit it: all of it is durable on return, or none of it happened.

        It may be run again if another's failed beside it; so it must do nothing but use the connection.

        Raises
        ------
        DatabaseFull
            If the disk is full.
        DatabaseError
            If the file cannot be written for another reason.
        """
        if self.backlog is not None and self.backlog.waiting:
            self.backlog.drain()
        job = _Job(work)
        with self._queue_lock:
            self._queue.append(job)
        with self._write_lock:  # whoever gets it does the work of all who wait for it, in one commit
            if not job.done:
                self._commit_queue()
        return job.result()  # type: ignore[no-any-return]

    def _commit_queue(self) -> None:
        with self._queue_lock:
            jobs, self._queue = self._queue, []
        backlog = self.backlog
        if backlog is not None and backlog.waiting:
            late = _Job(backlog.write)
            self._commit([late, *jobs])
            self._behind = late.error
            if late.error is None:
                backlog.written(late.result())
        else:
            self._commit(jobs)

    def _commit(self, jobs: list[_Job]) -> None:
        if len(jobs) > 1:
            try:
                with self._transaction() as db:
                    results = [job.work(db) for job in jobs]
            except Exception:
                _log.debug("one of several transactions failed: each is done alone")
            else:
                for job, result in zip(jobs, results, strict=True):
                    job.finish(result)
                return
        for job in jobs:
            try:
                with self._transaction() as db:
                    result = job.work(db)
            except BaseException as error:
                job.fail(error)
            else:
                job.finish(result)

    def catch_up(self) -> None:
        """Write the backlog, if there is one.

        Raises
        ------
        DatabaseError
            As `write`; the backlog remains.
        """
        if self.backlog is None or not self.backlog.waiting:
            return
        self.write(lambda _: None)
        behind = self._behind
        if isinstance(behind, DatabaseError):
            raise behind
        if behind is not None:
            raise DatabaseError(f"the {self._name} {self.path} cannot be written: {behind}") from behind

    def peek(self, query: str, values: Row = ()) -> list[Row]:
        """Return all rows of a query, without those of the backlog.

        Raises
        ------
        DatabaseError
            If it cannot be read.
        """
        try:
            with self._read_lock:
                return self._reader.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise DatabaseError(f"the {self._name} {self.path} cannot be read: {error}") from error

    def one(self, query: str, values: Row = ()) -> Row | None:
        """Return the first row of a query, or None."""
        self._before_reading()
        with self._read_lock:
            return self._reader.execute(query, values).fetchone()  # type: ignore[no-any-return]

    def all(self, query: str, values: Row = ()) -> list[Row]:
        """Return all rows of a query."""
        self._before_reading()
        with self._read_lock:
            return self._reader.execute(query, values).fetchall()

    def view(self, query: str, values: Row = ()) -> list[Row]:
        """Return all rows of a query that may look at many: on a connection of its own, so that it holds up nobody."""
        self._before_reading()
        with self._view_lock:
            return self._viewer.execute(query, values).fetchall()

    def _before_reading(self) -> None:
        if self.backlog is None or not self.backlog.waiting:
            return
        try:
            self.catch_up()
        except DatabaseError as error:  # what is there already can be read on a full disk too
            _log.warning("what was admitted last cannot be shown yet: %s", error)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA foreign_keys = 1")
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        (synchronous,) = db.execute("PRAGMA synchronous").fetchone()
        if mode != "wal" or synchronous != 2:
            db.close()
            raise DatabaseError(
                f"{self.path}: SQLite works with journal mode {mode!r} and synchronous {synchronous}, not WAL and "
                "FULL, so an acknowledged image could be lost. Keep the state directory on a local file system."
            )
        return db

    def _check_is_ours(self, application_id: int, newest: int) -> None:
        if not self.path.exists() or not self.path.stat().st_size:
            return
        # Plain, without our settings: a file that is not ours must not be changed, not even to WAL mode.
        db = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        try:
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            db.close()
        if application != application_id and (tables or application):
            raise DatabaseError(f"{self.path} is another program's database, not a {self._name}; nothing was changed")
        if version > newest:
            raise DatabaseError(
                f"{self.path} was written by a newer Edgeward ({self._name} version {version}, this one knows "
                f"{newest}); install that version again. Nothing was changed."
            )
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)

    def _migrate(self, application_id: int, migrations: Sequence[str]) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        for number in range(version, len(migrations)):
            # Explicitly one transaction: executescript would otherwise commit statement by statement.
            self._writer.executescript(
                f"BEGIN IMMEDIATE; {migrations[number]} PRAGMA application_id = {application_id}; "
                f"PRAGMA user_version = {number + 1}; COMMIT;"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._rollback(db)
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise DatabaseFull(f"the disk of {self.path} is full") from error
            raise DatabaseError(f"the {self._name} {self.path} cannot be written: {error}") from error
        except BaseException:
            self._rollback(db)
            raise

    def _rollback(self, db: sqlite3.Connection) -> None:
        if db.in_transaction:
            try:
                db.execute("ROLLBACK")
            except sqlite3.Error as error:
                _log.warning("the %s could not roll back: %s", self._name, error)
