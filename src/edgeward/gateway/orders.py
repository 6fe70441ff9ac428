"""The order book: what the hospital asked imaging to do, kept until some time after it was done.

Responsible for durability (a change has reached the disk when a method returns), for idempotence (the same order again
is the same row; of two updates the later one by the sender's clock counts), and for the queries that the worklist, the
console and the performed procedure steps need. Not responsible for the protocols that orders come by (``hl7_orders``,
``fhir_orders``) or are asked for by (``worklist``), or for which order a message means (``order_matching``).

Identity is sealed with the site key; numbers that orders are found by are kept as keyed digests. All rows are held in
memory as well, because a worklist query has to look at each.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeward.gateway.order_entry import (
    OPEN,
    Change,
    Entry,
    OrderError,
    Status,
    asked_status,
    merged,
    outdated,
    status_after,
)
from edgeward.gateway.order_matching import (
    Row,
    other_authority,
    other_patient,
    placed_by,
    require,
    same_accession,
    steps_meant,
)
from edgeward.gateway.retired import RetiredNumbers
from edgeward.messages import Order, Orders, OrdersQuery, decoder
from edgeward.privacy.database import Database, DatabaseError
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.searching import mentions, words

APPLICATION_ID = 0x45574F31  # "EWO1"
_DAY_NS = 86_400 * 10**9
_MOST_ANSWERED = 1000
_OVER = {"completed", "discontinued"}

# One entry per schema version, applied in order. An entry never changes once it was released.
MIGRATIONS = (
    """
    CREATE TABLE steps (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        number BLOB NOT NULL,
        accession BLOB NOT NULL,
        patient BLOB NOT NULL,
        resource BLOB NOT NULL,
        study_instance_uid TEXT NOT NULL,
        status TEXT NOT NULL,
        changed_ns INTEGER NOT NULL,
        sealed BLOB NOT NULL
    );
    CREATE INDEX steps_number ON steps (number);
    CREATE INDEX steps_accession ON steps (accession);
    CREATE INDEX steps_patient ON steps (patient);
    CREATE INDEX steps_study ON steps (study_instance_uid);
    CREATE UNIQUE INDEX steps_resource ON steps (resource);
    CREATE TABLE performed (
        sop_instance_uid TEXT PRIMARY KEY,
        device TEXT NOT NULL,
        status TEXT NOT NULL,
        changed_ns INTEGER NOT NULL,
        sealed BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE performed_studies (
        study_instance_uid TEXT NOT NULL,
        performed TEXT NOT NULL REFERENCES performed (sop_instance_uid) ON DELETE CASCADE,
        PRIMARY KEY (study_instance_uid, performed)
    ) WITHOUT ROWID;
    CREATE TABLE performed_instances (
        performed TEXT NOT NULL REFERENCES performed (sop_instance_uid) ON DELETE CASCADE,
        sop_instance_uid TEXT NOT NULL,
        PRIMARY KEY (performed, sop_instance_uid)
    ) WITHOUT ROWID;
    CREATE TABLE commitments (
        device TEXT NOT NULL,
        transaction_uid TEXT NOT NULL,
        ae_title TEXT NOT NULL,
        state TEXT NOT NULL,
        event_type INTEGER NOT NULL,
        result BLOB NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        created_ns INTEGER NOT NULL,
        PRIMARY KEY (device, transaction_uid)
    ) WITHOUT ROWID;
    CREATE INDEX commitments_state ON commitments (state);
    """,
    """
    CREATE TABLE retired (
        number BLOB NOT NULL,
        issuer BLOB NOT NULL,
        changed_ns INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (number, issuer)
    ) WITHOUT ROWID;
    """,
)


_entry = decoder(Entry)


class OrderBook:
    """The orders of one site, in one SQLite file. Thread-safe; one writer (the gateway).

    Parameters
    ----------
    path
        The database; made if missing.
    site_key
        Seals identity.
    keep_days
        A row is removed when it has neither changed nor been due for so long.

    Raises
    ------
    DatabaseError
        If the file is not an order book, is damaged, or was written by a newer version.
    """

    def __init__(
        self, path: Path, site_key: SiteKey, keep_days: int = 30, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._key, self._keep_ns, self._clock = site_key, keep_days * _DAY_NS, clock
        self.db = Database(path, name="order book", application_id=APPLICATION_ID, migrations=MIGRATIONS)
        self._lock = threading.Lock()
        self._retired = RetiredNumbers(site_key)
        try:
            rows = self.db.all("SELECT seq, sealed FROM steps")
            self._entries = {int(seq): self._opened(sealed) for seq, sealed in rows}
        except (WrongKey, msgspec.MsgspecError) as error:
            self.db.close()
            raise DatabaseError(f"{path} was sealed with another site key, or is damaged") from error

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    # ------------------------------------------------------------ changes

    def apply(self, changes: Sequence[Change]) -> list[list[Entry]]:
        """Carry out the changes of one message: all of them, durable on return, or none.

        Returns
        -------
        list
            For each change the steps it concerned, as they are now; at least one.

        Raises
        ------
        OrderError
            If one of them cannot be used.
        DatabaseError
            If nothing could be written.
        """

        def work(db: sqlite3.Connection) -> list[list[Row]]:
            return [self._apply(db, change) for change in changes]

        changed = self.db.write(work)
        self.remember([row for rows in changed for row in rows])
        return [[entry for _, entry in rows] for rows in changed]

    def patient(
        self, prior_id: str, now: Entry, prior_issuer: str = "", *, registered: bool = False
    ) -> tuple[list[Entry], int]:
        """Give the steps of a patient that are not done yet other patient data (HL7 A08), or another id (A40).

        `prior_issuer` is who gave `prior_id`, if that is told. `now` holds the patient's data and the sender's time; an
        older message than the last one changes nothing. What is done stays as it was done, but knows the other id. New
        orders under an id that was merged are filed under the other one, until somebody is `registered` with it again.

        Returns
        -------
        tuple
            The steps that changed, and of how many something newer was known.
        """

        def work(db: sqlite3.Connection) -> tuple[list[Row], int]:
            changed, overtaken = [], 0
            prior, number = (prior_id, prior_issuer), (now.order.patient_id, now.issuer_of_patient_id)
            for seq, old in self._of_patient(db, prior_id, prior_issuer):
                if old.order.status not in OPEN:
                    if now.order.patient_id != prior_id:
                        known_as = tuple(dict.fromkeys((*old.known_as, number)))
                        new = msgspec.structs.replace(old, known_as=known_as)
                        changed.append((seq, self._put(db, seq, new, at_ns=old.order.changed_ns)))
                elif now.patient_ns < old.patient_ns:
                    overtaken += 1
                else:
                    new = msgspec.structs.replace(merged(old, now), message_ns=old.message_ns)
                    changed.append((seq, self._put(db, seq, new)))
            if registered:
                self._retired.used_again(db, number, now.patient_ns)
            elif prior_id != number[0] and number[0] and not overtaken:
                self._retired.merged(db, prior, number, now.patient_ns, self._clock())
            return changed, overtaken

        changed, overtaken = self.db.write(work)
        self.remember(changed)
        return [entry for _, entry in changed], overtaken

    def progressed(
        self, db: sqlite3.Connection, wanted: Callable[[Entry], bool], status_of: Callable[[Entry], Status]
    ) -> list[Row]:
        """Give the steps that are `wanted` the status that their modalities tell; `remember` them after it.

        It runs within a transaction of ``self.db``.
        """
        with self._lock:
            found = [(seq, entry) for seq, entry in self._entries.items() if wanted(entry)]
        changed = []
        for seq, entry in found:
            status = status_of(entry)
            if entry.order.status != status:
                order = msgspec.structs.replace(entry.order, status=status)
                ended = self._clock() if status == "discontinued" else 0
                new = msgspec.structs.replace(entry, order=order, discontinued_ns=ended)
                changed.append((seq, self._put(db, seq, new)))
        return changed

    def remember(self, changed: Sequence[Row]) -> None:
        """Take rows that a transaction has written into memory."""
        with self._lock:
            self._entries.update(changed)

    def sweep(self) -> int:
        """Remove what is older than the retention; return how many orders went."""
        before = self._clock() - self._keep_ns
        with self._lock:
            old = [seq for seq, entry in self._entries.items() if self._last(entry) < before]

        def work(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM steps WHERE seq = ?", [(seq,) for seq in old])
            db.execute("DELETE FROM performed WHERE changed_ns < ?", (before,))
            db.execute("DELETE FROM retired WHERE changed_ns < ?", (before,))
            db.execute("DELETE FROM commitments WHERE created_ns < ? AND state != 'pending'", (before,))

        self.db.write(work)
        with self._lock:
            for seq in old:
                self._entries.pop(seq, None)
        return len(old)

    # ------------------------------------------------------------ queries

    def steps(self) -> list[Entry]:
        """Return the steps that a worklist shows, the ones due next first."""
        with self._lock:
            found = [entry for entry in self._entries.values() if entry.order.status in OPEN]
        return sorted(found, key=_due)

    def by_resource(self, resource_id: str) -> Entry | None:
        """Return the step with this FHIR id, or None."""
        row = self.db.one("SELECT seq FROM steps WHERE resource = ?", (self._digest("resource", resource_id),))
        with self._lock:
            return self._entries.get(int(row[0])) if row else None

    def of_study(self, study_instance_uid: str, accession_number: str = "") -> list[Entry]:
        """Return the steps that a study belongs to: by its UID, else by its accession number."""
        rows = self.db.all("SELECT seq FROM steps WHERE study_instance_uid = ?", (study_instance_uid,))
        if not rows and accession_number:
            digest = self._digest("accession", accession_number)
            rows = self.db.all("SELECT seq FROM steps WHERE accession = ?", (digest,))
        with self._lock:
            return [entry for (seq,) in rows if (entry := self._entries.get(int(seq)))]

    def wanted(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Return the steps that are `wanted`."""
        with self._lock:
            return [entry for entry in self._entries.values() if wanted(entry)]

    def query(self, query: OrdersQuery) -> Orders:
        """Return orders for people, the ones due next first. At most 1,000, whatever the limit says."""
        wanted = words(query.text)
        with self._lock:
            entries = list(self._entries.values())
        found = [
            entry
            for entry in entries
            if (not query.status or entry.order.status == query.status)
            and mentions(entry.order.patient_name, _numbers(entry.order), wanted)
        ]
        # What is still to do first; then the rest, the newest first.
        waiting = sorted((entry for entry in found if entry.order.status in OPEN), key=_due)
        done = sorted(
            (entry for entry in found if entry.order.status not in OPEN), key=lambda e: e.order.changed_ns, reverse=True
        )
        limit = max(0, min(query.limit, _MOST_ANSWERED))
        return Orders(orders=[entry.order for entry in (*waiting, *done)[:limit]])

    def counts(self) -> dict[str, int]:
        """Return the number of steps per status."""
        found: dict[str, int] = {}
        with self._lock:
            for entry in self._entries.values():
                found[entry.order.status] = found.get(entry.order.status, 0) + 1
        return found

    # ------------------------------------------------------------ within

    def _apply(self, db: sqlite3.Connection, change: Change) -> list[Row]:
        change = self._in_use(db, change)
        new = change.entry
        rows = self._known(db, new)
        if any(other_patient(old, change) for _, old in rows):
            raise OrderError("patient", "conflict", "the order number belongs to another patient")
        rows = steps_meant(new, rows)
        if not rows:
            if change.action in ("new", "update"):
                require(change)
            return [self._add(db, change)]
        changed = []
        for seq, old in rows:
            entry = self._changed(old, change)
            self._claims(db, change, entry, old)
            changed.append((seq, self._put(db, seq, entry)))
        return changed

    def _in_use(self, db: sqlite3.Connection, change: Change) -> Change:
        """Return a change of the patient who has the order now, where the number that it tells was merged."""
        new = change.entry
        told = (new.order.patient_id, new.issuer_of_patient_id)
        now = self._retired.current(db, told) if told[0] else told
        if now == told:
            return change
        order = msgspec.structs.replace(new.order, patient_id=now[0])
        entry = msgspec.structs.replace(new, order=order, issuer_of_patient_id=now[1])
        return msgspec.structs.replace(change, entry=entry, patient_ids=(*change.patient_ids, told))

    def _claims(self, db: sqlite3.Connection, change: Change, entry: Entry, old: Entry | None = None) -> None:
        """Refuse a study or an accession number that is another patient's: by them images find their order.

        A cancelled order has none: the right patient's may come under its numbers.
        """
        asked, known = msgspec.structs.replace(change, entry=entry), old.order if old else None
        study, accession = entry.order.study_instance_uid, entry.order.accession_number
        if known is None or known.study_instance_uid != study:
            of_study = db.execute("SELECT seq, sealed FROM steps WHERE study_instance_uid = ?", (study,)).fetchall()
            if any(_claims(self._opened(sealed), asked) for _, sealed in of_study):
                raise OrderError("study", "conflict", "the study instance UID belongs to another patient's order")
        if known is None or known.accession_number != accession:
            same = self._where(db, "accession", self._digest("accession", accession))
            if any(_claims(other, asked) and same_accession(other, entry) for _, other in same):
                raise OrderError("accession", "conflict", "the accession number belongs to another patient's order")

    def _known(self, db: sqlite3.Connection, new: Entry) -> list[Row]:
        if new.resource_id:
            rows = self._where(db, "resource", self._digest("resource", new.resource_id))
            if rows:
                return rows
        rows = placed_by(new, self._where(db, "number", self._digest("number", new.order.order_id)))
        if not rows and new.order.order_id == new.order.accession_number:  # the placer gave no number of its own
            rows = self._where(db, "accession", self._digest("accession", new.order.accession_number))
        return rows

    def _changed(self, old: Entry, change: Change) -> Entry:
        new, status = change.entry, old.order.status
        late = new.message_ns < old.message_ns  # it fills in what is not known yet, and replaces nothing
        entry = merged(new, old) if late else merged(old, new)
        told_time = new.order.scheduled if change.action in ("new", "update") else ""
        rescheduled = told_time not in ("", old.order.scheduled)
        stands = outdated(old, change)
        if not stands:
            status = status_after(status, change, rescheduled=rescheduled)
        told = change.action in ("new", "update") and not late
        order = msgspec.structs.replace(
            entry.order,
            order_id=old.order.order_id,
            status=status,
            received_ns=old.order.received_ns,
            # A priority is never empty: a message that only changes the status does not tell one.
            priority=new.order.priority if told else old.order.priority,
            # What is over stays due when it was.
            scheduled=old.order.scheduled if {old.order.status, status} <= _OVER else entry.order.scheduled,
        )
        entry = msgspec.structs.replace(entry, order=order, step_id=old.step_id, step_id_given=old.step_id_given)
        again = old.order.status == "discontinued" and status == "scheduled"
        if again:
            entry = msgspec.structs.replace(entry, discontinued_ns=0, reopened_ns=self._clock())
        return entry if stands or not (again or asked_status(change)) else _timed(entry, old, change)

    def _add(self, db: sqlite3.Connection, change: Change) -> Row:
        new, now = change.entry, self._clock()
        key = f"{new.order.order_id}\0{new.step_id}"
        same_number = self._where(db, "number", self._digest("number", new.order.order_id))
        short = _short(new.order.order_id)
        if any(old.placer.agrees(new.placer) is False for _, old in same_number):  # another placer's order has it
            key += f"\0{new.placer.namespace}\0{new.placer.universal_id}"
            short = ""
        digits = self._digits("step", key)
        order = msgspec.structs.replace(
            new.order,
            status=status_after(None, change),
            accession_number=new.order.accession_number or self._free(db, change, short) or f"A{digits}",
            study_instance_uid=new.order.study_instance_uid or _uid(self._digest("study", key)),
            scheduled=new.order.scheduled or _local(now),
            received_ns=now,
            changed_ns=now,
        )
        entry = msgspec.structs.replace(
            new,
            order=order,
            step_id=new.step_id or f"S{digits}",
            procedure_id=new.procedure_id or self._procedure_id(change, short, [old for _, old in same_number]),
            resource_id=new.resource_id or self._digest("id", key).hex()[:32],
            status_ns=new.message_ns,
            placed_once=order.status == "scheduled",
        )
        self._claims(db, change, entry)
        cursor = db.execute(
            "INSERT INTO steps (number, accession, patient, resource, study_instance_uid, status, changed_ns, sealed) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            self._columns(entry),
        )
        return int(cursor.lastrowid or 0), entry

    def _procedure_id(self, change: Change, short: str, known: list[Entry]) -> str:
        """Return an id for a requested procedure: the order's number for the first, another one for each other.

        It must be unique within the accession (PS3.3, C.4.11); the steps of one procedure share it.
        """
        code, placer = change.entry.procedure_code.value, change.entry.placer
        taken = {entry.procedure_id for entry in known if entry.procedure_code.value != code}
        if short and not change.procedure and short not in taken:
            return short
        parts = (change.entry.order.order_id, str(change.procedure), code, placer.namespace, placer.universal_id)
        return f"P{self._digits('procedure', chr(0).join(parts))}"

    def _digits(self, kind: str, key: str) -> str:
        return f"{int.from_bytes(self._digest(kind, key)[:8], 'big') % 10**12:012d}"

    def _free(self, db: sqlite3.Connection, change: Change, number: str) -> str:
        """Return a number if no other patient has it as an accession number, else nothing."""
        rows = self._where(db, "accession", self._digest("accession", number)) if number else []
        return "" if any(other_patient(old, change) for _, old in rows) else number

    def _of_patient(self, db: sqlite3.Connection, number: str, issuer: str) -> list[Row]:
        """Return the steps of a patient, also those that know the number from a merge."""
        rows = [
            (seq, entry)
            for seq, entry in self._where(db, "patient", self._digest("patient", number))
            if not other_authority(issuer, entry.issuer_of_patient_id)  # another patient of the same number
        ]
        with self._lock:
            merged_since = [(seq, entry) for seq, entry in self._entries.items() if entry.known_as]
        return rows + [
            (seq, entry)
            for seq, entry in merged_since
            if any(known == number and not other_authority(issuer, by) for known, by in entry.known_as)
            and all(seq != there for there, _ in rows)
        ]

    def _put(self, db: sqlite3.Connection, seq: int, entry: Entry, at_ns: int = 0) -> Entry:
        at_ns = at_ns or self._clock()
        entry = msgspec.structs.replace(entry, order=msgspec.structs.replace(entry.order, changed_ns=at_ns))
        db.execute(
            "UPDATE steps SET number = ?, accession = ?, patient = ?, resource = ?, study_instance_uid = ?, "
            "status = ?, changed_ns = ?, sealed = ? WHERE seq = ?",
            (*self._columns(entry), seq),
        )
        return entry

    def _columns(self, entry: Entry) -> tuple[Any, ...]:
        order = entry.order
        return (
            self._digest("number", order.order_id),
            self._digest("accession", order.accession_number),
            self._digest("patient", order.patient_id),
            self._digest("resource", entry.resource_id),
            order.study_instance_uid,
            order.status,
            order.changed_ns,
            self._key.seal(msgspec.msgpack.encode(entry), b"order"),
        )

    def _where(self, db: sqlite3.Connection, column: str, value: bytes) -> list[Row]:
        rows = db.execute(f"SELECT seq, sealed FROM steps WHERE {column} = ? ORDER BY seq", (value,))  # noqa: S608 - ours
        return [(int(seq), self._opened(sealed)) for seq, sealed in rows.fetchall()]

    def _opened(self, sealed: bytes) -> Entry:
        entry: Entry = _entry.decode(self._key.open(sealed, b"order"))
        return entry

    def _digest(self, kind: str, value: str) -> bytes:
        return self._key.pseudonym(f"order:{kind}:{value}".encode())

    def _last(self, entry: Entry) -> int:
        try:
            due = dt.datetime.strptime(entry.order.scheduled[:14].ljust(14, "0"), "%Y%m%d%H%M%S").astimezone()
            scheduled = int(due.timestamp() * 1e9)
        except (ValueError, OverflowError, OSError):
            scheduled = 0
        return max(entry.order.changed_ns, min(scheduled, entry.order.changed_ns + 3650 * _DAY_NS))


def _timed(entry: Entry, old: Entry, change: Change) -> Entry:
    """Return a step with the time of the message that told its status."""
    at, known = change.entry.message_ns, old.status_ns or old.message_ns
    again = at > known or asked_status(change) != "scheduled"  # not the same order once more
    # One that came before the order by its own clock holds all the same: newer than that order, should it come again.
    return msgspec.structs.replace(
        entry, status_ns=at if at >= known else known + 1, placed_once=old.placed_once and not again
    )


def _due(entry: Entry) -> tuple[str, int]:
    return entry.order.scheduled, entry.order.received_ns


def _numbers(order: Order) -> tuple[str, ...]:
    return order.patient_id, order.accession_number, order.procedure, order.order_id


def _short(number: str) -> str:
    """Return a number if it fits SH (PS3.5, 6.2: 16 characters), else nothing."""
    return number if len(number) <= 16 else ""


def _local(now_ns: int) -> str:
    return dt.datetime.fromtimestamp(now_ns / 1e9).astimezone().strftime("%Y%m%d%H%M%S")


def _uid(digest: bytes) -> str:
    """Return a UID under 2.25 (PS3.5, B.2): the same for the same order, so that an update does not change it."""
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF << 76) & ~(0x3 << 62) | (4 << 76) | (2 << 62)  # a random UUID's version and variant
    return f"2.25.{number}"


def _claims(other: Entry, asked: Change) -> bool:
    return other.order.status != "cancelled" and other_patient(other, asked)
