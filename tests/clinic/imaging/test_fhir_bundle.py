"""The FHIR transaction: valid for two validators, the same on every repeat, and true to finding and verdict."""

from __future__ import annotations

import copy
import json
from datetime import UTC
from typing import Any

import jsonschema
import pydantic
import pytest
from tests.support.fhir import FhirServer, Refuse, validate
from tests.support.imaging import breast_image, finding_for, not_analysed

from edgeward.clinic.imaging.fhir_bundle import Addresses, build_bundle
from edgeward.clinic.imaging.source import read_source
from edgeward.messages import DeliverRequest, Finding, ObjectRef, Verdict

OURS = Addresses("https://emr.example/fhir")
SERVERS = Addresses("https://emr.example/fhir", "server")


def request(finding: Finding, *actions: str, label: str = "benign", **changes: Any) -> DeliverRequest:
    """Return the revision after these actions."""
    verdicts = [
        Verdict(
            verdict_id=f"v{n}",
            item_id=finding.item_id,
            finding_id=finding.finding_id,
            action=action,
            label=label if action == "correct" else "",
            by="dr.weber",
            at_ns=finding.created_ns + (n + 1) * 10**9,
        )
        for n, action in enumerate(actions)
    ]
    return DeliverRequest(
        item_id=finding.item_id,
        trace_id="t",
        received_ns=1,
        deadline_ns=2,
        object=ObjectRef(object_id="o" * 32, path="/nowhere", data_key=b"k" * 32, size=1),
        finding=finding,
        revision=len(actions),
        verdicts=verdicts,
        **changes,
    )


def bundle(*actions: str, image=None, finding=None, addresses=OURS, **changes: Any) -> dict[str, Any]:
    image = image if image is not None else breast_image()
    finding = finding if finding is not None else finding_for(image)
    data = build_bundle(request(finding, *actions, **changes), read_source(image, finding), UTC, addresses)
    return json.loads(data)


def resources(made: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in made["entry"] if entry["resource"]["resourceType"] == kind]


def coded(made: dict[str, Any], code: str) -> list[dict[str, Any]]:
    return [o for o in resources(made, "Observation") if o["code"]["coding"][0]["code"] == code]


IMPRESSION, PROBABILITY, FINDING = "121073", "111047", "121071"


@pytest.mark.parametrize("addresses", [OURS, SERVERS], ids=["our ids", "the server's ids"])
@pytest.mark.parametrize("actions", [(), ("confirm",), ("correct",), ("reject",), ("confirm", "correct")])
def test_every_revision_is_valid_for_both_validators(actions, addresses):
    validate(bundle(*actions, addresses=addresses))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PatientID": "", "PatientName": "", "AccessionNumber": "", "StudyDate": "", "StudyTime": ""},
        {"PatientName": 'O"Brien^<b>&amp;</b>', "StudyDescription": "a\x01b\nc|d^e&f~g\\h"},
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "山田^太郎", "PatientID": "患者1"},
        {"IssuerOfPatientID": "1.2.3.4"},
        {"IssuerOfPatientID": "Sankt Josef"},
        {"TimezoneOffsetFromUTC": "+0545"},
        {"StudyTime": "235960"},
    ],
)
def test_whatever_the_image_says_the_transaction_is_valid(attributes):
    for actions in ((), ("correct",)):
        validate(bundle(*actions, image=breast_image(**attributes)))


@pytest.mark.parametrize(
    ("attributes", "started", "effective"),
    [
        ({"AcquisitionDate": "20190315"}, "2026-01-05T10:15:00", "2026-01-05T10:15:00"),
        ({"AcquisitionDate": "20190315", "AcquisitionTime": "083001"}, "2026-01-05T10:15:00", "2019-03-15T08:30:01"),
        ({"StudyTime": "", "ContentTime": None, "SeriesTime": None}, "2026-01-05", "2026-01-05"),
        ({"StudyTime": "07", "ContentTime": None, "SeriesTime": None}, "2026-01-05T07:00:00", "2026-01-05T07:00:00"),
        ({"StudyDate": ""}, None, "2026-01-05T10:15:00"),
    ],
)
def test_a_day_without_a_time_is_told_as_a_day(attributes, started, effective):
    made = bundle(image=breast_image(**attributes))

    validate(made)
    (study,) = resources(made, "ImagingStudy")
    (report,) = resources(made, "DiagnosticReport")
    for value, wanted in ((study.get("started"), started), (report["effectiveDateTime"], effective)):
        assert (value[: len(wanted)] if value and wanted else value) == wanted
        assert value is None or ("T" in value) == (wanted is not None and "T" in wanted), "no midnight is made up"


