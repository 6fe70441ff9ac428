"""dciodvfy (dicom3tools) finds no error in what we write, whatever image it comes from.

What it does report comes from the image itself and is listed in `INHERITED`.
"""

from __future__ import annotations

import subprocess
from datetime import UTC
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from tests.support.imaging import breast_image, finding_for, not_analysed, test_file, verdict
from tests.support.peers import require

from edgeward.clinic.imaging.capture import build_capture
from edgeward.clinic.imaging.presentation import build_presentation
from edgeward.clinic.imaging.report import build_report
from edgeward.clinic.imaging.segmentation import build_segmentation
from edgeward.clinic.imaging.source import read_source
from edgeward.messages import Finding, FrameFinding

pytestmark = pytest.mark.peer

SOURCES = [
    "examples_ybr_color.dcm",
    "examples_rgb_color.dcm",
    "examples_palette.dcm",
    "examples_jpeg2k.dcm",
    "ExplVR_BigEnd.dcm",
    "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "OBXXXX1A.dcm",
    "OBXXXX1A_2frame.dcm",
    "OBXXXX1A_rle_2frame.dcm",
    "OBXXXX1A_expb.dcm",
    "US1_J2KI.dcm",
    "US1_UNCI.dcm",
    "color3d_jpeg_baseline.dcm",
    "gdcm-US-ALOKA-16.dcm",
    "color-pl.dcm",
    "color-px.dcm",
]
INHERITED = {
    # The UIDs of these images begin with 999, which is nobody's root. Ours must repeat them to point at the image.
    "ExplVR_BigEnd.dcm": 'Illegal root for UID - "999.999',
    "color-pl.dcm": 'Illegal root for UID - "999.999',
    "color-px.dcm": 'Illegal root for UID - "999.999',
    # Two frames in a class for one: to say which of them was analysed matters more than to hide that.
    "OBXXXX1A_2frame.dcm": "not multi-frame - attribute <ReferencedFrameNumber>",
}


def errors(dataset: Dataset, folder: Path) -> list[str]:
    file = folder / "object.dcm"
    dataset.save_as(file, enforce_file_format=True)
    run = subprocess.run([require("dciodvfy"), file], capture_output=True, text=True, check=False)
    lines = (run.stdout + run.stderr).splitlines()
    assert lines, "dciodvfy said nothing at all"
    return [line for line in lines if line.startswith("Error")]


def objects(image: Dataset, finding: Finding) -> list[Dataset]:
    source = read_source(image, finding)
    frame = np.full((int(image.Rows), int(image.Columns), 3), 90, np.uint8)
    verdicts = [verdict("confirm"), verdict("correct", label="benign", comment="cyst"), verdict("reject")]
    made = [
        build_report(finding, source, UTC),
        *(build_report(finding, source, UTC, n, verdicts[:n]) for n in (1, 2, 3)),
        build_segmentation(finding, source, UTC),
        build_presentation(finding, source, UTC),
        build_capture(finding, source, frame, UTC),
    ]
    return [dataset for dataset in made if dataset is not None]


def cine(image: Dataset, **changes) -> Finding:
    """A finding of a loop: a lesion that moves, comes and goes."""
    frames = int(image.get("NumberOfFrames") or 1)
    finding = finding_for(image, **changes)
    said = [
        FrameFinding(
            frame=k, status="analysed", lesions=finding.lesions if k % 2 else [], label="benign", malignancy=k / 99
        )
        for k in range(min(frames, 40))
    ]
    said[0] = FrameFinding(frame=0, status="not_analysed", reason="a frozen menu")
    return finding_for(image, frame_findings=said, **changes)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.filterwarnings("ignore")
def test_results_of_real_ultrasound_objects_are_clean(name, tmp_path):
    image = pydicom.dcmread(test_file(name), stop_before_pixels=True)

    finding = cine(image) if int(image.get("NumberOfFrames") or 1) > 1 else finding_for(image)
    made = objects(image, finding)
    assert len(made) == 7
    for dataset in made:
        inherited = INHERITED.get(name)
        ours = [line for line in errors(dataset, tmp_path) if inherited is None or inherited not in line]
        assert ours == [], dataset.SOPClassUID.name


