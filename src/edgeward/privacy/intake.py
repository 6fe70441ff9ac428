"""Admission: an item is durable in the intake log, and its row follows into the journal's file with the next commit.

Responsible for deciding whether an item is new, for its row reaching the file before anybody reads or changes it there,
and for what a crash left in the log. Not responsible for the log's own format (``privacy.intakelog``) or for what
becomes of an item (``privacy.journal``).

A row in SQLite costs two dozen pages written and a sync. One append to the log costs one write, and a sync that all
share; the rows follow many at a time. Whoever looks into the file finds them there: `Database` writes them first.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgeward import native
from edgeward.privacy import plainrow
from edgeward.privacy.database import Database, DatabaseError, DatabaseFull
from edgeward.privacy.intakelog import Entry, IntakeLog, Record
from edgeward.privacy.items import CONFLICT, Item, NewItem
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.privacy.lane import Arrived, Lane, Reason
from edgeward.privacy.sealing import bound, patient_key
from edgeward.privacy.studies import StudyLog
from edgeward.privacy.vaultfile import intact, intact_file, is_full

_log = logging.getLogger("edgeward.journal")

_ROWS = 256  # that wait for the journal's file at most
_COLUMNS = (
    *("item_id", "state", "reason", "received_ns", "deadline_ns", "stored_ns", "device", "modality", "sop_class_uid"),
    *("sop_instance_uid", "study_instance_uid", "series_instance_uid", "transfer_syntax_uid", "rows", "columns"),
    *("frames", "digest", "object_id", "wrapped_key", "size", "identity", "patient_key"),
)
_INSERT = f"INSERT INTO items ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - our own
_ITEM_ID, _STATE, _RECEIVED, _UID, _STUDY, _DIGEST, _OBJECT, _KEY, _SIZE = (
    _COLUMNS.index(name)
    for name in (
        *("item_id", "state", "received_ns", "sop_instance_uid", "study_instance_uid", "digest", "object_id"),
        *("wrapped_key", "size"),
    )
)
_SAME_UID = "SELECT item_id, digest FROM items WHERE sop_instance_uid = ? ORDER BY seq"
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(tuple).decode
Values = tuple[Any, ...]


@dataclass(slots=True, eq=False)
class _Arriving:
    """An item on its way: not durable yet, or not in the file yet."""

    item: Item
    digest: bytes
    values: Values = field(repr=False)
    durable: bool | None = None  # False: it failed, and is no item


@dataclass(frozen=True, slots=True)
class Fresh:
    """What became of an object that the compiled admission took.

    Attributes
    ----------
    item_id, item
        The item; known only by its id if it is an earlier one.
    is_new
        Whether it is new. If not, the object was stored in vain.
    object_id, device
        Of the object that came.
    """

    item_id: str
    item: Item | None
    is_new: bool
    object_id: str
    device: str


class Admission:
    """An item that has its place in the log and is not on the disk yet.

    Whoever gets one must see to it that `entry` reaches the disk, and then call `kept`, or else `failed`.
    """

    __slots__ = ("_intake", "_log", "_one", "entry", "item")

    def __init__(self, intake: Intake, log: IntakeLog, one: _Arriving, entry: Entry) -> None:
        self._intake, self._log, self._one = intake, log, one
        self.entry, self.item = entry, one.item

    def kept(self) -> None:
        """Say that it is durable."""
        self._log.kept(self.entry, lambda: self._intake.tell(self._one, durable=True))

    def failed(self, error: BaseException) -> BaseException:
        """Say that it could not be written, and is no item; return what to raise."""
        try:
            self._log.lost(self.entry)
        finally:
            self._intake.tell(self._one, durable=False)
        return told(error) if isinstance(error, OSError) else error


class Intake:
    """Admits items to one journal. Thread-safe. It is the backlog of the journal's `Database`.

    Raises
    ------
    WrongKey
        If the log holds what was sealed with another site key.
    DatabaseError
        If what the log holds cannot be taken over.
    """

    def __init__(self, path: Path, db: Database, site_key: SiteKey) -> None:
        self._db, self._site_key = db, site_key
        self._log = IntakeLog(path, site_key)
        library = native.library()
        self.lane: Lane | None = Lane(library) if library is not None and library.admits else None
        self._news = threading.Condition()  # guards the two below; told when an item is durable, or failed
        self._arriving: dict[str, list[_Arriving]] = {}  # by SOP Instance UID
        self._rows: list[_Arriving] = []  # durable, and still to be written to the file
        self._failed = False  # to write them
        self._draining = threading.RLock()
        self._undecided: list[Arrived] = []  # taken from the lane, and still its own
        self.told: Callable[[Fresh], None] = lambda _: None  # of each object that came through the lane
        self._take_over()
        db.backlog = self

    def close(self) -> None:
        """Write what waits, and close the log. What it keeps for the vault stays there for the next start."""
        if self.lane is not None:
            self.lane.close()
        try:
            self._db.catch_up()
            if not self._log.contents:
                self._log.forget_found()
        except (DatabaseError, OSError) as error:
            _log.warning("the rows of the last items are written at the next start: %s", error)
        self._log.close()

    # ------------------------------------------------------------ admission

    def find(self, sop_instance_uid: str, digest: bytes) -> str:
        """See `Journal.find`."""
        with self._news:
            for one in self._arriving.get(sop_instance_uid, ()):
                if one.durable and one.digest == digest:
                    return one.item.item_id
        same = self._db.peek(_SAME_UID, (sop_instance_uid,))
        return next((str(item_id) for item_id, known in same if known == digest), "")

    def admit(self, new: NewItem) -> tuple[Item | str, bool]:
        """See `Journal.admit`. An item of which only the id is known at hand is returned as that."""
        found = self.begin(new)
        if not isinstance(found, Admission):
            return found, False
        try:
            self._log.keep(found.entry)
        except BaseException as error:
            raise found.failed(error) from error
        found.kept()
        return found.item, True

    def begin(self, new: NewItem) -> Admission | Item | str:
        """See `Journal.begin`."""
        if self._failed or len(self._rows) >= _ROWS:
            self._catch_up()
        sealed = self._site_key.seal(_encode(new.identity), bound("identity", new.item_id))
        patient = patient_key(self._site_key, new.identity)
        with self._news:
            earlier, conflict = self._earlier(new)
            if earlier is not None:
                return earlier
            one = _arriving(new, sealed, patient, conflict=conflict)
            self._arriving.setdefault(new.sop_instance_uid, []).append(one)
        try:
            return Admission(self, self._log, one, self._log.enter(_encode(one.values), new.stored.content))
        except BaseException as error:
            self.tell(one, durable=False)
            if isinstance(error, OSError):
                raise told(error) from error
            raise

    def _earlier(self, new: NewItem) -> tuple[Item | str | None, bool]:
        """Return the item with the same content, if there is one, and whether there are others with this UID."""
        while True:
            others = self._arriving.get(new.sop_instance_uid, ())
            same = next((one for one in others if one.digest == new.digest), None)
            if same is None:
                break
            if same.durable:
                return same.item, False
            self._news.wait_for(lambda same=same: same.durable is not None)  # type: ignore[misc]
        known = self._db.peek(_SAME_UID, (new.sop_instance_uid,))
        for item_id, digest in known:
            if digest == new.digest:
                return str(item_id), False
        return None, bool(known or others)

    def tell(self, one: _Arriving, *, durable: bool) -> None:
        """Say that an item is durable, or failed and is none."""
        with self._news:
            one.durable = durable
            if durable:
                self._rows.append(one)
            else:
                self._drop(one)
            self._news.notify_all()

    def _drop(self, one: _Arriving) -> None:
        others = self._arriving[one.item.sop_instance_uid]
        others.remove(one)
        if not others:
            del self._arriving[one.item.sop_instance_uid]

    # ------------------------------------------------------------ what the compiled admission took

    def open_lane(self, budget_ns: int, crowded: int, told: Callable[[Fresh], None]) -> None:
        """See `Journal.open_lane`."""
        self.told = told
        if self.lane is not None:
            self.lane.open(content_key=self._site_key.content_key(), budget_ns=budget_ns, crowded=crowded)

    def drain(self) -> None:
        """Make rows of what the compiled admission took. Every reader does so first.

        What waits for the same object of another association stays for the next time.

        Raises
        ------
        DatabaseError
            If what is known cannot be read. What came stays for the next time.
        """
        lane = self.lane
        if lane is None:
            return
        with self._draining:
            while True:
                self._undecided += lane.take()
                if not self._undecided:
                    break
                news = self._decided(self._undecided)
                if not news:
                    break
                decided, self._undecided = self._undecided[: len(news)], self._undecided[len(news) :]
                lane.give(decided)
                if len(self._rows) >= _ROWS:
                    try:
                        self._catch_up()
                    except DatabaseError as error:
                        _log.warning("the rows of acknowledged items stay in the intake log: %s", error)
                for one in news:
                    self._tell(one)

    def _tell(self, one: Fresh) -> None:
        try:
            self.told(one)
        except Exception as error:  # whoever reads is not to suffer; the item is driven from the journal
            _log.error("an item could not be told of: %s", type(error).__name__)

    def _decided(self, arrived: list[Arrived]) -> list[Fresh]:
        """Enter what came among the items that are on their way to the file, up to the first that cannot be yet."""
        sealed = []
        for one in arrived:
            new = self._read_plain(one.row)
            identity = self._site_key.seal(_encode(new.identity), bound("identity", new.item_id))
            sealed.append((new, identity, patient_key(self._site_key, new.identity)))
        news: list[Fresh] = []
        with self._news:
            uids = {new.sop_instance_uid for new, _, _ in sealed}
            alone = (
                len(uids) == len(sealed) and not any(uid in self._arriving for uid in uids) and not self._known(uids)
            )
            for new, identity, patient in sealed:
                if not alone and self._is_arriving(new):
                    break  # nobody waits here for another association
                try:
                    earlier, conflict = (None, False) if alone else self._earlier(new)
                except DatabaseError:
                    if news:
                        break  # what was entered is not to be forgotten
                    raise
                item_id, item = new.item_id, earlier if isinstance(earlier, Item) else None
                if earlier is None:
                    coming = _arriving(new, identity, patient, conflict=conflict)
                    coming.durable, item = True, coming.item
                    self._arriving.setdefault(new.sop_instance_uid, []).append(coming)
                    self._rows.append(coming)
                else:
                    item_id = earlier if isinstance(earlier, str) else earlier.item_id
                object_id, is_new = new.stored.object_id, earlier is None
                news.append(Fresh(item_id, item, is_new, object_id, new.device))
        return news

    def _is_arriving(self, new: NewItem) -> bool:
        others = self._arriving.get(new.sop_instance_uid, ())
        return any(one.durable is None and one.digest == new.digest for one in others)

    def _read_plain(self, row: bytes) -> NewItem:
        try:
            new = plainrow.new_item(row, self._site_key)
            _encode(new.identity)  # it can be written down
            return new
        except Exception as error:  # it was acknowledged: it is an item, whatever its header does to us
            # Only the type: the text of an unforeseen error may quote the data set.
            _log.error("the header of an object cannot be read: %s", type(error).__name__)
            return plainrow.new_item(row, self._site_key, header=False)

    def _known(self, uids: set[str]) -> bool:
        marks = ", ".join("?" * len(uids))
        return bool(self._db.peek(f"SELECT 1 FROM items WHERE sop_instance_uid IN ({marks}) LIMIT 1", tuple(uids)))  # noqa: S608 - marks

    # ------------------------------------------------------------ the backlog of the database

    @property
    def waiting(self) -> bool:
        """See `Backlog.waiting`."""
        lane = self.lane
        return bool(self._rows or self._undecided) or (lane is not None and lane.waiting)

    def write(self, db: sqlite3.Connection) -> int:
        """See `Backlog.write`."""
        with self._news:
            rows = [one.values for one in self._rows]
        _insert(db, rows)
        return len(rows)

    def written(self, count: int) -> None:
        """See `Backlog.written`."""
        with self._news:
            done, self._rows = self._rows[:count], self._rows[count:]
            for one in done:
                self._drop(one)

    def _catch_up(self) -> None:
        lane = self.lane
        try:
            self._db.catch_up()
        except BaseException:
            self._failed = True
            if lane is not None:
                lane.forbid(Reason.BEHIND)
            raise
        self._failed = False
        if lane is not None:
            lane.allow(Reason.BEHIND)

    def make_room(self) -> None:
        """See `Journal.make_room`."""
        try:
            self._log.make_room()
        except OSError as error:
            raise told(error) from error

    # ------------------------------------------------------------ what is kept for the vault

    @property
    def crowded(self) -> bool:
        """See `Journal.crowded`."""
        return self._log.crowded

    @property
    def filling(self) -> bool:
        """See `Journal.filling`."""
        return self._log.filling

    def turn(self) -> int | None:
        """See `Journal.turn`."""
        try:
            account = self._log.turn()
        except OSError as error:
            raise told(error) from error
        self._catch_up()
        return account

    def forget(self, account: int) -> None:
        """See `Journal.forget`."""
        try:
            self._log.forget(account)
        except OSError as error:
            raise told(error) from error

    def _take_over(self) -> None:
        """Bring what the log holds into the file: rows that are not there, and what may have to be restored."""
        found = [self._read(record) for record in self._log.found()]
        if not found:
            return
        found = [one for one in found if self._whole(one[0], one[1])]
        # Those that were decided on first: the others give way to them.
        found.sort(key=lambda one: (one[2], one[0][_RECEIVED]))

        def work(db: sqlite3.Connection) -> int:
            rows = []
            for values, record, undecided in found:
                known = db.execute("SELECT wrapped_key FROM items WHERE item_id = ?", (values[_ITEM_ID],)).fetchone()
                if known is None:
                    row = _decided_late(db, values) if undecided else values
                    if row is None:
                        continue
                    rows.append(row)
                    _insert(db, [row])
                if record.content and (known is None or known[0] is not None):
                    insert = "INSERT OR REPLACE INTO intake (object_id, content) VALUES (?, ?)"
                    db.execute(insert, (values[_OBJECT], record.content))
            return len(rows)

        count = self._db.write(work)
        try:
            self._log.forget_found()
        except OSError as error:
            raise told(error) from error
        if count:
            _log.info("took %d acknowledged items over from the intake log", count)

    def take_over(self, appended: Iterable[tuple[str, bytes, bytes]], file_of: Callable[[str], Path]) -> set[str]:
        """See `Journal.take_over`."""
        found: list[tuple[str, Values, bool]] = []
        for place, row, content in appended:
            if plainrow.is_plain(row):
                values, record, _ = self._read(Record(row, content))
                if not content:
                    # Its file was durable before the record was: whatever is wrong with it now, it was acknowledged.
                    if not self._whole_file(values, file_of(values[_OBJECT])):
                        _log.error("the object of item %s is damaged or gone; it was acknowledged", values[_ITEM_ID])
                    found.append(("", values, True))
                elif values[_OBJECT].startswith(place):
                    found.append((place, values, self._whole(values, record)))
        found.sort(key=lambda one: one[1][_RECEIVED])

        def work(db: sqlite3.Connection) -> tuple[set[str], int]:
            kept, new = set(), 0
            for place, values, whole in found:
                query = "SELECT object_id, wrapped_key FROM items WHERE item_id = ?"
                known = db.execute(query, (values[_ITEM_ID],)).fetchone()
                row = _decided_late(db, values) if known is None and whole else None
                if row is not None:
                    _insert(db, [row])
                    new += 1
                if row is not None or (known is not None and known[0] == values[_OBJECT] and known[1] is not None):
                    kept.add(place)
            return kept, new

        kept, count = self._db.write(work) if found else (set(), 0)
        if count:
            _log.info("took %d acknowledged items over from the segments of the vault", count)
        return kept

    def _read(self, record: Record) -> tuple[Values, Record, bool]:
        """Return a row, its record, and whether nobody has decided yet what becomes of it."""
        if not plainrow.is_plain(record.row):
            return _decode(record.row), record, False
        new = self._read_plain(record.row)
        sealed = self._site_key.seal(_encode(new.identity), bound("identity", new.item_id))
        return _values(new, sealed, patient_key(self._site_key, new.identity), "admitted", ""), record, True

    def _whole(self, values: Values, record: Record) -> bool:
        """Whether the content of a record is complete: if not, the machine stopped before anybody was told of it."""
        if not record.content:
            return True
        try:
            key = self._site_key.unwrap(values[_KEY], values[_OBJECT].encode())
        except WrongKey:
            return False
        return intact(record.content, key)

    def _whole_file(self, values: Values, path: Path) -> bool:
        try:
            key = self._site_key.unwrap(values[_KEY], values[_OBJECT].encode())
            return intact_file(path, key, values[_SIZE])
        except WrongKey:
            return False
        except OSError as error:
            raise told(error) from error


def told(error: OSError) -> DatabaseError:
    """Return an error of the disk as the journal's."""
    if is_full(error):
        return DatabaseFull("the disk of the journal's intake log is full")
    return DatabaseError(f"the journal's intake log cannot be written: {error.strerror}")


