"""Leads made of one lead: the recording itself, beats at the same moment in all of them, shapes that differ."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.wearable import ecg

from edgeward.device.leads import EIGHT, TWO, with_leads
from edgeward.device.recordings import Recording, seamless


@pytest.fixture
def recording() -> Recording:
    return Recording("test", seamless(ecg(30, 75).reshape(1, -1), 250.0), 250.0, 1.0, ("II",))


def test_the_first_lead_is_the_recording_and_the_others_beat_with_it(recording):
    many = with_leads(recording, EIGHT)

    assert many.leads == EIGHT
    assert np.array_equal(many.samples[0], recording.samples[0])
    peak = int(np.argmax(recording.samples[0][:2000]))
    for row in many.samples[1:]:
        steep = np.abs(np.gradient(row[peak - 60 : peak + 60].astype(float)))
        assert abs(int(np.argmax(steep)) - 60) < 12, "within 50 ms of the R wave"
        assert np.ptp(row) > 300


def test_chest_leads_look_from_another_side(recording):
    many = with_leads(recording, EIGHT)
    v1, v6 = (many.samples[EIGHT.index(name)].astype(float) for name in ("V1", "V6"))

    assert v1.min() < -v1.max(), "rS"
    assert v6.max() > -v6.min(), "R"
    assert np.corrcoef(many.samples[0], v6)[0, 1] > 0.9


def test_a_loop_stays_a_loop_and_an_unknown_lead_is_refused(recording):
    two = with_leads(recording, TWO)
    step = abs(int(two.samples[1][0]) - int(two.samples[1][-1]))
    assert step < 150
    with pytest.raises(KeyError):
        with_leads(recording, ("II", "V9"))
