"""Orders by FHIR R4: what a ServiceRequest says is what the worklist shows; what cannot be used is told, not quoted."""

from __future__ import annotations

import contextlib
import copy
import json
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.operationoutcome import OperationOutcome
from fhir.resources.R4B.servicerequest import ServiceRequest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.door import tls_of
from tests.support.site import TestSite, new_home

from edgeward.gateway import fhir_routes
from edgeward.gateway.fhir_elements import DCM, FhirError
from edgeward.gateway.fhir_orders import changes_of, order_of
from edgeward.gateway.orders import OrderBook
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.web import WebDoor
from edgeward.messages import OrdersQuery
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.registry import Registry

V2 = "http://terminology.hl7.org/CodeSystem/v2-0203"
PATIENT = {
    "resourceType": "Patient",
    "id": "pat1",
    "identifier": [
        {"system": "urn:ins", "value": "INS-1"},
        {"type": {"coding": [{"system": V2, "code": "MR"}]}, "system": "urn:hosp", "value": "4711"},
    ],
    "name": [
        {"use": "nickname", "text": "Eri"},
        {"use": "official", "family": "Muster", "given": ["Erika", "Maria"], "prefix": ["Dr"]},
    ],
    "gender": "female",
    "birthDate": "1964-08-12",
}


def order(**changes):
    resource = {
        "resourceType": "ServiceRequest",
        "identifier": [
            {"type": {"coding": [{"system": V2, "code": "PLAC"}]}, "value": "P1"},
            {"type": {"coding": [{"system": V2, "code": "ACSN"}]}, "value": "A1"},
            {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3.4"},
        ],
        "status": "active",
        "intent": "order",
        "priority": "asap",
        "code": {
            "coding": [
                {"system": "http://snomed.info/sct", "code": "1571000087109", "display": "Ultrasound of breast"}
            ],
            "text": "Breast ultrasound left",
        },
        "orderDetail": [{"coding": [{"system": DCM, "code": "US"}]}],
        "subject": {"reference": "#pat1"},
        "occurrenceDateTime": "2026-03-02T08:30:00+00:00",
        "requester": {"display": "Surgeon, Sam"},
        "reasonCode": [{"text": "Lump left"}],
        "contained": [copy.deepcopy(PATIENT)],
    }
    for name, value in changes.items():
        if value is None:
            resource.pop(name, None)
        else:
            resource[name] = value
    return resource


def bundle(*resources, kind="transaction", method="POST"):
    entries = []
    for number, resource in enumerate(resources):
        name = resource["resourceType"]
        url = f"{name}/{resource['id']}" if method == "PUT" else name
        entries.append(
            {"fullUrl": f"urn:uuid:{number}", "resource": resource, "request": {"method": method, "url": url}}
        )
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


class Door:
    def __init__(self, site, book, quarantine, web):
        self.site, self.book, self.quarantine, self.web = site, book, quarantine, web

    def client(self, name="his", kind="emr"):
        folder = self.site.home.root / "devices" / name
        if not folder.exists():
            self.site.enrol(name, kind, "CT1" if kind == "ct" else "")
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.web.port}", verify=tls_of(folder), timeout=30, trust_env=False
        )

    def orders(self):
        return self.book.query(OrdersQuery(limit=1000)).orders

    def reasons(self):
        return " ".join(entry.reason for entry in self.quarantine.entries())


@asynccontextmanager
async def opened(path: Path):
    home, settings = new_home(path)
    key = SiteKey.load(home)
    journal, book = Journal(home.db("journal"), key), OrderBook(home.db("orders"), key)
    quarantine = Quarantine(journal)
    web = WebDoor(
        home, settings, registry=Registry(home), quarantine=quarantine, routes=fhir_routes.routes(book, quarantine)
    )
    await web.open()
    try:
        yield Door(TestSite(home, settings), book, quarantine, web)
    finally:
        await web.close()
        book.close()
        journal.close()


