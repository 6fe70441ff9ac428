"""Modality Worklist SCP: C-FIND on the Modality Worklist Information Model (PS3.4, annex K).

Responsible for what a worklist entry holds (PS3.4, table K.6-1) and for answering a query with the entries that match.
Not responsible for the orders behind them (``orders``), for matching as such (``worklist_keys``) or for associations.

Two rules go beyond the standard, because orders often do not say what a modality asks for. A step that no station is
named for is offered to every station, and a step without a modality to every modality: the answer then carries what was
asked for. An entry too many is seen; an entry that is missing leads to a scan without order.

Statuses (PS3.4, C.4.1.1.4): FF00 and FF01 (an optional key is not supported) with each match, 0000 at the end; FE00
cancelled; A700 more matches than we answer; A900 the identifier does not match the SOP class; C000 not understood.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from edgeward.gateway.dimse import DimseRequest, DimseService, Operation, Reply
from edgeward.gateway.order_entry import Code, Entry
from edgeward.gateway.orders import OrderBook
from edgeward.gateway.worklist_keys import BadIdentifier, Question, ask

_log = logging.getLogger("edgeward.gateway.worklist")

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
MOST = 1000  # answers to one query

SUCCESS, CANCELLED = 0x0000, 0xFE00
PENDING, PENDING_WITHOUT_OPTIONAL_KEYS = 0xFF00, 0xFF01
OUT_OF_RESOURCES, DOES_NOT_MATCH, CANNOT_UNDERSTAND = 0xA700, 0xA900, 0xC000
UNRECOGNISED_OPERATION = 0x0211


class Worklist(DimseService):
    """Answers worklist queries from an order book."""

    sop_classes = (MODALITY_WORKLIST,)

    def __init__(self, book: OrderBook, most: int = MOST) -> None:
        self._book, self._most = book, most

    def serve(self, request: DimseRequest) -> Iterator[Reply]:
        """See `DimseService.serve`."""
        if request.operation is not Operation.C_FIND:
            yield Reply(status=UNRECOGNISED_OPERATION, comment="a worklist answers C-FIND only")
            return
        if request.dataset is None:
            yield Reply(status=DOES_NOT_MATCH, comment="the query has no identifier")
            return
        try:
            question = ask(request.dataset, request.calling_ae_title)
        except BadIdentifier as error:
            yield Reply(status=error.status, comment=str(error)[:64])
            return
        yield from self._answers(request, question)

    def _answers(self, request: DimseRequest, question: Question) -> Iterator[Reply]:
        status = PENDING if question.all_supported else PENDING_WITHOUT_OPTIONAL_KEYS
        sent = 0
        for entry in self._book.steps():
            if request.cancelled():
                yield Reply(status=CANCELLED)
                return
            found = question.answer(entry_dataset(entry))
            if found is None:
                continue
            if sent == self._most:
                yield Reply(status=OUT_OF_RESOURCES, comment=f"more than {self._most} entries match; ask for less")
                return
            sent += 1
            yield Reply(status=status, dataset=found)
        yield Reply(status=SUCCESS)


@lru_cache(maxsize=20_000)
def entry_dataset(entry: Entry) -> Dataset:
    """Return all that is known of a step, with the attributes of table K.6-1; unknown ones are empty.

    The same object for the same entry, because a query looks at each: not to be changed.
    """
    order = entry.order
    answer = Dataset()
    answer.SpecificCharacterSet = "ISO_IR 192"
    answer.ScheduledProcedureStepSequence = Sequence([_step(entry)])
    # Requested procedure
    answer.RequestedProcedureID = entry.procedure_id
    answer.RequestedProcedureDescription = order.procedure
    answer.RequestedProcedureCodeSequence = _codes(entry.procedure_code)
    answer.StudyInstanceUID = order.study_instance_uid
    answer.ReferencedStudySequence = Sequence()
    answer.RequestedProcedurePriority = {"stat": "STAT", "urgent": "HIGH"}.get(order.priority, "ROUTINE")
    answer.PatientTransportArrangements = ""
    answer.ReasonForTheRequestedProcedure = entry.reason
    answer.RequestedProcedureComments = entry.comments
    answer.StudyDate = answer.StudyTime = ""
    answer.ConfidentialityCode = answer.RequestedProcedureLocation = ""
    answer.NamesOfIntendedRecipientsOfResults = ""
    # Imaging service request
    answer.AccessionNumber = order.accession_number
    answer.RequestingPhysician = entry.requesting_physician
    answer.ReferringPhysicianName = order.referring_physician
    answer.RequestingService = entry.requesting_service
    answer.PlacerOrderNumberImagingServiceRequest = order.order_id[:64]
    answer.FillerOrderNumberImagingServiceRequest = entry.filler_id
    answer.ReasonForTheImagingServiceRequest = entry.reason
    answer.ImagingServiceRequestComments = ""
    # Visit
    answer.AdmissionID = entry.admission_id
    answer.CurrentPatientLocation = entry.current_location
    answer.ReferencedPatientSequence = Sequence()
    answer.InstitutionName = ""
    # Patient
    answer.PatientName = order.patient_name
    answer.PatientID = order.patient_id
    answer.IssuerOfPatientID = entry.issuer_of_patient_id
    answer.OtherPatientIDs = ""
    answer.PatientBirthDate = order.birth_date
    answer.PatientSex = order.sex
    answer.PatientWeight = entry.weight_kg or None
    answer.PatientSize = entry.size_m or None
    answer.ConfidentialityConstraintOnPatientDataDescription = ""
    answer.PatientState = ""
    answer.PregnancyStatus = None
    answer.MedicalAlerts = entry.medical_alerts
    answer.Allergies = entry.allergies
    answer.SpecialNeeds = answer.PatientComments = answer.AdditionalPatientHistory = answer.EthnicGroup = ""
    answer.PatientAge = ""
    answer.LastMenstrualDate = ""
    return answer


def _step(entry: Entry) -> Dataset:
    order = entry.order
    step = Dataset()
    step.ScheduledStationAETitle = order.station_ae_title
    step.ScheduledProcedureStepStartDate = order.scheduled[:8]
    step.ScheduledProcedureStepStartTime = order.scheduled[8:14]
    step.ScheduledProcedureStepEndDate = step.ScheduledProcedureStepEndTime = ""
    step.Modality = order.modality
    step.ScheduledPerformingPhysicianName = entry.performing_physician
    step.ScheduledProcedureStepDescription = entry.step_code.meaning or order.procedure
    step.ScheduledProtocolCodeSequence = _codes(entry.step_code)
    step.ScheduledProcedureStepID = entry.step_id
    step.ScheduledStationName = entry.station_name
    step.ScheduledProcedureStepLocation = entry.location
    step.PreMedication = step.RequestedContrastAgent = step.CommentsOnTheScheduledProcedureStep = ""
    step.ScheduledProcedureStepStatus = "STARTED" if order.status == "started" else "SCHEDULED"
    return step


def _codes(code: Code) -> Sequence:
    if not code.value:
        return Sequence()
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme or "L"
    item.CodeMeaning = code.meaning or code.value
    return Sequence([item])
