"""The side of a simulated ultrasound machine that talks about examinations instead of sending images.

Responsible for asking the worklist whom to examine, for telling what is performed (MPPS: begun, then completed with the
list of its images), and for asking that the images be committed; a machine may delete its copy only of what was. Every
message waits and is repeated until it is answered, in order. Not responsible for images or their queue (`ultrasound`).
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association

from edgeward.device.backoff import Backoff
from edgeward.device.enrolment import Enrolment
from edgeward.device.ultrasound_image import IMAGES_PER_STUDY, Scheduled, Session, uid
from edgeward.scu import steady

_WORKLIST = "1.2.840.10008.5.1.4.31"
_PERFORMED = "1.2.840.10008.3.1.2.3.3"
_COMMITMENT, _COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
_RESULT_S = 15.0  # how long it waits on its own association for what was committed
_GIVE_UP_AFTER = 5  # refusals that no repetition will change
_SENDS = 3  # times an image is sent again that was not committed

log = logging.getLogger("edgeward.device.ultrasound")


@dataclass(slots=True)
class Counts:
    """What became of the examinations.

    Attributes
    ----------
    scheduled, unscheduled
        Examinations begun with and without a worklist entry.
    begun, completed
        Performed procedure steps the site has accepted.
    committed
        Images the site has committed to keep: the machine has deleted its copy of these.
    kept
        Images of which the machine still keeps its copy.
    given_up
        Messages the site says it can never take.
    """

    scheduled: int = 0
    unscheduled: int = 0
    begun: int = 0
    completed: int = 0
    committed: int = 0
    kept: int = 0
    given_up: int = 0


@dataclass(slots=True)
class _Study:
    performed_uid: str
    waiting: set[str] = field(default_factory=set)  # images not stored yet
    stored: dict[str, str] = field(default_factory=dict)  # SOP Instance UID -> SOP Class UID
    closed: bool = False  # no more images will be taken
    ended: bool = False


class Workflow:
    """The examinations of one run.

    Parameters
    ----------
    resend
        Called with a SOP Instance UID that the site says it does not have: it must be stored again.
    delete
        Called with a SOP Instance UID that the site has committed to keep.
    state
        Where assignments are noted, so that a later run gives a study the same patient.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        session: Session,
        resend: Callable[[str], None],
        delete: Callable[[str], None],
        state: TextIO | None = None,
    ) -> None:
        self._enrolment, self._session, self._state = enrolment, session, state
        self._resend, self._delete = resend, delete
        self.counts = Counts()
        self._studies: dict[int, _Study] = {}
        self._used: set[str] = {one.study_uid + one.step_id for one in session.assigned.values()}
        self._tasks: deque[tuple[Callable[[_Study], bool | None], int]] = deque()
        self._sends: dict[str, int] = {}
        self._refusals = 0
        self._not_offered = False  # the site does not have the service that was asked for last
        self._backoff = Backoff(first=0.5, most=5.0)
        self._not_before = 0.0

    @property
    def busy(self) -> bool:
        """Whether something waits to be told, or an examination is not at its end."""
        return bool(self._tasks) or any(not study.ended for study in self._studies.values())

    # ------------------------------------------------------------ what the machine says

    def taken(self, number: int, instance: str) -> None:
        """An image was taken. With the first one of a study, the examination begins."""
        if number < 0:
            return
        study = self._studies.get(number)
        if study is None:
            self.close_all()
            study = self._begin(number)
        study.waiting.add(instance)
        self.counts.kept += 1

    def stored(self, number: int, instance: str, sop_class: str) -> None:
        """An image was stored."""
        study = self._studies.get(number)
        if study is not None and (instance in study.waiting or instance in self._sends):
            study.waiting.discard(instance)
            study.stored[instance] = sop_class
            self._end(number, study)

    def refused(self, number: int, instance: str) -> None:
        """An image was given up: it is not part of what was performed."""
        study = self._studies.get(number)
        if study is not None:
            study.waiting.discard(instance)
            self._end(number, study)

    def close(self, number: int) -> None:
        """No more images are taken in this study."""
        study = self._studies[number]
        study.closed = True
        self._end(number, study)

    def close_all(self) -> None:
        """No more images are taken at all."""
        for number, study in self._studies.items():
            if not study.closed:
                self.close(number)

    def _begin(self, number: int) -> _Study:
        study = self._studies[number] = _Study(uid(self._session.seed, "performed", number))
        if number not in self._session.assigned and (entry := self._next_entry()):
            self._session.assigned[number] = entry
            self._used.add(entry.study_uid + entry.step_id)
            if self._state is not None:
                self._state.write(json.dumps({"study": number, "assigned": asdict(entry)}) + "\n")
                self._state.flush()
        if number in self._session.assigned:
            self.counts.scheduled += 1
        else:
            self.counts.unscheduled += 1
        self._session.performed[number] = study.performed_uid
        self._tasks.append((self._create, number))
        return study

    def _end(self, number: int, study: _Study) -> None:
        if not study.closed or study.waiting:
            return
        if study.ended:  # images that were sent again
            if not any(task == self._commit and at == number for task, at in self._tasks):
                self._tasks.append((self._commit, number))
            return
        study.ended = True
        self._tasks.append((self._complete, number))
        if study.stored:
            self._tasks.append((self._commit, number))

    # ------------------------------------------------------------ what it says to the site

    def work_off(self) -> None:
        """Tell what waits, if it is time; what goes wrong is tried again later."""
        while self._tasks and time.monotonic() >= self._not_before:
            task, number = self._tasks[0]
            try:
                done = task(self._studies[number])
            except (OSError, RuntimeError, ValueError) as error:
                log.info("the site cannot be told of an examination yet: %s", type(error).__name__)
                done = False
            if done:
                self._tasks.popleft()
                self._refusals = 0
                self._backoff.reset()
                continue
            if done is None:
                self._refusals += 1
                if self._refusals >= _GIVE_UP_AFTER or self._not_offered:
                    log.warning("the site does not take what is told of an examination: given up")
                    self.counts.given_up += 1
                    self._tasks.popleft()
                    self._refusals, self._not_offered = 0, False
                    continue
            self._not_before = time.monotonic() + self._backoff.delay()

    def _next_entry(self) -> Scheduled | None:
        """Return the worklist entry due next that was not examined yet, or None."""
        try:
            association = self._associate(_WORKLIST)
        except OSError:
            return None
        if not association.is_established:
            return None
        found: list[Scheduled] = []
        try:
            for status, identifier in association.send_c_find(_query(self._enrolment.ae_title), _WORKLIST):
                if "Status" in status and status.Status in (0xFF00, 0xFF01) and identifier is not None:
                    entry = _scheduled(identifier)
                    if entry.study_uid and entry.patient_id and entry.study_uid + entry.step_id not in self._used:
                        found.append(entry)
        except (RuntimeError, ValueError) as error:
            log.info("the worklist cannot be read: %s", type(error).__name__)
        finally:
            _release(association)
        return found[0] if found else None

    def _create(self, study: _Study) -> bool | None:
        number = self._number(study)
        exam = self._session.exam(number * IMAGES_PER_STUDY)
        dataset = _begun(exam.scheduled, self._enrolment.ae_title, exam.study_uid, exam.study_at)
        dataset.PatientName, dataset.PatientID = exam.patient_name, exam.patient_id
        dataset.PatientBirthDate = exam.birth_date
        association = self._associate(_PERFORMED)
        if not association.is_established:
            return self._not_there(association)
        try:
            answer, _ = association.send_n_create(dataset, _PERFORMED, study.performed_uid)
        finally:
            _release(association)
        if "Status" not in answer:
            return False
        if answer.Status in (0x0000, 0x0111):  # the second: it was begun, and the answer was lost
            self.counts.begun += 1
            return True
        return None

    def _complete(self, study: _Study) -> bool | None:
        exam = self._session.exam(self._number(study) * IMAGES_PER_STUDY)
        association = self._associate(_PERFORMED)
        if not association.is_established:
            return self._not_there(association)
        try:
            answer, _ = association.send_n_set(_ended(study.stored, exam.series_uid), _PERFORMED, study.performed_uid)
        finally:
            _release(association)
        if "Status" not in answer:
            return False
        if answer.Status in (0x0000, 0x0110):  # the second: it is at its end already
            self.counts.completed += 1
            return True
        return None

    def _commit(self, study: _Study) -> bool | None:
        dataset = Dataset()
        dataset.TransactionUID = transaction = generate_uid()
        dataset.ReferencedSOPSequence = [_item(sop_class, instance) for instance, sop_class in study.stored.items()]
        results: list[Dataset] = []
        there = threading.Event()

        def told(event: evt.Event) -> tuple[int, None]:
            information = event.event_information
            if str(information.get("TransactionUID", "")) == transaction:
                results.append(information)
                there.set()
            return 0x0000, None

        association = self._associate(_COMMITMENT, (evt.EVT_N_EVENT_REPORT, told))
        if not association.is_established:
            return self._not_there(association)
        try:
            answer, _ = association.send_n_action(dataset, 1, _COMMITMENT, _COMMITMENT_INSTANCE)
            if "Status" not in answer:
                return False
            if answer.Status != 0x0000:
                return None
            if not there.wait(_RESULT_S):
                return False
        finally:
            _release(association)
        for item in results[0].get("ReferencedSOPSequence") or ():
            instance = str(item.ReferencedSOPInstanceUID)
            if study.stored.pop(instance, None):
                self._delete(instance)
                self.counts.committed += 1
                self.counts.kept -= 1
        for item in results[0].get("FailedSOPSequence") or ():
            instance = str(item.ReferencedSOPInstanceUID)
            self._sends[instance] = self._sends.get(instance, 0) + 1
            if study.stored.pop(instance, None) and self._sends[instance] <= _SENDS:
                study.waiting.add(instance)
                self._resend(instance)
        return True

    def _not_there(self, association: Association) -> bool | None:
        """Return what it means that there is no association: False for now, None for good."""
        self._not_offered = bool(association.rejected_contexts)
        return None if self._not_offered else False

    def _number(self, study: _Study) -> int:
        return next(number for number, one in self._studies.items() if one is study)

    def _associate(self, sop_class: str, *handlers: tuple[object, object]) -> Association:
        address = self._enrolment.require_dicom()
        entity = AE(ae_title=self._enrolment.ae_title)
        entity.connection_timeout = 5.0
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20.0
        entity.add_requested_context(sop_class)
        return steady(
            entity.associate(
                address.host,
                address.port,
                ae_title=address.ae_title,
                tls_args=(self._enrolment.context(), address.host),
                evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay), *handlers],
            )
        )


