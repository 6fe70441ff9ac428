"""QIDO-RS finds what is in the vault, says no more than was asked for, and refuses keys that it cannot match."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from starlette.exceptions import HTTPException
from tests.gateway.webdoor import Web, open_web, parts_of
from tests.support.imaging import breast_image

from edgeward.gateway import qido as qido_module
from edgeward.gateway.native_xml import from_native_xml
from edgeward.gateway.qido import read_query

STUDIES = [generate_uid(), generate_uid()]


def tag(dataset: dict[str, Any], number: str) -> Any:
    value = dataset[number].get("Value", [None])
    return value[0] if len(value) == 1 else value


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    """Two studies of two patients: the first with two series of two and one instances."""
    async with open_web(tmp_path / "home") as web:
        series = generate_uid()
        first = {"rows": 16, "columns": 24, "StudyInstanceUID": STUDIES[0]}
        images = [
            breast_image(**first, SeriesInstanceUID=series, InstanceNumber="1"),
            breast_image(**first, SeriesInstanceUID=series, InstanceNumber="2", seed=1),
            breast_image(**first, Modality="SR", SeriesNumber="9", SeriesDescription="Report", seed=2),
            breast_image(
                rows=16,
                columns=24,
                StudyInstanceUID=STUDIES[1],
                PatientName="Müller^Änne",
                PatientID="P-9",
                AccessionNumber="B777",
                StudyDate="20250701",
                SpecificCharacterSet="ISO_IR 100",
            ),
        ]
        answer = await web.store(*images)
        assert answer.status_code == 200
        web.images = images  # type: ignore[attr-defined]
        yield web


async def find(web: Web, path: str, **parameters: Any) -> list[dict[str, Any]]:
    answer = await web.viewer().get(path, params=parameters)
    assert answer.status_code in (200, 204), answer.text
    if answer.status_code == 204:
        assert answer.content == b""
        return []
    assert answer.headers["content-type"] == "application/dicom+json"
    found = answer.json()
    assert found
    for one in found:  # it is the DICOM JSON model
        Dataset.from_json(one)
    return list(found)


async def studies(web: Web, **parameters: Any) -> list[int]:
    """Which of the two studies match."""
    return sorted(STUDIES.index(tag(one, "0020000D")) for one in await find(web, "/studies", **parameters))


async def test_a_study_is_told_with_its_counts(web: Web) -> None:
    (study,) = await find(web, "/studies", StudyInstanceUID=STUDIES[0])

    assert (tag(study, "00201206"), tag(study, "00201208")) == (2, 3)
    assert sorted(tag(study, "00080061")) == ["SR", "US"]
    assert tag(study, "00100010") == {"Alphabetic": "Muster^Erika"}
    assert (tag(study, "00100020"), tag(study, "00080020"), tag(study, "00080050")) == ("P-4711", "20260105", "A123")
    assert tag(study, "00081190").endswith(f"/dicomweb/studies/{STUDIES[0]}")
    assert tag(study, "00080005") == "ISO_IR 192"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, [0, 1]),
        ({"PatientID": "P-4711"}, [0]),
        ({"00100020": "P-*"}, [0, 1]),
        ({"PatientID": "P-47"}, []),
        ({"PatientName": "muster^*"}, [0]),
        ({"PatientName": "MÜLLER*"}, [1]),
        ({"PatientName": "*"}, [0, 1]),
        ({"PatientName": ""}, [0, 1]),
        ({"AccessionNumber": "B777"}, [1]),
        ({"StudyDate": "20260101-20261231"}, [0]),
        ({"StudyDate": "-20251231"}, [1]),
        ({"ModalitiesInStudy": "SR"}, [0]),
        ({"ModalitiesInStudy": "SR,US"}, [0, 1]),
        ({"ModalitiesInStudy": "CT"}, []),
        ({"ModalitiesInStudy": "S?"}, [0]),
        ({"StudyInstanceUID": ",".join(STUDIES)}, [0, 1]),
        ({"StudyInstanceUID": f"{STUDIES[0]}\\{STUDIES[1]}"}, [0, 1]),
        ({"PatientID": "P-4711", "AccessionNumber": "B777"}, []),
        ({"StudyDescription": "*ultrasound"}, [0, 1]),
        ({"PatientBirthDate": "19700102", "PatientSex": "F"}, [0, 1]),
    ],
)
async def test_studies_are_found_by_their_attributes(web: Web, parameters: dict[str, str], expected: list[int]) -> None:
    assert await studies(web, **parameters) == expected


async def test_series_and_instances_are_found_below_a_study_and_everywhere(web: Web) -> None:
    series = await find(web, f"/studies/{STUDIES[0]}/series")
    assert {(tag(one, "00080060"), tag(one, "00201209")) for one in series} == {("US", 2), ("SR", 1)}
    assert all("00100010" not in one for one in series)  # the study is named already
    (report,) = await find(web, f"/studies/{STUDIES[0]}/series", Modality="SR")
    assert (tag(report, "0008103E"), tag(report, "00200011")) == ("Report", 9)
    everywhere = await find(web, "/series", PatientID="P-9")
    assert [(tag(one, "0020000D"), tag(one, "00100020")) for one in everywhere] == [(STUDIES[1], "P-9")]

    uid = next(tag(one, "0020000E") for one in series if tag(one, "00080060") == "US")
    instances = await find(web, f"/studies/{STUDIES[0]}/series/{uid}/instances")
    assert sorted(tag(one, "00200013") for one in instances) == [1, 2]
    assert {(tag(one, "00280010"), tag(one, "00280011")) for one in instances} == {(16, 24)}
    assert len(await find(web, f"/studies/{STUDIES[0]}/instances")) == 3
    assert len(await find(web, "/instances")) == 4
    wanted = str(web.images[3].SOPInstanceUID)  # type: ignore[attr-defined]
    (one,) = await find(web, "/instances", SOPInstanceUID=wanted)
    assert tag(one, "0020000D") == STUDIES[1]
    assert await find(web, f"/studies/{STUDIES[0]}/instances", SOPInstanceUID=wanted) == []
    assert await find(web, f"/studies/{STUDIES[0]}/instances", StudyInstanceUID=STUDIES[1]) == []


async def test_pages_do_not_overlap_and_more_is_told(web: Web) -> None:
    seen = []
    for offset in range(4):
        answer = await web.viewer().get("/instances", params={"limit": 1, "offset": offset})
        seen.append(tag(answer.json()[0], "00080018"))
        assert ("additional results" in answer.headers.get("warning", "")) is (offset < 3)

    assert len(set(seen)) == 4
    assert await find(web, "/instances", offset=4) == []


async def test_pages_of_a_search_by_sealed_values(web: Web) -> None:
    first = await web.viewer().get("/instances", params={"PatientID": "P-4711", "limit": 2})
    second = await find(web, "/instances", PatientID="P-4711", limit=2, offset=2)

    assert "additional results" in first.headers["warning"]
    assert len({tag(one, "00080018") for one in [*first.json(), *second]}) == 3


async def test_a_search_that_had_to_end_early_says_so(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qido_module, "EXAMINED", 2)

    answer = await web.viewer().get("/instances", params={"PatientID": "nobody"})

    assert answer.status_code == 204
    assert "additional results" in answer.headers["warning"]


async def test_fields_that_are_asked_for_are_added(web: Web) -> None:
    (usual,) = await find(web, "/studies", StudyInstanceUID=STUDIES[1])
    (more,) = await find(web, "/studies", StudyInstanceUID=STUDIES[1], includefield="00080062,IssuerOfPatientID")
    (everything,) = await find(web, "/studies", StudyInstanceUID=STUDIES[1], includefield="all")

    assert "00080062" not in usual
    assert {"00080062", "00100021"} <= set(more) <= set(everything)


async def test_fuzzy_matching_is_declined_but_answered(web: Web) -> None:
    answer = await web.viewer().get("/studies", params={"fuzzymatching": "true", "PatientName": "Mustre*"})

    assert answer.status_code == 204
    assert "fuzzymatching" in answer.headers["warning"]
    assert "Mustre" not in answer.headers["warning"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"NoSuchKeyword": "1"},
        {"00100099": "x"},
        {"InstitutionName": "General"},
        {"PatientID": "x" * 2000},
        {"StudyDate": "yesterday"},
        {"limit": "-1"},
        {"limit": "many"},
        {"offset": "9" * 30},
        {"fuzzymatching": "perhaps"},
        {"SOPInstanceUID": "1.2"},  # not an attribute of a study
        {"RequestAttributesSequence.ScheduledProcedureStepID": "1"},
        {"emptyvaluematching": "true"},
    ],
)
async def test_what_cannot_be_matched_is_refused_never_ignored(web: Web, parameters: dict[str, str]) -> None:
    answer = await web.viewer().get("/studies", params=parameters)

    assert answer.status_code == 400
    assert all(value not in answer.text for value in parameters.values() if len(value) > 4)


async def test_too_many_parameters_are_refused() -> None:
    with pytest.raises(HTTPException):
        read_query("study", [("PatientID", "1")] * 100, {})


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/dicom+json", 200),
        ("application/json", 200),
        ("*/*", 200),
        ("text/html, application/dicom+json;q=0.9", 200),
        ('multipart/related; type="application/dicom+xml"', 200),
        ("application/dicom+xml", 200),
        ("text/html", 406),
        ("application/dicom+json;q=0", 406),
    ],
)
async def test_answers_are_attributes_and_nothing_else(web: Web, accept: str, status: int) -> None:
    assert (await web.viewer().get("/studies", headers={"Accept": accept})).status_code == status


async def test_xml_says_what_json_says(web: Web) -> None:
    viewer = web.viewer()
    listed = (await viewer.get("/studies", params={"includefield": "all"})).json()

    wanted = {"includefield": "all", "accept": 'multipart/related; type="application/dicom+xml"'}
    answer = await viewer.get("/studies", params=wanted)

    assert answer.headers["content-type"].startswith('multipart/related; type="application/dicom+xml"; boundary=')
    parts = parts_of(answer)
    assert [head["content-type"] for head, _ in parts] == ["application/dicom+xml"] * 2
    assert [from_native_xml(document) for _, document in parts] == listed


WHOLE = 'multipart/related; type="application/dicom"; transfer-syntax=*'
STEP, OTHER = "00400275.00400009", "RequestAttributesSequence.RequestedProcedureID"


@pytest.fixture
async def requested(web: Web) -> str:
    """Return the series of an image that fulfils two requests, and was made on 2 March 2026."""
    image = breast_image(rows=16, columns=16, StudyInstanceUID=STUDIES[0], SeriesNumber="4", seed=5)
    image.RequestAttributesSequence = [Dataset(), Dataset()]
    for item, number in zip(image.RequestAttributesSequence, ("1", "2"), strict=True):
        item.ScheduledProcedureStepID, item.RequestedProcedureID = f"STEP{number}", f"RP{number}"
    image.PerformedProcedureStepStartDate, image.PerformedProcedureStepStartTime = "20260302", "083000"
    await web.store(image)
    return str(image.SeriesInstanceUID)


@pytest.mark.parametrize(
    ("parameters", "matches"),
    [
        ({STEP: "STEP2"}, True),
        ({"RequestAttributesSequence.ScheduledProcedureStepID": "STEP*", OTHER: "RP1"}, True),
        ({STEP: "STEP1", OTHER: "RP2"}, False),  # in no single item
        ({STEP: "STEP3"}, False),
        ({"PerformedProcedureStepStartDate": "20260301-20260303"}, True),
        ({"00400244": "20260303-"}, False),
        ({"PerformedProcedureStepStartTime": "0830"}, True),
        ({"Modality": "SR", STEP: "STEP1"}, False),
    ],
)
async def test_series_are_found_by_their_request(
    web: Web, requested: str, parameters: dict[str, str], matches: bool
) -> None:
    found = await find(web, "/series", **parameters)

    assert [tag(one, "0020000E") for one in found] == ([requested] if matches else [])


async def test_requests_are_told_where_they_are_asked_for(web: Web, requested: str) -> None:
    (plain,) = await find(web, "/series", SeriesInstanceUID=requested)
    (told,) = await find(web, "/series", SeriesInstanceUID=requested, includefield="RequestAttributesSequence")

    assert "00400275" not in plain
    assert [(tag(one, "00400009"), tag(one, "00401001")) for one in told["00400275"]["Value"]] == [
        ("STEP1", "RP1"),
        ("STEP2", "RP2"),
    ]
    assert tag(told, "00400244") == "20260302"


async def test_what_cannot_be_read_fulfils_no_request(web: Web, requested: str) -> None:
    for path in web.site.home.vault.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0" * path.stat().st_size)

    assert await find(web, "/series", **{STEP: "STEP1"}) == []
    assert len(await find(web, "/series", SeriesInstanceUID=requested, includefield="all")) == 1


async def test_what_was_erased_is_not_listed(web: Web) -> None:
    web.journal._db.write(
        lambda db: db.execute("UPDATE items SET wrapped_key = NULL WHERE study_instance_uid = ?", (STUDIES[1],))
    )

    assert await studies(web) == [0]


async def test_of_two_objects_with_one_uid_the_first_is_listed(web: Web) -> None:
    first = web.images[3]  # type: ignore[attr-defined]
    other = breast_image(
        rows=16, columns=16, seed=9, StudyInstanceUID=STUDIES[1], SOPInstanceUID=first.SOPInstanceUID, PatientID="P-X"
    )
    assert (await web.store(other)).status_code == 200

    (study,) = await find(web, "/studies", StudyInstanceUID=STUDIES[1])

    assert (tag(study, "00201208"), tag(study, "00100020")) == (1, "P-9")


async def test_a_conflict_in_another_study_than_the_first_is_found_there(web: Web) -> None:
    first = web.images[3]  # type: ignore[attr-defined]
    elsewhere, uid = generate_uid(), first.SOPInstanceUID
    for seed in (9, 10):  # of these two again the first
        other = breast_image(rows=16, columns=16, seed=seed, StudyInstanceUID=elsewhere, SOPInstanceUID=uid, PatientID="P-X")  # fmt: skip
        assert (await web.store(other)).status_code == 200

    (study,) = await find(web, "/studies", StudyInstanceUID=elsewhere)
    assert (tag(study, "00201208"), tag(study, "00100020")) == (1, "P-X")
    listed = await find(web, "/instances", SOPInstanceUID=str(uid))
    assert sorted(tag(one, "0020000D") for one in listed) == sorted([elsewhere, STUDIES[1]])
    answer = await web.viewer().get(f"/studies/{elsewhere}", headers={"Accept": WHOLE})
    assert answer.status_code == 200
    assert len(parts_of(answer)) == 1
    answer = await web.viewer().get(f"/studies/{STUDIES[1]}", headers={"Accept": WHOLE})
    assert len(parts_of(answer)) == 1


@pytest.fixture
async def shared(web: Web) -> str:
    """Return a study of P-1 (three objects in two series, one without issuer), P-2 (one, in the first of them)."""
    study, series = generate_uid(), [generate_uid(), generate_uid()]
    for seed, (patient, issuer, place) in enumerate((("P-1", "A", 0), ("P-1", "A", 0), ("P-2", "A", 0), ("P-1", "", 1))):  # fmt: skip
        image = breast_image(
            rows=16, columns=16, seed=20 + seed, StudyInstanceUID=study, SeriesInstanceUID=series[place],
            PatientID=patient, PatientName=f"Name^{patient}", IssuerOfPatientID=issuer, AccessionNumber=f"ACC{patient}",
        )  # fmt: skip
        assert (await web.store(image)).status_code == 200
    return study


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, {("P-1", 2, 3), ("P-2", 1, 1)}),
        ({"PatientID": "P-2"}, {("P-2", 1, 1)}),
        ({"PatientName": "name^p-1"}, {("P-1", 2, 3)}),
        ({"AccessionNumber": "ACCP-2"}, {("P-2", 1, 1)}),
        ({"PatientID": "P-2", "AccessionNumber": "ACCP-1"}, set()),
        ({"ModalitiesInStudy": "US", "PatientID": "P-2"}, {("P-2", 1, 1)}),
    ],
)
async def test_a_study_of_two_patients_is_found_and_told_for_each(
    web: Web, shared: str, parameters: dict[str, str], expected: set[tuple[str, int, int]]
) -> None:
    found = await find(web, "/studies", StudyInstanceUID=shared, **parameters)

    assert {(tag(one, "00100020"), tag(one, "00201206"), tag(one, "00201208")) for one in found} == expected
    assert len(found) == len(expected)


async def test_a_series_of_two_patients_is_told_for_each_where_it_is_said_whose_it_is(web: Web, shared: str) -> None:
    def counts(found: list[dict[str, Any]]) -> list[int]:
        return sorted(tag(one, "00201209") for one in found)

    assert counts(await find(web, "/series", StudyInstanceUID=shared)) == [1, 1, 2]
    assert counts(await find(web, f"/studies/{shared}/series")) == [1, 3]  # it does not say whose they are
    assert counts(await find(web, f"/studies/{shared}/series", includefield="PatientID")) == [1, 1, 2]
    assert counts(await find(web, f"/studies/{shared}/series", PatientID="P-2")) == [1]
    assert counts(await find(web, "/series", PatientID="P-1")) == [1, 2]
    assert len(await find(web, "/instances", PatientID="P-1")) == 3


async def test_pages_of_a_study_of_two_patients_do_not_overlap(web: Web, shared: str) -> None:
    seen = [
        [(tag(one, "0020000D"), tag(one, "00100020")) for one in await find(web, "/studies", limit=1, offset=offset)]
        for offset in range(5)
    ]

    assert [len(page) for page in seen] == [1, 1, 1, 1, 0]
    assert len({page[0] for page in seen if page}) == 4


async def test_an_object_without_patient_belongs_to_the_only_one_of_its_study(web: Web) -> None:
    study = generate_uid()
    for seed, patient in enumerate(("", "P-1")):
        image = breast_image(rows=16, columns=16, seed=30 + seed, StudyInstanceUID=study, PatientID=patient)
        assert (await web.store(image)).status_code == 200

    (found,) = await find(web, "/studies", PatientID="P-1")

    assert (tag(found, "00201208"), tag(found, "0020000D")) == (2, study)
    assert len(await find(web, "/studies", StudyInstanceUID=study)) == 1


async def test_a_hostile_query_string_is_survived(web: Web) -> None:
    viewer = web.viewer()
    for query in ("%00=%ff", "PatientName=%ff%fe", "limit=1&limit=2", "=&&&==", "PatientName=" + "*a" * 400):
        answer: httpx.Response = await viewer.get(f"/studies?{query}")
        assert answer.status_code in (200, 204, 400)
