"""The machine works like a real one: patients from the worklist, what it performs is told, copies only until committed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
from pydicom.dataset import Dataset
from tests.gateway.workflow import open_workflow

from edgeward.messages import ItemsQuery, OrdersQuery
from edgeward.privacy.vault import read


@pytest.fixture
def door(tmp_path):
    with open_workflow(tmp_path / "home", dicom={"modality": []}) as door:
        door.folder = door.site.enrol("us-1", "ultrasound", ae_title="US1")
        yield door


def simulate(folder, *more):
    command = [sys.executable, "-m", "edgeward.device.ultrasound", "--enrolment", str(folder), "--json", "--workflow"]
    done = subprocess.run([*command, *map(str, more)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def objects(door):
    from io import BytesIO

    from pydicom import dcmread

    found = []
    for item in door.journal.summaries(ItemsQuery(limit=500), 1):
        [copy] = door.journal.catalogue.copies(item.sop_instance_uid)
        reference = door.vault.reference(copy.object_id, copy.wrapped_key, copy.size)
        found.append(dcmread(BytesIO(read(reference.path, reference.data_key)), force=True))
    return found


def test_scheduled_patients_are_examined_and_their_orders_completed(door, images):
    for number in (1, 2):
        door.order(number=f"P{number}", accession=f"A{number}", pid=f"PAT{number}", name=f"Müller{number}^Zoë")

    summary, log = simulate(door.folder, "--images", images, "--rate", 50, "--count", 8)

    assert summary["acknowledged"] == 8
    assert summary["workflow"] == {
        "scheduled": 2, "unscheduled": 1, "begun": 3, "completed": 3, "committed": 8, "kept": 0, "given_up": 0,
    }  # fmt: skip
    assert door.book.steps() == []
    assert {order.status for order in door.book.query(OrdersQuery()).orders} == {"completed"}
    by_patient: dict[str, list[Dataset]] = {}
    for dataset in objects(door):
        by_patient.setdefault(str(dataset.PatientID), []).append(dataset)
    assert sorted(len(rows) for rows in by_patient.values()) == [2, 3, 3]
    orders = {order.patient_id: order for order in door.book.query(OrdersQuery()).orders}
    for number in (1, 2):
        for dataset in by_patient[f"PAT{number}"]:
            order = orders[f"PAT{number}"]
            assert str(dataset.PatientName) == f"Müller{number}^Zoë"
            assert (dataset.AccessionNumber, dataset.StudyInstanceUID) == (f"A{number}", order.study_instance_uid)
            assert dataset.RequestAttributesSequence[0].ScheduledProcedureStepID.startswith("S")
            assert dataset.ReferencedPerformedProcedureStepSequence[0].ReferencedSOPInstanceUID
        told = door.performed.expected(orders[f"PAT{number}"].study_instance_uid)
        assert told == {str(dataset.SOPInstanceUID) for dataset in by_patient[f"PAT{number}"]}
    assert "Müller" not in log


def test_without_a_worklist_entry_it_goes_on_unscheduled(door, images):
    summary, _ = simulate(door.folder, "--images", images, "--rate", 50, "--count", 3)

    assert summary["workflow"]["unscheduled"] == 1
    assert summary["workflow"]["committed"] == 3
    assert all(str(dataset.PatientID).startswith("SIM-") for dataset in objects(door))


def test_what_is_not_committed_is_sent_again_and_kept_until_it_is(door, images, monkeypatch):
    real, refused = door.commitment.failure, []

    def once(sop_class, instance):
        if len(refused) < 2:
            refused.append(instance)
            return 0x0112
        return real(sop_class, instance)

    monkeypatch.setattr(door.commitment, "failure", once)
    summary, _ = simulate(door.folder, "--images", images, "--rate", 50, "--count", 3)

    assert summary["workflow"]["committed"] == 3
    assert summary["workflow"]["kept"] == 0
    assert summary["repeated"] == 2
    assert len(objects(door)) == 3


def test_a_site_without_these_services_only_gets_images(site, images):
    from tests.device.test_ultrasound import Site

    folder = site.enrol("us-1", "ultrasound", ae_title="US1")
    with Site(site).open() as door:
        summary, log = simulate(folder, "--images", images, "--rate", 50, "--count", 2)

    assert summary["acknowledged"] == 2
    assert summary["workflow"]["given_up"] == 3
    assert summary["workflow"]["kept"] == 2, "never committed, never deleted"
    assert len(door.requests) == 2
    assert "given up" in log


def test_after_a_restart_a_study_keeps_its_patient(door, images, tmp_path):
    door.order(number="P1", accession="A1", pid="PAT1")
    arguments = ("--images", images, "--rate", 50, "--seed", 3, "--state", tmp_path / "state.jsonl")
    simulate(door.folder, *arguments, "--count", 2)

    simulate(door.folder, *arguments, "--count", 3)

    assert [str(dataset.PatientID) for dataset in objects(door)] == ["PAT1"] * 3


def test_an_outage_between_image_and_commitment_loses_nothing(door, images, monkeypatch):
    """The first two messages about each examination find a site that breaks off."""
    door.order(number="P1", accession="A1", pid="PAT1")
    broken, lock = [], threading.Lock()
    real = type(door.commitment)._commit

    def breaking(self, request):
        with lock:
            if len(broken) < 2:
                broken.append(1)
                raise RuntimeError("out of order")
        return real(self, request)

    monkeypatch.setattr(type(door.commitment), "_commit", breaking)
    summary, _ = simulate(door.folder, "--images", images, "--rate", 50, "--count", 3)

    assert summary["workflow"]["committed"] == 3
    assert door.book.query(OrdersQuery()).orders[0].status == "completed"