def assigned_before(path: Path) -> dict[int, Scheduled]:
    """Return the assignments noted in a state file; a half-written last line is passed over."""
    found: dict[int, Scheduled] = {}
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            if isinstance(row, dict) and "assigned" in row:
                found[int(row["study"])] = Scheduled(**row["assigned"])
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _query(ae_title: str) -> Dataset:
    identifier, step = Dataset(), Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyInstanceUID",
                 "RequestedProcedureID", "RequestedProcedureDescription", "ReferringPhysicianName"):  # fmt: skip
        setattr(identifier, name, "")
    step.ScheduledStationAETitle, step.Modality, step.ScheduledProcedureStepStatus = ae_title, "US", "SCHEDULED"
    step.ScheduledProcedureStepStartDate = step.ScheduledProcedureStepStartTime = ""
    step.ScheduledProcedureStepID = step.ScheduledProcedureStepDescription = ""
    step.ScheduledPerformingPhysicianName = ""
    identifier.ScheduledProcedureStepSequence = [step]
    return identifier


def _scheduled(identifier: Dataset) -> Scheduled:
    steps = identifier.get("ScheduledProcedureStepSequence") or [Dataset()]

    def text(name: str, dataset: Dataset = identifier) -> str:
        return str(dataset.get(name) or "")

    return Scheduled(
        patient_name=text("PatientName"),
        patient_id=text("PatientID"),
        study_uid=text("StudyInstanceUID"),
        accession=text("AccessionNumber"),
        birth_date=text("PatientBirthDate"),
        sex=text("PatientSex"),
        step_id=text("ScheduledProcedureStepID", steps[0]),
        procedure_id=text("RequestedProcedureID"),
        procedure=text("RequestedProcedureDescription") or text("ScheduledProcedureStepDescription", steps[0]),
        referring_physician=text("ReferringPhysicianName"),
    )


