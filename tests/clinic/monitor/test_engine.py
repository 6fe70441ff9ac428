"""The alarms of all beds: whose they are, what keeps them back, floods, restarts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.support.monitoring import SECOND, Site

from edgeward.bedside import SetBed
from edgeward.clinic.monitor.alarms import BedAlarms
from edgeward.clinic.monitor.engine import SITE, AlarmEngine, Verdict
from edgeward.clinic.monitor.floods import FloodWatch
from edgeward.clinic.monitor.rules import RULES, UNCONFIRMED

LETHAL = sorted(code for code, of in RULES.items() if of.latching)


def change(site: Site, bed: str, **what) -> None:
    applied = site.beds.apply(SetBed(bed_id=bed, by="Li", at_ns=1, **what), {bed.bed_id for bed in site.beds} | {bed})
    for one in applied.beds:
        site.told += site.engine.refresh(one, heir=bed)


def test_an_alarm_belongs_to_the_bed_of_its_source():
    site = Site("wearable", "oximeter")
    change(site, "room-1", label="Room 1", sources=["wearable", "oximeter"])
    site.begin("oximeter", "parameter_low", args={"parameter": "spo2", "value": 80.0})
    assert site.codes("room-1") == ["parameter_low"]
    assert "oximeter" not in site.beds


def test_a_condition_that_two_sources_tell_ends_with_the_last_of_them():
    site = Site("a", "b")
    change(site, "room", sources=["a", "b"])
    site.begin("a", "asystole")
    assert site.begin("b", "asystole") == []
    site.end("a", "asystole")
    assert site.engine.active("room")[0].present
    site.end("b", "asystole")
    assert not site.engine.active("room")[0].present


def test_what_nobody_saw_end_stays_until_somebody_has_seen_it():
    site = Site("a")
    low = {"parameter": "spo2", "value": 70.0}
    site.begin("a", "parameter_low", args=low)
    site.end("a", "parameter_low", args=low, unseen=True)
    site.hands.pass_s(60)
    site.engine.tick()
    (record,) = site.engine.active("a")
    assert not record.present
    assert record.latching
    site.engine.restore("a", msgspec.json.decode(msgspec.json.encode(site.engine.alarms("a").snapshot())))
    assert site.codes("a") == ["parameter_low"], "it outlasts a restart"
    site.end("a", "parameter_low", args=low)
    site.hands.pass_s(60)
    site.engine.tick()
    assert site.codes("a") == [], "a later measurement was within: that was seen"

    site.begin("a", "parameter_low", args=low)
    site.end("a", "parameter_low", args=low, unseen=True)
    site.hands.pass_s(60)
    site.engine.tick()
    (record,) = site.engine.active("a")
    site.engine.acknowledge(f"a-{record.number}", by="Li")
    assert site.codes("a") == []


@pytest.mark.parametrize("hider", ["asystole", "ventricular_fibrillation", "ventricular_tachycardia"])
def test_a_pulse_that_comes_back_with_the_heart_is_not_missed_after_an_arrest(hider):
    site = Site("a")
    site.begin("a", hider)
    site.begin("a", "no_pulse")  # eight seconds later: hidden, it is the same arrest
    assert site.codes("a") == [hider]
    site.end("a", hider)  # the first beats; a pulse is found some beats later
    assert site.codes("a") == [hider]
    site.hands.pass_s(5)
    site.told += site.engine.tick()
    site.end("a", "no_pulse")
    site.hands.pass_s(60)
    site.told += site.engine.tick()
    assert site.codes("a") == [hider]
    assert all(told.change.alarm.code == hider for told in site.told)


@pytest.mark.parametrize("killed", [False, True])
def test_a_heart_that_beats_again_and_moves_no_blood_is_told(killed):
    site = Site("a")
    site.begin("a", "asystole")
    site.begin("a", "no_pulse")
    site.end("a", "asystole")
    if killed:
        saved = msgspec.json.decode(msgspec.json.encode(site.engine.alarms("a").snapshot()))
        site = Site("a")
        site.engine.restore("a", saved)
    site.hands.pass_s(7)
    site.told += site.engine.tick()
    assert site.codes("a") == ["asystole"]
    site.hands.pass_s(2)
    site.told += site.engine.tick()
    assert sorted(site.codes("a")) == ["asystole", "no_pulse"]


def test_a_second_arrest_begins_the_wait_for_the_pulse_anew():
    site = Site("a")
    site.begin("a", "asystole")
    site.begin("a", "no_pulse")
    site.end("a", "asystole")
    site.hands.pass_s(6)
    site.begin("a", "asystole")
    site.hands.pass_s(6)
    site.told += site.engine.tick()
    site.end("a", "asystole")
    site.hands.pass_s(6)
    site.told += site.engine.tick()
    assert "no_pulse" not in site.codes("a")
    site.hands.pass_s(3)
    site.told += site.engine.tick()
    assert "no_pulse" in site.codes("a")


def test_a_value_that_was_missing_in_an_arrest_has_time_to_come_back():
    site = Site("a")
    missing = {"parameter": "pulse_rate"}
    site.begin("a", "asystole")
    site.begin("a", "no_value", args=missing)
    site.end("a", "asystole")
    site.hands.pass_s(9)
    site.told += site.engine.tick()
    assert site.codes("a") == ["asystole"]
    site.hands.pass_s(2)
    site.told += site.engine.tick()
    assert sorted(site.codes("a")) == ["asystole", "no_value"]


def rate(site: Site, source: str, parameter: str, *, begin: bool = True, code: str = "parameter_low", **args) -> None:
    (site.begin if begin else site.end)(source, code, args={"parameter": parameter, **args})


@pytest.mark.parametrize("code", ["parameter_low", "parameter_high", "parameter_extreme_low"])
@pytest.mark.parametrize("first", ["heart_rate", "pulse_rate"])
def test_a_slow_or_fast_heart_that_two_devices_count_is_one_alarm(first, code):
    other = {"heart_rate": "pulse_rate", "pulse_rate": "heart_rate"}[first]
    site = Site("a", "b")
    change(site, "room", sources=["a", "b"])
    rate(site, "a", first, code=code)
    rate(site, "b", other, code=code)
    assert [record.scope for record in site.engine.active("room")] == [first]
    rate(site, "a", first, code=code, begin=False)
    site.hands.pass_s(11)
    site.told += site.engine.tick()
    assert [record.scope for record in site.engine.active("room")] == [other]  # it holds still


def test_two_devices_that_count_the_same_rate_are_one_alarm_until_both_are_within():
    site = Site("a", "b")
    change(site, "room", sources=["a", "b"])
    rate(site, "a", "heart_rate")
    rate(site, "b", "heart_rate")
    rate(site, "a", "heart_rate", begin=False)
    site.hands.pass_s(11)
    site.told += site.engine.tick()
    assert site.codes("room") == ["parameter_low"]
    rate(site, "b", "heart_rate", begin=False)
    site.hands.pass_s(11)
    site.told += site.engine.tick()
    assert site.codes("room") == []


def test_a_fast_ecg_and_a_slow_pulse_are_two_events():
    site = Site("a", "b")
    change(site, "room", sources=["a", "b"])
    rate(site, "a", "heart_rate", code="parameter_high")
    rate(site, "b", "pulse_rate")
    assert len(site.engine.active("room")) == 2


def test_a_more_urgent_alarm_is_not_hidden_by_a_less_urgent_one_of_the_same_event():
    site = Site("a", "b")
    change(site, "room", sources=["a", "b"])
    rate(site, "a", "heart_rate")
    rate(site, "b", "pulse_rate", priority="high")
    assert [(one.scope, str(one.priority)) for one in site.engine.active("room")] == [("pulse_rate", "high")]


def test_a_missing_heart_rate_does_not_hide_a_missing_pulse_rate():
    site = Site("a", "b")
    change(site, "room", sources=["a", "b"])
    rate(site, "a", "heart_rate", code="no_value")
    rate(site, "b", "pulse_rate", code="no_value")
    assert len(site.engine.active("room")) == 2


def test_each_source_and_each_parameter_has_an_alarm_of_its_own():
    site = Site("a", "b")
    change(site, "room", sources=["a", "b"])
    site.begin("a", "signal_lost")
    site.begin("b", "signal_lost")
    site.begin("b", "parameter_high", args={"parameter": "etco2"})
    site.begin("b", "parameter_high", args={"parameter": "temperature"})
    assert len(site.engine.active("room")) == 4
    site.end("a", "signal_lost")
    assert len(site.engine.active("room")) == 3


def test_the_priority_of_a_limit_is_the_alarms():
    site = Site("a")
    site.begin("a", "parameter_low", args={"parameter": "spo2", "priority": "high"})
    record = site.engine.active("a")[0]
    assert record.priority == "high"
    assert "priority" not in record.args


def test_a_bed_in_standby_has_no_alarm_and_gets_those_that_hold_when_it_leaves_standby():
    site = Site("a")
    site.begin("a", "lead_off", args={"leads": "II"})
    change(site, "a", standby=True)
    assert site.codes("a") == []
    site.begin("a", "asystole")
    assert site.codes("a") == []
    change(site, "a", standby=False)
    assert set(site.codes("a")) == {"asystole", "lead_off"}


def test_standby_does_not_remove_a_latched_alarm():
    site = Site("a")
    site.begin("a", "asystole")
    change(site, "a", standby=True)
    assert site.codes("a") == ["asystole"]
    assert not site.engine.active("a")[0].present


def test_what_is_switched_off_is_not_raised():
    site = Site("a")
    change(site, "a", disabled=["bigeminy"])
    site.begin("a", "bigeminy")
    assert site.codes("a") == []
    change(site, "a", disabled=[])
    assert site.codes("a") == ["bigeminy"]


def test_a_source_that_moves_takes_its_conditions_along_and_what_is_latched():
    site = Site("a")
    site.begin("a", "ventricular_tachycardia")
    site.begin("a", "asystole")
    site.end("a", "asystole")
    site.begin("a", "lead_off")
    change(site, "room", sources=["a"])
    assert set(site.codes("room")) == {"ventricular_tachycardia", "asystole", "lead_off"}
    assert {record.code for record in site.engine.active("room") if record.present} == {
        "ventricular_tachycardia",
        "lead_off",
    }


def test_a_bed_that_was_folded_into_another_and_comes_back_goes_on_with_its_numbers():
    site = Site("a", "b")
    site.begin("a", "pause")
    site.begin("a", "lead_off")
    site.end("a", "lead_off")
    change(site, "b", sources=["b", "a"])
    assert "a" not in site.beds
    assert site.engine.last_number("a") == 2
    change(site, "a", sources=["a"])

    site.begin("a", "asystole")

    assert [record.number for record in site.engine.active("a") if record.code == "asystole"] == [
        site.engine.last_number("a")
    ]
    assert site.engine.last_number("a") > 2


def test_a_discharge_ends_everything_and_what_still_holds_is_nobodys():
    site = Site("a")
    site.begin("a", "asystole")
    site.begin("a", "lead_off")
    site.told += site.engine.discharge("a")
    assert site.codes("a") == []
    site.told += site.engine.refresh("a")
    assert site.codes("a") == []
    site.begin("a", "asystole")
    assert site.codes("a") == ["asystole"]
    numbers = [one.change.alarm.number for one in site.told if one.change.new]
    assert len(numbers) == len(set(numbers)), "an alarm of the next patient has a name of its own"


def test_an_unknown_condition_is_counted_and_stops_nothing():
    site = Site("a")
    changes = site.take(site.event("a", "boredom", True), site.event("a", "asystole", True))
    assert [one.change.alarm.code for one in changes] == ["asystole"]
    assert site.engine.unknown == {"boredom": 1}


def test_the_pause_of_a_beds_sound_leaves_out_what_comes_later():
    site = Site("a")
    site.begin("a", "signal_lost")
    changes = site.engine.pause("a", "", seconds=60, by="Li")
    assert changes[0].change.alarm.paused_until_ns == site.clock.wall_ns() + 60 * 10**9
    assert site.engine.alarms("a").paused_until_ns > 0
    site.begin("a", "asystole")
    assert site.engine.alarms("a").paused_until_ns == 0, "the new one sounds"
    asystole = next(one for one in site.engine.active("a") if one.code == "asystole")
    assert asystole.paused_until_ns == 0


def test_a_lethal_condition_that_comes_back_sounds_again():
    site = Site("a")
    site.begin("a", "asystole")
    site.engine.pause("a", "", seconds=60, by="Li")
    site.end("a", "asystole")
    changes = site.begin("a", "asystole")
    assert changes[0].change.new
    assert site.engine.alarms("a").paused_until_ns == 0


# ------------------------------------ lethal rhythms and the pulse


class Pulse:
    def __init__(self) -> None:
        self.verdict = Verdict("suppress", "pulse_present")

    def __call__(self, event, sources, now_ns):
        return self.verdict


@pytest.mark.parametrize("code", sorted(UNCONFIRMED))
def test_a_lethal_alarm_that_the_pulse_speaks_against_is_said_as_a_technical_one(code):
    pulse = Pulse()
    site = Site("a", check=pulse)
    site.begin("a", code)
    record = site.engine.active("a")[0]
    assert (record.code, record.priority, record.rule.technical) == (UNCONFIRMED[code], "low", True)
    assert record.args["reason"] == "pulse_present"

    pulse.verdict = Verdict("undecided")
    site.told += site.engine.tick()
    assert site.codes("a") == [code], "raised at once when nothing speaks against it any more"


def test_what_was_kept_back_and_is_over_leaves_nothing():
    site = Site("a", check=Pulse())
    site.begin("a", "asystole")
    site.end("a", "asystole")
    assert site.codes("a") == []
    assert site.engine.tick() == []


def test_what_was_kept_back_is_taken_up_after_a_restart():
    pulse = Pulse()
    site = Site("a", check=pulse)
    site.begin("a", "asystole")
    state = msgspec.json.decode(msgspec.json.encode(site.engine.alarms("a").snapshot()))
    after = Site("a", check=pulse)
    after.engine.restore("a", state)
    pulse.verdict = Verdict("confirm")
    after.engine.tick()
    assert after.codes("a") == ["asystole"]


# ------------------------------------ floods


def test_a_flood_of_5000_is_one_alarm_with_a_list_and_the_patients_alarms_stand():
    names = [f"w{number}" for number in range(5000)]
    site = Site(*names)
    site.begin("w7", "asystole")
    site.told.clear()
    site.take(*(site.event(name, "signal_lost", True, args={"seconds": 4.0}) for name in names))

    (flood,) = site.engine.active(SITE)
    assert flood.code == "signal_flood"
    assert set(flood.members) == set(names)
    assert all("signal_lost" not in site.codes(name) for name in names)
    assert site.codes("w7") == ["asystole"]
    raised = [one for one in site.told if one.change.new]
    assert len(raised) <= 8, "not an alarm per bed"


def test_a_flood_shrinks_as_beds_come_back_and_ends_with_the_last():
    names = [f"w{number}" for number in range(10)]
    site = Site(*names)
    for name in names:
        site.begin(name, "signal_lost")
        site.hands.pass_s(0.1)
    for name in names[:7]:
        site.end(name, "signal_lost")
    (flood,) = site.engine.active(SITE)
    assert flood.members == tuple(names[7:])
    assert site.codes("w0") == []
    for name in names[7:]:
        site.end(name, "signal_lost")
    assert site.engine.active(SITE) == []
    assert not site.engine.flooded


def test_beds_that_fall_silent_one_by_one_alarm_one_by_one():
    names = [f"w{number}" for number in range(20)]
    site = Site(*names)
    for name in names:
        site.begin(name, "signal_lost")
        site.hands.pass_s(2.0)
    assert site.engine.active(SITE) == []
    assert all(site.codes(name) == ["signal_lost"] for name in names)


def test_a_bed_that_joins_makes_an_acknowledged_flood_sound_again():
    names = [f"w{number}" for number in range(9)]
    site = Site(*names)
    for name in names[:8]:
        site.begin(name, "signal_lost")
    (flood,) = site.engine.active(SITE)
    site.engine.acknowledge(f"{SITE}-{flood.number}", by="Li")
    assert site.engine.active(SITE)[0].acknowledged
    changes = site.begin("w8", "signal_lost")
    assert changes[-1].change.new
    assert not site.engine.active(SITE)[0].acknowledged


def test_a_flood_survives_a_restart_and_ends_after_it():
    names = [f"w{number}" for number in range(8)]
    site = Site(*names)
    for name in names:
        site.begin(name, "signal_lost")
    kept = {name: site.engine.alarms(name).to_dict() for name in (*names, SITE)}
    after = Site(*names)
    for name, state in kept.items():
        after.engine.restore(name, state)
    after.engine.settle()
    assert set(after.engine.active(SITE)[0].members) == set(names)
    for name in names:
        after.end(name, "signal_lost")
    assert after.engine.active(SITE) == []


# ------------------------------------ whatever happens


class Anything(RuleBasedStateMachine):
    """Any order of conditions, people and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.site = Site("a", "b", "c", flood_beds=2)
        self.owed: dict[tuple[str, str], int] = {}  # lethal alarms raised and not acknowledged
        self.sounding: dict[str, bool] = {}
        self.hear(self.site.engine.refresh("a"))

    def hear(self, changes) -> None:
        for one in changes:
            told, record = one.change, one.change.alarm
            key = one.bed_id, record.code
            if told.state in ("raised", "escalated") and record.rule.latching and not record.acknowledged:
                self.owed[key] = record.number
            elif told.state == "acknowledged":
                self.owed.pop(key, None)
            elif told.state == "ended" and record.rule.latching:
                assert record.acknowledged, f"a latched {record.code} ended and nobody had acknowledged it"

    sources = st.sampled_from(["a", "b", "c"])
    codes = st.sampled_from([*LETHAL, "extreme_tachycardia", "signal_lost", "lead_off", "noisy", "pause"])

    @rule(source=sources, code=codes, present=st.booleans())
    def condition(self, source, code, present):
        self.hear(self.site.take(self.site.event(source, code, present)))

    @rule(source=sources, parameter=st.sampled_from(["spo2", "heart_rate"]), present=st.booleans(),
          side=st.sampled_from(["low", "extreme_low", "high"]))  # fmt: skip
    def limit(self, source, parameter, present, side):
        event = self.site.event(source, f"parameter_{side}", present, args={"parameter": parameter})
        self.hear(self.site.take(event))

    @precondition(lambda self: self.owed)
    @rule(data=st.data())
    def acknowledge(self, data):
        bed, code = data.draw(st.sampled_from(sorted(self.owed)))
        alarm_id = f"{bed}-{self.owed[bed, code]}"
        first = self.site.engine.acknowledge(alarm_id, by="Li")
        self.hear(first)
        assert self.site.engine.acknowledge(alarm_id, by="Wu") == [], "an acknowledgement counts once"

    @rule(bed=sources, seconds=st.sampled_from([0, 60]))
    def pause(self, bed, seconds):
        self.hear(self.site.engine.pause(bed, "", seconds=seconds, by="Li"))

    @rule(bed=sources, standby=st.booleans())
    def standby(self, bed, standby):
        self.site.beds.apply(SetBed(bed_id=bed, by="Li", at_ns=1, standby=standby), {"a", "b", "c"})
        self.hear(self.site.engine.refresh(bed))

    @rule(seconds=st.sampled_from([0.1, 10.0]))
    def wait(self, seconds):
        self.site.hands.pass_s(seconds)
        self.hear(self.site.engine.tick())

    @rule()
    def restart(self):
        kept = {
            bed: msgspec.json.decode(msgspec.json.encode(self.site.engine.alarms(bed).snapshot()))
            for bed in ("a", "b", "c", SITE)
        }
        standby = {bed.bed_id for bed in self.site.beds if bed.standby}
        after = Site("a", "b", "c", flood_beds=2)
        after.hands = self.site.hands
        for bed in standby:
            after.beds[bed].standby = True
        for bed, state in kept.items():
            after.engine.restore(bed, state)
        before = {bed: self.site.engine.active(bed) for bed in ("a", "b", "c")}
        after.engine.settle()
        assert {bed: after.engine.active(bed) for bed in ("a", "b", "c")} == before
        self.site = after

    @invariant()
    def no_lethal_alarm_is_lost(self):
        for (bed, code), number in self.owed.items():
            numbers = [one.number for one in self.site.engine.active(bed) if one.code == code]
            assert numbers == [number], f"{code} of {bed}"

    @invariant()
    def there_is_one_alarm_of_a_kind(self):
        for bed in ("a", "b", "c", SITE):
            keys = [one.key for one in self.site.engine.active(bed)]
            assert len(keys) == len(set(keys))

    @invariant()
    def each_flooded_bed_is_in_the_list(self):
        listed = {member for one in self.site.engine.active(SITE) for member in one.members}
        for bed in ("a", "b", "c"):
            record = self.site.engine.alarms(bed).get(("signal_lost", bed))
            if record is not None and record.folded:
                assert bed in listed


