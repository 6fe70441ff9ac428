"""The journal: one row per admitted item, from admission to its one visible end. It owns the work.

Responsible for durability (a commit has reached the disk when a method returns), for the states an item may be in, and
for the queries that drive the work. Not responsible for doing any of it (``gateway.dispatch``), for showing it
(``privacy.worklist``, ``privacy.catalogue``), nor for the objects themselves (``privacy.vault``).

States: admitted → dispatched → analysed (finding kept) → closed, or failed with a reason. Between analysed and closed
an item is handed over to `deliver`, and every expected destination reports delivered or failed. Each verdict is one
more revision of the result, handed over and reported in the same way; it does not open the item again, but a revision
that fails to arrive turns it to failed. UIDs are kept in clear; identity (name, patient id, description, dates) and
free text are sealed with the site key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edgeward.messages import DeliveryReport, Finding, ItemsQuery, ItemSummary, Quarantined, Verdict, decode, encode
from edgeward.privacy.carryover import CarryOver, standing
from edgeward.privacy.catalogue import Catalogue
from edgeward.privacy.database import Database
from edgeward.privacy.intake import Admission, Fresh, Intake
from edgeward.privacy.items import COLUMNS, NO_DESTINATION, Item, NewItem, item_of
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.lane import Lane
from edgeward.privacy.refusals import QuarantineLog
from edgeward.privacy.schema import APPLICATION_ID, MIGRATIONS
from edgeward.privacy.sealing import bound, opened_verdict
from edgeward.privacy.studies import StudyLog
from edgeward.privacy.vault import StoredObject
from edgeward.privacy.worklist import Worklist


class Journal:
    """The journal of one gateway, in one SQLite file. Thread-safe; one writer at a time.

    Parameters
    ----------
    path
        The database; made if missing.
    site_key
        Seals identity.

    Attributes
    ----------
    worklist, catalogue, studies, past
        Other views of the same file: for people, for systems that ask for objects, of studies as they grow, and of what
        older versions left to be learned.

    Raises
    ------
    DatabaseError
        If the file is not a journal, is damaged, or was written by a newer version.
    WrongKey
        If a file of an older version is to be carried over and is sealed with another key.
    """

    def __init__(self, path: Path, site_key: SiteKey) -> None:
        self._site_key = site_key
        self._db = Database(path, name="journal", application_id=APPLICATION_ID, migrations=MIGRATIONS)
        self.worklist, self.catalogue = Worklist(self._db, site_key), Catalogue(self._db, site_key)
        self.studies, self._quarantine = StudyLog(self._db), QuarantineLog(self._db)
        self.past = CarryOver(self._db, site_key)
        self.past.carry_over()
        self._intake = Intake(path, self._db, site_key)

    def close(self) -> None:
        """Close the file."""
        self._intake.close()
        self._db.close()

    # ------------------------------------------------------------ admission

    def find(self, sop_instance_uid: str, digest: bytes) -> str:
        """Return the item that holds this instance with this content, or an empty string."""
        return self._intake.find(sop_instance_uid, digest)

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
        item, is_new = self._intake.admit(new)
        return (self.item(item), False) if isinstance(item, str) else (item, is_new)

    def begin(self, new: NewItem) -> Admission | Item:
        """Begin to admit an item: as `admit`, but for the writing, which is the caller's.

        Returns
        -------
        Admission or Item
            What the caller must write, or the earlier item with this content.

        Raises
        ------
        DatabaseFull
            If the disk is full.
        """
        found = self._intake.begin(new)
        return self.item(found) if isinstance(found, str) else found

    @property
    def lane(self) -> Lane | None:
        """The compiled admission, if there is one: see `open_lane`."""
        return self._intake.lane

    def open_lane(self, budget_ns: int, crowded: int, told: Callable[[Fresh], None]) -> None:
        """Let objects be admitted without Python, if there is a `lane`.

        Parameters
        ----------
        budget_ns
            From an object's reception to its deadline.
        crowded
            Bytes in a segment of the vault from which on nothing more is appended to it.
        told
            Called for each object, some time after it was answered, by the thread that found out.
        """
        self._intake.open_lane(budget_ns, crowded, told)

    def take_over(self, appended: Iterable[tuple[str, bytes, bytes]], file_of: Callable[[str], Path]) -> set[str]:
        """Make rows of what a crash left in the segments of the vault: see `Segments.found` and `Segments.file_of`.

        Returns
        -------
        set of str
            What the ids of those objects begin with that are in safe keeping: the others were here before, or never
            came whole.

        Raises
        ------
        DatabaseError
            If the rows cannot be written.
        """
        return self._intake.take_over(appended, file_of)

    def drain(self) -> None:
        """Take note now of what the compiled admission took; everybody is told on return."""
        self._intake.drain()

    def make_room(self) -> None:
        """Let the intake log grow before somebody has to wait for it.

        Raises
        ------
        DatabaseError
            If the disk is full or fails: whoever needs the room will be told.
        """
        self._intake.make_room()

    @property
    def crowded(self) -> bool:
        """Whether the vault should take over soon what is kept for it: see `turn`."""
        return self._intake.crowded

    @property
    def filling(self) -> bool:
        """Whether the vault should take it over before it is `crowded`."""
        return self._intake.filling

    def turn(self) -> int | None:
        """Begin a new account of what is kept for the vault; return what the old one is called, None if it is empty.

        Once the vault has made durable what was committed before, call `forget`.

        Raises
        ------
        DatabaseError
            If the disk fails: nothing is lost, call it again.
        """
        return self._intake.turn()

    def forget(self, account: int) -> None:
        """Forget what `turn` returned.

        Raises
        ------
        DatabaseError
            If the disk fails: nothing is lost, call `turn` again.
        """
        self._intake.forget(account)

    def unsettled(self) -> list[str]:
        """Return the vault objects whose files a crash may have taken: their content was found at the start."""
        return [str(row[0]) for row in self._db.all("SELECT object_id FROM intake ORDER BY rowid")]

    def unsettled_content(self, object_id: str) -> bytes:
        """Return the content of one of them."""
        row = self._db.one("SELECT content FROM intake WHERE object_id = ?", (object_id,))
        return bytes(row[0]) if row else b""

    def settled(self, object_ids: Iterable[str]) -> None:
        """Forget content whose file is durable."""
        rows = [(object_id,) for object_id in object_ids]
        self._db.write(lambda db: db.executemany("DELETE FROM intake WHERE object_id = ?", rows))

    def held(self, sop_instance_uid: str) -> str:
        """Return the SOP Class UID of an instance that is in safe keeping here, or an empty string.

        The object was admitted and not erased since. It does not matter what became of its analysis. Of two objects
        with the same UID and different content both are kept, so the answer is yes as well; it is the class of the
        first. Storage commitment is stricter (``gateway.commitment``).
        """
        row = self._db.one(
            "SELECT sop_class_uid FROM items WHERE sop_instance_uid = ? AND wrapped_key IS NOT NULL "
            "ORDER BY seq LIMIT 1",
            (sop_instance_uid,),
        )
        return str(row[0]) if row else ""

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
            "preview_size = ?, preview_scale = ?, suspicious = ?, rank = ?, urgency = ? "
            "WHERE item_id = ? AND state IN ('admitted', 'dispatched')",
            (encode(finding), now_ns, *held, *standing(finding, 0), item_id),
        )

    def closed(self, item_id: str, reason: str) -> Item:
        """End an item that is kept but has nothing to deliver, with the reason."""
        return self._update(
            "UPDATE items SET state = 'closed', reason = ? "
            "WHERE item_id = ? AND state NOT IN ('closed', 'failed') AND handed_ns = 0",
            (reason, item_id),
        )

    def failed(self, item_id: str, reason: str) -> Item:
        """End an open item with a reason."""
        return self._update(
            "UPDATE items SET state = 'failed', reason = ? WHERE item_id = ? AND state NOT IN ('closed', 'failed')",
            (reason, item_id),
        )

    def handed(self, item_id: str, destinations: Sequence[str], now_ns: int, revision: int = 0) -> Item:
        """Note that `deliver` holds a revision durably, for these destinations; with none, it is settled.

        Handed over once more, it is for the destinations that there are now: one that was taken out of the settings and
        never reported is no longer waited for.
        """

        def work(db: sqlite3.Connection) -> None:
            if revision:
                change = "UPDATE verdicts SET handed_ns = ? WHERE item_id = ? AND revision = ? AND settled = 0"
                db.execute(change, (now_ns, item_id, revision))
            else:
                change = "UPDATE items SET handed_ns = ? WHERE item_id = ? AND state = 'analysed'"
                db.execute(change, (now_ns, item_id))
            db.execute(
                "UPDATE deliveries SET expected = 0 WHERE item_id = ? AND revision = ? AND report IS NULL",
                (item_id, revision),
            )
            db.executemany(
                "INSERT INTO deliveries (item_id, destination, revision, expected) VALUES (?, ?, ?, 1) "
                "ON CONFLICT (item_id, destination, revision) DO UPDATE SET expected = 1",
                [(item_id, name, revision) for name in destinations],
            )
            self._settle(db, item_id)

        self._db.write(work)
        return self.item(item_id)

    def delivery(self, report: DeliveryReport) -> Item | None:
        """Keep what one destination reported of one revision; close or fail the item when all have reported.

        Returns None if there is no such item. A report that arrives twice changes nothing. A delivery that failed and
        succeeds later (somebody pressed re-send) turns the item from failed to closed.
        """
        place = (report.item_id, report.destination, report.revision)

        def work(db: sqlite3.Connection) -> bool:
            if not db.execute("SELECT 1 FROM items WHERE item_id = ?", (report.item_id,)).fetchone():
                return False
            row = db.execute(
                "SELECT report FROM deliveries WHERE item_id = ? AND destination = ? AND revision = ?", place
            ).fetchone()
            kept = decode(DeliveryReport, row[0]) if row and row[0] else None
            told = report
            if kept is not None and kept.state == "delivered":
                if report.state != "delivered" or report.at_ns <= kept.at_ns:
                    return True  # delivered stays delivered
                # What was not accepted then has arrived since: the note changes, and not when the result was there.
                uids = report.sop_instance_uids
                told = replace(kept, reason=report.reason, sop_instance_uids=uids, at_ns=report.at_ns)
            db.execute(
                "INSERT INTO deliveries (item_id, destination, revision, report) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (item_id, destination, revision) DO UPDATE SET report = excluded.report",
                (*place, encode(told)),
            )
            self._settle(db, report.item_id)
            return True

        return self.item(report.item_id) if self._db.write(work) else None

    def late(self, item_id: str) -> bool:
        """Mark an item late; return whether it was not marked before."""
        statement = "UPDATE items SET late = 1 WHERE item_id = ? AND late = 0"
        return self._db.write(lambda db: db.execute(statement, (item_id,)).rowcount) == 1

    def _settle(self, db: sqlite3.Connection, item_id: str) -> None:
        """Bring the state of an item in line with what is known of its deliveries."""
        state, handed_ns = db.execute("SELECT state, handed_ns FROM items WHERE item_id = ?", (item_id,)).fetchone()
        if state in ("admitted", "dispatched") or not handed_ns:
            return
        waiting, known = set[int](), list[DeliveryReport]()
        for revision, blob in db.execute(
            "SELECT revision, report FROM deliveries WHERE item_id = ? AND expected = 1 ORDER BY revision, destination",
            (item_id,),
        ):
            if blob:
                known.append(decode(DeliveryReport, blob))
            else:
                waiting.add(int(revision))
        for (revision,) in db.execute(
            "SELECT revision FROM verdicts WHERE item_id = ? AND settled = 0 AND handed_ns > 0", (item_id,)
        ).fetchall():
            if revision not in waiting:
                db.execute("UPDATE verdicts SET settled = 1 WHERE item_id = ? AND revision = ?", (item_id, revision))
        if 0 in waiting:
            return
        first = [report for report in known if not report.revision]
        arrived = first and all(report.state == "delivered" for report in first)
        delivered_ns = max(report.stored_ns for report in first) if arrived else 0
        bad = [report for report in known if report.state == "failed"]
        reason = "; ".join(_not_delivered(report) for report in bad) or ("" if known or waiting else NO_DESTINATION)
        db.execute(
            "UPDATE items SET state = ?, reason = ?, delivered_ns = ? WHERE item_id = ?",
            ("failed" if bad else "closed", reason, delivered_ns, item_id),
        )

    # ------------------------------------------------------------ verdicts

    def verdict(self, verdict: Verdict, received_ns: int = 0) -> int:
        """Keep a clinician's verdict, durable on return; return the revision of the result that it makes.

        Returns 0 if the item or its finding does not exist. The same verdict id twice is one verdict. On a finding that
        is sent nowhere (`Finding.in_scope` false) the verdict is kept and there is nothing to hand over.
        """
        sealed = self._site_key.seal(encode(verdict), bound("verdict", verdict.verdict_id))

        def work(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT finding, revision FROM items WHERE item_id = ?", (verdict.item_id,)).fetchone()
            if not row or not row[0]:
                return 0
            finding = decode(Finding, row[0])
            if finding.finding_id != verdict.finding_id:
                return 0
            known = db.execute(
                "SELECT item_id, revision FROM verdicts WHERE verdict_id = ?", (verdict.verdict_id,)
            ).fetchone()
            if known:
                return int(known[1]) if known[0] == verdict.item_id else 0
            revision = int(row[1]) + 1
            db.execute(
                "INSERT INTO verdicts (verdict_id, item_id, verdict, revision, received_ns, settled) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (verdict.verdict_id, verdict.item_id, sealed, revision, received_ns, not finding.in_scope),
            )
            db.execute(
                "UPDATE items SET revision = ?, suspicious = ?, rank = ?, urgency = ? WHERE item_id = ?",
                (revision, *standing(finding, revision), verdict.item_id),
            )
            return revision

        return self._db.write(work)

    def verdicts(self, item_id: str, up_to: int) -> tuple[list[Verdict], int]:
        """Return the verdicts of revisions 1 to `up_to`, oldest first, and when the last one was received."""
        rows = self._db.all(
            "SELECT verdict_id, verdict, received_ns FROM verdicts WHERE item_id = ? AND revision <= ? "
            "ORDER BY revision",
            (item_id, up_to),
        )
        opened = [opened_verdict(self._site_key, str(name), blob) for name, blob, _ in rows]
        return opened, int(rows[-1][2]) if rows else 0

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

    def due(self, item_id: str, handed_before_ns: int) -> list[int]:
        """Return the revisions of an item that are to be handed over, in order.

        They are those that `deliver` does not hold yet, and those that it was given before that time and has not
        reported on in full.
        """
        row = self._db.one("SELECT state, handed_ns FROM items WHERE item_id = ?", (item_id,))
        if row is None or row[0] in ("admitted", "dispatched"):
            return []
        found = [0] if row[0] == "analysed" and row[1] < max(1, handed_before_ns) else []
        rows = self._db.all(
            "SELECT revision FROM verdicts WHERE item_id = ? AND settled = 0 AND handed_ns < ? ORDER BY revision",
            (item_id, max(1, handed_before_ns)),
        )
        return found + [int(revision) for (revision,) in rows]

    def items_due(self, handed_before_ns: int) -> list[str]:
        """Return the items that have such revisions."""
        rows = self._db.all(
            "SELECT item_id FROM items WHERE state = 'analysed' AND handed_ns < ?1 "
            "UNION SELECT item_id FROM verdicts WHERE settled = 0 AND handed_ns < ?1 LIMIT 1000",
            (max(1, handed_before_ns),),
        )
        return [str(row[0]) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return the number of rows per state; every state is there."""
        return self.worklist.counts()

    def summary(self, item_id: str, now_ns: int) -> ItemSummary | None:
        """Return one row of the worklist, identity included, or None."""
        found = self.summaries(ItemsQuery(item_id=item_id, limit=1), now_ns)
        return found[0] if found else None

    def summaries(self, query: ItemsQuery, now_ns: int) -> list[ItemSummary]:
        """Return rows of the worklist, identity included: see `Worklist.page`."""
        return self.worklist.page(query, now_ns)[0]

    def preview(self, item_id: str) -> tuple[str, bytes, int, float] | None:
        """Return object id, wrapped key, size and scale of an item's preview, or None."""
        row = self._db.one(
            "SELECT preview_id, preview_key, preview_size, preview_scale FROM items WHERE item_id = ?", (item_id,)
        )
        return (str(row[0]), bytes(row[1]), int(row[2]), float(row[3])) if row and row[0] and row[1] else None

    # ------------------------------------------------------------ quarantine

    def quarantine(self, entries: Iterable[Quarantined]) -> None:
        """Keep entries: see `QuarantineLog.keep`."""
        self._quarantine.keep(entries)

    def quarantined(self, limit: int = 200) -> list[Quarantined]:
        """Return quarantine entries, newest first."""
        return self._quarantine.entries(limit)

    def _update(self, statement: str, values: tuple[Any, ...]) -> Item:
        def work(db: sqlite3.Connection) -> None:
            db.execute(statement, values)

        self._db.write(work)
        return self.item(str(values[-1]))


def _not_delivered(report: DeliveryReport) -> str:
    what = f"verdict {report.revision} " if report.revision else ""
    return f"{what}not delivered to {report.destination}: {report.reason}"
