"""Beds, their limits, and the record of who changed what."""

from __future__ import annotations

import pytest

from edgeward.bedside import ParameterLimit, SetBed
from edgeward.clinic.monitor.beds import BedError, Beds
from edgeward.clinic.monitor.limits import (
    DEFAULTS,
    RHYTHM,
    Limits,
    Profiles,
    check_limit,
    rhythm_limits,
    with_extreme_rates,
)
from edgeward.clinic.monitor.rules import RULES
from edgeward.config import LimitSetting, Monitor, Profile, Ward

SOURCES = {"a", "b", "c"}


@pytest.fixture
def beds() -> Beds:
    cardiac = Profile(
        name="cardiac",
        limits={"heart_rate": LimitSetting(low=45, high=130), "spo2": LimitSetting(off=["low"], delay_s=5.0)},
        rhythm={"extreme_tachycardia": 180.0},
    )
    wards = [Ward(name="icu", profile="cardiac"), Ward(name="nicu", profile="neonate")]
    found = Beds(Profiles(Monitor(), [cardiac]), wards)
    for source in sorted(SOURCES):
        found.add_source(source)
    return found


def set_bed(beds: Beds, bed_id: str = "a", **what):
    return beds.apply(SetBed(bed_id=bed_id, by="Li", at_ns=7, **what), SOURCES)


def test_every_source_is_a_bed_of_its_own_at_first(beds):
    assert [bed.bed_id for bed in beds] == ["a", "b", "c"]
    assert beds.free_sources() == ["a", "b", "c"]
    assert beds.add_source("a") is None


def test_a_bed_takes_sources_from_others_and_gives_them_back(beds):
    applied = set_bed(beds, "room", sources=["a", "b"])
    assert (beds.bed_of("a"), beds.bed_of("b")) == ("room", "room")
    assert "a" not in beds
    assert set(applied.moved) == {"a", "b"}
    set_bed(beds, "room", sources=["b"])
    assert beds.bed_of("a") == "a"
    assert beds.bed_of("b") == "room"


def test_a_source_is_in_one_bed_only(beds):
    set_bed(beds, "room", sources=["a"])
    set_bed(beds, "other", sources=["a"])
    assert beds.bed_of("a") == "other"
    assert beds["room"].sources == []


def test_the_ward_decides_the_profile_unless_the_bed_has_its_own(beds):
    assert beds.profile("a") == "adult"
    set_bed(beds, ward="icu")
    assert beds.profile("a") == "cardiac"
    assert (beds.limits("a")["heart_rate"].low, beds.limits("a")["spo2"].low) == (45, None)
    assert beds.limits("a")["spo2"].extreme_low == 80, "what the profile does not say is its base's"
    assert beds.rhythm("a").extreme_tachycardia == 180.0
    set_bed(beds, profile="neonate")
    assert beds.profile("a") == "neonate"
    assert beds.rhythm("a").asystole_s == 3.0


def test_own_limits_hold_over_the_profiles_and_can_be_given_back(beds):
    mine = ParameterLimit(low=40, high=100)
    set_bed(beds, limits={"heart_rate": mine}, rhythm={"asystole_s": 5.0})
    settings = beds.settings("a")
    assert (settings.limits["heart_rate"], settings.own) == (mine, ["heart_rate"])
    assert (settings.rhythm["asystole_s"], settings.own_rhythm) == (5.0, ["asystole_s"])
    set_bed(beds, limits={"heart_rate": None}, rhythm={"asystole_s": None})
    assert beds.limits("a")["heart_rate"] == DEFAULTS["adult"]["heart_rate"]
    assert beds.rhythm("a").asystole_s == 4.0


def test_the_record_says_who_changed_what_from_what_to_what(beds):
    set_bed(beds, limits={"spo2": ParameterLimit(low=92)})
    applied = set_bed(beds, limits={"spo2": ParameterLimit(low=88)}, ward="icu")
    found = {change.what: (change.before, change.after, change.by, change.at_ns) for change in applied.changes}
    assert found == {"limits.spo2.low": ("92", "88", "Li", 7), "ward": ("", "icu", "Li", 7)}


def test_a_change_that_changes_nothing_is_not_recorded(beds):
    set_bed(beds, label="Room 1")
    assert set_bed(beds, label="Room 1").changes == []


def test_a_discharge_forgets_what_was_the_patients(beds):
    set_bed(beds, label="Room 1", limits={"spo2": ParameterLimit(low=85)}, spo2_scale2=True, disabled=["pause"])
    applied = set_bed(beds, discharged=True)
    assert "discharged" in {change.what for change in applied.changes}
    settings = beds.settings("a")
    assert (settings.own, settings.spo2_scale2, settings.disabled, settings.label) == ([], False, [], "Room 1")