def _begun(entry: Scheduled | None, ae_title: str, study_uid: str, at: dt.datetime) -> Dataset:
    """Return the attributes of an N-CREATE (PS3.4, table F.7.2-1)."""
    dataset, step = Dataset(), Dataset()
    step.StudyInstanceUID = study_uid
    step.ReferencedStudySequence = []
    step.AccessionNumber = entry.accession if entry else ""
    step.RequestedProcedureID = entry.procedure_id if entry else ""
    step.RequestedProcedureDescription = step.ScheduledProcedureStepDescription = entry.procedure if entry else ""
    step.ScheduledProcedureStepID = entry.step_id if entry else ""
    step.ScheduledProtocolCodeSequence = []
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ScheduledStepAttributesSequence = [step]
    dataset.PatientSex = entry.sex if entry else "F"
    dataset.ReferencedPatientSequence = []
    dataset.PerformedProcedureStepID = f"P{at:%H%M%S}"
    dataset.PerformedStationAETitle, dataset.PerformedStationName, dataset.PerformedLocation = ae_title, "", ""
    dataset.PerformedProcedureStepStartDate, dataset.PerformedProcedureStepStartTime = f"{at:%Y%m%d}", f"{at:%H%M%S}"
    dataset.PerformedProcedureStepEndDate = dataset.PerformedProcedureStepEndTime = ""
    dataset.PerformedProcedureStepStatus = "IN PROGRESS"
    dataset.PerformedProcedureStepDescription = dataset.PerformedProcedureTypeDescription = ""
    dataset.ProcedureCodeSequence = []
    dataset.Modality, dataset.StudyID = "US", ""
    dataset.PerformedProtocolCodeSequence = dataset.PerformedSeriesSequence = []
    return dataset


def _ended(stored: dict[str, str], series_uid: str) -> Dataset:
    dataset, now = Dataset(), dt.datetime.now().astimezone()
    dataset.PerformedProcedureStepStatus = "COMPLETED" if stored else "DISCONTINUED"
    dataset.PerformedProcedureStepEndDate, dataset.PerformedProcedureStepEndTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    series = Dataset()
    series.SeriesInstanceUID, series.ProtocolName, series.RetrieveAETitle = series_uid, "B-mode", ""
    series.PerformingPhysicianName = series.OperatorsName = series.SeriesDescription = ""
    series.ReferencedImageSequence = [_item(sop_class, instance) for instance, sop_class in stored.items()]
    series.ReferencedNonImageCompositeSOPInstanceSequence = []
    dataset.PerformedSeriesSequence = [series]
    return dataset


def _item(sop_class: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class or UltrasoundImageStorage
    item.ReferencedSOPInstanceUID = instance
    return item


def _release(association: Association) -> None:
    if association.is_established:
        association.release()


def _no_delay(event: evt.Event) -> None:
    wrapped = event.assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None:
        wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
