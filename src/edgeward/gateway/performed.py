"""Modality Performed Procedure Step SCP: N-CREATE and N-SET (PS3.4, annex F.7).

Responsible for the life of a performed step (IN PROGRESS, then COMPLETED or DISCONTINUED, then unchangeable), for
keeping it sealed and durable before it is answered, for the status it gives the order it belongs to, and for telling
which instances a modality says a study has. Not responsible for associations or for what the study is good for.

A step belongs to the scheduled steps that its Scheduled Step Attributes Sequence names, by study instance UID together
with the step's id or the accession number. One that names none (an unscheduled examination) is kept all the same.

Statuses (PS3.7, annex C; PS3.4, F.7.2.1.3 and F.7.2.2.3): 0000; 0105 no such attribute; 0106 invalid value; 0110 may no
longer be updated, or processing failure; 0111 duplicate instance; 0112 no such instance; 0117 invalid instance UID;
0118 no such class; 0120 missing attribute; 0121 missing value; 0211 unrecognised operation.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid

from edgeward.gateway.dimse import DimseRequest, DimseService, Operation, Reply
from edgeward.gateway.order_entry import Entry, Status
from edgeward.gateway.orders import OrderBook
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.keys import SiteKey

_log = logging.getLogger("edgeward.gateway.performed")

PERFORMED_STEP = "1.2.840.10008.3.1.2.3.3"
IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"
WRONG_ENTRY = "110514"  # DCM: Incorrect worklist entry selected (PS3.16, CID 9300)

SUCCESS = 0x0000
INVALID_VALUE, PROCESSING_FAILURE, DUPLICATE, NO_SUCH_INSTANCE = 0x0106, 0x0110, 0x0111, 0x0112
INVALID_INSTANCE, MISSING_ATTRIBUTE, MISSING_VALUE, UNRECOGNISED_OPERATION = 0x0117, 0x0120, 0x0121, 0x0211
RESOURCES = 0x0213

# PS3.4, table F.7.2-1, type 1 of N-CREATE.
_CREATE = (
    "ScheduledStepAttributesSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepStatus",
    "Modality",
)
# The same table, what must be there when a step is completed.
_COMPLETE = ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "PerformedSeriesSequence")
# What a later N-SET may not change (those attributes are for N-CREATE only).
_FIXED = frozenset(
    {
        "ScheduledStepAttributesSequence", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate",
        "PatientSex", "ReferencedPatientSequence", "PerformedProcedureStepID", "PerformedStationAETitle",
        "PerformedStationName", "PerformedLocation", "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime", "Modality", "StudyID", "SOPClassUID", "SOPInstanceUID",
    }
)  # fmt: skip
_REFERENCES = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
_UID = re.compile(r"^(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))*$")
_LARGEST = 8 << 20


@dataclass(frozen=True, slots=True)
class Performed:
    """What modalities say of a study.

    Attributes
    ----------
    open
        Steps that are still in progress: more will come.
    instances
        SOP Instance UIDs that the finished and running steps name.
    """

    open: int
    instances: frozenset[str]


class _Refused(Exception):
    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status


class PerformedSteps(DimseService):
    """Keeps performed procedure steps in the order book's database.

    Parameters
    ----------
    changed
        Called with a study instance UID when what modalities say of that study changed; from the association's thread.
    begun
        Called when a step was begun: with the scheduled steps it belongs to, patient id, its issuer, and the device.
    """

    sop_classes = (PERFORMED_STEP,)

    def __init__(
        self,
        book: OrderBook,
        site_key: SiteKey,
        changed: Callable[[str], None] = lambda _: None,
        clock: Callable[[], int] = time.time_ns,
        begun: Callable[[list[Entry], str, str, str], None] = lambda *_: None,
    ) -> None:
        self._book, self._key, self._changed, self._clock, self._begun = book, site_key, changed, clock, begun

    def serve(self, request: DimseRequest) -> Iterator[Reply]:
        """See `DimseService.serve`."""
        try:
            if request.operation is Operation.N_CREATE:
                reply, studies = self._create(request)
            elif request.operation is Operation.N_SET:
                reply, studies = self._set(request)
            else:
                reply, studies = Reply(status=UNRECOGNISED_OPERATION, comment="it takes N-CREATE and N-SET"), []
        except _Refused as refused:
            reply, studies = Reply(status=refused.status, comment=str(refused)[:64]), []
        except DatabaseError as error:
            _log.error("a performed step could not be kept: %s", error)
            reply, studies = Reply(status=RESOURCES, comment="it could not be kept; send it again later"), []
        for study in studies:  # it is durable; nothing runs after the final reply
            self._changed(study)
        yield reply

    def performed(self, study_instance_uid: str) -> Performed | None:
        """Return what modalities say of a study, or None if they said nothing."""
        rows = self._book.db.all(
            "SELECT p.sop_instance_uid, p.status FROM performed p JOIN performed_studies s ON s.performed = "
            "p.sop_instance_uid WHERE s.study_instance_uid = ?",
            (study_instance_uid,),
        )
        if not rows:
            return None
        instances = self._book.db.all(
            "SELECT i.sop_instance_uid FROM performed_instances i JOIN performed_studies s "
            "ON s.performed = i.performed WHERE s.study_instance_uid = ?",
            (study_instance_uid,),
        )
        return Performed(sum(status == IN_PROGRESS for _, status in rows), frozenset(str(row[0]) for row in instances))

    def expected(self, study_instance_uid: str) -> set[str] | None:
        """Return the SOP Instance UIDs of a study whose performed steps have all ended, else None."""
        told = self.performed(study_instance_uid)
        return None if told is None or told.open else set(told.instances)

    # ------------------------------------------------------------ requests

    def _create(self, request: DimseRequest) -> tuple[Reply, list[str]]:
        uid = request.sop_instance_uid or generate_uid()
        if not _UID.match(uid):
            raise _Refused(INVALID_INSTANCE, "the SOP Instance UID is not a UID")
        dataset = _given(request)
        for name in _CREATE:
            _require(dataset, name)
        for step in dataset.ScheduledStepAttributesSequence:
            _require(step, "StudyInstanceUID")
        if _text(dataset, "PerformedProcedureStepStatus") != IN_PROGRESS:
            raise _Refused(INVALID_VALUE, "a new step is IN PROGRESS (0040,0252)")

        def work(db: sqlite3.Connection) -> list[tuple[int, Entry]]:
            if db.execute("SELECT 1 FROM performed WHERE sop_instance_uid = ?", (uid,)).fetchone():
                raise _Refused(DUPLICATE, "there is a performed step with this UID already")
            db.execute(
                "INSERT INTO performed (sop_instance_uid, device, status, changed_ns, sealed) VALUES (?, ?, ?, ?, ?)",
                (uid, request.device_id, IN_PROGRESS, self._clock(), self._sealed(uid, dataset)),
            )
            self._index(db, uid, dataset)
            return self._book.progressed(db, _belongs(dataset), self._status_of(db, dataset))

        self._book.remember(self._book.db.write(work))
        patient, issuer = _text(dataset, "PatientID"), _text(dataset, "IssuerOfPatientID")
        self._begun(self._book.wanted(_belongs(dataset)), patient, issuer, request.device_id)
        return Reply(status=SUCCESS, sop_instance_uid=uid), _studies(dataset)

    def _set(self, request: DimseRequest) -> tuple[Reply, list[str]]:
        uid, modification = request.sop_instance_uid, _given(request)
        status = _text(modification, "PerformedProcedureStepStatus")
        if "PerformedProcedureStepStatus" in modification and status not in (IN_PROGRESS, COMPLETED, DISCONTINUED):
            raise _Refused(INVALID_VALUE, "no such status of a performed step (0040,0252)")

        def work(db: sqlite3.Connection) -> tuple[list[tuple[int, Entry]], Dataset]:
            row = db.execute(
                "SELECT status, sealed, device FROM performed WHERE sop_instance_uid = ?", (uid,)
            ).fetchone()
            if row is None or row[2] != request.device_id:
                raise _Refused(NO_SUCH_INSTANCE, "there is no performed step with this UID")
            if row[0] != IN_PROGRESS:
                raise _Refused(PROCESSING_FAILURE, "Performed Procedure Step Object may no longer be updated")
            dataset = self._opened(uid, row[1])
            for element in modification:
                if element.keyword not in _FIXED and element.tag.element:
                    dataset[element.tag] = element
            if status == COMPLETED:
                for name in _COMPLETE:
                    _require(dataset, name)
                for series in dataset.PerformedSeriesSequence:
                    _require(series, "SeriesInstanceUID")
            db.execute(
                "UPDATE performed SET status = ?, changed_ns = ?, sealed = ? WHERE sop_instance_uid = ?",
                (status or row[0], self._clock(), self._sealed(uid, dataset), uid),
            )
            self._index(db, uid, dataset)
            if status not in (COMPLETED, DISCONTINUED):
                return [], dataset
            return self._book.progressed(db, _belongs(dataset), self._status_of(db, dataset)), dataset

        changed, dataset = self._book.db.write(work)
        self._book.remember(changed)
        return Reply(status=SUCCESS), _studies(dataset)

    def _status_of(self, db: sqlite3.Connection, dataset: Dataset) -> Callable[[Entry], Status]:
        """Return what the performed steps of a scheduled one make of it, of which `dataset` is one."""
        studies = _studies(dataset)

        def status_of(entry: Entry) -> Status:
            told: dict[str, tuple[str, Dataset]] = {}
            for study in {*studies, entry.order.study_instance_uid}:
                rows = db.execute(
                    "SELECT p.sop_instance_uid, p.status, p.sealed, p.changed_ns FROM performed p "
                    "JOIN performed_studies s ON s.performed = p.sop_instance_uid WHERE s.study_instance_uid = ?",
                    (study,),
                )
                for uid, status, sealed, changed_ns in rows.fetchall():
                    # What ended before the order was placed again says nothing of what is to be done now.
                    if status == IN_PROGRESS or changed_ns > entry.reopened_ns:
                        told[uid] = (status, self._opened(uid, sealed))
            return _order_status([(status, one) for status, one in told.values() if _belongs(one)(entry)])

        return status_of

    def _index(self, db: sqlite3.Connection, uid: str, dataset: Dataset) -> None:
        db.execute("DELETE FROM performed_studies WHERE performed = ?", (uid,))
        db.execute("DELETE FROM performed_instances WHERE performed = ?", (uid,))
        db.executemany(
            "INSERT OR IGNORE INTO performed_studies (study_instance_uid, performed) VALUES (?, ?)",
            [(study, uid) for study in _studies(dataset)],
        )
        db.executemany(
            "INSERT OR IGNORE INTO performed_instances (performed, sop_instance_uid) VALUES (?, ?)",
            [(uid, instance) for instance in _instances(dataset)],
        )

    def _sealed(self, uid: str, dataset: Dataset) -> bytes:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        try:
            write_dataset(buffer, dataset)
        except Exception as error:  # whatever a broken value leads to; its text may quote it
            raise _Refused(PROCESSING_FAILURE, f"it cannot be written ({type(error).__name__})") from None
        data = buffer.getvalue()
        if len(data) > _LARGEST:
            raise _Refused(PROCESSING_FAILURE, "it is too large")
        return self._key.seal(data, b"performed:" + uid.encode())

    def _opened(self, uid: str, sealed: bytes) -> Dataset:
        data = self._key.open(sealed, b"performed:" + uid.encode())
        return read_dataset(BytesIO(data), is_implicit_VR=False, is_little_endian=True)


# ---------------------------------------- data sets


def _given(request: DimseRequest) -> Dataset:
    if request.dataset is None:
        raise _Refused(MISSING_ATTRIBUTE, "the request has no attributes")
    dataset = Dataset()
    try:
        for element in request.dataset:
            dataset.add(element)  # read now: a value that cannot be read is told, and nothing else is
        list(dataset.iterall())
        dataset.SpecificCharacterSet = "ISO_IR 192"  # as which it is kept
    except Exception as error:
        raise _Refused(INVALID_VALUE, f"an attribute cannot be read ({type(error).__name__})") from None
    return dataset


def _require(dataset: Dataset, name: str) -> None:
    if name not in dataset:
        raise _Refused(MISSING_ATTRIBUTE, f"{name} is missing")
    value: Any = dataset[name].value
    if value is None or value == "" or (dataset[name].VR == "SQ" and not len(value)):
        raise _Refused(MISSING_VALUE, f"{name} is empty")
    if name.endswith("UID") and not _UID.match(str(value)):
        raise _Refused(INVALID_VALUE, f"{name} is not a UID")


def _text(dataset: Dataset, name: str) -> str:
    return str(dataset.get(name) or "").strip()


def _studies(dataset: Dataset) -> list[str]:
    found = [_text(step, "StudyInstanceUID") for step in dataset.get("ScheduledStepAttributesSequence") or ()]
    return list(dict.fromkeys(uid for uid in found if uid))


def _instances(dataset: Dataset) -> list[str]:
    return [
        uid
        for series in dataset.get("PerformedSeriesSequence") or ()
        for name in _REFERENCES
        for item in series.get(name) or ()
        if _UID.match(uid := _text(item, "ReferencedSOPInstanceUID"))
    ]


def _belongs(dataset: Dataset) -> Callable[[Entry], bool]:
    """Return which scheduled steps a performed one names."""
    named = [
        (_text(step, "StudyInstanceUID"), _text(step, "ScheduledProcedureStepID"), _text(step, "AccessionNumber"))
        for step in dataset.get("ScheduledStepAttributesSequence") or ()
    ]

    def belongs(entry: Entry) -> bool:
        order = entry.order
        for study, step_id, accession in named:
            if step_id:  # ids of steps are unique within an accession or a study only
                if entry.step_id == step_id and (
                    order.study_instance_uid == study or order.accession_number == accession
                ):
                    return True
            elif order.study_instance_uid == study or (accession and order.accession_number == accession):
                return True
        return False

    return belongs


def _order_status(steps: list[tuple[str, Dataset]]) -> Status:
    """Return what the performed steps of one scheduled step, each with its status, make of it.

    One that is completed has done it, whatever became of the others; it is given up if all were. Where the wrong entry
    was chosen nothing was begun: the right patient still waits for this examination.
    """
    statuses = [status for status, dataset in steps if not (status == DISCONTINUED and _wrong_entry(dataset))]
    if COMPLETED in statuses:
        return "completed"
    if IN_PROGRESS in statuses:
        return "started"
    return "discontinued" if statuses else "scheduled"


def _wrong_entry(dataset: Dataset) -> bool:
    reasons = dataset.get("PerformedProcedureStepDiscontinuationReasonCodeSequence") or ()
    return any(_text(reason, "CodeValue") == WRONG_ENTRY for reason in reasons)