def test_a_finding_without_analysis_says_so_and_not_that_nothing_was_found():
    image = breast_image()

    made = bundle(image=image, finding=not_analysed(image, reason="outside the model's domain"))

    validate(made)
    (observation,) = resources(made, "Observation")
    assert observation["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert "valueCodeableConcept" not in observation
    (report,) = resources(made, "DiagnosticReport")
    assert report["status"] == "preliminary"
    assert "Not analysed: outside the model's domain" in report["conclusion"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measurement_that_is_no_number_is_left_out(value):
    import msgspec

    image = breast_image()
    finding = finding_for(image, malignancy=value)
    lesion = msgspec.structs.replace(finding.lesions[0], long_axis=value, area=value)

    made = bundle(image=image, finding=msgspec.structs.replace(finding, lesions=[lesion]))

    validate(made)
    assert not coded(made, PROBABILITY)
    assert len(coded(made, FINDING)[0]["component"]) == 2


def test_the_preliminary_result_says_what_the_model_said():
    made = bundle()

    (probability,) = coded(made, PROBABILITY)
    assert probability["status"] == "preliminary"
    assert probability["valueQuantity"] == {
        "value": 85.0,
        "unit": "%",
        "system": "http://unitsofmeasure.org",
        "code": "%",
    }
    assert probability["interpretation"][0]["coding"][0]["code"] == "POS"
    (impression,) = coded(made, IMPRESSION)
    assert impression["valueCodeableConcept"]["coding"][0] == {
        "system": "http://snomed.info/sct",
        "code": "21594007",
        "display": "Malignant",
    }
    (lesion,) = coded(made, FINDING)
    sizes = {c["code"]["coding"][0]["display"]: c["valueQuantity"] for c in lesion["component"]}
    assert sizes["Long Axis"]["code"] == "mm"
    assert sizes["Area"]["code"] == "mm2"
    assert lesion["bodySite"]["coding"][0]["display"] == "Left breast structure"
    (report,) = resources(made, "DiagnosticReport")
    assert report["status"] == "preliminary"
    assert "not verified" in report["conclusion"]
    assert len(report["result"]) == 3
    (device,) = resources(made, "Device")
    assert (device["deviceName"][0]["name"], device["version"][0]["value"]) == ("breast-ultrasound", "1.0.0")
    (provenance,) = resources(made, "Provenance")
    assert [agent["type"]["coding"][0]["code"] for agent in provenance["agent"]] == ["author"]
    assert len(provenance["target"]) == 4


def test_without_a_spacing_sizes_are_in_pixels():
    made = bundle(image=unscaled())

    units = {c["valueQuantity"]["code"] for c in coded(made, FINDING)[0]["component"]}
    assert units == {"{pixels}", "%"}


def unscaled():
    image = breast_image()
    del image.SequenceOfUltrasoundRegions
    return image


@pytest.mark.parametrize(
    ("actions", "report", "impression", "probability", "lesion"),
    [
        (("confirm",), "final", "final", "final", "final"),
        (("correct",), "amended", "amended", "entered-in-error", "final"),
        (("reject",), "entered-in-error", "entered-in-error", "entered-in-error", "entered-in-error"),
        (("confirm", "correct"), "amended", "amended", "entered-in-error", "final"),
        (("reject", "confirm"), "amended", "amended", "amended", "amended"),
        (("correct", "confirm"), "amended", "amended", "amended", "final"),
        (("confirm", "confirm"), "final", "final", "final", "final"),
    ],
)
def test_a_verdict_changes_the_status_of_everything_it_is_about(actions, report, impression, probability, lesion):
    made = bundle(*actions)

    assert resources(made, "DiagnosticReport")[0]["status"] == report
    assert coded(made, IMPRESSION)[0]["status"] == impression
    assert coded(made, PROBABILITY)[0]["status"] == probability
    assert coded(made, FINDING)[0]["status"] == lesion


def test_a_correction_is_the_clinicians_word():
    made = bundle("correct", label="benign")

    (impression,) = coded(made, IMPRESSION)
    assert impression["valueCodeableConcept"]["coding"][0]["display"] == "Benign"
    assert impression["performer"][0]["display"] == "dr.weber"
    assert "device" not in impression
    (report,) = resources(made, "DiagnosticReport")
    assert report["conclusion"].startswith("Corrected to: benign, by dr.weber.")
    assert report["resultsInterpreter"][0]["display"] == "dr.weber"
    (provenance,) = resources(made, "Provenance")
    assert [agent["type"]["coding"][0]["code"] for agent in provenance["agent"]] == ["author", "verifier"]


def test_a_correction_to_normal_takes_the_lesions_back():
    assert coded(bundle("correct", label="normal"), FINDING)[0]["status"] == "entered-in-error"


def test_the_same_revision_is_the_same_bytes_and_another_has_the_same_ids():
    image = breast_image()
    finding = finding_for(image)
    source = read_source(image, finding)

    first = build_bundle(request(finding), source, UTC, OURS)
    again = build_bundle(request(finding), source, UTC, OURS)
    confirmed = build_bundle(request(finding, "confirm"), source, UTC, OURS)

    assert first == again

    def urls(data: bytes) -> list[str]:
        return [e["request"]["url"] for e in json.loads(data)["entry"] if "Provenance" not in e["request"]["url"]]

    assert urls(first) == urls(confirmed)


@pytest.mark.parametrize("addresses", [OURS, SERVERS], ids=["our ids", "the server's ids"])
def test_sent_again_and_again_a_server_holds_it_once(addresses):
    server = FhirServer(update_create=addresses is OURS)

    for actions in ((), (), ("confirm",), ("confirm",), ("confirm", "correct")):
        server.transact(bundle(*actions, addresses=addresses, image=IMAGE))

    kinds = {kind: len(server.of(kind)) for kind in ("DiagnosticReport", "Observation", "Device", "ImagingStudy")}
    assert kinds == {"DiagnosticReport": 1, "Observation": 3, "Device": 1, "ImagingStudy": 1}
    assert len(server.of("Provenance")) == 3, "one per revision"
    assert server.of("DiagnosticReport")[0]["status"] == "amended"
    assert not server.of("Patient"), "no patient is ever made"


IMAGE = breast_image()


def test_a_study_the_server_knows_is_used_and_not_touched():
    server = FhirServer()
    known = {
        "resourceType": "ImagingStudy",
        "id": "s1",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{IMAGE.StudyInstanceUID}"}],
        "status": "registered",
    }
    server.put(known)

    server.transact(bundle(image=IMAGE))

    assert server.of("ImagingStudy") == [known]
    assert server.of("DiagnosticReport")[0]["imagingStudy"] == [{"reference": "ImagingStudy/s1"}]


def test_patients_without_a_known_system_cannot_be_taken_for_anothers():
    (report,) = resources(bundle(image=breast_image(PatientID="4711")), "DiagnosticReport")

    assert "system" not in report["subject"]["identifier"]
    assert "reference" not in report["subject"]


def test_an_issuer_that_is_an_oid_is_the_system():
    made = bundle(image=breast_image(PatientID="4711", IssuerOfPatientID="1.2.276.0.76"))

    identifier = resources(made, "DiagnosticReport")[0]["subject"]["identifier"]
    assert (identifier["system"], identifier["value"]) == ("urn:oid:1.2.276.0.76", "4711")


def test_the_validators_of_these_tests_do_find_faults():
    good = bundle()
    validate(good)
    for name, value, error in (
        ("status", "nonsense", jsonschema.ValidationError),
        ("code", None, pydantic.ValidationError),
        ("subjekt", {}, pydantic.ValidationError),
    ):
        bad = copy.deepcopy(good)
        target = resources(bad, "Observation")[0]
        target[name] = value
        if value is None:
            del target[name]
        with pytest.raises(error):
            validate(bad)
    dangling = copy.deepcopy(good)
    resources(dangling, "DiagnosticReport")[0]["result"][0]["reference"] = "Observation/nowhere"
    with pytest.raises(Refuse, match="refers to nothing"):
        FhirServer().transact(dangling)
