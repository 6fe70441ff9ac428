"""The journal's schema: what is kept of items, verdicts, deliveries and studies, version by version.

Responsible for the tables and for carrying an older file over. Not responsible for reading or writing them.

Version 1: items, deliveries, verdicts, quarantine. Version 2: series, pixels and patient of an item; the order of the
worklist; a revision of the result per verdict; studies; which item a quarantine entry is about. Version 3: content that
is kept for the vault. Version 4: how many images of a study the modality lists, and how many of these are missing.
What version 2 derives from sealed values (`patient_key`, `rank`, `urgency`, `suspicious`) needs the site key: the
migration leaves `patient_key` empty, and the journal fills these in when it opens the file.
"""

from __future__ import annotations

APPLICATION_ID = 0x45574A31  # "EWJ1": tells our file from any other SQLite database

# One entry per schema version, applied in order. An entry never changes once it was released.
MIGRATIONS = (
    """
    CREATE TABLE items (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        item_id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        reason TEXT NOT NULL DEFAULT '',
        received_ns INTEGER NOT NULL,
        deadline_ns INTEGER NOT NULL,
        stored_ns INTEGER NOT NULL DEFAULT 0,
        asked_ns INTEGER NOT NULL DEFAULT 0,
        analysed_ns INTEGER NOT NULL DEFAULT 0,
        handed_ns INTEGER NOT NULL DEFAULT 0,
        delivered_ns INTEGER NOT NULL DEFAULT 0,
        late INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        device TEXT NOT NULL,
        modality TEXT NOT NULL,
        sop_class_uid TEXT NOT NULL,
        sop_instance_uid TEXT NOT NULL,
        study_instance_uid TEXT NOT NULL,
        transfer_syntax_uid TEXT NOT NULL,
        digest BLOB NOT NULL,
        object_id TEXT NOT NULL UNIQUE,
        wrapped_key BLOB,
        size INTEGER NOT NULL,
        identity BLOB NOT NULL,
        finding BLOB,
        preview_id TEXT UNIQUE,
        preview_key BLOB,
        preview_size INTEGER NOT NULL DEFAULT 0,
        preview_scale REAL NOT NULL DEFAULT 0,
        UNIQUE (sop_instance_uid, digest)
    );
    CREATE INDEX items_open ON items (state) WHERE state IN ('admitted', 'dispatched', 'analysed');
    CREATE INDEX items_received ON items (received_ns);
    CREATE TABLE deliveries (
        item_id TEXT NOT NULL REFERENCES items (item_id),
        destination TEXT NOT NULL,
        expected INTEGER NOT NULL DEFAULT 0,
        report BLOB,
        PRIMARY KEY (item_id, destination)
    ) WITHOUT ROWID;
    CREATE TABLE verdicts (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        verdict_id TEXT NOT NULL UNIQUE,
        item_id TEXT NOT NULL REFERENCES items (item_id),
        verdict BLOB NOT NULL
    );
    CREATE INDEX verdicts_item ON verdicts (item_id);
    CREATE TABLE quarantine (
        at_place TEXT NOT NULL,
        peer TEXT NOT NULL,
        reason TEXT NOT NULL,
        what_to_do TEXT NOT NULL,
        count INTEGER NOT NULL,
        at_ns INTEGER NOT NULL,
        PRIMARY KEY (at_place, peer, reason)
    );
    """,
    """
    ALTER TABLE items ADD COLUMN series_instance_uid TEXT NOT NULL DEFAULT '';
    ALTER TABLE items ADD COLUMN rows INTEGER NOT NULL DEFAULT -1;
    ALTER TABLE items ADD COLUMN columns INTEGER NOT NULL DEFAULT -1;
    ALTER TABLE items ADD COLUMN frames INTEGER NOT NULL DEFAULT -1;
    ALTER TABLE items ADD COLUMN patient_key BLOB;
    ALTER TABLE items ADD COLUMN suspicious INTEGER;
    ALTER TABLE items ADD COLUMN rank INTEGER NOT NULL DEFAULT 2;
    ALTER TABLE items ADD COLUMN urgency REAL NOT NULL DEFAULT 0;
    ALTER TABLE items ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX items_state ON items (state, received_ns);
    CREATE INDEX items_device ON items (device, received_ns);
    CREATE INDEX items_modality ON items (modality, received_ns);
    CREATE INDEX items_patient ON items (patient_key, received_ns);
    CREATE INDEX items_study ON items (study_instance_uid, series_instance_uid);
    CREATE INDEX items_series ON items (series_instance_uid);
    CREATE INDEX items_priority ON items (rank, urgency DESC, received_ns DESC, seq DESC);

    ALTER TABLE verdicts ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE verdicts ADD COLUMN received_ns INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE verdicts ADD COLUMN handed_ns INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE verdicts ADD COLUMN settled INTEGER NOT NULL DEFAULT 0;
    UPDATE verdicts SET revision = (
        SELECT count(*) FROM verdicts AS earlier
        WHERE earlier.item_id = verdicts.item_id AND earlier.seq <= verdicts.seq
    );
    UPDATE items SET revision = (SELECT count(*) FROM verdicts WHERE verdicts.item_id = items.item_id);
    CREATE UNIQUE INDEX verdicts_revision ON verdicts (item_id, revision);
    CREATE INDEX verdicts_open ON verdicts (handed_ns) WHERE settled = 0;
    DROP INDEX verdicts_item;

    CREATE TABLE deliveries_2 (
        item_id TEXT NOT NULL REFERENCES items (item_id),
        destination TEXT NOT NULL,
        revision INTEGER NOT NULL,
        expected INTEGER NOT NULL DEFAULT 0,
        report BLOB,
        PRIMARY KEY (item_id, destination, revision)
    ) WITHOUT ROWID;
    INSERT INTO deliveries_2 SELECT item_id, destination, 0, expected, report FROM deliveries;
    DROP TABLE deliveries;
    ALTER TABLE deliveries_2 RENAME TO deliveries;

    CREATE TABLE quarantine_2 (
        at_place TEXT NOT NULL,
        peer TEXT NOT NULL,
        reason TEXT NOT NULL,
        item_id TEXT NOT NULL,
        what_to_do TEXT NOT NULL,
        count INTEGER NOT NULL,
        at_ns INTEGER NOT NULL,
        PRIMARY KEY (at_place, peer, reason, item_id)
    );
    INSERT INTO quarantine_2 SELECT at_place, peer, reason, '', what_to_do, count, at_ns FROM quarantine;
    DROP TABLE quarantine;
    ALTER TABLE quarantine_2 RENAME TO quarantine;

    CREATE TABLE studies (
        study_instance_uid TEXT PRIMARY KEY,
        first_ns INTEGER NOT NULL,
        last_ns INTEGER NOT NULL,
        complete INTEGER NOT NULL DEFAULT 0,
        why TEXT NOT NULL DEFAULT ''
    ) WITHOUT ROWID;
    CREATE INDEX studies_growing ON studies (last_ns) WHERE complete = 0;
    INSERT INTO studies
        SELECT study_instance_uid, min(received_ns), max(received_ns), 1, 'quiet' FROM items
        WHERE study_instance_uid != '' GROUP BY study_instance_uid;
    """,
    """
    CREATE TABLE intake (
        object_id TEXT PRIMARY KEY,
        content BLOB NOT NULL
    );
    """,
    """
    ALTER TABLE studies ADD COLUMN listed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE studies ADD COLUMN missing INTEGER NOT NULL DEFAULT 0;
    """,
)
