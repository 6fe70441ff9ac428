"""Values against limits: delay, averaging, staleness, steps of the clock."""

from __future__ import annotations

import pytest
from tests.support.monitoring import SECOND, Hands

from edgeward.bedside import ParameterLimit
from edgeward.clinic.monitor.values import LimitWatch

LIMITS = {
    "spo2": ParameterLimit(low=90, extreme_low=80, delay_s=10.0, priority="high"),
    "heart_rate": ParameterLimit(low=50, high=120),
    "respiratory_rate": ParameterLimit(high=30, averaging_s=10.0),
    "temperature": ParameterLimit(high=39),
}


class Watch:
    def __init__(self, *, has_signal: bool = True) -> None:
        self.hands = Hands()
        self.clock = self.hands.clock()
        self.watch = LimitWatch(self.clock.now_ns, lambda _: has_signal)
        self.watch.set_limits("a", LIMITS)

    def value(self, parameter: str, value: float | None, *, age_s: float = 0.0, stale_s: float | None = None):
        now = self.clock.wall_ns()
        at = now - int(age_s * SECOND)
        self.watch.update("a", parameter, value, at_ns=at, received_ns=now, stale_s=stale_s)
        return self.told()

    def wait(self, seconds: float):
        found = []
        for _ in range(round(seconds / 0.25)):
            self.hands.pass_s(0.25)
            self.watch.tick()
            found += self.told()
        return found

    def told(self):
        return [(event.code, event.present) for event in self.watch.take_events()]


def test_a_value_beyond_its_limit_alarms_at_once_without_a_delay_and_ends_within():
    watch = Watch()
    assert watch.value("heart_rate", 121) == [("parameter_high", True)]
    assert watch.value("heart_rate", 130) == []
    assert watch.value("heart_rate", 120) == [("parameter_high", False)], "the limit itself is within"


def test_an_alarm_says_value_limit_unit_and_priority():
    watch = Watch()
    watch.watch.update("a", "spo2", 79.0, at_ns=1, received_ns=1)
    (event,) = watch.watch.take_events()
    assert event.code == "parameter_extreme_low"
    assert event.args == {"parameter": "spo2", "value": 79.0, "limit": 80.0, "unit": "%"}


@pytest.mark.parametrize(
    ("value", "bound", "told"),
    [(50, "below", True), (50, "", False), (50, "above", False), (120, "above", True), (120, "below", False)],
)
def test_what_lies_beyond_the_scale_is_beyond_a_limit_at_its_end(value, bound, told):
    watch = Watch()
    watch.watch.update("a", "heart_rate", value, at_ns=1, received_ns=1, bound=bound)
    assert bool(watch.told()) == told


def test_a_delay_is_counted_from_the_crossing_and_a_short_one_is_none():
    watch = Watch()
    watch.value("spo2", 88)
    assert watch.wait(9) == []
    watch.value("spo2", 95)
    assert watch.wait(3) == []
    watch.value("spo2", 88)
    assert watch.wait(9.5) == []
    assert watch.wait(1) == [("parameter_low", True)]


def test_the_extreme_has_no_delay():
    watch = Watch()
    assert watch.value("spo2", 75) == [("parameter_extreme_low", True)]
    assert watch.wait(10.5) == [("parameter_low", True)]


def test_what_is_averaged_is_compared_after_averaging():
    watch = Watch()
    for _ in range(9):
        assert watch.value("respiratory_rate", 20) == []
        watch.wait(1)
    assert watch.value("respiratory_rate", 45) == [], "one cough"
    found = []
    for _ in range(8):
        found += watch.wait(1)
        found += watch.value("respiratory_rate", 45)
    assert found == [("parameter_high", True)]


def test_a_value_that_stops_coming_is_an_alarm_and_ends_the_other_only_then():
    watch = Watch()
    watch.value("heart_rate", 140)
    assert watch.wait(9.5) == []
    assert watch.wait(1) == [("no_value", True), ("parameter_high", False)]
    assert watch.value("heart_rate", 80) == [("no_value", False)]


