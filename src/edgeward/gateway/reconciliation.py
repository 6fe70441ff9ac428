"""Whether what a device made is of the patient whom its order names (IHE RAD, patient information reconciliation).

Responsible for saying so to people, in the quarantine and without identity, where a study or a performed step names
another patient than the order that it belongs to: the wrong worklist entry was chosen, or the patient was merged since.
Not responsible for which of both is right: images and results keep what the images say.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from edgeward.gateway.order_entry import Entry
from edgeward.gateway.order_matching import other_authority
from edgeward.gateway.orders import OrderBook
from edgeward.gateway.quarantine import Quarantine
from edgeward.privacy.journal import Journal

STUDY = "the images of a study name another patient than its order"
STEP = "a performed step names another patient than its order"
WHAT_TO_DO = "compare patient and order: the wrong worklist entry was chosen, or the patient was merged since"
_REMEMBERED = 10_000  # studies that were told


class Reconciliation:
    """Compares what arrived with the order book. Thread-safe."""

    def __init__(self, book: OrderBook, journal: Journal, quarantine: Quarantine) -> None:
        self._book, self._journal, self._quarantine = book, journal, quarantine
        self._told: OrderedDict[str, None] = OrderedDict()

    def study(self, study_instance_uid: str) -> None:
        """Look at a study that began, or is complete; it is told once.

        Raises
        ------
        DatabaseError
            If it cannot be read.
        """
        if study_instance_uid in self._told:
            return
        orders: dict[str, list[Entry]] = {}  # by accession number
        for item in self._journal.catalogue.named(study_instance_uid):
            accession = item.identity.accession_number
            if accession not in orders:
                orders[accession] = self._book.of_study(study_instance_uid, accession)
            if _are_anothers(orders[accession], item.identity.patient_id):
                self._told[study_instance_uid] = None
                while len(self._told) > _REMEMBERED:
                    self._told.popitem(last=False)
                self._quarantine.note("dicom", item.device, STUDY, WHAT_TO_DO, item.item_id)
                return

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
