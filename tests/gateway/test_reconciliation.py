"""A study or a performed step of another patient than its order is told, once, without identity; nothing else is."""

from __future__ import annotations

import pytest
from tests.gateway.test_orders import Desk, omi
from tests.gateway.test_performed import begun
from tests.privacy.test_journal import NAME, new_item

from edgeward.gateway.dimse import DimseRequest, Operation
from edgeward.gateway.performed import PERFORMED_STEP, PerformedSteps
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.reconciliation import MISSING, SEVERAL, STEP, STUDY, Reconciliation
from edgeward.privacy.items import Identity
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey


class Counter:
    """An order of patient 815, and what is said of images and steps."""

    def __init__(self, path):
        self.desk = Desk(path)
        self.key = SiteKey.load(self.desk.home)
        self.journal = Journal(self.desk.home.db("journal"), self.key)
        self.quarantine = Quarantine(self.journal)
        self.reconciliation = Reconciliation(self.desk.book, self.journal, self.quarantine)
        self.desk.take(omi(steps=[("ACC1", "RP1", "1.2.3", "S1", "US", "US1")]))

    def arrive(self, patient, number=1, study="1.2.3", accession="ACC1", issuer=""):
        identity = Identity(
            patient_name=NAME, patient_id=patient, accession_number=accession, issuer_of_patient_id=issuer
        )
        self.journal.admit(new_item(number, identity=identity, study_instance_uid=study))
        self.reconciliation.study(study)

    def said(self):
        return [(entry.reason, entry.item_id, entry.count) for entry in self.quarantine.entries()]

    def close(self):
        self.journal.close()
        self.desk.book.close()


@pytest.fixture
def counter(tmp_path):
    counter = Counter(tmp_path / "home")
    yield counter
    counter.close()


def test_images_of_another_patient_than_the_orders_are_told_once(counter):
    counter.arrive("815")
    assert counter.said() == []

    counter.arrive("4711", number=2)
    counter.arrive("4711", number=3)

    assert sorted(counter.said()) == sorted([(STUDY, "item2", 1), (SEVERAL, "item2", 1)])
    assert not any("4711" in text or NAME in text for entry in counter.quarantine.entries() for text in (entry.reason, entry.what_to_do))  # fmt: skip


def test_one_image_of_another_patient_is_found_among_two_thousand(counter):
    identity = Identity(patient_name=NAME, patient_id="815", accession_number="ACC1")
    for number in range(1, 2001):
        another = Identity(patient_name=NAME, patient_id="4711", accession_number="ACC1") if number == 700 else identity
        counter.journal.admit(new_item(number, identity=another, study_instance_uid="1.2.3", series_instance_uid=f"1.2.3.{number % 3}"))  # fmt: skip

    counter.reconciliation.study("1.2.3")

    assert sorted(counter.said()) == sorted([(STUDY, "item700", 1), (SEVERAL, "item700", 1)])


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (("P1", ""), ("P2", ""), True),
        (("P1", "A"), ("P1", "B"), True),
        (("P1", "A"), ("P1", ""), False),  # perhaps the same issuer
        (("P1", ""), ("", ""), False),  # who is not named is nobody else
        (("P1", "A"), ("P1", "A"), False),
    ],
)
def test_a_study_of_two_patients_is_told_without_any_order(counter, one, other, told):
    for number, (patient, issuer) in enumerate((one, one, other, other), start=1):
        counter.arrive(patient, number=number, study="1.2.9", accession="", issuer=issuer)

    assert counter.said() == [(SEVERAL, "item3", 1)] * told


def test_a_study_of_two_patients_with_an_order_each_is_told(counter, monkeypatch):
    monkeypatch.setattr(counter.desk.book, "_claims", lambda *_: None)  # as books have it from when that was taken
    second = omi(number="P2", steps=[("ACC2", "RP2", "1.2.3", "S2", "US", "US1")])
    counter.desk.take(second.replace("4711^^^HOSP", "822^^^HOSP").replace("815^^^REG", "823^^^REG"))
    assert len(counter.desk.book.of_study("1.2.3", "ACC2")) == 2

    counter.arrive("815")
    counter.arrive("823", number=2, accession="ACC2")

    assert counter.said() == [(SEVERAL, "item2", 1)]


def test_a_second_patient_is_told_after_the_first_thing_was_told(counter):
    counter.arrive("4711")
    assert counter.said() == [(STUDY, "item1", 1)]

    counter.arrive("4712", number=2)

    assert sorted(counter.said()) == sorted([(STUDY, "item1", 1), (SEVERAL, "item2", 1)])


def test_missing_images_are_told_once_with_an_item_of_the_study(counter):
    counter.arrive("815")

    counter.reconciliation.missing("1.2.3")
    counter.reconciliation.missing("1.2.3")
    counter.reconciliation.missing("1.2.77")  # nothing of it is here

    assert counter.said() == [(MISSING, "item1", 1)]


@pytest.mark.parametrize(
    ("patient", "study", "accession", "told"),
    [
        ("4711", "1.2.9", "ACC1", True),  # under a study UID of its own
        ("815", "1.2.9", "ACC1", False),
        ("", "1.2.3", "ACC1", False),  # who is not named is nobody else
        ("4711", "1.2.9", "", False),  # nobody ordered it
        ("4711", "1.2.9", "ACC2", False),
    ],
)
def test_an_order_is_found_by_study_or_accession_number(counter, patient, study, accession, told):
    counter.arrive(patient, study=study, accession=accession)

    assert [reason for reason, _, _ in counter.said()] == [STUDY] * told


def test_a_merge_that_the_device_did_not_hear_of_is_told(counter):
    now = counter.desk.book.steps()[0]
    order = now.order.__class__(**{name: getattr(now.order, name) for name in now.order.__struct_fields__} | {"patient_id": "999"})  # fmt: skip
    counter.desk.book.patient("815", now.__class__(order=order, patient_ns=now.patient_ns + 1))

    counter.arrive("815")

    assert [reason for reason, _, _ in counter.said()] == [STUDY]


@pytest.mark.parametrize(("patient", "issuer", "told"), [("815", "", []), ("4711", "", [STEP]), ("", "", []), ("815", "OTHER", [STEP])])  # fmt: skip
def test_a_step_of_another_patient_is_told_and_kept_all_the_same(counter, patient, issuer, told):
    service = PerformedSteps(counter.desk.book, counter.key, begun=counter.reconciliation.step)
    dataset = begun(counter.desk, PatientID=patient, IssuerOfPatientID=issuer)
    request = DimseRequest(
        operation=Operation.N_CREATE, sop_class_uid=PERFORMED_STEP, sop_instance_uid="1.2.77", dataset=dataset,
        device_id="us-1", calling_ae_title="US1", address="127.0.0.1",
    )  # fmt: skip

    [reply] = service.serve(request)

    assert reply.status == 0
    assert [reason for reason, _, _ in counter.said()] == told
    assert counter.desk.one().status == "started"
