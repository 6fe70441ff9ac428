"""Beds that somebody takes away: places that were mistyped once, and nothing comes of them any more."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from tests.support.monitoring import Hands, Monitored
from tests.support.site import TestSite

from edgeward.bedside import REMOVED, BedInfo, Numerics, SetBed, Vital
from edgeward.bus import subjects
from edgeward.clinic.monitor import intake
from edgeward.clinic.monitor.alarm_log import AlarmLog
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.numerics_log import NumericsLog
from edgeward.messages import Ask, Ok, Refused
from edgeward.privacy.keys import SiteKey
from edgeward.waveform import WaveformPacket, encode


@pytest.fixture
async def ward(bus_site: TestSite) -> AsyncIterator[Monitored]:
    bus_site.enrol("central", kind="monitor")
    found = Monitored(bus_site)
    await found.listen()
    await found.start()
    yield found
    if found.task is not None and not found.task.done():
        await found.stop()


async def set_bed(ward: Monitored, bed: str, **wish: object) -> Ok | Refused:
    answer = await ward.ask(subjects.MONITOR_SET_BED, SetBed(bed_id=bed, by="Wu", at_ns=time.time_ns(), **wish))  # type: ignore[arg-type]
    assert isinstance(answer, Ok | Refused)
    return answer


async def test_a_silent_bed_is_removed_for_good_and_comes_back_with_what_is_sent_for_it(
    ward: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ward.values("central-7", spo2=97.0)
    await ward.values("central-77", spo2=75.0)
    await ward.until(lambda: ward.told("parameter_extreme_low"))
    assert "still valid" in (await set_bed(ward, "central-77", removed=True)).reason  # type: ignore[union-attr]
    assert await set_bed(ward, "central-77", discharged=True) == Ok()
    refused = await set_bed(ward, "central-77", removed=True)
    assert isinstance(refused, Refused), "it has sent just now"
    await ward.values("central-77")  # its last word is kept, but not in what was written at the discharge
    monkeypatch.setattr(intake, "SILENT_NS", 0)
    assert await set_bed(ward, "central-77", removed=True) == Ok()
    kept = NumericsLog(ward.site.home.db("numerics"), SiteKey.load(ward.site.home))  # what a process would find now
    assert [message.source_id for message in kept.since_dump()] == []
    kept.close()
    for _ in range(2):
        ward.published.clear()
        await ward.until(lambda: len(ward.published) > 2)
        assert set(ward.beds) == {"central-7"}
        assert isinstance(await ward.ask(subjects.MONITOR_BED, Ask(argument="central-77"), BedInfo | Refused), Refused)
        await ward.stop()
        await ward.start()
    log = AlarmLog(ward.site.home.db("alarms"), SiteKey.load(ward.site.home))
    told = [(change.by, change.before) for change in log.changes("central-77") if change.what == REMOVED]
    log.close()
    assert told == [("Wu", "central-77")]

    await ward.values("central-77", spo2=96.0)
    await ward.until(lambda: "central-77" in ward.beds)


async def test_a_bed_that_somebody_made_is_removed_with_all_its_sources(
    ward: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "SILENT_NS", 0)
    await ward.values("central-1", spo2=97.0)
    await ward.values("central-2", spo2=97.0)
    assert await set_bed(ward, "room", sources=["central-1", "central-2"], label="Room") == Ok()
    await ward.until(lambda: set(ward.beds) == {"room"})
    assert await set_bed(ward, "nowhere", removed=True) == Refused(reason="there is no such bed")
    assert await set_bed(ward, "room", removed=True) == Ok(), "what moved has no values yet"
    await ward.until(lambda: not ward.beds)
    assert await set_bed(ward, "room", removed=True) == Refused(reason="there is no such bed")


def test_who_has_sent_within_a_minute_or_has_a_valid_value_speaks() -> None:
    hands = Hands()
    hands.pass_s(1000)
    found = Intake(hands.clock(), Limits(), lambda *_: None)
    ecg = WaveformPacket(
        samples=np.zeros((1, 250), dtype=np.int16), sequence=0, first_sample=0, start_ns=1, rate_hz=250.0, gain_uv=1.0,
        leads=("II",), lead_off=(True,),
    )  # fmt: skip
    found.wave("ecg", encode(ecg), found._clock.now_ns())
    now = found._clock.now_ns()
    for name, vital in (("round", Vital(parameter="temperature", value=37.0, at_ns=0)), ("empty", None)):
        vitals = [vital] if vital else []
        found.numerics(Numerics(source_id=name, device_id=name, protocol="pcd01", received_ns=now, vitals=vitals), now)
    names = ("ecg", "round", "empty", "nobody")
    assert [found.speaks(name) for name in names] == [True, True, True, False]
    hands.pass_s(61)
    assert [found.speaks(name) for name in names] == [False, True, False, False]
