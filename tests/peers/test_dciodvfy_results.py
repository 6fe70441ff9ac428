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
from tests.support.imaging import breast_image, finding_for, not_analysed, test_file
from tests.support.peers import require

from edgeward.clinic.imaging.capture import build_capture
from edgeward.clinic.imaging.header import read_source
from edgeward.clinic.imaging.report import build_report
from edgeward.messages import Finding

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
    return [build_report(finding, source, UTC), build_capture(finding, source, frame, UTC)]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.filterwarnings("ignore")
def test_results_of_real_ultrasound_objects_are_clean(name, tmp_path):
    image = pydicom.dcmread(test_file(name), stop_before_pixels=True)

    for dataset in objects(image, finding_for(image)):
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


def test_the_validator_does_find_errors(tmp_path):
    image = breast_image()
    finding = finding_for(image)
    report = build_report(finding, read_source(image, finding), UTC)
    del report.CompletionFlag

    assert errors(report, tmp_path) != []
