"""A performed procedure step is begun, ended and then unchangeable, and the order follows it."""

from __future__ import annotations

import time

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import generate_uid
from tests.gateway.test_orders import Desk, omi
from tests.gateway.workflow import open_workflow

from edgeward.gateway.dimse import DimseRequest, Operation
from edgeward.gateway.performed import PERFORMED_STEP, PerformedSteps
from edgeward.hl7.acknowledgement import ACCEPTED
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.keys import SiteKey


class Steps:
    """Performed steps on an order book."""

    def __init__(self, path):
        self.desk = Desk(path)
        self.studies = []
        self.open()

    def open(self):
        self.service = PerformedSteps(self.desk.book, SiteKey.load(self.desk.home), self.studies.append)

    def ask(self, operation, uid, dataset, device="us-1"):
        request = DimseRequest(
            operation=operation, sop_class_uid=PERFORMED_STEP, sop_instance_uid=uid, dataset=dataset,
            device_id=device, calling_ae_title="US1", address="127.0.0.1",
        )  # fmt: skip
        [reply] = self.service.serve(request)
        return reply

    def create(self, uid="1.2.3", **changes):
        return self.ask(Operation.N_CREATE, uid, begun(self.desk, **changes)).status

    def set(self, uid="1.2.3", dataset=None, device="us-1"):
        return self.ask(Operation.N_SET, uid, dataset, device).status


def begun(desk=None, **changes):
    """The attributes of an N-CREATE, for the first scheduled step if there is one."""
    dataset, step = Dataset(), Dataset()
    steps = desk.book.steps() if desk else []
    step.StudyInstanceUID = steps[0].order.study_instance_uid if steps else "1.2.999"
    step.AccessionNumber = steps[0].order.accession_number if steps else ""
    step.ScheduledProcedureStepID = steps[0].step_id if steps else ""
    step.RequestedProcedureID = steps[0].procedure_id if steps else ""
    step.RequestedProcedureDescription = step.ScheduledProcedureStepDescription = ""
    step.ReferencedStudySequence = step.ScheduledProtocolCodeSequence = []
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ScheduledStepAttributesSequence = [step]
    dataset.PatientName, dataset.PatientID = "Müller^Zoë", "SECRET-ID"
    dataset.PatientBirthDate, dataset.PatientSex = "19640812", "F"
    dataset.PerformedProcedureStepID, dataset.PerformedStationAETitle = "PPS1", "US1"
    dataset.PerformedProcedureStepStartDate, dataset.PerformedProcedureStepStartTime = "20260302", "083000"
    dataset.PerformedProcedureStepEndDate = dataset.PerformedProcedureStepEndTime = ""
    dataset.PerformedProcedureStepStatus, dataset.Modality, dataset.StudyID = "IN PROGRESS", "US", ""
    dataset.PerformedSeriesSequence = []
    for name, value in changes.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    return dataset


def ended(status="COMPLETED", instances=("1.5.1", "1.5.2"), **changes):
    """The attributes of the last N-SET."""
    dataset = Dataset()
    dataset.PerformedProcedureStepStatus = status
    dataset.PerformedProcedureStepEndDate, dataset.PerformedProcedureStepEndTime = "20260302", "084500"
    series = Dataset()
    series.SeriesInstanceUID = "1.4.1"
    series.ReferencedImageSequence = []
    for uid in instances:
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.6.1", uid
        series.ReferencedImageSequence.append(image)
    dataset.PerformedSeriesSequence = [series]
    for name, value in changes.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    return dataset


@pytest.fixture
def steps(tmp_path):
    steps = Steps(tmp_path / "home")
    yield steps
    steps.desk.book.close()


def test_an_order_is_started_completed_and_off_the_worklist(steps):
    steps.desk.take(
        omi(steps=[("ACC1", "RP1", "1.2.77", "STEP1", "US", ""), ("ACC1", "RP1", "1.2.77", "STEP2", "US", "")])
    )

    assert steps.create() == 0x0000
    assert [entry.order.status for entry in steps.desk.book.steps()] == ["started", "scheduled"]
    assert steps.set(dataset=ended()) == 0x0000

    [entry] = steps.desk.book.steps()
    assert entry.step_id == "STEP2", "only the step that was performed is done"
    assert steps.studies == ["1.2.77", "1.2.77"]


def test_what_is_expected_of_a_study_is_told(steps):
    assert steps.service.performed("1.2.999") is None
    steps.create()
    assert steps.service.performed("1.2.999").open == 1
    partly = ended("IN PROGRESS", ["1.5.1"])
    assert steps.set(dataset=partly) == 0x0000
    assert steps.service.performed("1.2.999").instances == {"1.5.1"}

    assert steps.set(dataset=ended(instances=["1.5.1", "1.5.2", "1.5.3"])) == 0x0000

    told = steps.service.performed("1.2.999")
    assert (told.open, told.instances) == (0, {"1.5.1", "1.5.2", "1.5.3"})


