"""The presentation state: outlines on the right frame, and the picture below them unchanged."""

from __future__ import annotations

import io
from datetime import UTC

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageCms
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
)
from tests.clinic.imaging.test_segmentation import LOOP, lesion, loop_finding
from tests.support.imaging import as_file, breast_image, finding_for, not_analysed
from tests.support.objects import region

from edgeward.clinic.imaging.colour import srgb_profile
from edgeward.clinic.imaging.header import encode_dataset
from edgeward.clinic.imaging.lesions import outline_points, tracking_uid
from edgeward.clinic.imaging.presentation import build_presentation
from edgeward.clinic.imaging.source import read_source
from edgeward.messages import Finding


def state_of(image: Dataset, finding: Finding) -> Dataset:
    made = build_presentation(finding, read_source(image, finding), UTC)
    assert made is not None
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


def received(**attributes) -> Dataset:
    """An image as it is after it was sent: raw elements, a transfer syntax."""
    return pydicom.dcmread(io.BytesIO(as_file(breast_image(**attributes))))


@pytest.mark.parametrize(
    ("photometric", "samples", "sop_class"),
    [
        ("MONOCHROME2", 1, GrayscaleSoftcopyPresentationStateStorage),
        ("MONOCHROME1", 1, GrayscaleSoftcopyPresentationStateStorage),
        ("RGB", 3, ColorSoftcopyPresentationStateStorage),
        ("YBR_FULL_422", 3, ColorSoftcopyPresentationStateStorage),
        ("PALETTE COLOR", 1, ColorSoftcopyPresentationStateStorage),
    ],
)
def test_grey_and_colour_images_get_the_state_made_for_them(photometric, samples, sop_class):
    image = breast_image(PhotometricInterpretation=photometric, SamplesPerPixel=samples)

    state = state_of(image, finding_for(image))

    assert state.SOPClassUID == sop_class
    colour = sop_class == ColorSoftcopyPresentationStateStorage
    assert ("ICCProfile" in state) == colour
    assert ("PresentationLUTShape" in state) != colour


def test_the_outline_is_the_reports_and_carries_its_tracking_uid():
    image = breast_image()
    finding = finding_for(image)

    (annotation,) = state_of(image, finding).GraphicAnnotationSequence

    (graphic,) = annotation.GraphicObjectSequence
    points = np.asarray(graphic.GraphicData).reshape(-1, 2)
    assert np.allclose(points, outline_points(finding.lesions[0], 400, 300), atol=1e-3)
    assert graphic.NumberOfGraphicPoints == len(points)
    assert graphic.TrackingUID == tracking_uid(finding, "lesion-1")
    texts = [text.UnformattedTextValue for text in annotation.TextObjectSequence]
    assert texts == ["AI, preliminary, not verified\r\nMalignancy 85 %", "1: 13.3 x 7.5 mm"]


def test_each_frame_of_a_loop_has_its_own_outlines():
    image = breast_image(SOPClassUID=LOOP, NumberOfFrames=30)
    finding = loop_finding(image, {0: [], 10: [lesion(100, 100)], 20: [lesion(103, 100), lesion(200, 50)]}, best=20)

    annotations = state_of(image, finding).GraphicAnnotationSequence

    assert [a.ReferencedImageSequence[0].ReferencedFrameNumber for a in annotations] == [11, 21]
    assert [len(a.GraphicObjectSequence) for a in annotations] == [1, 2]
    assert annotations[0].TextObjectSequence[0].UnformattedTextValue == "AI, preliminary, not verified"


@pytest.mark.parametrize("place", [(10, 8), (390, 292), (200, 150), (395, 150), (5, 295)])
def test_all_text_lies_within_the_image(place):
    image = breast_image()

    state = state_of(image, finding_for(image, lesions=[lesion(*place)]))

    for text in state.GraphicAnnotationSequence[0].TextObjectSequence:
        x0, y0 = text.BoundingBoxTopLeftHandCorner
        x1, y1 = text.BoundingBoxBottomRightHandCorner
        assert 0 <= x0 < x1 <= 400
        assert 0 <= y0 < y1 <= 300


def test_the_whole_image_is_displayed_with_its_own_proportions():
    with_spacing = breast_image(spacing_mm=0.1)
    without = breast_image(spacing_mm=None, PixelAspectRatio=[4, 3])

    area = state_of(with_spacing, finding_for(with_spacing)).DisplayedAreaSelectionSequence[0]
    other = state_of(without, finding_for(without)).DisplayedAreaSelectionSequence[0]

    assert list(area.DisplayedAreaBottomRightHandCorner) == [400, 300]
    assert [float(v) for v in area.PresentationPixelSpacing] == [0.1, 0.1]
    assert list(other.PresentationPixelAspectRatio) == [4, 3]


def test_a_frame_of_several_scales_is_displayed_without_a_spacing():
    image = breast_image(spacing_mm=0.1)
    image.SequenceOfUltrasoundRegions = Sequence(
        [region((0, 0, 199, 299), (0.01, 0.01))[0], region((200, 0, 399, 299), (0.02, 0.02))[0]]
    )

    area = state_of(image, finding_for(image)).DisplayedAreaSelectionSequence[0]

    assert "PresentationPixelSpacing" not in area
    assert list(area.PresentationPixelAspectRatio) == [1, 1]


def test_a_light_on_dark_image_is_not_turned_over():
    image = breast_image(PhotometricInterpretation="MONOCHROME1")

    assert state_of(image, finding_for(image)).PresentationLUTShape == "INVERSE"
    assert state_of(breast_image(), finding_for(breast_image())).PresentationLUTShape == "IDENTITY"


