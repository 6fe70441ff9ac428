"""A frame as a picture: the right window, size and kind, within one message."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.support.imaging import test_file
from tests.support.objects import dataset, region, to_bytes

from edgeward.compute import render as module
from edgeward.compute.decode import DecodeError
from edgeward.compute.render import render
from edgeward.messages import ObjectRef, RenderRequest, Viewport, encode

REF = ObjectRef(object_id="o", path="/nowhere", data_key=b"", size=0)
RAMP = np.arange(4800, dtype=np.uint16).reshape(60, 80)
GREY = np.random.default_rng(1).integers(0, 256, (60, 80), dtype=np.uint8)


def ask(data, **options):
    options.setdefault("media_type", "image/png")
    return render(data, RenderRequest(object=REF, **options))


def pixels(rendered):
    return np.asarray(Image.open(io.BytesIO(rendered.data)))


# ---------------------------------------- windows (PS3.3 C.11.2.1.2)


def linear(x, c, w):
    y = ((x - (c - 0.5)) / (w - 1) + 0.5) * 255
    return np.rint(
        np.clip(np.where(x <= c - 0.5 - (w - 1) / 2, 0, np.where(x > c - 0.5 + (w - 1) / 2, 255, y)), 0, 255)
    )


def test_eight_bits_are_shown_as_they_are_and_the_window_that_does_so_is_told():
    shown = ask(to_bytes(dataset(GREY)))
    again = ask(to_bytes(dataset(GREY)), window_center=shown.window_center, window_width=shown.window_width)

    assert (pixels(shown) == GREY).all()
    assert (pixels(again) == GREY).all()
    assert (shown.lowest, shown.highest) == (GREY.min(), GREY.max())


def test_the_objects_window_is_applied_exactly_as_the_standard_says():
    shown = ask(to_bytes(dataset(RAMP, WindowCenter=1000, WindowWidth=401)))

    assert (pixels(shown) == linear(RAMP.astype(float), 1000, 401)).all()
    assert (shown.window_center, shown.window_width) == (1000, 401)
    assert (shown.lowest, shown.highest) == (0, 4799)


def test_an_asked_window_comes_before_the_objects():
    shown = ask(to_bytes(dataset(RAMP, WindowCenter=1000, WindowWidth=400)), window_center=2000, window_width=100)

    assert (pixels(shown) == linear(RAMP.astype(float), 2000, 100)).all()
    assert (shown.window_center, shown.window_width) == (2000, 100)


def test_a_window_counts_after_the_rescaling():
    ct = dataset(RAMP.astype(np.int16) - 2000, PixelRepresentation=1, RescaleSlope="2", RescaleIntercept="-100")

    shown = ask(to_bytes(ct), window_center=40, window_width=400)

    assert (pixels(shown) == linear((RAMP.astype(float) - 2000) * 2 - 100, 40, 400)).all()
    assert (shown.lowest, shown.highest) == (-4100, 5498)


def test_linear_exact_and_sigmoid_windows():
    x = RAMP.astype(float)
    exact = ask(to_bytes(dataset(RAMP, WindowCenter=1000, WindowWidth=400, VOILUTFunction="LINEAR_EXACT")))
    sigmoid = ask(to_bytes(dataset(RAMP, WindowCenter=1000, WindowWidth=400, VOILUTFunction="SIGMOID")))

    assert (pixels(exact) == np.rint(np.clip(((x - 1000) / 400 + 0.5) * 255, 0, 255))).all()
    assert (pixels(sigmoid) == np.rint(255 / (1 + np.exp(-4 * (x - 1000) / 400)))).all()


def test_a_width_of_one_is_a_threshold():
    assert set(np.unique(pixels(ask(to_bytes(dataset(RAMP)), window_center=1000, window_width=1)))) == {0, 255}


def test_monochrome1_is_inverted_after_the_window():
    plain = ask(to_bytes(dataset(RAMP)), window_center=1000, window_width=400)
    inverse = ask(
        to_bytes(dataset(RAMP, PhotometricInterpretation="MONOCHROME1")), window_center=1000, window_width=400
    )

    assert (pixels(inverse) == 255 - pixels(plain)).all()


def test_sixteen_bits_without_a_window_are_shown_from_lowest_to_highest():
    shown = ask(to_bytes(dataset(RAMP + 300)))
    again = ask(to_bytes(dataset(RAMP + 300)), window_center=shown.window_center, window_width=shown.window_width)

    assert (pixels(shown)[0, 0], pixels(shown)[-1, -1]) == (0, 255)
    assert (pixels(again) == pixels(shown)).all()


def table(descriptor, data):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = descriptor, np.asarray(data, "<u2").tobytes()
    return Sequence([item])


def test_look_up_tables_are_applied_in_order():
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    doubled = table([256, 0, 16], [2 * n for n in range(256)])
    voi = table([512, 0, 8], [255 - n // 2 for n in range(512)])

    shown = ask(to_bytes(dataset(stored, ModalityLUTSequence=doubled, VOILUTSequence=voi)))

    assert (pixels(shown) == 255 - stored).all()
    assert (shown.window_center, shown.highest) == (None, 510)


def test_a_look_up_table_that_is_shorter_than_it_says_is_refused():
    with pytest.raises(DecodeError, match="look-up table"):
        ask(to_bytes(dataset(GREY, VOILUTSequence=table([65535, 0, 16], [1, 2, 3]))))


def test_an_enhanced_object_has_its_window_in_the_frames_group():
    def group(center):
        item, voi = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 100
        item.FrameVOILUTSequence = Sequence([voi])
        return item

    enhanced = to_bytes(
        dataset(np.stack([RAMP, RAMP]), PerFrameFunctionalGroupsSequence=Sequence([group(1000), group(2000)]))
    )

    assert [ask(enhanced, frame=n).window_center for n in (0, 1)] == [1000, 2000]


@pytest.mark.parametrize(("center", "width"), [(float("nan"), 10.0), (10.0, 0.0), (10.0, -5.0), (10.0, float("inf"))])
def test_an_impossible_window_is_refused(center, width):
    with pytest.raises(DecodeError, match="window"):
        ask(to_bytes(dataset(GREY)), window_center=center, window_width=width)


# ---------------------------------------- frames, sizes, kinds


def test_the_frame_that_was_asked_for_is_shown_with_the_loops_speed():
    loop = dataset(np.stack([np.full((50, 60), 10 * n, np.uint8) for n in range(7)]), FrameTime="40")

    shown = ask(to_bytes(loop), frame=5)

    assert (pixels(shown) == 50).all()
    assert (shown.frame, shown.frames, shown.frame_time_ms) == (5, 7, 40.0)
    for index in (-1, 7):
        with pytest.raises(DecodeError, match="frame"):
            ask(to_bytes(loop), frame=index)


def test_a_width_is_kept_to_and_never_exceeded_by_enlarging():
    data = to_bytes(dataset(np.tile(GREY, (10, 10)), SequenceOfUltrasoundRegions=region((0, 0, 799, 599))))

    small, full = ask(data, max_width=200), ask(data, max_width=5000)

    assert (small.width, small.height, small.scale) == (200, 150, 0.25)
    assert pixels(small).shape == (150, 200)
    assert (full.width, full.height, full.scale) == (800, 600, 1.0)
    assert (small.rows, small.columns) == (600, 800)
    assert small.spacing_mm == pytest.approx((0.2, 0.1))


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ({"delta_cm": (0.01, 0.02)}, []),
        ({"delta_cm": (0.02, 0.04)}, [(0.2, 0.1), (0.4, 0.2)]),
        ({"RegionSpatialFormat": 3, "PhysicalUnitsXDirection": 4, "PhysicalUnitsYDirection": 7}, [(0.2, 0.1), None]),
        ({"PhysicalUnitsXDirection": 0, "PhysicalUnitsYDirection": 0}, []),
    ],
)
def test_regions_of_other_scales_are_told_with_their_scale(second, told):
    """Two pictures side by side, or one above a spectrum: one spacing for both would be wrong millimetres for one."""
    first = region((0, 0, 399, 599))
    both = Sequence([first[0], region((400, 0, 799, 599), **second)[0]])

    shown = ask(to_bytes(dataset(np.tile(GREY, (10, 10)), SequenceOfUltrasoundRegions=both)))

    assert shown.spacing_mm == pytest.approx((0.2, 0.1))
    assert [one.spacing_mm and pytest.approx(one.spacing_mm) for one in shown.scales] == told
    assert [one.box for one in shown.scales] == [(0, 0, 400, 600), (400, 0, 800, 600)][: len(told)]


def test_thin_lines_survive_reduction():
    picture = np.zeros((800, 1600), np.uint8)
    picture[::100] = 255

    assert (pixels(ask(to_bytes(dataset(picture)), max_width=400)).max(axis=1) > 30).sum() >= 8


def test_colour_and_palettes_are_shown_in_colour():
    rgb = np.random.default_rng(2).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    shown = ask(to_bytes(dataset(rgb)))

    assert (pixels(shown) == rgb).all()
    assert (shown.window_center, shown.lowest, shown.highest) == (None, 0, 255)
    assert pixels(ask(test_file("examples_palette.dcm").read_bytes())).shape == (350, 800, 3)


def test_a_jpeg_is_one():
    shown = ask(to_bytes(dataset(GREY)), media_type="image/jpeg")

    assert shown.data.startswith(b"\xff\xd8")
    assert np.abs(pixels(shown).astype(int) - GREY).mean() < 20


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "RG1_UNCR.dcm", "emri_small.dcm", "liver_1frame.dcm"])
def test_other_modalities_are_shown(name):
    assert pixels(ask(test_file(name).read_bytes())).std() > 0


def test_every_picture_fits_into_a_message(monkeypatch):
    noise = np.random.default_rng(3).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    data = to_bytes(dataset(noise))
    monkeypatch.setattr(module, "MAX_PICTURE", 300_000)

    shown = ask(data, media_type="image/jpeg")

    assert len(encode(shown)) < 310_000
    assert shown.width < 1200
    assert shown.scale == shown.width / 1200
    with pytest.raises(DecodeError, match="too large"):
        ask(data)


def test_the_limit_leaves_room_in_a_message_of_the_bus():
    assert module.MAX_PICTURE + 100_000 < 8 * 1024 * 1024


# ---------------------------------------- proportions, viewports, quality (PS3.18, 8.3.5)


def test_an_asked_function_comes_before_the_objects():
    x = RAMP.astype(float)
    ramp = to_bytes(dataset(RAMP, VOILUTFunction="SIGMOID"))

    for name, expected in (
        ("linear", linear(x, 1000, 400)),
        ("linear-exact", np.rint(np.clip(((x - 1000) / 400 + 0.5) * 255, 0, 255))),
        ("sigmoid", np.rint(255 / (1 + np.exp(-4 * (x - 1000) / 400)))),
    ):
        shown = ask(ramp, window_center=1000, window_width=400, window_function=name)
        assert (pixels(shown) == expected).all(), name


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"PixelAspectRatio": [2, 1]}, (80, 120)),
        ({"PixelAspectRatio": [1, 2]}, (160, 60)),
        ({"PixelAspectRatio": [4, 3]}, (80, 80)),
        ({"PixelSpacing": [0.2, 0.1]}, (80, 120)),
        ({"PixelSpacing": [0.1, 0.1], "PixelAspectRatio": [2, 1]}, (80, 60)),
        ({"PixelAspectRatio": [1, 1]}, (80, 60)),
        ({"PixelAspectRatio": [0, 1]}, (80, 60)),
        ({"PixelAspectRatio": [1000, 1]}, (80, 60)),
        ({"PixelAspectRatio": [3]}, (80, 60)),
        ({}, (80, 60)),
    ],
)
def test_pixels_that_are_not_square_are_shown_in_true_proportions(attributes, size):
    data = to_bytes(dataset(GREY, **attributes))

    assert (ask(data, square_pixels=True).width, ask(data, square_pixels=True).height) == size
    assert (pixels(ask(data)) == GREY).all(), "whoever draws on the picture gets the object's own pixels"


def test_a_picture_is_as_large_as_fits_into_the_viewport():
    data = to_bytes(dataset(GREY, PixelAspectRatio=[2, 1]))

    def size(width, height, **options):
        shown = ask(data, viewport=Viewport(width=width, height=height), **options)
        return shown.width, shown.height

    assert size(40, 40) == (40, 30)
    assert size(800, 800) == (800, 600), "also where it has to be enlarged"
    assert size(1000, 60) == (80, 60)
    assert size(120, 120, square_pixels=True) == (80, 120)


def test_a_region_is_cut_out_and_turned_over():
    image = np.zeros((60, 80), np.uint8)
    image[10:20, 30:50] = 200
    image[10:20, 50:70] = 100
    data = to_bytes(dataset(image))

    def shown(**region):
        return pixels(ask(data, viewport=Viewport(width=40, height=10, **region)))

    straight = shown(left=30, top=10, region_width=40, region_height=10)
    assert straight.shape == (10, 40)
    assert (straight[:, :20] == 200).all()
    assert (straight[:, 20:] == 100).all()
    assert (shown(left=30, top=10, region_width=-40, region_height=-10) == straight[::-1, ::-1]).all()
    assert shown(left=60, top=50).shape == (10, 20), "without a size up to the edges"
    assert shown(left=60, top=50, region_width=1000, region_height=1000).shape == (10, 20)
    with pytest.raises(DecodeError, match="outside"):
        shown(left=80)


def test_a_viewport_that_would_take_all_memory_is_refused():
    with pytest.raises(DecodeError, match="too large"):
        ask(to_bytes(dataset(GREY)), viewport=Viewport(width=16000, height=16000))


def test_the_quality_of_a_jpeg_is_the_one_that_was_asked_for():
    sizes = [len(ask(to_bytes(dataset(GREY)), media_type="image/jpeg", quality=q).data) for q in (10, 50, 0, 95)]

    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4


def test_a_gif_holds_the_same_grey():
    shown = ask(to_bytes(dataset(GREY)), media_type="image/gif")

    picture = Image.open(io.BytesIO(shown.data))
    assert picture.format == "GIF"
    assert (np.asarray(picture.convert("L")) == GREY).all()
