"""What kind the last beats were, at once and later."""

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


@pytest.mark.parametrize("seen", [True, False])
def test_a_lead_that_missed_the_next_beat_has_no_say_once_the_kind_is_settled(seen):
    p = after([SURE / 2.0] * 3, [SURE / 2.0] * 2)
    p["now_sum"][0], p["now_count"][0] = 2.0 * DOUBTFUL, 1
    assert ectopy.chance_of(p, 0) < 0.5  # nothing better is known yet
    if seen:
        p["later_sum"][0], p["later_count"][0] = 2.0 * DOUBTFUL, 1
    assert (ectopy.decide(p, 0) == ectopy.VENTRICULAR) is not seen


def test_without_hindsight_a_kind_is_settled_by_what_all_leads_said_at_once():
    p = after([SURE / 2.0], [])
    p["now_sum"][0], p["now_count"][0] = 2.0 * DOUBTFUL, 1
    assert ectopy.decide(p, 0) == ectopy.NORMAL


MAYBE = float(np.log(0.43 / 0.57)) / (1.0 + ectopy.OTHERS)


@pytest.mark.parametrize(
    ("scores", "run"),
    [
        ([SURE, SURE, MAYBE], 3),  # after two that are certain, less is enough
        ([MAYBE, SURE, SURE], 3),  # and before them
        ([SURE, MAYBE, SURE, SURE, MAYBE], 5),
        ([MAYBE, SURE, MAYBE, SURE], 1),
        ([MAYBE] * 6, 0),
        ([SURE, SURE, DOUBTFUL, MAYBE], 0),
    ],
)
def test_beside_two_ventricular_beats_one_is_ventricular_with_less_evidence(scores, run):
    assert ectopy.run_length(after([DOUBTFUL, *scores], [DOUBTFUL, *scores]), 0) == run


def run_after(before_s, run_s, beats, *, rate_hz=250.0, limit=100.0):
    """A patient with ten beats `before_s` apart, then a run of `beats` beats, all `run_s` after the one before."""
    p = np.zeros(1, dtype=PATIENT)[0]
    p["rate"], p["ventricular_tachycardia_rate"] = rate_hz, limit
    at = 0.0
    for interval in [before_s] * 10 + [run_s] * beats:
        at += interval
        p["times"][p["beats"] % ectopy.HISTORY] = at * rate_hz
        p["intervals"][p["beats"] % ectopy.HISTORY] = interval
        p["beats"] += 1
    return p


@pytest.mark.parametrize(
    ("before_s", "run_s", "unhurried"),
    [(0.8, 0.8, True), (0.8, 0.75, True), (0.8, 0.65, False), (0.8, 0.4, False), (0.5, 0.5, False), (1.4, 0.9, False)],
)
@pytest.mark.parametrize("beats", [3, 4])
@pytest.mark.parametrize("ago", [0, 1])
def test_a_run_is_unhurried_at_the_pace_before_it_if_that_is_no_tachycardia(before_s, run_s, unhurried, beats, ago):
    p = run_after(before_s, run_s, beats + ago)
    assert ectopy.is_unhurried(p, beats, ago, np.full(64, 9.0)) is unhurried


def test_what_a_tachycardia_is_follows_from_the_patients_limit():
    assert ectopy.is_unhurried(run_after(0.5, 0.5, 3, limit=150.0), 3, 0, np.zeros(64))


def test_a_run_with_hardly_a_beat_before_it_is_not_unhurried():
    p = run_after(0.8, 0.8, 3)
    p["intervals"][2:] = 0.0  # gaps
    assert not ectopy.is_unhurried(p, 3, 0, np.zeros(64))