def test_no_value_hides_nothing_at_first_and_is_told_when_it_lasts():
    watch = Watch()
    watch.value("heart_rate", 140)
    assert watch.value("heart_rate", None) == []
    assert watch.watch.values("a")["heart_rate"].value is None
    assert ("no_value", True) in watch.wait(11)


def test_what_is_measured_once_in_a_while_is_shown_as_old_and_does_not_alarm():
    watch = Watch()
    watch.value("temperature", 37.0)
    watch.hands.pass_s(5 * 3600)
    watch.watch.tick()
    assert watch.told() == []
    assert watch.watch.values("a")["temperature"].stale(watch.clock.now_ns())


def test_a_source_of_values_alone_that_falls_silent_is_lost():
    watch = Watch(has_signal=False)
    watch.value("heart_rate", 80)
    watch.value("spo2", 97)
    found = watch.wait(40)
    assert found[0] == ("signal_lost", True)
    assert found.count(("signal_lost", True)) == 1
    assert watch.value("spo2", 97)[0] == ("signal_lost", False)


def test_a_value_that_was_old_when_it_came_is_compared_with_nothing():
    watch = Watch()
    assert watch.value("heart_rate", 200, age_s=60) == []
    assert watch.watch.values("a")["heart_rate"].stale(watch.clock.now_ns())


def test_an_older_measurement_that_comes_late_changes_nothing():
    watch = Watch()
    watch.value("heart_rate", 80)
    assert watch.value("heart_rate", 200, age_s=5) == []
    assert watch.watch.values("a")["heart_rate"].value == 80


def test_a_system_that_sends_rarely_may_say_how_long_a_value_holds():
    watch = Watch()
    watch.value("heart_rate", 80, stale_s=130)
    assert watch.wait(60) == []
    watch.value("heart_rate", 81, stale_s=130)
    assert watch.wait(125) == []
    assert ("no_value", True) in watch.wait(10)


def test_a_spot_check_is_compared_with_its_limits_and_not_missed():
    watch = Watch(has_signal=False)
    now = watch.clock.wall_ns()
    watch.watch.update("a", "heart_rate", 130.0, at_ns=now, received_ns=now, missed=False)
    assert watch.told() == [("parameter_high", True)]
    assert watch.wait(60) == [("parameter_high", False)], "what it said is over, and nobody waits for more"


def test_what_a_spot_check_was_told_of_is_not_over_because_it_is_old():
    watch = Watch(has_signal=False)
    now = watch.clock.wall_ns()
    watch.watch.update("a", "heart_rate", 130.0, at_ns=now, received_ns=now, missed=False)
    watch.watch.update("a", "respiratory_rate", 40.0, at_ns=now, received_ns=now, missed=False)
    watch.watch.take_events()
    watch.hands.pass_s(5)
    watch.watch.update("a", "heart_rate", 80.0, at_ns=now + 1, received_ns=now + 1, missed=False)
    (normal,) = watch.watch.take_events()
    assert not normal.unseen, "another one was normal"
    watch.hands.pass_s(60)
    watch.watch.tick()
    (old,) = watch.watch.take_events()
    assert (old.args["parameter"], old.present, old.unseen) == ("respiratory_rate", False, True)
    now = watch.clock.wall_ns()
    watch.watch.update("a", "respiratory_rate", 16.0, at_ns=now, received_ns=now, missed=False)
    (normal,) = watch.watch.take_events()
    assert (normal.present, normal.unseen) == (False, False)


@pytest.mark.parametrize("late_s", [0.0, 0.7, 1.5, 6.0])
def test_a_source_of_numbers_that_falls_silent_is_told_as_one_however_old_its_numbers_came(late_s):
    watch = Watch(has_signal=False)
    for _ in range(4):
        for parameter, value in (("heart_rate", 70), ("spo2", 97), ("respiratory_rate", 15)):
            watch.value(parameter, value, age_s=late_s)
        watch.hands.pass_s(1)
    assert watch.wait(40)[:2] == [("signal_lost", True), ("no_value", True)], "what hides the others comes first"


