"""A process that stands by knows what came while nobody monitored."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.support.monitoring import Monitored
from tests.support.wearable import RATE, ecg

from edgeward.bus import subjects
from edgeward.clinic.monitor import role as monitor
from edgeward.clinic.monitor.alarm_log import AlarmLog, Writing
from edgeward.clinic.monitor.standby import Heard, Memory, memories
from edgeward.privacy.keys import SiteKey
from edgeward.waveform import WaveformPacket, encode

SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 100 * SECOND

    def __call__(self) -> int:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


def test_the_last_seconds_are_given_by_source_with_their_age_and_then_everything_goes_on() -> None:
    clock = Clock()
    memory = Memory(10.0, clock)
    memory.take([("raw.wave.b", b"too old")])
    clock.pass_s(8)
    memory.take([("raw.wave.b", b"1"), ("raw.wave.a", b"2")])
    assert memory.reach_s == 8
    clock.pass_s(5)
    memory.take([("raw.wave.b", b"3")])
    live: list[object] = []

    given = memory.give(live.append)
    memory.take([("raw.wave.a", b"4")])

    assert given == [("a", 5 * SECOND, b"2"), ("b", 5 * SECOND, b"1"), ("b", 0, b"3")]
    assert live == [[("raw.wave.a", b"4")]]
    assert memory.reach_s == 10


def test_a_connection_that_was_lost_ends_the_reach() -> None:
    clock, breaks = Clock(), [0]
    memory = Memory(30.0, clock, lambda: breaks[0])
    clock.pass_s(20)
    assert memory.reach_s == 20
    breaks[0] += 1
    memory.take([("raw.wave.a", b"1")])
    clock.pass_s(3)
    assert memory.reach_s == 3
    breaks[0] += 1
    assert memory.reach_s == 0


def test_what_only_one_of_two_has_heard_is_put_together_in_order() -> None:
    heard = Heard([("a", 5, b"2"), ("a", 3, b"4"), ("a", 2, b"5"), ("a", 99, b"old"), ("b", 1, b"x")],
                  now_ns=10, seconds=20e-9)  # fmt: skip

    joined = heard.join("a", [(4, b"1"), (5, b"2"), (6, b"3"), (8, b"5")])

    assert [packet for _, packet in joined] == [b"1", b"2", b"3", b"4", b"5"]
    assert heard.sources == ["b"]
    assert heard.join("b", []) == [(9, b"x")]
    assert heard.sources == []


async def test_an_asystole_while_monitor_and_recorder_were_away_is_raised_late(
    site: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Prepare: nobody but the process that stands by hears the packets; there never was a recorder.
    site.site.enrol("w1")
    log = AlarmLog(site.site.home.db("alarms"), SiteKey.load(site.site.home))
    log.save(Writing(sources={"w1": {"ecg": {"rate_hz": RATE, "gain_uv": 1.0, "leads": ["II"]}, "device": "w1"}}))
    log.close()
    context = await site.site.context("monitor")
    memory = Memory()
    await context.bus.subscribe_bulk(subjects.WAVE_ALL, memory.take)
    await context.bus.flush()
    samples, rate = np.concatenate([ecg(10, 72), ecg(9, 0, seed=1)]), round(RATE)
    for number in range(19):
        packet = WaveformPacket(
            samples=samples[number * rate : (number + 1) * rate].reshape(1, -1), sequence=number,
            first_sample=number * rate, start_ns=1, rate_hz=RATE, gain_uv=1.0, leads=("II",), lead_off=(False,),
        )  # fmt: skip
        await site.gateway.publish_raw(subjects.wave("w1"), encode(packet))
    await site.gateway.flush()
    await site.until(lambda: sum(len(batch) for _, batch in memory._batches) == 19)

    site.context = context
    memories[context] = memory
    site.task = asyncio.create_task(monitor.run(context))

    await site.until(lambda: site.told("asystole"))
    await site.until(lambda: context._status == "ready")
    assert context.stats.counters["packets"] >= 18
