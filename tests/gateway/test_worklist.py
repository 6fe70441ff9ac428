"""A modality finds its orders by every key of PS3.4, K.6-1, and only orders that are still to be done."""

from __future__ import annotations

import copy
import random
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pynetdicom import AE
from tests.gateway.hl7_door import orm
from tests.gateway.scu import Acceptor, query
from tests.gateway.test_orders import Desk, omi
from tests.support.peers import require

from edgeward.gateway.dimse import DimseRequest, Operation
from edgeward.gateway.matching import plain
from edgeward.gateway.worklist import MODALITY_WORKLIST, Worklist
from edgeward.gateway.worklist_entry import SHORTCUTS, entry_dataset
from edgeward.scu import steady


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path / "home")
    yield desk
    desk.book.close()


def find(desk, identifier, calling="US1", most=1000, cancelled=lambda: False):
    request = DimseRequest(
        operation=Operation.C_FIND,
        sop_class_uid=MODALITY_WORKLIST,
        dataset=identifier,
        device_id="us-1",
        calling_ae_title=calling,
        address="127.0.0.1",
        cancelled=cancelled,
    )
    return list(Worklist(desk.book, most).serve(request))


def numbers(desk, **keys):
    replies = find(desk, query(**keys))
    assert replies[-1].status == 0x0000
    return [str(reply.dataset.AccessionNumber) for reply in replies[:-1]]


@pytest.fixture
def three(desk):
    """Three orders: A1 (Muster, US, 2 March 08:30), A2 (Müller, MG, 3 March 10:00), A3 (Wáng, US, 4 March 17:00)."""
    desk.take(orm())
    desk.take(
        orm(number="P2", accession="A2", pid="PID2", name="Müller^Zoë^^^Dr", modality="MG", scheduled="20260303100000")
    )
    desk.take(orm(number="P3", accession="A3", pid="PID3", name="Wang^XiaoMing^^^^^L^A~王^小明^^^^^L^I", scheduled="20260304170000",
                  more=("IPC|A3|R3|1.2.3|STEP3|US|||ROOM|US1",)))  # fmt: skip
    return desk


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "A1 A2 A3"),
        ({"PatientName": "*"}, "A1 A2 A3"),
        ({"PatientName": "Muster^Erika"}, "A1"),
        ({"PatientName": "MUSTER^ERIKA"}, "A1"),
        ({"PatientName": "Muster^Erika^^^"}, "A1"),
        ({"PatientName": "Muster"}, ""),
        ({"PatientName": "mu*"}, "A1 A2"),
        ({"PatientName": "Muller*"}, "A2"),
        ({"PatientName": "M?ller^*"}, "A2"),
        ({"PatientName": "王*"}, "A3"),
        ({"PatientName": "Wang^Xiaoming"}, "A3"),
        ({"PatientID": "4711"}, "A1"),
        ({"PatientID": "PID?"}, "A2 A3"),
        ({"PatientID": "pid2"}, ""),
        ({"AccessionNumber": "A3"}, "A3"),
        ({"AccessionNumber": "A3*"}, "A3"),
        ({"RequestedProcedureID": "R3"}, "A3"),
        ({"StudyInstanceUID": "1.2.3"}, "A3"),
        ({"StudyInstanceUID": ["1.2.3", "9.9"]}, "A3"),
        ({"StudyInstanceUID": "1.2"}, ""),
        ({"step_Modality": "US"}, "A1 A3"),
        ({"step_Modality": ["US", "MG"]}, "A1 A2 A3"),
        ({"step_Modality": "CT"}, ""),
        ({"step_ScheduledStationAETitle": "US1"}, "A1 A2 A3"),
        ({"step_ScheduledStationAETitle": "US2"}, "A1 A2"),
        ({"step_ScheduledProcedureStepID": "STEP3"}, "A3"),
        ({"step_ScheduledProcedureStepStartDate": "20260303"}, "A2"),
        ({"step_ScheduledProcedureStepStartDate": "20260303-"}, "A2 A3"),
        ({"step_ScheduledProcedureStepStartDate": "-20260303"}, "A1 A2"),
        ({"step_ScheduledProcedureStepStartDate": "20260303-20260303"}, "A2"),
        ({"step_ScheduledProcedureStepStartTime": "1000"}, "A2"),
        ({"step_ScheduledProcedureStepStartTime": "0900-1000"}, "A2"),
        ({"step_ScheduledProcedureStepStartTime": "10"}, "A2"),
        ({"step_ScheduledProcedureStepStartTime": "-100000"}, "A1 A2"),
        (
            {"step_ScheduledProcedureStepStartDate": "20260302-20260304", "step_ScheduledProcedureStepStartTime": "0900-1200"},
            "A2",
        ),
        (
            {"step_ScheduledProcedureStepStartDate": "20260303-20260304", "step_ScheduledProcedureStepStartTime": "1700-1700"},
            "A3",
        ),
        (
            {"step_ScheduledProcedureStepStartDate": "20260304", "step_ScheduledProcedureStepStartTime": "0000-1200"},
            "",
        ),
        ({"PatientName": "mu*", "step_Modality": "MG"}, "A2"),
        ({"step_Modality": "US", "PatientID": "PID2"}, ""),
        ({"PatientSex": "F"}, "A1 A2 A3"),
        ({"PatientBirthDate": "19640812"}, "A1 A2 A3"),
        ({"PatientBirthDate": "19640813"}, ""),
        ({"step_ScheduledProcedureStepLocation": "RO*"}, "A3"),
    ],
)  # fmt: skip
def test_every_key_selects_what_it_names(three, keys, expected):
    assert numbers(three, **keys) == expected.split()


