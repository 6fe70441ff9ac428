"""Which value is the present one: order, staleness, gaps, patients, and what is no value."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from edgeward.bedside import Numerics, Vital
from edgeward.clinic.monitor.clocks import Clocks
from edgeward.clinic.monitor.vitals import Vitals

S = 10**9
NOW = 1_760_000_000 * S


class Ward:
    """Vitals with a clock of the test's."""

    def __init__(self) -> None:
        self.clocks = Clocks()
        self.vitals = Vitals(self.clocks)
        self.now = NOW

    def send(self, source: str = "bed-1", *, at: float | None = 0.0, now: float = 0.0, patient: str = "", sequence: int = -1,
             sent: float | None = None, clock: str = "device", why: str = "", validity: str = "valid", label: str = "",
             **values: float | None):  # fmt: skip
        """Send values measured at `at`, seconds since the beginning by the device's clock, arriving at `now`."""
        at_ns = 0 if at is None else NOW + round(at * S)
        rows = [
            Vital(parameter=name, value=value, at_ns=at_ns, why=why, validity=validity)
            for name, value in values.items()
        ]
        self.now = NOW + round(now * S)
        return self.vitals.take(
            Numerics(
                source_id=source, device_id="dev", protocol="pcd01", received_ns=self.now, vitals=rows, patient=patient,
                sequence=sequence, sent_ns=0 if sent is None else NOW + round(sent * S), clock=clock, label=label,
            ),
            self.now,
        )  # fmt: skip

    def value(self, parameter: str, source: str = "bed-1") -> float | None:
        held = self.vitals.source(source).values.get(parameter)
        return held.value if held is not None and held.live else None

    def expire(self, now: float) -> list[tuple[str, str]]:
        return [(change.parameter, change.why) for change in self.vitals.expire(NOW + round(now * S))]


@pytest.fixture
def ward() -> Ward:
    return Ward()


def test_a_value_is_told_and_held(ward):
    (change,) = ward.send(spo2=97.0, label="Bed 1")
    assert (change.source_id, change.parameter, change.value, change.why) == ("bed-1", "spo2", 97.0, "")
    assert (change.at_ns, change.received_ns) == (NOW, NOW)
    assert ward.value("spo2") == 97.0
    assert ward.vitals.source("bed-1").label == "Bed 1"


def test_of_any_order_of_arrival_the_newest_value_remains(ward):
    for order in itertools.permutations([(0.0, 90.0), (1.0, 91.0), (2.0, 92.0), (3.0, 93.0)]):
        one = Ward()
        one.send(at=0, sent=0, heart_rate=70.0)  # the clock is known
        told = [change.value for at, value in order for change in one.send(at=at, now=4, sent=4, spo2=value)]
        assert one.value("spo2") == 93.0
        assert told == sorted(told), "an older one is never told after a newer one"


def test_a_repetition_changes_nothing_and_a_correction_does(ward):
    ward.send(nibp_systolic=120.0)
    assert ward.send(now=60, sent=60, nibp_systolic=120.0) == []
    assert ward.vitals.counts["numerics_repeated"] == 1
    (change,) = ward.send(now=61, sent=61, nibp_systolic=118.0)
    assert (change.value, change.at_ns) == (118.0, NOW)


def test_a_pressure_that_every_message_repeats_is_one_measurement_whatever_the_clock_does(ward):
    rng, told = random.Random(1), []
    for second in range(600):
        told += ward.send(at=-30, now=second + rng.random(), sent=second, nibp_systolic=120.0)
    assert len(told) == 1


@pytest.mark.parametrize("value", [1000.0, 0.0, -5.0, float("nan"), float("inf"), 100.01])
def test_what_is_not_plausible_is_no_value_whoever_sends_it(ward, value):
    assert ward.send(spo2=value) == []
    ward.send(at=1, now=1, spo2=97.0)
    (change,) = ward.send(at=2, now=2, spo2=value)
    assert (change.value, change.why) == (None, "implausible")
    assert ward.value("spo2") is None


@pytest.mark.parametrize("validity", ["demo", "test", "invalid"])
def test_a_demonstration_is_no_patient(ward, validity):
    assert ward.send(spo2=97.0, validity=validity) == []
    assert ward.value("spo2") is None


def test_a_questionable_value_is_a_value(ward):
    assert ward.send(spo2=85.0, validity="questionable")[0].value == 85.0


