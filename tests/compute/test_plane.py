"""The plane of a frame is where the object says, or not known."""

from __future__ import annotations

import math

import pytest
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from edgeward.compute.plane import plane_of


def image(orientation=(1, 0, 0, 0, 1, 0), position=(-100, -100, 42.5)) -> Dataset:
    dataset = Dataset()
    if orientation is not None:
        dataset.ImageOrientationPatient = list(orientation)
    if position is not None:
        dataset.ImagePositionPatient = list(position)
    return dataset


@pytest.mark.parametrize(
    ("orientation", "position", "plane"),
    [
        ((1, 0, 0, 0, 1, 0), (-100, -100, 42.5), (0, 0, 1, 42.5)),
        ((0, 1, 0, 0, 0, -1), (30, -100, 200), (-1, 0, 0, -30)),
        ((1, 0, 0, 0, 0.6, 0.8), (0, 10, 5), (0, -0.8, 0.6, -5)),
        ((2, 0, 0, 0, 2, 0), (0, 0, 7), (0, 0, 1, 7)),
    ],
)
def test_a_plane_is_its_normal_and_its_depth(orientation, position, plane):
    assert plane_of(image(orientation, position), 0) == pytest.approx(plane)


@pytest.mark.parametrize(
    ("orientation", "position"),
    [
        (None, (0, 0, 0)),
        ((1, 0, 0, 0, 1, 0), None),
        ((0, 0, 0, 0, 0, 0), (0, 0, 0)),
        ((1, 0, 0, 1, 0, 0), (0, 0, 0)),
        ((1, 0, 0, 0, 1), (0, 0, 0)),
        ((1, 0, 0, 0, 1, 0), (0, 0)),
        ((1, 0, 0, 0, 1, 0), ("1e300", "1e300", "1e308")),
    ],
)
def test_what_makes_no_plane_is_none(orientation, position):
    found = plane_of(image(orientation, position), 0)

    assert found is None or all(map(math.isfinite, found))


def test_each_frame_of_an_enhanced_object_has_its_own():
    dataset, shared, frames = Dataset(), Dataset(), []
    shared.PlaneOrientationSequence = [image(position=None)]
    for depth in (0, 2.5, 5):
        frame = Dataset()
        frame.PlanePositionSequence = [image(orientation=None, position=(0, 0, depth))]
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = frames

    assert [plane_of(dataset, index)[3] for index in range(3)] == [0, 2.5, 5]
    assert isinstance(frames[0].PlanePositionSequence[0].ImagePositionPatient, MultiValue)