def test_objects_that_are_no_images_are_expected_too(steps):
    steps.create()
    done = ended()
    report = Dataset()
    report.ReferencedSOPClassUID, report.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.33", "1.6.1"
    done.PerformedSeriesSequence[0].ReferencedNonImageCompositeSOPInstanceSequence = [report]

    steps.set(dataset=done)

    assert steps.service.performed("1.2.999").instances == {"1.5.1", "1.5.2", "1.6.1"}


@pytest.mark.parametrize(
    ("reason", "status"), [("110513", "discontinued"), ("110514", "scheduled"), ("", "discontinued")]
)
def test_a_discontinued_step_ends_its_order_unless_the_wrong_one_was_chosen(steps, reason, status):
    steps.desk.take(omi(steps=[("ACC1", "RP1", "1.2.77", "STEP1", "US", "")]))
    steps.create()
    done = ended("DISCONTINUED", PerformedSeriesSequence=None, PerformedProcedureStepEndTime=None)
    if reason:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = reason, "DCM", "why"
        done.PerformedProcedureStepDiscontinuationReasonCodeSequence = [code]

    assert steps.set(dataset=done) == 0x0000

    assert steps.desk.one().status == status


def given_up(reason="110513"):
    """The attributes of the last N-SET of a step that was discontinued."""
    dataset = ended("DISCONTINUED", PerformedSeriesSequence=None, PerformedProcedureStepEndTime=None)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = reason, "DCM", "why"
    dataset.PerformedProcedureStepDiscontinuationReasonCodeSequence = [code]
    return dataset


WRONG = "110514"


@pytest.mark.parametrize(
    ("first", "second", "between", "after"),
    [
        (ended(), given_up(), "completed", "completed"),
        (ended(), given_up(WRONG), "completed", "completed"),
        (given_up(), ended(), "started", "completed"),
        (given_up(), given_up(), "started", "discontinued"),
        (given_up(WRONG), ended(), "started", "completed"),
        (given_up(WRONG), given_up(WRONG), "started", "scheduled"),
        (given_up(), given_up(WRONG), "started", "discontinued"),
    ],
)
def test_an_order_is_what_all_its_performed_steps_make_of_it(steps, first, second, between, after):
    steps.desk.take(omi(steps=[("ACC1", "RP1", "1.2.77", "STEP1", "US", "")]))
    other = begun(steps.desk)
    steps.create("1.2.3")
    assert steps.ask(Operation.N_CREATE, "1.2.4", other).status == 0

    steps.set("1.2.3", first)
    assert steps.desk.one().status == between
    steps.set("1.2.4", second)
    assert steps.desk.one().status == after


def test_an_order_that_a_modality_gave_up_can_be_scheduled_again(steps):
    steps.desk.take(omi(steps=[("ACC1", "RP1", "1.2.77", "STEP1", "US", "")]))
    steps.create()
    again = begun(steps.desk)
    steps.set(dataset=given_up())
    assert steps.desk.take(omi(at="20260301130000")).where == "MSH-7", "that is older"
    assert steps.desk.book.steps() == []

    steps.desk.now = time.time_ns() + 10**9
    assert steps.desk.take(omi("RL", at="20990301130000")) == ACCEPTED
    assert [entry.order.status for entry in steps.desk.book.steps()] == ["scheduled"]

    steps.service = PerformedSteps(steps.desk.book, SiteKey.load(steps.desk.home), clock=lambda: steps.desk.now + 10**9)
    steps.ask(Operation.N_CREATE, "1.2.4", again)
    assert steps.desk.one().status == "started"
    steps.set("1.2.4", given_up(WRONG))
    assert steps.desk.one().status == "scheduled", "what was given up before is past"


def test_an_unscheduled_examination_is_kept_and_touches_no_order(steps):
    assert steps.create() == 0
    steps.desk.take(omi(steps=[("ACC1", "RP1", "1.2.77", "STEP1", "US", "")]))
    assert steps.set(dataset=ended()) == 0
    assert steps.desk.one().status == "scheduled"


def test_after_its_end_a_step_cannot_be_changed(steps):
    steps.create()
    steps.set(dataset=ended())

    reply = steps.ask(Operation.N_SET, "1.2.3", ended(instances=["1.5.9"]))

    assert reply.status == 0x0110
    assert reply.comment == "Performed Procedure Step Object may no longer be updated"
    assert steps.service.performed("1.2.999").instances == {"1.5.1", "1.5.2"}


