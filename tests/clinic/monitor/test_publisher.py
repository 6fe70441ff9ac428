"""How alarms leave: in order, not held up by the disk; and what a large site publishes of its beds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.monitoring import KEY, OnTheBus, Site
from tests.support.wearable import RATE, ecg

from edgeward.bedside import AlarmQuery, SetBed
from edgeward.bus.role import Stats
from edgeward.bus.tasks import end
from edgeward.clinic.monitor import publisher, screens
from edgeward.clinic.monitor import role as monitor
from edgeward.clinic.monitor.alarm_log import AlarmLog
from edgeward.clinic.monitor.escalation import Escalation
from edgeward.clinic.monitor.publisher import Publisher
from edgeward.clinic.monitor.shown import to_message
from edgeward.config import Settings
from edgeward.home import Home
from edgeward.messages import Beds, Ok, Viewing
from edgeward.privacy.database import DatabaseFull
from edgeward.privacy.keys import SiteKey
from edgeward.waveform import WaveformPacket, encode


class Office:
    """A publisher with a log that can be held or broken."""

    def __init__(self, path: Path) -> None:
        self.site = Site("a", "b", "c")
        self.bus = OnTheBus()
        self.log = AlarmLog(path, KEY)
        shown: Any = SimpleNamespace(alarm=to_message, vitals=lambda _: [], label=str)
        context: Any = SimpleNamespace(bus=self.bus, stats=Stats(), settings=self.site.settings)
        self.publisher = Publisher(
            context=context,
            log=self.log,
            engine=self.site.engine,
            shown=shown,
            escalation=Escalation(self.site.settings, self.site.engine, self.site.clock),
            clock=self.site.clock,
            describe=lambda _: {},
        )
        self.task = asyncio.create_task(self.publisher.run())

    async def close(self) -> None:
        self.task.cancel()
        await self.publisher.stop()
        self.log.close()


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    found = Office(tmp_path / "alarms.sqlite")
    yield found
    await found.close()


async def test_a_disk_that_stands_does_not_hold_up_an_alarm(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    held, save = threading.Event(), office.log.save

    def slow(writing: Any) -> None:
        held.wait(30)
        save(writing)

    monkeypatch.setattr(office.log, "save", slow)
    office.publisher.put(office.site.begin("a", "asystole"))
    office.publisher.put(office.site.begin("b", "asystole"))
    await office.bus.until(2)
    assert office.bus.alarms() == [("a", "raised"), ("b", "raised")]
    assert office.log.events(AlarmQuery()) == [], "nothing is written yet"
    held.set()
    await office.publisher.settled()
    assert len(office.log.events(AlarmQuery())) == 2


async def test_what_a_full_disk_refused_is_written_when_it_has_room(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = office.log.save

    def full(_: Any) -> None:
        raise DatabaseFull("the disk is full")

    monkeypatch.setattr(office.log, "save", full)
    await office.publisher.settled(office.site.begin("a", "asystole"))
    await office.publisher.settled(office.site.end("a", "asystole"))
    assert office.bus.alarms() == [("a", "raised"), ("a", "raised")]
    assert office.publisher.owing
    assert "full" in office.publisher.problem

    monkeypatch.setattr(office.log, "save", save)
    office.publisher.again()
    await office.publisher.settled(office.site.begin("b", "lead_off"))
    assert not office.publisher.owing
    assert office.publisher.problem == ""
    written = [(one.bed_id, one.present) for one in reversed(office.log.events(AlarmQuery()))]
    assert written == [("a", True), ("a", False), ("b", True)]
    assert {record.bed_id for record, _ in office.log.beds()} == {"a", "b"}


async def test_an_alarm_that_is_being_told_when_the_monitor_stops_is_told(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "WAIT_S", 30.0)
    begun, held, save = threading.Event(), threading.Event(), office.log.save

    def slow(writing: Any) -> None:
        begun.set()
        held.wait(30)
        save(writing)

    monkeypatch.setattr(office.log, "save", slow)
    settled = asyncio.create_task(office.publisher.settled(office.site.begin("a", "asystole")))
    assert await asyncio.to_thread(begun.wait, 30)
    await end([office.task])
    held.set()

    await office.publisher.stop()

    assert office.bus.alarms() == [("a", "raised")]
    async with asyncio.timeout(10):
        await settled


async def test_the_numbers_of_a_bed_that_is_no_more_are_written_down_also_after_a_failure(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.publisher.settled(office.site.begin("a", "asystole"))
    save, full = office.log.save, [DatabaseFull("the disk is full")]

    def refusing(writing: Any) -> None:
        if full:
            raise full.pop()
        save(writing)

    monkeypatch.setattr(office.log, "save", refusing)
    office.site.beds.remove_source("a")
    await office.publisher.settled(office.site.engine.remove_bed("a"))
    assert office.publisher.owing
    office.publisher.again()
    await office.publisher.settled()

    assert office.log.numbers() == {"a": 1}
    assert [record.bed_id for record, _ in office.log.beds()] == []


async def test_transitions_leave_in_their_order(office: Office) -> None:
    told = []
    for turn in range(200):
        bed = "abc"[turn % 3]
        changes = office.site.begin(bed, "lead_off") + office.site.end(bed, "lead_off")
        told += [(one.bed_id, one.change.state) for one in changes]
        office.publisher.put(changes)
        if turn % 7 == 0:
            await asyncio.sleep(0)
    await office.publisher.settled()
    assert office.bus.alarms() == told


# ------------------------------------ a large site


def packet(number: int, sequence: int) -> bytes:
    part = ecg(1, 72, seed=number % 5).reshape(1, -1)
    return encode(
        WaveformPacket(
            samples=part, sequence=sequence, first_sample=sequence * 250, start_ns=1, rate_hz=RATE, gain_uv=1.0,
            leads=("II",), lead_off=(False,),
        )
    )  # fmt: skip


async def test_a_large_site_publishes_what_somebody_looks_at_and_every_bed_in_turn(tmp_path: Path) -> None:
    bus = OnTheBus()
    home = Home(tmp_path)
    SiteKey.create(home)
    home.data.mkdir(parents=True, exist_ok=True)
    context: Any = SimpleNamespace(bus=bus, stats=Stats(), settings=Settings(), home=home)
    role = monitor.MonitorRole(context)
    role.waiting = None
    enrolled = SimpleNamespace(revoked=False, label="x")
    role.registry = SimpleNamespace(refresh=lambda: False, by_id=lambda _: enrolled)  # type: ignore[assignment]
    task = asyncio.create_task(role.publisher.run())
    names = [f"w{number}" for number in range(600)]

    async def published() -> tuple[set[str], list[Beds]]:
        bus.sent.clear()
        changed, role.publisher.changed_beds = role.publisher.changed_beds, set()
        await role.screens.publish_beds(changed)
        messages = [one for one in bus.sent if isinstance(one, Beds)]
        return {bed.bed_id for one in messages for bed in one.beds}, messages

    for number, name in enumerate(names):
        role.take_wave(name, packet(number, 0), role.clock.now_ns())
    role.process()
    role.tell(role.engine.take(role.intake.tick()))
    await role.publisher.settled()
    found, messages = await published()
    assert len(found) == 600 // screens.ROUNDS, "nobody looks, nothing alarms: some, in turn"
    assert not any(message.full for message in messages)
    assert max(len(message.beds) for message in messages) <= screens.SLICE

    await role.screens.view("", Viewing(device_ids=["w77"]))
    for number in range(1, 3):
        role.take_wave("w77", packet(77, number), role.clock.now_ns())
        role.process()
        role.tell(role.engine.take(role.intake.tick()))
        found, _ = await published()
        assert "w77" in found
        assert len(found) <= 600 // screens.ROUNDS + 1
    seen: set[str] = set()
    for _ in range(screens.ROUNDS):
        seen |= (await published())[0]
    assert seen == set(names)

    role.forget("w5")
    _, messages = await published()
    assert [gone for message in messages for gone in message.gone] == ["w5"]
    answer = await role.desk.set_bed(
        SetBed(bed_id="room", by="Li", at_ns=1, sources=["w6", "w7"])
    )  # fmt: skip
    assert answer == Ok()
    found, messages = await published()
    assert "room" in found
    assert {gone for message in messages for gone in message.gone} == {"w6", "w7"}
    task.cancel()
    await role.close()
