"""The catalogue: what is still in the vault, by study, series and instance, for systems that ask for it (DICOMweb).

Responsible for finding objects by their UIDs and for counting what belongs together. Not responsible for matching
attributes (``gateway.qido``), nor for who may ask.

An object is listed while its key exists. Of several objects of one study with the same SOP Instance UID only the first
is listed: the others are conflicts, kept for a person to look at. In another study than the first one a conflict is
listed, or nobody could look at it there.

A study belongs to one patient (PS3.3, A.1.2.2). One that names several all the same is listed once for each, so that
each of them is found and none is shown as another's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

from edgeward.privacy.database import Database
from edgeward.privacy.items import CONFLICT, Identity
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.sealing import opened_identity

Level = Literal["study", "series", "instance"]
EXAMINED = 20_000  # rows of one level that one search looks at, most recent first
_LISTED = (
    "wrapped_key IS NOT NULL AND study_instance_uid != '' AND (reason != ?1 OR NOT EXISTS (SELECT 1 FROM items AS same "
    "WHERE same.sop_instance_uid = items.sop_instance_uid AND same.study_instance_uid = items.study_instance_uid "
    "AND (same.reason != ?1 OR same.seq < items.seq)))"
)
_GROUP = {
    "study": "study_instance_uid",
    "series": "study_instance_uid, series_instance_uid",
    "instance": "seq",
}
_SERIES = "group_concat(DISTINCT series_instance_uid)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A study, a series or an instance. What is below its level is of its first object, counts and sets are of all.

    Of a study or series that names several patients: of the first object of one of them, and of all of that one's.
    """

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

    def search(
        self, level: Level, uids: dict[str, list[str]], limit: int = EXAMINED, *, by_patient: bool = True
    ) -> Iterator[Entry]:
        """Yield entries of a level, the most recently grown first, at most `limit` of them.

        Parameters
        ----------
        uids
            Allowed values per column: ``study_instance_uid``, ``series_instance_uid``, ``sop_instance_uid``,
            ``sop_class_uid``, ``modality``, and ``modalities_in_study`` (any of them occurs in the study).
        by_patient
            Whether a study or series that names several patients has an entry for each.
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
        limit = max(0, min(limit, EXAMINED))
        yield from islice(self._entries(level, where, values, limit, by_patient=by_patient), limit)

    def _entries(
        self, level: Level, where: list[str], values: list[Any], limit: int, *, by_patient: bool
    ) -> Iterator[Entry]:
        """Yield entries; only one that names several patients, which is rare, costs a query of its own."""
        for entry, several, _ in self._grouped(where, values, _GROUP[level], limit):
            if not (several and by_patient):
                yield entry
                continue
            place, uids = ["study_instance_uid = ?"], [entry.study_instance_uid]
            if level == "series":
                place, uids = [*place, "series_instance_uid = ?"], [*uids, entry.series_instance_uid]
            found = self._grouped([*where, *place], [*values, *uids], "patient_key", EXAMINED, _SERIES)
            yield from _by_patient((one, series) for one, _, series in found)

    def _grouped(
        self, where: list[str], values: list[Any], group: str, limit: int, series: str = "''"
    ) -> Iterator[tuple[Entry, bool, set[str]]]:
        """Yield groups, the most recently grown first, whether they name several patients, and `_SERIES` if wanted."""
        rows = self._db.view(
            "SELECT i.item_id, i.identity, i.study_instance_uid, i.series_instance_uid, i.sop_instance_uid, "  # noqa: S608
            "i.sop_class_uid, i.transfer_syntax_uid, i.modality, i.rows, i.columns, i.frames, "
            "g.series, g.instances, g.modalities, g.classes, g.last_ns, g.several, g.uids FROM ("
            "SELECT min(seq) AS first, count(DISTINCT series_instance_uid) AS series, count(*) AS instances, "
            "group_concat(DISTINCT modality) AS modalities, group_concat(DISTINCT sop_class_uid) AS classes, "
            "max(received_ns) AS last_ns, min(patient_key) != max(patient_key) AS several, "
            f"{series} AS uids FROM items WHERE {' AND '.join(where)} GROUP BY {group}"
            ") AS g JOIN items AS i ON i.seq = g.first ORDER BY g.last_ns DESC, i.seq DESC LIMIT ?",
            (*values, limit),
        )
        for item_id, sealed, study, series_uid, sop, sop_class, syntax, modality, height, width, frames, *sums in rows:
            entry = Entry(
                study_instance_uid=study,
                series_instance_uid=series_uid,
                sop_instance_uid=sop,
                sop_class_uid=sop_class,
                transfer_syntax_uid=syntax,
                modality=modality,
                rows=height,
                columns=width,
                frames=frames,
                series=sums[0],
                instances=sums[1],
                modalities=_members(sums[2]),
                sop_classes=_members(sums[3]),
                received_ns=sums[4],
                identity=opened_identity(self._site_key, item_id, sealed),
            )
            yield entry, bool(sums[5]), set(str(sums[6]).split(","))

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


def _members(joined: str | None) -> tuple[str, ...]:
    return tuple(sorted(filter(None, (joined or "").split(","))))


def _by_patient(parts: Iterable[tuple[Entry, set[str]]]) -> list[Entry]:
    """Return an entry for each patient of a study or series, the most recently grown first.

    The parts are of one issuer and Patient ID each, with the series that they have. Those that may be of the same
    patient are put together: one that does not tell the issuer of a number, and one without a number if there is only
    one patient.
    """
    patients: dict[tuple[str, str], list[tuple[Entry, set[str]]]] = {}
    known: dict[str, tuple[str, str]] = {}  # the first patient with a number
    nameless: list[tuple[Entry, set[str]]] = []
    for part in sorted(parts, key=lambda part: not part[0].identity.issuer_of_patient_id.strip()):
        identity = part[0].identity
        number, issuer = identity.patient_id.strip(), identity.issuer_of_patient_id.strip()
        if not number:
            nameless.append(part)
            continue
        patient = (number, issuer) if issuer else known.get(number, (number, ""))
        known.setdefault(number, patient)
        patients.setdefault(patient, []).append(part)
    if nameless and len(patients) == 1:
        next(iter(patients.values())).extend(nameless)
    elif nameless:
        patients["", ""] = nameless
    return sorted(map(_joined, patients.values()), key=lambda entry: -entry.received_ns)


def _joined(parts: list[tuple[Entry, set[str]]]) -> Entry:
    """Return the first of several entries with the counts and sets of all."""
    entries = [entry for entry, _ in parts]
    return replace(
        entries[0],
        series=len(set[str]().union(*(series for _, series in parts))),
        instances=sum(entry.instances for entry in entries),
        modalities=tuple(sorted({name for entry in entries for name in entry.modalities})),
        sop_classes=tuple(sorted({uid for entry in entries for uid in entry.sop_classes})),
        received_ns=max(entry.received_ns for entry in entries),
    )


def _path(study: str, series: str, instance: str) -> tuple[str, tuple[str, ...]]:
    given = (("study_instance_uid", study), ("series_instance_uid", series), ("sop_instance_uid", instance))
    used = [(column, value) for column, value in given if value]
    return " AND ".join(f"{column} = ?" for column, _ in used), tuple(value for _, value in used)
