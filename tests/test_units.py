"""Units come out as the parameter's own, or not at all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward import units
from edgeward.parameters import PARAMETERS


@pytest.mark.parametrize(
    ("value", "unit", "parameter", "expected"),
    [
        (16.0, "kPa", "nibp_systolic", 120.0102),
        (16.0, "265987", "nibp_systolic", 120.0102),
        (120.0, "MDC_DIM_MMHG", "abp_mean", 120.0),
        (10.0, "cm[H2O]", "cvp_mean", 7.3556),
        (5.0, "kPa", "etco2", 37.5032),
        (98.6, "[degF]", "temperature", 37.0),
        (98.6, "MDC_DIM_FAHR", "temperature", 37.0),
        (310.15, "K", "temperature", 37.0),
        (37.2, "°C", "temperature", 37.2),
        (5.5, "mmol/L", "glucose", 99.0858),
        (5.5, "266866", "glucose", 99.0858),
        (0.97, "/", "spo2", 97.0),  # SenML: a ratio
        (0.97, "1", "spo2", 97.0),  # UCUM: a ratio
        (97.0, "262688", "spo2", 97.0),
        (1.2, "Hz", "heart_rate", 72.0),
        (72.0, "{beats}/min", "heart_rate", 72.0),
        (14.0, "{Breaths}/min", "respiratory_rate", 14.0),
        (72.0, "beat/min", "heart_rate", 72.0),
        (72.0, "bpm", "pulse_rate", 72.0),
        (72.0, "", "pulse_rate", 72.0),
        (1.0, "1", "supplemental_oxygen", 1.0),
        (37.2, "℃", "temperature", 37.2),  # one character, as Asian monitors write it
        (98.6, "℉", "temperature", 37.0),
        (120.0, "Torr", "nibp_systolic", 120.0),
        (0.12, "m[Hg]", "nibp_systolic", 120.0),
        (72.0, "beats/minute", "heart_rate", 72.0),  # Quantity.unit of many FHIR servers
        (14.0, "breaths/minute", "respiratory_rate", 14.0),
        (72.0, "次/分", "heart_rate", 72.0),
        (72.0, "0004-0aa0", "heart_rate", 72.0),  # Philips' MDIL: hexadecimal
        (97.0, "0004-0220", "spo2", 97.0),
        (99.0, "MG/DL", "glucose", 99.0),
        (5500.0, "umol/L", "glucose", 99.0858),
        # expressions of UCUM that no table holds
        (1600.0, "daPa", "nibp_systolic", 120.0102),
        (16_000.0, "N/m2", "nibp_systolic", 120.0102),
        (12.5, "10*3.Pa", "abp_mean", 93.7580),
        (0.11, "bar", "nibp_diastolic", 82.5070),
        (1.9, "[psi]", "nibp_mean", 98.2586),
        (1.5, "[in_i'Hg]", "etco2", 38.1),
        (0.08, "m[H2O]", "cvp_mean", 5.8845),
        (550.0, "umol/dL", "glucose", 99.0858),
        (5.5, "10*-3.mol/L", "glucose", 99.0858),
        (5500.0, "nmol/mL", "glucose", 99.0858),
        (120.0, "mg/(100.mL)", "glucose", 120.0),
        (0.12, "g/dL{plasma}", "glucose", 120.0),
        (310_150.0, "mK", "temperature", 37.0),
        (558.27, "[degR]", "temperature", 37.0),
        (4200.0, "/h", "heart_rate", 70.0),
        (70.0, "/(60.s)", "heart_rate", 70.0),
        (250.0, "mHz", "respiratory_rate", 15.0),
        (70.0, "{beats}.min-1", "heart_rate", 70.0),
        (97.0, "10*-2", "spo2", 97.0),
    ],
)
def test_units_are_converted(value, unit, parameter, expected):
    assert units.convert(value, unit, PARAMETERS[parameter]) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("unit", "parameter"),
    [
        ("kPa", "spo2"),
        ("%", "nibp_systolic"),
        ("MDC_DIM_VOL_PERCENT", "etco2"),  # needs the barometric pressure
        ("furlong", "temperature"),
        ("MMHG" * 40, "nibp_mean"),
        ("", "cvp_mean"),  # 1 could be kPa as well
        ("", "etco2"),
        ("", "perfusion_index"),
        ("", "glucose"),  # 12 is a coma by mass and a diabetic by substance
        ("mm[Hg]", "consciousness"),
        ("{beats}", "heart_rate"),
        ("MDC_DIM_DIMLESS", "spo2"),
    ],
)
def test_another_quantity_or_an_unknown_unit_gives_no_number(unit, parameter):
    assert units.convert(5.0, unit, PARAMETERS[parameter]) is None


def test_temperatures_agree_over_their_whole_range():
    for celsius in range(15, 46):
        for unit, value in (("[degF]", celsius * 9 / 5 + 32), ("K", celsius + 273.15)):
            assert units.convert(value, unit, PARAMETERS["temperature"]) == pytest.approx(celsius, abs=1e-6)


@given(st.text(max_size=80), st.sampled_from(sorted(PARAMETERS)), st.floats(allow_nan=True))
def test_no_text_breaks_it(unit, parameter, value):
    result = units.convert(value, unit, PARAMETERS[parameter])
    assert result is None or isinstance(result, float)
    assert isinstance(units.known(unit), bool)


def test_glucose_there_and_back():
    molar = units.convert(1.0, "mmol/L", PARAMETERS["glucose"])
    assert math.isclose(molar, 180.156 / 10)


@pytest.mark.parametrize(
    "unit",
    ["60", "1", "m", "MM", "/", "(", ")", "((((((", "min-", "min-1-1", ".", "a.b", "10*", "10*-99/min", "1//min", "/min/", "{a",
     "{a}{b}{", "/min2", "mmin-1", "kmin", "0/min", "/0", "٣/min"],
)  # fmt: skip
def test_what_is_no_expression_of_a_rate_is_none(unit):
    assert units.convert(70.0, unit, PARAMETERS["heart_rate"]) is None


@given(st.text("m/.(){}0123456789*^[]gLlolHzPainK-+ μ", max_size=70))
def test_whatever_stands_for_a_unit_breaks_nothing(unit):
    for parameter in ("heart_rate", "glucose", "temperature", "spo2", "abp_mean"):
        found = units.convert(1.0, unit, PARAMETERS[parameter])
        assert found is None or math.isfinite(found)


def test_one_unit_written_in_two_ways_is_one():
    assert not units.differ(["10*3.Pa", "kPa"])
    assert not units.differ(["mmol/L", "mol.m-3"])
    assert units.differ(["kPa", "mm[Hg]"])
    assert units.differ(["mg/dL", "umol/dL"])
