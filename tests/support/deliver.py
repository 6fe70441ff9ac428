"""The other side of the role `deliver` in tests, and the role itself, in this process or as a child."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable

import msgspec

from edgeward.bus import subjects
from edgeward.bus.client import BusError
from edgeward.bus.role import RoleContext
from edgeward.clinic.imaging.role import run
from edgeward.config import Fhir, Hl7, Pacs
from edgeward.messages import DeliverRequest, DeliveryReport, Message, Ok, Quarantined, Refused, Verdict
from edgeward.privacy.keys import SiteKey
from tests.support.imaging import as_file, breast_image, finding_for, request_for
from tests.support.site import TestSite


class Gateway:
    """The other end of `deliver`: hands items over and hears what became of them."""

    def __init__(self, site: TestSite) -> None:
        self.site = site
        self.key = SiteKey.load(site.home)
        self.reports: list[DeliveryReport] = []
        self.taken: list[DeliveryReport] = []
        self.quarantined: list[Quarantined] = []
        self.answer: Message = Ok()

    async def start(self) -> Gateway:
        self.bus = await self.site.bus("gateway")
        await self.bus.serve(subjects.GATEWAY_DELIVERY, DeliveryReport, self._heard, subjects.GATEWAYS)
        await self.bus.subscribe(subjects.QUARANTINED, Quarantined, self._quarantined)
        return self

    async def _heard(self, report: DeliveryReport) -> Message:
        if report not in self.taken:  # else it is told again, because the answer was not heard in time
            self.reports.append(report)
        if isinstance(self.answer, Ok):
            self.taken.append(report)
        return self.answer

    async def _quarantined(self, subject: str, entry: Quarantined) -> None:
        self.quarantined.append(entry)

    def request(self, item_id: str, **attributes) -> DeliverRequest:
        image = breast_image(rows=60, columns=80, **attributes)
        request = request_for(self.site.home.vault, self.key, as_file(image), finding_for(image, item_id))
        if "StudyInstanceUID" in attributes:
            request = msgspec.structs.replace(request, study_instance_uid=attributes["StudyInstanceUID"])
        return request

    def revised(self, request: DeliverRequest, *actions: str, label: str = "benign") -> DeliverRequest:
        """Return the revision of an item after these verdicts."""
        verdicts = [
            Verdict(
                verdict_id=f"v{n}",
                item_id=request.item_id,
                finding_id=request.finding.finding_id,
                action=action,
                label=label if action == "correct" else "",
                by="dr.weber",
                at_ns=request.finding.created_ns + (n + 1) * 10**9,
            )
            for n, action in enumerate(actions)
        ]
        return msgspec.structs.replace(request, revision=len(verdicts), verdicts=verdicts)

    async def hand_over(self, request: DeliverRequest) -> Message:
        answer: Message = await self.bus.request(subjects.DELIVER_ACCEPT, request, Ok | Refused, 10)
        return answer


class Running:
    """The role in this process."""

    def __init__(self, context: RoleContext) -> None:
        self.context = context
        self.task = asyncio.create_task(run(context))

    async def stop(self) -> None:
        self.context.stopping.set()
        await self.task
        await self.context.bus.close()  # as the end of the process would: a later instance alone serves


def configure(site: TestSite, *destinations: Pacs | Fhir | Hl7) -> None:
    """Make these the destinations of the site."""
    site.settings.pacs = [one for one in destinations if isinstance(one, Pacs)]
    site.settings.fhir = [one for one in destinations if isinstance(one, Fhir)]
    site.settings.hl7 = [one for one in destinations if isinstance(one, Hl7)]


async def start(site: TestSite, *destinations: Pacs | Fhir | Hl7) -> Running:
    configure(site, *destinations)
    running = Running(await site.context("deliver"))
    await until(lambda: running.context.state().status == "ready" or running.task.done())
    if running.task.done():
        running.task.result()
    return running


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def child(site: TestSite, *destinations: Pacs | Fhir | Hl7) -> asyncio.subprocess.Process:
    """Start the role as the supervisor does."""
    configure(site, *destinations)
    environment = {
        **os.environ,
        "EDGEWARD_BUS__PORT": str(site.settings.bus.port),
        **{
            f"EDGEWARD_{kind.upper()}": json.dumps([one.model_dump() for one in getattr(site.settings, kind)])
            for kind in ("pacs", "fhir", "hl7")
        },
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgeward.cli", "_role", "deliver", "--home", str(site.home.path), env=environment
    )


async def accepted(gateway: Gateway, request: DeliverRequest) -> None:
    """Hand over, again and again until it is taken, as the gateway's dispatcher does."""
    async with asyncio.timeout(240):
        while True:
            try:
                if await gateway.bus.request(subjects.DELIVER_ACCEPT, request, Ok | Refused, 1) == Ok():
                    return
            except BusError:
                await asyncio.sleep(0.1)
