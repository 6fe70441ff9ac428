"""The secondary capture: what is drawn, what is left alone, what the object says of itself."""

from __future__ import annotations

import io
import math
from datetime import UTC

import msgspec
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.support.imaging import breast_image, finding_for, pixels_of
from tests.support.objects import region

from edgeward.clinic.imaging.capture import build_capture, scale, size_text
from edgeward.clinic.imaging.source import read_source
from edgeward.messages import Finding


def capture_of(image: Dataset, finding: Finding, pixels=None) -> Dataset:
    pixels = pixels_of(image) if pixels is None else pixels
    capture = build_capture(finding, read_source(image, finding), pixels, UTC)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, capture, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


def changed(image: Dataset, capture: Dataset) -> np.ndarray:
    """Where the frame in the capture differs from the source, rows x columns."""
    after = capture.pixel_array[: image.Rows, : image.Columns].astype(int)
    return np.abs(after - pixels_of(image).astype(int)).max(axis=2) > 30


def test_the_outline_is_drawn_where_the_lesion_is_and_the_rest_is_untouched():
    image = breast_image(rows=600, columns=800)
    finding = finding_for(image)

    marked = changed(image, capture_of(image, finding))

    on_outline = [
        marked[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].any() for x, y in finding.lesions[0].contour
    ]
    x0, y0, x1, y1 = finding.lesions[0].box
    assert np.mean(on_outline) > 0.95
    assert not marked[round((y0 + y1) / 2), round(x0) + 15 : round(x1) - 15].any(), "the lesion itself stays visible"
    assert not marked[: round(y0) - 30].any()
    assert not marked[:, : round(x0) - 30].any()


@pytest.mark.parametrize(
    ("spacing", "aspect", "told"),
    [(None, [2, 1], [2, 1]), (None, [1, 1], None), (None, [3, 3], None), (0.1, [2, 1], None)],
)
def test_the_picture_keeps_the_proportions_of_the_image(spacing, aspect, told):
    image = breast_image(spacing_mm=spacing, PixelAspectRatio=aspect)

    capture = capture_of(image, finding_for(image))

    assert capture.get("PixelAspectRatio") == told
    assert ("PixelSpacing" in capture) == (spacing is not None)


def test_the_strip_below_adds_rows_and_never_covers_the_frame():
    image = breast_image(rows=600, columns=800)

    capture = capture_of(image, finding_for(image, lesions=[], label="normal"))

    assert capture.Columns == 800
    assert 620 <= capture.Rows <= 720
    assert not changed(image, capture).any()
    assert capture.pixel_array[600:].max() > 150, "there is text in the strip"


@pytest.mark.parametrize("size", [(60, 80), (1, 1), (200, 30), (30, 200), (1200, 1600), (480, 640)])
def test_any_frame_size_gives_a_readable_capture(size):
    image = breast_image(rows=size[0], columns=size[1])

    capture = capture_of(image, finding_for(image))

    assert capture.Columns == size[1] * scale(size[1]) >= 480
    assert capture.pixel_array.shape == (capture.Rows, capture.Columns, 3)


def test_spacing_follows_the_enlargement():
    image = breast_image(rows=60, columns=80)

    capture = capture_of(image, finding_for(image))

    assert [float(v) for v in capture.PixelSpacing] == pytest.approx([0.1 / 6, 0.1 / 6])


@pytest.mark.parametrize(("column", "proportions"), [(0.1, None), (0.05, [2000, 1000])])
def test_regions_of_several_scales_give_no_spacing_that_would_be_wrong_for_one(column, proportions):
    """A viewer measures the whole picture with one Pixel Spacing."""
    image = breast_image(spacing_mm=None)
    sides = [region((0, 0, 199, 299), (column / 10, 0.01)), region((200, 0, 399, 299), (column / 5, 0.02))]
    image.SequenceOfUltrasoundRegions = Sequence([one[0] for one in sides])
    finding = msgspec.structs.replace(finding_for(image), spacing_mm=(0.1, column))

    capture = capture_of(image, finding)

    assert "PixelSpacing" not in capture
    assert capture.get("PixelAspectRatio") == proportions


def test_without_spacing_none_is_claimed():
    image = breast_image(spacing_mm=None)

    assert "PixelSpacing" not in capture_of(image, finding_for(image))


@pytest.mark.parametrize(("said", "ours"), [("NO", "NO"), ("YES", "YES"), (None, "YES")])
def test_burned_in_text_is_declared_unless_the_image_denies_it(said, ours):
    image = breast_image(BurnedInAnnotation=said)

    assert capture_of(image, finding_for(image)).BurnedInAnnotation == ours


def test_a_lossy_past_is_not_forgotten():
    image = breast_image(LossyImageCompression="01")

    assert capture_of(image, finding_for(image)).LossyImageCompression == "01"


def test_it_points_to_the_frame_it_shows():
    image = breast_image()
    finding = finding_for(image, frames=9, frame=4)

    reference = capture_of(image, finding).SourceImageSequence[0]

    assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert reference.ReferencedFrameNumber == 5


def test_a_repeat_is_byte_identical():
    image = breast_image()
    finding = finding_for(image)

    assert capture_of(image, finding).PixelData == capture_of(image, finding).PixelData
    assert capture_of(image, finding).to_json() == capture_of(image, finding).to_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"contour": [(math.nan, 0.0)] * 4, "box": (math.nan,) * 4},
        {"contour": [], "box": (1.0, 1.0, 1.0, 1.0)},
        {"contour": [(-1e6, -1e6), (1e6, -1e6), (0.0, 1e6)], "box": (-1e6, -1e6, 1e6, 1e6)},
        {"contour": [(1e4, 1e4), (1e4 + 1, 1e4), (1e4, 1e4 + 1)], "box": (1e4, 1e4, 1e4 + 1, 1e4 + 1)},
    ],
)
def test_a_degenerate_lesion_does_not_prevent_the_capture(changes):
    image = breast_image()
    base = finding_for(image).lesions[0]
    values = {name: getattr(base, name) for name in base.__struct_fields__} | changes
    finding = finding_for(image, lesions=[type(base)(**values)])

    assert capture_of(image, finding).Columns >= 400


def test_sizes_say_their_unit():
    image, bare = breast_image(), breast_image(spacing_mm=None)

    assert size_text(finding_for(image).lesions[0]) == "13.3 x 7.5 mm"
    assert size_text(finding_for(bare).lesions[0]) == "133 x 75 px"


def test_pixels_that_are_no_rgb_frame_are_refused():
    image = breast_image()
    with pytest.raises(ValueError, match="RGB"):
        capture_of(image, finding_for(image), np.zeros((10, 10), np.uint8))
