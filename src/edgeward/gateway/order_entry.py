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
_CLOCKS_DIFFER_NS = 86_400 * 10**9  # at most, of systems of one hospital: also where one of them has another zone
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
    status_ns: int = 0  # the same, of the status; never of one that a modality told
    placed_once: bool = False  # nobody told a status since the order was placed
    discontinued_ns: int = 0  # by our clock: when a modality discontinued it, unless it was placed again since
    reopened_ns: int = 0  # by our clock: steps that were performed before do not count any more
    accession_by: Assigner = Assigner()  # who gave the accession number
    known_as: tuple[tuple[str, str], ...] = ()  # its patient after a merge, if it was done before: number, authority


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a message wants done with one order. `status` is used by the action ``status``."""

    action: Action
    entry: Entry
    status: Status | None = None
    only_known: bool = False  # it says too little to make an order of
    procedure: int = 0  # which of the order's procedures in the message it is, from 0
    versioned: bool = False  # it tells the whole order, so that an older one is outdated, whatever it says
    patient_ids: tuple[tuple[str, str], ...] = ()  # all numbers of the patient that it names, each with its authority


def asked_status(change: Change) -> Status | None:
    """Return the status that a message asks for; None if it says nothing of it."""
    told: dict[str, Status] = {"new": "scheduled", "release": "scheduled", "cancel": "cancelled"}
    return told.get(change.action, change.status)


def outdated(old: Entry, change: Change) -> bool:
    """Whether something newer is known than what a message says of an order's status (both by the senders' clocks).

    A late update says nothing new of it. An old order must not bring back what was cancelled or discontinued since. A
    cancellation, or a status that the department tells, is outdated only by a newer message about the status: not by
    an update, and not by the order's first placing, which came before it whatever the clocks of the senders say (they
    may differ by a zone).
    """
    at, status = change.entry.message_ns, asked_status(change)
    if status is None or change.versioned:
        return at < max(old.message_ns, old.discontinued_ns if status in (None, "scheduled") else 0)
    known = old.status_ns or old.message_ns
    if status == "scheduled":
        return at < max(known, old.discontinued_ns)
    return at < known - (_CLOCKS_DIFFER_NS if old.placed_once or not old.status_ns else 0)


def status_after(now: Status | None, change: Change, *, rescheduled: bool = False) -> Status:
    """Return the status of an order after a change that is not `outdated`.

    Parameters
    ----------
    now
        Its status so far; None if it is not known yet.
    rescheduled
        Whether the message tells another time than the one that is known.

    Raises
    ------
    OrderError
        If an order that was cancelled is to be updated.
    """
    told = asked_status(change)
    if told in ("completed", "discontinued"):
        return told
    if now == "completed":
        return now  # what was done cannot be cancelled or scheduled again
    if now == "discontinued":  # nothing takes that back but who orders it once more
        return "scheduled" if told == "scheduled" or rescheduled else now
    if told == "started":
        return told
    if now == "started":
        return now  # what was begun is not cancelled by the placer, but discontinued by whoever does it
    if told is not None:
        return told
    if now == "cancelled":
        raise OrderError("control", "closed", "the order was cancelled; send it as a new order to have it again")
    return "scheduled"


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
        new = msgspec.structs.replace(new, accession_by=Assigner())
    kept = {"order", "step_id", "step_id_given"}
    rest = {
        name: value
        for name in Entry.__struct_fields__
        if name not in kept and (value := getattr(new, name)) not in ("", 0, (), Code(), Assigner())
    }
    if new.filler_id and new.filler_id != old.filler_id:
        rest["filler"] = new.filler  # another number is not of whoever gave the one before
    return msgspec.structs.replace(old, order=msgspec.structs.replace(old.order, **order), **rest)
