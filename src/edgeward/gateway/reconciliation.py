"""Whether what a device made is of the patient whom its order names (IHE RAD, patient information reconciliation).

Responsible for saying so to people, in the quarantine and without identity, where a study or a performed step names
another patient than the order that it belongs to: the wrong worklist entry was chosen, or the patient was merged since.
Also where a study names two patients, whatever was ordered, and where images did not arrive that the device made.
Not responsible for which of both is right: images and results keep what the images say.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from edgeward.gateway.order_entry import Entry
from edgeward.gateway.order_matching import other_authority
from edgeward.gateway.orders import OrderBook
from edgeward.gateway.quarantine import Quarantine
from edgeward.privacy.items import Identity, other_patient
from edgeward.privacy.journal import Journal

STUDY = "the images of a study name another patient than its order"
STEP = "a performed step names another patient than its order"
WHAT_TO_DO = "compare patient and order: the wrong worklist entry was chosen, or the patient was merged since"
SEVERAL = "the images of a study name more than one patient"
SEVERAL_TO_DO = (
    "find out whose images they are: a Study Instance UID belongs to one patient; send those of the other patient "
    "again under a new one, or correct them at the PACS"
)
MISSING = "images that the device says it made did not arrive"
MISSING_TO_DO = "send the study again from the device: what is here already is not stored twice"
_REMEMBERED = 10_000  # what was told of studies


class Reconciliation:
    """Compares what arrived with the order book. Thread-safe."""

    def __init__(self, book: OrderBook, journal: Journal, quarantine: Quarantine) -> None:
        self._book, self._journal, self._quarantine = book, journal, quarantine
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()  # (study, reason)

    def study(self, study_instance_uid: str) -> None:
        """Look at a study that began, grew again, or is complete; each of what may be wrong with it is told once.

        Raises
        ------
        DatabaseError
            If it cannot be read.
        """
        if {(study_instance_uid, STUDY), (study_instance_uid, SEVERAL)} <= self._told.keys():
            return
        orders: dict[str, list[Entry]] = {}  # by accession number
        patient: Identity | None = None  # the first who is named
        for item in self._journal.catalogue.named(study_instance_uid):
            accession = item.identity.accession_number
            if accession not in orders:
                orders[accession] = self._book.of_study(study_instance_uid, accession)
            if _are_anothers(orders[accession], item.identity.patient_id) and self._first(study_instance_uid, STUDY):
                self._quarantine.note("dicom", item.device, STUDY, WHAT_TO_DO, item.item_id)
            if patient is not None and other_patient(patient, item.identity):
                # Also where an order fits each of them: then two patients were ordered under one study.
                if self._first(study_instance_uid, SEVERAL):
                    self._quarantine.note("dicom", item.device, SEVERAL, SEVERAL_TO_DO, item.item_id)
            elif item.identity.patient_id.strip() and (patient is None or not patient.issuer_of_patient_id.strip()):
                patient = item.identity  # who is told with an issuer can be told apart better

    def missing(self, study_instance_uid: str) -> None:
        """Say that images of a study did not arrive that its device made; once.

        Raises
        ------
        DatabaseError
            If it cannot be read.
        """
        item = next(self._journal.catalogue.named(study_instance_uid), None)
        if item is not None and self._first(study_instance_uid, MISSING):
            self._quarantine.note("dicom", item.device, MISSING, MISSING_TO_DO, item.item_id)

    def _first(self, study_instance_uid: str, reason: str) -> bool:
        """Return whether this was not told of the study before, and remember that it is now."""
        if (study_instance_uid, reason) in self._told:
            return False
        self._told[study_instance_uid, reason] = None
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        return True

    def step(self, orders: Iterable[Entry], patient_id: str, issuer: str, device: str) -> None:
        """Look at a performed step and the scheduled ones that it belongs to."""
        if _are_anothers(orders, patient_id, issuer):
            self._quarantine.note("dicom", device, STEP, WHAT_TO_DO)


def _are_anothers(orders: Iterable[Entry], patient_id: str, issuer: str = "") -> bool:
    """Whether there are orders, and none of them is of this patient. Who is not named is nobody else."""
    known = [entry for entry in orders if entry.order.patient_id]
    return bool(
        patient_id
        and known
        and not any(
            entry.order.patient_id == patient_id and not other_authority(entry.issuer_of_patient_id, issuer)
            for entry in known
        )
    )
