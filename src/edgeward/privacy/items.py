"""What the journal keeps of an item: its schema, and the row as those who write and read it see it.

Responsible for names and types only; ``privacy.journal`` reads and writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgeward.messages import Finding, decode
from edgeward.privacy.vault import StoredObject

APPLICATION_ID = 0x45574A31  # "EWJ1": tells our file from any other SQLite database
STATES = ("admitted", "dispatched", "analysed", "closed", "failed")
NO_DESTINATION = "no destination configured"
CONFLICT = "conflict: another object with the same SOP Instance UID was admitted earlier; both are kept"

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
)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What tells who an item is of. Only ever stored sealed."""

    patient_name: str = ""
    patient_id: str = ""
    birth_date: str = ""
    study_description: str = ""
    study_date: str = ""
    study_time: str = ""
    accession_number: str = ""
    patient_sex: str = ""
    issuer_of_patient_id: str = ""
    referring_physician: str = ""
    study_id: str = ""
    series_description: str = ""
    series_number: str = ""
    instance_number: str = ""
    body_part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """An item about to be admitted: its object is in the vault already."""

    item_id: str
    received_ns: int
    deadline_ns: int
    stored_ns: int
    device: str
    modality: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str = ""
    transfer_syntax_uid: str
    rows: int = 0  # 0: not an image
    columns: int = 0
    frames: int = 1
    digest: bytes
    stored: StoredObject
    identity: Identity = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A row as the dispatcher needs it: without identity. `wrapped_key` is empty once the object was erased."""

    item_id: str
    state: str
    reason: str
    received_ns: int
    deadline_ns: int
    stored_ns: int
    asked_ns: int
    analysed_ns: int
    handed_ns: int
    delivered_ns: int
    late: bool
    attempts: int
    crashes: int
    device: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    object_id: str
    wrapped_key: bytes = field(repr=False)
    size: int
    finding: Finding | None = field(repr=False)

    @property
    def open(self) -> bool:
        """Whether the item has not reached its end."""
        return self.state not in ("closed", "failed")


COLUMNS = (
    "item_id, state, reason, received_ns, deadline_ns, stored_ns, asked_ns, analysed_ns, handed_ns, delivered_ns, "
    "late, attempts, crashes, device, sop_class_uid, sop_instance_uid, transfer_syntax_uid, object_id, wrapped_key, "
    "size, finding"
)
_NAMES = COLUMNS.replace(" ", "").split(",")


def item_of(row: tuple[Any, ...]) -> Item:
    """Return the item that a row of `COLUMNS` holds."""
    values = dict(zip(_NAMES, row, strict=True))
    values["late"] = bool(values["late"])
    values["wrapped_key"] = bytes(values["wrapped_key"] or b"")
    values["finding"] = decode(Finding, values["finding"]) if values["finding"] else None
    return Item(**values)