@pytest.mark.parametrize("spacing", [0.1, None])
def test_results_of_a_breast_image_are_clean(spacing, tmp_path):
    image = breast_image(spacing_mm=spacing)
    one = finding_for(image).lesions[0]

    for finding in (finding_for(image), finding_for(image, lesions=[one, one]), finding_for(image, lesions=[])):
        for dataset in objects(image, finding):
            assert errors(dataset, tmp_path) == []


def test_a_report_of_what_was_not_analysed_is_clean(tmp_path):
    image = breast_image()
    finding = not_analysed(image)

    assert errors(build_report(finding, read_source(image, finding), UTC), tmp_path) == []


def test_an_image_that_lacks_everything_still_gives_clean_results(tmp_path):
    image = Dataset()
    image.Rows, image.Columns = 100, 120

    for dataset in objects(image, finding_for(image, malignancy=None, label="", probabilities={})):
        assert errors(dataset, tmp_path) == []


@pytest.mark.parametrize(
    ("charset", "name"),
    [("GB18030", "王^小东"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("ISO_IR 192", "Иванова^Анна")],
)
def test_names_in_other_scripts_are_clean(charset, name, tmp_path):
    image = breast_image(SpecificCharacterSet=charset, PatientName=name)

    for dataset in objects(image, finding_for(image)):
        assert errors(dataset, tmp_path) == []


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL_422", "PALETTE COLOR"])
def test_results_of_a_loop_are_clean_in_grey_and_colour(photometric, tmp_path):
    image = breast_image(
        PhotometricInterpretation=photometric,
        SamplesPerPixel=3 if photometric in ("RGB", "YBR_FULL_422") else 1,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1",
        NumberOfFrames=60,
        rows=31,
        columns=45,
    )

    for dataset in objects(image, cine(image)):
        assert errors(dataset, tmp_path) == [], dataset.SOPClassUID.name


@pytest.mark.parametrize(
    ("part", "side"),
    [
        ("BREAST", None),
        ("AXILLA", "R"),
        ("CHEST", "B"),
        ("ABDOMEN", None),
        ("KIDNEY", "L"),
        ("HEAD", "L"),
        ("MAMMA", "L"),
    ],
)
def test_results_of_paired_and_unpaired_organs_are_clean(part, side, tmp_path):
    image = breast_image(BodyPartExamined=part, Laterality=side)

    for dataset in objects(image, finding_for(image)):
        assert errors(dataset, tmp_path) == [], dataset.SOPClassUID.name


def test_a_grey_image_with_look_up_tables_gives_a_clean_presentation_state(tmp_path):
    image = breast_image(
        RescaleSlope="1", RescaleIntercept="-12.5", RescaleType="US", WindowCenter=[40, 50], WindowWidth=[80, 90]
    )
    modality, voi = Dataset(), Dataset()
    modality.add_new("LUTDescriptor", "US", [256, 0, 16])
    modality.add_new("LUTData", "OW", np.arange(0, 65536, 257, "<u2").tobytes())
    modality.ModalityLUTType = "US"
    voi.add_new("LUTDescriptor", "US", [256, 0, 8])
    voi.add_new("LUTData", "US", list(range(256)))
    twelve = Dataset()
    twelve.add_new("LUTDescriptor", "US", [256, 0, 12])
    twelve.add_new("LUTData", "US", list(range(0, 4096, 16)))
    tables = breast_image(ModalityLUTSequence=[modality], VOILUTSequence=[voi])
    odd = breast_image(VOILUTSequence=[twelve])

    for source in (image, tables, odd):
        finding = finding_for(source)
        assert errors(build_presentation(finding, read_source(source, finding), UTC), tmp_path) == []


def test_the_validator_does_find_errors(tmp_path):
    image = breast_image()
    finding = finding_for(image)
    report = build_report(finding, read_source(image, finding), UTC)
    del report.CompletionFlag

    assert errors(report, tmp_path) != []
