"""Observations: what they measure, what is no value, and what the door answers."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fhir.resources.R4B.observation import Observation
from tests.gateway.door import tls_of
from tests.gateway.hl7_door import Client
from tests.gateway.pcd01 import obr, obx, oru, pid, pv1
from tests.gateway.test_role import gateway
from tests.support.site import TestSite

from edgeward import waveform
from edgeward.bedside import Numerics
from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.gateway import fhir_vitals
from edgeward.gateway.fhir_elements import FhirError
from edgeward.messages import Message, Ok, Refused

S = 10**9
NOW = 1_772_366_400 * S  # 2026-03-01 12:00:00 UTC
LOINC, MDC, UCUM = "http://loinc.org", "urn:iso:std:iso:11073:10101", "http://unitsofmeasure.org"
SNOMED = "http://snomed.info/sct"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"


def quantity(value: float | None, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": UCUM, "code": unit}


def concept(code: str, system: str = LOINC) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def observation(code: Any = "59408-5", value: float = 97, unit: str = "%", **more: Any) -> dict[str, Any]:
    vital_signs = concept("vital-signs", "http://terminology.hl7.org/CodeSystem/observation-category")
    resource = {
        "resourceType": "Observation",
        "status": "final",
        "category": [vital_signs],
        "code": concept(code) if isinstance(code, str) else code,
        "subject": {"identifier": {"system": "urn:hosp", "value": "4711"}, "display": "Erika Muster"},
        "device": {"identifier": {"value": "MON7"}, "display": "Bed 7"},
        "effectiveDateTime": "2026-03-01T12:00:00Z",
        "valueQuantity": quantity(value, unit),
        **more,
    }
    return {name: content for name, content in resource.items() if content is not None}


def pressure(systolic: float = 120, diastolic: float = 80) -> dict[str, Any]:
    parts = [("8480-6", systolic), ("8462-4", diastolic)]
    components = [{"code": concept(code), "valueQuantity": quantity(value, "mm[Hg]")} for code, value in parts]
    return observation("85354-9", valueQuantity=None, component=components)


def read(resource: dict[str, Any], device: str = "gw") -> Numerics | None:
    return fhir_vitals.read(resource, device_id=device, received_ns=NOW, pseudonym=lambda text: f"<{len(text)}>")[0]


def values(resource: dict[str, Any]) -> dict[str, float | None]:
    found = read(resource)
    return {vital.parameter: vital.value for vital in found.vitals} if found else {}


# ---------------------------------------- reading


def test_an_observation_of_the_vital_signs_profile_is_read():
    Observation.model_validate(observation())  # another reader says that the test's own resource is right
    found = read(observation())
    assert (found.source_id, found.label, found.protocol) == ("gw-MON7", "Bed 7", "fhir")
    assert (found.vitals[0].value, found.vitals[0].at_ns) == (97, NOW)
    assert found.patient == f"<{len('urn:hosp') + 1 + 4}>"
    assert "4711" not in repr(found)
    assert "Muster" not in repr(found)


def test_a_blood_pressure_panel_is_read():
    Observation.model_validate(pressure())
    assert values(pressure(121, 79)) == {"nibp_systolic": 121, "nibp_diastolic": 79}


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (observation("8867-4", 71, "/min"), {"heart_rate": 71}),
        (observation("8867-4", 71, "{beats}/min"), {"heart_rate": 71}),
        (observation("9279-1", 14, "/min"), {"respiratory_rate": 14}),
        (observation("8310-5", 98.6, "[degF]"), {"temperature": pytest.approx(37)}),
        (observation("8310-5", 36.6, "Cel"), {"temperature": 36.6}),
        (observation("15074-8", 5.5, "mmol/L"), {"glucose": pytest.approx(99.09, abs=0.01)}),
        (observation(code=concept("150456", MDC)), {"spo2": 97}),
        (observation(code={"coding": [{"system": "urn:l", "code": "1"}, *concept("59408-5")["coding"]]}), {"spo2": 97}),
        (observation(valueQuantity={"value": 97, "unit": "%"}), {"spo2": 97}),
        (observation("67775-7", valueQuantity=None, valueCodeableConcept={"text": "Voice"}), {"consciousness": 2}),
        (observation("67775-7", valueQuantity=None, valueString="alert"), {"consciousness": 0}),
        (observation("67775-7", valueQuantity=None, valueInteger=4), {"consciousness": 4}),
        (observation("67775-7", valueQuantity=None, valueCodeableConcept=concept("130987000", SNOMED)),
         {"consciousness": 1}),
        (observation("67775-7", valueQuantity=None, valueCodeableConcept={
            "text": "the patient is awake", "coding": [{"code": "A", "display": "Alert"}]}), {"consciousness": 0}),
        (observation("718-7", 14, "g/dL"), {}),  # haemoglobin
        # What a profile asks for in any case gives way to what is meant.
        (observation({"coding": [*concept("8867-4")["coding"], *concept("149530", MDC)["coding"]]}, 71, "/min"),
         {"pulse_rate": 71}),
        (observation({"coding": [*concept("8480-6")["coding"], *concept("150037", MDC)["coding"]]}, 120, "mm[Hg]"),
         {"abp_systolic": 120}),
        (observation({"coding": [*concept("8867-4")["coding"], *concept("9279-1")["coding"]]}, 22, "/min"), {}),
    ],
)  # fmt: skip
def test_what_is_measured(resource, expected):
    assert values(resource) == expected


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"valueQuantity": None, "dataAbsentReason": concept("error", ABSENT)}, "error"),
        ({"dataAbsentReason": concept("not-performed", ABSENT)}, "not_performed"),
        ({"dataAbsentReason": concept("<script>", ABSENT)}, "no_value"),
        ({"valueQuantity": None}, "no_value"),
        ({"valueQuantity": quantity(-999, "%")}, "sentinel"),
        ({"valueQuantity": quantity(97, "mm[Hg]")}, "unit"),
        ({"valueQuantity": {"value": 97}}, "unit"),
        ({"valueQuantity": quantity(970, "%")}, "implausible"),
        ({"valueQuantity": {**quantity(97, "%"), "comparator": "<"}}, "comparator"),
        ({"valueQuantity": quantity(None, "%")}, "no_value"),
        ({"valueQuantity": None, "valueString": "---"}, "no_value"),
        ({"status": "entered-in-error"}, "entered_in_error"),
        ({"status": "cancelled"}, "not_obtained"),
        ({"status": "registered"}, "pending"),
        ({"valueQuantity": {"value": 97, "unit": "mmHg", "system": UCUM, "code": "%"}}, "unit"),  # which of the two
    ],
)
def test_why_there_is_no_value(change, why):
    (vital,) = read(observation(**change)).vitals
    assert (vital.value, vital.why) == (None, why)


@pytest.mark.parametrize(
    ("change", "value", "bound"),
    [
        ({"valueQuantity": {**quantity(20, "mg/dL"), "comparator": "<"}}, 20, "below"),
        ({"valueQuantity": {**quantity(33.3, "mmol/L"), "comparator": ">"}}, pytest.approx(599.9, abs=0.1), "above"),
        ({"valueQuantity": None, "valueString": "LO"}, 20, "below"),
        ({"valueQuantity": None, "valueString": "> 33.3"}, 600, "above"),  # whatever its unit is
        ({"valueQuantity": None, "dataAbsentReason": concept("negative-infinity", ABSENT)}, 20, "below"),
        ({"valueQuantity": None, "dataAbsentReason": concept("error", ABSENT),
          "interpretation": [concept(">", "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation")]},
         600, "above"),
        ({"valueQuantity": None, "dataAbsentReason": concept("error", ABSENT)}, None, ""),
    ],
)  # fmt: skip
def test_a_glucose_off_the_meters_scale_is_told(change, value, bound):
    (vital,) = read(observation("2339-0", 90, "mg/dL", **change)).vitals
    assert (vital.value, vital.bound) == (value, bound)


def test_one_part_of_a_panel_may_be_absent():
    resource = pressure()
    resource["component"][1] = {"code": concept("8462-4"), "dataAbsentReason": concept("error", ABSENT)}
    assert values(resource) == {"nibp_systolic": 120, "nibp_diastolic": None}


@pytest.mark.parametrize(
    ("effective", "at_ns"),
    [
        ({"effectiveDateTime": "2026-03-01T13:00:00.25+01:00"}, NOW + S // 4),
        ({"effectiveInstant": "2026-03-01T12:00:00.123456789Z"}, NOW + 123_456_000),
        ({"effectivePeriod": {"start": "2026-03-01T11:59:00Z", "end": "2026-03-01T12:00:00Z"}}, NOW),
        ({"effectiveTiming": {"event": ["2026-03-01T11:00:00Z", "2026-03-01T12:00:00Z"]}}, NOW),
        ({"effectiveDateTime": "2026-03-01T11:59:60Z"}, NOW - S),  # a leap second
        ({"issued": "2026-03-01T12:00:01.5Z"}, NOW + 3 * S // 2),
        ({}, 0),
    ],
)
def test_when_it_was_measured(effective, at_ns):
    assert read(observation(**{"effectiveDateTime": None, **effective})).vitals[0].at_ns == at_ns


@pytest.mark.parametrize(
    ("device", "source"),
    [
        ({"reference": "Device/42"}, "gw-42"),
        ({"display": "Bed7"}, "gw-Bed7"),
        ({"reference": "#d"}, "gw-SN1"),
        ({"reference": "Device/42/_history/7"}, "gw-42"),
        (None, "gw"),
    ],
)
def test_where_it_was_measured(device, source):
    contained = [{"resourceType": "Device", "id": "d", "serialNumber": "SN1"}]
    assert read(observation(device=device, contained=contained)).source_id == source


@pytest.mark.parametrize(
    ("change", "expression"),
    [
        ({"status": "done"}, "Observation.status"),
        ({"status": None}, "Observation.status"),
        ({"code": None}, "Observation.code"),
        ({"code": {"coding": "59408-5"}}, "Observation.code"),
        ({"effectiveDateTime": "yesterday"}, "Observation.effective[x]"),
        ({"effectiveDateTime": 5}, "Observation.effective[x]"),
        ({"effectiveDateTime": "2026"}, "Observation.effective[x]"),
        ({"effectiveDateTime": "2026-02-30T12:00:00Z"}, "Observation.effective[x]"),
        ({"modifierExtension": [{"url": "urn:x", "valueBoolean": True}]}, "Observation.modifierExtension"),
        ({"component": [{"modifierExtension": [{}]}]}, "Observation.component.modifierExtension"),
        ({"implicitRules": "urn:x"}, "Observation.implicitRules"),
        ({"valueQuantity": None, "valueRatio": {}}, "Observation.valueRatio"),
        ({"device": {"reference": "#nobody"}}, "Observation.device"),
        ({"device": {"reference": "urn:uuid:0b1f4b5e-9d6c-4a43-9a4b-4a5a5d1f7c11"}}, "Observation.device"),
        ({"valueQuantity": quantity("97", "%")}, "Observation.valueQuantity.value"),  # type: ignore[arg-type]
        ({"valueQuantity": quantity(True, "%")}, "Observation.valueQuantity.value"),
        ({"component": [{}] * 101}, "Observation.component"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change, expression):
    with pytest.raises(FhirError) as refused:
        read(observation(**change))
    assert refused.value.expression == expression


def test_a_result_of_another_day_is_none_of_now():
    # No time of sending is told: to learn a clock from these would make them so.
    for text in ("2024-05-01", "2024-05-01T12:00:00Z"):
        found = read(observation(effectiveDateTime=text, issued="2024-05-01T12:00:01Z"))
        assert (found.clock, found.sent_ns) == ("site", 0)
        assert found.vitals[0].at_ns < NOW - 300 * 24 * 3600 * S
    today = read(observation(effectiveDateTime="2026-03-01")).vitals[0].at_ns
    assert dt.datetime.fromtimestamp(today / S).astimezone().time() == dt.time(0, 0)


def test_another_version_of_a_patient_is_no_other_patient():
    found = [read(observation(subject={"reference": text})).patient for text in ("Patient/1", "Patient/1/_history/2")]
    assert found[0] == found[1] != ""
    patient = {"resourceType": "Patient", "id": "p", "identifier": [{"system": "urn:hosp", "value": "4711"}]}
    contained = read(observation(subject={"reference": "#p"}, contained=[patient]))
    assert contained.patient == read(observation()).patient


@pytest.mark.parametrize("damage", [[], "x", 5, None, {"coding": 3}, {"value": {}}, [[]], True, -1e308])
def test_no_content_in_any_element_breaks_it(damage):
    for resource in (observation(), pressure()):
        for name in list(resource):
            with contextlib.suppress(FhirError):
                read({**resource, name: damage})
        for name in (
            "subject",
            "device",
            "contained",
            "component",
            "dataAbsentReason",
            "valueCodeableConcept",
            "issued",
        ):
            with contextlib.suppress(FhirError):
                read({**resource, name: [damage]})


# ---------------------------------------- the running gateway, and a monitor that is this test's


@dataclass
class Monitor:
    """What the gateway hands over, and what it is told."""

    bus: Bus
    taken: list[Numerics] = field(default_factory=list)
    answer: Callable[[Numerics], Message] = lambda _: Ok()

    async def take(self, numerics: Numerics) -> Message:
        answer = self.answer(numerics)
        if isinstance(answer, Ok):
            self.taken.append(numerics)
        return answer


@dataclass
class Doors:
    site: TestSite
    console: Bus

    @contextlib.asynccontextmanager
    async def monitor(self) -> AsyncIterator[Monitor]:
        bus = await self.site.bus("monitor")
        monitor = Monitor(bus)
        await bus.serve(subjects.MONITOR_NUMERICS, Numerics, monitor.take, subjects.MONITORS)
        await bus.flush()
        try:
            yield monitor
        finally:
            await bus.close()

    def web(self, name: str = "emr1", kind: str = "emr") -> httpx.AsyncClient:
        base = f"https://127.0.0.1:{self.site.settings.web.port}/fhir"
        return httpx.AsyncClient(base_url=base, verify=tls_of(self.site.enrol(name, kind)), trust_env=False, timeout=20)

    @contextlib.asynccontextmanager
    async def hl7(self, name: str = "gw") -> AsyncIterator[Client]:
        folder = self.site.enrol(name, "monitor")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.site.settings.mllp.port, ssl=tls_of(folder))
        try:
            yield Client(reader, writer)
        finally:
            writer.close()


@pytest.fixture
async def doors(bus_site: TestSite) -> AsyncIterator[Doors]:
    async with gateway(bus_site) as console:
        yield Doors(bus_site, console)


def bundle(*resources: dict[str, Any], kind: str = "transaction") -> dict[str, Any]:
    entries = [{"resource": one, "request": {"method": "POST", "url": one["resourceType"]}} for one in resources]
    return {"resourceType": "Bundle", "type": kind, "timestamp": "2026-03-01T12:00:02Z", "entry": entries}


async def test_an_observation_is_created_once_the_monitor_has_it(doors):
    async with doors.monitor() as monitor, doors.web() as web:
        answer = await web.post("/Observation", json=observation())
        assert answer.status_code == 201
        assert answer.headers["location"].startswith("/fhir/Observation/")
        assert "Muster" not in answer.text
        assert [(one.source_id, one.device_id) for one in monitor.taken] == [("emr1-MON7", "emr1")]
        assert monitor.taken[0].patient
        assert (await web.post("/Observation", json=observation())).status_code == 200, "sent again"
        assert len(monitor.taken) == 1
        assert (await web.post("/Observation", json=observation(value=96))).status_code == 201
        assert (await web.get("/metadata")).json()["rest"][0]["resource"][1]["type"] == "Observation"


async def test_a_condition_or_an_identifier_tells_what_was_taken(doors):
    async with doors.monitor() as monitor, doors.web() as web:
        head = {"If-None-Exist": "identifier=urn:x|1"}
        first = await web.post("/Observation", json=observation(), headers=head)
        second = await web.post("/Observation", json=observation(value=50), headers=head)
        assert (first.status_code, second.status_code, len(monitor.taken)) == (201, 200, 1)
        named = {"identifier": [{"system": "urn:x", "value": "2"}]}
        first = await web.post("/Observation", json=observation(**named))
        corrected = await web.post("/Observation", json=observation(value=92, status="corrected", **named))
        assert corrected.headers["location"] == first.headers["location"]
        assert (corrected.status_code, len(monitor.taken)) == (201, 3), "a correction is told"


async def test_what_does_not_say_when_it_was_is_a_measurement_each_time(doors):
    async with doors.monitor() as monitor, doors.web() as web:
        timeless = observation(effectiveDateTime=None)
        for _ in range(2):
            assert (await web.post("/Observation", json=timeless)).status_code == 201
            assert (await web.post("", json=bundle(timeless))).status_code == 200
        assert len(monitor.taken) == 4, "or a steady value would go stale while it is sent"


async def test_what_nobody_monitors_is_not_said_to_be_taken(doors):
    async with doors.monitor() as monitor, doors.web() as web:
        answer = await web.post("/Observation", json=observation("718-7", 14, "g/dL"))
        assert (answer.status_code, "nothing of it is used" in answer.text) == (201, True)
        (entry,) = (await web.post("", json=bundle(observation("718-7", 14, "g/dL")))).json()["entry"]
        assert "nothing of it is used" in json.dumps(entry["response"]["outcome"])
        assert monitor.taken == []


async def test_without_a_monitor_nothing_is_accepted_and_nothing_forgotten(doors):
    async with doors.web() as web, doors.hl7() as client:
        answer = await web.post("/Observation", json=observation())
        assert (answer.status_code, answer.json()["issue"][0]["code"]) == (503, "transient")
        ack = await client.ask(oru(obx("spo2", 97), acks="|"))
        assert (ack.code, "send it again" in ack.text) == ("AE", True)
        async with doors.monitor() as monitor:
            assert (await web.post("/Observation", json=observation())).status_code == 201
            assert (await client.ask(oru(obx("spo2", 97), acks="|"))).code == "AA"
            assert len(monitor.taken) == 2


async def test_a_refusal_of_the_monitor_reaches_the_sender(doors):
    async with doors.monitor() as monitor, doors.web() as web, doors.hl7() as client:
        monitor.answer = lambda _: Refused(reason="it is full")
        assert (await web.post("/Observation", json=observation())).status_code == 503
        ack = await client.ask(oru(obx("spo2", 97), acks="|"))
        assert (ack.code, "it is full" in ack.text) == ("AE", True)
        ack = await client.ask(oru(obx("spo2", 97)))
        assert ack.code == "CE", "in enhanced mode"


async def test_a_bundle_is_one_hand_over_per_place(doors):
    async with doors.monitor() as monitor, doors.web() as web:
        other = observation("8867-4", 80, "/min", device={"display": "MON8"}, subject={"reference": "Patient/9"})
        patient = {"resourceType": "Patient", "id": "9"}
        answer = await web.post("", json=bundle(observation(), pressure(), patient, other))
        assert [entry["response"]["status"] for entry in answer.json()["entry"]] == ["201 Created"] * 2 + [
            "200 OK",
            "201 Created",
        ]
        assert {(one.source_id, len(one.vitals)) for one in monitor.taken} == {("emr1-MON7", 3), ("emr1-MON8", 1)}
        assert (await web.post("/", json=bundle(observation(), pressure(), patient, other))).status_code == 200
        assert len(monitor.taken) == 2


@pytest.mark.parametrize("kind", ["transaction", "batch"])
async def test_names_that_hold_for_one_bundle_are_no_names(doors, kind):
    patient = {"resourceType": "Patient", "identifier": [{"system": "urn:hosp", "value": "4711"}]}
    device = {"resourceType": "Device", "deviceName": [{"name": "Bed 7", "type": "user-friendly-name"}]}
    async with doors.monitor() as monitor, doors.web() as web:
        for value in (96, 97):
            names = f"urn:uuid:{uuid.uuid4()}", f"urn:uuid:{uuid.uuid4()}"
            sent = observation(value=value, subject={"reference": names[0]}, device={"reference": names[1]})
            whole = bundle(patient, device, sent, kind=kind)
            for row, name in zip(whole["entry"], names, strict=False):
                row["fullUrl"] = name
            assert (await web.post("", json=whole)).status_code == 200
        single = observation(value=98, subject={"identifier": {"system": "urn:hosp", "value": "4711"}})
        assert (await web.post("/Observation", json=single)).status_code == 201
        assert len({one.patient for one in monitor.taken}) == 1, "one patient, not three"
        assert [one.source_id for one in monitor.taken[:2]] == [monitor.taken[0].source_id] * 2, "and one bed"
        assert monitor.taken[0].label == "Bed 7"


async def test_of_a_transaction_all_or_nothing_of_a_batch_each(doors):
    async with doors.monitor() as monitor, doors.web() as web:
        wrong = observation(status="done")
        answer = await web.post("", json=bundle(observation(), wrong))
        assert (answer.status_code, monitor.taken) == (422, [])
        assert answer.json()["issue"][0]["expression"] == ["Bundle.entry[1].resource.ofType(Observation).status"]
        answer = await web.post("", json=bundle(observation(), wrong, kind="batch"))
        statuses = [entry["response"]["status"] for entry in answer.json()["entry"]]
        assert (answer.json()["type"], statuses, len(monitor.taken)) == ("batch-response", ["201 Created", "422"], 1)


async def test_two_patients_at_one_place_are_refused(doors):
    async with doors.monitor() as monitor, doors.web() as web:
        answer = await web.post("", json=bundle(observation(), observation(subject={"reference": "Patient/9"})))
        assert (answer.status_code, monitor.taken) == (422, [])


async def test_what_is_no_observation_is_refused_without_quoting_it(doors):
    whole = json.dumps(observation())
    wrong = [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"resourceType": "Patient"}', 400),
        (whole[:-20].encode(), 400),
        (b'{"resourceType": "Observation", "a":' + b"[" * 100_000, 400),
        (whole.replace("97", "NaN").encode(), 400),
        (whole.replace("97", "1e999").encode(), 422),
        (whole.replace("97", "9" * 400).encode(), 422),
        (whole.replace("97", '"97"').encode(), 422),
    ]
    async with doors.monitor() as monitor, doors.web() as web:
        for content, status in wrong:
            answer = await web.post("/Observation", content=content, headers={"Content-Type": "application/fhir+json"})
            assert (answer.status_code, answer.json()["resourceType"]) == (status, "OperationOutcome")
            assert "Muster" not in answer.text
        with contextlib.suppress(httpx.TransportError):  # it may be cut before all is sent
            too_much = b"x" * (4 * 1024 * 1024 + 1)
            assert (await web.post("/Observation", content=too_much)).status_code == 413
        assert monitor.taken == []


async def test_who_may_send_what(doors):
    async with doors.monitor() as monitor, doors.web("mon", "monitor") as web, doors.web("us", "wearable") as wearable:
        assert (await web.post("/Observation", json=observation())).status_code == 201
        assert (await wearable.post("", json=bundle(observation()))).status_code == 200
        order = {"resourceType": "ServiceRequest", "status": "active", "intent": "order"}
        assert (await web.post("", json=bundle(order))).status_code == 403
        assert (await web.post("/ServiceRequest", json=order)).status_code == 403
        assert len(monitor.taken) == 2
    async with doors.web("v", "viewer") as web:
        assert (await web.post("/Observation", json=observation())).status_code == 403


async def test_hl7_numerics_go_through_the_door_and_a_repeated_message_once(doors):
    async with doors.monitor() as monitor, doors.hl7() as client:
        two = oru(pid("1"), pv1("ICU^1^1"), obr(), obx("hr", 61), pid("2"), pv1("ICU^1^2"), obr(), obx("hr", 62))
        for _ in range(2):
            ack = await client.ask(two)
            assert (ack.code, ack.control_id) == ("CA", "1")
        assert sorted(one.source_id for one in monitor.taken) == ["gw-ICU-1-1", "gw-ICU-1-2"]
        assert len({one.patient for one in monitor.taken}) == 2
        assert all(len(one.patient) == 32 for one in monitor.taken)
        # A monitor that starts anew counts its messages from 1 again.
        assert (await client.ask(two.replace("|61|", "|71|"))).code == "CA"
        assert len(monitor.taken) == 4
        assert (await client.ask(oru(obx("x", 1, code="1^STRANGE^99X")))).code == "CA", "a code that is not ours"
        assert (await client.ask(oru(pid(), pv1()))).code == "CE"
        assert (await client.ask(two.replace("ORU^R01^ORU_R01", "ORU^R40^ORU_R40"))).code == "CR"
        assert len(monitor.taken) == 4


async def test_hl7_waveforms_come_out_on_the_bus_as_a_wearables_packets_do(doors):
    lead = "131330^MDC_ECG_ELEC_POTL_II^MDC"
    array = obx(
        "w", "^".join(["0.1"] * 250), kind="NA", code=lead, sub="1.7.6.2", unit="mV", at="20260301120000.000+0000"
    )
    rate = obx("a", 250, code="0^MDC_ATTR_SAMP_RATE^MDC", sub="1.7.6.2.1", unit="264608^MDC_DIM_PER_SEC^MDC")
    packets: list[tuple[str, bytes]] = []
    async with doors.monitor() as monitor, doors.hl7() as client:
        await monitor.bus.subscribe_raw(subjects.WAVE_ALL, lambda subject, data: packets.append((subject, data)))
        await monitor.bus.flush()
        assert (
            await client.ask(oru(array, rate, obx("hr", 61)).replace("ORU^R01^ORU_R01", "ORU^W01^ORU_W01"))
        ).code == "CA"
        async with asyncio.timeout(10):
            while not packets:
                await asyncio.sleep(0.01)
        assert [(one.source_id, one.device_id, len(one.vitals)) for one in monitor.taken] == [("gw-ICU-1-2", "gw", 1)]
        refused = await client.ask(oru(array, obx("hr", 62)))
        assert (refused.code, "no sampling rate" in refused.text) == ("CE", True)
        assert monitor.taken[-1].vitals[0].value == 62, "the numerics of it were taken"
    ((subject, data),) = packets
    assert subject == subjects.wave("gw-ICU-1-2")
    assert waveform.read(data).ecg.leads == ("II",)
