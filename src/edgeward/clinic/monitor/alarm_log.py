"""The alarm log: which alarms stand, for a restart, every transition, for the record, and notices not yet handed over.

Responsible for durability only: beds and their settings, who changed what, the signals of sources, alarms, transitions,
and the notices that `deliver` has not yet taken. Owned by the `monitor` role; nobody else writes it.

Everything that says something of a patient (values, words, what a bed is called) is sealed with the site key; in clear
are the ids of beds and sources, wards, priorities and times, by which it is looked for. What the version before wrote
is read as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgeward.bedside import DISCHARGED, AlarmQuery, LimitChange, Notice
from edgeward.clinic.monitor.beds import BedRecord
from edgeward.messages import Alarm, MessageError, decode, encode, json_decoder
from edgeward.privacy.database import Database, DatabaseError
from edgeward.privacy.keys import SiteKey, WrongKey

_APPLICATION = 0x4557414C  # "EWAL"
_MIGRATIONS = (
    """
    CREATE TABLE patients (device_id TEXT PRIMARY KEY, signal TEXT NOT NULL, alarms TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE transitions (
        number INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, device_id TEXT NOT NULL, alarm BLOB NOT NULL);
    CREATE INDEX transitions_by_time ON transitions (at_ns);
    """,
    # Beds: until now every device was one, and a patient's alarms were the device's.
    """
    CREATE TABLE sources (source_id TEXT PRIMARY KEY, signal TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO sources SELECT device_id, signal FROM patients;
    CREATE TABLE beds (bed_id TEXT PRIMARY KEY, settings TEXT NOT NULL, alarms TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO beds SELECT device_id, '', alarms FROM patients;
    DROP TABLE patients;
    ALTER TABLE transitions RENAME COLUMN device_id TO bed_id;
    ALTER TABLE transitions ADD COLUMN ward TEXT NOT NULL DEFAULT '';
    ALTER TABLE transitions ADD COLUMN priority TEXT NOT NULL DEFAULT '';
    ALTER TABLE transitions ADD COLUMN first INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX transitions_by_bed ON transitions (bed_id, number);
    CREATE TABLE changes (
        number INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, bed_id TEXT NOT NULL, change BLOB NOT NULL);
    CREATE INDEX changes_by_bed ON changes (bed_id, number);
    CREATE TABLE notices (notice_id TEXT PRIMARY KEY, number INTEGER NOT NULL, notice BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE tries (one INTEGER PRIMARY KEY CHECK (one = 1), at_ns INTEGER NOT NULL);
    CREATE TABLE kept (name TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
    """,
    # Beds that are no more, with the last number of an alarm. Of those that had gone before this was kept it is not
    # known; there were fewer than transitions of all beds.
    """
    CREATE TABLE numbers (bed_id TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO numbers SELECT DISTINCT bed_id, (SELECT max(number) FROM transitions) FROM transitions
        WHERE bed_id NOT IN (SELECT bed_id FROM beds);
    """,
)
MOST = 2000  # rows of one answer
_CONTEXT = b"monitor alarm log"
_SEALED = b"\x00EWS1"  # before what is sealed: neither JSON nor a message begins so


@dataclass(slots=True)
class Writing:
    """What is to be written together."""

    beds: dict[str, tuple[BedRecord | None, Mapping[str, Any]]] = field(default_factory=dict)
    sources: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    transitions: list[tuple[Alarm, bool]] = field(default_factory=list)  # with: is it how the alarm was raised
    changes: list[LimitChange] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    gone_beds: dict[str, int] = field(default_factory=dict)  # with the last number that an alarm of theirs had
    gone_sources: list[str] = field(default_factory=list)


class AlarmLog:
    """The file. Every write is durable on return.

    Raises
    ------
    DatabaseError
        If the file is not an alarm log, is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path, site_key: SiteKey) -> None:
        self._site_key = site_key
        self._db = Database(path, name="alarm log", application_id=_APPLICATION, migrations=_MIGRATIONS)
        self._db.write(lambda db: db.execute("PRAGMA secure_delete = ON"))
        (self._notices,) = self._db.one("SELECT coalesce(max(number), 0) FROM notices") or (0,)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def save(self, writing: Writing) -> None:
        """Write all of it, or nothing.

        Raises
        ------
        DatabaseError
            If the disk is full or the file cannot be written; nothing of it was kept then.
        """
        beds = [
            (
                bed_id,
                self._seal(msgspec.json.encode(record) if record else b""),
                self._seal(msgspec.json.encode(alarms)),
            )
            for bed_id, (record, alarms) in writing.beds.items()
        ]
        sources = [(name, self._seal(msgspec.json.encode(signal))) for name, signal in writing.sources.items()]
        events = [
            (
                alarm.at_ns,
                alarm.bed_id or alarm.device_id,
                self._seal(encode(alarm)),
                alarm.ward,
                alarm.priority,
                int(first),
            )
            for alarm, first in writing.transitions
        ]
        changes = [(change.at_ns, change.bed_id, self._seal(encode(change))) for change in writing.changes]
        notices = []
        for notice in writing.notices:
            self._notices += 1
            notices.append((notice.notice_id, self._notices, self._seal(encode(notice))))

        def work(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO beds VALUES (?, ?, ?)", beds)
            db.executemany("INSERT OR REPLACE INTO sources VALUES (?, ?)", sources)
            db.executemany(
                "INSERT INTO transitions (at_ns, bed_id, alarm, ward, priority, first) VALUES (?, ?, ?, ?, ?, ?)",
                events,
            )
            db.executemany("INSERT INTO changes (at_ns, bed_id, change) VALUES (?, ?, ?)", changes)
            db.executemany("INSERT OR IGNORE INTO notices VALUES (?, ?, ?)", notices)
            db.executemany("DELETE FROM beds WHERE bed_id = ?", [(one,) for one in writing.gone_beds])
            db.executemany("INSERT OR REPLACE INTO numbers VALUES (?, ?)", list(writing.gone_beds.items()))
            db.executemany("DELETE FROM sources WHERE source_id = ?", [(one,) for one in writing.gone_sources])

        self._db.write(work)

    def beds(self) -> list[tuple[BedRecord, dict[str, Any]]]:
        """Return the beds and their alarms as plain types."""
        found = []
        for bed_id, settings, alarms in self._db.all("SELECT bed_id, settings, alarms FROM beds ORDER BY bed_id"):
            # Written by the version before: the bed is its device.
            plain = self._open(settings)
            record = json_decoder(BedRecord).decode(plain) if plain else BedRecord(bed_id=bed_id, sources=[bed_id])
            found.append((record, msgspec.json.decode(self._open(alarms))))
        return found

    def numbers(self) -> dict[str, int]:
        """Return the last number of an alarm of beds that are no more, or were not for a time."""
        return dict(self._db.all("SELECT bed_id, number FROM numbers"))

    def sources(self) -> dict[str, dict[str, Any]]:
        """Return the sources and how their signals are sampled (empty: no waveform)."""
        rows = self._db.all("SELECT source_id, signal FROM sources ORDER BY source_id")
        return {row[0]: msgspec.json.decode(self._open(row[1])) for row in rows}

    def recent(self, limit: int, bed_id: str = "") -> list[Alarm]:
        """Return the latest transitions, newest first."""
        return self.events(AlarmQuery(bed_id=bed_id, limit=limit))

    def events(self, query: AlarmQuery) -> list[Alarm]:
        """Return transitions, newest first."""
        where: list[str] = []
        values: list[Any] = []
        for condition, value in (
            ("bed_id = ?", query.bed_id),
            ("ward = ?", query.ward),
            ("priority = ?", query.priority),
            ("at_ns >= ?", query.since_ns),
            ("at_ns <= ?", query.until_ns),
        ):
            if value:
                where.append(condition)
                values.append(value)
        if query.raised_only:
            where.append("first = 1")
        clause = f"WHERE {' AND '.join(where)}" if where else ""
        rows = self._db.view(
            f"SELECT alarm FROM transitions {clause} ORDER BY number DESC LIMIT ?",  # noqa: S608 - no value in it
            (*values, max(1, min(query.limit, MOST))),
        )
        found: list[Alarm] = []
        for (blob,) in rows:
            try:
                found.append(decode(Alarm, self._open(blob)))
            except MessageError:  # written by another version of the message: the record stays, it is not shown
                continue
        return found

    def changes(self, bed_id: str, limit: int = 50) -> list[LimitChange]:
        """Return who changed what of a bed, newest first."""
        rows = self._db.all("SELECT change FROM changes WHERE bed_id = ? ORDER BY number DESC LIMIT ?", (bed_id, limit))
        return [decode(LimitChange, self._open(blob)) for (blob,) in rows]

    def discharges(self, bed_id: str, since_ns: int) -> list[int]:
        """Return when patients left a bed, newest first."""
        rows = self._db.all(
            "SELECT change FROM changes WHERE bed_id = ? AND at_ns >= ? ORDER BY number DESC", (bed_id, since_ns)
        )
        found = (decode(LimitChange, self._open(blob)) for (blob,) in rows)
        return [change.at_ns for change in found if change.what == DISCHARGED]

    def notices(self) -> list[Notice]:
        """Return the notices that were not yet handed over, oldest first."""
        rows = self._db.all("SELECT notice FROM notices ORDER BY number")
        return [decode(Notice, self._open(blob)) for (blob,) in rows]

    def handed_over(self, notice_ids: Iterable[str]) -> None:
        """Forget notices that `deliver` holds now."""
        rows = [(notice_id,) for notice_id in notice_ids]
        self._db.write(lambda db: db.executemany("DELETE FROM notices WHERE notice_id = ?", rows))

    def keep(self, name: str, data: bytes) -> None:
        """Keep some bytes under a name."""
        sealed = self._seal(data)
        self._db.write(lambda db: db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (name, sealed)))

    def kept(self, name: str) -> bytes | None:
        """Return what was kept under a name."""
        row = self._db.one("SELECT data FROM kept WHERE name = ?", (name,))
        return self._open(row[0]) if row else None

    def try_writing(self, at_ns: int) -> None:
        """Write something and wait until it has reached the disk: the alarm system's check of itself.

        Raises
        ------
        DatabaseError
            If that is not possible.
        """
        self._db.write(lambda db: db.execute("INSERT OR REPLACE INTO tries VALUES (1, ?)", (at_ns,)))

    def tried_ns(self) -> int:
        """Return when that was done last: the last sign of life of the process before; 0 if it never was."""
        row = self._db.one("SELECT max(at_ns) FROM tries")
        return int(row[0] or 0) if row else 0

    def _seal(self, data: bytes) -> bytes:
        return _SEALED + self._site_key.seal(data, _CONTEXT)

    def _open(self, value: bytes | str) -> bytes:
        """Return what was sealed; what the version before wrote in clear is returned as it is.

        Raises
        ------
        DatabaseError
            If it was sealed with another site's key, or is damaged.
        """
        data = value.encode() if isinstance(value, str) else bytes(value)
        if not data.startswith(_SEALED):
            return data
        try:
            return self._site_key.open(data[len(_SEALED) :], _CONTEXT)
        except WrongKey as error:
            raise DatabaseError(f"the alarm log does not open: {error}") from error
