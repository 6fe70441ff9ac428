import numpy as np
import pytest
from PIL import Image

from edgeward.compute import breast_ultrasound as model
from edgeward.compute.decode import Frame
from edgeward.compute.package import Package
from edgeward.compute.regions import Region
from edgeward.device.phantom import phantom

RNG = np.random.default_rng(5)
SPECKLE = RNG.integers(30, 200, (300, 400), dtype=np.uint8)


def package(**changes):
    """Constants like those of a package, without a model."""
    manifest = {
        "thresholds": {
            "mask": 0.5,
            "min_probability": 0.3,
            "sure_present": 0.6,
            "faint_peak": 0.15,
            "min_area_cells": 12.0,
            "min_area_share": 0.2,
            "malignancy": 0.3,
        },
        "calibration": {"temperature": 2.0, "bias_benign": 0.0, "bias_malignant": 0.0, "bias_normal": 0.0},
        "domain": {"min_logit": 2.0, "max_distance": 1.5, "max_coloured": 0.1},
    }
    for name, value in changes.items():
        for section in manifest.values():
            if name in section:
                section[name] = value
    return Package("test", "1", manifest, None, {})


def frame(rows=300, columns=400, **attributes):
    return Frame(pixels=np.zeros((rows, columns, 3), np.uint8), **attributes)


def disc(centre=(64.0, 56.0), radius=20.0, height=1.0):
    """A lesion map on the network's half-size grid, x and y of the centre in cells."""
    y, x = np.mgrid[0:112, 0:128]
    edge = np.hypot(x - centre[0], y - centre[1]) - radius
    return (height / (1 + np.exp(edge * 2))).astype(np.float32)


WHOLE = model.Placement((0.64, 0.64), (0.0, 16.0), (0.0, 0.0))  # 400x300 in 256x224


def prediction(mask=None, logits=(0.0, 3.0, 0.0), domain=9.0, distance=1.0):
    return model.Prediction(disc() if mask is None else mask, np.array(logits, np.float32), domain, distance)


def assess(p, coloured=0.0, source=None, **changes):
    return model.assess(package(**changes), p, WHOLE, frame=source or frame(), origin=(0.0, 0.0), coloured=coloured)


# ---------------------------------------- geometry


@pytest.mark.parametrize("size", [(300, 400), (1000, 700), (50, 60), (224, 256), (2000, 300)])
def test_letterbox_fits_any_size_and_keeps_the_aspect_ratio(size):
    canvas, placement = model.letterbox(RNG.integers(0, 255, size, dtype=np.uint8), 224, 256)

    assert canvas.shape == (224, 256)
    assert canvas.dtype == np.float32
    assert canvas.min() >= -1
    assert canvas.max() <= 1
    assert placement.scale[0] == pytest.approx(placement.scale[1], rel=0.02)


@pytest.mark.parametrize("aspect", [0.5, 1.5, 2.0])
def test_the_network_sees_pixels_that_are_not_square_in_their_true_shape(aspect):
    rows, columns = 300, 400
    _, placement = model.letterbox(RNG.integers(0, 255, (rows, columns), dtype=np.uint8), 224, 256, aspect=aspect)

    assert placement.scale[1] / placement.scale[0] == pytest.approx(aspect, rel=0.02)
    assert placement.scale[0] * columns <= 256 + 1e-6
    assert placement.scale[1] * rows <= 224 + 1e-6


def test_placement_maps_there_and_back():
    _, placement = model.letterbox(np.pad(SPECKLE, ((10, 30), (50, 20))), 224, 256)
    points = np.array([[50.0, 10.0], [449.0, 309.0], [200.5, 100.25]])

    assert placement.to_source(placement.to_network(points)) == pytest.approx(points)
    assert placement.to_network(points)[0] == pytest.approx(
        [-0.18 + placement.offset[0], -0.18 + placement.offset[1]], abs=0.1
    )


@pytest.mark.parametrize("shade", [0, 60, 255])
def test_uniform_borders_of_any_shade_do_not_change_what_the_network_sees(shade):
    plain, _ = model.letterbox(SPECKLE, 224, 256)

    bordered, placement = model.letterbox(np.pad(SPECKLE, ((40, 90), (17, 200)), constant_values=shade), 224, 256)

    assert np.array_equal(plain, bordered)
    assert placement.origin == (17, 40)


def test_a_mark_in_the_border_does_not_keep_the_border():
    image = np.pad(SPECKLE, 60)
    image[5:15, 100:108] = 255

    assert model.content_box(image) == (60, 60, 460, 360)


def test_a_blank_image_keeps_its_size():
    assert model.content_box(np.full((90, 120), 7, np.uint8)) == (0, 0, 120, 90)


