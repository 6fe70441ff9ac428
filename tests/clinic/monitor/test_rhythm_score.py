"""Rhythm figures against annotations whose answer is known."""

import numpy as np
import pytest

from edgeward.clinic.monitor import rhythm_score
from edgeward.clinic.monitor.rhythm_score import mask, stretches, sum_up, ventricular_runs


def test_annotated_rhythms_last_until_the_next_note():
    at = np.array([10, 50, 80, 200])
    notes = ["(AFIB", "", "(N", "(AFIB"]
    assert stretches(at, notes, ("(AFIB",), 300) == [(10, 80), (200, 300)]
    assert mask([(10, 80), (200, 300)], 300).sum() == 170


@pytest.mark.parametrize(("interval", "beats", "runs"), [(0.5, 5, 1), (0.5, 4, 0), (0.7, 8, 0), (0.59, 5, 1)])
def test_a_run_needs_five_beats_and_a_hundred_a_minute(interval, beats, runs):
    times = np.concatenate(([0.0, 1.0], 1.0 + interval * np.arange(1, beats + 1), [20.0]))
    symbols = ["N", "N", *["V"] * beats, "N"]
    found = ventricular_runs((times * 100).astype(int), symbols, 100.0)
    assert len(found) == runs


def test_the_figures_of_records_add_up_and_nothing_divides_by_zero():
    rhythm = {"true_s": 100.0, "told_s": 80.0, "both_s": 60.0, "episodes": 2, "found": 1, "false_episodes": 1}
    none = dict.fromkeys(rhythm, 0)
    vt = {"runs": 3, "found": 2, "in_time": 2, "delays_s": [1.0, 2.0], "alarms": 4, "unmatched": 1}
    record = {
        "hours": 0.5, "ventricular_tachycardia": vt, "lethal": dict.fromkeys(rhythm_score.LETHAL, 1),
        "atrial_fibrillation": rhythm, "bigeminy": none, "trigeminy": none,
    }  # fmt: skip
    total = sum_up({"a": record, "b": record})
    assert total["atrial_fibrillation"]["duration_se"] == 60.0
    assert total["atrial_fibrillation"]["duration_ppv"] == 75.0
    assert total["atrial_fibrillation"]["episode_se"] == 50.0
    assert total["bigeminy"]["duration_se"] is None
    assert total["ventricular_tachycardia"]["unmatched_per_hour"] == 2.0
    assert total["ventricular_tachycardia"]["runs"] == 6
