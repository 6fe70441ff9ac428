"""The structured report: content, units, honesty, determinism; on real and on hostile input."""

from __future__ import annotations

import io
import math
from datetime import UTC

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage
from tests.support.imaging import breast_image, ellipse, finding_for, not_analysed, test_file

from edgeward.clinic.imaging.lesions import outline_points
from edgeward.clinic.imaging.report import build_report
from edgeward.clinic.imaging.report_text import as_text, walk
from edgeward.clinic.imaging.source import read_source
from edgeward.messages import Finding, Lesion


def report_bytes(image: Dataset, finding: Finding) -> bytes:
    report = build_report(finding, read_source(image, finding), UTC)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, report, enforce_file_format=True)
    return buffer.getvalue()


def report_of(image: Dataset, finding: Finding) -> Dataset:
    return pydicom.dcmread(io.BytesIO(report_bytes(image, finding)))


def numbers(report: Dataset) -> dict[str, tuple[float, str]]:
    found = {}
    for _, item in walk(report):
        if item.get("ValueType") == "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            found[item.ConceptNameCodeSequence[0].CodeMeaning] = (float(measured.NumericValue), unit)
    return found


def items(report: Dataset, value_type: str) -> list[Dataset]:
    return [item for _, item in walk(report) if item.get("ValueType") == value_type]


def test_highdicom_reads_it_back_as_a_measurement_report_with_its_region():
    image = breast_image()
    finding = finding_for(image)

    document = hd.sr.srread(io.BytesIO(report_bytes(image, finding)))
    groups = document.content.get_planar_roi_measurement_groups()

    assert document.SOPClassUID == ComprehensiveSRStorage
    assert len(groups) == 1
    contour = np.asarray(finding.lesions[0].contour) + 0.5
    assert np.allclose(groups[0].roi.value[:-1], contour, atol=1e-3)
    assert groups[0].finding_type.meaning == "Lesion"
    assert groups[0].finding_sites[0].value.meaning == "Breast"
    assert groups[0].finding_sites[0].laterality.meaning == "Left"


def test_it_is_preliminary_unverified_and_names_its_algorithm():
    image = breast_image()

    report = report_of(image, finding_for(image))

    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    text = as_text(report)
    assert "Algorithm Name: breast-ultrasound" in text
    assert "Algorithm Version: 1.0.0" in text
    assert "not verified" in text


def test_sizes_are_in_millimetres_where_the_image_gives_spacing():
    image = breast_image(spacing_mm=0.1)
    finding = finding_for(image)

    values = numbers(report_of(image, finding))

    assert values["Long Axis"] == (pytest.approx(finding.lesions[0].long_axis, abs=0.01), "mm")
    assert values["Area"] == (pytest.approx(finding.lesions[0].area, abs=0.01), "mm2")
    assert values["Probability of cancer"] == (85.0, "%")


def test_sizes_are_in_pixels_where_it_does_not_and_the_report_says_so():
    image = breast_image(spacing_mm=None)

    report = report_of(image, finding_for(image))

    assert numbers(report)["Long Axis"][1] == "{pixels}"
    assert numbers(report)["Area"][1] == "{pixels}"
    assert "Sizes are in pixels" in as_text(report)


def test_not_analysed_says_why_and_measures_nothing():
    image = breast_image()

    report = report_of(image, not_analysed(image, reason="outside the model's domain"))

    assert numbers(report) == {}
    assert items(report, "SCOORD") == []
    text = as_text(report)
    assert "Not analysed: outside the model's domain" in text
    assert "Not Attempted" in text
    assert report.PreliminaryFlag == "PRELIMINARY"


def test_a_repeat_is_byte_identical():
    image = breast_image()
    finding = finding_for(image)

    assert report_bytes(image, finding) == report_bytes(pydicom.Dataset(image), finding)


def test_each_lesion_has_its_own_group_and_tracking_uid():
    image = breast_image()
    one = finding_for(image).lesions[0]
    finding = finding_for(image, lesions=[one, one, one])

    report = report_of(image, finding)

    uids = [i.UID for i in items(report, "UIDREF") if "Tracking" in i.ConceptNameCodeSequence[0].CodeMeaning]
    assert len(items(report, "SCOORD")) == 3
    assert len(set(uids)) == len(uids) == 4  # the frame and three lesions