def test_a_dark_lower_half_is_not_taken_for_a_border():
    image = SPECKLE.copy()
    image[200:] = RNG.integers(0, 25, (100, 400))

    assert model.content_box(image) == (0, 0, 400, 300)


def test_colour_is_measured_on_what_is_visible():
    rgb = np.repeat(SPECKLE[:, :, None], 3, axis=2)
    assert model.coloured_fraction(rgb) == 0

    rgb[:150, :200] = (200, 30, 20)

    assert model.coloured_fraction(rgb) == pytest.approx(0.25, abs=0.01)
    assert model.coloured_fraction(np.zeros_like(rgb)) == 0


# ---------------------------------------- refusal


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"modality": "CT"}, "modality CT"),
        ({"modality": "MG", "body_part": "BREAST"}, "modality MG"),
        ({"modality": "US", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2"}, "class"),
        ({"modality": "US", "body_part": "ABDOMEN"}, "body part"),
        ({"modality": "US", "regions": (Region((0, 0, 99, 99), 3, 3, None),)}, "tissue"),
        ({"modality": "US", "regions": (Region((0, 0, 99, 99), 1, 2, None),)}, "colour flow"),
        ({"rows": 30}, "too small"),
        (
            {"region": (0, 0, 400, 300), "spacing_mm": (0.5, 0.1), "spacing_source": "SequenceOfUltrasoundRegions"},
            "150 mm",
        ),
    ],
)
def test_attributes_that_contradict_the_domain_are_named(attributes, reason):
    assert reason in model.refusal_by_attributes(frame(**attributes))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"modality": "US", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.6.1"},
        {"modality": "US", "body_part": "Breast"},
        {"modality": "US", "body_part": "LBREAST"},
        {"region": (0, 0, 400, 300), "spacing_mm": (0.2, 0.9), "spacing_source": "SequenceOfUltrasoundRegions"},
        {"region": (0, 0, 400, 300), "spacing_mm": (0.5, 0.5), "spacing_source": "PixelSpacing"},
        {"modality": "US", "regions": (Region((0, 0, 99, 99), 1, 1, None), Region((0, 0, 99, 99), 3, 3, None))},
    ],
)
def test_attributes_that_fit_or_are_absent_do_not_refuse(attributes):
    assert model.refusal_by_attributes(frame(**attributes)) == ""


@pytest.mark.parametrize(
    ("p", "coloured", "reason"),
    [
        (prediction(domain=1.9), 0.0, "does not look like"),
        (prediction(distance=1.6), 0.0, "unlike"),
        (prediction(), 0.2, "coloured"),
        (prediction(domain=float("nan")), 0.0, "does not look like"),
        (prediction(distance=float("nan")), 0.0, "unlike"),
    ],
)
def test_a_refusal_gives_a_reason_and_no_guess(p, coloured, reason):
    outcome = assess(p, coloured)

    assert reason in outcome.reason
    assert (outcome.lesions, outcome.label, outcome.probabilities, outcome.malignancy) == ([], "", None, None)
    assert not outcome.suspicious


# ---------------------------------------- lesions


def test_the_outline_is_in_source_pixels():
    (lesion,) = assess(prediction()).lesions

    # Cell 64, 56 is network pixel 128.5, 112.5; scale 0.64, offset 0, 16.
    centre_x, centre_y = 129 / 0.64 - 0.5, (113 - 16) / 0.64 - 0.5
    assert (lesion.box[0] + lesion.box[2]) / 2 == pytest.approx(centre_x, abs=0.3)
    assert (lesion.box[1] + lesion.box[3]) / 2 == pytest.approx(centre_y, abs=0.3)
    assert lesion.long_axis == pytest.approx(2 * 40 / 0.64, rel=0.02)
    assert lesion.short_axis == pytest.approx(lesion.long_axis, rel=0.02)
    assert lesion.area == pytest.approx(np.pi * (40 / 0.64) ** 2, rel=0.02)
    assert lesion.unit == "px"
    assert lesion.probability > 0.8


def test_sizes_are_in_millimetres_when_the_spacing_is_known_also_if_it_is_not_square():
    (lesion,) = assess(prediction(), source=frame(spacing_mm=(0.2, 0.1))).lesions

    assert lesion.unit == "mm"
    assert lesion.long_axis == pytest.approx(2 * 62.5 * 0.2, rel=0.02)
    assert lesion.short_axis == pytest.approx(2 * 62.5 * 0.1, rel=0.02)
    assert lesion.area == pytest.approx(np.pi * 62.5**2 * 0.02, rel=0.02)


