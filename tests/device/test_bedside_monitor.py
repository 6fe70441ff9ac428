"""Simulated bedside monitors: what they write is read by the site's own readers and by others."""

from __future__ import annotations

import json
import subprocess
import sys

import hl7apy.parser
import pytest

from edgeward.clinic.monitor import senml as reader
from edgeward.device.bedside_monitor import invented, main
from edgeward.device.vital_signs import NIBP_EVERY_S, Patient, pcd01, senml
from edgeward.gateway import pcd01 as door
from edgeward.hl7 import er7
from edgeward.parameters import PARAMETERS

BEGIN = 1_760_000_000.0


def test_an_hour_of_a_patient_is_alive_plausible_and_within_the_limits():
    patient = Patient(3)
    seen: dict[str, set[float]] = {}
    for second in range(3600):
        for one in patient.measure(BEGIN + second):
            low, high = PARAMETERS[one.parameter].plausible
            assert low <= one.value <= high
            seen.setdefault(one.parameter, set()).add(one.value)
    assert all(len(seen[name]) > 3 for name in ("heart_rate", "spo2", "respiratory_rate", "nibp_systolic"))
    assert min(seen["spo2"]) >= 95
    assert 50 <= min(seen["heart_rate"]) <= max(seen["heart_rate"]) <= 120


def test_the_cuff_measures_now_and_then_and_keeps_its_time():
    patient = Patient(1)
    times = {
        one.at_s for second in range(700) for one in patient.measure(BEGIN + second) if one.parameter == "nibp_mean"
    }
    assert times == {BEGIN, BEGIN + NIBP_EVERY_S, BEGIN + 2 * NIBP_EVERY_S}


def test_a_desaturation_falls_and_recovers():
    patient = Patient(1)
    patient.desaturate(BEGIN + 10, 45)
    spo2 = [next(o.value for o in patient.measure(BEGIN + s) if o.parameter == "spo2") for s in range(120)]
    assert (min(spo2), min(spo2[:10]) >= 95, min(spo2[90:]) >= 95) == (82, True, True)


def test_the_same_seed_is_the_same_patient_and_another_is_not():
    def hour(seed: int) -> list[object]:
        patient = Patient(seed)
        return [patient.measure(BEGIN + second) for second in range(50)]

    assert hour(5) == hour(5)
    assert hour(5) != hour(6)


def test_its_packs_are_senml():
    patient = Patient(1, frozenset({"heart_rate"}))
    patient.measure(BEGIN - 60)
    found = patient.measure(BEGIN)
    numerics = reader.decode(senml(found, BEGIN, "urn:dev:sim:1:", 7), "bed-1", round(BEGIN * 1e9)).numerics
    assert numerics.sequence == 7
    read = {vital.parameter: (vital.value, round(vital.at_ns / 1e9)) for vital in numerics.vitals}
    assert read == {one.parameter: (one.value, round(one.at_s)) for one in found}
    assert "heart_rate" not in read
    assert next(vital.quality for vital in numerics.vitals if vital.parameter == "spo2") == 0.95


def test_its_messages_are_pcd01():
    place, patient = invented(3, 1, "ICU")
    patient.measure(BEGIN - 60)
    found = patient.measure(BEGIN)
    text = pcd01(found, BEGIN, place, "12")
    other = hl7apy.parser.parse_message(text, find_groups=True)
    other.validate()
    assert other.msh.msh_10.value == "12"
    (numerics,) = door.read(er7.parse(text), "gw", round(BEGIN * 1e9), lambda _: "digest").numerics
    assert (numerics.source_id, numerics.label) == ("gw-ICU-2-2", "ICU 2 2")
    assert {vital.parameter: vital.value for vital in numerics.vitals} == {
        one.parameter: one.value for one in found if PARAMETERS[one.parameter].mdc
    }
    assert {vital.at_ns for vital in numerics.vitals} == {round(one.at_s * 1e9) for one in found}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--devices", "x", "--every", "0"],
        ["--enrolment", "x", "--beds", "0"],
        ["--devices", "x", "--hl7-every", "1e9"],
    ],
)
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_a_folder_that_is_no_enrolment_is_told(tmp_path, capsys):
    assert main(["--enrolment", str(tmp_path / "nothing")]) == 2
    assert str(tmp_path / "nothing") in capsys.readouterr().err


def test_its_help_names_examples():
    out = subprocess.run(
        [sys.executable, "-m", "edgeward.device.bedside_monitor", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "icu-gateway" in out
    assert json.dumps(out)