async def test_a_service_request_becomes_an_order_and_can_be_read(tmp_path):
    async with opened(tmp_path) as door, door.client() as client:
        made = await client.post("/fhir/ServiceRequest", json=order())

        assert made.status_code == 201
        assert made.headers["content-type"].startswith("application/fhir+json")
        [kept] = door.orders()
        assert (kept.order_id, kept.accession_number, kept.study_instance_uid) == ("P1", "A1", "1.2.3.4")
        assert (kept.patient_id, kept.patient_name) == ("4711", "Muster^Erika^Maria^Dr")
        assert (kept.birth_date, kept.sex, kept.modality, kept.priority) == ("19640812", "F", "US", "urgent")
        assert (kept.procedure, kept.procedure_code) == ("Breast ultrasound left", "1571000087109")
        assert (kept.referring_physician, kept.source, kept.status) == ("Surgeon^Sam", "his", "scheduled")
        read = await client.get(made.headers["location"])
        assert read.status_code == 200
        assert read.json() == made.json()
        resource = ServiceRequest.model_validate(read.json())
        assert resource.status == "active"
        assert (await client.get("/fhir/ServiceRequest/nobody")).status_code == 404


async def test_the_same_order_again_is_the_same_resource_also_from_hl7(tmp_path):
    from tests.gateway.hl7_door import orm

    from edgeward.gateway.hl7_orders import Hl7Orders
    from edgeward.hl7 import er7

    async with opened(tmp_path) as door, door.client() as client:
        first = await client.post("/fhir/ServiceRequest", json=order())
        again = await client.post("/fhir/ServiceRequest", json=order())
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]

        assert Hl7Orders(door.book).take(er7.parse(orm("CA", at="20990101000000")), "his", 4 * 10**18).outcome == "AA"
        assert (await client.get(first.headers["location"])).json()["status"] == "revoked"


async def test_an_order_follows_its_status(tmp_path):
    async with opened(tmp_path) as door, door.client() as client:
        for status, kept in (
            ("active", "scheduled"), ("on-hold", "cancelled"), ("active", "scheduled"), ("revoked", "cancelled"),
            ("active", "scheduled"), ("completed", "completed"), ("active", "completed"),
        ):  # fmt: skip
            answer = await client.put("/fhir/ServiceRequest/my-id", json=order(id="my-id", status=status))
            assert answer.status_code in (200, 201)
            assert door.orders()[0].status == kept
        assert len(door.orders()) == 1
        assert (await client.get("/fhir/ServiceRequest/my-id")).status_code == 200


async def test_an_older_version_changes_nothing(tmp_path):
    async with opened(tmp_path) as door, door.client() as client:
        new = order(meta={"lastUpdated": "2026-03-01T12:00:00Z"}, occurrenceDateTime="2026-03-05T10:00:00Z")
        old = order(meta={"lastUpdated": "2026-03-01T11:00:00Z"}, status="revoked")
        await client.post("/fhir/ServiceRequest", json=new)
        assert (await client.post("/fhir/ServiceRequest", json=old)).status_code == 200

        assert door.orders()[0].status == "scheduled"


@pytest.mark.parametrize("where", ["/fhir", "/fhir/"])
@pytest.mark.parametrize("kind", ["transaction", "collection", "batch"])
async def test_a_bundle_brings_orders_and_their_patient(tmp_path, where, kind):
    async with opened(tmp_path) as door, door.client() as client:
        patient = {**PATIENT, "id": "p"}
        one = order(contained=None, subject={"reference": "urn:uuid:0"})
        two = order(contained=None, subject={"reference": "Patient/p"}, identifier=[{"value": "P2"}])
        device = {"resourceType": "Device", "identifier": [{"value": "US7"}]}
        two["performer"] = [{"reference": "urn:uuid:3"}]

        answer = await client.post(where, json=bundle(patient, one, two, device, kind=kind))

        assert answer.status_code == 200
        Bundle.model_validate(answer.json())
        states = [entry["response"]["status"] for entry in answer.json()["entry"]]
        assert states == ["200 OK", "201 Created", "201 Created", "200 OK"]
        assert {o.patient_id for o in door.orders()} == {"4711"}
        assert {o.order_id: o.station_ae_title for o in door.orders()} == {"P1": "", "P2": "US7"}
        location = answer.json()["entry"][2]["response"]["location"]
        assert (await client.get(f"/fhir/{location}")).status_code == 200


async def test_of_a_bundle_all_is_kept_or_nothing(tmp_path):
    async with opened(tmp_path) as door, door.client() as client:
        bad = order(identifier=[{"value": "P2"}], subject={"reference": "#nobody"})

        answer = await client.post("/fhir", json=bundle(order(), bad))

        assert answer.status_code == 422
        assert "Bundle.entry[1]" in answer.json()["issue"][0]["expression"][0]
        assert door.orders() == []


