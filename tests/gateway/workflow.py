"""A DICOM door with the workflow services, and an order book behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pynetdicom import AE, evt
from tests.gateway.door import tls_of
from tests.gateway.hl7_door import orm
from tests.support.site import TestSite, new_home

from edgeward.gateway.commitment import Commitment
from edgeward.gateway.dicom import DicomDoor
from edgeward.gateway.hl7_orders import Hl7Orders
from edgeward.gateway.orders import OrderBook
from edgeward.gateway.performed import PerformedSteps
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.reception import Reception
from edgeward.gateway.worklist import Worklist
from edgeward.hl7 import er7
from edgeward.privacy.identity import client_context
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.registry import Registry
from edgeward.privacy.vault import FileVault
from edgeward.scu import steady


@dataclass
class Workflow:
    site: TestSite
    dicom: DicomDoor
    journal: Journal
    vault: FileVault
    book: OrderBook
    performed: PerformedSteps
    commitment: Commitment
    quarantine: Quarantine
    studies: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.dicom.ports["tls"]

    def order(self, control: str = "NW", **keys: object) -> None:
        text = orm(control, **keys)
        assert Hl7Orders(self.book).take(er7.parse(text), "his", 4 * 10**18).outcome == "AA"

    def reasons(self) -> list[str]:
        return [entry.reason for entry in self.quarantine.entries()]

    def associate(self, folder: Path, *contexts: object, calling: str = "US1", handlers: tuple = (), roles: tuple = ()):
        ae = AE(ae_title=calling)
        for context in contexts:
            uid, syntaxes = context if isinstance(context, tuple) else (context, None)
            ae.add_requested_context(uid, syntaxes)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
        association = steady(
            ae.associate(
                "127.0.0.1",
                self.port,
                ae_title="EDGEWARD",
                tls_args=(tls_of(folder), "localhost"),
                evt_handlers=[(evt.EVT_N_EVENT_REPORT, handler) for handler in handlers],
                ext_neg=list(roles),
            )
        )
        assert association.is_established
        return association


@contextmanager
def open_workflow(path: Path, home_there: bool = False, **sections: dict[str, object]) -> Iterator[Workflow]:
    home, settings = new_home(path, **sections)
    key = SiteKey.load(home)
    journal, vault = Journal(home.db("journal"), key), FileVault(home.vault, key)
    quarantine, registry = Quarantine(journal), Registry(home)
    book = OrderBook(home.db("orders"), key)
    studies: list[str] = []
    performed = PerformedSteps(book, key, studies.append)
    commitment = Commitment(
        book, journal, vault, settings=settings.dicom, registry=registry, quarantine=quarantine,
        tls=lambda: client_context(home, "gateway"), site=settings.site.name,
    )  # fmt: skip
    dicom = DicomDoor(
        home,
        settings,
        reception=Reception(vault, journal, key, settings.budgets),
        registry=registry,
        quarantine=quarantine,
        admitted=lambda item, new: None,
        services=[Worklist(book), performed, commitment],
    )
    dicom.open()
    try:
        yield Workflow(
            TestSite(home, settings), dicom, journal, vault, book, performed, commitment, quarantine, studies
        )
    finally:
        dicom.close()
        book.close()
        journal.close()
