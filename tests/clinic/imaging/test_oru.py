"""The ORU^R01, read by a library that did not write it (hl7apy), checked against the grammar of v2.5.1."""

from __future__ import annotations

from datetime import UTC

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from tests.clinic.imaging.test_fhir_bundle import request, unscaled
from tests.support.hl7 import read
from tests.support.imaging import breast_image, finding_for, not_analysed

from edgeward.clinic.imaging.oru import Parties, build_oru, control_id
from edgeward.clinic.imaging.source import read_source

PARTIES = Parties("hospital", "EMR", "HOSPITAL")
IMAGE = breast_image()


def written(*actions: str, image=IMAGE, finding=None, label: str = "benign", parties=PARTIES) -> bytes:
    finding = finding if finding is not None else finding_for(image)
    return build_oru(request(finding, *actions, label=label), read_source(image, finding), UTC, parties)


def results(data: bytes) -> list:
    """Return the OBX segments, as hl7apy reads them."""
    group = read(data).oru_r01_patient_result.oru_r01_order_observation
    return [observation.obx for observation in group.oru_r01_observation]


def by_code(data: bytes) -> dict[tuple[str, str], tuple[str, str]]:
    """Return (code, part) -> (value, status)."""
    return {
        (o.obx_3.ce_1.value, o.obx_4.value.partition(".")[2]): (
            " ".join(value.to_er7() for value in o.obx_5),
            o.obx_11.value,
        )
        for o in results(data)
    }


def test_it_carries_patient_order_and_study():
    message = read(written(image=breast_image(IssuerOfPatientID="HOSP", PatientID="P-1")))

    assert message.msh.msh_9.to_er7() == "ORU^R01^ORU_R01"
    assert message.msh.msh_12.to_er7() == "2.5.1"
    assert message.msh.msh_18.value == "UNICODE UTF-8"
    patient = message.oru_r01_patient_result.oru_r01_patient.pid
    assert patient.pid_3.to_er7() == "P-1^^^HOSP^MR"
    assert patient.pid_5.to_er7() == "Muster^Erika^^^^^L^A"
    assert (patient.pid_7.to_er7(), patient.pid_8.value) == ("19700102", "F")
    order = message.oru_r01_patient_result.oru_r01_order_observation
    assert (order.orc.orc_1.value, order.orc.orc_3.to_er7()) == ("RE", "A123")
    assert (order.obr.obr_3.to_er7(), order.obr.obr_18.value) == ("A123", "A123")
    assert order.obr.obr_16.to_er7() == "^Referrer^Ann"
    assert order.obr.obr_7.to_er7() == "20260105101500"


def test_a_patient_without_a_number_has_no_type_of_number_either():
    (pid,) = [line for line in written(image=breast_image(PatientID="")).decode().split("\r") if line[:3] == "PID"]

    assert pid.split("|")[3] == ""


@pytest.mark.parametrize(
    ("attributes", "observed"),
    [
        ({"AcquisitionDate": "20190315", "ContentDate": None, "SeriesDate": None, "StudyDate": ""}, "20190315"),
        ({"AcquisitionDate": "20190315"}, "20260105101500"),
        ({"AcquisitionDate": "20190315", "AcquisitionTime": "0830"}, "201903150830"),
        ({"AcquisitionDateTime": "20190315"}, "20260105101500"),
        ({"AcquisitionDateTime": "20190315083001.5+0100"}, "20190315083001"),
        ({"ContentTime": None, "SeriesTime": "091122"}, "20260105091122"),
        ({"ContentTime": None, "SeriesTime": None, "StudyTime": "07"}, "2026010507"),
    ],
)
def test_the_time_of_an_image_is_told_as_far_as_it_is_known(attributes, observed):
    order = read(written(image=breast_image(**attributes))).oru_r01_patient_result.oru_r01_order_observation

    assert order.obr.obr_7.to_er7() == observed


