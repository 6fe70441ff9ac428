"""The delivery ledger: what is owed to which destination, kept through crashes.

Responsible for one row per item, revision and destination (pending, sent, confirmed or dead with a reason), for the
order in which they may be sent, for the request itself until nobody needs it any more, and for what the gateway has not
acknowledged yet. Not responsible for sending.

The order: at one destination, results of one study are sent one after the other as they were accepted, revisions of an
item among them. One that waits for its next try holds up its own study and no other; one that was given up holds up
nothing.

The request names an object's data key. It lies here sealed under the site key, and is overwritten as soon as every
destination has the result and the gateway knows: a key that the vault forgets must not live on elsewhere. That is why
`deliver` holds the site key; it uses it for this only. A dead letter keeps its request, so that it can be sent again,
until it is, its object is erased, or its time is over (`forget`).
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from edgeward.clinic.imaging.ledger_schema import NewerLedger, prepare
from edgeward.messages import DeliverRequest, DeliveryReport, MessageError, StageTime, decode, decoder, encode
from edgeward.privacy.keys import SiteKey, WrongKey

_log = logging.getLogger("edgeward.deliver.ledger")

_OWED = "state IN ('pending', 'sent')"
_ARRIVED = "reason = ?, uids = ?, stored_ns = ?, stages = ?, changed_ns = ?"
_SETTLED = "state IN ('confirmed', 'dead')"
NOWHERE = "none"
"""Destination of an item when none is configured: the item still comes to a visible end."""

SUPERSEDED = "not sent: a later revision of it is there"
_RECENT = 32  # requests kept at hand
_uids = decoder(list[str])
_stages = decoder(list[StageTime])


class LedgerError(RuntimeError):
    """The ledger cannot be read or written (a full disk, a damaged file). Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Owed:
    """One revision of one item that one destination does not have yet.

    `attempts` counts tries; `faults` those for which this item itself was to blame. `uids` are those of its objects
    that the destination has confirmed already. `superseded`: the destination has a later revision of it.
    """

    seq: int
    item_id: str
    revision: int
    destination: str
    accepted_ns: int
    attempts: int = 0
    faults: int = 0
    uids: tuple[str, ...] = ()
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one destination's rows."""

    waiting: int = 0
    confirmed: int = 0
    dead: int = 0
    oldest_ns: int = 0
    stored_ns: int = 0


