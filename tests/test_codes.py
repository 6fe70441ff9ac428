"""What other nomenclatures call our parameters."""

from __future__ import annotations

import re

import pytest

from edgeward import codes
from edgeward.parameters import PARAMETERS


def test_what_we_send_is_what_we_understand():
    for parameter in PARAMETERS.values():
        if parameter.mdc:
            assert codes.mdc(str(parameter.mdc_code), parameter.mdc).parameter is parameter
        if parameter.loinc:
            assert codes.BY_LOINC[parameter.loinc].parameter is parameter
        assert codes.find(parameter.name).parameter is parameter


def test_a_number_stands_for_one_parameter_only():
    parameters: dict[int, set[str]] = {}
    for _, number, parameter, _ in codes._MDC:
        parameters.setdefault(number, set()).add(parameter)
    assert all(len(names) == 1 for names in parameters.values())
    # Partition 2 (SCADA) of IEEE 11073-10101: what is measured on patients.
    assert all(number >> 16 == 2 for number in parameters)


def test_loinc_codes_carry_their_check_digit():
    for code in codes.BY_LOINC:
        digits, _, check = code.partition("-")
        # LOINC Users' Guide, appendix: Mod 10 (Luhn).
        total = sum(
            sum(divmod(int(digit) * 2, 10)) if place % 2 == 0 else int(digit)
            for place, digit in enumerate(reversed(digits))
        )
        assert re.fullmatch(r"\d{4,5}-\d", code)
        assert int(check) == -total % 10, code


@pytest.mark.parametrize(
    ("number", "reference", "parameter"),
    [
        ("150456", "MDC_PULS_OXIM_SAT_O2", "spo2"),
        ("", "mdc_puls_oxim_sat_o2", "spo2"),
        ("150021", "", "nibp_systolic"),
        ("188496", "MDC_TEMP_AXIL", "temperature"),
        ("0002-4182", "HR", "heart_rate"),  # Philips' MDIL
        ("0002-4bb8", "SpO2", "spo2"),
        ("MDC_ECG_HEART_RATE", "", "heart_rate"),
        ("151594", "MDC_CO2_RESP_RATE", "respiratory_rate"),
        ("tt-0005-07", "MDC_PULS_RATE_NON_INV", "pulse_rate"),  # a private number with a reference identifier
        ("147842", "MDC_ECG_CARD_BEAT_RATE", "heart_rate"),
    ],
)
def test_codes_of_monitors_are_known(number, reference, parameter):
    assert codes.mdc(number, reference).parameter.name == parameter


@pytest.mark.parametrize(
    ("number", "reference"),
    [
        ("150017", "MDC_PRESS_BLD_SYS"),  # invasive, but where?
        ("150388", "MDC_TEMP_SKIN"),
        ("160208", "MDC_CONC_GLU_CONTROL"),
        ("151586", "MDC_VENT_RESP_RATE"),
        ("", ""),
        ("150456", "MDC_ECG_HEART_RATE"),  # which of the two?
    ],
)
def test_what_would_be_another_measurement_is_not_taken_for_ours(number, reference):
    assert codes.mdc(number, reference) is None
