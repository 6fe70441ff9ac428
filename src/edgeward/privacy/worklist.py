"""The worklist: rows of the journal as people see them, filtered, searched, ordered and counted.

Responsible for the queries behind `ItemsQuery`. Not responsible for the states of items (``privacy.journal``). Rows
carry identity: they are for the console only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from edgeward.messages import DeliveryReport, Finding, ItemsQuery, ItemSummary, Verdict, decode
from edgeward.privacy.database import Database, Row
from edgeward.privacy.items import STATES, Identity
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.sealing import opened_identity, opened_verdict
from edgeward.searching import mentions, words

Read = Callable[[str, Row], list[Row]]
_SAME_UID = 20  # other items under its SOP Instance UID that are told of an item
ROWS = 500  # at most, whatever a query's limit says
SEARCHED = 50_000  # identities that one text search opens at most, about 5 µs each
_COLUMNS = (
    "item_id, state, reason, received_ns, deadline_ns, analysed_ns, delivered_ns, late, device, modality, "
    "sop_class_uid, sop_instance_uid, study_instance_uid, series_instance_uid, transfer_syntax_uid, size, "
    "wrapped_key IS NOT NULL, identity, finding, "
    "(SELECT complete FROM studies WHERE studies.study_instance_uid = items.study_instance_uid), "
    "(SELECT listed FROM studies WHERE studies.study_instance_uid = items.study_instance_uid), "
    "(SELECT missing FROM studies WHERE studies.study_instance_uid = items.study_instance_uid)"
)
_ORDER = {
    "newest": "received_ns DESC, seq DESC",
    "priority": "rank, urgency DESC, received_ns DESC, seq DESC",
}
# Values of an indexed column, found by jumping from one to the next: the cost is of the values, not of the rows.
_DISTINCT = (
    "WITH RECURSIVE found (value) AS (SELECT min({0}) FROM items UNION ALL "
    "SELECT (SELECT min({0}) FROM items WHERE {0} > value) FROM found WHERE value IS NOT NULL) "
    "SELECT value FROM found WHERE value IS NOT NULL AND value != '' LIMIT 1000"
)


class Worklist:
    """Reads the journal's file for people. Thread-safe."""

    def __init__(self, db: Database, site_key: SiteKey) -> None:
        self._db, self._site_key = db, site_key

    def page(self, query: ItemsQuery, now_ns: int) -> tuple[list[ItemSummary], int]:
        """Return the rows that a query asks for, and how many match its conditions in all.

        Parameters
        ----------
        query
            At most `ROWS` rows are returned, whatever its limit says; only a single item that is asked for by its id
            has outlines and the frames of a loop. A text is looked for in the `SEARCHED` first rows
            that fulfil the other conditions, in the order that is asked for.
        now_ns
            An open item past its deadline is shown late.

        Returns
        -------
        tuple
            The rows, and the number of matching rows; -1 if a text search had to end before it had seen all.
        """
        read = self._db.all if query.item_id else self._db.view  # one row does not wait for somebody's long search
        where, values = self._conditions(query, now_ns)
        order, limit, offset = _ORDER[query.order], max(0, min(query.limit, ROWS)), max(0, query.offset)
        if query.text.strip():
            names, total = self._search(query.text, where, values, order)
            page = names[offset : offset + limit]
            marks = ", ".join("?" * len(page))
            rows = self._db.view(
                f"SELECT {_COLUMNS} FROM items WHERE item_id IN ({marks}) ORDER BY {order}",  # noqa: S608
                tuple(page),
            )
            return [_brief(one) for one in self._summaries(rows, now_ns, read)], total
        rows = read(
            f"SELECT {_COLUMNS} FROM items WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?",  # noqa: S608
            (*values, limit, offset),
        )
        found = self._summaries(rows, now_ns, read)
        if query.item_id:
            return [replace(one, same_uid=self._same_uid(one)) for one in found], len(found)
        return [_brief(one) for one in found], self._total(where, values)

    def counts(self) -> dict[str, int]:
        """Return the number of rows per state; every state is there."""
        rows = self._db.view("SELECT state, count(*) FROM items GROUP BY state")
        return dict.fromkeys(STATES, 0) | {str(state): int(count) for state, count in rows}

    def modalities(self) -> list[str]:
        """Return the modalities that occur."""
        return [str(value) for (value,) in self._db.view(_DISTINCT.format("modality"))]

    def devices(self) -> list[str]:
        """Return the devices that sent something."""
        return [str(value) for (value,) in self._db.view(_DISTINCT.format("device"))]

    def _total(self, where: str, values: tuple[Any, ...]) -> int:
        ((count,),) = self._db.view(f"SELECT count(*) FROM items WHERE {where}", values)  # noqa: S608 - our own conditions
        return int(count)

    def _conditions(self, query: ItemsQuery, now_ns: int) -> tuple[str, tuple[Any, ...]]:
        where, values = ["1 = 1"], list[Any]()
        for given, condition in (
            (query.item_id, "item_id = ?"),
            (query.before_ns, "received_ns < ?"),
            (query.since_ns, "received_ns >= ?"),
            (query.state, "state = ?"),
            (query.study_instance_uid, "study_instance_uid = ?"),
            (query.series_instance_uid, "series_instance_uid = ?"),
            (query.device, "device = ?"),
            (query.modality, "modality = ?"),
        ):
            if given:
                where.append(condition)
                values.append(given)
        if query.suspicious is not None:
            where.append("suspicious = ?")
            values.append(int(query.suspicious))
        if query.decided is not None:
            where.append("revision > 0" if query.decided else "revision = 0")
        if query.late is not None:
            late = "(late = 1 OR (state NOT IN ('closed', 'failed') AND deadline_ns < ?))"
            where.append(late if query.late else f"NOT {late}")
            values.append(now_ns)
        if query.same_patient_as:
            condition, more = self._same_patient(query.same_patient_as)
            where.append(condition)
            values += more
        return " AND ".join(where), tuple(values)

    def _same_patient(self, item_id: str) -> tuple[str, list[Any]]:
        row = self._db.one("SELECT patient_key, study_instance_uid FROM items WHERE item_id = ?", (item_id,))
        if row is None:
            return "0", []
        key, study = row
        if key:
            return "patient_key = ?", [key]
        # Without a patient id only the study tells who it is of.
        return ("study_instance_uid = ? AND patient_key = x''", [study]) if study else ("item_id = ?", [item_id])

    def _same_uid(self, item: ItemSummary) -> list[str]:
        """Return the other items with the SOP Instance UID of an item, in order of arrival."""
        rows = self._db.all(
            "SELECT item_id FROM items WHERE sop_instance_uid = ? AND sop_instance_uid != '' AND item_id != ? "
            "ORDER BY seq LIMIT ?",
            (item.sop_instance_uid, item.item_id, _SAME_UID),
        )
        return [str(item_id) for (item_id,) in rows]

    def _search(self, text: str, where: str, values: tuple[Any, ...], order: str) -> tuple[list[str], int]:
        rows = self._db.view(
            f"SELECT item_id, identity FROM items WHERE {where} ORDER BY {order} LIMIT ?",  # noqa: S608
            (*values, SEARCHED + 1),
        )
        wanted = words(text)
        found = [
            str(item_id)
            for item_id, sealed in rows[:SEARCHED]
            if _mentions(opened_identity(self._site_key, item_id, sealed), wanted)
        ]
        return found, len(found) if len(rows) <= SEARCHED else -1

    def _summaries(self, rows: list[Row], now_ns: int, read: Read) -> list[ItemSummary]:
        names = tuple(row[0] for row in rows)
        marks = ", ".join("?" * len(names))
        verdicts: dict[str, list[Verdict]] = {}
        deliveries: dict[str, list[DeliveryReport]] = {}
        for item_id, verdict_id, sealed in read(
            f"SELECT item_id, verdict_id, verdict FROM verdicts WHERE item_id IN ({marks}) ORDER BY revision",  # noqa: S608
            names,
        ):
            verdicts.setdefault(item_id, []).append(opened_verdict(self._site_key, verdict_id, sealed))
        for item_id, blob in read(
            f"SELECT item_id, report FROM deliveries WHERE item_id IN ({marks}) AND report IS NOT NULL "  # noqa: S608
            "ORDER BY revision, destination",
            names,
        ):
            deliveries.setdefault(item_id, []).append(decode(DeliveryReport, blob))
        return [self._summary(row, now_ns, verdicts.get(row[0], []), deliveries.get(row[0], [])) for row in rows]

    def _summary(
        self, row: tuple[Any, ...], now_ns: int, verdicts: list[Verdict], deliveries: list[DeliveryReport]
    ) -> ItemSummary:
        (item_id, state, reason, received, deadline, analysed, delivered, late, device, modality) = row[:10]
        (sop_class, sop_instance, study, series, syntax, size, kept, sealed, finding, complete) = row[10:20]
        listed, missing = row[20:]
        identity = opened_identity(self._site_key, item_id, sealed)
        return ItemSummary(
            item_id=item_id,
            state=state,
            reason=reason,
            received_ns=received,
            analysed_ns=analysed,
            delivered_ns=delivered,
            late=bool(late) or (state not in ("closed", "failed") and now_ns > deadline),
            device=device,
            patient_name=identity.patient_name,
            patient_id=identity.patient_id,
            patient_birth_date=identity.birth_date,
            patient_sex=identity.patient_sex,
            accession_number=identity.accession_number,
            study_date=identity.study_date,
            study_time=identity.study_time,
            study_description=identity.study_description,
            modality=modality,
            sop_class_uid=sop_class,
            sop_instance_uid=sop_instance,
            study_instance_uid=study,
            series_instance_uid=series,
            transfer_syntax_uid=syntax,
            size=size if kept else 0,
            study_complete=bool(complete),
            study_listed=listed or 0,
            study_missing=missing or 0,
            instance_number=identity.instance_number,
            finding=decode(Finding, finding) if finding else None,
            verdicts=verdicts,
            deliveries=deliveries,
        )


def _brief(item: ItemSummary) -> ItemSummary:
    """Leave out what a list does not show: outlines, and the frames of a loop, which may be megabytes over all rows."""
    if item.finding is None:
        return item
    lesions = [replace(lesion, contour=[]) for lesion in item.finding.lesions]
    return replace(item, finding=replace(item.finding, lesions=lesions, frame_findings=[]))


def _mentions(identity: Identity, wanted: list[str]) -> bool:
    others = (identity.patient_id, identity.accession_number, identity.study_description)
    return mentions(identity.patient_name, others, wanted)