Anything.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnything = Anything.TestCase


def test_a_saved_state_of_the_version_before_is_taken_up():
    old = {
        "number": 4,
        "active": [
            {"code": "lead_off", "number": 3, "raised_ns": 1, "received_ns": 1, "onset_sample": 2, "decisive_sample": 3,
             "args": {"leads": "II"}, "present": True, "acknowledged": False, "by": "", "acknowledged_ns": 0,
             "ended_ns": 0, "end_sample": -1},
            {"code": "asystole", "number": 4, "raised_ns": 1, "received_ns": 1, "onset_sample": 2, "decisive_sample": 3,
             "args": {"seconds": 4.0}, "present": False, "acknowledged": False, "by": "", "acknowledged_ns": 0,
             "ended_ns": 5, "end_sample": -1},
        ],
        "waiting": [],
    }  # fmt: skip
    alarms = BedAlarms.from_dict(old, source_id="bed-1")
    assert {record.key for record in alarms.active} == {("asystole", ""), ("lead_off", "bed-1")}


# ---------------------------------------- what comes and goes


def wait(site: Site, seconds: float) -> None:
    site.hands.pass_s(seconds)
    site.told += site.engine.tick()


def test_what_comes_and_goes_is_one_alarm_until_it_has_stayed_away():
    site = Site("a")
    (begun,) = site.begin("a", "couplet")
    for _ in range(5):
        assert site.end("a", "couplet") == []
        wait(site, 20)
        assert site.begin("a", "couplet") == []
    assert [one.number for one in site.engine.active("a")] == [begun.change.alarm.number]
    site.end("a", "couplet")
    wait(site, RULES["couplet"].hold_s + 1)
    assert site.codes("a") == []
    assert site.begin("a", "couplet"), "then it is a new one"


