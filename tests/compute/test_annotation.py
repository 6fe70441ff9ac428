"""Drawn strokes are found and left out; speckle and clean pictures are left alone."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from edgeward.compute.annotation import reduced_without, strokes
from edgeward.device.phantom import phantom

# Phantoms are brighter than most tissue; white on white is no stroke that anybody could tell.
CLEAN = (phantom(910, kind="malignant").image * 0.7).astype(np.uint8)
ROWS, COLUMNS = CLEAN.shape


def calipers(draw, colour):
    for x in range(COLUMNS // 4, COLUMNS // 2, 6):
        draw.ellipse([x - 1, ROWS // 2 - 1, x + 1, ROWS // 2 + 1], fill=colour)
    for x in (COLUMNS // 4, COLUMNS // 2):
        draw.line([(x - 6, ROWS // 2), (x + 6, ROWS // 2)], fill=colour)
        draw.line([(x, ROWS // 2 - 6), (x, ROWS // 2 + 6)], fill=colour)


def ellipse(draw, colour):
    for angle in np.arange(0, 2 * np.pi, 0.08):
        x, y = COLUMNS * (0.5 + 0.15 * np.cos(angle)), ROWS * (0.5 + 0.15 * np.sin(angle))
        draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill=colour)


def text(draw, colour):
    draw.text((20, ROWS // 3), "RT BREAST 2 OCL", fill=colour, font=ImageFont.load_default(size=18))


def drawn(what, colour=(255, 255, 255)):
    picture = Image.fromarray(np.repeat(CLEAN[..., None], 3, axis=2))
    what(ImageDraw.Draw(picture), colour)
    rgb = np.asarray(picture)
    changed = (rgb != CLEAN[..., None]).any(axis=2)
    return rgb, np.asarray(picture.convert("L")), changed


@pytest.mark.parametrize("what", [calipers, ellipse, text])
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 255, 0), (0, 255, 0), (0, 200, 255)])
def test_what_was_drawn_is_found_and_little_else(what, colour):
    rgb, grey, changed = drawn(what, colour)

    found = strokes(grey, rgb)

    bright = changed & ((grey > 250) | (rgb.max(axis=2).astype(int) - rgb.min(axis=2) > 60))
    assert found[bright].mean() > 0.95
    near = np.asarray(Image.fromarray(changed.astype(np.uint8) * 255).resize((COLUMNS, ROWS))) > 0
    for _ in range(3):
        near[1:-1, 1:-1] = near[1:-1, 1:-1] | near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:]
    assert (found & ~near).mean() < 0.002


@pytest.mark.parametrize("what", [calipers, ellipse, text])
def test_the_network_sees_almost_what_it_would_see_without_the_strokes(what):
    rgb, grey, _ = drawn(what)
    size = (256, 192)
    clean, plain = (
        np.asarray(Image.fromarray(g).resize(size, Image.Resampling.BILINEAR), np.float32) for g in (CLEAN, grey)
    )

    hidden = reduced_without(grey, strokes(grey, rgb), *size)

    before, after = (np.abs(seen - clean)[np.abs(plain - clean) > 12].mean() for seen in (plain, hidden))
    assert after < before / 3


def test_pictures_without_strokes_are_left_as_they_are():
    assert strokes(CLEAN) is None or strokes(CLEAN).mean() < 0.001
    assert strokes(np.zeros((100, 100), np.uint8)) is None
    assert strokes(np.full((100, 100), 255, np.uint8)) is None
    bright = np.zeros((300, 300), np.uint8)
    bright[100:200, 100:200] = 255  # a solid area is no stroke
    assert strokes(bright) is None


def test_a_coloured_picture_is_no_annotation():
    rgb = np.zeros((200, 200, 3), np.uint8)
    rgb[:, :100, 0] = 200

    assert strokes(np.zeros((200, 200), np.uint8), rgb) is None


def test_nothing_hidden_gives_the_plain_reduction():
    plain = np.asarray(Image.fromarray(CLEAN).resize((100, 80), Image.Resampling.BILINEAR), np.float32)

    assert np.abs(reduced_without(CLEAN, np.zeros(CLEAN.shape, bool), 100, 80) - plain).max() < 0.51


def test_a_hidden_area_is_filled_from_around_it_and_an_entirely_hidden_picture_ends():
    grey = np.full((200, 200), 90, np.uint8)
    grey[80:120, 80:120] = 255
    where = grey == 255

    assert np.abs(reduced_without(grey, where, 100, 100) - 90).max() < 1
    assert (reduced_without(grey, np.ones_like(where), 100, 100) == 0).all()