def test_the_performing_physician_is_a_key(desk):
    obr = ["OBR", "1", "P9", "", "BUS^Breast^L"] + [""] * 29 + ["7&Scanner&Sonja"]
    text = orm(number="P9", accession="A9").split("OBR|")[0] + "|".join(obr) + "\rZDS|1.2\r"
    assert desk.take(text).outcome == "AA"

    assert len(numbers(desk, step_ScheduledPerformingPhysicianName="scanner^*")) == 1
    assert len(numbers(desk, step_ScheduledPerformingPhysicianName="else^*")) == 0


def test_two_ranges_of_date_and_time_are_one_from_moment_to_moment(desk):
    for n, at in enumerate(
        ("20260705095900", "20260705100000", "20260706030000", "20260707180000", "20260707180100"), 1
    ):
        desk.take(orm(number=f"P{n}", accession=f"A{n}", scheduled=at))

    found = numbers(
        desk,
        step_ScheduledProcedureStepStartDate="20260705-20260707",
        step_ScheduledProcedureStepStartTime="1000-1800",
    )

    assert found == ["A2", "A3", "A4"], "the example of PS3.4, K.6-1"


def test_the_answer_holds_what_was_asked_for_and_nothing_else(three):
    [reply, _] = find(three, query(AccessionNumber="A3", PatientSex="", PatientBirthDate=""))

    answer = reply.dataset
    assert reply.status == 0xFF00
    assert answer.SpecificCharacterSet == "ISO_IR 192"
    assert str(answer.PatientName) == "Wang^XiaoMing=王^小明"
    assert (answer.PatientID, answer.PatientSex, answer.PatientBirthDate) == ("PID3", "F", "19640812")
    assert answer.StudyInstanceUID == "1.2.3"
    step = answer.ScheduledProcedureStepSequence[0]
    assert (step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime) == ("20260304", "170000")
    assert (step.Modality, step.ScheduledStationAETitle, step.ScheduledProcedureStepID) == ("US", "US1", "STEP3")
    assert step.ScheduledProcedureStepDescription == "Breast ultrasound"
    assert "RequestedProcedureDescription" not in answer
    assert "ScheduledProcedureStepLocation" not in step


def test_a_step_for_any_station_carries_the_station_and_modality_that_asked(desk):
    desk.take(orm(modality=""))

    [reply, _] = find(desk, query(step_Modality="US"), calling="US7")
    step = reply.dataset.ScheduledProcedureStepSequence[0]
    assert (step.ScheduledStationAETitle, step.Modality) == ("US7", "US")
    [reply, _] = find(desk, query(step_ScheduledStationAETitle="OTHER"))
    step = reply.dataset.ScheduledProcedureStepSequence[0]
    assert (step.ScheduledStationAETitle, step.Modality) == ("OTHER", "OT")
    assert desk.one().modality == "", "what is told to one modality is not kept"


@pytest.mark.parametrize("empty", [Sequence(), Sequence([Dataset()])])
def test_an_empty_sequence_asks_for_all_of_it_and_a_code_sequence_is_filled(desk, empty):
    desk.take(omi(steps=[("ACC1", "RP1", "1.2.3", "STEP1", "US", "")]))
    identifier = query(RequestedProcedureCodeSequence=Sequence())
    identifier.ScheduledProcedureStepSequence = empty

    [reply, _] = find(desk, identifier, calling="US5")

    step = reply.dataset.ScheduledProcedureStepSequence[0]
    assert (step.Modality, step.ScheduledStationAETitle, step.ScheduledStationName) == ("US", "US5", "STATION")
    assert step.ScheduledProtocolCodeSequence[0].CodeValue == "P1"
    code = reply.dataset.RequestedProcedureCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("BUS", "L", "Breast ultrasound")
    [again, _] = find(desk, identifier, calling="US6")
    assert again.dataset.ScheduledProcedureStepSequence[0].ScheduledStationAETitle == "US6"


