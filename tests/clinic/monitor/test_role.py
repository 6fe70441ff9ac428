"""The monitor role on a real bus with a real MQTT device."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from tests.support.monitoring import Monitored
from tests.support.site import TestSite
from tests.support.wearable import ecg

from edgeward import measurement
from edgeward.bedside import Numerics
from edgeward.bus import subjects
from edgeward.gateway import mqtt
from edgeward.messages import AlarmAck, Alarms, Ask, Ok, Quarantined, Refused, Trace, Viewing
from edgeward.parameters import PARAMETERS
from edgeward.privacy.registry import Registry
from edgeward.waveform import FLAG_LAST, Block, Channel, Kind, encode_channels


@pytest.fixture
async def ward(bus_site: TestSite) -> AsyncIterator[Monitored]:
    door = await mqtt.start(await bus_site.context("gateway"))
    ward = Monitored(bus_site)
    await ward.listen()
    await ward.start()
    yield ward
    with contextlib.suppress(Exception):
        await ward.stop()
    await door.close()


async def test_an_asystole_is_told_with_its_samples_and_latency(ward: Monitored) -> None:
    device = await ward.wearable("bed-1")

    await asyncio.to_thread(device.play, np.concatenate([ecg(12, 72), ecg(8, 0, seed=1)]))
    await ward.until(lambda: ward.told("asystole"))
    device.close()

    alarm = ward.told("asystole")[0]
    assert alarm.priority == "high"
    assert alarm.latching
    assert not alarm.technical
    assert 12 * 250 <= alarm.decisive_sample <= 18 * 250
    assert alarm.onset_sample < alarm.decisive_sample
    assert alarm.received_ns <= alarm.raised_ns
    assert not alarm.late


async def test_a_heart_rate_is_shown(ward: Monitored) -> None:
    device = await ward.wearable("bed-1")

    await asyncio.to_thread(device.play, ecg(14, 90))
    await ward.until(lambda: ward.published and ward.published[-1].beds and ward.published[-1].beds[0].heart_rate)
    device.close()

    bed = ward.published[-1].beds[0]
    assert bed.heart_rate is not None
    assert abs(bed.heart_rate - 90) <= 5


async def test_silence_is_an_alarm_and_the_value_goes(ward: Monitored) -> None:
    device = await ward.wearable("bed-1")
    await asyncio.to_thread(device.play, ecg(10, 72))
    await ward.until(lambda: ward.published and ward.published[-1].beds and ward.published[-1].beds[0].heart_rate)

    await ward.until(lambda: ward.told("signal_lost"))
    await ward.until(lambda: ward.published[-1].beds[0].stale)
    bed = ward.published[-1].beds[0]
    assert bed.heart_rate is None
    assert ward.told("signal_lost")[0].technical

    await asyncio.to_thread(device.play, ecg(3, 72))
    await ward.until(lambda: ward.told("signal_lost", "ended"))
    device.close()


async def test_a_planned_stop_is_not_an_alarm(ward: Monitored) -> None:
    device = await ward.wearable("bed-1")
    await asyncio.to_thread(device.play, ecg(6, 72))
    await asyncio.to_thread(device.send, device.packet(ecg(1, 72), flags=FLAG_LAST))
    await ward.until(
        lambda: ward.published and ward.published[-1].beds and ward.published[-1].beds[0].rhythm == "standby"
    )
    await asyncio.sleep(5.5)  # longer than the silence that would alarm
    device.close()

    assert not ward.told("signal_lost")
    assert ward.published[-1].beds[0].heart_rate is None


async def test_a_latched_alarm_survives_the_monitors_death_until_acknowledged(ward: Monitored) -> None:
    device = await ward.wearable("bed-1")
    await asyncio.to_thread(device.play, np.concatenate([ecg(10, 72), ecg(8, 0, seed=1), ecg(8, 72, seed=2)]))
    await ward.until(lambda: [a for a in ward.told("asystole") if not a.present])

    await ward.stop()
    ward.alarms.clear()
    await ward.start()

    await ward.until(lambda: ward.told("asystole"))
    alarm = ward.told("asystole")[0]
    console = await ward.site.bus("console")
    ack = AlarmAck(alarm_id=alarm.alarm_id, by="nurse", at_ns=1)
    assert await console.request(subjects.MONITOR_ACK, ack, Ok | Refused, 2.0) == Ok()
    await ward.until(lambda: ward.told("asystole", "ended"))
    again = await console.request(subjects.MONITOR_ACK, ack, Ok | Refused, 2.0)
    assert isinstance(again, Refused)
    listed = await console.request(subjects.MONITOR_ALARMS, Ask(argument="bed-1"), Alarms, 2.0)
    assert [a for a in listed.active if a.code == "asystole"] == []
    assert [a.by for a in listed.recent if a.state == "acknowledged"] == ["nurse"]
    device.close()


async def test_a_device_that_never_comes_back_after_a_restart_is_told(ward: Monitored) -> None:
    device = await ward.wearable("bed-1")
    await asyncio.to_thread(device.play, ecg(5, 72))
    device.close()
    await ward.stop()
    ward.alarms.clear()

    await ward.start()

    await ward.until(lambda: ward.told("signal_lost"))


async def test_hostile_packets_are_refused_and_disturb_nobody(ward: Monitored) -> None:
    quarantined: list[Quarantined] = []

    async def heard(_: str, entry: Quarantined) -> None:
        quarantined.append(entry)

    gateway = await ward.site.bus("gateway")
    await gateway.subscribe(subjects.QUARANTINED, Quarantined, heard)
    await gateway.flush()
    good, bad = await ward.wearable("bed-1"), await ward.wearable("bed-2")

    whole = bad.packet(ecg(1, 72))
    for data in (
        b"",
        b"\0",
        b"EWW1",
        whole[:-1],
        whole + b"x",
        whole[:50] + bytes([whole[50] ^ 0xFF]) + whole[51:],
        b"A" * 300_000,
    ):
        await asyncio.to_thread(bad.send, data)
    await asyncio.to_thread(good.play, ecg(12, 80))
    await ward.until(lambda: len({q.reason for q in quarantined}) >= 5)
    await ward.until(lambda: ward.published and ward.published[-1].beds and ward.published[-1].beds[0].heart_rate)
    good.close()
    bad.close()

    assert {q.peer for q in quarantined} == {"bed-2"}
    assert [bed.device_id for bed in ward.published[-1].beds] == ["bed-1"]


async def test_what_is_not_understood_is_told_to_who_looks_after_the_device(ward: Monitored) -> None:
    told: dict[str, str] = {}

    async def heard(_: str, entry: Quarantined) -> None:
        told[entry.peer] = f"{entry.where}: {entry.reason}"

    gateway = await ward.site.bus("gateway")
    await gateway.subscribe(subjects.QUARANTINED, Quarantined, heard)
    await gateway.flush()
    now = time.time_ns()
    vitals = [
        measurement.measured(PARAMETERS["heart_rate"], "72,5", "/min", at_ns=now),
        measurement.measured(PARAMETERS["spo2"], None, "%", at_ns=now),  # no value is nobody's mistake
    ]
    numerics = Numerics(source_id="gw-ICU-1", device_id="gw", protocol="pcd01", received_ns=now, vitals=vitals)
    await gateway.request(subjects.MONITOR_NUMERICS, numerics, Ok, 5.0)
    for name, pack in (("bed-1", b'[{"n":"hart_rate","v":72}]'), ("bed-2", b'[{"n":"spo2","u":"kPa","v":97}]')):
        device = await ward.wearable(name)
        await asyncio.to_thread(device.client.publish(f"raw/vital/{name}", pack, qos=1).wait_for_publish, 10)
        device.close()

    await ward.until(lambda: len(told) >= 3)

    assert told == {
        "gw-ICU-1": "hl7: heart_rate came as something that is no number",
        "bed-1": "mqtt: none of its records is named as anything that is monitored",
        "bed-2": "mqtt: spo2 came in a unit that is not read here",
    }


async def test_a_trace_comes_while_somebody_looks(ward: Monitored) -> None:
    traces: list[Trace] = []

    async def heard(_: str, trace: Trace) -> None:
        traces.append(trace)

    console = await ward.site.bus("console")
    await console.subscribe(subjects.TRACE_ALL, Trace, heard)
    await console.flush()
    device = await ward.wearable("bed-1")
    await asyncio.to_thread(device.play, ecg(3, 72))
    await asyncio.sleep(0.3)
    assert traces == []

    for number in itertools.count(1):
        # Asked again, as a console does, and with seconds that pass: the question goes another way than the packets.
        await console.publish(subjects.STATE_VIEWING, Viewing(device_ids=["bed-1"]))
        await console.flush()
        before = len(traces)
        await asyncio.to_thread(device.play, ecg(1, 72, seed=number))
        if before >= 3:
            break
        with contextlib.suppress(TimeoutError):
            await ward.until(lambda before=before: len(traces) > before, 30.0 if before else 0.5)
    await ward.until(lambda: len(traces) >= 4)
    device.close()

    for earlier, later in itertools.pairwise(traces):
        assert later.start == earlier.start + len(earlier.samples) // 2


async def test_other_traces_come_for_whoever_asked_for_them(ward: Monitored) -> None:
    traces: list[Trace] = []

    async def heard(_: str, trace: Trace) -> None:
        traces.append(trace)

    console = await ward.site.bus("console")
    await console.subscribe(subjects.TRACE_ALL, Trace, heard)
    await console.flush()
    device = await ward.wearable("bed-1")
    pleth = Channel(name="Pleth", kind=Kind.PLETH, rate_hz=100.0, gain=0.5)
    leads = [
        (Channel(name=name, kind=Kind.ECG, rate_hz=250.0, gain=1.0), sign) for name, sign in (("II", 1), ("V", -1))
    ]
    line, numbers = ecg(60, 72), itertools.count()

    async def look_until(check: Callable[[], object], *of: str) -> None:
        """Ask for traces, and let seconds pass until they come: the question goes another way than the packets."""
        await console.publish(subjects.STATE_VIEWING, Viewing(device_ids=["bed-1"], waves={"bed-1": list(of)}))
        await console.flush()
        while not check():
            number = next(numbers)
            part = line[number * 250 : (number + 1) * 250]
            blocks = [Block(channel, number * 250, sign * part) for channel, sign in leads]
            blocks.append(Block(pleth, number * 100, np.full(100, number, dtype=np.int16)))
            data = encode_channels(tuple(blocks), sequence=number, start_ns=time.time_ns())
            await asyncio.to_thread(device.send, data)
            with contextlib.suppress(TimeoutError):
                await ward.until(check, 0.5)

    await look_until(lambda: traces)
    assert traces[-1].waves == []
    assert traces[-1].offers == [("II", "ecg"), ("V", "ecg"), ("Pleth", "pleth")]
    await look_until(lambda: traces[-1].waves, "pleth")
    wave = traces[-1].waves[0]
    assert (wave.name, wave.gain, wave.unit) == ("Pleth", 0.5, "1")
    assert np.frombuffer(wave.samples, "<i2").tolist() == [int(wave.at_s)] * 100
    await look_until(lambda: {one.name for one in traces[-1].waves} == {"V", "Pleth"}, "*")
    device.close()


async def test_a_revoked_device_leaves_the_wall(ward: Monitored) -> None:
    device = await ward.wearable("bed-1")
    await asyncio.to_thread(device.play, ecg(3, 72))
    await ward.until(lambda: ward.published and ward.published[-1].beds)

    Registry(ward.site.home).revoke("bed-1")

    await ward.until(lambda: not ward.published[-1].beds)
    device.close()