def test_no_value_ends_a_value_once(ward):
    ward.send(spo2=97.0)
    (change,) = ward.send(at=1, now=1, spo2=None, why="sentinel")
    assert (change.value, change.why) == (None, "sentinel")
    assert ward.send(at=2, now=2, spo2=None, why="sentinel") == []
    assert ward.send(at=3, now=3, spo2=96.0)[0].value == 96.0


def test_no_value_between_two_measurements_of_the_cuff_does_not_erase_the_last(ward):
    ward.send(nibp_systolic=120.0, temperature=37.0)
    assert ward.send(at=5, now=5, nibp_systolic=None, temperature=None, why="sentinel") == []
    assert (ward.value("nibp_systolic"), ward.value("temperature")) == (120.0, 37.0)


@pytest.mark.parametrize("why", ["deleted", "wrong", "entered_in_error"])
def test_a_measurement_that_is_withdrawn_is_gone_and_only_that_one(ward, why):
    ward.send(at=0, now=0, sent=0, nibp_systolic=220.0)
    assert ward.send(at=-60, now=5, sent=5, nibp_systolic=None, why=why) == []
    (change,) = ward.send(at=0, now=10, sent=10, nibp_systolic=None, why=why)
    assert (change.value, change.why) == (None, why)
    assert ward.value("nibp_systolic") is None


def test_an_unknown_parameter_is_counted(ward):
    assert ward.send(shoe_size=42.0, spo2=97.0)[0].parameter == "spo2"
    assert ward.vitals.counts["numerics_unknown"] == 1


# ---------------------------------------- staleness and gaps


def test_each_value_goes_stale_after_its_own_time_and_is_told_once(ward):
    ward.send(heart_rate=70.0, spo2=97.0, nibp_systolic=120.0)
    assert ward.expire(9.9) == []
    assert ward.expire(10.1) == [("heart_rate", "stale")]
    assert ward.expire(29) == []
    assert ward.expire(31) == [("spo2", "stale")]
    assert ward.expire(7199) == []
    assert ward.expire(7201) == [("nibp_systolic", "stale")]
    assert ward.value("heart_rate") is None


def test_a_value_that_is_renewed_does_not_go_stale(ward):
    for second in range(0, 60, 5):
        ward.send(at=second, now=second, heart_rate=70.0)
        assert ward.expire(second + 4.9) == []
    assert ward.expire(66) == [("heart_rate", "stale")]
    assert ward.send(at=67, now=67, heart_rate=71.0)[0].value == 71.0


def test_a_system_that_sends_once_a_minute_is_not_stale_between(ward):
    for minute in range(5):
        ward.send(at=60 * minute, now=60 * minute, sent=60 * minute, spo2=97.0)
        ward.expire(60 * minute + 29)
    assert ward.value("spo2") == 97.0
    assert ward.expire(240 + 120) == []
    assert ward.expire(240 + 133) == [("spo2", "stale")]


def test_no_habit_makes_a_value_live_for_more_than_three_minutes(ward):
    for index in range(5):
        ward.send(at=600 * index, now=600 * index, sent=600 * index, spo2=97.0)
    assert ward.expire(2400 + 179) == []
    assert ward.expire(2400 + 181) == [("spo2", "stale")]


def test_a_value_that_comes_hours_late_is_never_live(ward):
    ward.send(at=0, now=0, sent=0, respiratory_rate=14.0)
    assert ward.send(at=-3600, now=1, sent=1, spo2=80.0) == []
    assert ward.value("spo2") is None
    assert ward.vitals.source("bed-1").values["spo2"].value == 80.0, "it is known, as what it is"
    ward.send(at=-90_000, now=2, sent=2, glucose=100.0)
    assert "glucose" not in ward.vitals.source("bed-1").values


def test_only_what_has_come_steadily_is_missed(ward):
    for second, missed in ((0, False), (1, False), (2, True), (3, True), (500, False), (501, False), (502, True)):
        ward.send(at=second, now=second, sent=second, spo2=97.0)
        assert ward.vitals.source("bed-1").values["spo2"].missed == missed, second
    ward.send(at=502, now=503, sent=503, spo2=97.0)
    assert ward.vitals.source("bed-1").values["spo2"].missed


