"""Which frames of a loop are looked at, and which one the result rests on."""

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from edgeward.compute import cine


@dataclass
class Outline:
    box: tuple[float, float, float, float]
    probability: float = 0.9


@dataclass
class Result:
    reason: str = ""
    lesions: list[Outline] = field(default_factory=list)
    malignancy: float | None = 0.1


HERE, THERE = (10.0, 10.0, 50.0, 50.0), (200.0, 200.0, 240.0, 240.0)


def header(**attributes: object) -> Dataset:
    ds = Dataset()
    for name, value in attributes.items():
        setattr(ds, name, value)
    return ds


# ---------------------------------------- times


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"FrameTime": "40"}, 40.0),
        ({"CineRate": "25"}, 40.0),
        ({"RecommendedDisplayFrameRate": "50"}, 20.0),
        ({"FrameTime": "40", "CineRate": "100"}, 40.0),
        ({"FrameTimeVector": ["0", "30", "60"]}, 30.0),
        ({"FrameTime": "0"}, 0.0),
        ({"FrameTime": "-5", "CineRate": "20"}, 50.0),
        ({}, 0.0),
    ],
)
def test_the_time_of_a_frame_is_read_wherever_it_stands(attributes, expected):
    assert cine.frame_time_ms(header(**attributes)) == expected


def test_uneven_times_add_up():
    assert cine.frame_times(header(FrameTimeVector=["0", "10", "30", "5"]), 4) == [0.0, 10.0, 40.0, 45.0]


@pytest.mark.parametrize("vector", [["0", "-10", "5", "5"], ["0", "0", "0", "0"]])
def test_impossible_times_are_not_believed(vector):
    assert cine.frame_times(header(FrameTimeVector=vector, FrameTime="20"), 4) == [0.0, 20.0, 40.0, 60.0]


# ---------------------------------------- sampling


@given(st.integers(1, 400), st.integers(1, 64))
def test_samples_are_as_many_as_wanted_in_order_and_hold_the_middle(frames, wanted):
    chosen = cine.sample([float(n) for n in range(frames)], wanted)

    assert len(chosen) == min(frames, wanted)
    assert chosen == sorted(set(chosen))
    assert frames // 2 in chosen
    assert all(0 <= n < frames for n in chosen)
    assert chosen == cine.sample([float(n) for n in range(frames)], wanted)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=80), st.integers(1, 20))
def test_samples_hold_for_any_times(steps, wanted):
    times = [sum(steps[:n]) for n in range(len(steps))]

    chosen = cine.sample(times, wanted)

    assert len(chosen) == min(len(times), wanted)
    assert len(times) // 2 in chosen


def test_a_loop_is_covered_evenly():
    chosen = cine.sample([float(n) for n in range(80)], 8)

    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert set(gaps) <= {9, 10}
    assert chosen[0] <= 10
    assert chosen[-1] >= 70


def test_samples_are_even_in_time_not_in_number():
    """Eighty frames in the first second and twenty in the next nine."""
    times = [n / 80 for n in range(80)] + [1 + 9 * n / 20 for n in range(20)]

    chosen = cine.sample(times, 10)

    assert sum(n >= 80 for n in chosen) >= 7


def test_what_is_left_out_for_lack_of_time_leaves_the_loop_covered():
    order = cine.spread(list(range(0, 80, 10)), 40)

    assert order[0] == 40
    assert set(order[:3]) == {0, 40, 70}
    assert sorted(order) == list(range(0, 80, 10))


# ---------------------------------------- the best frame


def best(*results: Result) -> int:
    return cine.best(results, range(len(results)), len(results) // 2)


def test_an_analysed_frame_comes_before_a_refused_one():
    assert best(Result("dark"), Result("dark"), Result(), Result("dark")) == 2


def test_a_frame_with_an_outline_comes_before_one_without():
    assert best(Result(malignancy=0.9), Result(), Result(), Result(lesions=[Outline(HERE, 0.4)])) == 3


def test_a_lesion_that_neighbours_confirm_comes_before_a_surer_lone_one():
    frames = [
        Result(lesions=[Outline(THERE, 0.95)]),
        Result(),
        *(Result(lesions=[Outline(HERE, 0.8)]) for _ in range(3)),
    ]

    assert best(*frames) == 3
    assert frames[0].lesions  # it is not hidden


def test_of_equally_sure_outlines_the_more_suspicious_frame_is_shown():
    frames = [Result(lesions=[Outline(HERE)], malignancy=m) for m in (0.1, 0.1, 0.8, 0.1, 0.1)]

    assert best(*frames) == 2


def test_of_equals_the_one_nearest_to_the_middle_is_taken():
    assert best(*(Result() for _ in range(7))) == 3
    assert best(*(Result("dark") for _ in range(7))) == 3
