"""All four kinds of result in a real PACS, and read by programs that are not ours.

Orthanc takes them by C-STORE and serves them by DICOMweb; highdicom reads the segmentation, dcmtk the rest.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import highdicom as hd
import httpx
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from tests.clinic.imaging.test_segmentation import LOOP, lesion, loop_finding
from tests.support.imaging import as_file, breast_image, finding_for, pixels_of, test_file, verdict
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.peers import require

from edgeward.clinic.imaging.capture import build_capture
from edgeward.clinic.imaging.header import encode_dataset
from edgeward.clinic.imaging.lesions import mask
from edgeward.clinic.imaging.presentation import build_presentation
from edgeward.clinic.imaging.report import build_report
from edgeward.clinic.imaging.segmentation import build_segmentation
from edgeward.clinic.imaging.source import read_source
from edgeward.compute.decode import decode_frame
from edgeward.messages import Finding

pytestmark = pytest.mark.peer

DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
# Every way in which a source stores pixels, and every encoding of a data set.
SOURCES = [
    "examples_ybr_color.dcm",  # a loop
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "ExplVR_BigEnd.dcm",
    "US1_J2KI.dcm",
    "OBXXXX1A_rle_2frame.dcm",
    "gdcm-US-ALOKA-16.dcm",
    "color3d_jpeg_baseline.dcm",
    "image_dfl.dcm",  # deflated
    "CT_small.dcm",  # 16 bit, signed
    "liver_1frame.dcm",
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc with DICOMweb; the tests differ in their studies."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), Plugins=[DICOMWEB]) as pacs:
        yield pacs


def made_from(image: Dataset, finding: Finding, pixels: np.ndarray) -> dict[str, Dataset]:
    source = read_source(image, finding)
    made = {
        "sr": build_report(finding, source, UTC),
        "seg": build_segmentation(finding, source, UTC),
        "gsps": build_presentation(finding, source, UTC),
        "capture": build_capture(finding, source, pixels, UTC),
        "revision": build_report(finding, source, UTC, 1, [verdict("correct", label="benign", by="Müller^Anna")]),
    }
    return {kind: dataset for kind, dataset in made.items() if dataset is not None}


def send(archive: Orthanc, folder: Path, objects: dict[str, Dataset]) -> None:
    """C-STORE with dcmtk, as any other sender would."""
    files = []
    for kind, dataset in objects.items():
        dataset.save_as(folder / f"{kind}.dcm", enforce_file_format=True)
        files.append(str(folder / f"{kind}.dcm"))
    command = [require("storescu"), "-R", "-aec", archive.ae_title, "127.0.0.1", str(archive.dicom_port), *files]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def retrieve(archive: Orthanc, sent: Dataset) -> Dataset:
    """WADO-RS, one instance."""
    url = f"{archive.url}/dicom-web/studies/{sent.StudyInstanceUID}/series/{sent.SeriesInstanceUID}"
    answer = httpx.get(
        f"{url}/instances/{sent.SOPInstanceUID}",
        headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'},
        timeout=30,
    )
    answer.raise_for_status()
    return pydicom.dcmread(io.BytesIO(only_part(answer)))


def only_part(answer: httpx.Response) -> bytes:
    """The one part of a multipart answer."""
    boundary = answer.headers["Content-Type"].split("boundary=")[1].split(";")[0].strip('"')
    return answer.content[answer.content.index(b"\r\n\r\n") + 4 : answer.content.rindex(f"\r\n--{boundary}".encode())]


def run_on(folder: Path, dataset: Dataset, program: str, *arguments: str) -> str:
    file = folder / "served.dcm"
    dataset.save_as(file, enforce_file_format=True)
    command = [require(program), *arguments[:-1], str(file), *arguments[-1:]]
    run = subprocess.run([c for c in command if c], capture_output=True, encoding="latin-1", check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SOURCES)
def test_all_kinds_are_stored_served_and_read_from_every_kind_of_source(archive: Orthanc, tmp_path, name):
    data = test_file(name).read_bytes()
    image = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    finding = finding_for(image, f"item-{name}")
    frame = decode_frame(data, finding.frame)
    objects = made_from(image, finding, frame.pixels)
    assert set(objects) == {"sr", "seg", "gsps", "capture", "revision"}

    send(archive, tmp_path, objects)
    served = {kind: retrieve(archive, dataset) for kind, dataset in objects.items()}

    for kind, dataset in objects.items():
        assert encode_dataset(served[kind]) == encode_dataset(dataset), kind
        assert served[kind].StudyInstanceUID == image.StudyInstanceUID
    assert "Malignant" in run_on(tmp_path, served["sr"], "dsrdump", "")
    assert "VERIFIED" in run_on(tmp_path, served["revision"], "dsrdump", "")
    for document in (served["sr"], served["revision"]):
        document.save_as(tmp_path / "sr.dcm")
        assert len(hd.sr.srread(tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()) == 1
    run_on(tmp_path, served["capture"], "dcm2pnm", "+Wm", str(tmp_path / "picture.ppm"))
    run_on(tmp_path, served["gsps"], "dcmdump", "")
    served["seg"].save_as(tmp_path / "seg.dcm")
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    expected = mask(finding.lesions[0], int(image.Rows), int(image.Columns))
    assert (segmentation.pixel_array.reshape(expected.shape) == expected).all()


def test_the_mask_of_a_loop_comes_back_frame_by_frame(archive: Orthanc, tmp_path):
    image = breast_image(SOPClassUID=LOOP, NumberOfFrames=9, rows=120, columns=160, seed=1)
    finding = loop_finding(image, {0: [lesion(60, 50)], 4: [lesion(62, 51), lesion(120, 80)], 8: []}, best=4)
    segmentation = build_segmentation(finding, read_source(image, finding), UTC)
    assert segmentation is not None
    send(archive, tmp_path, {"seg": segmentation})

    url = (
        f"{archive.url}/dicom-web/studies/{segmentation.StudyInstanceUID}"
        f"/series/{segmentation.SeriesInstanceUID}/instances/{segmentation.SOPInstanceUID}"
    )
    expected = [mask(one, 120, 160) for one in (lesion(60, 50), lesion(62, 51), lesion(120, 80))]
    for number, pixels in enumerate(expected, start=1):
        answer = httpx.get(
            f"{url}/frames/{number}",
            headers={"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'},
            timeout=30,
        )
        answer.raise_for_status()
        bits = np.frombuffer(only_part(answer)[: 120 * 160 // 8], np.uint8)
        assert (np.unpackbits(bits, bitorder="little").reshape(120, 160) == pixels).all(), number


def test_the_results_of_one_study_lie_in_one_series_per_kind(archive: Orthanc, tmp_path):
    first = breast_image(InstanceNumber=1)
    study = {"StudyInstanceUID": first.StudyInstanceUID}
    images = [first, breast_image(InstanceNumber=2, Laterality="R", **study), breast_image(SeriesNumber=5, **study)]
    for n, image in enumerate(images):
        folder = tmp_path / str(n)
        folder.mkdir()
        send(archive, folder, made_from(image, finding_for(image, f"item-{n}"), pixels_of(image)))

    study_id = httpx.post(f"{archive.url}/tools/lookup", content=str(first.StudyInstanceUID), timeout=10).json()[0][
        "ID"
    ]
    series = httpx.get(f"{archive.url}/studies/{study_id}/series", timeout=10).json()

    found = {s["MainDicomTags"]["SeriesDescription"]: len(s["Instances"]) for s in series}
    assert found == {
        "Edgeward AI: SR": 6,
        "Edgeward AI: SEG (preliminary)": 3,
        "Edgeward AI: overlay (preliminary)": 3,
        "Edgeward AI: capture (preliminary)": 3,
    }


def test_dcmtk_applies_the_presentation_state_to_a_grey_image(tmp_path):
    image = breast_image(WindowCenter="60", WindowWidth="90")
    finding = finding_for(image)
    state = build_presentation(finding, read_source(image, finding), UTC)
    assert state is not None
    (tmp_path / "image.dcm").write_bytes(as_file(image))
    state.save_as(tmp_path / "state.dcm", enforce_file_format=True)

    command = [require("dcmp2pgm"), "-p", tmp_path / "state.dcm", tmp_path / "image.dcm", tmp_path / "shown.pgm"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert "Image Width" not in run.stderr
    assert (tmp_path / "shown.pgm").stat().st_size >= 300 * 400


def test_a_patient_with_a_long_name_in_another_script_arrives_whole(archive: Orthanc, tmp_path):
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    image = breast_image(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name)
    image = pydicom.dcmread(io.BytesIO(as_file(image)))
    objects = made_from(image, finding_for(image, "item-long-name"), pixels_of(image))

    send(archive, tmp_path, objects)

    for dataset in objects.values():
        assert str(retrieve(archive, dataset).PatientName) == name
