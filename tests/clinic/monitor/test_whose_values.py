"""Whose values are: a device that goes to another bed, and a bed of which one device names another patient."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support.monitoring import SECOND, Monitored, Site
from tests.support.site import TestSite

from edgeward.bedside import Numerics, SetBed, Vital
from edgeward.bus import subjects
from edgeward.clinic.monitor.clocks import Clocks
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.numerics_log import NumericsLog
from edgeward.clinic.monitor.vitals import Vitals
from edgeward.messages import Ok, Refused
from edgeward.privacy.keys import SiteKey

WELL = {"respiratory_rate": 16.0, "spo2": 97.0, "supplemental_oxygen": 0.0, "nibp_systolic": 120.0,
        "heart_rate": 70.0, "consciousness": 0.0, "temperature": 37.0}  # fmt: skip
ILL = {"respiratory_rate": 28.0, "spo2": 88.0, "supplemental_oxygen": 1.0, "nibp_systolic": 85.0,
       "heart_rate": 135.0, "consciousness": 3.0, "temperature": 39.5}  # fmt: skip


@pytest.fixture
async def ward(bus_site: TestSite) -> AsyncIterator[Monitored]:
    bus_site.enrol("central", kind="monitor")
    found = Monitored(bus_site)
    await found.listen()
    await found.start()
    yield found
    if found.task is not None and not found.task.done():
        await found.stop()


async def enter(ward: Monitored, bed: str, values: dict[str, float]) -> None:
    """Enter a round at a bed, as a nurse does."""
    now = time.time_ns()
    vitals = [Vital(parameter=name, value=value, at_ns=now) for name, value in values.items()]
    numerics = Numerics(
        source_id=bed, device_id=bed, protocol="manual", received_ns=now, sent_ns=now, vitals=vitals, by="Li"
    )
    assert await ward.console.request(subjects.MONITOR_NUMERICS, numerics, Ok | Refused, 10.0) == Ok()


async def assign(ward: Monitored, bed: str, *sources: str) -> None:
    wish = SetBed(bed_id=bed, by="Wu", at_ns=time.time_ns(), sources=list(sources))
    assert await ward.ask(subjects.MONITOR_SET_BED, wish) == Ok()
    await ward.until(lambda: bed in ward.beds and ward.beds[bed].sources == list(sources))


def values(ward: Monitored, bed: str) -> dict[str, float]:
    """Return what is shown of a bed, but not what it only waits for."""
    return {vital.parameter: vital.value for vital in ward.beds[bed].vitals if vital.value is not None}


def score(ward: Monitored, bed: str) -> int | None:
    found = ward.beds[bed].news2 if bed in ward.beds else None
    return found.total if found else None


async def restarted(ward: Monitored) -> None:
    await ward.stop()
    ward.beds.clear()
    await ward.start()


@pytest.mark.parametrize(("here", "there", "total"), [(WELL, ILL, 0), (ILL, WELL, 19)])
async def test_a_device_brings_nothing_of_its_former_patient_to_another_bed(
    ward: Monitored, here: dict[str, float], there: dict[str, float], total: int
) -> None:
    cuff: dict[str, Any] = {"at_ns": time.time_ns(), "clock": "site", "patient": "one", "nibp_diastolic": 33.0}
    assert await ward.give("central-1", **cuff, glucose=40.0) == Ok()
    await ward.values("central-2", glucose=100.0)
    await enter(ward, "central-2", here)
    await enter(ward, "central-1", there)  # later: the newest of all
    await ward.until(lambda: score(ward, "central-2") == total and score(ward, "central-1") == 19 - total)

    await assign(ward, "central-2", "central-2", "central-1")
    for _ in range(2):  # over a restart too
        await ward.until(lambda: score(ward, "central-2") is not None)
        assert score(ward, "central-2") == total
        assert values(ward, "central-2") == here | {"glucose": 100.0}
        # The device tells its last cuff pressure once more, which is not of this patient.
        assert await ward.give("central-1", **cuff) == Ok()
        await ward.until(lambda: "central-2" in ward.beds and len(ward.published) > 2)
        await restarted(ward)
    await ward.until(lambda: score(ward, "central-2") == total)
    assert values(ward, "central-2") == here | {"glucose": 100.0}

    assert await ward.give("central-1", patient="one", nibp_diastolic=70.0) == Ok()
    await ward.until(lambda: values(ward, "central-2").get("nibp_diastolic") == 70.0)


async def test_what_a_device_left_behind_is_gone_after_a_kill_too(ward: Monitored) -> None:
    await ward.values("central-1", glucose=40.0)
    await ward.values("central-2", glucose=100.0)
    await assign(ward, "central-2", "central-2", "central-1")
    log = NumericsLog(ward.site.home.db("numerics"), SiteKey.load(ward.site.home))  # what a process would find now
    kept = Vitals(Clocks())
    kept.restore(log.dump() or b"", time.time_ns())
    since = [message.source_id for message in log.since_dump()]
    log.close()
    assert since == []
    found = {one: list(source.values) for one in kept if (source := kept.source(one)) is not None}
    assert found == {"central-1": [], "central-2": ["glucose"]}


async def test_a_device_that_leaves_a_bed_takes_no_values_along(ward: Monitored) -> None:
    await ward.values("central-1", spo2=97.0)
    assert await ward.give("central-2", patient="one", glucose=40.0) == Ok()
    assert await ward.give("central-2", patient="two", glucose=41.0) == Ok()
    await ward.until(lambda: ward.told("another_patient"))
    await assign(ward, "central-1", "central-1", "central-2")
    await ward.until(lambda: ward.told("another_patient", "ended"))
    await assign(ward, "central-1", "central-1")
    await ward.until(lambda: "central-2" in ward.beds)
    assert values(ward, "central-2") == {}
    assert values(ward, "central-1") == {"spo2": 97.0}
    assert len(ward.told("another_patient")) == 1, "who is at its new bed, the device did not contradict"


async def test_when_one_device_names_another_patient_the_bed_begins_without_values(ward: Monitored) -> None:
    await ward.values("central-1", spo2=97.0)
    await ward.values("central-2", respiratory_rate=15.0)
    await assign(ward, "central-1", "central-1", "central-2")
    assert await ward.give("central-1", patient="one", **WELL) == Ok()
    assert await ward.give("central-2", patient="one", glucose=250.0, nibp_diastolic=60.0) == Ok()
    await enter(ward, "central-2", {"temperature": 39.5, "consciousness": 3.0})
    await ward.until(lambda: values(ward, "central-1").get("consciousness") == 3.0)

    assert await ward.give("central-1", patient="two", spo2=96.0) == Ok()
    await ward.until(lambda: ward.told("another_patient"))
    for _ in range(2):  # what came since the last dump is taken again after a restart, and so is this
        await ward.until(lambda: "central-1" in ward.beds and values(ward, "central-1"))
        assert values(ward, "central-1") == {"spo2": 96.0}
        assert score(ward, "central-1") is None
        await restarted(ward)

    # The other device follows: what was measured since then is this patient's.
    assert await ward.give("central-2", patient="two", glucose=110.0) == Ok()
    await ward.until(lambda: values(ward, "central-1") == {"spo2": 96.0, "glucose": 110.0})


# ---------------------------------------- without a bus


class Bed:
    """One bed with two sources, and everything that looks at them."""

    def __init__(self) -> None:
        self.site = Site("a", "b")
        self.site.beds.remove_source("b")
        self.site.beds["a"].sources = ["a", "b"]
        self.intake = Intake(self.site.clock, Limits(), lambda *_: None)
        self.intake.measured.bed_of = lambda _: ["a", "b"]

    def send(self, source: str, patient: str = "", protocol: str = "pcd01", **values: float) -> None:
        self.site.hands.pass_s(1)
        now = self.site.clock.now_ns()
        vitals = [Vital(parameter=name, value=value, at_ns=0) for name, value in values.items()]
        numerics = Numerics(
            source_id=source, device_id=source, protocol=protocol, received_ns=now, vitals=vitals, patient=patient
        )
        self.intake.numerics(numerics, now)

    def look(self) -> list[str]:
        return [event.code for event in self.intake.tick() if event.present]

    def values(self) -> dict[str, float]:
        found = (self.intake.watch.values(source).items() for source in "ab")
        return {name: one.value for values in found for name, one in values if one.value is not None}


def test_what_was_measured_of_the_new_patient_stays_when_the_next_device_names_him() -> None:
    bed = Bed()
    bed.send("a", "one", glucose=100.0)
    bed.send("b", "one", temperature=37.0)
    bed.send("a", "two", spo2=95.0)
    assert bed.values() == {"spo2": 95.0}
    bed.send("b", "two", temperature=36.0)
    assert bed.values() == {"spo2": 95.0, "temperature": 36.0}
    bed.send("a", "two", spo2=94.0)
    bed.send("b", "two", temperature=36.5)
    assert bed.values() == {"spo2": 94.0, "temperature": 36.5}, "who says so again clears nothing"


def test_a_corrected_name_costs_the_other_device_s_values_only_where_it_did_not_say_whose_they_are() -> None:
    bed = Bed()
    bed.send("b", "one", temperature=37.0)
    bed.send("a", "wrong", spo2=95.0)
    bed.send("a", "one", spo2=95.0)
    assert bed.values() == {"spo2": 95.0, "temperature": 37.0}
    bed.send("a", "other", spo2=95.0)
    assert bed.values() == {"spo2": 95.0}


@pytest.mark.parametrize("moves", [True, False])
def test_a_device_that_falls_silent_in_that_moment_is_missed(moves: bool) -> None:
    bed = Bed()
    bed.send("b", "one", glucose=100.0)
    for _ in range(5):
        bed.send("a", "one", spo2=97.0)
        assert bed.look() == []
    if moves:
        assert bed.intake.leave_behind("a") == []
    else:
        bed.send("b", "two", glucose=110.0)
    assert "spo2" not in bed.values()
    found: list[str] = []
    for _ in range(60):
        bed.site.hands.pass_s(1)
        found += bed.look()
    assert "no_value" in found
    assert "signal_lost" in found


def test_the_clock_that_was_set_back_meanwhile_keeps_nothing_out() -> None:
    bed = Bed()
    bed.send("a", glucose=100.0)
    bed.intake.leave_behind("a")
    kept = bed.intake.vitals.dump(bed.site.clock.wall_ns)
    later = Bed()
    later.site.hands.wall -= 3600 * SECOND
    later.site.clock.follow()
    later.intake.measured.take_up(kept, [])
    later.send("a", glucose=110.0)
    assert later.values() == {"glucose": 110.0}
