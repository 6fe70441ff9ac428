"""One requested procedure step as the order book keeps it, and what may happen to it.

Responsible for types and for the pure rules: which change of status is allowed, and what an update replaces. Not
responsible for where orders come from (``hl7_orders``, ``fhir_orders``) or for keeping them (``orders``).
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from edgeward.messages import Order

Status = Literal["scheduled", "started", "completed", "discontinued", "cancelled"]
STATUSES: tuple[Status, ...] = get_args(Status)
OPEN = ("scheduled", "started")  # what a worklist shows
Action = Literal["new", "update", "cancel", "release", "status"]


class OrderError(ValueError):
    """An order cannot be used. The text never quotes it.

    Attributes
    ----------
    where
        What is wrong: ``patient``, ``order``, ``step`` ... as a key that the protocol turns into its own field.
    kind
        ``missing``, ``value``, ``conflict`` or ``closed``.
    """

    def __init__(self, where: str, kind: Literal["missing", "value", "conflict", "closed"], text: str) -> None:
        super().__init__(text)
        self.where, self.kind = where, kind


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A coded entry (PS3.3, 8.8)."""

    value: str = ""
    scheme: str = ""
    meaning: str = ""


class Assigner(msgspec.Struct, frozen=True, kw_only=True):
    """Who gave a number (HL7 v2 data types EI, HD): a name within the hospital, a universal identifier, or both."""

    namespace: str = ""
    universal_id: str = ""
    kind: str = ""  # of the universal identifier (table 0301): ISO, UUID, DNS, URI ...

    def __bool__(self) -> bool:
        return bool(self.namespace or self.universal_id)

    def agrees(self, other: Assigner) -> bool | None:
        """Whether both are the same one; None if one of them tells too little to say."""
        if self.universal_id and other.universal_id:
            return self.universal_id == other.universal_id
        if self.namespace and other.namespace:
            return self.namespace.casefold() == other.namespace.casefold()
        return None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An order, and beyond what others need of it, what a worklist entry holds (PS3.4, K.6-1)."""

    order: Order
    placer: Assigner = Assigner()  # of the order number
    step_id: str = ""  # Scheduled Procedure Step ID; empty until the book gives one
    step_id_given: bool = False  # by the placer, so that it tells the steps of one order apart
    procedure_id: str = ""  # Requested Procedure ID
    filler_id: str = ""
    filler: Assigner = Assigner()  # of the filler number
    issuer_of_patient_id: str = ""
    procedure_code: Code = Code()
    step_code: Code = Code()
    performing_physician: str = ""  # DICOM PN
    requesting_physician: str = ""
    requesting_service: str = ""
    station_name: str = ""
    location: str = ""  # where the step is done
    reason: str = ""
    comments: str = ""
    medical_alerts: str = ""
    allergies: str = ""
    weight_kg: str = ""  # DS
    size_m: str = ""
    admission_id: str = ""
    current_location: str = ""
    resource_id: str = ""  # FHIR id; the book gives one if the client chose none
    message_ns: int = 0  # by the sender's clock; decides between updates that arrive out of order
    patient_ns: int = 0  # the same, of the patient's data


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a message wants done with one order. `status` is used by the action ``status``."""

    action: Action
    entry: Entry
    status: Status | None = None
    only_known: bool = False  # it says too little to make an order of
    patient_ids: tuple[tuple[str, str], ...] = ()  # all numbers of the patient that it names, each with its authority


def status_after(now: Status | None, change: Change) -> Status:
    """Return the status of an order after a change.

    Parameters
    ----------
    now
        Its status so far; None if it is not known yet.

    Raises
    ------
    OrderError
        If an order that was cancelled is to be updated.
    """
    wanted = {"new": "scheduled", "release": "scheduled", "cancel": "cancelled", "update": ""}.get(
        change.action, change.status or ""
    )
    if wanted in ("completed", "discontinued"):
        return wanted  # type: ignore[return-value]
    if now in ("completed", "discontinued"):
        return now  # the end is the end: what was done cannot be cancelled or scheduled again
    if wanted == "started":
        return "started"
    if now == "started":
        return now  # what was begun is not cancelled by the placer, but discontinued by whoever does it
    if wanted == "cancelled":
        return "cancelled"
    if wanted == "scheduled" or now is None:
        return "scheduled"
    if now == "cancelled":
        raise OrderError("control", "closed", "the order was cancelled; send it as a new order to have it again")
    return now


def merged(old: Entry, new: Entry) -> Entry:
    """Return `old` with what `new` tells; what `new` leaves empty stays. Status and step id stay `old`'s.

    A filler number stands in for an accession number where none is told. It does not replace one that was.
    """
    kept_order = {"order_id", "status", "received_ns"}
    order = {
        name: value
        for name in Order.__struct_fields__
        if name not in kept_order and (value := getattr(new.order, name)) not in ("", 0)
    }
    known = old.order.accession_number not in ("", old.filler_id, old.order.order_id)
    if known and new.filler_id and new.order.accession_number == new.filler_id:
        del order["accession_number"]
    kept = {"order", "step_id", "step_id_given"}
    rest = {
        name: value
        for name in Entry.__struct_fields__
        if name not in kept and (value := getattr(new, name)) not in ("", 0, Code(), Assigner())
    }
    if new.filler_id and new.filler_id != old.filler_id:
        rest["filler"] = new.filler  # another number is not of whoever gave the one before
    return msgspec.structs.replace(old, order=msgspec.structs.replace(old.order, **order), **rest)
