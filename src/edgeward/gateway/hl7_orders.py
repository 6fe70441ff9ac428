"""Orders as HL7 v2 says them: ORM^O01, OMI^O23 and OMG^O19, and the patient's data behind them (ADT).

Responsible for reading these messages into changes of the order book, by IHE RAD-2/RAD-3/RAD-4 (TF-2, 4.2 to 4.4) where
the standard leaves a choice, and for the answer to each. Not responsible for the connection (``mllp``).

Where things are looked for, the first that is filled in counts:

=================== ==================================================================
order number         ORC-2, OBR-2; else the accession number
accession number     IPC-1, OBR-18; else ORC-3, OBR-3 where it fits
study instance UID   IPC-3, ZDS-1
step, procedure id   IPC-4, OBR-20; IPC-2, OBR-19
modality             IPC-5, OBR-24 (also table 0074: RUS, NMR ...), OBR-21
scheduled            TQ1-7, ORC-7.4, OBR-27.4, OBR-36, OBR-6
station AE title     IPC-9
=================== ==================================================================
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from msgspec import structs

from edgeward.gateway import body
from edgeward.gateway.mllp import Handler, Sender
from edgeward.gateway.order_entry import Assigner, Change, Code, Entry, OrderError, asked_status
from edgeward.gateway.order_matching import told_apart
from edgeward.gateway.order_terms import ACTIONS, STATUSES, modality, priority
from edgeward.gateway.orders import OrderBook
from edgeward.hl7 import er7, values
from edgeward.hl7.acknowledgement import ACCEPTED, Answer, Outcome
from edgeward.hl7.acknowledgement import Code as Condition
from edgeward.hl7.er7 import Message, Segment
from edgeward.messages import Order

ORDER_MESSAGES = ("ORM^O01", "OMI^O23", "OMG^O19")
UPDATES = ("A01", "A02", "A03", "A04", "A05", "A06", "A07", "A08", "A10", "A11", "A12", "A13", "A28", "A31", "A38")
_REGISTRATIONS = ("A01", "A04", "A05", "A28")  # somebody has the number, also if it was retired by a merge
MERGES = ("A18", "A34", "A39", "A40", "A47")

# Where what the book complains of stands in a message.
_PLACES = {"order": "ORC-2", "patient": "PID-3", "name": "PID-5", "procedure": "OBR", "control": "ORC-1"}
_PLACES |= {"study": "ZDS-1", "accession": "OBR-18"}
_PLACES_OF_STEPS = _PLACES | {"study": "IPC-3", "accession": "IPC-1"}  # in a message that tells steps (IPC)
_CONDITIONS = {
    "missing": Condition.FIELD_MISSING,
    "value": Condition.DATA_TYPE,
    "conflict": Condition.DUPLICATE_KEY,
    "closed": Condition.INTERNAL,
}
# The patient has to be on the worklist, so the order is taken; but whoever wrote the time must learn that it was lost.
_DUE_UNREAD = Answer(
    Outcome.ACCEPTED,
    "the scheduled time cannot be read: the order is due when it came, or as it was known",
    Condition.DATA_TYPE,
    "TQ1-7",
)
# The message is right, and the order stays: whoever sent it must not believe that nobody is examined.
_NOT_CANCELLED = Answer(
    Outcome.ACCEPTED, "the examination has begun or is done: it was not cancelled", Condition.INTERNAL, "ORC-1"
)
# So with these: never a plain acceptance for what was not done.
_NOT_SCHEDULED = Answer(
    Outcome.ACCEPTED, "the examination is done: it was not scheduled again", Condition.INTERNAL, "ORC-1"
)
_OVERTAKEN = Answer(
    Outcome.ACCEPTED, "it is older than what is known and was not carried out", Condition.INTERNAL, "MSH-7"
)
_UID = re.compile(r"^(0|[1-9]\d*)(\.(0|[1-9]\d*))+$")
# Table 0085 (OBX-11): deleted, pending, not asked, detail of an order, cannot be obtained, posted as wrong.
_NO_RESULT = frozenset("DINOXW")
_MOST_STEPS = 200  # of one message: each is read with all that its order says, so that many would cost seconds


class Misread(ValueError):
    """A message cannot be used."""

    def __init__(self, condition: Condition, where: str, text: str) -> None:
        super().__init__(text)
        self.condition, self.where = condition, where


class Hl7Orders:
    """Answers order and patient messages by what becomes of them in the order book."""

    def __init__(self, book: OrderBook) -> None:
        self._book = book

    def take(self, message: Message, source: str, received_ns: int) -> Answer:
        """Carry out one message; what it asks for is durable when this returns an acceptance.

        Raises
        ------
        DatabaseError
            If it could not be written: then nothing of it was.
        """
        try:
            if message.code == "ADT":
                if self._patient(message, received_ns):
                    return _OVERTAKEN
            else:
                asked = changes(message, source, received_ns)
                if warning := _undone(asked, self._book.apply(asked)):
                    return warning
                if _due_unread(message):
                    return _DUE_UNREAD
        except Misread as error:
            return Answer(Outcome.ERROR, str(error), error.condition, error.where)
        except OrderError as error:
            places = _PLACES_OF_STEPS if message.first("IPC") else _PLACES
            return Answer(Outcome.ERROR, str(error), _CONDITIONS[error.kind], places.get(error.where, "ORC"))
        return ACCEPTED

    def _patient(self, message: Message, received_ns: int) -> bool:
        """Carry out a patient message; return whether something newer was known of one of the patients."""
        groups = message.groups("PID")
        if not groups:
            raise Misread(Condition.SEGMENT_SEQUENCE, "PID", "the message has no PID segment")
        at = _message_time(message, received_ns)
        overtaken = 0
        for group in groups:
            patient = _patient(group[0], group)
            prior, issuer = patient["patient_id"], patient["issuer_of_patient_id"]
            if message.event in MERGES:
                merge = er7.find(group, "MRG")
                prior = values.clean(merge.text(1)) if merge else ""
                issuer = _authority(merge, 1, 1) if merge else ""
                if not prior:
                    raise Misread(Condition.FIELD_MISSING, "MRG-1", "a merge needs the prior patient identifier")
            entry = _entry(patient, at)
            overtaken += self._book.patient(prior, entry, issuer, registered=message.event in _REGISTRATIONS)[1]
        return overtaken > 0


def changes(message: Message, source: str, received_ns: int) -> list[Change]:
    """Return what an order message asks for, one change per requested procedure step.

    Raises
    ------
    Misread
        If it lacks what an order needs.
    """
    pid = message.first("PID")
    if sum(segment.name == "PID" for segment in message.segments) > 1:  # whose an order is must never be a guess
        raise Misread(Condition.SEGMENT_SEQUENCE, "PID", "an order message is of one patient")
    at = _message_time(message, received_ns)
    orders = message.groups("ORC")
    if not orders:
        raise Misread(Condition.SEGMENT_SEQUENCE, "ORC", "the message has no ORC segment")
    if sum(segment.name in ("OBR", "IPC") for segment in message.segments) > _MOST_STEPS:
        raise Misread(Condition.SEGMENT_SEQUENCE, "OBR", f"the message asks for more than {_MOST_STEPS} steps")
    found = []
    before = message.segments[: message.segments.index(orders[0][0])]
    patient = _patient(pid, before) if pid else {}
    for group in orders:
        found += _order(group, patient, source, at)
    known_as = _patient_ids(pid) if pid else ()
    return [structs.replace(change, patient_ids=known_as) for change in found]


def _order(group: Sequence[Segment], patient: dict[str, Any], source: str, at: int) -> list[Change]:
    orc = group[0]
    control = orc.text(1).upper()
    if not control:
        raise Misread(Condition.FIELD_MISSING, "ORC-1", "the order control is missing")
    action = ACTIONS.get(control)
    if action is None:
        raise Misread(Condition.TABLE_VALUE, "ORC-1", "this order control is not supported")
    status = STATUSES.get(orc.text(5).upper()) if control == "SC" else None
    if control in ("DC", "OD"):
        status = "discontinued"
    if control == "SC" and status is None:
        raise Misread(Condition.TABLE_VALUE, "ORC-5", "a change of status needs an order status that is known")
    if control in ("RU", "OK", "NA", "CN"):
        action = "update"
    # An order may ask for several procedures (OBR), each of several steps (IPC).
    parts = _parts(group)
    found = []
    for number, (obr, rest) in enumerate(parts or [(_blank("OBR", orc), group)]):
        steps = [segment for segment in rest if segment.name == "IPC"] or [_blank("IPC", orc)]
        for ipc in steps:
            entry = _step(orc, obr, ipc, rest, patient=patient, source=source, at=at)
            if action == "new":
                _require(entry, has_obr=bool(parts))
            found.append(Change(action=action, entry=entry, status=status, only_known=not parts, procedure=number))
    return told_apart(found)


def _blank(name: str, like: Segment) -> Segment:
    """Return a segment that says nothing, in place of one that a message does not have."""
    return Segment(name, (name,), like.delimiters)


def _parts(group: Sequence[Segment]) -> list[tuple[Segment, Sequence[Segment]]]:
    starts = [index for index, segment in enumerate(group) if segment.name == "OBR"]
    if not starts:
        return []
    shared = group[: starts[0]]
    ends = [*starts[1:], len(group)]
    return [(group[start], (*shared, *group[start:end])) for start, end in zip(starts, ends, strict=True)]


def _require(entry: Entry, *, has_obr: bool) -> None:
    if not has_obr:
        raise Misread(Condition.SEGMENT_SEQUENCE, "OBR", "the order has no OBR segment")
    if not entry.order.patient_id:
        raise Misread(Condition.FIELD_MISSING, "PID-3", "the patient identifier is missing")
    if not entry.order.patient_name:
        raise Misread(Condition.FIELD_MISSING, "PID-5", "the patient name is missing")


def _step(
    orc: Segment,
    obr: Segment,
    ipc: Segment,
    group: Sequence[Segment],
    *,
    patient: dict[str, Any],
    source: str,
    at: int,
) -> Entry:
    zds, tq1 = er7.find(group, "ZDS"), er7.find(group, "TQ1")
    accession = _number(_first(ipc.text(1), obr.text(18)), 16, "IPC-1" if ipc.text(1) else "OBR-18")
    filled = next((segment for segment in (orc, obr) if segment.text(3)), None)
    given_by = _assigner(ipc, 1) if ipc.text(1) else Assigner()
    if not accession and filled:
        accession = _fitting(filled.text(3), 16)
        given_by = _assigner(filled, 3) if accession else given_by
    number = _number(_first(orc.text(2), obr.text(2), accession), 199, "ORC-2")
    placed = next((segment for segment in (orc, obr) if segment.text(2)), None)
    if not number:
        raise Misread(
            Condition.FIELD_MISSING, "ORC-2", "neither a placer order number nor an accession number is given"
        )
    study = _first(ipc.text(3), zds.text(1) if zds else "")
    if study and not (len(study) <= 64 and _UID.match(study)):
        raise Misread(Condition.DATA_TYPE, "ZDS-1", "the study instance UID is not a UID")
    step = _number(_first(ipc.text(4), obr.text(20)), 16, "OBR-20")
    code = Code(
        value=values.clean(obr.text(4, 1), 16),
        scheme=values.clean(obr.text(4, 3), 16),
        meaning=values.clean(obr.text(4, 2)),
    )
    protocol = Code(
        value=values.clean(_first(ipc.text(6, 1), obr.text(4, 4)), 16),
        scheme=values.clean(_first(ipc.text(6, 3), obr.text(4, 6)), 16),
        meaning=values.clean(_first(ipc.text(6, 2), obr.text(4, 5))),
    )
    order = Order(
        order_id=number,
        accession_number=accession,
        status="scheduled",
        patient_id=patient.get("patient_id", ""),
        patient_name=patient.get("patient_name", ""),
        birth_date=patient.get("birth_date", ""),
        sex=patient.get("sex", ""),
        modality=modality(ipc.text(5), obr.text(24), obr.text(21)),
        station_ae_title=values.clean(ipc.text(9), 16),
        procedure_code=code.value,
        procedure=code.meaning or code.value,
        study_instance_uid=study,
        scheduled=_scheduled(orc, obr, tq1),
        referring_physician=_first(
            values.person(obr, 16, clinician=True), values.person(orc, 12, clinician=True), patient.get("referring", "")
        ),
        priority=priority(tq1.text(9) if tq1 else "", orc.text(7, 6), obr.text(27, 6), obr.text(5)),
        source=source,
    )
    observed = {name: value for one in group if one.name == "OBX" for name, value in _observed(one).items()}
    return _entry(
        patient | observed,
        at,
        order=order,
        placer=_assigner(placed, 2) if placed else Assigner(),
        step_id=step,
        step_id_given=bool(step),
        procedure_id=_number(_first(ipc.text(2), obr.text(19)), 16, "OBR-19"),
        filler_id=values.clean(_first(orc.text(3), obr.text(3))),
        filler=_assigner(filled, 3) if filled else Assigner(),
        accession_by=given_by,
        procedure_code=code,
        step_code=protocol,
        performing_physician=_technician(obr),
        requesting_physician=_first(values.person(orc, 12, clinician=True), values.person(obr, 16, clinician=True)),
        requesting_service=values.clean(_first(orc.text(17, 2), orc.text(17, 1))),
        station_name=values.clean(ipc.text(7), 16),
        location=values.clean(ipc.text(8), 16),
        reason=values.clean(_first(obr.text(31, 2), obr.text(31, 1), obr.text(13), orc.text(16, 2))),
        comments=values.clean(" ".join(one.text(3) for one in group if one.name == "NTE"), 1024),
        medical_alerts=values.clean(_first(obr.text(12, 2), obr.text(12, 1))),
    )


def _entry(patient: dict[str, Any], at: int, order: Order | None = None, **more: Any) -> Entry:
    order = order or Order(
        order_id="",
        accession_number="",
        status="scheduled",
        patient_id=patient["patient_id"],
        patient_name=patient["patient_name"],
        birth_date=patient["birth_date"],
        sex=patient["sex"],
    )
    shared = ("issuer_of_patient_id", "admission_id", "current_location", "allergies", "weight_kg", "size_m")
    return Entry(order=order, message_ns=at, patient_ns=at, **{name: patient.get(name, "") for name in shared}, **more)


def _patient(pid: Segment, around: Sequence[Segment]) -> dict[str, Any]:
    number, issuer = _patient_id(pid)
    visit = er7.find(around, "PV1")
    found: dict[str, Any] = {
        "patient_id": number,
        "issuer_of_patient_id": issuer,
        "patient_name": values.person(pid, 5),
        "birth_date": values.date(pid.text(7)),
        "sex": values.sex(pid.text(8)),
        "allergies": values.clean(
            ", ".join(_first(one.text(3, 2), one.text(3, 1)) for one in around if one.name == "AL1")
        ),
    }
    if visit:
        found["admission_id"] = values.clean(visit.text(19))
        found["current_location"] = values.clean(" ".join(visit.text(3, part) for part in (1, 2, 3)).strip())
        found["referring"] = values.person(visit, 8, clinician=True)
    return found


def _patient_id(pid: Segment) -> tuple[str, str]:
    rows = range(1, min(pid.repetitions(3), 50) + 1)
    kinds = {row: pid.text(3, 5, row).upper() for row in rows}
    # Of several identifiers the medical record number, then the hospital's own, then whichever comes first.
    for wanted in (("MR",), ("PI", "PT", ""), None):
        for row in rows:
            number = pid.text(3, 1, row)
            if number and (wanted is None or kinds[row] in wanted):
                return _number(number, 64, "PID-3"), _authority(pid, 3, row)
    return _number(pid.text(2), 64, "PID-2"), ""


def _patient_ids(pid: Segment) -> tuple[tuple[str, str], ...]:
    rows = range(1, min(pid.repetitions(3), 50) + 1)
    return tuple((number, _authority(pid, 3, row)) for row in rows if (number := pid.text(3, 1, row)))


def _authority(segment: Segment, field: int, repetition: int) -> str:
    """Return who gave a patient number (data type CX, component 4): the name, else the universal identifier."""
    return values.clean(
        _first(segment.text(field, 4, repetition), segment.text(field, 4, repetition, 2)),
    )


def _assigner(segment: Segment, field: int) -> Assigner:
    """Return who gave an order number (ORC-2 and 3, OBR-2 and 3: data type EI, components 2 to 4)."""
    return Assigner(
        namespace=values.clean(segment.text(field, 2)),
        universal_id=values.clean(segment.text(field, 3)),
        kind=values.clean(segment.text(field, 4), 16).upper(),
    )


def _observed(obx: Segment) -> dict[str, str]:
    """Return body weight or height of an OBX (IHE RAD-4: LOINC 3141-9 or 29463-7, 8302-2), in DICOM's units."""
    if obx.text(11).upper() in _NO_RESULT:
        return {}
    code = obx.text(3).upper()
    try:
        value = float(obx.text(5))
    except ValueError:
        return {}
    unit = _first(obx.text(6), obx.text(6, 2))
    if code in ("3141-9", "29463-7") and (weight := body.kilograms(value, unit)) is not None:
        return {"weight_kg": f"{weight:g}"}
    if code in ("8302-2", "3137-7") and (height := body.metres(value, unit)) is not None:
        return {"size_m": f"{height:g}"}
    return {}


