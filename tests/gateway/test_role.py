"""The gateway role as a whole: it starts, serves, takes a real image over TLS and answers the console."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.gateway.door import AE_TITLE, ask, frame
from tests.gateway.test_dispatch import EngineDouble, done
from tests.support.site import TestSite

from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.gateway import role
from edgeward.gateway.services import objection
from edgeward.messages import (
    Ask,
    DeliverRequest,
    Devices,
    Items,
    ItemsQuery,
    Message,
    Ok,
    Preview,
    Quarantined,
    QuarantineList,
    Refused,
    Verdict,
    WorkRequest,
)
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault


@asynccontextmanager
async def gateway(site: TestSite) -> AsyncIterator[Bus]:
    """The running role, an engine that answers, a deliver that accepts; yields the console's connection."""

    async def answer(request: WorkRequest) -> Message:
        return done(request)

    async def accept(_: DeliverRequest) -> Message:
        return Ok()

    engine = EngineDouble(await site.bus("engine"), answer)
    await engine.start("node1")
    deliver = await site.bus("deliver")
    await deliver.serve(subjects.DELIVER_ACCEPT, DeliverRequest, accept)
    await deliver.flush()
    context = await site.context("gateway")
    running = asyncio.create_task(role.run(context))
    async with asyncio.timeout(20):
        while context.state().status != "ready":
            await asyncio.sleep(0.02)
            if running.done():
                running.result()
    try:
        yield await site.bus("console")
    finally:
        context.stopping.set()
        await asyncio.wait_for(running, 20)


def send(site: TestSite, folder: object) -> int:
    class Where:
        port = site.settings.dicom.port

    association = ask(Where(), folder)  # type: ignore[arg-type]
    assert association.is_established
    status = association.send_c_store(frame())
    association.release()
    return int(status.Status)


async def test_an_image_sent_over_tls_appears_in_the_worklist_with_finding_and_preview(bus_site: TestSite) -> None:
    folder = bus_site.enrol("us1", "ultrasound", AE_TITLE)
    async with gateway(bus_site) as console:
        assert await asyncio.to_thread(send, bus_site, folder) == 0x0000

        async with asyncio.timeout(20):
            while True:
                listed = await console.request(subjects.GATEWAY_ITEMS, ItemsQuery(), Items, 5.0)
                if listed.items and listed.items[0].state == "closed":
                    break
                await asyncio.sleep(0.05)
        (item,) = listed.items
        assert (item.patient_name, item.device, item.modality) == ("MUSTERFRAU^ERIKA", "us1", "US")
        assert listed.counts["closed"] == 1
        preview = await console.request(subjects.GATEWAY_PREVIEW, Ask(argument=item.item_id), Preview, 5.0)
        assert preview == Preview(jpeg=b"jpeg", scale=0.5)
        assert (await console.request(subjects.GATEWAY_PREVIEW, Ask(argument="nobody"), Preview, 5.0)).jpeg == b""

        assert item.finding is not None
        verdict = Verdict(
            verdict_id="v1",
            item_id=item.item_id,
            finding_id=item.finding.finding_id,
            action="correct",
            label="benign",
            by="dr.no",
            at_ns=time.time_ns(),
        )
        answers = [await console.request(subjects.GATEWAY_VERDICT, verdict, Ok | Refused, 5.0) for _ in range(2)]
        assert answers == [Ok(), Ok()]
        (item,) = (await console.request(subjects.GATEWAY_ITEMS, ItemsQuery(), Items, 5.0)).items
        assert item.verdicts == [verdict]

        devices = await console.request(subjects.GATEWAY_DEVICES, Ask(), Devices, 5.0)
        (device,) = devices.devices
        assert (device.device_id, device.ae_title) == ("us1", AE_TITLE)
        assert device.last_seen_ns > 0


async def test_what_other_roles_set_aside_is_kept_counted_and_listed(bus_site: TestSite) -> None:
    async with gateway(bus_site) as console:
        entry = Quarantined(at_ns=1, where="deliver", peer="pacs", reason="no such host", what_to_do="look")
        for _ in range(3):
            await console.publish(subjects.QUARANTINED, entry)

        async with asyncio.timeout(10):
            while True:
                listed = await console.request(subjects.GATEWAY_QUARANTINE, Ask(), QuarantineList, 5.0)
                if sum(one.count for one in listed.entries if one.where == "deliver") == 3:
                    break
                await asyncio.sleep(0.05)


async def test_a_restart_serves_on_and_sweeps_what_was_not_acknowledged(bus_site: TestSite) -> None:
    orphan = bus_site.home.vault / "ab" / ("ab" + "0" * 30 + ".ew")
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"half")
    (orphan.parent / ("ab" + "1" * 30 + ".part")).write_bytes(b"half")

    async with gateway(bus_site) as console:
        assert list(orphan.parent.iterdir()) == []
        assert (await console.request(subjects.GATEWAY_ITEMS, ItemsQuery(), Items, 5.0)).items == []


def test_verdicts_that_make_no_sense_are_refused_with_a_reason() -> None:
    good = {"verdict_id": "v", "item_id": "i", "finding_id": "f", "action": "confirm", "by": "dr", "at_ns": 1}

    assert objection(Verdict(**good)) == ""  # type: ignore[arg-type]
    for wrong in (
        {"by": " "},
        {"at_ns": 0},
        {"item_id": ""},
        {"verdict_id": "a b"},
        {"label": "benign"},
        {"action": "correct"},
        {"action": "correct", "label": "haunted"},
        {"comment": "x" * 3000},
    ):
        assert objection(Verdict(**good | wrong)), wrong  # type: ignore[arg-type]


async def test_a_full_disk_is_told_before_a_device_meets_it_and_its_end_too(
    bus_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role, "ROOM_S", 0.01)
    context = await bus_site.context("gateway")
    context.ready()
    vault = FileVault(bus_site.home.vault, SiteKey.load(bus_site.home), min_free_mb=1 << 40)
    looking = asyncio.create_task(role.keep_looking_for_room(context, vault))

    async def becomes(status: str) -> None:
        async with asyncio.timeout(10):
            while context.state().status != status:
                await asyncio.sleep(0.01)

    await becomes("degraded")
    assert context.state().reason == "the disk is full: images are refused"
    monkeypatch.setattr(vault, "check_room", lambda _: None)
    await becomes("ready")

    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
