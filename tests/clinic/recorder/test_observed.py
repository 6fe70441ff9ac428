"""Numerics in the recording: taken over once, found by bed and time, part of the trends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import imagecodecs
import msgspec
import pytest
from tests.support.site import TestSite

from edgeward.bedside import Observation, ObservationQuery, Observations, Observed, Trend, TrendQuery
from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.bus.role import RoleContext
from edgeward.clinic.recorder import observed
from edgeward.clinic.recorder import role as recorder
from edgeward.clinic.recorder.archive import Archive
from edgeward.clinic.recorder.observed import ObservedError
from edgeward.clinic.recorder.segment import OBSERVED
from edgeward.clinic.recorder.trends import Gatherer, ShownBed, ShownBeds, ShownVital
from edgeward.messages import Ok, Refused

SECOND = 10**9


def value(number: float, at_ns: int, bed: str = "bed-1", device_ns: int = 0) -> Observation:
    return Observation(
        bed_id=bed, source_id=bed, parameter="spo2", value=number, at_ns=at_ns, device_ns=device_ns or at_ns
    )


class Room:
    def __init__(self, site: TestSite, monitor: Bus, console: Bus) -> None:
        self.site, self.monitor, self.console = site, monitor, console
        self.context: RoleContext
        self.task: asyncio.Task[None]

    async def start(self) -> None:
        self.context = await self.site.context("recorder")
        self.task = asyncio.create_task(recorder.run(self.context))
        async with asyncio.timeout(20):
            while self.context._status != "ready":
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self.context.stopping.set()
        await self.task
        await self.context.bus.close()

    async def offer(self, *batches: tuple[int, list[Observation]], log: str = "log") -> Ok | Refused:
        message = Observed(log=log, batches=list(batches))
        return await self.monitor.request(subjects.RECORDER_OBSERVED, message, Ok | Refused, 10.0)

    async def numerics(self, bed: str = "bed-1", **more: Any) -> Observations:
        query = ObservationQuery(bed_id=bed, since_ns=time.time_ns() - 7200 * SECOND, **more)
        return await self.console.request(subjects.RECORDER_OBSERVATIONS, query, Observations | Refused, 10.0)

    async def trend(self, bed: str = "bed-1") -> Trend:
        query = TrendQuery(bed_id=bed, since_ns=time.time_ns() - 7200 * SECOND, points=8640)
        return await self.console.request(subjects.RECORDER_TREND, query, Trend | Refused, 10.0)


@pytest.fixture
async def room(bus_site: TestSite) -> AsyncIterator[Room]:
    room = Room(bus_site, await bus_site.bus("monitor"), await bus_site.bus("console"))
    await room.start()
    yield room
    if not room.task.done():
        await room.stop()


async def test_a_batch_that_is_offered_again_is_recorded_once_also_after_a_restart(room: Room) -> None:
    now = time.time_ns()
    first, second, third = (1, [value(90.0, now - 60 * SECOND)]), (2, [value(91.0, now)]), (3, [value(92.0, now + 1)])
    assert await room.offer(first, second) == Ok()
    assert await room.offer(first, second) == Ok(), "the answer was lost on its way"
    await room.stop()
    await room.start()
    assert await room.offer(first, second, third) == Ok()

    assert [one.value for one in (await room.numerics()).observations] == [90.0, 91.0, 92.0]
    found = [block for _, _, block in Archive.blocks(_archive(room), (OBSERVED,), "bed-1", 0, 1 << 62)]
    assert [observed.upto(block) for block in found] == [("log", 2), ("log", 3)]
    (series,) = (await room.trend()).series
    assert (series.unit, series.low[0], series.high[-1]) == ("%", 90.0, 92.0)
    assert await room.offer((1, [value(93.0, now + 2)]), log="of a monitor that was set up anew") == Ok()
    assert (await room.numerics()).observations[-1].value == 93.0


def _archive(room: Room) -> Archive:
    return recorder.open_archive(room.context, recorder.SystemTime())


async def test_a_disk_that_does_not_take_it_leaves_the_duty_with_the_monitor(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Archive.append

    def full(*_: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Archive, "append", full)
    answer = await room.offer((1, [value(90.0, time.time_ns())]))
    assert isinstance(answer, Refused)
    assert "No space left" in answer.reason
    monkeypatch.setattr(Archive, "append", append)
    assert await room.offer((1, [value(90.0, time.time_ns())])) == Ok()
    assert len((await room.numerics()).observations) == 1


async def test_what_was_measured_an_hour_ago_stands_where_it_was_measured(room: Room) -> None:
    now = time.time_ns()
    late = now - 3600 * SECOND
    assert await room.offer((1, [value(88.0, late), value(97.0, now, "bed-2")]), (2, [value(99.0, now)])) == Ok()

    (series,) = (await room.trend()).series
    assert [at // (10 * SECOND) for at in series.at_ns] == [late // (10 * SECOND), now // (10 * SECOND)]
    assert (series.mean[0], series.mean[1]) == (88.0, 99.0)
    assert [one.value for one in (await room.numerics("bed-2")).observations] == [97.0]
    assert (await room.numerics(parameters=["heart_rate"])).observations == []
    cut = await room.numerics(limit=1)
    assert ([one.value for one in cut.observations], cut.more) == ([88.0], True)


def test_the_same_measurement_sent_twice_is_told_once() -> None:
    # The estimate of the device's clock has moved between the two: only the device's time tells that they are one.
    twice = [value(90.0, 1000, device_ns=7), value(90.0, 1001, device_ns=7), value(91.0, 1002, device_ns=7)]
    query = ObservationQuery(bed_id="bed-1", since_ns=0)
    assert [one.value for one in observed.answer(query, 10_000, twice).observations] == [90.0, 91.0]


def test_what_was_handed_over_is_not_taken_from_the_beds_as_well() -> None:
    gatherer, now = Gatherer(), 1_800_000_000 * SECOND
    vital = ShownVital(parameter="spo2", value=90.0, unit="%", at_ns=now, source_id="bed-1")
    beds = ShownBeds(at_ns=now + SECOND, beds=[ShownBed(bed_id="bed-1", vitals=[vital])])
    gatherer.observe([value(90.0, now)], now + SECOND)
    gatherer.take(beds)
    assert gatherer.ended(now + 60 * SECOND, everything=True) == {}
    later = ShownBeds(at_ns=now + 60 * SECOND, beds=beds.beds)
    gatherer.take(later)
    assert gatherer.ended(now, everything=True), "nothing was handed over for a while: beds are all there is"


@pytest.mark.parametrize("block", [b"", b"\x28\xb5\x2f\xfd", b"no block"])
def test_what_is_no_block_is_refused(block: bytes) -> None:
    with pytest.raises(ObservedError):
        observed.unpack(block, "bed-1")
    whole = observed.blocks("log", 1, [value(1.0, 1)])[0][1]
    with pytest.raises(ObservedError):
        observed.unpack(whole[: len(whole) // 2], "bed-1")


def test_a_value_off_the_scale_keeps_its_side_and_blocks_of_before_are_still_read():
    one = msgspec.structs.replace(value(600.0, 5 * SECOND), parameter="glucose", bound="above")
    ((_, block),) = observed.blocks("log", 7, [one, value(97.0, 6 * SECOND)])
    old = imagecodecs.zstd_encode(
        msgspec.msgpack.encode(["log", 3, {"bed-1": [["bed-1", "spo2", 97.0, 5 * SECOND, 5 * SECOND]]}]), level=1
    )

    assert [(row.value, row.bound) for row in observed.unpack(block, "bed-1")] == [(600.0, "above"), (97.0, "")]
    assert observed.unpack(bytes(old), "bed-1") == [value(97.0, 5 * SECOND)]
    assert observed.upto(bytes(old)) == ("log", 3)