@pytest.mark.parametrize(
    "what",
    [
        {"limits": {"heart_rate": ParameterLimit(low=120, high=50)}},
        {"limits": {"heart_rate": ParameterLimit(low=50, extreme_low=60)}},
        {"limits": {"heart_rate": ParameterLimit(high=500)}},
        {"limits": {"heart_rate": ParameterLimit(high=float("nan"))}},
        {"limits": {"mood": ParameterLimit(high=5)}},
        {"limits": {"spo2": ParameterLimit(low=90, delay_s=1000)}},
        {"rhythm": {"asystole_s": 60.0}},
        {"rhythm": {"asystole_s": float("inf")}},
        {"rhythm": {"extreme_bradycardia": 60.0, "extreme_tachycardia": 100.0, "boredom": 1.0}},
        {"ward": "nowhere"},
        {"profile": "nobody"},
        {"sources": ["a", "unheard-of"]},
        {"label": "x" * 65},
        {"label": "a\x00b"},
        {"disabled": ["boredom"]},
        {"sources": ["b"]},
    ],
    ids=str,
)
def test_what_is_not_allowed_changes_nothing(beds, what):
    before = [beds.settings(name) for name in ("a", "b")]
    with pytest.raises(BedError):
        set_bed(beds, **{"spo2_scale2": True, **what})
    assert [beds.settings(name) for name in ("a", "b")] == before


@pytest.mark.parametrize("code", sorted(code for code, rule in RULES.items() if rule.fixed))
def test_lethal_and_vital_technical_alarms_cannot_be_switched_off(beds, code):
    with pytest.raises(BedError, match="cannot be switched off"):
        set_bed(beds, disabled=[code])


def test_every_latching_alarm_is_fixed():
    assert all(rule.fixed for rule in RULES.values() if rule.latching)


def test_a_change_has_a_name_and_a_bed_id_that_can_stand_in_a_subject(beds):
    with pytest.raises(BedError, match="name"):
        beds.apply(SetBed(bed_id="a", by="", at_ns=1), SOURCES)
    with pytest.raises(BedError, match="not a valid name"):
        set_bed(beds, "room 1")


def test_every_default_is_allowed():
    for name, limits in DEFAULTS.items():
        for parameter, limit in limits.items():
            check_limit(parameter, limit)
        rhythm_limits(Profiles(Monitor()).rhythm[name])
    assert set(RHYTHM) == set(DEFAULTS)


def test_a_profile_with_a_wrong_limit_is_refused_with_its_name():
    with pytest.raises(ValueError, match="wrong"):
        Profiles(Monitor(), [Profile(name="wrong", limits={"heart_rate": LimitSetting(low=200)})])


def test_beds_are_put_back_and_a_lost_profile_falls_back(beds):
    set_bed(beds, "room", sources=["a", "b"], profile="cardiac", label="Room")
    again = Beds(Profiles(Monitor()), [])
    again.restore([beds["room"], beds["c"]])
    assert again.bed_of("b") == "room"
    assert again.profile("room") == "adult"


def test_a_bed_that_nobody_put_into_a_ward_is_in_the_sites() -> None:
    icu = Ward(name="icu", profile="child")
    found = Beds(Profiles(Monitor()), [icu], ward="icu")
    found.add_source("patch-1")
    assert found["patch-1"].ward == "icu"
    assert found.profile("patch-1") == "child"


def test_what_somebody_switched_off_for_a_bed_is_said_and_what_a_profile_does_without_is_not():
    beds = Beds(Profiles())
    beds.add_source("a")
    assert beds.switched_off("a") == []

    def change(**what):
        beds.apply(SetBed(bed_id="a", by="Li", at_ns=1, **what), {"a"})

    change(
        disabled=["couplet"],
        limits={"spo2": ParameterLimit(low=88.0), "heart_rate": ParameterLimit(low=45.0, high=130.0)},
    )
    assert beds.switched_off("a") == ["couplet", "spo2"]  # SpO2 has lost its extreme limit
    change(limits={"spo2": ParameterLimit(low=88.0, extreme_low=80.0), "heart_rate": ParameterLimit(low=45.0)})
    assert beds.switched_off("a") == ["couplet", "heart_rate"]
    change(limits={"heart_rate": None, "glucose": None}, disabled=[])
    assert beds.switched_off("a") == []


def test_an_urgent_limit_may_stand_where_the_usual_one_does_but_low_never_at_high():
    check_limit("spo2", ParameterLimit(extreme_low=85.0, low=85.0))
    for wrong in (ParameterLimit(low=90.0, high=90.0), ParameterLimit(extreme_low=90.0, low=85.0)):
        with pytest.raises(ValueError, match="must be below"):
            check_limit("spo2", wrong)


def test_rates_that_a_device_counts_are_held_against_the_extremes_of_the_rhythm():
    rhythm = Limits(extreme_bradycardia=40, extreme_tachycardia=150)
    given = {"heart_rate": ParameterLimit(low=50, high=120), "spo2": ParameterLimit(low=90)}
    found = with_extreme_rates(given, rhythm)
    assert found["heart_rate"] == ParameterLimit(low=50, high=120, extreme_low=40, extreme_high=150)
    assert found["pulse_rate"] == ParameterLimit(extreme_low=40, extreme_high=150)
    assert found["spo2"] == given["spo2"]
    own = {"heart_rate": ParameterLimit(low=35, high=170), "pulse_rate": ParameterLimit(extreme_low=20, high=100)}
    found = with_extreme_rates(own, rhythm)
    assert found["heart_rate"] == own["heart_rate"], "limits wider than the extremes were meant"
    assert found["pulse_rate"] == ParameterLimit(extreme_low=20, high=100, extreme_high=150)
    for name, limit in found.items():
        check_limit(name, limit)
