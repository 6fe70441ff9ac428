"""The page for device makers says what the programs do."""

from __future__ import annotations

import json
import re
from pathlib import Path

from edgeward.clinic.monitor import senml
from edgeward.gateway import fhir_vitals, pcd01
from edgeward.hl7 import er7
from edgeward.parameters import PARAMETERS

PAGE = (Path(__file__).parents[1] / "docs" / "protocols" / "vitals.md").read_text(encoding="utf-8")
S = 10**9


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_table_is_the_one_of_the_program():
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in re.findall(r"^\| `\w+` \|.*$", PAGE, re.MULTILINE)
    ]
    assert [row[0].strip("`") for row in rows] == list(PARAMETERS)
    for name, unit, mdc, loinc, plausible, stale in rows:
        parameter = PARAMETERS[name.strip("`")]
        low, high = parameter.plausible
        number, scale = stale.split()
        assert unit == parameter.unit
        assert mdc == (f"`{parameter.mdc}` {parameter.mdc_code}" if parameter.mdc else "–")
        assert not parameter.loinc or loinc == parameter.loinc
        assert plausible == f"{low:g} to {high:g}"
        assert float(number) * {"s": 1, "min": 60, "h": 3600}[scale] == parameter.stale_s


def test_its_pack_is_read():
    numerics = senml.decode(block("json").encode(), "bed-1", 1_760_000_000 * S).numerics
    assert numerics.sequence == 4711
    assert {vital.parameter: (vital.value, vital.at_ns // S - 1_760_000_000) for vital in numerics.vitals} == {
        "spo2": (97, 0), "respiratory_rate": (14, 0), "nibp_systolic": (121, -240), "temperature": (36.8, -1800),
        "consciousness": (0, 0),
    }  # fmt: skip


def test_its_message_is_read():
    (numerics,) = pcd01.read(er7.parse(block("hl7")), "gw", 0, str).numerics
    assert numerics.source_id == "gw-ICU-1-2"
    values = {vital.parameter: vital.value and round(vital.value, 1) for vital in numerics.vitals}
    assert values == {"spo2": 97, "nibp_systolic": 120.8, "temperature": None}


def test_its_observation_is_read():
    numerics, unknown = fhir_vitals.read(json.loads(block("fhir")), device_id="emr", received_ns=0, pseudonym=str)
    assert (numerics.source_id, unknown) == ("emr-MON7", 0)
    assert {vital.parameter: (vital.value, vital.why) for vital in numerics.vitals} == {
        "nibp_systolic": (121, ""), "nibp_diastolic": (None, "error"),
    }  # fmt: skip
