"""Movement is not called a ventricular rhythm, and does not hide one."""

import numpy as np
import pytest
from tests.support import ecg

RATE = 250
VENTRICULAR = {"ventricular_run", "ventricular_tachycardia"}


def sinus(seconds, seed):
    return ecg.regular(65 + 3 * seed, RATE, seconds) + ecg.noise(RATE, seconds, 0.01, seed=seed)


def movement(seconds, seed, rms):
    """Six seconds of it, every twelve, each with another strength; slow as electrodes that slip, with some muscle."""
    within = (np.arange(seconds * RATE) % (12 * RATE)) / RATE - 6.0
    shape = np.where(within > 0, np.sin(np.pi * np.clip(within, 0, 6) / 6) ** 2, 0.0)
    slow, fast = ecg.noise(RATE, seconds, rms, 0.5, 12, seed), ecg.noise(RATE, seconds, rms * 0.15, 15, 100, seed + 1)
    return shape * (slow + fast)


def test_movement_is_seldom_called_a_ventricular_rhythm():
    told = 0
    for seed in range(8):
        result = ecg.run(sinus(60, seed) + movement(60, 100 + seed, 0.35), RATE)
        told += sum(len(result.raised(code)) for code in VENTRICULAR)
    assert told <= 12, "of forty movements"


@pytest.mark.parametrize("seed", range(4))
def test_a_tachycardia_of_someone_who_moves_is_told_within_its_next_beats(seed):
    wide = np.arange(20.0, 32.0, 60 / 150)
    times = np.r_[np.arange(0.6, 19.5, 0.8), np.arange(33.0, 44.0, 0.8)]
    x = ecg.beats_at(times, RATE, 45) + ecg.wide_beats_at(wide, RATE, 45)
    x += ecg.noise(RATE, 45, 0.25, 0.5, 12, seed) * (np.arange(45 * RATE) > 18 * RATE)
    result = ecg.run(x, RATE)
    raised = result.raised("ventricular_tachycardia") + result.raised("ventricular_fibrillation")
    assert raised, "it is told, as one or the other"
    assert min(decisive for _, decisive in raised) < 20.0 + 14 * 0.4 + 1.5
