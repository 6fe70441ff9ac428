"""The delivery ledger's tables, and how an older ledger becomes a newer one.

Responsible for the shape of the file only; what the rows mean and who may change them is in ``ledger``.
"""

from __future__ import annotations

import sqlite3

_SCHEMA = """
CREATE TABLE item (
    seq INTEGER PRIMARY KEY,
    item_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    study TEXT NOT NULL,     -- what keeps its order: the study, or the item itself if it names none
    accepted_ns INTEGER NOT NULL,
    request BLOB,            -- sealed; NULL once it is not needed any more
    report BLOB,             -- sealed text of the SR
    UNIQUE (item_id, revision)
);
CREATE TABLE delivery (
    seq INTEGER NOT NULL REFERENCES item(seq),
    destination TEXT NOT NULL,
    study TEXT NOT NULL,
    deadline_ns INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'confirmed', 'dead')),
    reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    faults INTEGER NOT NULL DEFAULT 0,
    next_try_ns INTEGER NOT NULL DEFAULT 0,
    stored_ns INTEGER NOT NULL DEFAULT 0,
    changed_ns INTEGER NOT NULL DEFAULT 0,
    uids BLOB NOT NULL DEFAULT x'90',
    stages BLOB NOT NULL DEFAULT x'90',
    reported INTEGER NOT NULL DEFAULT 0,
    awaited INTEGER NOT NULL DEFAULT 0,  -- a person has judged something of its study: somebody waits for it
    PRIMARY KEY (seq, destination)
) WITHOUT ROWID;
CREATE INDEX owed ON delivery (destination, seq) WHERE state IN ('pending', 'sent');
CREATE INDEX owed_in_study ON delivery (destination, study, seq) WHERE state IN ('pending', 'sent');
CREATE INDEX owed_by_deadline ON delivery (destination, deadline_ns) WHERE state IN ('pending', 'sent');
CREATE INDEX owed_and_awaited ON delivery (destination, seq) WHERE awaited = 1 AND state IN ('pending', 'sent');
CREATE INDEX untold ON delivery (seq) WHERE state IN ('confirmed', 'dead') AND reported = 0;
CREATE INDEX dead ON delivery (seq) WHERE state = 'dead';
"""

# A ledger of version 0.1 had no version number, one row per item, and no studies: each item keeps its own order.
_FROM_0_1 = f"""
DROP INDEX owed; DROP INDEX untold;
ALTER TABLE delivery RENAME TO old_delivery;
ALTER TABLE item RENAME TO old_item;
{_SCHEMA}
INSERT INTO item (seq, item_id, revision, study, accepted_ns, request, report)
    SELECT seq, item_id, 0, item_id, accepted_ns, request, report FROM old_item;
INSERT INTO delivery (seq, destination, study, deadline_ns, state, reason, attempts, faults, next_try_ns, stored_ns,
                      changed_ns, uids, stages, reported)
    SELECT seq, destination, item_id, 0, state, reason, attempts, faults, next_try_ns,
           CASE state WHEN 'confirmed' THEN stored_ns ELSE 0 END,
           MAX(stored_ns, accepted_ns), uids, stages, reported
    FROM old_delivery JOIN old_item USING (seq);
DROP TABLE old_delivery;
DROP TABLE old_item;
"""  # noqa: S608 - our own text
_FROM_2 = """
ALTER TABLE delivery ADD COLUMN awaited INTEGER NOT NULL DEFAULT 0;
CREATE INDEX owed_and_awaited ON delivery (destination, seq) WHERE awaited = 1 AND state IN ('pending', 'sent');
"""
VERSION = 3


class NewerLedger(RuntimeError):
    """The file was written by a newer version of this program; it was left as it is."""


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an older version up to date, in one transaction.

    Raises
    ------
    NewerLedger
        If the file is newer than this program.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    if version > VERSION:
        raise NewerLedger(f"it was written by a newer Edgeward (version {version}, this one knows {VERSION})")
    (old,) = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'delivery'").fetchone()
    script = _FROM_2 if version == 2 else _FROM_0_1 if old else _SCHEMA
    db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {VERSION}; COMMIT;")
