"""What only looks like a value is none, whichever way a device writes it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.measurement import SENTINELS, measured, number
from edgeward.parameters import PARAMETERS


@pytest.mark.parametrize("parameter", [name for name in PARAMETERS if PARAMETERS[name].unit != "1"])
@pytest.mark.parametrize("value", [*sorted(SENTINELS), math.nan, math.inf, -math.inf, 1e300, -1e300])
def test_no_sentinel_is_a_value_of_any_parameter(parameter, value):
    given = PARAMETERS[parameter]
    for written in (value, f"{value:.3f}", f"{value:g}"):
        vital = measured(given, written, given.unit)
        assert vital.value is None
        assert vital.why in ("sentinel", "no_value", "implausible", "not_a_number")
        assert vital.validity == "invalid"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (None, "no_value"),
        ("", "no_value"),
        ("---", "no_value"),
        (" - ", "no_value"),
        ('""', "no_value"),
        ("NaN", "no_value"),
        ("+INF", "no_value"),
        ("-999", "sentinel"),
        ("-99.9", "sentinel"),
        ("8388607", "sentinel"),
        ("32767", "sentinel"),
        ("98 %", "not_a_number"),
        ("0x61", "not_a_number"),
        ("1_0", "not_a_number"),
        ("٩٨", "not_a_number"),  # digits, but not ASCII
        ("9" * 500, "not_a_number"),
        ("1e999", "not_a_number"),
        ("98,5", "not_a_number"),
        ("101", "implausible"),
        ("0", "implausible"),
        ("-1", "implausible"),
        (10**400, "implausible"),
    ],
)
def test_why_there_is_no_saturation(written, why):
    vital = measured(PARAMETERS["spo2"], written, "%")
    assert (vital.value, vital.why) == (None, why)


@pytest.mark.parametrize(("written", "value"), [("97", 97), ("+97.", 97), (" 97.0 ", 97), ("9.7e1", 97), (".97e2", 97)])
def test_numbers_as_devices_write_them(written, value):
    assert measured(PARAMETERS["spo2"], written, "%").value == value


def test_zero_is_a_value_where_it_can_be():
    assert measured(PARAMETERS["heart_rate"], 0, "/min").value == 0
    assert measured(PARAMETERS["respiratory_rate"], "0", "/min").value == 0


def test_a_value_in_a_foreign_unit_is_no_value_and_says_so():
    vital = measured(PARAMETERS["nibp_systolic"], 120, "%")
    assert (vital.value, vital.why) == (None, "unit")
    assert measured(PARAMETERS["temperature"], 98.6, "").why == "implausible", "as it would be in Celsius"


@pytest.mark.parametrize(
    ("word", "level"), [("A", 0), ("alert", 0), ("C", 1), ("Voice", 2), ("P", 3), ("U", 4), ("2", 2)]
)
def test_consciousness_by_word_letter_or_number(word, level):
    assert measured(PARAMETERS["consciousness"], word, "").value == level


@pytest.mark.parametrize("word", ["sleepy", "1.5", "5", ""])
def test_another_word_is_no_level_of_consciousness(word):
    assert measured(PARAMETERS["consciousness"], word, "").value is None


def test_a_value_that_the_protocol_withdraws_is_not_used():
    vital = measured(PARAMETERS["spo2"], 97, "%", why="deleted")
    assert (vital.value, vital.why, vital.validity) == (None, "deleted", "invalid")


@given(
    st.one_of(st.text(max_size=100), st.floats(), st.integers()),
    st.text(max_size=20),
    st.sampled_from(sorted(PARAMETERS)),
)
def test_whatever_comes_a_value_is_plausible_or_none(value, unit, parameter):
    given_parameter = PARAMETERS[parameter]
    vital = measured(given_parameter, value, unit)
    if vital.value is None:
        assert vital.why
    else:
        low, high = given_parameter.plausible
        assert low <= vital.value <= high
        assert not vital.why


@given(st.text(max_size=80))
def test_a_number_is_finite_or_none(text):
    found = number(text)
    assert found is None or math.isfinite(found)