def _times(orc: Segment, obr: Segment, tq1: Segment | None) -> tuple[str, ...]:
    """Return what is told of when a step is due, what counts most first."""
    return tq1.text(7) if tq1 else "", orc.text(7, 4), obr.text(27, 4), obr.text(36), obr.text(6)


def _scheduled(orc: Segment, obr: Segment, tq1: Segment | None) -> str:
    for text in _times(orc, obr, tq1):
        if text and (at := values.time(text)):
            return values.local(at)
    return ""


def _undone(changes: Sequence[Change], became: Sequence[Sequence[Entry]]) -> Answer | None:
    """Return the warning that is due if something of what a message wants was not done."""
    told = list(zip(changes, became, strict=True))
    for undone, warning in ((_outlasts, _NOT_CANCELLED), (_is_done, _NOT_SCHEDULED), (_overtaken, _OVERTAKEN)):
        if any(undone(change, step) for change, steps in told for step in steps):
            return warning
    return None


def _outlasts(change: Change, step: Entry) -> bool:
    """Whether a cancellation came too late for a step."""
    return change.action == "cancel" and step.order.status in ("started", "completed")


def _is_done(change: Change, step: Entry) -> bool:
    """Whether a step that is done was to be scheduled once more, or for another time."""
    return step.order.status == "completed" and (_moved(change, step) or asked_status(change) == "scheduled")


