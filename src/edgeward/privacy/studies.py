"""The journal's account of studies: when each began, when it last grew, and whether it is taken to be complete.

Responsible for keeping that durably. Not responsible for deciding it (``gateway.studies``). A spectator of the work:
nothing waits for a study.
"""

from __future__ import annotations

import sqlite3

from edgeward.messages import StudyState
from edgeward.privacy.database import Database

_COUNTS = (
    "SELECT s.study_instance_uid, s.complete, s.first_ns, s.last_ns, s.why, s.listed, s.missing, "
    "(SELECT count(DISTINCT series_instance_uid) FROM items AS i WHERE i.study_instance_uid = s.study_instance_uid), "
    "(SELECT count(DISTINCT sop_instance_uid) FROM items AS i WHERE i.study_instance_uid = s.study_instance_uid) "
    "FROM studies AS s "
)


class StudyLog:
    """Studies in the journal's file."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @staticmethod
    def grew(db: sqlite3.Connection, study_instance_uid: str, received_ns: int) -> None:
        """Note, within the admission of an item, that its study grew; a complete one is open again."""
        if not study_instance_uid:
            return
        db.execute(
            "INSERT INTO studies (study_instance_uid, first_ns, last_ns) VALUES (?1, ?2, ?2) "
            "ON CONFLICT (study_instance_uid) DO UPDATE SET last_ns = max(last_ns, ?2), complete = 0, why = '', "
            "listed = 0, missing = 0",
            (study_instance_uid, received_ns),
        )

    def growing(self) -> list[tuple[str, int]]:
        """Return (study, when it last grew) of all studies that are not complete."""
        rows = self._db.all("SELECT study_instance_uid, last_ns FROM studies WHERE complete = 0 ORDER BY last_ns")
        return [(str(uid), int(last)) for uid, last in rows]

    def completed(self, study_instance_uid: str, last_ns: int, why: str, listed: int = 0, missing: int = 0) -> bool:
        """Note that a study is complete; return False, and change nothing, if it grew after `last_ns`.

        `listed`: how many images the modality says it made; `missing`: how many of them did not arrive.
        """
        change = (
            "UPDATE studies SET complete = 1, why = ?, listed = ?, missing = ? "
            "WHERE study_instance_uid = ? AND complete = 0 AND last_ns <= ?"
        )
        values = (why, listed, missing, study_instance_uid, last_ns)
        return self._db.write(lambda db: db.execute(change, values).rowcount) == 1

    def compared(self, study_instance_uid: str, last_ns: int, listed: int, missing: int) -> bool:
        """Note what the modality said of a study after it was complete; return False if it grew after `last_ns`."""
        change = (
            "UPDATE studies SET listed = ?, missing = ? WHERE study_instance_uid = ? AND complete = 1 AND last_ns <= ?"
        )
        values = (listed, missing, study_instance_uid, last_ns)
        return self._db.write(lambda db: db.execute(change, values).rowcount) == 1

    def state(self, study_instance_uid: str) -> StudyState | None:
        """Return a study as far as it arrived, or None if nothing of it did."""
        row = self._db.one(_COUNTS + "WHERE s.study_instance_uid = ?", (study_instance_uid,))
        if row is None:
            return None
        uid, complete, first_ns, last_ns, why, listed, missing, series, instances = row
        return StudyState(
            study_instance_uid=uid,
            complete=bool(complete),
            series=series,
            instances=instances,
            first_ns=first_ns,
            last_ns=last_ns,
            why=why,
            listed=listed,
            missing=missing,
        )

    def series(self, study_instance_uid: str) -> list[tuple[str, int]]:
        """Return (series, when it last grew) of a study."""
        rows = self._db.all(
            "SELECT series_instance_uid, max(received_ns) FROM items WHERE study_instance_uid = ? "
            "GROUP BY series_instance_uid",
            (study_instance_uid,),
        )
        return [(str(uid), int(last_ns)) for uid, last_ns in rows]

    def instances(self, study_instance_uid: str) -> set[str]:
        """Return the SOP Instance UIDs that arrived of a study."""
        rows = self._db.all(
            "SELECT DISTINCT sop_instance_uid FROM items WHERE study_instance_uid = ?", (study_instance_uid,)
        )
        return {str(uid) for (uid,) in rows}
