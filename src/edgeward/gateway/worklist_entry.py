"""What a worklist entry holds: the attributes of PS3.4, table K.6-1, made from an order.

Pure. Not responsible for which entries are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from edgeward.gateway.order_entry import Assigner, Code, Entry
from edgeward.messages import Order


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
    answer.OrderPlacerIdentifierSequence = _assigner(entry.placer)
    answer.OrderFillerIdentifierSequence = _assigner(entry.filler)
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


def _assigner(assigner: Assigner) -> Sequence:
    """Return who gave a number (PS3.3, table 10-17, HL7v2 Hierarchic Designator)."""
    if not assigner:
        return Sequence()
    item = Dataset()
    if assigner.namespace:
        item.LocalNamespaceEntityID = assigner.namespace
    if assigner.universal_id:
        item.UniversalEntityID = assigner.universal_id
        item.UniversalEntityIDType = assigner.kind or _kind(assigner.universal_id)  # type 1C: with the identifier
    return Sequence([item])


def _kind(universal_id: str) -> str:
    """Return what an identifier looks like where nobody said (table 0301)."""
    if universal_id.replace(".", "").isdigit():
        return "ISO"
    return "URI" if ":" in universal_id else "DNS"


def _codes(code: Code) -> Sequence:
    if not code.value:
        return Sequence()
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme or "L"
    item.CodeMeaning = code.meaning or code.value
    return Sequence([item])


# The attributes that most queries select by, without making a data set first: (of the step, keyword).
SHORTCUTS: dict[tuple[bool, str], Callable[[Entry], str]] = {
    (False, "PatientName"): lambda entry: entry.order.patient_name,
    (False, "PatientID"): lambda entry: entry.order.patient_id,
    (False, "PatientBirthDate"): lambda entry: entry.order.birth_date,
    (False, "PatientSex"): lambda entry: entry.order.sex,
    (False, "AccessionNumber"): lambda entry: entry.order.accession_number,
    (False, "StudyInstanceUID"): lambda entry: entry.order.study_instance_uid,
    (False, "RequestedProcedureID"): lambda entry: entry.procedure_id,
    (True, "ScheduledStationAETitle"): lambda entry: entry.order.station_ae_title,
    (True, "Modality"): lambda entry: entry.order.modality,
    (True, "ScheduledProcedureStepStartDate"): lambda entry: entry.order.scheduled[:8],
    (True, "ScheduledProcedureStepStartTime"): lambda entry: entry.order.scheduled[8:14],
    (True, "ScheduledPerformingPhysicianName"): lambda entry: entry.performing_physician,
    (True, "ScheduledProcedureStepID"): lambda entry: entry.step_id,
}


def example() -> Dataset:
    """Return an entry in which every sequence has an item: to look up which attributes there are."""
    code = Code(value="1", scheme="L", meaning="1")
    order = Order(order_id="", accession_number="", status="scheduled", patient_id="", patient_name="")
    someone = Assigner(namespace="1", universal_id="1")
    return entry_dataset(Entry(order=order, procedure_code=code, step_code=code, placer=someone, filler=someone))