def test_what_was_measured_once_stands_for_four_hours_and_what_came_steadily_does_not(ward):
    ward.send(spo2=97.0)
    ward.send("bed-2", spo2=91.0)
    for second in range(3):
        ward.send("bed-3", at=second, now=second, sent=second, spo2=88.0)
    ward.expire(60)

    def value(*sources: str, after_s: float = 60.0):
        held = ward.vitals.of_round(sources, "spo2", NOW + round(after_s * S))
        return held and held.value

    assert value("bed-1", "bed-3", "nobody") == 97.0
    assert value("bed-3") is None
    ward.send("bed-2", at=100, now=100, sent=100, spo2=93.0)
    assert value("bed-1", "bed-2", after_s=4 * 3600 - 1) == 93.0, "the newest"
    assert value("bed-1", after_s=4 * 3600) is None
    ward.send("bed-2", at=200, now=200, sent=200, spo2=None, why="error")
    assert value("bed-2", after_s=201) is None


def test_a_gap_is_noticed_and_where_it_was(ward):
    for second in range(20):
        ward.send(at=second, now=second, sent=second, spo2=97.0)
    ward.send(at=80, now=80, sent=80, spo2=97.0)
    source = ward.vitals.source("bed-1")
    assert (source.gaps, source.last_gap) == (1, (NOW + 19 * S, NOW + 80 * S))
    for second in range(81, 100):
        ward.send(at=second, now=second, sent=second, spo2=97.0)
    assert source.gaps == 1


def test_two_measurements_of_the_cuff_are_no_gap(ward):
    for minute in (0, 5, 10, 55):
        ward.send(at=60 * minute, now=60 * minute, sent=60 * minute, nibp_mean=90.0)
    assert ward.vitals.source("bed-1").gaps == 0


# ---------------------------------------- clocks, numbers, patients


@pytest.mark.parametrize("offset", [-7200.0, -3.0, 3.0, 7200.0])
def test_a_wrong_clock_does_not_make_values_old_or_new(ward, offset):
    for second in range(30):
        (change,) = ward.send(at=second + offset, now=second + 0.01, sent=second + offset, spo2=97.0)
        assert abs(change.at_ns - ward.now) < S // 20
    assert ward.expire(30) == []


def test_after_an_outage_what_was_kept_does_not_replace_what_is_newer(ward):
    for second in range(30):
        ward.send(at=second + 500, now=second, sent=second + 500, spo2=97.0)
    ward.send(at=590, now=90, sent=590, spo2=88.0)  # live first
    for second in range(30, 90):
        assert ward.send(at=second + 500, now=90.01, sent=second + 500, spo2=95.0) == []
    assert ward.value("spo2") == 88.0


def test_a_later_measurement_counts_although_the_clock_is_known_better_by_now(ward):
    ward.send(at=10, sent=10, now=15, spo2=97.0)  # it waited: its clock seems to be five seconds behind
    (change,) = ward.send(at=11, sent=14.9, now=15.0, spo2=88.0)  # it is not
    assert (change.value, ward.value("spo2")) == (88.0, 88.0)


def test_without_times_the_arrival_counts(ward):
    (change,) = ward.send(at=None, now=5, spo2=97.0)
    assert change.at_ns == NOW + 5 * S
    assert ward.clocks.shown("bed-1", NOW) == (None, None)


def test_relative_times_are_ours_already(ward):
    (change,) = ward.send(at=-2, now=5, clock="site", spo2=97.0)
    assert change.at_ns == NOW - 2 * S
    assert "bed-1" not in ward.clocks


def test_without_times_numbers_keep_the_order(ward):
    ward.send(at=None, now=0, sequence=2**32 - 1, spo2=97.0)
    ward.send(at=None, now=1, sequence=1, spo2=96.0)  # it wrapped
    assert ward.send(at=None, now=2, sequence=0, spo2=99.0) == []
    assert ward.send(at=None, now=2, sequence=1, spo2=99.0) == []
    assert ward.value("spo2") == 96.0
    assert ward.send(at=None, now=70, sequence=0, spo2=95.0)[0].value == 95.0, "the device started anew"