def test_who_gave_the_orders_numbers_is_on_the_worklist(desk):
    line = "ORC|NW|P1^HIS^1.2.3^ISO|F1^RIS||||||||||"
    desk.take("\r".join(line if one.startswith("ORC") else one for one in omi(steps=()).split("\r")))

    identifier = query()
    identifier.OrderPlacerIdentifierSequence, identifier.OrderFillerIdentifierSequence = [Dataset()], []
    answer, done = find(desk, identifier)

    assert (answer.status, done.status) == (0xFF00, 0x0000)
    [placer], [filler] = answer.dataset.OrderPlacerIdentifierSequence, answer.dataset.OrderFillerIdentifierSequence
    assert (placer.LocalNamespaceEntityID, placer.UniversalEntityID, placer.UniversalEntityIDType) == (
        "HIS", "1.2.3", "ISO",
    )  # fmt: skip
    assert (filler.LocalNamespaceEntityID, "UniversalEntityID" in filler) == ("RIS", False)
    other = omi("XO", steps=(), at="20260301120100").replace("|F1|", "|F2|")
    desk.take(other)
    changed, _ = find(desk, identifier)
    assert changed.dataset.OrderFillerIdentifierSequence == [], "another number is not of whoever gave the one before"
    assert changed.dataset.OrderPlacerIdentifierSequence[0].LocalNamespaceEntityID == "HIS"
    identifier.OrderPlacerIdentifierSequence = [Dataset()]
    identifier.OrderPlacerIdentifierSequence[0].LocalNamespaceEntityID = "OTHER"
    assert [reply.status for reply in find(desk, identifier)] == [0x0000]


def test_matching_within_a_code_sequence(desk):
    desk.take(orm())
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = "BUS", ""

    [reply, _] = find(desk, query(RequestedProcedureCodeSequence=[item]))
    assert reply.dataset.RequestedProcedureCodeSequence[0].CodeValue == "BUS"
    item.CodeValue = "OTHER"
    assert len(find(desk, query(RequestedProcedureCodeSequence=[item]))) == 1


def test_an_optional_key_that_is_not_supported_is_empty_and_told(desk):
    desk.take(orm())

    [reply, _] = find(desk, query(PatientComments="", PatientMotherBirthName="Anybody"))

    assert reply.status == 0xFF01
    assert "PatientMotherBirthName" in reply.dataset
    assert not reply.dataset.PatientMotherBirthName


@pytest.mark.parametrize(("control", "status"), [("CA", ""), ("DC", ""), ("SC", "CM")])
def test_what_is_cancelled_or_done_does_not_appear(desk, control, status):
    desk.take(orm())
    desk.take(orm(control, status=status, at="20260301130000"))

    assert numbers(desk) == []


def test_what_was_begun_still_appears_and_says_so(desk):
    desk.take(orm())
    desk.take(orm("SC", status="IP", at="20260301130000"))

    [reply, _] = find(desk, query(step_ScheduledProcedureStepStatus="STARTED"))
    assert reply.dataset.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus == "STARTED"
    assert numbers(desk, step_ScheduledProcedureStepStatus="SCHEDULED") == []


def test_the_number_of_answers_is_bounded_and_the_bound_is_told(desk):
    for n in range(12):
        desk.take(orm(number=f"P{n}", accession=f"A{n}"))

    replies = find(desk, query(), most=10)

    assert [reply.status for reply in replies] == [0xFF00] * 10 + [0xA700]
    assert "10" in replies[-1].comment
    assert len(find(desk, query(), most=12)) == 13


def test_a_cancelled_query_ends(desk):
    for n in range(5):
        desk.take(orm(number=f"P{n}", accession=f"A{n}"))
    asked = []

    replies = find(desk, query(), cancelled=lambda: asked.append(1) or len(asked) > 3)

    assert [reply.status for reply in replies] == [0xFF00] * 3 + [0xFE00]


# ---------------------------------------- broken identifiers


def _two_items():
    identifier = query()
    identifier.ScheduledProcedureStepSequence.append(Dataset())
    return identifier