class Ledger:
    """The ledger in a SQLite file (WAL; what must survive a power cut has reached the disk when a method returns).

    Thread-safe; every method blocks for the disk. Methods raise `LedgerError` if the disk fails.
    """

    def __init__(self, path: Path, key: SiteKey) -> None:
        self._key = key
        self._lock = threading.Lock()
        with _explained():
            path.touch(mode=0o600)
            path.chmod(0o600)  # as the site's other databases; SQLite gives its other files the same mode
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA secure_delete=ON")  # a request that is done with is overwritten, not only unlinked
            prepare(self._db)
            self._reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._reader.execute("PRAGMA query_only=1")
        self._read_lock = threading.Lock()
        self._recent: OrderedDict[tuple[str, int], DeliverRequest] = OrderedDict()

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._read_lock:
            self._reader.close()
            self._db.close()

    # ------------------------------------ what is owed

    def accept(self, request: DeliverRequest, destinations: Sequence[str], now_ns: int) -> bool:
        """Take over one revision of an item durably. Return whether it is new.

        A revision known already is not owed twice. What of it is settled is told to the gateway again: it asks because
        it did not hear.
        """
        revision = request.revision
        sealed = self._key.seal(encode(request), _context(request.item_id, revision))
        with self._write() as db:
            query = "SELECT seq, revision, study FROM item WHERE item_id = ?"
            known = {row[1]: row for row in db.execute(query, (request.item_id,))}
            if revision in known:
                seq = known[revision][0]
                db.execute(f"UPDATE delivery SET reported = 0 WHERE seq = ? AND {_SETTLED}", (seq,))  # noqa: S608
                return False
            # Whatever the first revision was filed under keeps the later ones behind it.
            study = known[min(known)][2] if known else request.study_instance_uid or request.item_id
            seq = db.execute(
                "INSERT INTO item (item_id, revision, study, accepted_ns, request) VALUES (?, ?, ?, ?, ?)",
                (request.item_id, revision, study, now_ns, sealed),
            ).lastrowid
            state, reason = "pending", ""
            if not destinations:
                destinations, state = [NOWHERE], "dead"
                reason = "no destination is configured; add [[pacs]], [[fhir]] or [[hl7]] to the settings"
            db.executemany(
                """INSERT INTO delivery (seq, destination, study, deadline_ns, state, reason, changed_ns)
                   VALUES (?, ?, ?, ?, ?, ?, ?)""",
                [(seq, name, study, request.deadline_ns, state, reason, now_ns) for name in destinations],
            )
            if revision:  # a verdict: it must not wait for the results that wait because nobody was there to take them
                db.execute(f"UPDATE delivery SET awaited = 1 WHERE study = ? AND {_OWED}", (study,))  # noqa: S608
        self._remember(request)
        return True

    def due(self, destination: str, now_ns: int, *, fresh: bool = False, after: int = 0) -> Owed | None:
        """Return what may be sent now: the oldest result whose study has nothing older owed.

        Parameters
        ----------
        fresh
            Rather one of a study that a person has judged; else the one whose deadline comes next, if any deadline is
            still ahead; else the oldest.
        after
            The sequence number of a result that is being sent, to be taken as settled.
        """
        row = None
        if fresh:
            row = self._first(destination, now_ns, after, ("owed_and_awaited", "awaited = 1", "delivery.seq"))
            row = row or self._first(
                destination, now_ns, after, ("owed_by_deadline", f"deadline_ns > {int(now_ns)}", "deadline_ns")
            )
        row = row or self._first(destination, now_ns, after, ("owed", "TRUE", "delivery.seq"))
        if row is None:
            return None
        seq, item_id, revision, name, accepted_ns, attempts, faults, uids, superseded = row
        held = tuple(_uids.decode(uids))
        return Owed(seq, item_id, revision, name, accepted_ns, attempts, faults, held, bool(superseded))

    def _first(self, destination: str, now_ns: int, after: int, choice: tuple[str, str, str]) -> tuple[Any, ...] | None:
        index, condition, order = choice
        return self._one(
            f"""SELECT seq, item_id, revision, destination, accepted_ns, attempts, faults, uids,
                       EXISTS (SELECT 1 FROM item AS later JOIN delivery AS d USING (seq)
                               WHERE later.item_id = item.item_id AND later.revision > item.revision
                               AND d.destination = delivery.destination AND d.state = 'confirmed')
                FROM delivery INDEXED BY {index} JOIN item USING (seq)
                WHERE destination = ? AND {_OWED} AND next_try_ns <= ? AND seq <> ? AND {condition}
                AND NOT EXISTS (SELECT 1 FROM delivery AS older WHERE older.destination = delivery.destination
                                AND older.study = delivery.study AND older.seq < delivery.seq
                                AND older.seq <> ? AND older.{_OWED})
                ORDER BY {order} LIMIT 1""",  # noqa: S608 - our own text
            destination,
            now_ns,
            after,
            after,
        )

    def next_due_ns(self, destination: str) -> int | None:
        """Return when the next result may be tried, or None if nothing is owed."""
        row = self._one(
            f"SELECT MIN(next_try_ns) FROM delivery WHERE destination = ? AND {_OWED}",  # noqa: S608
            destination,
        )
        return None if row is None or row[0] is None else int(row[0])

    def request(self, item_id: str, revision: int = 0) -> DeliverRequest | None:
        """Return the request, or None if it is unknown, not needed any more, or damaged beyond reading."""
        with self._read_lock:
            recent = self._recent.get((item_id, revision))
        if recent is not None:
            return recent
        row = self._one("SELECT request FROM item WHERE item_id = ? AND revision = ?", item_id, revision)
        if row is None or row[0] is None:
            return None
        return self._opened(item_id, revision, row[0])

    def _remember(self, request: DeliverRequest) -> None:
        """Keep what just came: it is asked for at once, by every destination."""
        with self._read_lock:
            self._recent[request.item_id, request.revision] = request
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)

    def _disremember(self, item_id: str, revision: int) -> None:
        with self._read_lock:
            self._recent.pop((item_id, revision), None)

    # ------------------------------------ what happened

    def begun(self, owed: Owed) -> None:
        """Note that an attempt starts: from here on the destination may have the objects."""
        self._update(owed, "state = 'sent', attempts = attempts + 1", durable=False)

    def postponed(
        self, owed: Owed, reason: str, next_try_ns: int, faults: int, uids: Sequence[str] | None = None
    ) -> None:
        """Note a failed attempt that will be repeated; `uids` are the objects that did arrive."""
        self._update(
            owed,
            "state = 'pending', reason = ?, next_try_ns = ?, faults = ?, uids = ?",
            reason,
            next_try_ns,
            faults,
            _pack(owed.uids if uids is None else uids),
            durable=False,
        )

    def confirmed(
        self,
        owed: Owed,
        uids: Sequence[str],
        stored_ns: int,
        stages: Sequence[StageTime],
        note: str = "",
        *,
        supersedes_from: int | None = None,
    ) -> None:
        """Note that the destination has everything; the gateway is to be told.

        Earlier revisions of the item that were given up for this destination, from `supersedes_from` on if that is
        given, are settled with it: nobody needs to send them again.
        """
        with self._write() as db:
            self._set(db, owed, f"state = 'confirmed', {_ARRIVED}", *_arrived(uids, stored_ns, stages, note))
            if supersedes_from is not None:
                db.execute(
                    """UPDATE delivery SET state = 'confirmed', reason = ?, stored_ns = ?, changed_ns = ?, reported = 0
                       WHERE destination = ? AND state = 'dead' AND seq IN
                       (SELECT seq FROM item WHERE item_id = ? AND revision >= ? AND revision < ?)""",
                    (SUPERSEDED, stored_ns, stored_ns, owed.destination, owed.item_id, supersedes_from, owed.revision),
                )

    def partly(self, owed: Owed, uids: Sequence[str], stored_ns: int, stages: Sequence[StageTime], reason: str) -> None:
        """Note that the destination has the report but not the kinds of object it does not accept, named in `reason`.

        To the gateway the item is delivered. Here it is a dead letter: it can be sent again, and then without `uids`,
        which have arrived. What tells it from other dead letters is its `stored_ns`.
        """
        self._update(owed, f"state = 'dead', {_ARRIVED}", *_arrived(uids, stored_ns, stages, reason))

    def dead(self, owed: Owed, reason: str, faults: int, now_ns: int) -> None:
        """Note that it was given up; the gateway is to be told."""
        self._update(owed, "state = 'dead', reason = ?, faults = ?, changed_ns = ?", reason, faults, now_ns)

    def hurry(self, destination: str) -> None:
        """Make everything that waits for a destination due: it is back."""
        with self._write(durable=False) as db:
            db.execute(
                f"UPDATE delivery SET next_try_ns = 0 WHERE destination = ? AND {_OWED} "  # noqa: S608
                "AND faults = 0 AND next_try_ns > 0",
                (destination,),
            )

    def resend(self, destinations: Sequence[str], now_ns: int, *, item_id: str = "", destination: str = "") -> int:
        """Put dead letters back into their queues, as if they had never been tried. Return how many.

        Those of `destinations` only (the configured ones) whose request is still here; narrowed to one item or one
        destination if given. Each goes back to its old place in its study.
        """
        marks = ", ".join("?" * len(destinations))
        with self._write() as db:
            return db.execute(
                f"""UPDATE delivery SET state = 'pending', faults = 0, next_try_ns = 0, reported = 0, changed_ns = ?
                    WHERE state = 'dead' AND destination IN ({marks}) AND (? = '' OR destination = ?)
                    AND seq IN (SELECT seq FROM item WHERE request IS NOT NULL AND (? = '' OR item_id = ?))""",  # noqa: S608
                (now_ns, *destinations, destination, destination, item_id, item_id),
            ).rowcount

    def bury_unknown(self, destinations: Sequence[str], now_ns: int) -> int:
        """Give up what is owed to destinations that are no longer in the settings. Return how many rows."""
        marks = ", ".join("?" * len(destinations))
        with self._write() as db:
            return db.execute(
                f"""UPDATE delivery SET state = 'dead', reason = 'the destination is no longer in the settings',
                    changed_ns = ? WHERE {_OWED} AND destination NOT IN ({marks})""",  # noqa: S608
                (now_ns, *destinations),
            ).rowcount

    # ------------------------------------ what the gateway must hear

    def untold(self, limit: int = 1000) -> list[DeliveryReport]:
        """Return settled rows that the gateway has not acknowledged, oldest first."""
        return self._reports(f"{_SETTLED} AND reported = 0 ORDER BY delivery.seq LIMIT ?", limit)

    def told(self, report: DeliveryReport) -> None:
        """Note the gateway's acknowledgement; forget the request with its data key once every destination has it.

        A row that has changed since (somebody had it sent again) is still to be told.
        """
        with self._write(durable=False) as db:
            query = "SELECT seq FROM item WHERE item_id = ? AND revision = ?"
            row = db.execute(query, (report.item_id, report.revision)).fetchone()
            if row is None:
                return
            db.execute(
                f"UPDATE delivery SET reported = 1 WHERE seq = ? AND destination = ? AND changed_ns = ? AND {_SETTLED}",  # noqa: S608
                (row[0], report.destination, report.at_ns),
            )
            db.execute(
                """UPDATE item SET request = NULL WHERE seq = ? AND NOT EXISTS
                   (SELECT 1 FROM delivery WHERE seq = item.seq AND (reported = 0 OR state <> 'confirmed'))""",
                row,
            )
        self._disremember(report.item_id, report.revision)  # it is read again if another destination still needs it

    def forget(self, before_ns: int, is_there: Callable[[str], bool] | None = None) -> int:
        """Overwrite the requests of dead letters that were given up before `before_ns`, or whose object is gone.

        Nothing else of them is lost: they stay visible with their reason, and cannot be sent again. An item that is
        still owed to some destination, or that the gateway has not heard of, keeps its request.

        Parameters
        ----------
        is_there
            Whether the vault still has the object at this path. The data key must not outlive it.

        Returns
        -------
        int
            How many requests were overwritten.
        """
        rows = self._all(
            """SELECT seq, item_id, revision, request,
                      (SELECT MAX(changed_ns) FROM delivery WHERE seq = item.seq AND state = 'dead')
               FROM item WHERE request IS NOT NULL AND seq IN (SELECT seq FROM delivery WHERE state = 'dead')
               AND NOT EXISTS (SELECT 1 FROM delivery WHERE seq = item.seq
                               AND (state IN ('pending', 'sent') OR reported = 0))"""
        )
        done = []
        for seq, item_id, revision, sealed, dead_ns in rows:
            request = self._opened(item_id, revision, sealed)
            if dead_ns < before_ns or request is None or (is_there is not None and not is_there(request.object.path)):
                done.append((seq,))
                self._disremember(item_id, revision)
        with self._write() as db:
            db.executemany("UPDATE item SET request = NULL WHERE seq = ?", done)
        return len(done)

    def prune(self, before_ns: int) -> int:
        """Forget items accepted before `before_ns` of which nothing is open or changed since. Return how many."""
        query = """SELECT seq FROM item WHERE accepted_ns < ? AND NOT EXISTS
            (SELECT 1 FROM delivery WHERE seq = item.seq
             AND (state IN ('pending', 'sent') OR reported = 0 OR changed_ns >= ?))"""
        with self._write() as db:
            old = db.execute(query, (before_ns, before_ns)).fetchall()
            db.executemany("DELETE FROM delivery WHERE seq = ?", old)
            db.executemany("DELETE FROM item WHERE seq = ?", old)
        return len(old)

    # ------------------------------------ reports

    def keep_report(self, item_id: str, text: str, revision: int = 0) -> None:
        """Keep the SR as text, sealed."""
        sealed = self._key.seal(text.encode(), _context(item_id, revision))
        with self._write(durable=False) as db:
            db.execute("UPDATE item SET report = ? WHERE item_id = ? AND revision = ?", (sealed, item_id, revision))

    def report(self, item_id: str, revision: int | None = None) -> str | None:
        """Return the SR of a revision (the latest, unless given) as text, if it was written already."""
        if revision is None:
            revision = self.latest(item_id)
        row = self._one("SELECT report FROM item WHERE item_id = ? AND revision = ?", item_id, revision)
        if row is None or row[0] is None:
            return None
        return self._key.open(row[0], _context(item_id, revision)).decode()

    def latest(self, item_id: str) -> int:
        """Return the latest revision of an item that was accepted; 0 if it is unknown."""
        row = self._one("SELECT MAX(revision) FROM item WHERE item_id = ?", item_id)
        return int(row[0] or 0) if row else 0

    def tally(self) -> dict[str, Tally]:
        """Return counts per destination."""
        rows = self._all(
            f"""SELECT destination, SUM({_OWED}), SUM(state = 'confirmed'), SUM(state = 'dead'),
                       COALESCE(MIN(CASE WHEN {_OWED} THEN accepted_ns END), 0), MAX(stored_ns)
                FROM delivery JOIN item USING (seq) GROUP BY destination"""  # noqa: S608
        )
        return {name: Tally(*counts) for name, *counts in rows}

    def dead_letters(self, limit: int = 50) -> list[DeliveryReport]:
        """Return what was given up, newest first; after it what arrived in part (`partly`).

        Of that there may be one for every image, of a destination that takes no presentation states: it hides nothing.
        """
        letters = self._reports("state = 'dead' AND stored_ns = 0 ORDER BY delivery.seq DESC LIMIT ?", limit)
        if len(letters) < limit:
            rest = limit - len(letters)
            letters += self._reports("state = 'dead' AND stored_ns > 0 ORDER BY delivery.seq DESC LIMIT ?", rest)
        return [replace(letter, state="failed") for letter in letters]

    # ------------------------------------ within

    def _reports(self, condition: str, limit: int) -> list[DeliveryReport]:
        rows = self._all(
            f"""SELECT item_id, revision, destination, state, reason, uids, stored_ns, attempts, stages, changed_ns
                FROM delivery JOIN item USING (seq) WHERE {condition}""",  # noqa: S608
            limit,
        )
        return [
            DeliveryReport(
                item_id=item_id,
                revision=revision,
                destination=destination,
                state="delivered" if state == "confirmed" or stored_ns else "failed",  # see `partly`
                reason=reason,
                sop_instance_uids=_uids.decode(uids),
                stored_ns=stored_ns,
                attempts=attempts,
                stages=_stages.decode(stages),
                at_ns=changed_ns,
            )
            for item_id, revision, destination, state, reason, uids, stored_ns, attempts, stages, changed_ns in rows
        ]

    def _opened(self, item_id: str, revision: int, sealed: bytes) -> DeliverRequest | None:
        try:
            return decode(DeliverRequest, self._key.open(sealed, _context(item_id, revision)))
        except (WrongKey, MessageError) as error:
            _log.error("a request in the ledger cannot be read: %s", error)
            return None

    def _update(self, owed: Owed, assignment: str, *values: object, durable: bool = True) -> None:
        with self._write(durable=durable) as db:
            self._set(db, owed, assignment, *values)

    def _set(self, db: sqlite3.Connection, owed: Owed, assignment: str, *values: object) -> None:
        db.execute(
            f"UPDATE delivery SET {assignment} WHERE destination = ? AND seq = ?",  # noqa: S608 - our own text
            (*values, owed.destination, owed.seq),
        )

    @contextlib.contextmanager
    def _write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Run a transaction. One that is not `durable` survives a crash of this program and not a power cut.

        That is enough wherever the loss means no more than sending or telling the same thing again.
        """
        with self._lock, _explained():
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        rows = self._all(query, *values)
        return rows[0] if rows else None

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._read_lock, _explained():  # not held up by a commit that waits for the disk
            return self._reader.execute(query, values).fetchall()


def _arrived(uids: Sequence[str], stored_ns: int, stages: Sequence[StageTime], reason: str) -> tuple[object, ...]:
    """Return the values of `_ARRIVED`."""
    return reason, _pack(uids), stored_ns, _pack(stages), stored_ns


def _pack(value: Sequence[Any]) -> bytes:
    return msgspec.msgpack.encode(list(value))


def _context(item_id: str, revision: int) -> bytes:
    return f"deliver:{item_id}:{revision}".encode() if revision else b"deliver:" + item_id.encode()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, NewerLedger, OSError) as error:
        raise LedgerError(f"the delivery ledger cannot be used: {error}") from error
