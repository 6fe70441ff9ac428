import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.compute.geometry import area, axes, hull, outlines, polygon_mask, thin

SQUARE = np.array([[2.0, 3.0], [6.0, 3.0], [6.0, 9.0], [2.0, 9.0]])


def ellipse(a, b, tilt=0.0):
    x, y, n = 50.37, 40.71, 400  # off the pixel grid, where whole rows would count twice or not at all
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    u, v = a * np.cos(t), b * np.sin(t)
    return np.column_stack([x + u * np.cos(tilt) - v * np.sin(tilt), y + u * np.sin(tilt) + v * np.cos(tilt)])


def test_outline_of_a_disc_lies_on_its_edge_to_a_fraction_of_a_pixel():
    y, x = np.mgrid[0:80, 0:100]
    distance = np.hypot(x - 41.3, y - 38.6)
    field = (1 / (1 + np.exp(distance - 17.25))).astype(np.float32)

    (points,) = outlines(field, 0.5)

    assert np.abs(np.hypot(points[:, 0] - 41.3, points[:, 1] - 38.6) - 17.25).max() < 0.05


def test_outlines_keep_separate_regions_apart_and_ignore_holes():
    field = np.zeros((40, 60), np.float32)
    field[5:20, 5:20] = 1
    field[10:13, 10:13] = 0
    field[25:35, 40:55] = 1

    found = outlines(field, 0.5)

    assert sorted(area(p) for p in found) == pytest.approx([150, 225], abs=1)  # the corners are cut


def test_region_at_the_border_is_closed():
    field = np.zeros((20, 20), np.float32)
    field[:6, :8] = 1

    (points,) = outlines(field, 0.5)

    assert points.min() > -1
    assert area(points) == pytest.approx(48, abs=1)


def test_nothing_above_the_level_gives_no_outline():
    assert outlines(np.full((9, 9), 0.3, np.float32), 0.5) == []


@pytest.mark.parametrize("tilt", [0.0, 0.4, 1.2, 2.9])
def test_axes_of_an_ellipse_do_not_depend_on_its_direction(tilt):
    long_axis, short_axis = axes(ellipse(20, 9, tilt=tilt))

    assert long_axis == pytest.approx(40, rel=1e-3)
    assert short_axis == pytest.approx(18, rel=1e-3)


def test_axes_of_degenerate_outlines_are_zero_wide():
    assert axes(np.array([[1.0, 1.0]] * 5)) == (0.0, 0.0)
    assert axes(np.array([[0.0, 0.0], [3.0, 4.0], [1.5, 2.0]])) == (pytest.approx(5.0), pytest.approx(0.0))


def test_area_is_that_of_the_polygon_whatever_its_direction():
    assert area(SQUARE) == 24.0
    assert area(SQUARE[::-1]) == 24.0


def test_hull_drops_inner_points():
    inner = np.vstack([SQUARE, [[4.0, 5.0], [3.0, 4.0]]])

    assert {tuple(p) for p in hull(inner)} == {tuple(p) for p in SQUARE}


def test_polygon_mask_marks_exactly_the_pixel_centres_inside():
    mask = polygon_mask(np.array([[1.5, 2.5], [6.5, 2.5], [6.5, 8.5], [1.5, 8.5]]), 12, 10)

    assert mask.sum() == 5 * 6
    assert mask[3:9, 2:7].all()


def test_polygon_mask_cuts_what_lies_outside_the_frame():
    mask = polygon_mask(np.array([[-5.0, -5.0], [50.0, -5.0], [50.0, 50.0], [-5.0, 50.0]]), 7, 9)

    assert mask.all()


@given(st.floats(4, 15), st.floats(4, 15), st.floats(0, 3.1))
def test_mask_and_polygon_have_the_same_area(a, b, tilt):
    points = ellipse(a, b, tilt=tilt)

    perimeter = 2 * np.pi * np.sqrt((a * a + b * b) / 2)  # pixels that the edge may win or lose
    assert polygon_mask(points, 90, 100).sum() == pytest.approx(area(points), abs=0.3 * perimeter)


def test_thinning_keeps_the_shape_within_the_tolerance():
    points = ellipse(30, 12)

    kept = thin(points, 0.1)

    assert len(kept) < len(points) / 4
    assert area(kept) == pytest.approx(area(points), rel=0.02)
    assert {tuple(p) for p in kept} <= {tuple(p) for p in points}