async def test_a_bundle_may_put_under_ids_of_its_own(tmp_path):
    async with opened(tmp_path) as door, door.client() as client:
        answer = await client.post("/fhir", json=bundle(order(id="abc"), method="PUT"))
        assert answer.json()["entry"][0]["response"]["location"] == "ServiceRequest/abc"
        wrong = bundle(order(id="abc"), method="PUT")
        wrong["entry"][0]["request"]["url"] = "ServiceRequest/xyz"
        assert (await client.post("/fhir", json=wrong)).status_code == 422
        assert len(door.orders()) == 1


@pytest.mark.parametrize(
    ("resource", "status", "expression"),
    [
        (order(status="draft"), 422, "ServiceRequest.status"),
        (order(status=None), 422, "ServiceRequest.status"),
        (order(intent="plan"), 422, "ServiceRequest.intent"),
        (order(subject=None), 422, "ServiceRequest.subject"),
        (order(subject={"reference": "Patient/elsewhere"}), 422, "ServiceRequest.subject"),
        (order(contained=[{"resourceType": "Group", "id": "pat1"}]), 422, "ServiceRequest.subject"),
        (order(identifier=None), 422, "ServiceRequest.identifier"),
        (order(identifier=[{"type": {"coding": [{"code": "ACSN"}]}, "value": "A" * 17}]), 422, "ServiceRequest.identifier"),
        (order(identifier=[{"value": "P1"}, {"system": "urn:dicom:uid", "value": "urn:oid:x"}]), 422, "ServiceRequest.identifier"),
        (order(occurrenceDateTime="tomorrow"), 422, "ServiceRequest.occurrence[x]"),
        (order(resourceType="Patient"), 400, None),
        ([], 400, None),
        ("Muster", 400, None),
    ],
)  # fmt: skip
async def test_what_cannot_be_used_is_told_with_its_place(tmp_path, resource, status, expression):
    async with opened(tmp_path) as door, door.client() as client:
        answer = await client.post("/fhir/ServiceRequest", json=resource)

        assert answer.status_code == status
        told = OperationOutcome.model_validate(answer.json())
        assert told.issue[0].severity == "error"
        assert (told.issue[0].expression or [None])[0] == expression
        for secret in ("Muster", "Erika", "4711", "1964"):
            assert secret not in answer.text + door.reasons()
        assert door.reasons()
        assert door.orders() == []


UNKNOWN = [{"url": "urn:not-known", "valueBoolean": True}]


@pytest.mark.parametrize(
    ("resource", "expression"),
    [
        (order(doNotPerform=True), "ServiceRequest.doNotPerform"),
        (order(doNotPerform="true"), "ServiceRequest.doNotPerform"),
        (order(modifierExtension=UNKNOWN), "ServiceRequest.modifierExtension"),
        (order(implicitRules="urn:rules"), "ServiceRequest.implicitRules"),
        (order(contained=[PATIENT | {"modifierExtension": UNKNOWN}]), "Patient.modifierExtension"),
        (order(contained=[PATIENT | {"active": False}]), "Patient.active"),
        (order(contained=[PATIENT | {"link": [{"other": {}, "type": "replaced-by"}]}]), "Patient.link"),
        (order(replaces=[{"reference": "ServiceRequest/1"}]), "ServiceRequest.replaces"),
    ],
)
async def test_what_says_that_it_means_something_else_is_refused(tmp_path, resource, expression):
    async with opened(tmp_path) as door, door.client() as client:
        answer = await client.post("/fhir/ServiceRequest", json=resource)

        assert answer.status_code == 422
        assert OperationOutcome.model_validate(answer.json()).issue[0].expression == [expression]
        assert door.orders() == [], "nobody is examined because of it"


async def test_a_patient_of_a_bundle_that_is_not_understood_or_not_in_use_is_refused(tmp_path):
    asked = order(contained=None, subject={"reference": "Patient/pat1"})
    async with opened(tmp_path) as door, door.client() as client:
        for told in ({"active": False}, {"modifierExtension": UNKNOWN}):
            assert (await client.post("/fhir", json=bundle(PATIENT | told, asked))).status_code == 422
        entry = bundle(PATIENT, asked)
        entry["entry"][1]["modifierExtension"] = UNKNOWN
        assert (await client.post("/fhir", json=entry)).status_code == 422
        assert door.orders() == []
        harmless = {"active": True, "link": [{"other": {}, "type": "seealso"}]}
        assert (await client.post("/fhir", json=bundle(PATIENT | harmless, asked))).status_code == 200