def _moved(change: Change, step: Entry) -> bool:
    """Whether an update tells another time than the one a step has after it: it came too late for it."""
    return change.action == "update" and change.entry.order.scheduled not in ("", step.order.scheduled)


def _overtaken(change: Change, step: Entry) -> bool:
    """Whether a step has not the status that a message asks for, because a newer one asked for another."""
    allowed = {
        "scheduled": ("scheduled", "started", "completed"),
        "started": ("started", "completed", "discontinued"),
        "cancelled": ("cancelled", "discontinued", "started", "completed"),
        "completed": ("completed",),
        "discontinued": ("discontinued",),
    }
    told = asked_status(change)
    if told is None:
        return step.order.status == "discontinued" and _moved(change, step)
    return step.order.status not in allowed[told]


def _due_unread(message: Message) -> bool:
    """Whether an order tells when it is due, and nothing of that can be read."""
    for group in message.groups("ORC"):
        tq1 = er7.find(group, "TQ1")
        for obr, _ in _parts(group) or [(_blank("OBR", group[0]), group)]:
            if any(_times(group[0], obr, tq1)) and not _scheduled(group[0], obr, tq1):
                return True
    return False


def _technician(obr: Segment) -> str:
    """Return the performer (OBR-34, a name with an id in its first component) as DICOM PN."""
    parts = [values.clean(obr.text(34, 1, 1, sub)) for sub in (2, 3, 4)]
    return "^".join(parts).rstrip("^")[:64]


