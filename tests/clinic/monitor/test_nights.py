"""Restless patients raise hardly a false alarm, and true arrhythmias are told in the same movement."""

from __future__ import annotations

import numpy as np

from edgeward.clinic.monitor import nights
from edgeward.clinic.monitor.bank import MonitorBank

RATE = nights.ECG_HZ
RUNS, TACHYCARDIAS = 3, 1  # false ones in an hour with about sixty movements


def conditions(signal: np.ndarray) -> list[tuple[str, float]]:
    """Send an ECG (mV); return the conditions that began, and when (s)."""
    bank = MonitorBank()
    bank.enrol("d", rate_hz=RATE, leads=("II", "V5", "I")[: len(signal)], gain_uv=2.5)
    codes = np.clip(np.rint(signal * 400), -32_000, 32_000).astype(np.int16)
    told = []
    for second in range(codes.shape[1] // RATE):
        part = np.ascontiguousarray(codes[:, second * RATE : (second + 1) * RATE])
        bank.push("d", part, first_sample=second * RATE, sequence=second, received_ns=second)
        told += [(one.code, one.decisive_sample / RATE) for one in bank.process(second) if one.present]
    return told


def test_the_same_seed_is_the_same_night():
    one, other = (nights.Sleeper(5, leads=2).stretch(60.0) for _ in range(2))
    np.testing.assert_array_equal(one.ecg, other.ecg)
    np.testing.assert_array_equal(one.pleth, other.pleth)
    assert not np.array_equal(one.ecg, nights.Sleeper(6, leads=2).stretch(60.0).ecg)


def test_a_patient_who_lies_still_raises_nothing():
    for seed in range(4):
        told = {code for code, _ in conditions(nights.Sleeper(seed, restless=0.0).stretch(120.0).ecg)}
        assert told <= {"atrial_fibrillation"}, "some are irregular"


def test_a_restless_hour_is_hardly_ever_taken_for_ventricular_beats():
    runs = tachycardias = 0
    for seed in range(12):
        told = [code for code, _ in conditions(nights.Sleeper(300 + seed, restless=10.0).stretch(300.0).ecg)]
        runs += told.count("ventricular_run")
        tachycardias += told.count("ventricular_tachycardia")
    assert runs <= RUNS
    assert tachycardias <= TACHYCARDIAS


def test_tachycardias_of_the_same_patients_are_told_in_noise():
    late = []
    for seed in range(12):
        event = nights.Event("ventricular_tachycardia", 40.0, 54.0)
        told = conditions(nights.Sleeper(300 + seed).stretch(60.0, (event,), noise_mv=0.08).ecg)
        at = [t for code, t in told if code in ("ventricular_tachycardia", "ventricular_fibrillation") and t >= 40.0]
        late.append(min(at, default=99.0) - 40.0)
    assert max(late) < 10.0, late
    assert np.median(late) < 4.0, late