async def test_an_order_can_be_revoked_when_its_patient_was_replaced(tmp_path):
    async with opened(tmp_path) as door, door.client() as client:
        await client.post("/fhir/ServiceRequest", json=order())
        gone = order(status="revoked", replaces=[{"reference": "ServiceRequest/1"}])
        gone["contained"][0] |= {"active": False, "link": [{"other": {}, "type": "replaced-by"}]}

        assert (await client.post("/fhir/ServiceRequest", json=gone)).status_code == 200
        assert door.orders()[0].status == "cancelled"


async def test_what_is_no_json_or_no_fhir_or_too_much_is_refused(tmp_path):
    async with opened(tmp_path) as door, door.client() as client:
        json_type = {"Content-Type": "application/fhir+json"}
        assert (await client.post("/fhir", content=b"{", headers=json_type)).status_code == 400
        assert (await client.post("/fhir", content=b"[" * 100_000, headers=json_type)).status_code == 400
        assert (await client.post("/fhir", content=b"\xff\xfe", headers=json_type)).status_code == 400
        xml = {"Content-Type": "application/fhir+xml"}
        assert (await client.post("/fhir", content=b"<Bundle/>", headers=xml)).status_code == 415
        with contextlib.suppress(
            httpx.TransportError
        ):  # the door hangs up in the middle: the client may see that first
            assert (await client.post("/fhir", content=b" " * (5 << 20), headers=json_type)).status_code == 413
        assert (await client.post("/fhir", json=bundle(kind="history"))).status_code == 422
        assert (await client.post("/fhir", json=bundle())).status_code == 422
        assert (await client.post("/fhir", json=bundle(*[order()] * 501))).status_code == 413
        assert (await client.put("/fhir/ServiceRequest/a", json=order(id="b"))).status_code == 400
        assert (await client.delete("/fhir/ServiceRequest/a")).status_code == 405
        for broken in (b'{"status": "revoked", "resourceType"', b'{"note": [{"text": "\\ud800"}], "resourceType"'):
            text = json.dumps(order()).encode().replace(b'{"resourceType"', broken, 1)
            answer = await client.post("/fhir/ServiceRequest", content=text, headers=json_type)
            assert answer.status_code == 400, "an element twice, half a character"
        packed = await client.post("/fhir/ServiceRequest", json=order(), headers={"Content-Encoding": "gzip"})
        assert packed.status_code == 415
        OperationOutcome.model_validate(packed.json())
        assert (await client.get("/fhir/ServiceRequest/" + "a" * 5000)).status_code == 404
        assert door.orders() == []


async def test_a_subject_that_may_be_either_of_two_patients_is_refused(tmp_path):
    other = copy.deepcopy(PATIENT) | {"identifier": [{"value": "OTHER"}]}
    by_id = order(contained=None, subject={"reference": "Patient/pat1"})
    by_url = bundle(PATIENT, other, order(contained=None, subject={"reference": "urn:uuid:0"}))
    by_url["entry"][1]["fullUrl"] = by_url["entry"][0]["fullUrl"] = "urn:uuid:0"
    async with opened(tmp_path) as door, door.client() as client:
        for path, body in (
            ("/fhir/ServiceRequest", order(contained=[PATIENT, other])),
            ("/fhir", bundle(PATIENT, other, by_id)),
            ("/fhir", by_url),
        ):
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()["issue"][0]["code"]) == (422, "duplicate")
            assert door.orders() == []

        assert (await client.post("/fhir", json=bundle(PATIENT, PATIENT, by_id))).status_code == 200


async def test_another_patient_under_the_same_number_is_a_conflict(tmp_path):
    async with opened(tmp_path) as door, door.client() as client:
        await client.post("/fhir/ServiceRequest", json=order())
        other = order()
        other["contained"][0]["identifier"] = [{"value": "OTHER"}]

        assert (await client.post("/fhir/ServiceRequest", json=other)).status_code == 409
        assert door.orders()[0].patient_id == "4711"


async def test_only_systems_that_place_orders_may_and_capabilities_are_told(tmp_path):
    async with opened(tmp_path) as door:
        async with door.client("ct1", "ct") as device:
            assert (await device.post("/fhir/ServiceRequest", json=order())).status_code == 403
            assert (await device.get("/fhir/ServiceRequest/x")).status_code == 403
        async with door.client() as client:
            told = await client.get("/fhir/metadata")
            CapabilityStatement.model_validate(told.json())
            assert told.json()["fhirVersion"] == "4.0.1"
        assert door.orders() == []