def _raw(tag, vr, value):
    identifier = query()
    identifier[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    return identifier


def _deep():
    identifier = Dataset()
    level = identifier
    for _ in range(50):
        level.ReferencedStudySequence = [Dataset()]
        level = level.ReferencedStudySequence[0]
    return identifier


def _wide():
    identifier = Dataset()
    for number in range(2000):
        identifier.add_new(0x00100000 + number * 2 + 0x1000, "LO", "x")
    return identifier


@pytest.mark.parametrize(
    "identifier",
    [
        _two_items(),
        query(step_ScheduledProcedureStepStartDate="-"),
        query(step_ScheduledProcedureStepStartDate="yesterday"),
        query(step_ScheduledProcedureStepStartDate=["20260101", "20260102"]),
        query(step_ScheduledProcedureStepStartTime="a-b"),
        query(PatientName="x" * 5000),
        query(PatientBirthDate="-"),
        _wide(),
        None,
    ],
)
def test_a_broken_identifier_is_told_not_answered(desk, identifier):
    desk.take(orm())

    [reply] = find(desk, identifier)

    assert reply.status in (0xA900, 0xC000)
    assert reply.comment


@pytest.mark.parametrize(
    "identifier",
    [
        _raw((0x0008, 0x0050), "SH", b"\xff\xfe\xfd\x00"),
        _raw((0x0010, 0x0030), "DA", b"\xff" * 9),
        _raw((0x0010, 0x1030), "DS", b"heavy"),
        _raw((0x0008, 0x0005), "CS", b"KLINGON\\ISO 2022 IR 999"),
        _raw((0x0020, 0x000D), "UI", b"not a uid"),
        _deep(),
        Dataset(),
    ],
)
def test_a_strange_identifier_ends_in_a_status(desk, identifier):
    desk.take(orm())

    replies = find(desk, identifier)

    assert replies[-1].status in (0x0000, 0xA900, 0xC000)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30), st.text(alphabet="0123456789-:. *?\\", max_size=20))
def test_no_key_value_does_more_than_match_or_be_refused(desk, text, date):
    if not desk.all():
        desk.take(orm())
    replies = find(desk, query(PatientName=text.replace("\\", ""), PatientID=text.replace("\\", ""),
                               step_ScheduledProcedureStepStartDate=date.replace("\\", ""),
                               step_ScheduledProcedureStepStartTime=date.replace("\\", "")))  # fmt: skip

    assert replies[-1].status in (0x0000, 0xA900, 0xC000)


def test_other_operations_are_not_answered_as_a_query(desk):
    request = DimseRequest(
        operation=Operation.N_GET, sop_class_uid=MODALITY_WORKLIST, device_id="x", calling_ae_title="X", address="1"
    )
    assert [reply.status for reply in Worklist(desk.book).serve(request)] == [0x0211]


def test_the_shortcuts_lead_to_what_an_entry_holds(desk):
    desk.take(omi(steps=[("ACC1", "RP1", "1.2.3", "STEP1", "US", "US1")]))
    [entry] = desk.book.steps()
    whole = entry_dataset(entry)
    for (of_step, name), value_of in SHORTCUTS.items():
        where = whole.ScheduledProcedureStepSequence[0] if of_step else whole
        assert str(where[name].value) == value_of(entry), name


def test_names_are_plain_without_case_and_marks():
    assert plain("MÜLLER") == plain("muller") == "muller"
    assert plain("Ångström") == "angstrom"
    assert plain("王") == "王"
    assert plain("ｱ") == plain("ア")


# ---------------------------------------- real peers