def test_another_patient_starts_with_nothing(ward):
    ward.send(patient="a", heart_rate=70.0, nibp_systolic=120.0)
    assert ward.send(at=1, now=1, heart_rate=71.0)[0].value == 71.0, "not said is not another"
    told = ward.send(at=2, now=2, patient="b", heart_rate=90.0)
    assert [(change.parameter, change.value, change.why) for change in told] == [
        ("heart_rate", None, "patient"), ("nibp_systolic", None, "patient"), ("heart_rate", 90.0, ""),
    ]  # fmt: skip
    assert ward.value("nibp_systolic") is None


def conditions(vitals: Vitals) -> list[tuple[str, str, bool]]:
    return [(event.source_id, event.code, event.present) for event in vitals.conditions(NOW)]


def test_another_patient_is_told_until_the_bed_is_discharged(ward):
    ward.send(patient="a", heart_rate=70.0)
    ward.send("bed-2", patient="c", heart_rate=70.0)
    assert conditions(ward.vitals) == []
    ward.send(at=1, now=1, patient="b", heart_rate=90.0)
    assert conditions(ward.vitals) == [("bed-1", "another_patient", True)]
    ward.send(at=2, now=2, patient="b", heart_rate=91.0)
    ward.send(at=3, now=3, patient="d", heart_rate=92.0)
    assert conditions(ward.vitals) == [], "told already"
    ward.vitals.clear("bed-1", NOW)
    assert conditions(ward.vitals) == [("bed-1", "another_patient", False)]
    ward.send(at=4, now=4, patient="e", heart_rate=93.0)
    assert conditions(ward.vitals) == [], "after a discharge somebody else is awaited"


def test_an_identifier_that_is_put_right_is_nobody_else(ward):
    for at, patient in enumerate("aba"):
        ward.send(at=at, now=at, patient=patient, heart_rate=70.0)
    assert conditions(ward.vitals) == []


def test_another_patient_is_told_again_after_a_restart(ward):
    for at, patient in enumerate("ab"):
        ward.send(at=at, now=at, patient=patient, heart_rate=70.0)
    later = Ward()
    later.vitals.restore(ward.vitals.dump(), NOW + 5 * S)
    assert conditions(later.vitals) == [("bed-1", "another_patient", True)]
    later.vitals.clear("bed-1", NOW)
    again = Ward()
    again.vitals.restore(later.vitals.dump(), NOW + 6 * S)
    assert conditions(again.vitals) == []


@pytest.mark.parametrize("patient", ["", "a"])
def test_a_cuff_pressure_sent_again_after_a_discharge_is_nobody_s(ward, patient):
    """A monitor sends its last cuff pressure again and again, with the time of the measurement."""
    ward.send(patient=patient, nibp_systolic=70.0, heart_rate=60.0)
    ward.vitals.clear("bed-1", NOW + 100 * S)
    for now in (110, 120):
        ward.send(at=0, now=now, sent=now, patient=patient, nibp_systolic=70.0)
        assert ward.value("nibp_systolic") is None
        ward.vitals.restore(ward.vitals.dump(), ward.now)  # nor after a restart
    assert ward.vitals.counts["numerics_of_before"] == 2
    ward.send(at=130, now=131, sent=131, nibp_systolic=120.0)
    assert ward.value("nibp_systolic") == 120.0


def test_what_was_measured_of_the_next_patient_before_the_discharge_counts(ward):
    """The next one came in before somebody discharged the bed, or is entered in the record with an earlier time."""
    ward.send(patient="a", nibp_systolic=70.0)
    ward.send(at=50, now=50, sent=50, patient="b", nibp_systolic=120.0)
    ward.vitals.clear("bed-1", NOW + 100 * S)
    ward.send(at=50, now=110, sent=110, patient="b", nibp_systolic=120.0)
    assert ward.value("nibp_systolic") == 120.0
    ward.send("bed-2", patient="a", glucose=70.0)
    ward.vitals.clear("bed-2", NOW + 120 * S)
    ward.send("bed-2", at=100, now=140, sent=140, patient="b", glucose=80.0)
    assert ward.value("glucose", "bed-2") == 80.0


def test_nobody_knows_whose_the_earlier_values_of_a_nameless_patient_are(ward):
    for at, patient in ((0, "a"), (10, "")):
        ward.vitals.clear("bed-1", NOW + at * S)
        ward.send(at=at + 1, now=at + 1, sent=at + 1, patient=patient, nibp_systolic=70.0)
    ward.vitals.clear("bed-1", NOW + 20 * S)
    ward.send(at=11, now=30, sent=30, patient="b", nibp_systolic=70.0)
    assert ward.value("nibp_systolic") is None


