"""What kind the last beats were, at once and one beat later."""

import numpy as np
import pytest

from edgeward.clinic.monitor import ectopy
from edgeward.clinic.monitor.patient import PATIENT

SURE, DOUBTFUL = 4.0, -4.0


def after(now, later):
    """A patient whose beats scored `now` at once and, but for the newest, `later` in hindsight."""
    p = np.zeros(1, dtype=PATIENT)[0]
    for at_once in now:
        ectopy.open_slot(p, p["beats"] % ectopy.HISTORY, 0, at_once)
        p["beats"] += 1
    for k, score in enumerate(later):
        p["later_known"][k % ectopy.HISTORY] = 1
        p["later_own"][k % ectopy.HISTORY] = score
    return p


@pytest.mark.parametrize("beats", [5, 9])
def test_a_run_that_only_hindsight_shows_is_seen_one_beat_later(beats):
    p = after([DOUBTFUL] * (beats + 1), [SURE] * beats)
    assert ectopy.run_length(p, 0) == 0
    assert ectopy.run_length(p, 1) == beats


def test_what_looked_like_a_run_at_once_is_none_once_hindsight_knows_better():
    p = after([SURE] * 6, [DOUBTFUL] * 5)
    assert ectopy.run_length(p, 0) == 1
    assert ectopy.run_length(p, 1) == 0


def test_a_run_up_to_the_newest_beat_counts_it():
    p = after([SURE] * 4, [SURE] * 3)
    assert ectopy.run_length(p, 0) == 4
    assert ectopy.run_length(p, 1) == 3


def test_a_run_longer_than_what_is_remembered_is_told_as_that():
    p = after([SURE] * 40, [])
    assert ectopy.run_length(p, 0) == ectopy.HISTORY - 1
    assert ectopy.run_length(p, 1) == ectopy.HISTORY - 2
