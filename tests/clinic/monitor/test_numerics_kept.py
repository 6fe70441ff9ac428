"""Numerics that were acknowledged are on the disk: over a kill at any moment, with and without a recorder."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.monitoring import Hands, Monitored
from tests.support.site import TestSite, new_home

from edgeward.bedside import Numerics, Observation, ObservationQuery, Observations, SetBed, Trend, TrendQuery, Vital
from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.bus.stored import TwoWays
from edgeward.bus.tasks import end
from edgeward.clinic.monitor.keeper import Keeper
from edgeward.clinic.monitor.numerics_log import Batch, NumericsLog
from edgeward.clinic.recorder import role as recorder
from edgeward.gateway import mqtt
from edgeward.messages import Ok, Refused
from edgeward.privacy.database import Database, DatabaseError, DatabaseFull
from edgeward.privacy.keys import SiteKey

SECOND = 10**9


def message(source: str = "bed-1", value: float = 97.0, at_ns: int = 1) -> Numerics:
    vital = Vital(parameter="spo2", value=value, at_ns=at_ns)
    return Numerics(source_id=source, device_id="central", protocol="pcd01", received_ns=at_ns, vitals=[vital])


def observation(value: float = 97.0, at_ns: int = 1) -> Observation:
    return Observation(bed_id="bed-1", source_id="bed-1", parameter="spo2", value=value, at_ns=at_ns)


# ---------------------------------------- the file


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, SiteKey]:
    home, _ = new_home(tmp_path / "home")
    return home.db("numerics"), SiteKey.load(home)


def test_what_was_written_is_there_after_a_restart_until_nobody_needs_it(place: tuple[Path, SiteKey]) -> None:
    log = NumericsLog(*place)
    first = log.append(Batch([message(value=97.0)], [observation(97.0)]), 1)
    second = log.append(Batch([message(value=98.0)], [observation(98.0)]), 2)
    log.close()

    log = NumericsLog(*place)
    assert [number for number, _ in log.after(0, 10)] == [first, second]
    assert [one.vitals[0].value for one in log.since_dump()] == [97.0, 98.0]
    log.keep(b"values", first, 3)
    assert [one.vitals[0].value for one in log.since_dump()] == [98.0], "the dump includes the first"
    assert len(log.after(0, 10)) == 2, "the recorder has none of it yet"
    log.handed = second
    log.keep(b"values", second, 4)
    assert log.after(0, 10) == []
    third = log.append(Batch([message()], []), 5)
    log.close()

    log = NumericsLog(*place)
    assert third > second, "numbers are never given twice"
    assert (log.dump(), log.handed, log.last) == (b"values", second, third)
    log.close()


def test_nothing_stands_in_clear_on_the_disk_and_another_key_opens_nothing(
    place: tuple[Path, SiteKey], tmp_path: Path
) -> None:
    log = NumericsLog(*place)
    log.append(Batch([message("ward-7-bed-3")], [observation()]), 1)
    log.keep(b"the values of everybody", 0, 2)
    log.close()
    data = b"".join(path.read_bytes() for path in place[0].parent.glob("numerics*"))
    assert b"ward-7-bed-3" not in data
    assert b"spo2" not in data
    assert b"the values of everybody" not in data

    other, _ = new_home(tmp_path / "other")
    log = NumericsLog(place[0], SiteKey.load(other))
    assert (log.since_dump(), log.dump(), log.unreadable) == ([], None, 2)
    log.close()


_WRITER = """
import sys
from pathlib import Path
from edgeward.bedside import Numerics, Vital
from edgeward.clinic.monitor.numerics_log import Batch, NumericsLog
from edgeward.home import Home
from edgeward.privacy.keys import SiteKey
home = Home(Path(sys.argv[1]))
log = NumericsLog(home.db("numerics"), SiteKey.load(home))
number = 0
while True:
    number = log.append(Batch([Numerics(source_id="b", device_id="d", protocol="pcd01", received_ns=number,
        vitals=[Vital(parameter="spo2", value=90.0, at_ns=number)])], []), number)
    print(number, flush=True)
    if number % 7 == 0:
        log.keep(b"values", number - 7, number)
