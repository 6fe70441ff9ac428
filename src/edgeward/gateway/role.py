"""The role `gateway`: the doors for devices, the vault and the journal, and the dispatcher that drives the work.

Responsible for putting these together, in an order in which nothing is accepted before it could be kept and driven, and
for taking them apart in the reverse order. Not responsible for anything they do.
"""

from __future__ import annotations

import asyncio
import logging
import warnings

from edgeward.bus.role import RoleContext
from edgeward.gateway import mqtt
from edgeward.gateway.dicom import DicomDoor
from edgeward.gateway.dispatch import Dispatcher
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.reception import Reception
from edgeward.gateway.services import Services
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.registry import Registry
from edgeward.privacy.vault import FileVault

_log = logging.getLogger("edgeward.gateway")


async def run(context: RoleContext) -> None:
    """Serve until told to stop."""
    warnings.simplefilter("ignore")  # pydicom's warnings quote the values they warn of
    home, settings = context.home, context.settings
    key = SiteKey.load(home)
    journal = await asyncio.to_thread(Journal, home.db("journal"), key)
    try:
        vault = FileVault(home.vault, key, settings.vault.min_free_mb)
        await asyncio.to_thread(vault.sweep, journal.knows_object)
        registry, quarantine = Registry(home), Quarantine(journal)
        dispatcher = Dispatcher(context, journal, vault, quarantine)
        dicom = DicomDoor(
            home,
            settings,
            reception=Reception(vault, journal, key, settings.budgets),
            registry=registry,
            quarantine=quarantine,
            admitted=dispatcher.admitted,
        )
        await dispatcher.start()
        background = [asyncio.create_task(work()) for work in (quarantine.keep_flushing, dicom.keep_enforcing)]
        door = await mqtt.start(context)
        services = Services(
            context,
            journal=journal,
            vault=vault,
            quarantine=quarantine,
            registry=registry,
            last_seen=lambda: {**door.last_seen_ns, **dicom.last_seen_ns},
            decided=dispatcher.decided,
        )
        try:
            await services.start()
            await asyncio.to_thread(dicom.open)
            context.stats.warnings.update(dicom.warnings())
            _log.info("DICOM doors open", extra={"fields": {"ports": dicom.ports}})
            await context.bus.flush()  # ready means that the server knows where to send requests
            context.ready()
            await context.stopping.wait()
        finally:
            await asyncio.to_thread(dicom.close)
            await door.close()
            for task in background:
                task.cancel()
            await dispatcher.stop()
            await asyncio.to_thread(quarantine.flush)
    finally:
        journal.close()