def test_without_millimetres_sizes_are_in_widths_of_a_pixel():
    (lesion,) = assess(prediction(), source=frame(pixel_aspect=2.0)).lesions

    assert lesion.unit == "px"
    assert lesion.long_axis == pytest.approx(2 * 62.5 * 2.0, rel=0.02)
    assert lesion.short_axis == pytest.approx(2 * 62.5, rel=0.02)
    assert frame(spacing_mm=(0.2, 0.1), pixel_aspect=3.0).aspect == 2.0, "the spacing counts more"
    assert frame(spacing_mm=(9.0, 0.1)).aspect == 1.0, "that is no shape of a pixel"


def test_the_place_of_the_analysed_region_is_added():
    at_origin = assess(prediction()).lesions[0].box
    moved = model.find_lesions(package(), disc(), WHOLE, frame=frame(600, 800), origin=(100.0, 50.0), present=0.9)[
        0
    ].box

    assert np.subtract(moved, at_origin) == pytest.approx([100, 50, 100, 50], abs=0.02)


def test_several_lesions_come_largest_first_and_specks_are_dropped():
    mask = np.maximum.reduce([disc((30, 40), 9), disc((90, 60), 14), disc((100, 20), 1.2)])

    lesions = assess(prediction(mask)).lesions

    assert len(lesions) == 2
    assert lesions[0].area > lesions[1].area


def test_a_faint_lesion_is_outlined_if_the_class_is_sure():
    faint = disc(height=0.4)

    assert len(assess(prediction(faint, (6.0, 0.0, -6.0))).lesions) == 1  # probability 0.4
    assert assess(prediction(faint, (0.0, -1.0, 1.0))).lesions == []


def test_nothing_is_outlined_if_the_class_is_sure_that_there_is_none():
    outcome = assess(prediction(logits=(-5.0, -5.0, 5.0)))

    assert outcome.lesions == []
    assert outcome.label == "normal"


def test_an_outline_never_leaves_the_frame():
    (lesion,) = assess(prediction(disc((2, 10), 25))).lesions

    x, y = np.array(lesion.contour).T
    assert x.min() >= -0.5
    assert y.min() >= -0.5
    assert x.max() <= 399.5
    assert y.max() <= 299.5


# ---------------------------------------- probabilities


def test_probabilities_are_tempered_and_sum_to_one():
    outcome = assess(prediction(logits=(0.0, 4.0, 0.0)))

    assert sum(outcome.probabilities.values()) == pytest.approx(1)
    assert outcome.malignancy == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert outcome.label == "malignant"


def test_suspicion_follows_the_operating_point_and_not_the_label():
    p = prediction(logits=(2.0, 1.0, -9.0))

    assert assess(p, malignancy=0.3).suspicious
    assert assess(p, malignancy=0.3).label == "benign"
    assert not assess(p, malignancy=0.9).suspicious


def test_extreme_logits_stay_finite():
    outcome = assess(prediction(logits=(900.0, -900.0, 0.0)))

    assert outcome.probabilities == pytest.approx({"benign": 1.0, "malignant": 0.0, "normal": 0.0})


def test_familiarity_is_the_distance_to_the_nearest_centre():
    domain = {
        "mean": np.array([1.0, 0.0, 0.0], np.float32),
        "whiten": np.eye(3, 2, dtype=np.float32),
        "centres": np.array([[0.0, 0.0], [3.0, 4.0]], np.float32),
    }

    assert model.familiarity(np.array([4.0, 4.0, 99.0], np.float32), domain) == 0
    assert model.familiarity(np.array([2.0, 0.0, 0.0], np.float32), domain) == pytest.approx(np.sqrt(0.5))


def test_views_are_the_image_and_its_mirror_image_and_are_joined_again():
    batch = model.views(np.arange(8, dtype=np.float32).reshape(2, 4))
    assert batch.shape == (2, 1, 2, 4)
    assert np.array_equal(batch[1, 0], batch[0, 0, :, ::-1])

    logit = np.where(disc((30, 40), 9) > 0.5, 9.0, -9.0).astype(np.float32)
    outputs = {
        "mask": np.stack([logit, logit[:, ::-1]])[:, None],
        "classes": np.zeros((2, 3), np.float32),
        "domain": np.ones((2, 1), np.float32),
        "features": np.zeros((2, 3), np.float32),
    }
    domain = {"mean": np.zeros(3), "whiten": np.eye(3), "centres": np.zeros((1, 3))}

    joined = model.combine(outputs, domain)

    assert np.array_equal(joined.mask > 0.5, disc((30, 40), 9) > 0.5)


def test_grey_is_luma():
    p = phantom(0).image
    rgb = np.repeat(p[:, :, None], 3, axis=2)

    assert np.array_equal(model.to_grey(rgb), p)
    assert np.array_equal(model.to_grey(rgb), np.asarray(Image.fromarray(rgb).convert("L")))
