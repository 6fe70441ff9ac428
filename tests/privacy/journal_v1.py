"""A journal as the version before this one wrote it: its schema and its statements, copied and never changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from edgeward.messages import DeliveryReport, Finding, Verdict, encode
from edgeward.privacy.items import Identity
from edgeward.privacy.keys import SiteKey

APPLICATION_ID = 0x45574A31
SCHEMA = """
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
"""


def sealed(key: SiteKey, column: str, row: str, value: object) -> bytes:
    return key.seal(msgspec.msgpack.encode(value), f"journal:{column}:{row}".encode())


class OldJournal:
    """Writes a file of version 1."""

    def __init__(self, path: Path, key: SiteKey) -> None:
        self.key = key
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.executescript(f"{SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")

    def item(self, number: int, state: str, patient: str = "PID-4711", **columns: object) -> str:
        item_id = f"item{number}"
        values: dict[str, object] = {
            "item_id": item_id,
            "state": state,
            "received_ns": number * 10**9,
            "deadline_ns": number * 10**9 + 10**9,
            "stored_ns": number * 10**9 + 5,
            "device": "us1",
            "modality": "US",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.6.1",
            "sop_instance_uid": f"1.2.3.{number}",
            "study_instance_uid": "1.2.3",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "digest": number.to_bytes(32, "big"),
            "object_id": f"{number:032x}",
            "wrapped_key": b"wrapped",
            "size": 100,
            "identity": sealed(self.key, "identity", item_id, Identity(patient_name="M^E", patient_id=patient)),
        }
        values |= columns
        marks = ", ".join("?" * len(values))
        self.db.execute(f"INSERT INTO items ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))
        return item_id

    def analysed(self, number: int, finding: Finding, **columns: object) -> str:
        changes = {"finding": encode(finding), "analysed_ns": number * 10**9 + 10, **columns}
        return self.item(number, **{"state": "analysed", **changes})  # type: ignore[arg-type]

    def delivery(self, item_id: str, destination: str, report: DeliveryReport | None) -> None:
        self.db.execute(
            "INSERT INTO deliveries VALUES (?, ?, 1, ?)", (item_id, destination, encode(report) if report else None)
        )

    def verdict(self, verdict: Verdict) -> None:
        blob = self.key.seal(encode(verdict), f"journal:verdict:{verdict.verdict_id}".encode())
        self.db.execute(
            "INSERT INTO verdicts (verdict_id, item_id, verdict) VALUES (?, ?, ?)",
            (verdict.verdict_id, verdict.item_id, blob),
        )

    def quarantined(self, reason: str, count: int) -> None:
        self.db.execute("INSERT INTO quarantine VALUES ('dicom', 'peer', ?, 'look', ?, 7)", (reason, count))

    def close(self) -> None:
        self.db.close()
