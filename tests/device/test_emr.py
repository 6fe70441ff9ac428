"""A simulated EMR orders, cancels what lies too long, acknowledges results, and shows what it has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys

import hl7apy.parser
import httpx
import pytest
from starlette.testclient import TestClient
from tests.gateway.hl7_door import open_door

from edgeward.device.emr import invented
from edgeward.device.emr_results import Record, application
from edgeward.hl7.frames import frame
from edgeward.messages import OrdersQuery


@contextlib.asynccontextmanager
async def running(*arguments):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgeward.device.emr", "--mllp-port", "0", "--http-port", "0", *map(str, arguments),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            yield json.loads(await process.stdout.readline())
    finally:
        process.terminate()
        _, err = await process.communicate()
        assert process.returncode == 0, err


async def until(condition, seconds=30):
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(0.05)
    return found


async def test_it_keeps_the_worklist_filled_and_cancels_the_oldest(tmp_path):
    async with open_door(tmp_path / "home") as door:
        door.site.settings.mllp.port = door.mllp.ports["tls"]
        folder = door.site.enrol("his", "emr")
        state = tmp_path / "state.json"

        async with running("--enrolment", folder, "--every", 0.02, "--keep", 6, "--count", 20, "--json", state):
            await until(lambda: state.exists() and json.loads(state.read_text())["orders"] == 20)
            await until(lambda: json.loads(state.read_text())["cancelled"] == 14)

        orders = door.book.query(OrdersQuery(limit=1000)).orders
        assert len(orders) == 20
        assert sum(order.status == "scheduled" for order in orders) == 6
        assert sum(order.status == "cancelled" for order in orders) == 14
        assert {order.modality for order in orders} == {"US"}
        assert all(order.patient_name.startswith("Sim") for order in orders)
        assert all(order.scheduled and order.procedure and order.birth_date for order in orders)
        assert door.quarantine.entries() == []


async def test_it_waits_for_a_site_that_is_down(tmp_path):
    async with open_door(tmp_path / "home") as door:
        door.site.settings.mllp.port = port = door.mllp.ports["tls"]
        folder = door.site.enrol("his", "emr")
        await door.mllp.close()
        state = tmp_path / "state.json"
        async with running("--enrolment", folder, "--every", 0.02, "--count", 3, "--json", state):
            await until(state.exists)
            door.mllp._settings.port = port
            await door.mllp.open()
            await until(lambda: json.loads(state.read_text())["orders"] == 3)
        assert len(door.book.steps()) == 3


ORU = (
    "MSH|^~\\&|EDGEWARD|SITE|SIMHIS|SIM|20260301||ORU^R01^ORU_R01|{id}|P|2.5.1\r"
    "PID|1||4711^^^HOSP^MR||Muster^Erika\rORC|RE|O1\r"
    "OBR|1|O1|A1|USBL^Breast ultrasound^L|||||||||||||||||||||P\rOBX|1|ST|LAB^Label^L||benign||||||P\r"
)


async def test_results_are_acknowledged_counted_and_shown():
    async with running() as ports:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports["mllp"])
        answers = []
        for text in (
            ORU.format(id="1"),
            ORU.format(id="1"),
            ORU.format(id="2"),
            ORU.format(id="3").replace("4711^^^HOSP^MR", ""),
            "junk",
        ):
            writer.write(frame(text.encode()))
            answers.append((await reader.readuntil(b"\x1c\r"))[1:-2].decode())
        writer.close()
        parsed = [hl7apy.parser.parse_message(text, find_groups=False).msa for text in answers]
        assert [(one.msa_1.value, one.msa_2.value) for one in parsed[:4]] == [
            ("AA", "1"), ("AA", "1"), ("AA", "2"), ("AE", "3"),
        ]  # fmt: skip
        assert parsed[4].msa_1.value == "AR"

        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['http']}", trust_env=False) as client:
            counts = (await client.get("/counts")).json()
            assert (counts["results"], counts["results_repeated"], counts["results_refused"]) == (2, 1, 2)
            shown = (await client.get("/results")).json()
            assert shown[0] | {"control_id": ""} == {
                "control_id": "", "order": "O1", "accession": "A1", "status": "P", "observations": [["LAB", "benign", ""]],
            }  # fmt: skip


async def test_fhir_results_are_taken_and_replaced_by_their_id():
    report = {"resourceType": "DiagnosticReport", "id": "r1", "status": "preliminary"}
    observation = {"resourceType": "Observation", "status": "preliminary"}
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"resource": report, "request": {"method": "PUT", "url": "DiagnosticReport/r1"}},
            {"resource": observation, "request": {"method": "POST", "url": "Observation"}},
        ],
    }
    async with (
        running() as ports,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['http']}", trust_env=False) as client,
    ):
        first = await client.post("/fhir", json=bundle)
        report["status"] = "final"
        second = await client.post("/fhir/", json=bundle)

        assert [e["response"]["status"] for e in first.json()["entry"]] == ["201 Created", "201 Created"]
        assert [e["response"]["status"] for e in second.json()["entry"]] == ["200 OK", "201 Created"]
        held = (await client.get("/fhir/DiagnosticReport/r1")).json()
        assert (held["status"], held["meta"]["versionId"]) == ("final", "2")
        assert (await client.get("/fhir/Observation")).json()["total"] == 2
        assert (await client.put("/fhir/Patient/p", json={"resourceType": "Patient", "id": "p"})).status_code == 201
        assert (await client.get("/fhir/Patient/x")).status_code == 404
        for bad in ([], {"resourceType": "Patient"}, {"resourceType": "Bundle", "type": "history"},
                    {"resourceType": "Bundle", "type": "transaction", "entry": [{"resource": report, "request": {"method": "DELETE", "url": "x"}}]}):  # fmt: skip
            assert (await client.post("/fhir", json=bad)).status_code in (400, 422)
        assert (await client.post("/fhir", content=b"{")).status_code == 400
        counts = (await client.get("/counts")).json()
        assert (counts["bundles"], counts["bundles_refused"]) == (2, 5)
        assert counts["resources"] == {"DiagnosticReport": 1, "Observation": 2, "Patient": 1}


def test_its_memory_is_bounded():
    record = Record()
    for number in range(700):
        record.hl7(ORU.format(id=str(number)).encode())
        record.put({"resourceType": "Observation"})

    assert record.counts.results == 700
    assert len(record.results) == 500
    assert record.counts.resources == {"Observation": 500}


def test_the_same_seed_gives_the_same_orders():
    one, two = invented(5), invented(5)
    pairs = [(next(one), next(two)) for _ in range(5)]
    assert all((a.number, a.patient_id, a.accession) == (b.number, b.patient_id, b.accession) for a, b in pairs)
    assert all(len(a.accession) <= 16 for a, _ in pairs)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--every", "0"], "--every"),
        (["--mllp-port", "70000"], "--mllp-port"),
        (["--enrolment", "/nowhere"], "no enrolment"),
    ],
)
def test_wrong_arguments_are_told(arguments, reason):
    done = subprocess.run(
        [sys.executable, "-m", "edgeward.device.emr", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_alarms_are_counted_once_and_end_once():
    record = Record()
    alarm = (
        "MSH|^~\\&|EDGEWARD|hospital|AM|HOSPITAL|20261122120000||ORU^R40^ORU_R40|{id}|P|2.6|||AL|NE\rPID|\r"
        "OBR|1||{alarm}|196616^MDC_EVT_ALARM^MDC\rOBX|1|ST|68481^MDC_ATTR_EVENT_PHASE^MDC|1.0.0.0.3|{phase}\r"
    )
    for number, phase in enumerate(("start", "continue", "end", "end")):
        answer, result = record.hl7(alarm.format(id=number, alarm="bed-1-1", phase=phase).encode())
        assert b"|CA|" in answer or b"|AA|" in answer
        assert result is None
    record.hl7(alarm.format(id=9, alarm="bed-1-2", phase="start").encode())
    assert (record.counts.alarms, record.counts.alarms_over) == (2, 1)
    refused, _ = record.hl7(alarm.format(id=10, alarm="", phase="start").encode())
    assert b"|CE|" in refused or b"|AE|" in refused


def test_the_pager_counts_a_repeat_once():
    client = TestClient(application(Record()))
    for key in ("a", "a", "b"):
        assert client.post("/pager", json={"alarm": key}, headers={"Idempotency-Key": key}).status_code == 204
    assert client.get("/counts").json()["pages"] == 2
    assert client.post("/pager", content=b"not json").status_code == 400
