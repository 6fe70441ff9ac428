"""The monitor role on a real bus: numerics, beds, pauses, escalation, restarts, and its word that it works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from tests.support.monitoring import Monitored
from tests.support.site import TestSite
from tests.support.wearable import RATE, ecg

from edgeward.bedside import (
    AlarmPause,
    AlarmQuery,
    BedInfo,
    Hearing,
    Notice,
    NoticeReport,
    Numerics,
    ParameterLimit,
    Recent,
    RecentQuery,
    SetBed,
    Vital,
)
from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.clinic.monitor import selfcheck
from edgeward.clinic.monitor.alarm_log import AlarmLog, Writing
from edgeward.clinic.monitor.engine import SITE
from edgeward.config import Contact, EscalationStep, Ward
from edgeward.messages import Alarm, AlarmAck, Alarms, Ask, Message, Ok, Refused
from edgeward.privacy.keys import SiteKey
from edgeward.waveform import WaveformPacket, encode


@pytest.fixture
async def site(bus_site: TestSite) -> AsyncIterator[Monitored]:
    bus_site.enrol("central", kind="monitor")
    bus_site.settings.contact = [
        Contact(name="resident", email="r@hospital.example"),
        Contact(name="on-call", email="o@hospital.example"),
    ]
    bus_site.settings.ward = [
        Ward(
            name="icu",
            escalation=[
                EscalationStep(after_s=0, contacts=["resident"]),
                EscalationStep(after_s=3000, contacts=["on-call"]),
            ],
        )
    ]
    found = Monitored(bus_site)
    await found.listen()
    yield found
    if found.task is not None and not found.task.done():
        await found.stop()


async def test_a_value_beyond_its_limit_alarms_and_own_limits_outlast_a_restart(site: Monitored) -> None:
    await site.start()
    await site.values("central-7", spo2=75.0, temperature=37.1)
    given_ns = time.time_ns()
    await site.until(lambda: site.told("parameter_extreme_low"))
    alarm = site.told("parameter_extreme_low")[0]
    assert (alarm.bed_id, alarm.device_id, alarm.label, alarm.priority) == ("central-7", "central-7", "Room 7", "high")
    assert alarm.args == {"parameter": "spo2", "value": 75.0, "limit": 80.0, "unit": "%"}
    await site.until(lambda: "central-7" in site.beds and site.beds["central-7"].alarms)
    shown = {vital.parameter: vital for vital in site.beds["central-7"].vitals}
    assert (shown["spo2"].value, shown["spo2"].priority, shown["spo2"].low) == (75.0, "high", 90)
    assert site.beds["central-7"].news2.total is None
    assert "consciousness" in site.beds["central-7"].news2.missing

    pause = AlarmPause(bed_id="central-7", seconds=9999, by="Li", at_ns=1)
    assert await site.ask(subjects.MONITOR_PAUSE, pause) == Ok()
    await site.until(lambda: site.beds["central-7"].audio_paused_until_ns)
    paused_s = (site.beds["central-7"].audio_paused_until_ns - time.time_ns()) / 1e9
    assert paused_s <= site.site.settings.monitor.audio_pause_s, "the site's limit holds"
    assert isinstance(await site.ask(subjects.MONITOR_PAUSE, AlarmPause(bed_id="nobody", by="Li", at_ns=1)), Refused)

    mine = SetBed(bed_id="central-7", by="Wu", at_ns=5, limits={"spo2": ParameterLimit(low=60)}, ward="icu")
    assert await site.ask(subjects.MONITOR_SET_BED, mine) == Ok()
    await site.until(lambda: site.told("parameter_extreme_low", "ended"))
    wrong = SetBed(bed_id="central-7", by="Wu", at_ns=5, disabled=["asystole"])
    assert "cannot be switched off" in (await site.ask(subjects.MONITOR_SET_BED, wrong)).reason

    await site.stop()
    site.beds.clear()
    await site.start()

    info = await site.ask(subjects.MONITOR_BED, Ask(argument="central-7"), BedInfo | Refused)
    assert (info.settings.own, info.settings.ward, info.settings.label) == (["spo2"], "icu", "Room 7")
    assert {(c.what, c.by) for c in info.changes} >= {("limits.spo2.low", "Wu"), ("ward", "Wu")}
    await site.until(lambda: site.beds.get("central-7") and site.beds["central-7"].vitals)
    kept = {vital.parameter: vital.value for vital in site.beds["central-7"].vitals}
    assert kept == {"temperature": 37.1, "spo2": 75.0}, "values hold over a restart for as long as they are valid"
    told_ns = site.published[-1].at_ns  # twice a second, and it may have been a while ago
    assert min(vital.age_ms for vital in site.beds["central-7"].vitals) > (told_ns - given_ns) / 1e6 - 1000
    log = await site.ask(subjects.MONITOR_EVENTS, AlarmQuery(bed_id="central-7", raised_only=True), Alarms)
    assert [alarm.code for alarm in log.recent] == ["parameter_extreme_low"]


async def test_a_round_of_observations_counts_until_a_monitor_says_something_later(site: Monitored) -> None:
    entered = {"respiratory_rate": 22.0, "spo2": 97.0, "supplemental_oxygen": 0.0, "nibp_systolic": 120.0,
               "heart_rate": 70.0, "consciousness": 0.0, "temperature": 37.0}  # fmt: skip
    hours = 3_600_000_000_000
    await site.start()
    assert (
        await site.give("central-7", at_ns=time.time_ns() - 3 * hours, clock="site", patient="one", **entered) == Ok()
    )
    assert (
        await site.give("central-8", at_ns=time.time_ns() - 5 * hours, clock="site", patient="one", **entered) == Ok()
    )
    for _ in range(2):  # over a restart too
        await site.until(lambda: "central-8" in site.beds and site.beds["central-7"].news2)
        score = site.beds["central-7"].news2
        assert (score.total, score.response, score.stale) == (2, "ward", [])
        assert score.age_ms == pytest.approx(3 * 3_600_000, abs=60_000)
        assert site.beds["central-7"].heart_rate is None, "nobody sees it now"
        later = site.beds["central-8"].news2
        assert later is None or later.total is None, "that round is too old"
        await site.stop()
        site.beds.clear()
        await site.start()

    await site.until(lambda: "central-7" in site.beds and site.beds["central-7"].news2)
    assert await site.give("central-7", patient="one", heart_rate=115.0) == Ok()
    await site.until(lambda: site.beds["central-7"].news2.total == 4)
    assert await site.give("central-7", patient="another", spo2=97.0) == Ok()
    await site.until(lambda: site.beds["central-7"].news2.total is None)


async def test_another_patient_is_told_until_the_bed_is_discharged_over_a_restart_too(site: Monitored) -> None:
    await site.start()
    assert await site.give("central-7", patient="one", spo2=97.0) == Ok()
    assert await site.give("central-7", patient="two", spo2=96.0) == Ok()
    await site.until(lambda: site.told("another_patient"))
    alarm = site.told("another_patient")[0]
    assert (alarm.bed_id, alarm.priority, alarm.technical) == ("central-7", "low", True)
    await site.stop()
    await site.start()
    active = await site.ask(subjects.MONITOR_ALARMS, Ask(argument="central-7"), Alarms)
    assert [one.code for one in active.active] == ["another_patient"]
    assert not site.told("another_patient", "ended")

    assert (
        await site.ask(subjects.MONITOR_SET_BED, SetBed(bed_id="central-7", by="Wu", at_ns=9, discharged=True)) == Ok()
    )
    await site.until(lambda: site.told("another_patient", "ended"))
    await site.stop()
    await site.start()
    site.alarms.clear()
    assert await site.give("central-7", patient="three", spo2=75.0) == Ok()
    await site.until(lambda: site.told("parameter_extreme_low"))
    assert await site.give("central-7", patient="four", spo2=97.0) == Ok()
    await site.until(lambda: site.told("another_patient"))
    assert [one.code for one in site.alarms if one.state == "raised"] == ["parameter_extreme_low", "another_patient"]


async def test_a_monitor_s_own_heart_rate_is_extreme_where_nobody_sees_its_ecg(site: Monitored) -> None:
    await site.start()
    await site.values("central-3", heart_rate=24.0)
    await site.until(lambda: site.told("parameter_extreme_low"))
    assert site.told("parameter_extreme_low")[0].args["limit"] == 35.0
    assert site.told("parameter_extreme_low")[0].priority == "high"


async def test_the_alarm_system_says_that_it_works_and_who_hears(
    site: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "START_S", 0.0)
    await site.start()
    await site.until(lambda: site.told("alarms_not_heard"))
    assert site.told("alarms_not_heard")[0].priority == "high"
    await site.until(  # a busy machine may be late at first, and say that too
        lambda: SITE in site.beds and [alarm.code for alarm in site.beds[SITE].alarms] == ["alarms_not_heard"]
    )
    await site.until(lambda: any(word.ok for word in site.words))
    hearing = Hearing(receiver="console-1", number=site.words[-1].number, at_ns=time.time_ns())
    await site.console.publish(subjects.MONITOR_HEARING, hearing)
    await site.until(lambda: "console-1" in site.words[-1].heard)
    await site.until(lambda: site.told("alarms_not_heard", "ended"))
    await site.until(lambda: SITE not in site.beds)
    assert [word.number for word in site.words] == list(range(1, len(site.words) + 1))


async def test_people_are_told_over_a_restart_and_the_next_ones_when_they_cannot_be(site: Monitored) -> None:
    await site.start()
    await site.values("central-7", spo2=97.0)
    assert await site.ask(subjects.MONITOR_SET_BED, SetBed(bed_id="central-7", by="Li", at_ns=1, ward="icu")) == Ok()
    await site.values("central-7", spo2=70.0)
    await site.until(lambda: site.told("parameter_extreme_low", "escalated"))
    assert site.told("parameter_extreme_low", "escalated")[0].level == 1
    await site.stop()  # nobody was there to take the notice

    notices: list[Notice] = []
    deliver = await site.site.bus("deliver")

    async def take(notice: Notice) -> Message:
        notices.append(notice)
        return Refused(reason="not yet") if len(notices) == 1 else Ok()

    await deliver.serve(subjects.DELIVER_NOTICE, Notice, take, subjects.DELIVERS)
    await deliver.flush()
    await site.start()
    await site.until(lambda: len(notices) >= 2)
    assert {notice.notice_id for notice in notices} == {notices[0].notice_id}, "the same, until it was taken"
    assert (notices[0].phase, notices[0].contacts) == ("escalate", ["resident"])
    assert {vital.parameter for vital in notices[0].vitals} == {"spo2"}

    failed = NoticeReport(
        notice_id=notices[0].notice_id, alarm_id=notices[0].alarm.alarm_id, receiver="resident",
        state="failed", reason="no such address", at_ns=1,
    )  # fmt: skip
    assert await deliver.request(subjects.MONITOR_NOTICE, failed, Ok | Refused, 10.0) == Ok()
    await site.until(lambda: [notice for notice in notices if notice.contacts == ["on-call"]])
    listed = await site.ask(subjects.MONITOR_ALARMS, Ask(argument="central-7"), Alarms)
    alarm = next(one for one in listed.active if one.code == "parameter_extreme_low")
    assert (alarm.level, alarm.state) == (2, "escalated")
    assert await site.ask(subjects.MONITOR_ACK, AlarmAck(alarm_id=alarm.alarm_id, by="Li", at_ns=1)) == Ok()


def recorded(samples: np.ndarray, ended_ns: int) -> list[tuple[str, int, bytes]]:
    """One-second packets of a wearable, the last of which arrived at `ended_ns`."""
    rate = round(RATE)
    count = len(samples) // rate
    return [
        (
            "w1",
            ended_ns - (count - 1 - number) * 1_000_000_000,
            encode(
                WaveformPacket(
                    samples=samples[number * rate : (number + 1) * rate].reshape(1, -1), sequence=number,
                    first_sample=number * rate, start_ns=1, rate_hz=RATE, gain_uv=1.0, leads=("II",), lead_off=(False,),
                )
            ),
        )
        for number in range(count)
    ]  # fmt: skip


async def test_an_asystole_while_the_monitor_was_away_is_raised_late_and_once(site: Monitored) -> None:
    site.site.enrol("w1")
    log = AlarmLog(site.site.home.db("alarms"), SiteKey.load(site.site.home))
    description = {"rate_hz": RATE, "gain_uv": 1.0, "leads": ["II"]}
    log.save(Writing(sources={"w1": {"ecg": description, "device": "w1"}}))
    log.close()
    packets = recorded(np.concatenate([ecg(10, 72), ecg(8, 0, seed=1)]), time.time_ns() - 2_000_000_000)

    async def recent(query: RecentQuery) -> Message:
        return Recent(packets=packets if not query.after else [], after="" if query.after else "w1")

    recorder: Bus = await site.site.bus("recorder")
    await recorder.serve(subjects.RECORDER_RECENT, RecentQuery, recent, subjects.RECORDERS)
    await recorder.flush()

    await site.start()
    await site.until(lambda: site.told("asystole"))
    alarm = site.told("asystole")[0]
    assert alarm.late
    assert alarm.late_ms > 2000
    assert alarm.received_ns < alarm.raised_ns
    await site.stop()
    site.alarms.clear()
    await site.start()
    await site.until(lambda: site.told("asystole"))
    listed = await site.ask(subjects.MONITOR_ALARMS, Ask(argument="w1"), Alarms)
    assert [one.alarm_id for one in listed.active if one.code == "asystole"] == [alarm.alarm_id]
    events = await site.ask(subjects.MONITOR_EVENTS, AlarmQuery(bed_id="w1", raised_only=True), Alarms)
    assert [one.code for one in events.recent].count("asystole") == 1


async def test_a_source_whose_name_cannot_stand_in_a_subject_is_refused(site: Monitored) -> None:
    await site.start()
    for source in ("", "a.b", "a b", "*", ">", "x" * 65, "bett-\u00e4"):
        numerics = Numerics(
            source_id=source, device_id="central", protocol="pcd01", received_ns=1,
            vitals=[Vital(parameter="spo2", value=70.0, at_ns=1)],
        )  # fmt: skip
        answer = await site.gateway.request(subjects.MONITOR_NUMERICS, numerics, Ok | Refused, 10.0)
        assert isinstance(answer, Refused), source


async def test_the_log_knows_for_how_long_nobody_monitored(site: Monitored) -> None:
    """A loss of power: the last sign of life is an hour old."""
    log = AlarmLog(site.site.home.db("alarms"), SiteKey.load(site.site.home))
    log.try_writing(time.time_ns() - 3600 * 10**9)
    log.close()

    async def told() -> list[Alarm]:
        found = await site.operator.request(subjects.MONITOR_EVENTS, AlarmQuery(raised_only=True), Alarms, timeout_s=5)
        return [alarm for alarm in found.recent if alarm.code == "monitoring_interrupted"]

    await site.start()
    async with asyncio.timeout(20):
        while not (found := await told()):
            await asyncio.sleep(0.05)  # it is written down a moment after the monitor is ready
    (alarm,) = found
    assert alarm.technical
    assert 3600 <= float(alarm.args["seconds"]) < 3700
    await site.stop()

    await site.start()  # at once
    assert len(await told()) == 1
