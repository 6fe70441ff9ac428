"""The role `gateway`: the doors for devices, the vault and the journal, and the dispatcher that drives the work.

Responsible for putting these together, in an order in which nothing is accepted before it could be kept and driven, and
for taking them apart in the reverse order. Not responsible for anything they do.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from edgeward.bus.role import RoleContext
from edgeward.gateway import dicomweb, mqtt
from edgeward.gateway.catchup import catch_up
from edgeward.gateway.dicom import DicomDoor
from edgeward.gateway.dispatch import Dispatcher
from edgeward.gateway.qido import Qido
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.reception import Reception
from edgeward.gateway.rendering import Renderer
from edgeward.gateway.requested import Details
from edgeward.gateway.services import Services
from edgeward.gateway.stow import Stow
from edgeward.gateway.studies import Studies
from edgeward.gateway.wado import Wado
from edgeward.gateway.web import WebDoor
from edgeward.gateway.workflow import Workflow
from edgeward.privacy.items import Item
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.registry import Registry
from edgeward.privacy.vault import FileVault, VaultError

_log = logging.getLogger("edgeward.gateway")
_WEB_THREADS = 8
ROOM_S = 2.0  # between two looks at the room on the disk
FULL = "the disk is full: images are refused"


async def run(context: RoleContext) -> None:
    """Serve until told to stop."""
    warnings.simplefilter("ignore")  # pydicom's warnings quote the values they warn of
    home, settings = context.home, context.settings
    key = SiteKey.load(home)
    vault = FileVault(home.vault, key, settings.vault.min_free_mb)
    await asyncio.to_thread(vault.give_room_back)  # before anything else is written: the disk may be full
    journal = await asyncio.to_thread(Journal, home.db("journal"), key)
    try:
        reception = Reception(vault, journal, key, settings.budgets)
        await asyncio.to_thread(reception.recover)
        await asyncio.to_thread(vault.sweep, journal.knows_object)
        registry, quarantine = Registry(home), Quarantine(journal)
        dispatcher = Dispatcher(context, journal, vault, quarantine)

        def expected(study: str) -> set[str] | None:
            return workflow.performed.expected(study)

        def looked(study: str) -> None:
            workflow.reconciliation.study(study)

        def missing(study: str) -> None:
            workflow.reconciliation.missing(study)

        quiet_s = settings.imaging.study_quiet_s
        studies = Studies(context.bus, journal, quiet_s, expected, looked=looked, missing=missing)
        workflow = await asyncio.to_thread(
            Workflow,
            context,
            key=key,
            journal=journal,
            vault=vault,
            registry=registry,
            quarantine=quarantine,
            performed=studies.look,
        )

        def admitted(item: Item, is_new: bool) -> None:
            dispatcher.admitted(item, is_new)
            studies.admitted(item, is_new)

        dicom = DicomDoor(
            home,
            settings,
            reception=reception,
            registry=registry,
            quarantine=quarantine,
            admitted=admitted,
            services=workflow.services,
        )
        threads = ThreadPoolExecutor(_WEB_THREADS, thread_name_prefix="web")
        renderer = Renderer(context.bus, journal, vault, threads)
        web = WebDoor(
            home,
            settings,
            registry=registry,
            quarantine=quarantine,
            routes=dicomweb.routes(
                Stow(reception, quarantine, threads, admitted),
                Qido(journal.catalogue, Details(journal.catalogue, vault), threads),
                Wado(journal.catalogue, vault, renderer, quarantine, threads),
                settings.web.max_body_mb << 20,
            )
            + workflow.routes,
        )
        await dispatcher.start()
        background = [
            asyncio.create_task(work())
            for work in (
                quarantine.keep_flushing,
                dicom.keep_enforcing,
                web.keep_enforcing,
                studies.keep_watching,
                reception.keep_settling,
            )
        ]
        background.append(asyncio.create_task(catch_up(journal, vault, key)))
        door = await mqtt.start(context)
        services = Services(
            context,
            journal=journal,
            vault=vault,
            quarantine=quarantine,
            registry=registry,
            last_seen=lambda: (
                Counter(door.last_seen_ns)
                | Counter(dicom.last_seen_ns)
                | Counter(web.last_seen_ns)
                | Counter(workflow.last_seen_ns)
            ),
            decided=dispatcher.decided,
            renderer=renderer,
        )
        try:
            await services.start()
            await asyncio.to_thread(dicom.open)
            context.stats.warnings.update(dicom.warnings())
            context.stats.counters["receives"] = dicom.receives
            opened = {"ports": dicom.ports, "receives": dicom.receives.name}
            _log.info("DICOM doors open", extra={"fields": opened})
            await workflow.open()
            await web.open()
            _log.info("HTTPS door open", extra={"fields": {"port": web.port}})
            await context.bus.flush()  # ready means that the server knows where to send requests
            context.ready()
            background.append(asyncio.create_task(keep_looking_for_room(context, vault)))
            await context.stopping.wait()
        finally:
            await web.close()
            await asyncio.to_thread(dicom.close)
            await workflow.close()
            await door.close()
            for task in background:
                task.cancel()
            await dispatcher.stop()
            threads.shutdown(wait=True)
            await asyncio.to_thread(quarantine.flush)
    finally:
        journal.close()


async def keep_looking_for_room(context: RoleContext, vault: FileVault) -> None:
    """Say that images are refused for want of room on the disk, while it is so, until cancelled.

    A device that meets a full disk is told so and tries again; people must not have to wait for one to try.
    """
    while True:
        await asyncio.sleep(ROOM_S)
        try:
            await asyncio.to_thread(vault.check_room, 0)
        except (VaultError, OSError):
            context.degraded(FULL)
        else:
            context.recovered()