"""


def test_whatever_is_killed_what_was_said_to_be_written_is_there(tmp_path: Path) -> None:
    home, _ = new_home(tmp_path / "home")
    said = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", _WRITER, str(home.path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(40):
            said = int(child.stdout.readline())
        child.kill()
        rest = child.stdout.read().splitlines(keepends=True)
        said = max([said, *(int(line) for line in rest if line.endswith("\n"))])
        child.wait()
        log = NumericsLog(home.db("numerics"), SiteKey.load(home))
        numbers = [number for number, _ in log.after(0, 100_000)]
        assert log.unreadable == 0
        assert said in numbers
        assert numbers == list(range(1, numbers[-1] + 1)), "the recorder has none of it yet, so none is gone"
        log.close()


async def test_a_message_that_is_being_written_when_the_monitor_stops_is_written(place: tuple[Path, SiteKey]) -> None:
    log = NumericsLog(*place)
    keeper = Keeper(log, cast("Any", None), Hands().clock())
    busy = threading.Event()
    keeper._thread.submit(busy.wait, 30)  # the batch is given to the thread, which has not begun it
    keeper.put(message(), [observation()])
    settled, writing = asyncio.create_task(keeper.settled()), asyncio.create_task(keeper.write())
    while keeper._pending:
        await asyncio.sleep(0)
    await end([writing])
    busy.set()

    await keeper.stop(b"values")

    async with asyncio.timeout(10):
        await settled
    log = NumericsLog(*place)
    assert [batch.observations for _, batch in log.after(0, 10)] == [[observation()]]
    log.close()


# ---------------------------------------- the role


@pytest.fixture
async def ward(bus_site: TestSite) -> AsyncIterator[Monitored]:
    bus_site.enrol("central", kind="monitor")
    found = Monitored(bus_site)
    await found.listen()
    yield found
    if found.task is not None and not found.task.done():
        await found.stop()


async def process(site: TestSite, role: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "EDGEWARD_BUS__PORT": str(site.settings.bus.port)}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgeward.cli", "_role", role, "--home", str(site.home.path),
        env=environment, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr is not None
    while json.loads(await child.stderr.readline())["message"] != "ready":
        pass
    return child


async def recorded(bus: Bus, bed: str) -> list[Observation]:
    query = ObservationQuery(bed_id=bed, since_ns=time.time_ns() - 3600 * SECOND, limit=50_000)
    answer = await bus.request(subjects.RECORDER_OBSERVATIONS, query, Observations | Refused, 10.0)
    assert isinstance(answer, Observations), answer
    return answer.observations


async def test_every_value_that_was_acknowledged_is_there_after_kills(ward: Monitored) -> None:
    """Killed while many senders wait for their answers: some have it, some are in the midst of a write."""
    acknowledged: Counter[str] = Counter()
    latest: dict[str, float] = {}
    sent = itertools.count()

    async def send(bed: str) -> None:
        while True:
            number = next(sent)
            try:
                answer = await ward.give(bed, spo2=90.0 + number % 1000 / 100, at_ns=time.time_ns())
            except Exception:  # the monitor is gone: the sender keeps the duty
                return
            if answer == Ok():
                acknowledged[bed] += 1
                latest[bed] = 90.0 + number % 1000 / 100

    beds = [f"central-{number}" for number in range(12)]
    for enough in (60, 300):
        monitor = await process(ward.site, "monitor")
        senders = [asyncio.create_task(send(bed)) for bed in beds]
        await ward.until(lambda enough=enough: acknowledged.total() >= enough)
        os.kill(monitor.pid, signal.SIGKILL)
        await monitor.wait()
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)

    assert set(acknowledged) == set(beds)
    await ward.operator.flush()
    ward.beds.clear()  # what was published before the kill
    await ward.start()
    await ward.until(lambda: set(beds) <= set(ward.beds))
    shown = {bed: {v.parameter: v.value for v in ward.beds[bed].vitals}.get("spo2") for bed in beds}
    context = await ward.site.context("recorder")
    task = asyncio.create_task(recorder.run(context))
    await ward.until(lambda: context._status == "ready")
    for bed in beds:  # the recorder was never there: all of it comes now
        async with asyncio.timeout(30):
            while len(found := await recorded(ward.console, bed)) < acknowledged[bed]:
                await asyncio.sleep(0.1)
        assert latest[bed] in {one.value for one in found}
        assert found[-1].value == shown[bed], f"{bed} shows another value than was recorded last"
        assert len(found) <= acknowledged[bed] + 2, "only what was on its way at each kill may be there unacknowledged"
        query = TrendQuery(bed_id=bed, since_ns=time.time_ns() - 600 * SECOND, parameters=["spo2"])
        trend = await ward.console.request(subjects.RECORDER_TREND, query, Trend, 10.0)
        values = [one.value for one in found]
        assert min(trend.series[0].low) == pytest.approx(min(values), abs=1e-3)
        assert max(trend.series[0].high) == pytest.approx(max(values), abs=1e-3)
    context.stopping.set()
    await task


async def test_a_full_disk_is_said_to_the_sender_and_the_value_alarms_all_the_same(
    ward: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ward.start()
    await ward.values("central-7", spo2=97.0)
    append = NumericsLog.append

    def full(*_: object) -> int:
        raise DatabaseFull("the disk is full")

    monkeypatch.setattr(NumericsLog, "append", full)
    now = time.time_ns()
    answer = await ward.give("central-7", spo2=70.0, at_ns=now)
    assert isinstance(answer, Refused)
    assert "could not be written down" in answer.reason
    await ward.until(lambda: ward.told("parameter_extreme_low"))
    await ward.until(lambda: any("numerics" in problem for word in ward.words for problem in word.problems))

    monkeypatch.setattr(NumericsLog, "append", append)
    assert await ward.give("central-7", spo2=70.0, at_ns=now) == Ok(), "sent again: a repetition, and on the disk now"
    await ward.until(lambda: ward.words and not ward.words[-1].problems)


async def test_a_discharge_is_not_undone_by_a_restart(ward: Monitored) -> None:
    await ward.start()
    await ward.values("central-7", spo2=97.0, temperature=38.5)
    assert (
        await ward.ask(subjects.MONITOR_SET_BED, SetBed(bed_id="central-7", by="Li", at_ns=1, discharged=True)) == Ok()
    )
    await ward.stop()
    ward.beds.clear()
    await ward.start()
    await ward.until(lambda: "central-7" in ward.beds)
    assert [vital.value for vital in ward.beds["central-7"].vitals if vital.value is not None] == []


def test_a_damaged_log_is_refused_with_what_to_do(place: tuple[Path, SiteKey]) -> None:
    place[0].write_bytes(b"this is no database" * 100)
    with pytest.raises(DatabaseError, match="Restore it from a backup"):
        NumericsLog(*place)
    Database(place[0].with_name("other.db"), name="x", application_id=7, migrations=("CREATE TABLE a (b);",)).close()
    with pytest.raises(DatabaseError):
        NumericsLog(place[0].with_name("other.db"), place[1])
    assert sqlite3.connect(place[0].with_name("other.db")).execute("SELECT count(*) FROM a").fetchone() == (0,)


# ---------------------------------------- by MQTT


async def test_a_pack_that_the_broker_acknowledged_while_no_monitor_was_there_is_taken_up(ward: Monitored) -> None:
    door = await mqtt.start(await ward.site.context("gateway"))
    device = await ward.wearable("bed-1")
    await ward.start()

    def publish(value: float, qos: int = 1) -> None:
        pack = json.dumps([{"n": "spo2", "u": "%", "v": value, "t": time.time()}])
        device.client.publish("raw/vital/bed-1", pack, qos=qos).wait_for_publish(10)

    # The first of them until the monitor follows the store: then it holds over every restart.
    async with asyncio.timeout(30):
        while not ward.context.stats.counters.get("packs_stored"):
            await asyncio.to_thread(publish, 97.0)
            await asyncio.sleep(0.2)

    def shown() -> set[float | None]:
        return {vital.value for vital in ward.beds["bed-1"].vitals} if "bed-1" in ward.beds else set()

    await ward.until(lambda: 97.0 in shown())
    await asyncio.to_thread(publish, 96.0)
    await asyncio.to_thread(publish, 95.0, 0)
    await ward.until(lambda: 95.0 in shown())  # of QoS 0: it came, or nobody promised anything
    await ward.stop()

    sent = [80.0 + number / 10 for number in range(100)]
    for value in sent:
        await asyncio.to_thread(publish, value)
    await asyncio.to_thread(publish, 99.0, 0)  # QoS 0: nobody promised anything
    await ward.start()
    await ward.until(lambda: ward.context.stats.counters.get("packs_stored", 0) >= 100)
    await ward.until(lambda: sent[-1] in shown())

    context = await ward.site.context("recorder")
    task = asyncio.create_task(recorder.run(context))
    await ward.until(lambda: context._status == "ready")
    async with asyncio.timeout(30):
        while len([one for one in await recorded(ward.console, "bed-1") if one.value < 95.0]) < 100:
            await asyncio.sleep(0.1)
    values = [one.value for one in await recorded(ward.console, "bed-1")]
    assert [value for value in values if value < 95.0] == sent
    assert (values.count(96.0), values.count(95.0), values.count(99.0)) == (1, 1, 0)
    context.stopping.set()
    await task
    device.close()
    await door.close()


def test_the_same_bytes_by_two_ways_count_once_and_meant_twice_count_twice() -> None:
    ways = TwoWays()
    assert ways.in_memory("a", b"x")
    assert ways.in_memory("a", b"x")
    assert not ways.from_store("a", b"x")
    assert not ways.from_store("a", b"x")
    assert ways.from_store("a", b"x"), "while nobody was there"
    assert not ways.in_memory("a", b"x"), "the store was faster"
    assert ways.in_memory("b", b"x"), "another device"