def _number(text: str, most: int, where: str) -> str:
    """Return an identifier: never shortened, because a shortened number is another one."""
    if not text:
        return ""
    if len(text) > most or values.clean(text, most) != text:
        raise Misread(
            Condition.DATA_TYPE, where, f"it is longer than {most} characters or holds characters DICOM lacks"
        )
    return text


def _fitting(text: str, most: int) -> str:
    """Return an identifier that only stands in for another: nothing where it does not fit, for that is no mistake."""
    return text if len(text) <= most and values.clean(text, most) == text else ""


def _first(*texts: str) -> str:
    return next((text for text in texts if text), "")


def _message_time(message: Message, received_ns: int) -> int:
    """Return when a message was written; never later than now, or a clock that is ahead would silence all others."""
    at = values.time(message.header.text(7))
    return min(values.nanoseconds(at), received_ns) if at else received_ns


def handled(orders: Hl7Orders) -> dict[str, Handler]:
    """Return the handlers of all messages that orders take, by message code and event, for ``MllpDoor``."""

    async def handle(message: Message, sender: Sender, received_ns: int) -> Answer:
        return await asyncio.to_thread(orders.take, message, sender.device_id, received_ns)

    return dict.fromkeys((*ORDER_MESSAGES, *(f"ADT^{event}" for event in (*UPDATES, *MERGES))), handle)
