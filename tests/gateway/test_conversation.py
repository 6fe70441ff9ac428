"""Requests that services answer, asked by pynetdicom as a device, and by hand where pynetdicom would not."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    PatientRootQueryRetrieveInformationModelFind,
    StorageCommitmentPushModel,
)
from tests.gateway.door import AE_TITLE, Door, ask, frame, open_door, tls_of, until
from tests.gateway.spoken import LEGACY, PLAIN, Spoken, number, request, text

from edgeward.gateway import command as dimse
from edgeward.gateway.dimse import DimseRequest, DimseService, EventReport, Operation, Reply
from edgeward.scu import steady

COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


class Worklist(DimseService):
    """Answers with two rows, or for ever if it is asked for everything."""

    sop_classes = (str(ModalityWorklistInformationFind),)

    def __init__(self) -> None:
        self.asked: list[DimseRequest] = []
        self.ended = threading.Event()

    def serve(self, request: DimseRequest) -> Iterator[Reply]:
        self.asked.append(request)
        assert request.dataset is not None
        wanted = str(request.dataset.PatientName)
        if wanted == "CRASH":
            raise RuntimeError("the text of this names a patient")
        if wanted == "SILENCE":
            return
        row = Dataset()
        row.PatientName, row.PatientID = "MUSTERFRAU^ERIKA", "PID-4711"
        count = 0
        while count < 2 or (wanted == "*" and not request.cancelled()):
            count += 1
            yield Reply(status=0xFF00, dataset=row)
        self.ended.set()
        yield Reply(status=0xFE00 if request.cancelled() else 0x0000)


class Commitment(DimseService):
    """Says yes, and reports on the same association."""

    sop_classes = (str(StorageCommitmentPushModel), str(ModalityPerformedProcedureStep))

    def __init__(self) -> None:
        self.asked: list[DimseRequest] = []
        self.answers: list[int | None] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def serve(self, request: DimseRequest) -> Iterator[Reply]:
        self.asked.append(request)
        assert self.go_on.wait(30)
        if request.operation is Operation.N_CREATE:
            yield Reply(status=0x0000, sop_instance_uid=request.sop_instance_uid or "1.2.3.4", dataset=request.dataset)
            return
        if request.operation is not Operation.N_ACTION:
            yield Reply(status=0x0211, comment="only N-CREATE and N-ACTION")
            return
        assert request.dataset is not None
        report = EventReport(
            sop_class_uid=str(StorageCommitmentPushModel),
            sop_instance_uid=COMMITMENT_INSTANCE,
            event_type=1,
            dataset=request.dataset,
            answered=self.answers.append,
        )
        yield Reply(status=0x0000, event=report)


@pytest.fixture
def worklist() -> Worklist:
    return Worklist()


@pytest.fixture
def commitment() -> Commitment:
    return Commitment()


@pytest.fixture
def door(tmp_path: Path, worklist: Worklist, commitment: Commitment) -> Iterator[Door]:
    with open_door(tmp_path / "home", services=(worklist, commitment), dicom={"legacy": [LEGACY]}) as door:
        yield door


@pytest.fixture
def device(door: Door) -> Path:
    return door.site.enrol("us1", "ultrasound", AE_TITLE)


def query(name: str = "") -> Dataset:
    dataset = Dataset()
    dataset.PatientName, dataset.PatientID = name, ""
    return dataset


def alive(association: Association) -> bool:
    return bool(association.send_c_echo().Status == 0x0000)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_query_is_answered_row_by_row(door: Door, device: Path, worklist: Worklist, syntax: str) -> None:
    association = ask(door, device, contexts=((ModalityWorklistInformationFind, syntax),))

    replies = list(association.send_c_find(query("X"), ModalityWorklistInformationFind))

    assert [status.Status for status, _ in replies] == [0xFF00, 0xFF00, 0x0000]
    assert [row.PatientID for _, row in replies[:2]] == ["PID-4711"] * 2
    (asked,) = worklist.asked
    assert (asked.operation, asked.device_id, asked.calling_ae_title) == (Operation.C_FIND, "us1", AE_TITLE)
    assert asked.sop_class_uid == ModalityWorklistInformationFind
    assert asked.address == "127.0.0.1"
    assert alive(association)
    association.release()


def test_a_cancelled_query_ends(door: Door, device: Path, worklist: Worklist) -> None:
    association = ask(door, device, contexts=((ModalityWorklistInformationFind, ImplicitVRLittleEndian),))
    replies = association.send_c_find(query("*"), ModalityWorklistInformationFind, msg_id=7)
    next(replies)

    association.send_c_cancel(7, query_model=ModalityWorklistInformationFind)

    *_, (last, _) = replies
    assert last.Status == 0xFE00
    assert alive(association)
    association.release()


def test_a_query_whose_asker_vanishes_ends(door: Door, device: Path, worklist: Worklist) -> None:
    association = ask(door, device, contexts=((ModalityWorklistInformationFind, ImplicitVRLittleEndian),))
    next(association.send_c_find(query("*"), ModalityWorklistInformationFind))

    association.abort()

    until(lambda: door.dicom.associations == 0)


@pytest.mark.parametrize("name", ["CRASH", "SILENCE"])
def test_a_service_that_fails_is_answered_for(door: Door, device: Path, name: str, caplog) -> None:
    association = ask(door, device, contexts=((ModalityWorklistInformationFind, ImplicitVRLittleEndian),))

    ((status, _),) = association.send_c_find(query(name), ModalityWorklistInformationFind)

    assert status.Status == 0x0110
    assert alive(association)
    assert "names a patient" not in caplog.text
    association.release()


def test_an_event_report_comes_on_the_same_association_and_its_answer_is_passed_on(
    door: Door, device: Path, commitment: Commitment
) -> None:
    reports: list[tuple[int, str]] = []

    def report(event: evt.Event) -> tuple[int, None]:
        reports.append((event.event_type, str(event.event_information.TransactionUID)))
        return 0x0000, None

    ae = AE(ae_title=AE_TITLE)
    ae.add_requested_context(StorageCommitmentPushModel)
    association = steady(
        ae.associate(
            "127.0.0.1",
            door.port,
            ae_title="EDGEWARD",
            tls_args=(tls_of(device), "localhost"),
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, report)],
        )
    )
    asked = Dataset()
    asked.TransactionUID = "1.2.3"

    status, _ = association.send_n_action(asked, 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE)

    assert status.Status == 0x0000
    until(lambda: reports == [(1, "1.2.3")])
    until(lambda: commitment.answers == [0x0000])
    assert commitment.asked[0].action_type == 1
    association.release()


def test_an_instance_uid_may_be_chosen_by_the_service(door: Door, device: Path) -> None:
    association = ask(door, device, contexts=((ModalityPerformedProcedureStep, ExplicitVRLittleEndian),))
    step = Dataset()
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    answers: list[str] = []
    association.bind(
        evt.EVT_DIMSE_RECV, lambda event: answers.append(str(event.message.command_set.AffectedSOPInstanceUID))
    )

    status, created = association.send_n_create(step, ModalityPerformedProcedureStep, None)

    assert status.Status == 0x0000
    assert created.PerformedProcedureStepStatus == "IN PROGRESS"
    assert answers == ["1.2.3.4"]
    association.release()


def test_what_nobody_offers_is_not_accepted(door: Door, device: Path) -> None:
    contexts = ((PatientRootQueryRetrieveInformationModelFind, ImplicitVRLittleEndian),)
    association = ask(door, device, contexts=contexts)

    assert [context.abstract_syntax for context in association.rejected_contexts] == [contexts[0][0]]
    assert association.rejected_contexts[0].result == 0x03
    association.release()


# ---------------------------------------- by hand


@pytest.mark.parametrize(
    ("field", "sop_class", "status"),
    [
        (0x0020, "1.2.840.10008.5.1.4.1.1.6.1", 0x0122),  # a query where only storage was negotiated
        (0x0140, "1.2.3.4", 0x0122),
        (0x0020, str(PatientRootQueryRetrieveInformationModelFind), 0x0122),
        (0x0777, str(ModalityWorklistInformationFind), 0x0211),
        (0x0110, str(ModalityPerformedProcedureStep), 0x0211),  # the service's own answer
    ],
)
def test_a_request_out_of_place_is_answered_with_the_standards_status(
    door: Door, field: int, sop_class: str, status: int
) -> None:
    peer = Spoken(door, (ModalityPerformedProcedureStep, PLAIN))

    peer.send(1, request(field, sop_class))

    answer = peer.answer()
    assert (answer.status, answer.field, answer.responded_to) == (status, field | dimse.RESPONSE, 9)
    peer.send(1, request(dimse.C_ECHO, "1.2.840.10008.1.1"))
    assert peer.answer().status == 0x0000


def test_a_query_that_cannot_be_parsed_is_refused_and_the_association_lives(door: Door) -> None:
    peer = Spoken(door, (ModalityWorklistInformationFind, ExplicitVRLittleEndian))

    for data in (b"\xff" * 333, b"", b"\x08\0\x05\0CS\xff\xff", bytes(3)):
        peer.send(1, request(0x0020, ModalityWorklistInformationFind, data_set=True), data or b"\0\0")
        assert peer.answer().status == 0xC000

    peer.send(1, request(dimse.C_ECHO, "1.2.840.10008.1.1"))
    assert peer.answer().status == 0x0000


def test_a_query_without_end_is_cut_off(door: Door) -> None:
    peer = Spoken(door, (ModalityWorklistInformationFind, ExplicitVRLittleEndian))

    with contextlib.suppress(ConnectionError):
        peer.send(1, request(0x0020, ModalityWorklistInformationFind, data_set=True), bytes(6 << 20))

    until(lambda: any("larger than 4 MB" in reason for reason in door.reasons()))
    until(lambda: door.dicom.associations == 0)


def test_a_second_request_before_the_answer_ends_the_association_only(door: Door, device: Path) -> None:
    peer = Spoken(door, (ModalityWorklistInformationFind, ExplicitVRLittleEndian))
    data = encode(query("*"), False, True)
    assert data
    peer.send(1, request(0x0020, ModalityWorklistInformationFind, data_set=True), data)
    assert peer.answer().status == 0xFF00

    peer.send(1, request(dimse.C_ECHO, "1.2.840.10008.1.1"))

    assert peer.ended()
    assert any("before the last one was answered" in reason for reason in door.reasons())
    again = ask(door, device)
    assert again.send_c_store(frame()).Status == 0x0000
    again.release()


def ask_for_commitment(door: Door) -> Spoken:
    peer = Spoken(door, (StorageCommitmentPushModel, ImplicitVRLittleEndian))
    asked = text(0x0003, StorageCommitmentPushModel) + number(0x0100, int(Operation.N_ACTION)) + number(0x0110, 5)
    asked += number(0x0800, 1) + text(0x1001, COMMITMENT_INSTANCE) + number(0x1008, 1)
    peer.send(1, asked, struct.pack("<HHL", 0x0008, 0x1195, 6) + b"1.2.3\0")
    return peer


def test_an_event_report_to_a_peer_that_left_before_the_answer_is_told_too(door: Door, commitment: Commitment) -> None:
    """Reading many objects takes long: the asker may have lost patience."""
    commitment.go_on.clear()
    peer = ask_for_commitment(door)
    until(lambda: commitment.asked)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()
    commitment.go_on.set()

    until(lambda: commitment.answers == [None])


def test_an_event_report_that_is_never_answered_is_told_once(door: Door, commitment: Commitment) -> None:
    peer = ask_for_commitment(door)
    assert peer.answer().status == 0x0000
    assert peer.answer().field == dimse.N_EVENT_REPORT
    assert commitment.answers == []

    peer.socket.close()

    until(lambda: commitment.answers == [None])
