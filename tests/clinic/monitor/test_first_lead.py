"""A first lead that the heart's axis is square to shows nothing: of several leads, the others are heard from the start."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support import ecg

RATE = 250
TIMES = np.arange(0.5, 30.0, 0.85)


def leads(*heights: float, seconds: float = 30.0) -> np.ndarray:
    """Return a heart that stops at 30 s in leads of these heights (mV), each with its own noise."""
    beat = ecg.beats_at(TIMES, RATE, seconds)
    return np.stack(
        [height * beat + ecg.noise(RATE, seconds, 0.01, seed=number) for number, height in enumerate(heights)]
    )


def test_a_heart_that_the_first_lead_does_not_see_is_no_asystole():
    found = ecg.run(leads(0.08, 1.0, 0.9, 0.7), RATE)
    assert "asystole" not in found.codes()
    assert found.heart_rate == pytest.approx(60 / 0.85, abs=2)
    assert found.beats[0] < 4, "from the beginning, not once a lead has proved itself"


def test_when_that_heart_stops_it_is_told():
    found = ecg.run(leads(0.08, 1.0, 0.9, 0.7, seconds=40.0), RATE)
    ((onset, decisive),) = found.raised("asystole")
    assert onset == pytest.approx(TIMES[-1], abs=0.3)
    assert decisive < TIMES[-1] + 6


def test_noise_of_one_other_lead_is_no_beat():
    quiet = leads(0.0, 0.0, 0.0)
    quiet[1] += ecg.beats_at(TIMES, RATE, 30.0)
    assert ecg.run(quiet, RATE).raised("asystole"), "one lead alone does not speak for the patient at the beginning"
