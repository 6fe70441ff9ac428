"""SampledData of Observations: what becomes a waveform, what is refused, and that it goes a wearable's way."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from tests.gateway.test_fhir_vitals import MDC, NOW, Doors, bundle, concept, doors, observation, read

from edgeward import waveform
from edgeward.bus import subjects
from edgeward.gateway import fhir_waves
from edgeward.gateway.fhir_elements import FhirError

__all__ = ["doors"]
LEAD_II = "MDC_ECG_ELEC_POTL_II"


def sampled(data: str = "10 20 E -10", *, unit: str = "uV", **more: Any) -> dict[str, Any]:
    origin = {"value": 0, "system": "http://unitsofmeasure.org", "code": unit} if unit else {"value": 0}
    return {"origin": origin, "period": 4, "factor": 2, "dimensions": 1, "data": data, **more}


def ecg(*codes: str, data: dict[str, Any] | None = None, at: str = "2026-03-01T12:00:00Z") -> dict[str, Any]:
    parts = [{"code": concept(code, MDC), "valueSampledData": data or sampled()} for code in codes or (LEAD_II,)]
    return observation(concept("MDC_ECG", MDC), valueQuantity=None, component=parts, effectiveDateTime=at)


def test_a_lead_is_scaled_and_what_is_no_sample_is_missing():
    (found,), unknown = fhir_waves.arrays(ecg(data=sampled(origin={"value": 5, "unit": "mV"})))
    assert (found.name, found.kind, found.unit, found.at_ns, unknown) == ("II", waveform.Kind.ECG, "mV", NOW, 0)
    assert np.array_equal(found.values, [25.0, 45.0, np.nan, -15.0], equal_nan=True)
    assert found.said["period"] == (4.0, "ms")


@pytest.mark.parametrize(
    ("system", "code", "name"),
    [
        (MDC, "131330", "II"),
        ("urn:oid:2.16.840.1.113883.6.24", "MDC_ECG_LEAD_V5", "V5"),
        (MDC, "MDC_PULS_OXIM_PLETH", "PLETH"),
        (MDC, "150037", ""),  # a pressure's number, no waveform
        ("http://loinc.org", "131330", ""),
        ("urn:private", LEAD_II, ""),
    ],
)
def test_a_channel_is_known_by_its_code_of_11073_alone(system, code, name):
    resource = observation(concept(code, system), valueQuantity=None, valueSampledData=sampled())
    found, unknown = fhir_waves.arrays(resource)
    assert ([one.name for one in found], unknown) == (([name], 0) if name else ([], 1))


def test_the_waveform_begins_with_the_period_it_was_taken_in():
    resource = ecg() | {"effectivePeriod": {"start": "2026-03-01T11:59:50Z", "end": "2026-03-01T12:00:00Z"}}
    del resource["effectiveDateTime"]
    assert fhir_waves.arrays(resource)[0][0].at_ns == NOW - 10 * 10**9


@pytest.mark.parametrize("status", ["entered-in-error", "cancelled", "registered"])
def test_what_is_withdrawn_is_no_signal(status):
    assert fhir_waves.arrays(ecg() | {"status": status}) == ([], 0)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"period": None}, "period"),
        ({"period": 0}, "period"),
        ({"period": True}, "period"),
        ({"factor": 0}, "factor"),
        ({"factor": "2"}, "factor"),
        ({"dimensions": 2}, "dimensions"),
        ({"origin": {"value": "x"}}, "origin.value"),
        ({"data": ""}, "data"),
        ({"data": None}, "data"),
        ({"data": "1 2 three"}, "data"),
        ({"data": "1 " * 60_001}, "data"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change, where):
    with pytest.raises(FhirError) as refused:
        fhir_waves.arrays(ecg(data=sampled(**change)))
    assert refused.value.expression == f"Observation.component.valueSampledData.{where}"
    assert "three" not in str(refused.value)


def test_a_waveform_without_a_time_is_refused():
    with pytest.raises(FhirError):
        fhir_waves.arrays(ecg() | {"effectiveDateTime": "2026-03-01"})


def test_numbers_beside_a_waveform_are_read():
    rate = {"code": concept("8867-4"), "valueQuantity": {"value": 70, "unit": "/min"}}
    resource = ecg()
    resource["component"].append(rate)
    assert [(one.parameter, one.value) for one in read(resource).vitals] == [("heart_rate", 70)]


async def test_leads_come_out_on_the_bus_as_a_wearables_packets_do(doors: Doors):
    second = " ".join(["100"] * 250)
    packets: list[tuple[str, bytes]] = []

    async def heard(count: int) -> None:
        async with asyncio.timeout(10):
            while len(packets) < count:
                await asyncio.sleep(0.01)

    async with doors.monitor() as monitor, doors.web() as web:
        await monitor.bus.subscribe_raw(subjects.WAVE_ALL, lambda subject, data: packets.append((subject, data)))
        await monitor.bus.flush()
        leads = ecg("MDC_ECG_ELEC_POTL_I", LEAD_II, data=sampled(second))
        assert (await web.post("/Observation", json=leads)).status_code == 201
        await heard(1)
        assert (await web.post("/Observation", json=leads)).status_code == 200, "sent again"
        apart = [
            ecg(code, data=sampled(second), at="2026-03-01T12:00:01Z") for code in ("MDC_ECG_ELEC_POTL_I", LEAD_II)
        ]
        assert (await web.post("", json=bundle(*apart))).status_code == 200
        await heard(2)
        assert {one.source_id for one in monitor.taken} == {"emr1-MON7"}
        no_unit = await web.post("/Observation", json=ecg(data=sampled(second, unit="")))
        assert (no_unit.status_code, "unit that is not read" in no_unit.text) == (422, True)
        strange = await web.post("/Observation", json=ecg("MDC_EEG_ELEC_POTL_CRTX"))
        assert (strange.status_code, "nothing of it is used" in strange.text) == (201, True)
    assert [subject for subject, _ in packets] == [subjects.wave("emr1-MON7")] * 2
    found = [waveform.read(data) for _, data in packets]
    assert [(one.ecg.leads, one.ecg.rate_hz, one.ecg.first_sample) for one in found] == [
        (("I", "II"), 250.0, 0),
        (("I", "II"), 250.0, 250),
    ]
    assert found[0].ecg.samples[0, 0] * found[0].ecg.gain_uv == 200