def test_an_acknowledged_one_that_comes_back_soon_does_not_sound_again():
    site = Site("a")
    (begun,) = site.begin("a", "trigeminy")
    site.engine.acknowledge(f"a-{begun.change.alarm.number}", by="Li")
    site.end("a", "trigeminy")
    wait(site, 10)
    assert site.begin("a", "trigeminy") == []
    assert site.engine.active("a")[0].acknowledged


@pytest.mark.parametrize("code", sorted(code for code, of in RULES.items() if of.fixed or of.latching))
def test_no_end_of_a_lethal_or_fixed_alarm_is_held_back(code):
    assert RULES[code].hold_s == 0


def test_a_bed_that_is_discharged_forgets_what_was_held_back():
    site = Site("a")
    site.begin("a", "bigeminy")
    site.end("a", "bigeminy")
    site.engine.discharge("a")
    assert site.codes("a") == []
    assert site.begin("a", "bigeminy")
    wait(site, 120)
    assert site.codes("a") == ["bigeminy"], "it holds, and the old end is not its end"


@pytest.mark.parametrize("order", [("asystole", "pause"), ("pause", "asystole")])
def test_a_pause_that_became_an_asystole_does_not_come_up_when_both_are_over(order):
    site = Site("a")
    site.begin("a", "pause", args={"seconds": 3.0})
    site.begin("a", "asystole", args={"seconds": 4.0})
    site.told.clear()
    site.take(*(site.event("a", code, False) for code in order))
    wait(site, 120)
    assert [one.change.alarm.code for one in site.told if one.change.alarm.present] == []


