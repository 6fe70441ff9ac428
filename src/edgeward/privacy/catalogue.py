"""The catalogue: what is still in the vault, by study, series and instance, for systems that ask for it (DICOMweb).

Responsible for finding objects by their UIDs and for counting what belongs together. Not responsible for matching
attributes (``gateway.qido``), nor for who may ask.

An object is listed while its key exists. Of two objects with the same SOP Instance UID only the first is listed: the
other one is a conflict, kept for a person to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeward.privacy.database import Database
from edgeward.privacy.items import CONFLICT, Identity
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.sealing import opened_identity

Level = Literal["study", "series", "instance"]
EXAMINED = 20_000  # rows of one level that one search looks at, most recent first
_LISTED = "wrapped_key IS NOT NULL AND study_instance_uid != '' AND reason != ?"
_GROUP = {
    "study": "study_instance_uid",
    "series": "study_instance_uid, series_instance_uid",
    "instance": "seq",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A study, a series or an instance. What is below its level is of its first object, counts and sets are of all."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    rows: int
    columns: int
    frames: int
    series: int
    instances: int
    modalities: tuple[str, ...]
    sop_classes: tuple[str, ...]
    received_ns: int  # of the most recent object
    identity: Identity = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An object that can be read."""

    item_id: str
    object_id: str
    wrapped_key: bytes = field(repr=False)
    size: int
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    rows: int
    columns: int
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An object that stands for all those of its series that name the same patient."""

    item_id: str
    device: str
    identity: Identity = field(repr=False)


class Catalogue:
    """Reads the journal's file for other systems. Thread-safe."""

    def __init__(self, db: Database, site_key: SiteKey) -> None:
        self._db, self._site_key = db, site_key

    def search(self, level: Level, uids: dict[str, list[str]], limit: int = EXAMINED) -> Iterator[Entry]:
        """Yield entries of a level, the most recently grown first, at most `limit` of them.

        Parameters
        ----------
        uids
            Allowed values per column: ``study_instance_uid``, ``series_instance_uid``, ``sop_instance_uid``,
            ``sop_class_uid``, ``modality``, and ``modalities_in_study`` (any of them occurs in the study).
        """
        where, values = [_LISTED], list[Any]([CONFLICT])
        for column, allowed in uids.items():
            marks = ", ".join("?" * len(allowed))
            if column == "modalities_in_study":
                where.append(
                    f"study_instance_uid IN (SELECT study_instance_uid FROM items WHERE modality IN ({marks}))"  # noqa: S608
                )
            elif column in _COLUMNS_OF_UIDS:
                where.append(f"{column} IN ({marks})")
            else:
                raise ValueError(f"{column} cannot be searched here")
            values += allowed
        rows = self._db.view(
            "SELECT i.item_id, i.identity, i.study_instance_uid, i.series_instance_uid, i.sop_instance_uid, "  # noqa: S608
            "i.sop_class_uid, i.transfer_syntax_uid, i.modality, i.rows, i.columns, i.frames, "
            "g.series, g.instances, g.modalities, g.classes, g.last_ns FROM ("
            "SELECT min(seq) AS first, count(DISTINCT series_instance_uid) AS series, count(*) AS instances, "
            "group_concat(DISTINCT modality) AS modalities, group_concat(DISTINCT sop_class_uid) AS classes, "
            f"max(received_ns) AS last_ns FROM items WHERE {' AND '.join(where)} GROUP BY {_GROUP[level]}"
            ") AS g JOIN items AS i ON i.seq = g.first ORDER BY g.last_ns DESC, i.seq DESC LIMIT ?",
            (*values, max(0, min(limit, EXAMINED))),
        )
        for item_id, sealed, study, series, sop, sop_class, syntax, modality, height, width, frames, *counts in rows:
            yield Entry(
                study_instance_uid=study,
                series_instance_uid=series,
                sop_instance_uid=sop,
                sop_class_uid=sop_class,
                transfer_syntax_uid=syntax,
                modality=modality,
                rows=height,
                columns=width,
                frames=frames,
                series=counts[0],
                instances=counts[1],
                modalities=tuple(sorted(filter(None, str(counts[2] or "").split(",")))),
                sop_classes=tuple(sorted(filter(None, str(counts[3] or "").split(",")))),
                received_ns=counts[4],
                identity=opened_identity(self._site_key, item_id, sealed),
            )

    def held(self, study: str, series: str = "", instance: str = "") -> list[Held]:
        """Return the objects of a study, of one series or one instance of it, series by series as they arrived."""
        where, values = _path(study, series, instance)
        rows = self._db.view(
            "SELECT item_id, object_id, wrapped_key, size, sop_class_uid, sop_instance_uid, study_instance_uid, "  # noqa: S608
            f"series_instance_uid, transfer_syntax_uid, rows, columns, frames FROM items WHERE {_LISTED} AND {where} "
            "ORDER BY series_instance_uid, seq",
            (CONFLICT, *values),
        )
        names = tuple(Held.__dataclass_fields__)
        return [Held(**dict(zip(names, row, strict=True))) for row in rows]

    def copies(self, sop_instance_uid: str) -> list[Held]:
        """Return every object under a SOP Instance UID that was not erased, also several with different content."""
        names = tuple(Held.__dataclass_fields__)
        rows = self._db.view(
            f"SELECT {', '.join(names)} FROM items WHERE sop_instance_uid = ? AND wrapped_key IS NOT NULL "  # noqa: S608
            "ORDER BY seq",
            (sop_instance_uid,),
        )
        return [Held(**dict(zip(names, row, strict=True))) for row in rows]

    def named(self, study: str) -> Iterator[Named]:
        """Yield whom a study names: of each series, the first object of each patient, in order of arrival."""
        rows = self._db.view(
            "SELECT item_id, device, identity, min(seq) AS first FROM items WHERE study_instance_uid = ? "
            "GROUP BY series_instance_uid, patient_key ORDER BY first LIMIT ?",
            (study, EXAMINED),
        )
        for item_id, device, sealed, _ in rows:  # SQLite: of the row that has the minimum
            yield Named(item_id=item_id, device=device, identity=opened_identity(self._site_key, item_id, sealed))

    def erased(self, study: str, series: str = "", instance: str = "") -> bool:
        """Return whether there was something of the kind that was erased since."""
        where, values = _path(study, series, instance)
        return self._db.one(f"SELECT 1 FROM items WHERE wrapped_key IS NULL AND {where}", values) is not None  # noqa: S608


_COLUMNS_OF_UIDS = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "modality")


def _path(study: str, series: str, instance: str) -> tuple[str, tuple[str, ...]]:
    given = (("study_instance_uid", study), ("series_instance_uid", series), ("sop_instance_uid", instance))
    used = [(column, value) for column, value in given if value]
    return " AND ".join(f"{column} = ?" for column, _ in used), tuple(value for _, value in used)