def test_a_frame_of_a_cine_loop_is_referenced_by_its_number():
    image = pydicom.dcmread(test_file("examples_ybr_color.dcm"), stop_before_pixels=True)
    finding = finding_for(image)

    report = report_of(image, finding)

    references = [item.ReferencedSOPSequence[0] for item in items(report, "IMAGE")]
    assert references
    assert all(r.ReferencedFrameNumber == finding.frame + 1 for r in references)


def test_a_retired_sop_class_is_referenced_as_it_is():
    image = breast_image(SOPClassUID="1.2.840.10008.5.1.4.1.1.6")

    report = report_of(image, finding_for(image))

    assert all(i.ReferencedSOPSequence[0].ReferencedSOPClassUID == image.SOPClassUID for i in items(report, "IMAGE"))


def test_the_evidence_lists_the_image_in_its_study_and_series():
    image = breast_image()

    evidence = report_of(image, finding_for(image)).CurrentRequestedProcedureEvidenceSequence[0]

    assert evidence.StudyInstanceUID == image.StudyInstanceUID
    assert evidence.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID
    reference = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID


def lesion(**changes) -> Lesion:
    values = {
        "contour": ellipse(50, 40, 10, 8),
        "box": (40.0, 32.0, 60.0, 48.0),
        "long_axis": 20.0,
        "short_axis": 16.0,
        "area": 250.0,
        "unit": "px",
        "probability": 0.5,
        **changes,
    }
    return Lesion(**values)


def test_an_outline_is_closed_and_stays_inside_the_image():
    points = outline_points(lesion(contour=[(-50.0, -50.0), (500.0, 10.0), (50.0, 500.0)]), 100, 80)

    assert points is not None
    assert (points[0] == points[-1]).all()
    assert points.min() >= 0
    assert points[:, 0].max() <= 100
    assert points[:, 1].max() <= 80


def test_a_contour_of_hundred_thousand_points_is_thinned():
    points = outline_points(lesion(contour=ellipse(50, 40, 10, 8, points=100_000)), 100, 80)

    assert points is not None
    assert len(points) <= 1001


def test_without_a_contour_the_box_is_outlined():
    points = outline_points(lesion(contour=[]), 100, 80)

    assert points is not None
    assert points.tolist() == [[40.5, 32.5], [60.5, 32.5], [60.5, 48.5], [40.5, 48.5], [40.5, 32.5]]


@pytest.mark.parametrize(
    "bad",
    [
        {"contour": [(math.nan, 1.0)] * 5, "box": (math.nan, 0.0, 1.0, 1.0)},
        {"contour": [], "box": (5.0, 5.0, 5.0, 5.0)},
        {"contour": [(1.0, 1.0), (2.0, 2.0)], "box": (9.0, 9.0, 1.0, 1.0)},
        {"long_axis": math.inf, "area": math.nan},
        {"long_axis": 0.0, "short_axis": 0.0, "area": 0.0},
        {"long_axis": 1e300},
    ],
)
def test_a_degenerate_lesion_still_gives_a_report(bad):
    image = breast_image()

    report = report_of(image, finding_for(image, lesions=[lesion(**bad)]))

    assert "Lesion 1" in as_text(report)
    assert all(math.isfinite(value) for value, _ in numbers(report).values())


def test_an_unknown_label_and_an_empty_model_name_are_reported_as_they_are():
    image = breast_image()

    text = as_text(report_of(image, finding_for(image, label="皮肤", model="", model_version="")))

    assert "Classified as: 皮肤" in text
    assert "unnamed model" in text


def test_the_text_names_nobody():
    image = breast_image()

    text = as_text(report_of(image, finding_for(image)))

    for secret in ("Muster", "Erika", "P-4711", "A123", "19700102"):
        assert secret not in text


def test_text_of_a_foreign_or_broken_document_is_not_an_error():
    foreign = Dataset()
    foreign.ValueType = "CONTAINER"
    odd = Dataset()
    odd.ValueType = "WAVEFORM"
    number = Dataset()
    number.ValueType = "NUM"
    point = Dataset()
    point.ValueType = "SCOORD"
    point.GraphicData = [1.0, 2.0, 3.0]
    foreign.ContentSequence = [odd, number, point, Dataset()]

    text = as_text(foreign)

    assert "(WAVEFORM item)" in text
    assert "no value" in text