# ---------------------------------------- reminders, and clocks that are set


def reminded(site: Site) -> list[tuple[str, bool, bool]]:
    found = site.engine.tick()
    site.told += found
    return [(one.change.alarm.code, one.change.new, one.change.alarm.acknowledged) for one in found]


def reminding(seconds: float = 60.0) -> Site:
    site = Site("a")
    site.engine = AlarmEngine(site.beds, site.clock, FloodWatch(8, 5.0), reminder_s=seconds)
    return site


def test_an_acknowledged_alarm_that_lasts_calls_once_more_and_again_after_the_next_acknowledgement():
    site = reminding()
    site.begin("a", "asystole")
    alarm_id = f"a-{site.engine.active('a')[0].number}"
    for _ in range(2):
        site.engine.acknowledge(alarm_id, by="Li")
        site.hands.pass_s(59)
        assert reminded(site) == []
        site.hands.pass_s(2)
        assert reminded(site) == [("asystole", True, False)]
    assert reminded(site) == [], "once"
    assert [f"a-{one.number}" for one in site.engine.active("a")] == [alarm_id], "the same alarm"


def test_nothing_is_reminded_of_that_is_over_or_of_low_priority_or_where_the_site_does_not_want_it():
    site = reminding()
    site.begin("a", "asystole")
    site.engine.acknowledge("a-1", by="Li")
    site.end("a", "asystole")
    site.begin("a", "bigeminy")
    assert site.engine.active("a")[0].priority == "low"
    site.engine.acknowledge("a-2", by="Li")
    never = reminding(0.0)
    never.begin("a", "asystole")
    never.engine.acknowledge("a-1", by="Li")
    for one in (site, never):
        one.hands.pass_s(3600)
        assert reminded(one) == []