def _insert(db: sqlite3.Connection, rows: list[Values]) -> None:
    db.executemany(_INSERT, rows)
    grown: dict[str, tuple[int, int]] = {}
    for values in rows:
        study, received_ns = values[_STUDY], values[_RECEIVED]
        first, last = grown.get(study, (received_ns, received_ns))
        grown[study] = (min(first, received_ns), max(last, received_ns))
    for study, (first, last) in grown.items():
        StudyLog.grew(db, study, first)
        if last != first:
            StudyLog.grew(db, study, last)


def _arriving(new: NewItem, sealed: bytes, patient: bytes, *, conflict: bool) -> _Arriving:
    state, reason = ("failed", CONFLICT) if conflict else ("admitted", "")
    stored = new.stored
    item = Item(
        item_id=new.item_id,
        state=state,
        reason=reason,
        received_ns=new.received_ns,
        deadline_ns=new.deadline_ns,
        stored_ns=new.stored_ns,
        asked_ns=0,
        analysed_ns=0,
        handed_ns=0,
        delivered_ns=0,
        late=False,
        attempts=0,
        crashes=0,
        device=new.device,
        sop_class_uid=new.sop_class_uid,
        sop_instance_uid=new.sop_instance_uid,
        transfer_syntax_uid=new.transfer_syntax_uid,
        object_id=stored.object_id,
        wrapped_key=stored.wrapped_key,
        size=stored.size,
        finding=None,
        study_instance_uid=new.study_instance_uid,
        series_instance_uid=new.series_instance_uid,
        rows=new.rows,
        columns=new.columns,
        frames=new.frames,
    )
    return _Arriving(item=item, digest=new.digest, values=_values(new, sealed, patient, state, reason))


def _values(new: NewItem, sealed: bytes, patient: bytes, state: str, reason: str) -> Values:
    stored = new.stored
    return (
        *(new.item_id, state, reason, new.received_ns, new.deadline_ns, new.stored_ns, new.device, new.modality),
        *(new.sop_class_uid, new.sop_instance_uid, new.study_instance_uid, new.series_instance_uid),
        *(new.transfer_syntax_uid, new.rows, new.columns, new.frames, new.digest, stored.object_id),
        *(stored.wrapped_key, stored.size, sealed, patient),
    )


def _decided_late(db: sqlite3.Connection, values: Values) -> Values | None:
    """Return the row of an object that a crash kept from being decided on, or None: it was here before.

    What is a conflict itself makes no other one: of several objects under one UID one is analysed.
    """
    same = db.execute("SELECT digest, reason FROM items WHERE sop_instance_uid = ?", (values[_UID],)).fetchall()
    if any(digest == values[_DIGEST] for digest, _ in same):
        return None
    if all(reason == CONFLICT for _, reason in same):
        return values
    return (*values[:_STATE], "failed", CONFLICT, *values[_STATE + 2 :])
