"""A beat's shape beside others, and what score a patient's beat needs."""

from types import SimpleNamespace

import numpy as np
import pytest

from edgeward.clinic.monitor import beats
from edgeward.clinic.monitor.state import LEVEL_AT_FIRST, P_POINTS, SHAPE


def naive(x, y, most):
    """The same by the definition: one correlation coefficient per shift."""
    part = y[most : len(y) - most]
    pieces = [x[most + shift : len(x) - most + shift] for shift in range(-most, most + 1)]
    likes = [np.corrcoef(piece, part)[0, 1] for piece in pieces]
    best = int(np.argmax(likes))
    d = (pieces[best] - pieces[best].mean()) - (part - part.mean())
    return likes[best], best - most, (d**2).sum() / (part.var() + pieces[best].var()) / len(part)


@pytest.mark.parametrize(("points", "most"), [(SHAPE, beats.SHIFT), (P_POINTS, beats.P_SHIFT)])
def test_the_resemblance_of_two_curves_is_their_best_correlation_over_small_shifts(points, most):
    rng = np.random.default_rng(4)
    for _ in range(20):
        x, y = rng.normal(size=(2, points)).cumsum(axis=1)
        found = beats.resemblance(x, y, most, np.full(beats.ROOM, 7.0))
        np.testing.assert_allclose(found, naive(x, y, most), rtol=1e-9, atol=1e-9)


def test_a_shifted_copy_is_the_same_and_a_flat_curve_is_like_nothing():
    y = np.exp(-(((np.arange(SHAPE) - 14) / 3.0) ** 2))
    like, shift, residual = beats.resemblance(np.roll(y, 3), y, beats.SHIFT, np.zeros(beats.ROOM))
    assert (round(like, 3), shift) == (1.0, 3)
    assert residual < 1e-3
    like, _, _ = beats.resemblance(np.zeros(SHAPE), y, beats.SHIFT, np.zeros(beats.ROOM))
    assert like == 0.0


def lead():
    return SimpleNamespace(level=np.array(LEVEL_AT_FIRST), leveled=np.zeros(3, dtype=np.int64))


def level_after(scores, kind=1):
    c = lead()
    for score in scores:
        beats.raise_level.py_func(c, kind, score)
    return c


def test_where_usual_beats_score_high_a_beat_needs_more_to_be_ventricular():
    noisy, usual, clean = (beats.above_level.py_func(level_after([s] * 300), 1) for s in (-1.0, -4.0, -6.9))
    assert noisy < usual < clean
    assert abs(usual) < 0.05
    part, even = beats.LEVEL_PART[1], beats.LEVEL_EVEN[1]
    assert clean == pytest.approx(part * (even - beats.LEVEL_LEAST[1]))  # and no more than that
    assert noisy == pytest.approx(part * (even - beats.LEVEL_MOST[1]))


def test_ventricular_beats_do_not_move_the_level_of_a_lead():
    assert level_after([3.0] * 300).level[1] == LEVEL_AT_FIRST[1]
    assert level_after([3.0, -6.0] * 200).level[1] == pytest.approx(-6.0, abs=0.1)


def test_what_is_known_at_once_and_in_hindsight_have_levels_of_their_own():
    c = level_after([-1.0] * 100, kind=0)
    assert c.level[0] > -1.5
    assert c.level[1] == LEVEL_AT_FIRST[1]


STEADY = {
    "interval_change": 0.0, "interval_long": 0.02, "intervals_ratio": 0.05, "likeness_before": 0.97,
    "likeness_to_next": 0.3, "sharpness": -0.3, "p_likeness": 0.2, "p_strength": 0.0,
}  # fmt: skip


def paced_by_the_atria(interval=0.8, **facts):
    x = np.zeros(beats.FEATURES)
    for name, value in {**STEADY, **facts}.items():
        x[beats.NAMES.index(name)] = value
    return beats.keeps_pace(x, interval)


def test_a_sharp_beat_like_its_neighbour_at_a_steady_pace_is_not_ventricular():
    assert paced_by_the_atria()
    assert paced_by_the_atria(likeness_before=0.3, likeness_to_next=0.97)  # the first of several


@pytest.mark.parametrize(
    "facts",
    [
        {"interval": 0.5},  # a tachycardia
        {"interval_change": -0.4},  # early
        {"intervals_ratio": -0.5},  # with a pause after it
        {"interval_long": -0.3},
        {"likeness_before": 0.5},  # alone
        {"sharpness": -1.4},  # slow to begin, as what spreads through muscle
        {"p_likeness": 0.1, "p_strength": 1.0},  # this patient has P waves, and it has none
    ],
)
def test_one_thing_that_does_not_fit_leaves_a_beat_what_its_score_says(facts):
    assert not paced_by_the_atria(**facts)


def test_the_patients_own_p_wave_speaks_for_a_beat_that_begins_slowly():
    assert paced_by_the_atria(sharpness=-1.4, p_likeness=0.97, p_strength=1.0)
    assert not paced_by_the_atria(sharpness=-1.4, p_likeness=0.97, p_strength=0.1)  # what is known of it is noise