def test_a_source_that_is_forgotten_takes_its_values_along(ward):
    ward.send(heart_rate=70.0)
    assert [change.parameter for change in ward.vitals.forget("bed-1")] == ["heart_rate"]
    assert "bed-1" not in ward.vitals
    assert ward.vitals.forget("bed-1") == []
    assert ward.expire(100) == []


def test_no_device_speaks_for_a_place_of_another(ward):
    ward.send(spo2=97.0)
    others = Numerics(
        source_id="bed-1", device_id="other", protocol="pcd01", received_ns=NOW, vitals=[Vital(parameter="spo2", value=80.0, at_ns=0)]
    )  # fmt: skip
    with pytest.raises(ValueError, match="speaks for this place already"):
        ward.vitals.take(others, NOW)
    assert ward.value("spo2") == 97.0


def test_what_somebody_enters_belongs_to_the_place_whoever_speaks_for_it(ward):
    by_hand = Numerics(
        source_id="bed-1", device_id="", protocol="manual", received_ns=NOW, by="nurse",
        vitals=[Vital(parameter="consciousness", value=0.0, at_ns=0)],
    )  # fmt: skip
    for _ in range(2):
        ward.vitals.take(by_hand, NOW)
        ward.send(spo2=97.0)
    assert (ward.value("spo2"), ward.value("consciousness")) == (97.0, 0.0)
    assert ward.vitals.source("bed-1").device_id == "dev"


def test_sources_do_not_mix(ward):
    ward.send("bed-1", spo2=97.0)
    ward.send("bed-2", spo2=80.0)
    assert (ward.value("spo2", "bed-1"), ward.value("spo2", "bed-2")) == (97.0, 80.0)
    assert sorted(ward.vitals) == ["bed-1", "bed-2"]


# ---------------------------------------- over a restart


def test_what_is_measured_once_in_a_while_outlasts_a_restart(ward):
    ward.send(patient="a", heart_rate=70.0, nibp_systolic=120.0, temperature=36.6)
    kept = ward.vitals.dump()

    later = Ward()
    told = later.vitals.restore(kept, NOW + 60 * S)

    assert {(change.parameter, change.value) for change in told} == {("nibp_systolic", 120.0), ("temperature", 36.6)}
    assert (later.value("nibp_systolic"), later.value("heart_rate")) == (120.0, None)
    assert later.expire(7201) == [("nibp_systolic", "stale")]
    assert later.send(at=7300, now=7300, patient="b", spo2=97.0)[0].why == "patient", "whose they were is known too"


@pytest.mark.parametrize("after_s", [-5, 20_000])
def test_what_is_out_of_date_or_from_the_future_is_not_taken_up(ward, after_s):
    ward.send(nibp_systolic=120.0)
    assert Ward().vitals.restore(ward.vitals.dump(), NOW + after_s * S) == []


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: b"", lambda data: b"\xc1" + data, lambda data: b"\x91\x01"]
)
def test_damaged_values_are_refused(ward, damage: Callable[[bytes], bytes]):
    ward.send(nibp_systolic=120.0)
    with pytest.raises(ValueError, match="no values"):
        Ward().vitals.restore(damage(ward.vitals.dump()), NOW)


# ---------------------------------------- a random life, against a plain model


@pytest.mark.parametrize("seed", range(20))
def test_a_random_life_agrees_with_a_plain_model(seed):
    rng, ward = random.Random(seed), Ward()
    best: dict[str, tuple[float, float]] = {}
    pending: list[tuple[float, float, str, float]] = []
    for step in range(300):
        at = step * 0.5
        for name in ("spo2", "respiratory_rate"):
            pending += [(at + rng.choice([0, 0, 0, 1, 5]), at, name, float(rng.randrange(50, 100)))]
    for arrival, at, name, value in sorted(pending):
        if rng.random() < 0.05:
            continue
        ward.send(at=at, now=arrival + 0.01, sent=arrival, **{name: value})
        if name not in best or at > best[name][0]:
            best[name] = (at, value)
    for name, (at, value) in best.items():
        held = ward.vitals.source("bed-1").values[name]
        assert held.value == value
        assert held.device_ns == NOW + round(at * S)