@pytest.mark.peer
def test_dcmtk_finds_the_orders_of_the_day(three, tmp_path):
    findscu = require("findscu")
    with Acceptor(Worklist(three.book)).open() as port:
        done = subprocess.run(
            [findscu, "-W", "-aet", "US1", "-aec", "EDGEWARD", "-X", "-od", tmp_path, "127.0.0.1", str(port),
             "-k", "(0008,0005)=ISO_IR 192", "-k", "PatientName=Mu*", "-k", "PatientID", "-k", "AccessionNumber", "-k", "StudyInstanceUID",
             "-k", "(0040,0100)[0].Modality", "-k", "(0040,0100)[0].ScheduledProcedureStepStartDate=20260301-20260302",
             "-k", "(0040,0100)[0].ScheduledStationAETitle=US1", "-k", "(0040,0100)[0].ScheduledProcedureStepID"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    [path] = sorted(tmp_path.glob("rsp*.dcm"))
    answer = dcmread(path, force=True)
    assert str(answer.PatientName) == "Muster^Erika"
    assert answer.AccessionNumber == "A1"
    assert answer.ScheduledProcedureStepSequence[0].ScheduledStationAETitle == "US1"


@pytest.mark.peer
def test_pynetdicom_gets_all_answers_and_its_cancel_is_heard(desk):
    for n in range(400):
        desk.take(orm(number=f"P{n}", accession=f"A{n}"))
    with Acceptor(Worklist(desk.book)).open() as port:
        ae = AE(ae_title="US1")
        ae.add_requested_context(MODALITY_WORKLIST)
        association = steady(ae.associate("127.0.0.1", port, ae_title="EDGEWARD"))
        answers = [status.Status for status, _ in association.send_c_find(query(), MODALITY_WORKLIST)]
        cancelled = []
        for status, _ in association.send_c_find(query(), MODALITY_WORKLIST, msg_id=7):
            cancelled.append(status.Status)
            if len(cancelled) == 1:
                association.send_c_cancel(7, association.accepted_contexts[0].context_id)
        association.release()

    assert answers == [0xFF00] * 400 + [0x0000]
    assert cancelled[-1] in (0xFE00, 0x0000)
    assert len(cancelled) >= 2


@pytest.mark.peer
@pytest.mark.parametrize(
    ("charset", "name"), [("ISO_IR 100", "Müller*"), ("ISO_IR 192", "王*"), ("GB18030", "王*"), ("", "Muller*")]
)
def test_a_query_is_read_in_its_own_character_set(three, charset, name):
    with Acceptor(Worklist(three.book)).open() as port:
        ae = AE(ae_title="US1")
        ae.add_requested_context(MODALITY_WORKLIST)
        association = steady(ae.associate("127.0.0.1", port, ae_title="EDGEWARD"))
        identifier = query(PatientName=name)
        identifier.SpecificCharacterSet = charset
        answers = [answer for status, answer in association.send_c_find(identifier, MODALITY_WORKLIST) if answer]
        association.release()

    [answer] = answers
    assert answer.AccessionNumber == ("A3" if "王" in name else "A2")
    assert str(answer.PatientName) in ("Müller^Zoë^^Dr", "Wang^XiaoMing=王^小明")


@pytest.mark.peer
def test_the_same_questions_get_the_same_answers_from_dcmtk(three, tmp_path):
    """dcmtk's own worklist server answers from files; ours must select the same of them."""
    wlmscpfs, findscu = require("wlmscpfs"), require("findscu")
    from tests.support.site import free_port

    files = tmp_path / "files" / "EDGEWARD"
    files.mkdir(parents=True)
    (files / "lockfile").touch()
    for number, entry in enumerate(three.book.steps()):
        if entry.order.accession_number == "A3":
            continue  # in a character set that dcmtk's server does not compare
        dataset = Dataset()
        dataset.update(copy.deepcopy(entry_dataset(entry)))
        dataset.ScheduledProcedureStepSequence[0].ScheduledStationAETitle = "US1"
        dataset.PatientName = str(dataset.PatientName).replace("ü", "u").replace("ë", "e")
        dataset.file_meta = Dataset()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        dataset.file_meta.MediaStorageSOPClassUID = MODALITY_WORKLIST
        dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
        dataset.save_as(files / f"{number}.wl", enforce_file_format=True)
    port = free_port()
    server = subprocess.Popen([wlmscpfs, "-dfr", "-dfp", files.parent, "-s", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    rng = random.Random(3)
    try:
        with Acceptor(Worklist(three.book)).open() as ours:
            for turn in range(12):
                keys = [rng.choice(["PatientName=M*", "PatientName=Muster^Erika", "PatientID=PID2", "PatientID", "AccessionNumber=A2"]),
                        rng.choice(["(0040,0100)[0].Modality=US", "(0040,0100)[0].Modality=MG", "(0040,0100)[0].Modality"]),
                        rng.choice([f"(0040,0100)[0].ScheduledProcedureStepStartDate={d}" for d in ("20260302", "20260302-20260303", "-20260301", "")])]  # fmt: skip
                found = []
                for where, target in (("ours", ours), ("theirs", port)):
                    out = tmp_path / f"{where}{turn}"
                    out.mkdir()
                    command = [
                        findscu,
                        "-W",
                        "-aet",
                        "US1",
                        "-aec",
                        "EDGEWARD",
                        "-X",
                        "-od",
                        out,
                        "127.0.0.1",
                        str(target),
                        "-k",
                        "AccessionNumber",
                    ]
                    for key in keys:
                        command += ["-k", key]
                    for _ in range(50):
                        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
                        if done.returncode == 0:
                            break
                    found.append(sorted(str(dcmread(p, force=True).AccessionNumber) for p in out.glob("rsp*.dcm")))
                assert [n for n in found[0] if n != "A3"] == found[1], keys
    finally:
        server.kill()
        server.wait()
