"""A restarted monitor takes up the signal of before: nothing torn, nothing told twice, nothing ended that goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container

import numpy as np
import pytest
from tests.support.monitoring import Monitored
from tests.support.signals import Line, pleth, steady
from tests.support.wearable import RATE, ecg

from edgeward.bedside import AlarmQuery, Recent, RecentQuery
from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.clinic.monitor import restart
from edgeward.clinic.monitor.alarm_log import AlarmLog, Writing
from edgeward.clinic.monitor.alarms import BedAlarms
from edgeward.clinic.monitor.beds import BedRecord
from edgeward.messages import AlarmAck, AlarmPriority, Alarms, Ask, Message
from edgeward.privacy.keys import SiteKey
from edgeward.waveform import FLAG_LAST, Kind, WaveformPacket, encode, encode_channels

SECOND = 1_000_000_000
Packet = tuple[str, int, bytes]


def recorded(source: str, samples: np.ndarray, end_ns: int, off: Container[int] = ()) -> list[Packet]:
    """Return packets of a second each, as the recorder has them, the last of which arrived at a time."""
    rate, count = round(RATE), samples.size // round(RATE)
    return [
        (
            source,
            end_ns - (count - 1 - number) * SECOND,
            encode(
                WaveformPacket(
                    samples=samples[number * rate : (number + 1) * rate].reshape(1, -1), sequence=number,
                    first_sample=number * rate, start_ns=1, rate_hz=RATE, gain_uv=1.0, leads=("II",),
                    lead_off=(number in off,),
                )
            ),
        )
        for number in range(count)
    ]  # fmt: skip


def know(site: Monitored, *sources: str) -> None:
    """Let the monitor know the sources from before."""
    log = AlarmLog(site.site.home.db("alarms"), SiteKey.load(site.site.home))
    description = {"rate_hz": RATE, "gain_uv": 1.0, "leads": ["II"]}
    for source in sources:
        site.site.enrol(source)
        log.save(Writing(sources={source: {"ecg": description, "device": source}}))
    log.close()


async def record(site: Monitored, give: Callable[[], list[Packet]]) -> Bus:
    """Let a recorder answer with the packets that `give` returns."""

    async def recent(query: RecentQuery) -> Message:
        return Recent(packets=[] if query.after else give(), after="")

    recorder: Bus = await site.site.bus("recorder")
    await recorder.serve(subjects.RECORDER_RECENT, RecentQuery, recent, subjects.RECORDERS)
    await recorder.flush()
    return recorder


async def test_packets_that_overtook_one_another_long_ago_leave_no_gap_wherever_reading_pauses(
    site: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Prepare: some hundred packets are taken at a time, and some pair lies across the edge.
    sources = [f"w{number}" for number in range(1, 5)]
    monkeypatch.setattr(restart, "AT_ONCE", 32)
    know(site, *sources)
    packets: list[Packet] = []
    end_ns = time.time_ns() - 2 * SECOND
    for number, source in enumerate(sources):
        own = recorded(source, ecg(40, 72, seed=number), end_ns)
        for first in range(1, len(own) - 1, 2):
            own[first], own[first + 1] = own[first + 1], own[first]
        packets += own
    await record(site, lambda: packets)

    await site.start()

    assert site.context is not None
    await site.until(lambda: site.context.stats.counters.get("bank_packets", 0) >= len(packets))
    assert site.context.stats.counters["bank_missing"] == 0
    assert not site.told("packets_missing")


async def test_an_alarm_whose_condition_goes_on_over_a_restart_stays_and_is_told_once(site: Monitored) -> None:
    # Prepare: a tachycardia begins 12 s before the end of what is recorded, and does not end.
    know(site, "w1")
    samples = np.concatenate([ecg(20, 72), ecg(12, 185, seed=1)])
    packets = recorded("w1", samples, time.time_ns() - SECOND)
    await record(site, lambda: packets)
    await site.start()
    await site.until(lambda: site.told("extreme_tachycardia"))
    alarm = site.told("extreme_tachycardia")[0]
    assert alarm.priority is AlarmPriority.HIGH
    await site.stop()
    site.alarms.clear()

    await site.start()

    listed = await site.ask(subjects.MONITOR_ALARMS, Ask(argument="w1"), Alarms)
    (found,) = [one for one in listed.active if one.code == "extreme_tachycardia"]
    assert found.alarm_id == alarm.alarm_id
    assert found.present, "the beginning of what was taken up, from before the alarm, has ended nothing"
    assert not site.told("extreme_tachycardia", "ended")
    events = await site.ask(subjects.MONITOR_EVENTS, AlarmQuery(bed_id="w1", raised_only=True), Alarms)
    assert [one.code for one in events.recent].count("extreme_tachycardia") == 1


async def test_no_alarm_of_a_bed_that_was_gone_over_a_restart_has_a_number_of_before(site: Monitored) -> None:
    # Prepare: of one bed the log holds that it is gone; of another the end of the process came before that was written.
    log = AlarmLog(site.site.home.db("alarms"), SiteKey.load(site.site.home))
    log.save(Writing(gone_beds={"w1": 7}))
    log.save(Writing(beds={"w2": (BedRecord(bed_id="w2", sources=["revoked"]), BedAlarms(9).snapshot())}))
    log.close()
    know(site, "w1", "w2")
    samples = np.concatenate([ecg(20, 72), ecg(12, 185, seed=1)])
    packets = [one for source in ("w1", "w2") for one in recorded(source, samples, time.time_ns() - SECOND)]
    await record(site, lambda: packets)

    await site.start()

    await site.until(lambda: {one.bed_id for one in site.told("extreme_tachycardia")} == {"w1", "w2"})
    numbers = {one.bed_id: int(one.alarm_id.rpartition("-")[2]) for one in site.told("extreme_tachycardia")}
    assert numbers["w1"] > 7
    assert numbers["w2"] > 9


async def test_an_alarm_of_before_is_not_told_again_when_the_clock_was_set_meanwhile(
    site: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(site, "w1")
    samples = np.concatenate([ecg(12, 72), ecg(8, 0, seed=1), ecg(6, 72, seed=2)])
    packets = recorded("w1", samples, time.time_ns() - SECOND)
    await record(site, lambda: packets)
    await site.start()
    await site.until(lambda: site.told("asystole"))
    alarm = site.told("asystole")[0]
    await site.ask(subjects.MONITOR_ACK, AlarmAck(alarm_id=alarm.alarm_id, by="nurse", at_ns=1))
    await site.until(lambda: site.told("asystole", "ended"))
    await site.stop()
    site.alarms.clear()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * SECOND)
    packets = [(source, at_ns - 3600 * SECOND, data) for source, at_ns, data in packets]  # as the recorder says it now

    await site.start()

    await site.until(lambda: site.context.stats.counters.get("bank_packets", 0) >= len(packets))
    assert not site.told("asystole")


async def test_what_another_alarm_of_before_hid_and_what_came_after_it_are_told(site: Monitored) -> None:
    # Prepare: leads off for a while, then on again; later, while nobody is there, a slow heart, which ends too.
    know(site, "w1")
    samples = np.concatenate([ecg(10, 72), ecg(6, 72, seed=1), ecg(6, 72, seed=2), ecg(14, 27, seed=3), ecg(6, 72)])
    packets = recorded("w1", samples, time.time_ns() - SECOND, off=range(10, 16))
    await record(site, lambda: packets)

    await site.start()

    await site.until(lambda: site.told("all_leads_off") and site.told("extreme_bradycardia"))


async def test_a_recorder_that_is_back_later_than_the_monitor_is_waited_for(
    site: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "RECORDER_S", 60.0)  # a busy machine may need seconds to bring it back
    know(site, "w1")
    (site.site.home.data / "recorder").mkdir(parents=True)
    packets = recorded("w1", np.concatenate([ecg(10, 72), ecg(8, 0, seed=1)]), time.time_ns() - 2 * SECOND)
    starting = asyncio.create_task(site.start())
    await asyncio.sleep(0.5)  # it asks, and nobody is there
    assert not starting.done()

    await record(site, lambda: packets)

    await starting
    await site.until(lambda: site.told("asystole"))
    assert site.told("asystole")[0].late


async def test_a_lost_pulse_of_before_the_restart_is_over_when_there_is_one(site: Monitored) -> None:
    # The pulse was lost long before what is taken up: nothing in it tells that it ever was.
    log = AlarmLog(site.site.home.db("alarms"), SiteKey.load(site.site.home))
    site.site.enrol("w1")
    alarms = BedAlarms()
    alarms.begin("no_pulse", at_ns=1, received_ns=1, source_id="w1", args={"channels": "Pleth"})
    beds = {"w1": (BedRecord(bed_id="w1", sources=["w1"]), alarms.snapshot())}
    log.save(Writing(beds=beds, sources={"w1": {"ecg": None, "device": "w1"}}))
    log.close()
    line, now_ns = Line("Pleth", Kind.PLETH, pleth(steady(75, 20), 20)), time.time_ns()
    packets = [
        ("w1", now_ns - (20 - n) * SECOND, encode_channels((line.block(n, n + 1),), sequence=n, start_ns=1))
        for n in range(20)
    ]
    await record(site, lambda: packets)

    await site.start()

    async def stands() -> bool:
        listed = await site.ask(subjects.MONITOR_ALARMS, Ask(argument="w1"), Alarms)
        return [one.present for one in listed.active if one.code == "no_pulse"] == [True]

    async with asyncio.timeout(10):
        while await stands():
            await asyncio.sleep(0.05)


async def test_who_is_missed_after_a_restart_and_who_stopped_on_purpose(site: Monitored) -> None:
    # One said that it stops, one only sends a pulse; nobody has their past any more.
    know(site, "missed")
    log = AlarmLog(site.site.home.db("alarms"), SiteKey.load(site.site.home))
    ecg_row = {"rate_hz": RATE, "gain_uv": 1.0, "leads": ["II"]}
    rows = {
        "stopped": {"ecg": ecg_row, "signals": False, "unmissed": True},
        "pleth": {"ecg": None, "signals": True, "unmissed": False},
        "pleth-stopped": {"ecg": None, "signals": True, "unmissed": True},
        "numbers": {"ecg": None, "signals": False, "unmissed": False},
    }
    for source, row in rows.items():
        site.site.enrol(source)
        log.save(Writing(sources={source: {**row, "device": source}}))
    log.close()

    await site.start()

    await site.until(lambda: {one.device_id for one in site.told("signal_lost")} >= {"missed", "pleth"})
    await asyncio.sleep(0.5)  # two more looks at who is silent
    assert {one.device_id for one in site.told("signal_lost")} == {"missed", "pleth"}
    await site.stop()
    site.alarms.clear()
    log = AlarmLog(site.site.home.db("alarms"), SiteKey.load(site.site.home))
    kept = {source: (row["signals"], row["unmissed"]) for source, row in log.sources().items() if source in rows}
    log.close()
    assert kept == {source: (row["signals"], row["unmissed"]) for source, row in rows.items()}


@pytest.mark.parametrize("kind", [Kind.ECG, Kind.PLETH])
async def test_a_planned_stop_and_its_end_are_written_down(site: Monitored, kind: Kind) -> None:
    site.site.enrol("w1")
    await site.start()
    name = "II" if kind is Kind.ECG else "Pleth"
    line = Line(name, kind, 1000 * np.sin(np.arange(5 * 125)), gain=1.0)

    async def send(number: int, flags: int = 0) -> None:
        block = line.block(number, number + 1)
        await site.gateway.publish_raw(
            subjects.wave("w1"), encode_channels((block,), sequence=number, start_ns=1, flags=flags)
        )
        await site.gateway.flush()

    def kept() -> tuple[bool, bool]:
        log = AlarmLog(site.site.home.db("alarms"), SiteKey.load(site.site.home))
        row = log.sources().get("w1", {})
        log.close()
        return bool(row.get("signals")), bool(row.get("unmissed"))

    pleth_only = kind is Kind.PLETH
    await send(0)
    await send(1)
    await site.until(lambda: kept()[0] == pleth_only)
    await send(2, FLAG_LAST)
    await site.until(lambda: kept() == (pleth_only, True))
    await send(3)
    await site.until(lambda: kept() == (pleth_only, False))
