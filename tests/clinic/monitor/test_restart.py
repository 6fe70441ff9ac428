"""A restarted monitor takes up the signal of before: nothing torn, nothing told twice, nothing ended that goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Container

import numpy as np
import pytest
from tests.support.monitoring import Monitored
from tests.support.site import TestSite
from tests.support.wearable import RATE, ecg

from edgeward.bedside import AlarmQuery, Recent, RecentQuery
from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.clinic.monitor import restart
from edgeward.clinic.monitor.alarm_log import AlarmLog, Writing
from edgeward.messages import AlarmAck, AlarmPriority, Alarms, Ask, Message
from edgeward.waveform import WaveformPacket, encode

SECOND = 1_000_000_000
Packet = tuple[str, int, bytes]


@pytest.fixture
async def site(bus_site: TestSite) -> AsyncIterator[Monitored]:
    found = Monitored(bus_site)
    await found.listen()
    yield found
    if found.task is not None and not found.task.done():
        await found.stop()


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
    log = AlarmLog(site.site.home.db("alarms"))
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


async def test_a_recorder_that_is_back_later_than_the_monitor_is_waited_for(site: Monitored) -> None:
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
