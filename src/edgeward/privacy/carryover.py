"""What older versions of the journal left to be done, and where an item stands in the worklist by priority.

Responsible for filling in what a migration cannot: what is derived from sealed values, and what only the object itself
can tell (``gateway.catchup`` reads it). Not responsible for the tables (``privacy.schema``).
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from edgeward.messages import Finding, decode
from edgeward.privacy.database import Database
from edgeward.privacy.items import COLUMNS, Identity, Item, item_of
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.sealing import bound, opened_identity, patient_key


def standing(finding: Finding | None, revision: int) -> tuple[int | None, int, float]:
    """Return (suspicious, rank, urgency): where an item stands in the worklist by priority.

    Parameters
    ----------
    revision
        Of the result: above 0 a clinician has decided.
    """
    if finding is None or finding.status != "analysed":
        return None, 2, 0.0
    suspicious = int(finding.suspicious)
    if revision:
        return suspicious, 2, 0.0
    return suspicious, 1 - suspicious, (finding.malignancy or 0.0) if suspicious else 0.0


class CarryOver:
    """Brings rows that an older version wrote up to date."""

    def __init__(self, db: Database, site_key: SiteKey) -> None:
        self._db, self._site_key = db, site_key

    def carry_over(self) -> None:
        """Fill in what version 2 derives from sealed values, in a file that was written by version 1."""
        statement = "UPDATE items SET patient_key = ?, suspicious = ?, rank = ?, urgency = ? WHERE item_id = ?"
        while True:
            rows = self._db.all(
                "SELECT item_id, identity, finding, revision FROM items WHERE patient_key IS NULL LIMIT 500"
            )
            if not rows:
                return
            changes: list[tuple[Any, ...]] = []
            for item_id, sealed, blob, revision in rows:
                identity = opened_identity(self._site_key, item_id, sealed)
                place = standing(decode(Finding, blob) if blob else None, revision)
                changes.append((patient_key(self._site_key, identity), *place, item_id))
            self._db.write(lambda db, changes=changes: db.executemany(statement, changes))  # type: ignore[misc]

    def half_known(self, before: str, limit: int = 100) -> list[Item]:
        """Return items of version 1 whose object can tell more than the journal knows, the most recent first.

        Parameters
        ----------
        before
            Only items that were admitted before this one, if it is given.
        """
        rows = self._db.all(
            f"SELECT {COLUMNS} FROM items WHERE rows = -1 AND wrapped_key IS NOT NULL "  # noqa: S608 - our own constant
            "AND seq < coalesce((SELECT seq FROM items WHERE item_id = ?), 1 << 62) ORDER BY seq DESC LIMIT ?",
            (before, limit),
        )
        return [item_of(row) for row in rows]

    def learned(
        self, item_id: str, *, series_instance_uid: str, pixels: tuple[int, int, int], digest: bytes, identity: Identity
    ) -> None:
        """Keep what the object of an item of version 1 told: `pixels` are rows, columns and frames."""
        sealed = self._site_key.seal(msgspec.msgpack.encode(identity), bound("identity", item_id))
        patient = patient_key(self._site_key, identity)

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE items SET series_instance_uid = ?, rows = ?, columns = ?, frames = ?, identity = ?, "
                "patient_key = ? WHERE item_id = ?",
                (series_instance_uid, *pixels, sealed, patient, item_id),
            )
            # Unless the same content came once more in the meantime: then that item has the digest.
            db.execute("UPDATE OR IGNORE items SET digest = ? WHERE item_id = ?", (digest, item_id))

        self._db.write(work)