def test_the_patient_of_a_step_cannot_be_changed(steps):
    steps.create()
    change = ended("IN PROGRESS", PatientName="Other^Name", PerformedProcedureStepStartDate="20200101")
    assert steps.set(dataset=change) == 0

    [(sealed,)] = steps.desk.book.db.all("SELECT sealed FROM performed")
    kept = steps.service._opened("1.2.3", sealed)
    assert str(kept.PatientName) == "Müller^Zoë"
    assert kept.PerformedProcedureStepStartDate == "20260302"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106),
        ({"PerformedProcedureStepStatus": "in progress"}, 0x0106),
        ({"PerformedProcedureStepStatus": None}, 0x0120),
        ({"PerformedProcedureStepStatus": ""}, 0x0121),
        ({"PerformedProcedureStepID": None}, 0x0120),
        ({"PerformedStationAETitle": None}, 0x0120),
        ({"PerformedProcedureStepStartDate": ""}, 0x0121),
        ({"Modality": None}, 0x0120),
        ({"ScheduledStepAttributesSequence": None}, 0x0120),
        ({"ScheduledStepAttributesSequence": []}, 0x0121),
        ({"ScheduledStepAttributesSequence": [Dataset()]}, 0x0120),
    ],
)
def test_a_step_that_lacks_what_it_needs_is_refused_with_the_reason(steps, changes, status):
    assert steps.create(**changes) == status
    assert steps.service.performed("1.2.999") is None
    assert steps.create() == 0


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"status": "DONE"}, 0x0106),
        ({"status": ""}, 0x0106),
        ({"PerformedProcedureStepEndDate": ""}, 0x0121),
        ({"PerformedSeriesSequence": None}, 0x0121),
        ({"PerformedSeriesSequence": [Dataset()]}, 0x0120),
    ],
)
def test_an_end_that_lacks_what_it_needs_is_refused_and_the_step_goes_on(steps, changes, status):
    steps.create()

    assert steps.set(dataset=ended(**changes)) == status
    assert steps.service.performed("1.2.999").open == 1
    assert steps.set(dataset=ended()) == 0


def test_uids_that_are_taken_unknown_foreign_or_none(steps):
    assert steps.create() == 0x0000
    assert steps.create() == 0x0111
    assert steps.set("1.2.4", ended()) == 0x0112
    assert steps.set("1.2.3", ended(), device="us-2") == 0x0112
    assert steps.create("not a uid") == 0x0117
    chosen = steps.ask(Operation.N_CREATE, "", begun())
    assert chosen.status == 0
    assert chosen.sop_instance_uid
    assert steps.set("1.2.3", None) == 0x0120
    assert steps.ask(Operation.N_DELETE, "1.2.3", None).status == 0x0211


def test_broken_attributes_are_refused(steps):
    dataset = begun()
    for tag, vr, value in (((0x0010, 0x1030), "DS", b"heavy\xff"), ((0x0040, 0x0340), "SQ", b"\xff\xff\xff\xff\xff")):
        dataset[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
        assert steps.ask(Operation.N_CREATE, "1.2.5", dataset).status in (0x0106, 0x0110, 0x0000)
        del dataset[tag]


def test_steps_survive_a_restart_and_are_sealed(steps):
    steps.create()
    steps.desk.reopen()
    steps.open()

    raw = b"".join(path.read_bytes() for path in steps.desk.home.data.glob("orders.db*"))
    for secret in ("Müller", "SECRET-ID"):
        assert secret.encode() not in raw
        assert secret.encode("latin-1") not in raw
    assert steps.set(dataset=ended()) == 0


def test_a_disk_that_fails_is_told_and_changes_no_order(steps, monkeypatch):
    steps.desk.take(omi(steps=[("ACC1", "RP1", "1.2.77", "STEP1", "US", "")]))

    def fails(*_):
        raise DatabaseError("no")

    with monkeypatch.context() as patched:
        patched.setattr(steps.desk.book.db, "write", fails)
        assert steps.create() == 0x0213
    assert steps.desk.one().status == "scheduled"
    assert steps.studies == []


@pytest.mark.peer
def test_a_modality_performs_a_step_over_tls(tmp_path):
    with open_workflow(tmp_path) as door:
        folder = door.site.enrol("us-1", "ultrasound", ae_title="US1")
        door.order()
        [entry] = door.book.steps()
        uid = generate_uid()
        dataset = begun()
        dataset.ScheduledStepAttributesSequence[0].StudyInstanceUID = entry.order.study_instance_uid
        dataset.ScheduledStepAttributesSequence[0].ScheduledProcedureStepID = entry.step_id
        association = door.associate(folder, PERFORMED_STEP)

        created, _ = association.send_n_create(dataset, PERFORMED_STEP, uid)
        again, _ = association.send_n_create(dataset, PERFORMED_STEP, uid)
        started = door.book.steps()[0].order.status
        done, _ = association.send_n_set(ended(), PERFORMED_STEP, uid)
        late, _ = association.send_n_set(ended(), PERFORMED_STEP, uid)
        association.release()

        assert [reply.Status for reply in (created, again, done, late)] == [0x0000, 0x0111, 0x0000, 0x0110]
        assert started == "started"
        assert door.book.steps() == []
        assert door.studies == [entry.order.study_instance_uid] * 2