def grey(dataset: Dataset, values: np.ndarray) -> np.ndarray:
    """Stored values through the modality and VOI transformations that `dataset` states."""
    holder = Dataset()
    holder.update(dataset)
    for item in dataset.get("SoftcopyVOILUTSequence", []):
        holder.update(item)
    holder.file_meta = FileMetaDataset()
    holder.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    holder.BitsStored, holder.PixelRepresentation = 8, 0
    holder.PhotometricInterpretation = "MONOCHROME2"
    return apply_windowing(apply_modality_lut(values, holder), holder)


def table(entries: list[int], bits: int, first: int = 0, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", vr, entries if vr == "US" else np.asarray(entries, "<u2").tobytes())
    item.ModalityLUTType = "US"
    return item


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": "40", "WindowWidth": "80"},
        {"WindowCenter": [40, 90], "WindowWidth": [80, 10]},
        {"WindowCenter": "40.5", "WindowWidth": "3", "VOILUTFunction": "SIGMOID"},
        {"RescaleSlope": "1.5", "RescaleIntercept": "-20", "WindowCenter": "40", "WindowWidth": "80"},
        {"ModalityLUTSequence": [table(list(range(0, 1024, 4)), 16)], "WindowCenter": "400", "WindowWidth": "80"},
        {
            "ModalityLUTSequence": [table(list(range(0, 1024, 4)), 16, vr="OW")],
            "WindowCenter": "400",
            "WindowWidth": "9",
        },
    ],
)
def test_the_picture_below_looks_as_without_the_state(attributes):
    image = received(**attributes)
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    state = state_of(image, finding_for(image))

    assert np.allclose(grey(state, values), grey(image, values))


@pytest.mark.parametrize(
    ("sent", "entries"),
    [
        (table(list(range(255, -1, -1)), 8), list(range(255, -1, -1))),
        (table(list(range(0, 65536, 256)), 16, vr="OW"), list(range(0, 65536, 256))),
        (table(list(range(0, 65536, 256)), 16, first=-128), list(range(0, 65536, 256))),
    ],
)
def test_a_voi_table_is_repeated_entry_by_entry(sent, entries):
    image = breast_image(VOILUTSequence=[sent])

    (made,) = state_of(image, finding_for(image)).SoftcopyVOILUTSequence[0].VOILUTSequence

    assert list(made.LUTDescriptor) == list(sent.LUTDescriptor)
    assert np.frombuffer(made.LUTData, "u1" if made.LUTDescriptor[2] == 8 else "<u2").tolist() == entries


def test_a_voi_table_of_twelve_bits_is_stretched_to_sixteen():
    image = breast_image(VOILUTSequence=[table([0, 1, 2048, 4095], 12)])

    (made,) = state_of(image, finding_for(image)).SoftcopyVOILUTSequence[0].VOILUTSequence

    assert list(made.LUTDescriptor) == [4, 0, 16]
    assert np.frombuffer(made.LUTData, "<u2").tolist() == [0, 16, 32776, 65535]


def test_what_the_image_does_not_state_is_not_invented():
    image = breast_image(WindowCenter="40", WindowWidth="0", RescaleSlope="0", RescaleIntercept="1")

    state = state_of(image, finding_for(image))

    assert "SoftcopyVOILUTSequence" not in state
    assert "RescaleSlope" not in state


@pytest.mark.parametrize(
    "entries", [([0] * 10, 16), ([0] * 256, 40)], ids=["fewer entries than stated", "impossible depth"]
)
def test_a_grey_image_with_malformed_tables_gets_no_state_rather_than_another_look(entries):
    broken = table(*entries)
    broken.LUTDescriptor = [256, 0, entries[1]]
    image = breast_image(VOILUTSequence=[broken])
    finding = finding_for(image)

    with pytest.raises(ValueError, match="look-up tables"):
        build_presentation(finding, read_source(image, finding), UTC)


def test_tables_of_a_big_endian_image_arrive_in_our_byte_order():
    entries = list(range(0, 1024, 4))
    image = breast_image(VOILUTSequence=[table(entries, 16)])
    image.VOILUTSequence[0].add_new("LUTData", "OW", np.asarray(entries, ">u2").tobytes())
    image.set_original_encoding(is_implicit_vr=False, is_little_endian=False)

    state = state_of(image, finding_for(image))

    assert np.frombuffer(state.SoftcopyVOILUTSequence[0].VOILUTSequence[0].LUTData, "<u2").tolist() == entries


def test_without_a_lesion_there_is_none():
    image = breast_image()

    for finding in (finding_for(image, lesions=[]), not_analysed(image)):
        assert build_presentation(finding, read_source(image, finding), UTC) is None


def test_a_repeat_is_byte_identical():
    image = breast_image(PhotometricInterpretation="RGB", SamplesPerPixel=3)
    finding = finding_for(image)

    first, second = (build_presentation(finding, read_source(image, finding), UTC) for _ in range(2))

    assert first is not None
    assert second is not None
    assert encode_dataset(first) == encode_dataset(second)


def test_the_colour_profile_is_srgb_of_the_class_dicom_wants():
    profile = ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile()))
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))

    to_srgb = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    shown = ImageCms.applyTransform(colours, to_srgb)

    assert profile.profile.device_class == "scnr"
    assert len(srgb_profile()) == int.from_bytes(srgb_profile()[:4], "big")
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(colours)).max() <= 1