def test_numbers_of_placer_and_filler_are_the_images_where_it_has_them():
    image = breast_image(PlacerOrderNumberImagingServiceRequest="PL7", FillerOrderNumberImagingServiceRequest="FI8")

    order = read(written(image=image)).oru_r01_patient_result.oru_r01_order_observation

    assert (order.obr.obr_2.to_er7(), order.obr.obr_3.to_er7(), order.obr.obr_18.value) == ("PL7", "FI8", "A123")


def designator(local="", universal="", kind=""):
    item = Dataset()
    item.LocalNamespaceEntityID = local
    if universal:
        item.UniversalEntityID, item.UniversalEntityIDType = universal, kind
    return [item]


@pytest.mark.parametrize(
    ("placer", "expected"),
    [
        (designator("HIS"), "PL7^HIS"),
        (designator("HIS", "1.2.3", "ISO"), "PL7^HIS^1.2.3^ISO"),
        (designator("", "1.2.3", "ISO"), "PL7^^1.2.3^ISO"),
        (designator("A^B|C"), r"PL7^A\S\B\F\C"),
        (designator("x" * 200), "PL7"),
        ([], "PL7"),
    ],
)
def test_the_placers_number_goes_back_with_the_name_of_the_placer(placer, expected):
    image = breast_image(PlacerOrderNumberImagingServiceRequest="PL7")
    image.OrderPlacerIdentifierSequence = placer

    order = read(written(image=image)).oru_r01_patient_result.oru_r01_order_observation

    assert (order.orc.orc_2.to_er7(), order.obr.obr_2.to_er7()) == (expected, expected)


def test_the_preliminary_result_says_what_the_model_said():
    data = written()

    found = by_code(data)
    assert found["113014", ""] == (IMAGE.StudyInstanceUID, "O")
    assert found["121073", ""] == ("21594007^Malignant^SCT", "P")
    assert found["111047", ""] == ("85.0", "P")
    assert found["103339001", "lesion-1"] == ("13.33", "P")
    units = {o.obx_3.ce_1.value: o.obx_6.to_er7() for o in results(data)}
    assert units["111047"] == "%^percent^UCUM"
    assert units["42798000"] == "mm2^square millimeter^UCUM"
    text, status = found["59776-5", "text"]
    assert status == "P"
    assert "not verified by a clinician" in text
    assert {o.obx_18.to_er7() for o in results(data)} == {"breast-ultrasound 1.0.0^EDGEWARD"}


def test_without_a_spacing_sizes_are_in_pixels():
    data = written(image=unscaled())

    units = {o.obx_6.ce_1.value for o in results(data) if o.obx_2.value == "NM"}
    assert units == {"%", "{pixels}"}


@pytest.mark.parametrize(
    ("actions", "order", "impression", "probability", "lesion"),
    [
        ((), "P", "P", "P", "P"),
        (("confirm",), "F", "F", "F", "F"),
        (("correct",), "C", "C", "W", "F"),
        (("reject",), "C", "W", "W", "W"),
        (("confirm", "correct"), "C", "C", "W", "F"),
        (("reject", "confirm"), "C", "C", "C", "C"),  # what was posted as wrong is right after all
        (("correct", "confirm"), "C", "C", "C", "F"),
        (("confirm", "confirm"), "F", "F", "F", "F"),
    ],
)
def test_a_verdict_changes_the_status_of_order_and_observations(actions, order, impression, probability, lesion):
    data = written(*actions)

    found = by_code(data)
    assert read(data).oru_r01_patient_result.oru_r01_order_observation.obr.obr_25.value == order
    assert found["121073", ""][1] == impression
    assert found["111047", ""][1] == probability
    assert found["103339001", "lesion-1"][1] == lesion


def test_a_correction_names_the_clinician_and_the_new_label():
    data = written("correct", label="benign")

    assert by_code(data)["121073", ""][0] == "30807003^Benign^SCT"
    order = read(data).oru_r01_patient_result.oru_r01_order_observation
    assert order.obr.obr_32.to_er7() == "dr.weber"
    assert {o.obx_16.to_er7() for o in results(data)} == {"dr.weber"}