def test_a_source_that_goes_on_with_other_numbers_is_not_silent():
    watch = Watch(has_signal=False)
    watch.value("heart_rate", 70, age_s=1.0)
    told = []
    for _ in range(20):
        watch.hands.pass_s(1)
        told += watch.value("spo2", 97) + watch.wait(0.25)
    assert told == [("no_value", True)]


def test_a_signal_that_is_back_has_time_to_settle_before_its_value_is_missed():
    watch = Watch()
    watch.value("heart_rate", 70)
    assert watch.wait(20) == [("no_value", True)]
    watch.watch.settle("a")
    assert watch.told() == [("no_value", False)]
    assert watch.wait(9) == []
    assert watch.wait(2) == [("no_value", True)], "still none: it is missed again"
    assert watch.value("heart_rate", 71) == [("no_value", False)]


def test_settling_hides_no_value_that_is_beyond_its_limit():
    watch = Watch()
    watch.watch.settle("a")
    assert watch.value("heart_rate", 130) == [("parameter_high", True)]


def test_limits_are_judged_anew_when_the_rate_begins_anew():
    watch = Watch()
    assert watch.value("heart_rate", 40) == [("parameter_low", True)]
    watch.watch.begin_anew("a", "heart_rate")
    assert watch.told() == [("parameter_low", False)]
    assert watch.value("heart_rate", 70) == []
    assert watch.value("heart_rate", 45) == [("parameter_low", True)]


def test_a_planned_stop_is_not_missed():
    watch = Watch()
    watch.value("heart_rate", 80)
    watch.watch.rest("a")
    assert watch.wait(60) == []


@pytest.mark.parametrize("hours", [1, -1])
def test_a_wall_clock_that_is_set_makes_nothing_stale(hours):
    watch = Watch()
    watch.value("heart_rate", 80)
    watch.hands.wall += hours * 3600 * SECOND
    watch.clock.follow()
    assert watch.wait(2) == []
    assert watch.value("heart_rate", 130) == [("parameter_high", True)]


def test_new_limits_hold_at_once():
    watch = Watch()
    watch.value("heart_rate", 110)
    watch.watch.set_limits("a", {"heart_rate": ParameterLimit(high=100)})
    assert watch.told() == [("parameter_high", True)]
    watch.watch.set_limits("a", {"heart_rate": ParameterLimit()})
    assert watch.told() == [("parameter_high", False)]


def test_after_a_restart_the_end_of_a_limit_alarm_is_told_or_its_silence():
    watch = Watch()
    watch.watch.assume("a", "parameter_high", "heart_rate")
    assert watch.value("heart_rate", 80) == [("parameter_high", False)]
    other = Watch()
    other.watch.assume("a", "parameter_low", "spo2")
    assert other.wait(31) == [("no_value", True), ("parameter_low", False)]


def test_another_patients_values_are_neither_shown_nor_missed():
    watch = Watch()
    watch.value("heart_rate", 140)
    watch.watch.withdraw("a", "heart_rate")
    assert watch.told() == [("parameter_high", False)]
    assert watch.wait(30) == []
    assert "heart_rate" not in watch.watch.values("a")


def test_an_unknown_parameter_is_an_error():
    with pytest.raises(KeyError):
        Watch().value("mood", 1.0)


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (ParameterLimit(low=88, priority="medium"), [("parameter_low", True, True, 88.0, "medium")]),
        (ParameterLimit(low=90, priority="high"), [("parameter_low", True, True, 90.0, "high")]),
        (ParameterLimit(low=85, priority="medium"), [("parameter_low", False, False, None, None)]),
        (ParameterLimit(low=90, high=99, priority="medium"), []),
    ],
)
def test_a_limit_that_is_changed_while_its_alarm_stands_is_told(limit, told):
    watch = Watch()
    watch.watch.set_limits("a", {"spo2": ParameterLimit(low=90, priority="medium")})
    watch.value("spo2", 86)
    watch.watch.set_limits("a", {"spo2": limit})
    found = watch.watch.take_events()
    assert [(e.code, e.present, e.altered, e.args.get("limit"), e.args.get("priority")) for e in found] == told
