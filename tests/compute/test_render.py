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
from edgeward.messages import ObjectRef, RenderRequest, encode

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