async def test_a_disk_that_fails_is_a_reason_to_send_again(tmp_path, monkeypatch):
    from edgeward.privacy.database import DatabaseFull

    async with opened(tmp_path) as door, door.client() as client:

        def full(*_):
            raise DatabaseFull("full")

        with monkeypatch.context() as patched:
            patched.setattr(door.book, "apply", full)
            assert (await client.post("/fhir/ServiceRequest", json=order())).status_code == 503
        assert (await client.post("/fhir/ServiceRequest", json=order())).status_code == 201


# ---------------------------------------- reading, without a door


def read(resource):
    return order_of(resource, {}, source="his", received_ns=1).entry


def test_the_system_of_an_order_number_says_whose_it_is():
    numbers = [{"system": system, "value": "7"} for system in ("urn:oid:1.2.3", "http://icu.example/orders", "")]

    placers = [read(order(identifier=[{k: v for k, v in number.items() if v}])).placer for number in numbers]

    assert [placer.universal_id for placer in placers] == ["1.2.3", "http://icu.example/orders", ""]
    assert placers[0].agrees(placers[1]) is False
    assert placers[0].agrees(placers[2]) is None
    told = [fhir_routes.service_request(read(order(identifier=[numbers[0]])))["identifier"][0]]
    assert told[0]["system"] == "urn:oid:1.2.3"


def test_numbers_that_are_not_in_use_any_more_are_passed_over():
    medical = {"type": {"coding": [{"system": V2, "code": "MR"}]}}
    patient = PATIENT | {
        "identifier": [
            medical | {"use": "old", "value": "OLD"},
            medical | {"use": "temp", "value": "TEMP"},
            {"use": "official", "value": "4711"},
        ],
        "name": [{"use": "old", "family": "Formerly"}, {"family": "Muster"}],
    }
    numbers = [{"use": "old", "value": "P0"}, {"use": "secondary", "value": "P2"}, {"use": "usual", "value": "P1"}]

    entry = read(order(contained=[patient], identifier=numbers))

    assert (entry.order.patient_id, entry.order.patient_name, entry.order.order_id) == ("4711", "Muster", "P1")
    only = PATIENT | {"identifier": [{"use": "temp", "value": "TEMP"}]}
    assert read(order(contained=[only])).order.patient_id == "TEMP", "better than nobody"
    for changes in (
        {"contained": [PATIENT | {"identifier": [{"use": "old", "value": "OLD"}]}]},
        {"identifier": [{"use": "old", "value": "P0"}]},
    ):
        with pytest.raises(FhirError):
            read(order(**changes))


def test_a_patient_may_be_no_more_than_an_identifier_and_a_name():
    entry = read(order(contained=None, subject={"identifier": {"value": "77"}, "display": "Muster, Erika"}))

    assert (entry.order.patient_id, entry.order.patient_name) == ("77", "Muster^Erika")


@pytest.mark.parametrize(
    ("time", "expected"),
    [({"occurrenceDateTime": "2026-03-02"}, "20260302000000"),
     ({"occurrencePeriod": {"start": "2026-03-02T10:00:00"}}, "20260302100000"),
     ({"occurrenceTiming": {"event": ["2026-03-02T11:00"]}}, "20260302110000"),
     ({"occurrenceDateTime": "2026-03"}, "20260301000000"), ({"occurrenceDateTime": "2026"}, "20260101000000"),
     ({}, "")],
)  # fmt: skip
def test_the_time_may_be_given_in_several_ways(time, expected):
    assert read(order(**{"occurrenceDateTime": None, **time})).order.scheduled == expected


def _mutated(value, path, junk):
    if not path or not isinstance(value, dict | list) or not value:
        return junk
    value = copy.copy(value)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    value[key] = _mutated(value[key], path[1:], junk)
    return value


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=6),
    st.sampled_from([None, "", 0, -1.5, True, [], {}, [[]], [None], {"a": 1}, "x" * 300, "\x00", [{}], {"coding": "x"}, {"reference": []}]),
)  # fmt: skip
def test_no_resource_does_more_than_be_read_or_refused(path, junk):
    whole = bundle(PATIENT, order(contained=None, subject={"reference": "urn:uuid:0"}), order())
    changed = _mutated(whole, path, junk)
    if not isinstance(changed, dict):
        return
    told = ""
    try:
        for _, change in changes_of(changed, source="his", received_ns=1):
            json.dumps(fhir_routes.service_request(change.entry))
    except FhirError as error:
        told = str(error)
    assert "Muster" not in told
