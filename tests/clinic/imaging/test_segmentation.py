"""The segmentation: the mask is the outline's, on the right frame, under the report's tracking ids."""

from __future__ import annotations

import io
import math
from datetime import UTC

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage
from tests.support.imaging import breast_image, ellipse, finding_for, not_analysed, test_file

from edgeward.clinic.imaging.header import encode_dataset
from edgeward.clinic.imaging.lesions import mask, tracking_uid
from edgeward.clinic.imaging.report import build_report
from edgeward.clinic.imaging.report_text import walk
from edgeward.clinic.imaging.segmentation import build_segmentation
from edgeward.clinic.imaging.source import read_source
from edgeward.messages import Finding, FrameFinding, Lesion

LOOP = "1.2.840.10008.5.1.4.1.1.3.1"


def lesion(x: float, y: float, a: float = 12.0, b: float = 9.0) -> Lesion:
    return Lesion(
        contour=ellipse(x, y, a, b),
        box=(x - a, y - b, x + a, y + b),
        long_axis=2 * a,
        short_axis=2 * b,
        area=math.pi * a * b,
        unit="px",
        probability=0.9,
    )


def loop_finding(image: Dataset, said: dict[int, list[Lesion]], best: int) -> Finding:
    return finding_for(
        image,
        frame=best,
        lesions=said[best],
        frame_findings=[FrameFinding(frame=k, status="analysed", lesions=found) for k, found in sorted(said.items())],
    )


def written(image: Dataset, finding: Finding) -> hd.seg.Segmentation:
    made = build_segmentation(finding, read_source(image, finding), UTC)
    assert made is not None
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    return hd.seg.segread(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("size", [(300, 400), (31, 45), (481, 639), (7, 9), (1, 1)])
def test_highdicom_reads_the_mask_that_the_contour_encloses(size):
    image = breast_image(rows=size[0], columns=size[1])
    finding = finding_for(image)

    back = written(image, finding)

    assert back.SOPClassUID == SegmentationStorage
    expected = mask(finding.lesions[0], *size)
    assert (np.asarray(back.pixel_array).reshape(size) == expected).all()
    assert expected.any()
    inside = expected.sum()
    a, b = size[1] / 6, size[0] / 8
    assert inside == pytest.approx(math.pi * a * b, rel=0.03) or inside < 100


def test_a_pixel_belongs_to_the_mask_if_its_centre_does():
    square = lesion(0, 0)
    corners = [(1.6, 1.6), (4.4, 1.6), (4.4, 3.4), (1.6, 3.4)]
    pixels = mask(Lesion(**{f: getattr(square, f) for f in square.__struct_fields__} | {"contour": corners}), 8, 8)

    assert {(int(x), int(y)) for y, x in np.argwhere(pixels)} == {(x, y) for x in (2, 3, 4) for y in (2, 3)}


def test_each_lesion_is_a_segment_with_the_tracking_ids_of_the_report():
    image = breast_image()
    finding = finding_for(image, lesions=[lesion(100, 100), lesion(250, 150)])

    back = written(image, finding)
    report = build_report(finding, read_source(image, finding), UTC)

    assert [s.SegmentLabel for s in back.SegmentSequence] == ["Lesion 1", "Lesion 2"]
    told = {str(item.UID) for _, item in walk(report) if item.get("ValueType") == "UIDREF"}
    for segment in back.SegmentSequence:
        assert str(segment.TrackingUID) in told
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.0.0"
        assert segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeMeaning == "Left"


def test_of_a_loop_every_analysed_frame_with_a_lesion_is_covered():
    image = breast_image(SOPClassUID=LOOP, NumberOfFrames=50, rows=201, columns=303)
    finding = loop_finding(
        image,
        {0: [], 10: [lesion(100, 100)], 20: [lesion(104, 101)], 30: [lesion(108, 99), lesion(240, 60)], 40: []},
        best=20,
    )

    back = written(image, finding)

    places = [
        (
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber,
            tuple(np.atleast_1d(group.FrameContentSequence[0].DimensionIndexValues)),
        )
        for group in back.PerFrameFunctionalGroupsSequence
    ]
    assert places == [(1, 11, (1, 1)), (1, 21, (1, 2)), (1, 31, (1, 3)), (2, 31, (2, 3))]
    assert (back.pixel_array[1] == mask(lesion(104, 101), 201, 303)).all()
    assert (back.pixel_array[3] == mask(lesion(240, 60), 201, 303)).all()
    assert back.SegmentSequence[0].TrackingUID == tracking_uid(finding, "lesion-1")


def test_it_has_no_place_in_space_but_that_of_the_image():
    image = breast_image()

    back = written(image, finding_for(image))

    assert "FrameOfReferenceUID" not in back
    derived = back.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert derived.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert derived.SpatialLocationsPreserved == "YES"
    assert (back.Rows, back.Columns) == (image.Rows, image.Columns)


def test_without_a_lesion_there_is_none():
    image = breast_image()

    for finding in (finding_for(image, lesions=[]), not_analysed(image)):
        assert build_segmentation(finding, read_source(image, finding), UTC) is None


@pytest.mark.parametrize(
    "bad",
    [
        {"contour": [(math.nan, 1.0)] * 5, "box": (math.nan, 0.0, 1.0, 1.0)},
        {"contour": [], "box": (5.0, 5.0, 5.0, 5.0)},
        {"contour": [(-500.0, -500.0), (-400.0, -500.0), (-400.0, -400.0)]},
    ],
)
def test_a_lesion_that_covers_no_pixel_is_left_out(bad):
    image = breast_image()
    good = lesion(100, 100)
    broken = Lesion(**{f: getattr(good, f) for f in good.__struct_fields__} | bad)
    finding = finding_for(image, lesions=[broken, good])

    back = written(image, finding)

    assert [s.SegmentLabel for s in back.SegmentSequence] == ["Lesion 2"], "its number stays that of the report"
    assert len(back.PerFrameFunctionalGroupsSequence) == 1


def test_a_contour_that_reaches_far_outside_is_cut_at_the_edge():
    image = breast_image(rows=50, columns=60)
    huge = lesion(30, 25, 1e7, 1e7)

    assert written(image, finding_for(image, lesions=[huge])).pixel_array.all()


def test_an_image_without_a_size_gives_none():
    image = Dataset()
    finding = finding_for(breast_image(), rows=0, columns=0)

    with pytest.raises(ValueError, match="size"):
        build_segmentation(finding, read_source(image, finding), UTC)


def test_a_repeat_is_byte_identical():
    image = breast_image()
    finding = finding_for(image)

    first, second = (build_segmentation(finding, read_source(image, finding), UTC) for _ in range(2))

    assert first is not None
    assert second is not None
    assert encode_dataset(first) == encode_dataset(second)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["examples_ybr_color.dcm", "examples_palette.dcm", "ExplVR_BigEnd.dcm", "color-px.dcm"]
)
def test_real_objects_of_every_kind_give_a_readable_one(name):
    image = pydicom.dcmread(test_file(name), stop_before_pixels=True)
    finding = finding_for(image)

    back = written(image, finding)

    assert (
        back.pixel_array.reshape(image.Rows, image.Columns) == mask(finding.lesions[0], image.Rows, image.Columns)
    ).all()
