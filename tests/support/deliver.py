"""The other side of the role `deliver` in tests, and the role itself, in this process or as a child."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable

from edgeward.bus import subjects
from edgeward.bus.client import BusError
from edgeward.bus.role import RoleContext
from edgeward.clinic.imaging.role import run
from edgeward.config import Pacs
from edgeward.messages import DeliverRequest, DeliveryReport, Message, Ok, Quarantined, Refused
from edgeward.privacy.keys import SiteKey
from tests.support.imaging import as_file, breast_image, finding_for, request_for
from tests.support.site import TestSite


class Gateway:
    """The other end of `deliver`: hands items over and hears what became of them."""

    def __init__(self, site: TestSite) -> None:
        self.site = site
        self.key = SiteKey.load(site.home)
        self.reports: list[DeliveryReport] = []
        self.quarantined: list[Quarantined] = []
        self.answer: Message = Ok()

    async def start(self) -> Gateway:
        self.bus = await self.site.bus("gateway")
        await self.bus.serve(subjects.GATEWAY_DELIVERY, DeliveryReport, self._heard, subjects.GATEWAYS)
        await self.bus.subscribe(subjects.QUARANTINED, Quarantined, self._quarantined)
        return self

    async def _heard(self, report: DeliveryReport) -> Message:
        self.reports.append(report)
        return self.answer

    async def _quarantined(self, subject: str, entry: Quarantined) -> None:
        self.quarantined.append(entry)

    def request(self, item_id: str, **attributes) -> DeliverRequest:
        image = breast_image(rows=60, columns=80, **attributes)
        return request_for(self.site.home.vault, self.key, as_file(image), finding_for(image, item_id))

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


async def start(site: TestSite, *pacs) -> Running:
    site.settings.pacs = list(pacs)
    running = Running(await site.context("deliver"))
    await until(lambda: running.context.state().status == "ready" or running.task.done())
    if running.task.done():
        running.task.result()
    return running


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def child(site: TestSite, *pacs: Pacs) -> asyncio.subprocess.Process:
    """Start the role as the supervisor does."""
    environment = {
        **os.environ,
        "EDGEWARD_BUS__PORT": str(site.settings.bus.port),
        "EDGEWARD_PACS": json.dumps([p.model_dump() for p in pacs]),
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgeward.cli", "_role", "deliver", "--home", str(site.home.path), env=environment
    )


async def accepted(gateway: Gateway, request: DeliverRequest) -> None:
    """Hand over, again and again until it is taken, as the gateway's dispatcher does."""
    async with asyncio.timeout(60):
        while True:
            try:
                if await gateway.bus.request(subjects.DELIVER_ACCEPT, request, Ok | Refused, 1) == Ok():
                    return
            except BusError:
                await asyncio.sleep(0.1)
