"""The imaging workflow: orders in, worklist out, what was performed, what is committed; and numerics by the same doors.

Responsible for putting these together for the gateway, for the question for orders on the bus, and for what goes on in
the background. Not responsible for anything they do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from starlette.routing import BaseRoute

from edgeward.bus import subjects
from edgeward.bus.role import RoleContext
from edgeward.bus.tasks import end
from edgeward.gateway import fhir_routes, pcd01
from edgeward.gateway.commitment import Commitment
from edgeward.gateway.dimse import DimseService
from edgeward.gateway.fhir_vital_routes import SENDERS, VitalSigns
from edgeward.gateway.handover import Handover
from edgeward.gateway.hl7_orders import Hl7Orders, handled
from edgeward.gateway.mllp import MllpDoor
from edgeward.gateway.orders import OrderBook
from edgeward.gateway.performed import PerformedSteps
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.reconciliation import Reconciliation
from edgeward.gateway.worklist import Worklist
from edgeward.messages import Message, OrdersQuery
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.identity import client_context
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.registry import Registry
from edgeward.privacy.vault import Vault

_log = logging.getLogger("edgeward.gateway.workflow")
_SWEEP_S = 3600.0


class Workflow:
    """Order book, HL7 door and the DIMSE services around them.

    Parameters
    ----------
    performed
        Called with a study instance UID when what modalities say of that study changed; from an association's thread.

    Raises
    ------
    DatabaseError
        If the order book cannot be used.
    """

    def __init__(
        self,
        context: RoleContext,
        *,
        key: SiteKey,
        journal: Journal,
        vault: Vault,
        registry: Registry,
        quarantine: Quarantine,
        performed: Callable[[str], None] = lambda _: None,
    ) -> None:
        home, settings = context.home, context.settings
        self._context = context
        self.book = OrderBook(home.db("orders"), key, settings.imaging.orders_keep_days)
        self.reconciliation = Reconciliation(self.book, journal, quarantine)
        self.performed = PerformedSteps(self.book, key, performed, begun=self.reconciliation.step)
        self._commitment = Commitment(
            self.book,
            journal,
            vault,
            settings=settings.dicom,
            registry=registry,
            quarantine=quarantine,
            tls=lambda: client_context(home, "gateway"),
            site=settings.site.name,
        )
        handover = Handover(context.bus, context.stats.count, lambda name: registry.by_id(name) is not None)

        def pseudonym(identifier: str) -> str:
            return key.pseudonym(f"patient:{identifier}".encode())[:16].hex()

        self.mllp = MllpDoor(
            home,
            settings,
            registry=registry,
            quarantine=quarantine,
            handlers=handled(Hl7Orders(self.book)) | pcd01.handled(pcd01.Pcd01(handover, pseudonym, handover.wave)),
            count=context.stats.count,
        )
        self.services: tuple[DimseService, ...] = (Worklist(self.book), self.performed, self._commitment)
        vitals = VitalSigns(handover, quarantine, pseudonym, handover.wave)
        self.routes: list[BaseRoute] = [
            *vitals.routes(),
            *fhir_routes.routes(self.book, quarantine, vitals, SENDERS),
        ]
        self._background: list[asyncio.Task[None]] = []

    @property
    def last_seen_ns(self) -> dict[str, int]:
        """When each system last sent a message."""
        return self.mllp.last_seen_ns

    async def open(self) -> None:
        """Answer questions for orders, open the HL7 door, and begin to tell what was committed."""
        await self._context.bus.serve(subjects.GATEWAY_ORDERS, OrdersQuery, self._orders, subjects.GATEWAYS)
        await self.mllp.open()
        self._context.stats.warnings.update(self.mllp.warnings())
        self._background = [
            asyncio.create_task(work()) for work in (self._commitment.keep_telling, self._keep_sweeping)
        ]
        _log.info("HL7 doors open", extra={"fields": {"ports": self.mllp.ports}})

    async def close(self) -> None:
        """Close the door and the order book, and end what goes on in the background."""
        await end(self._background)
        await self.mllp.close()
        await asyncio.to_thread(self.book.close)

    async def _orders(self, query: OrdersQuery) -> Message:
        return await asyncio.to_thread(self.book.query, query)

    async def _keep_sweeping(self) -> None:
        """Remove orders past their retention, once an hour."""
        while True:
            try:
                if gone := await asyncio.to_thread(self.book.sweep):
                    _log.info("%d orders are past their retention and were removed", gone)
            except DatabaseError as error:
                _log.warning("old orders are removed later: %s", error)
            await asyncio.sleep(_SWEEP_S)
