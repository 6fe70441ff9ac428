"""The alarm log: which alarms stand, for a restart, and every transition, for the record.

Responsible for durability only. Owned by the `monitor` role; nobody else writes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeward.messages import Alarm, MessageError, decode, encode
from edgeward.privacy.database import Database

_APPLICATION = 0x4557414C  # "EWAL"
_MIGRATIONS = (
    """
    CREATE TABLE patients (device_id TEXT PRIMARY KEY, signal TEXT NOT NULL, alarms TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE transitions (
        number INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, device_id TEXT NOT NULL, alarm BLOB NOT NULL);
    CREATE INDEX transitions_by_time ON transitions (at_ns);
    """,
)


class AlarmLog:
    """The file. Every write is durable on return.

    Raises
    ------
    DatabaseError
        If the file is not an alarm log, is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._db = Database(path, name="alarm log", application_id=_APPLICATION, migrations=_MIGRATIONS)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def save(
        self,
        patients: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]],
        transitions: Iterable[Alarm] = (),
    ) -> None:
        """Keep the state of patients (signal description, alarms as plain types) and append transitions.

        Raises
        ------
        DatabaseError
            If the disk is full or the file cannot be written; nothing of it was kept then.
        """
        rows = [
            (device_id, msgspec.json.encode(signal).decode(), msgspec.json.encode(alarms).decode())
            for device_id, (signal, alarms) in patients.items()
        ]
        events = [(alarm.at_ns, alarm.device_id, encode(alarm)) for alarm in transitions]

        def work(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO patients VALUES (?, ?, ?)", rows)
            db.executemany("INSERT INTO transitions (at_ns, device_id, alarm) VALUES (?, ?, ?)", events)

        self._db.write(work)

    def forget(self, device_id: str) -> None:
        """Forget a patient who is no longer monitored. Transitions stay."""
        self._db.write(lambda db: db.execute("DELETE FROM patients WHERE device_id = ?", (device_id,)))

    def patients(self) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """Return what ``save`` kept: per device its signal description and its alarms."""
        rows = self._db.all("SELECT device_id, signal, alarms FROM patients ORDER BY device_id")
        return {row[0]: (msgspec.json.decode(row[1]), msgspec.json.decode(row[2])) for row in rows}

    def recent(self, limit: int, device_id: str = "") -> list[Alarm]:
        """Return the latest transitions, newest first."""
        where, values = ("WHERE device_id = ?", (device_id, limit)) if device_id else ("", (limit,))
        rows = self._db.all(f"SELECT alarm FROM transitions {where} ORDER BY number DESC LIMIT ?", values)  # noqa: S608
        found: list[Alarm] = []
        for (blob,) in rows:
            try:
                found.append(decode(Alarm, blob))
            except MessageError:  # written by another version of the message: the record stays, it is not shown
                continue
        return found