def test_every_revision_names_the_same_observations_so_that_they_replace_the_earlier():
    assert set(by_code(written())) == set(by_code(written("confirm"))) == set(by_code(written("reject")))


def test_two_images_of_one_study_do_not_overwrite_one_another():
    first = {o.obx_4.value for o in results(written(finding=finding_for(IMAGE, "item-1")))}
    second = {o.obx_4.value for o in results(written(finding=finding_for(IMAGE, "item-2")))}

    assert not first & second
    assert all(len(value) <= 20 for value in first)


def test_a_finding_without_analysis_says_so():
    data = written(finding=not_analysed(IMAGE, reason="outside the model's domain"))

    found = by_code(data)
    assert found["121073", ""] == ("", "X")
    assert "Not analysed: outside the model's domain" in found["59776-5", "text"][0]
    assert ("111047", "") not in found


def test_the_control_id_is_the_same_on_a_repeat_and_another_for_a_revision():
    finding = finding_for(IMAGE)

    assert written() == written()
    assert control_id(request(finding)) != control_id(request(finding, "confirm"))
    assert control_id(request(finding)) != control_id(request(finding_for(IMAGE, "item-2")))
    assert len(control_id(request(finding))) == 20


def test_delimiters_and_line_breaks_in_a_name_stay_in_their_field():
    image = breast_image(PatientID="a|b^c&d~e", StudyDescription="x\ny")
    finding = finding_for(image)
    finding = msgspec.structs.replace(finding, model="m|1\r\nOBX|9|ST")

    data = written(image=image, finding=finding)

    message = read(data)
    patient = message.oru_r01_patient_result.oru_r01_patient.pid.pid_3.cx_1
    assert patient.to_er7() == "a\\F\\b\\S\\c\\T\\d\\R\\e"
    assert data.count(b"\r") == 5 + len(results(data))


@pytest.mark.parametrize("name", ["", "^^^^", "=="])
def test_a_name_that_is_not_known_is_said_to_be_unspecified(name):
    message = read(written(image=breast_image(PatientName=name)))

    assert message.oru_r01_patient_result.oru_r01_patient.pid.pid_5.to_er7() == "^^^^^^U"


def test_a_name_in_several_scripts_is_written_in_all_of_them():
    image = breast_image(SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")

    patient = read(written(image=image)).oru_r01_patient_result.oru_r01_patient.pid

    assert [name.to_er7() for name in patient.pid_5] == [
        "Yamada^Tarou^^^^^L^A",
        "山田^太郎^^^^^L^I",
        "やまだ^たろう^^^^^L^P",
    ]


def test_prefix_and_suffix_of_a_name_change_places():
    image = breast_image(PatientName="Weber^Anna^Maria^Dr.^MD")

    patient = read(written(image=image)).oru_r01_patient_result.oru_r01_patient.pid

    assert patient.pid_5.to_er7() == "Weber^Anna^Maria^MD^Dr.^^L^A"


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_no_text_whatever_makes_another_segment_or_field(name, reason, comment):
    finding = not_analysed(IMAGE, reason=reason)
    finding = msgspec.structs.replace(finding, model=name)
    asked = request(finding, "confirm")
    verdict = msgspec.structs.replace(asked.verdicts[0], by=name, comment=comment)
    asked = msgspec.structs.replace(asked, verdicts=[verdict])

    data = build_oru(asked, read_source(IMAGE, finding), UTC, Parties(name, name, name))

    lines = data.decode().split("\r")
    assert [line[:3] for line in lines] == ["MSH", "PID", "PV1", "ORC", "OBR", "OBX", "OBX", "OBX", ""]
    assert all(line.count("|") <= 33 for line in lines)
    assert not set(data) & set(b"\n\x0b\x1c")