def test_a_reminder_survives_a_restart_and_a_clock_that_is_set_moves_none():
    site = reminding()
    site.begin("a", "asystole")
    site.engine.acknowledge("a-1", by="Li")
    site.hands.pass_s(30)
    site.hands.wall -= 3600 * SECOND
    site.clock.follow()
    after = reminding()
    after.hands.wall = site.hands.wall + 3600 * SECOND  # what was stamped before the step stays in the log
    after.clock = after.hands.clock()
    after.engine = AlarmEngine(after.beds, after.clock, FloodWatch(8, 5.0), reminder_s=60.0)
    after.engine.restore("a", site.engine.alarms("a").to_dict())
    for one in (site, after):
        one.hands.pass_s(29)
        assert reminded(one) == []
        one.hands.pass_s(2)
        assert reminded(one) == [("asystole", True, False)]


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_a_pause_of_the_sound_lasts_as_long_as_it_was_meant_to_when_the_clock_is_set(step_s):
    site = Site("a")
    site.begin("a", "asystole")
    site.engine.pause("a", "", seconds=120, by="Li")
    site.hands.pass_s(20)
    site.hands.wall += step_s * SECOND
    changes = site.engine.clock_set(site.clock.follow())
    assert [one.change.state for one in changes] == ["raised"]
    assert not changes[0].change.new, "its sound does not begin"
    assert (site.engine.active("a")[0].paused_until_ns - site.hands.wall) / SECOND == pytest.approx(100)
    site.hands.pass_s(200)
    site.hands.wall += step_s * SECOND
    assert site.engine.clock_set(site.clock.follow()) == [], "it was over"
