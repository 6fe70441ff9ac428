"""The journal: one row per admitted item, from admission to its one visible end. It owns the work.

Responsible for durability (a commit has reached the disk when a method returns), for the states an item may be in, and
for the queries that drive and show the work. Not responsible for doing any of it (``gateway.dispatch``), nor for the
objects themselves (``privacy.vault``).

States: admitted → dispatched → analysed (finding kept) → closed, or failed with a reason. Between analysed and closed
an item is handed over to `deliver`, and every expected destination reports delivered or failed. UIDs are kept in clear;
identity (name, patient id, description, dates) and free text are sealed with the site key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeward.messages import (
    DeliveryReport,
    Finding,
    ItemsQuery,
    ItemSummary,
    Quarantined,
    Verdict,
    decode,
    encode,
)
from edgeward.privacy.database import Database
from edgeward.privacy.items import (
    APPLICATION_ID,
    COLUMNS,
    CONFLICT,
    MIGRATIONS,
    NO_DESTINATION,
    STATES,
    Identity,
    Item,
    NewItem,
    item_of,
)
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import StoredObject

QUARANTINE_ROWS = 1000


class Journal:
    """The journal of one gateway, in one SQLite file. Thread-safe; one writer at a time.

    Parameters
    ----------
    path
        The database; made if missing.
    site_key
        Seals identity.

    Raises
    ------
    DatabaseError
        If the file is not a journal, is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path, site_key: SiteKey) -> None:
        self._site_key = site_key
        self._db = Database(path, name="journal", application_id=APPLICATION_ID, migrations=MIGRATIONS)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # ------------------------------------------------------------ admission

    def find(self, sop_instance_uid: str, digest: bytes) -> str:
        """Return the item that holds this instance with this content, or an empty string."""
        query = "SELECT item_id FROM items WHERE sop_instance_uid = ? AND digest = ?"
        row = self._db.one(query, (sop_instance_uid, digest))
        return str(row[0]) if row else ""

    def admit(self, new: NewItem) -> tuple[Item, bool]:
        """Admit an item; durable on return.

        The same instance with the same content is one item: then nothing is written, and the caller should erase the
        object it stored in vain. The same UID with other content is kept too, but failed with the reason `CONFLICT`.

        Returns
        -------
        tuple
            The item (the earlier one, if there was one) and whether it is new.

        Raises
        ------
        DatabaseFull
            If the disk is full.
        """
        sealed = self._site_key.seal(msgspec.msgpack.encode(new.identity), _bound("identity", new.item_id))

        def work(db: sqlite3.Connection) -> tuple[str, bool]:
            same = db.execute(
                "SELECT item_id, digest FROM items WHERE sop_instance_uid = ? ORDER BY seq", (new.sop_instance_uid,)
            ).fetchall()
            for item_id, digest in same:
                if digest == new.digest:
                    return str(item_id), False
            state, reason = ("failed", CONFLICT) if same else ("admitted", "")
            db.execute(
                "INSERT INTO items (item_id, state, reason, received_ns, deadline_ns, stored_ns, device, modality, "
                "sop_class_uid, sop_instance_uid, study_instance_uid, transfer_syntax_uid, digest, object_id, "
                "wrapped_key, size, identity) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    new.item_id,
                    state,
                    reason,
                    new.received_ns,
                    new.deadline_ns,
                    new.stored_ns,
                    new.device,
                    new.modality,
                    new.sop_class_uid,
                    new.sop_instance_uid,
                    new.study_instance_uid,
                    new.transfer_syntax_uid,
                    new.digest,
                    new.stored.object_id,
                    new.stored.wrapped_key,
                    new.stored.size,
                    sealed,
                ),
            )
            return new.item_id, True

        item_id, is_new = self._db.write(work)
        return self.item(item_id), is_new

    def knows_object(self, object_id: str) -> bool:
        """Whether a vault object belongs to an item: its image or its preview."""
        query = "SELECT 1 FROM items WHERE object_id = ?1 OR preview_id = ?1"
        return self._db.one(query, (object_id,)) is not None

    # ------------------------------------------------------------ progress

    def dispatched(self, item_id: str, now_ns: int) -> Item:
        """Note that an engine is being asked."""
        return self._update(
            "UPDATE items SET state = 'dispatched', asked_ns = ?, attempts = attempts + 1 "
            "WHERE item_id = ? AND state IN ('admitted', 'dispatched')",
            (now_ns, item_id),
        )

    def crashed(self, item_id: str) -> Item:
        """Note that an engine died while it was analysing this item."""
        return self._update("UPDATE items SET crashes = crashes + 1 WHERE item_id = ?", (item_id,))

    def analysed(self, item_id: str, finding: Finding, preview: StoredObject | None, scale: float, now_ns: int) -> Item:
        """Keep the finding. The first one counts: a second answer to a repeated request changes nothing."""
        held = (preview.object_id, preview.wrapped_key, preview.size, scale) if preview else (None, None, 0, 0.0)
        return self._update(
            "UPDATE items SET state = 'analysed', finding = ?, analysed_ns = ?, preview_id = ?, preview_key = ?, "
            "preview_size = ?, preview_scale = ? WHERE item_id = ? AND state IN ('admitted', 'dispatched')",
            (encode(finding), now_ns, *held, item_id),
        )

    def failed(self, item_id: str, reason: str) -> Item:
        """End an open item with a reason."""
        return self._update(
            "UPDATE items SET state = 'failed', reason = ? WHERE item_id = ? AND state NOT IN ('closed', 'failed')",
            (reason, item_id),
        )

    def handed(self, item_id: str, destinations: Sequence[str], now_ns: int) -> Item:
        """Note that `deliver` holds the finding durably, for these destinations. With none, the item is closed."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE items SET handed_ns = ? WHERE item_id = ? AND state = 'analysed' AND handed_ns = 0",
                (now_ns, item_id),
            )
            db.executemany(
                "INSERT INTO deliveries (item_id, destination, expected) VALUES (?, ?, 1) "
                "ON CONFLICT (item_id, destination) DO UPDATE SET expected = 1",
                [(item_id, name) for name in destinations],
            )
            self._settle(db, item_id)

        self._db.write(work)
        return self.item(item_id)

    def delivery(self, report: DeliveryReport) -> Item | None:
        """Keep what one destination reported; close or fail the item when all expected ones have reported.

        Returns None if there is no such item. A report that arrives twice changes nothing. A delivery that failed and
        succeeds later (somebody pressed re-send) turns the item from failed to closed.
        """

        def work(db: sqlite3.Connection) -> bool:
            if not db.execute("SELECT 1 FROM items WHERE item_id = ?", (report.item_id,)).fetchone():
                return False
            row = db.execute(
                "SELECT report FROM deliveries WHERE item_id = ? AND destination = ?",
                (report.item_id, report.destination),
            ).fetchone()
            if row and row[0] and decode(DeliveryReport, row[0]).state == "delivered":
                return True  # delivered stays delivered
            db.execute(
                "INSERT INTO deliveries (item_id, destination, report) VALUES (?, ?, ?) "
                "ON CONFLICT (item_id, destination) DO UPDATE SET report = excluded.report",
                (report.item_id, report.destination, encode(report)),
            )
            self._settle(db, report.item_id)
            return True

        return self.item(report.item_id) if self._db.write(work) else None

    def late(self, item_id: str) -> bool:
        """Mark an item late; return whether it was not marked before."""
        statement = "UPDATE items SET late = 1 WHERE item_id = ? AND late = 0"
        return self._db.write(lambda db: db.execute(statement, (item_id,)).rowcount) == 1

    def _settle(self, db: sqlite3.Connection, item_id: str) -> None:
        state, handed_ns = db.execute("SELECT state, handed_ns FROM items WHERE item_id = ?", (item_id,)).fetchone()
        if state in ("admitted", "dispatched") or not handed_ns:
            return
        rows = db.execute(
            "SELECT destination, report FROM deliveries WHERE item_id = ? AND expected = 1", (item_id,)
        ).fetchall()
        reports = [decode(DeliveryReport, blob) for _, blob in rows if blob]
        if len(reports) < len(rows):
            return
        bad = [report for report in reports if report.state == "failed"]
        delivered_ns = 0 if bad else max((report.stored_ns for report in reports), default=0)
        reason = "" if rows else NO_DESTINATION
        if bad:
            reason = "; ".join(f"not delivered to {report.destination}: {report.reason}" for report in bad)
        db.execute(
            "UPDATE items SET state = ?, reason = ?, delivered_ns = ? WHERE item_id = ?",
            ("failed" if bad else "closed", reason, delivered_ns, item_id),
        )

    # ------------------------------------------------------------ verdicts

    def verdict(self, verdict: Verdict) -> bool:
        """Keep a clinician's verdict (durable on return); return False if the item or its finding does not exist.

        The same verdict id twice is one verdict.
        """
        sealed = self._site_key.seal(encode(verdict), _bound("verdict", verdict.verdict_id))

        def work(db: sqlite3.Connection) -> bool:
            row = db.execute("SELECT finding FROM items WHERE item_id = ?", (verdict.item_id,)).fetchone()
            if not row or not row[0] or decode(Finding, row[0]).finding_id != verdict.finding_id:
                return False
            db.execute(
                "INSERT OR IGNORE INTO verdicts (verdict_id, item_id, verdict) VALUES (?, ?, ?)",
                (verdict.verdict_id, verdict.item_id, sealed),
            )
            return True

        return self._db.write(work)

    # ------------------------------------------------------------ queries

    def item(self, item_id: str) -> Item:
        """Return one row.

        Raises
        ------
        KeyError
            If there is none.
        """
        row = self._db.one(f"SELECT {COLUMNS} FROM items WHERE item_id = ?", (item_id,))  # noqa: S608 - our own constant
        if row is None:
            raise KeyError(item_id)
        return item_of(row)

    def open_items(self) -> list[tuple[str, str, bool]]:
        """Return (item, state, handed over) of all items that have not reached their end, oldest first."""
        rows = self._db.all(
            "SELECT item_id, state, handed_ns FROM items "
            "WHERE state IN ('admitted', 'dispatched', 'analysed') ORDER BY seq"
        )
        return [(str(item_id), str(state), bool(handed)) for item_id, state, handed in rows]

    def overdue(self, now_ns: int) -> list[tuple[str, str, bool]]:
        """Return (item, state, handed over) of open items past their deadline that are not marked late yet."""
        rows = self._db.all(
            "SELECT item_id, state, handed_ns FROM items WHERE state IN ('admitted', 'dispatched', 'analysed') "
            "AND late = 0 AND deadline_ns < ? ORDER BY seq LIMIT 1000",
            (now_ns,),
        )
        return [(str(item_id), str(state), bool(handed)) for item_id, state, handed in rows]

    def unreported(self, handed_before_ns: int) -> list[str]:
        """Return items handed over before that time whose delivery has not been reported in full."""
        rows = self._db.all(
            "SELECT item_id FROM items WHERE state = 'analysed' AND handed_ns > 0 AND handed_ns < ? "
            "ORDER BY seq LIMIT 1000",
            (handed_before_ns,),
        )
        return [str(row[0]) for row in rows]

    def touch(self, item_id: str, now_ns: int) -> None:
        """Note that an item was handed over again just now."""
        self._db.write(lambda db: db.execute("UPDATE items SET handed_ns = ? WHERE item_id = ?", (now_ns, item_id)))

    def counts(self) -> dict[str, int]:
        """Return the number of rows per state; every state is there."""
        rows = self._db.all("SELECT state, count(*) FROM items GROUP BY state")
        return dict.fromkeys(STATES, 0) | {str(state): int(count) for state, count in rows}

    def summary(self, item_id: str, now_ns: int) -> ItemSummary | None:
        """Return one row of the worklist, identity included, or None."""
        found = self.summaries(ItemsQuery(item_id=item_id, limit=1), now_ns)
        return found[0] if found else None

    def summaries(self, query: ItemsQuery, now_ns: int) -> list[ItemSummary]:
        """Return rows of the worklist, newest first, identity included.

        Parameters
        ----------
        query
            At most 500 rows are returned, whatever its limit says.
        now_ns
            An open item past its deadline is shown late.
        """
        where, values = ["1 = 1"], list[Any]()
        for given, condition in (
            (query.item_id, "item_id = ?"),
            (query.before_ns, "received_ns < ?"),
            (query.state, "state = ?"),
        ):
            if given:
                where.append(condition)
                values.append(given)
        rows = self._db.all(
            "SELECT item_id, state, reason, received_ns, deadline_ns, analysed_ns, delivered_ns, late, device, "  # noqa: S608
            f"modality, sop_instance_uid, study_instance_uid, identity, finding FROM items WHERE {' AND '.join(where)} "
            "ORDER BY received_ns DESC, seq DESC LIMIT ?",
            (*values, max(0, min(query.limit, 500))),
        )
        return [self._summary(row, now_ns) for row in rows]

    def preview(self, item_id: str) -> tuple[str, bytes, int, float] | None:
        """Return object id, wrapped key, size and scale of an item's preview, or None."""
        row = self._db.one(
            "SELECT preview_id, preview_key, preview_size, preview_scale FROM items WHERE item_id = ?", (item_id,)
        )
        return (str(row[0]), bytes(row[1]), int(row[2]), float(row[3])) if row and row[0] and row[1] else None

    # ------------------------------------------------------------ quarantine

    def quarantine(self, entries: Iterable[Quarantined]) -> None:
        """Keep entries: a row per place, peer and reason, counted up; beyond `QUARANTINE_ROWS` the oldest give way."""

        def work(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO quarantine (at_place, peer, reason, what_to_do, count, at_ns) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (at_place, peer, reason) DO UPDATE SET count = count + excluded.count, "
                "at_ns = max(at_ns, excluded.at_ns), what_to_do = excluded.what_to_do",
                [(e.where, e.peer, e.reason, e.what_to_do, e.count, e.at_ns) for e in entries],
            )
            db.execute(
                "DELETE FROM quarantine WHERE rowid NOT IN (SELECT rowid FROM quarantine ORDER BY at_ns DESC LIMIT ?)",
                (QUARANTINE_ROWS,),
            )

        self._db.write(work)

    def quarantined(self, limit: int = 200) -> list[Quarantined]:
        """Return quarantine entries, newest first."""
        rows = self._db.all(
            "SELECT at_ns, at_place, peer, reason, what_to_do, count FROM quarantine ORDER BY at_ns DESC LIMIT ?",
            (limit,),
        )
        names = ("at_ns", "where", "peer", "reason", "what_to_do", "count")
        return [Quarantined(**dict(zip(names, row, strict=True))) for row in rows]

    def _update(self, statement: str, values: tuple[Any, ...]) -> Item:
        def work(db: sqlite3.Connection) -> None:
            db.execute(statement, values)

        self._db.write(work)
        return self.item(str(values[-1]))

    def _summary(self, row: tuple[Any, ...], now_ns: int) -> ItemSummary:
        (item_id, state, reason, received, deadline, analysed, delivered, late, device, modality, sop, study) = row[:12]
        identity = msgspec.msgpack.decode(self._site_key.open(row[12], _bound("identity", item_id)), type=Identity)
        verdicts = self._db.all("SELECT verdict_id, verdict FROM verdicts WHERE item_id = ? ORDER BY seq", (item_id,))
        deliveries = self._db.all(
            "SELECT report FROM deliveries WHERE item_id = ? AND report IS NOT NULL ORDER BY destination", (item_id,)
        )
        return ItemSummary(
            item_id=item_id,
            state=state,
            reason=reason,
            received_ns=received,
            analysed_ns=analysed,
            delivered_ns=delivered,
            late=bool(late) or (state not in ("closed", "failed") and now_ns > deadline),
            device=device,
            patient_name=identity.patient_name,
            patient_id=identity.patient_id,
            study_description=identity.study_description,
            modality=modality,
            sop_instance_uid=sop,
            study_instance_uid=study,
            finding=decode(Finding, row[13]) if row[13] else None,
            verdicts=[decode(Verdict, self._site_key.open(blob, _bound("verdict", name))) for name, blob in verdicts],
            deliveries=[decode(DeliveryReport, blob) for (blob,) in deliveries],
        )


def _bound(column: str, row: str) -> bytes:
    return f"journal:{column}:{row}".encode()
