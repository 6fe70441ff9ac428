"""What a person types about a bed becomes a change, or is told field by field."""

from __future__ import annotations

import pytest

from edgeward.bedside import BedInfo, BedSettings, ParameterLimit
from edgeward.console.bedform import fingerprint, number, read_entry, read_limits

DEFAULT = ParameterLimit(low=50, high=120, extreme_low=35, extreme_high=160, averaging_s=5)


def info(limit: ParameterLimit = DEFAULT) -> BedInfo:
    settings = BedSettings(
        bed_id="b",
        label="",
        ward="",
        sources=["b"],
        profile="adult",
        limits={"heart_rate": limit},
        rhythm={"asystole_s": 4.0},
    )
    return BedInfo(settings=settings, defaults={"heart_rate": DEFAULT})


def typed(**sides: str) -> dict[str, str]:
    shown = {
        "extreme_low": "35",
        "low": "50",
        "high": "120",
        "extreme_high": "160",
        "delay_s": "0",
        "priority": "medium",
    }
    return {f"heart_rate.{side}": value for side, value in (shown | sides).items()}


@pytest.mark.parametrize(
    ("text", "value"), [("", None), (" 7 ", 7.0), ("36,8", 36.8), ("36.8", 36.8), ("−3", -3.0), ("１２", 12.0)]
)
def test_numbers_are_read_as_people_write_them(text: str, value: float | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", ["x", "1e999", "nan", "inf", "1_0", "1 2", "9" * 40, "--1", "0x10"])
def test_what_is_no_finite_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        number(text)


def test_only_what_changed_is_sent_and_averaging_stays() -> None:
    assert read_limits(typed(), info())[0] == {}

    wish, _, errors = read_limits(typed(low="45", high=""), info())

    assert not errors
    limit = wish["heart_rate"]
    assert limit is not None
    assert (limit.low, limit.high, limit.averaging_s) == (45.0, None, 5)


def test_typing_the_profiles_values_goes_back_to_the_profile() -> None:
    own = info(ParameterLimit(low=40, high=120, extreme_low=35, extreme_high=160, averaging_s=5))

    assert read_limits(typed(), own)[0] == {"heart_rate": None}
    assert read_limits(typed(low="40") | {"heart_rate.profile": "1"}, own)[0] == {"heart_rate": None}


@pytest.mark.parametrize(
    ("sides", "field", "why"),
    [
        ({"low": "fifty"}, "low", "not_a_number"),
        ({"high": "900"}, "high", "implausible"),
        ({"low": "130"}, "high", "order"),
        ({"low": "120"}, "high", "order"),
        ({"extreme_low": "60"}, "low", "order"),
        ({"delay_s": "-1"}, "delay_s", "implausible"),
        ({"delay_s": "soon"}, "delay_s", "not_a_number"),
        ({"priority": "lethal"}, "priority", "choose"),
    ],
)
def test_a_wrong_field_is_named(sides: dict[str, str], field: str, why: str) -> None:
    _, _, errors = read_limits(typed(**sides), info())

    assert errors.fields[f"heart_rate.{field}"][0] == f"bedside.error.{why}"


def test_rhythm_limits_change_go_back_and_are_refused() -> None:
    assert read_limits({"rhythm.asystole_s": "5"}, info())[1] == {"asystole_s": 5.0}
    assert read_limits({"rhythm.asystole_s": ""}, info())[1] == {"asystole_s": None}
    assert read_limits({"rhythm.asystole_s": "0"}, info())[2]


def test_a_form_made_before_another_change_is_known_by_its_digest() -> None:
    assert fingerprint(info().settings) == fingerprint(info().settings)
    assert fingerprint(info().settings) != fingerprint(info(ParameterLimit(low=1)).settings)


def test_entered_values_are_taken_or_refused_one_by_one() -> None:
    vitals, errors = read_entry({"temperature": "36,8", "consciousness": "1", "spo2": ""}, 7)
    assert not errors
    assert [(v.parameter, v.value, v.at_ns) for v in vitals] == [("consciousness", 1.0, 7), ("temperature", 36.8, 7)]

    wrong = read_entry(
        {"temperature": "368", "consciousness": "1.5", "nibp_systolic": "80", "nibp_diastolic": "90"}, 7
    )[1]
    assert set(wrong.fields) == {"temperature", "consciousness", "nibp_diastolic"}
    assert read_entry({}, 7)[1].fields["form"][0] == "bedside.error.nothing"
