"""Swapped electrodes and mixed-up leads are told; a heart that beats otherwise is not."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support import ecg

from edgeward.clinic.monitor.bank import MonitorBank

RATE = 250
LEADS = ("I", "II", "III", "V6")


def p_wave(times: np.ndarray, seconds: float, height: float = 0.12) -> np.ndarray:
    x = np.zeros(int(seconds * RATE))
    for at in times:
        ecg.add(x, RATE, at - 0.16, 0.1, lambda s, c=at - 0.16: ecg.t_wave(s, c, height, 0.09, "cosine"))
    return x


def twelve(seconds: float, seed: int = 1) -> np.ndarray:
    """Return I, II, III and V6 of a normal heart."""
    rng = np.random.default_rng(seed)
    times = 0.6 + np.cumsum(rng.normal(0.8, 0.03, int(seconds / 0.8) - 2))
    beat = ecg.beats_at(times, RATE, seconds) + p_wave(times, seconds)
    late = ecg.beats_at(times + 0.01, RATE, seconds, width=0.08, shape="triangle")
    one, two = 0.6 * beat + 0.1 * late, 0.9 * beat + 0.2 * late
    one, two = one + ecg.noise(RATE, seconds, 0.01, seed=seed), two + ecg.noise(RATE, seconds, 0.01, seed=seed + 1)
    return np.stack((one, two, two - one, 0.8 * beat))


def listen(x: np.ndarray, leads: tuple[str, ...]) -> list[tuple[float, bool, str]]:
    """Return when (s) the condition began and ended, and of which leads."""
    bank = MonitorBank()
    bank.enrol("d", rate_hz=RATE, leads=leads, gain_uv=1.0)
    codes = np.clip(np.rint(x * 1e3), -32768, 32767).astype(np.int16)
    told = []
    for number, first in enumerate(range(0, codes.shape[1], RATE)):
        now = (number + 1) * 10**9
        bank.push("d", np.ascontiguousarray(codes[:, first : first + RATE]), first_sample=first, sequence=number,
                  received_ns=now)  # fmt: skip
        bank.process(now)
        told += [
            (now / 1e9, e.present, str(e.args.get("leads", ""))) for e in bank.tick(now) if e.code == "lead_swapped"
        ]
    return told


@pytest.mark.parametrize("seed", [1, 2])
def test_leads_as_they_should_be_are_not_told(seed):
    assert listen(twelve(150, seed), LEADS) == []


def test_swapped_arms_are_told_from_the_beginning():
    one, two, three, chest = twelve(120)
    told = listen(np.stack((-one, three, two, chest)), LEADS)
    assert [present for _, present, _ in told] == [True]
    assert told[0][2] == "I"


@pytest.mark.parametrize("leads", [("I",), ("II", "V1")])
def test_a_lead_that_is_turned_over_is_told_and_its_return_too(leads):
    x = twelve(180)[: len(leads)].copy()
    x[0, 60 * RATE : 120 * RATE] *= -1
    (begin, _, names), (end, present, _) = listen(x, leads)
    assert 60 < begin < 85
    assert names == leads[0]
    assert not present
    assert 120 < end < 145


def test_leads_under_wrong_names_are_told():
    one, two, three, chest = twelve(90)
    told = listen(np.stack((two, one, three, chest)), LEADS)
    assert told
    assert set(told[0][2].split(", ")) == {"I", "II", "III"}


def test_a_wide_rhythm_that_points_the_other_way_is_no_swap():
    seconds = 120
    times = np.arange(0.6, 60, 0.8)
    x = ecg.beats_at(times, RATE, seconds) + p_wave(times, seconds)
    x += ecg.wide_beats_at(np.arange(60.4, 118, 0.9), RATE, seconds, height=-1.2)
    x += ecg.noise(RATE, seconds, 0.01)
    assert listen(x[None], ("II",)) == []


def test_ventricular_beats_of_all_kinds_are_no_swap():
    seconds = 150
    normal = np.arange(0.6, 148, 1.6)
    x = ecg.beats_at(normal, RATE, seconds) + ecg.wide_beats_at(normal + 0.6, RATE, seconds, height=-1.5)
    assert listen((x + ecg.noise(RATE, seconds, 0.01))[None], ("II",)) == []
