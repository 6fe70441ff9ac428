"""Generated waveforms after ANSI/AAMI EC13 and IEC 60601-2-27: what counts as a beat, and how soon an alarm comes."""

import numpy as np
import pytest
from tests.support import ecg

from edgeward.clinic.monitor import ec13

RATES = [125, 250, 360, 500, 1000]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("bpm", [15, 30, 60, 80, 120, 180, 200, 240, 250, 300])
def test_heart_rate_is_right_from_15_to_300(rate, bpm):
    width = 0.1 if bpm <= 200 else 0.06
    result = ecg.run(ecg.regular(bpm, rate, 40, width=width, shape="triangle"), rate)
    intervals = np.diff(result.beats)
    assert abs(60 / np.median(intervals) - bpm) <= max(0.02 * bpm, 1)
    assert result.heart_rate is not None
    assert abs(result.heart_rate - bpm) <= max(0.1 * bpm, 5)


@pytest.mark.parametrize("rate", [125, 250, 360, 1000])
@pytest.mark.parametrize("width", [0.04, 0.06, 0.08])
def test_a_small_childs_heart_at_300_is_counted_beat_by_beat(rate, width):
    x = ecg.regular(300, rate, 20, width=width, shape="triangle")
    result = ecg.run(x, rate)
    assert abs(len(result.beats) - len(np.arange(0.6, 19.6, 0.2))) <= 2


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("shape", ["natural", "triangle", "sine"])
@pytest.mark.parametrize("t_shape", ["sine", "cosine"])
@pytest.mark.parametrize("height", [0.6, 1.0, 1.2])
def test_a_tall_t_wave_is_not_a_beat(rate, shape, t_shape, height):
    x = ecg.regular(80, rate, 30, t=height, shape=shape, t_shape=t_shape, qt=0.35)
    result = ecg.run(x, rate)
    assert len(result.beats) == len(np.arange(0.6, 29.6, 0.75))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("height", [1.5, 2.0])
def test_a_t_wave_taller_than_the_standard_asks_is_not_a_beat(rate, height):
    result = ecg.run(ecg.regular(80, rate, 30, t=height, qt=0.35), rate)
    assert len(result.beats) == len(np.arange(0.6, 29.6, 0.75))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("width", [0.04, 0.07, 0.1, 0.12])
@pytest.mark.parametrize("shape", ["natural", "triangle", "sine"])
def test_015_mv_is_not_counted(rate, width, shape):
    assert len(ecg.run(ecg.regular(80, rate, 20, height=0.15, width=width, shape=shape, t=0.0), rate).beats) == 0


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("width", [0.07, 0.1, 0.12])
@pytest.mark.parametrize("height", [0.5, 1.0, 5.0, -0.5, -2.0])
def test_05_to_5_mv_of_either_polarity_is_counted(rate, width, height):
    result = ecg.run(ecg.regular(80, rate, 20, height=height, width=width, t=0.1 * height), rate)
    assert len(result.beats) == len(np.arange(0.6, 19.6, 0.75))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("mains", [50, 60])
def test_mains_and_wander_neither_add_nor_hide_beats(rate, mains):
    t = np.arange(40 * rate) / rate
    disturbance = (
        0.1 * np.sin(2 * np.pi * mains * t) + 2.0 * np.sin(2 * np.pi * 0.1 * t) + 0.5 * np.sin(2 * np.pi * 0.33 * t)
    )
    with_beats = ecg.run(ecg.regular(80, rate, 40) + disturbance, rate)
    assert abs(len(with_beats.beats) - len(np.arange(0.6, 39.6, 0.75))) <= 1
    assert len(ecg.run(disturbance, rate).beats) == 0


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("height", [2.0, 20.0, 30.0, -20.0])
def test_pacing_pulses_are_not_beats_with_or_without_capture(rate, height):
    times = np.arange(0.6, 28, 0.75)
    captured = ecg.run(ecg.pacing(ecg.regular(80, rate, 30), rate, times - 0.12, height), rate)
    assert len(captured.beats) == len(np.arange(0.6, 29.6, 0.75))
    lost = ecg.run(ecg.pacing(np.zeros(30 * rate), rate, times, height), rate)
    assert len(lost.beats) == 0
    assert lost.raised("asystole")


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("rms", [0.0, 0.01, 0.03, 0.05])
def test_asystole_is_told_after_four_seconds_also_in_noise(rate, rms):
    x = ecg.regular(75, rate, 40)
    last = x.nonzero()[0][x.nonzero()[0] < 20 * rate][-1] / rate
    x[int(20 * rate) :] = 0.0
    if rms:
        x = x + ecg.noise(rate, 40, rms)
    result = ecg.run(x, rate)
    (onset, decisive) = result.raised("asystole")[0]
    assert 18.5 < onset < last + 0.1
    assert 4.0 <= decisive - onset <= 5.0
    assert len(result.raised("asystole")) == 1


@pytest.mark.parametrize("rate", RATES)
def test_noise_of_a_tenth_of_a_millivolt_does_not_hide_an_asystole(rate):
    x = ecg.regular(75, rate, 60)
    x[20 * rate :] = 0.0
    result = ecg.run(x + ecg.noise(rate, 60, 0.1), rate)
    assert result.raised("asystole")
    assert result.raised("asystole")[0][1] < 30


@pytest.mark.parametrize("limit", [3.0, 6.0, 10.0])
def test_the_time_to_asystole_follows_the_limit(limit):
    from edgeward.clinic.monitor.limits import Limits

    x = ecg.regular(75, 250, 40)
    x[15 * 250 :] = 0.0
    (onset, decisive) = ecg.run(x, 250, limits=Limits(asystole_s=limit)).raised("asystole")[0]
    assert limit <= decisive - onset <= limit + 1.0


@pytest.mark.parametrize("rate", [125, 250, 360, 500])
@pytest.mark.parametrize("frequency", [2.5, 3.5, 5.0, 6.5, 8.0])
@pytest.mark.parametrize("height", [0.3, 1.0])
def test_fibrillation_is_told_within_eight_seconds(rate, frequency, height):
    x = ecg.regular(75, rate, 40)
    x[int(19.4 * rate) :] = 0.0
    x[20 * rate :] += ecg.fibrillation(rate, 20, frequency, height=height)
    result = ecg.run(x, rate)
    assert result.raised("ventricular_fibrillation")
    assert 20 < result.raised("ventricular_fibrillation")[0][1] < 28


@pytest.mark.parametrize("rate", [125, 250, 360, 500])
@pytest.mark.parametrize("bpm", [120, 150, 180])
def test_ventricular_tachycardia_is_told_within_ten_seconds(rate, bpm):
    normal = np.arange(0.6, 30, 0.8)
    run_of_v = np.arange(normal[-1] + 0.45, 45, 60 / bpm)
    x = ecg.beats_at(normal, rate, 46) + ecg.wide_beats_at(run_of_v, rate, 46)
    told = ecg.run(x, rate)
    alarms = told.raised("ventricular_tachycardia") + told.raised("ventricular_fibrillation")
    assert alarms
    assert min(decisive for _, decisive in alarms) < run_of_v[0] + 10


def blunt(s: np.ndarray, at: float, shape: str, width: float) -> np.ndarray:
    """Return one wide QRS of 1 mV without a sharp turn, or with two: a trapezoid, two humps, a bell."""
    u = (s - at) / width
    if shape == "trapezoid":
        return np.clip((0.5 - np.abs(u)) / 0.2, 0, 1)
    if shape == "humps":
        return np.exp(-0.5 * ((u + 0.2) * 7) ** 2) + 0.8 * np.exp(-0.5 * ((u - 0.2) * 7) ** 2)
    return np.exp(-0.5 * (u * 4.4) ** 2)


def blunt_tachycardia(bpm: float, rate: int, shape: str, width: float, t: float, height: float = 1.3) -> np.ndarray:
    """Return 20 s of wide beats, each with a T wave, from the first sample on."""
    x = np.zeros(20 * rate)
    rr = 60 / bpm
    for at in np.arange(0.7, 19.6, rr):
        ecg.add(x, rate, at, 0.4, lambda s, a=at: height * blunt(s, a, shape, width))
        after, spread = at + 0.3 * np.sqrt(rr), min(0.2, 0.3 * rr) / 3.2
        ecg.add(x, rate, after, 0.4, lambda s, a=after, w=spread: t * np.exp(-0.5 * ((s - a) / w) ** 2))
    return x


@pytest.mark.parametrize("rate", [125, 250, 500])
@pytest.mark.parametrize(
    ("bpm", "shape", "width", "t", "height"),
    [
        (190, "trapezoid", 0.14, -0.5, 1.3),
        (190, "trapezoid", 0.18, -0.5, 1.3),
        (190, "humps", 0.14, -0.5, 1.3),
        (175, "trapezoid", 0.14, 0.3, 1.3),
        (185, "trapezoid", 0.15, -0.8, -2.0),
        (210, "trapezoid", 0.14, -0.3, 5.0),
        (220, "humps", 0.14, 0.3, 0.7),
        (240, "trapezoid", 0.12, -0.3, 1.3),
        (280, "bell", 0.12, 0.2, 1.3),
    ],
)
def test_a_wide_tachycardia_that_nothing_came_before_is_counted_beat_by_beat(rate, bpm, shape, width, t, height):
    result = ecg.run(blunt_tachycardia(bpm, rate, shape, width, t, height), rate)
    assert result.heart_rate == pytest.approx(bpm, rel=0.05)


@pytest.mark.parametrize("rate", [125, 250])
@pytest.mark.parametrize("bpm", [50, 75, 100, 120])
@pytest.mark.parametrize("t", [0.8, 1.2, -1.0])
def test_a_tall_t_wave_of_a_wide_beat_is_not_its_twin(rate, bpm, t):
    result = ecg.run(blunt_tachycardia(bpm, rate, "trapezoid", 0.12, t, 1.0), rate)
    assert result.heart_rate == pytest.approx(bpm, rel=0.03)


def smooth_tachycardia(bpm: float, t: float, rate: int, seconds: float) -> np.ndarray:
    """Return beats of bell-shaped P, QRS and T waves, which leave little of the time to the baseline."""
    x = np.zeros(int(seconds * rate))
    rr = 60 / bpm
    for at in np.arange(0.7, seconds - 0.5, rr):
        for height, after, spread in ((0.12, -0.16, 0.022), (1.0, 0.0, 0.02), (t, 0.3 * np.sqrt(rr), 0.09 * rr)):
            ecg.add(x, rate, at, 0.7, lambda s, h=height, a=at + after, w=spread: h * np.exp(-0.5 * ((s - a) / w) ** 2))
    return x


@pytest.mark.parametrize("rate", [125, 250, 500])
@pytest.mark.parametrize(
    ("bpm", "t"), [(110, 0.6), (120, 0.9), (130, 0.4), (150, 0.3), (150, 0.9), (160, 0.4), (180, 0.3)]
)
def test_a_sinus_tachycardia_whose_t_waves_fill_the_time_is_no_fibrillation(rate, bpm, t):
    result = ecg.run(smooth_tachycardia(bpm, t, rate, 24), rate)
    assert not result.codes() & {"ventricular_tachycardia", "ventricular_fibrillation", "asystole"}


def test_a_fibrillation_is_told_at_once_after_such_a_tachycardia():
    x = smooth_tachycardia(150, 0.4, 250, 40)
    x[20 * 250 :] = ecg.fibrillation(250, 20, 5.0, height=0.6)
    told = ecg.run(x, 250).raised("ventricular_fibrillation")
    assert told
    assert 20 < told[0][1] < 28


@pytest.mark.parametrize("bpm", [120, 160, 200])
def test_a_fast_narrow_rhythm_is_not_called_ventricular(bpm):
    times = np.concatenate((np.arange(0.6, 20, 0.8), np.arange(20, 45, 60 / bpm)))
    result = ecg.run(ecg.beats_at(times, 250, 46, t=0.15, qt=0.26), 250)
    assert not result.codes() & {"ventricular_tachycardia", "ventricular_fibrillation", "asystole"}


@pytest.mark.parametrize(("before", "after"), [(80, 120), (80, 40)])
def test_a_step_of_the_rate_is_shown_within_seven_seconds(before, after):
    for seconds in (7.5, 15):
        times = np.concatenate((np.arange(0.6, 20, 60 / before), np.arange(20.2, 20.2 + seconds, 60 / after)))
        result = ecg.run(ecg.beats_at(times, 250, 20.2 + seconds), 250)
        assert result.heart_rate is not None
        assert abs(result.heart_rate - after) <= max(0.1 * after, 5)


@pytest.mark.parametrize(("before", "after", "code"), [(80, 200, "extreme_tachycardia"), (80, 30, "extreme_bradycardia"),
                                                       (80, 20, "extreme_bradycardia")])  # fmt: skip
def test_extreme_rates_are_told_within_ten_seconds(before, after, code):
    times = np.concatenate((np.arange(0.6, 20, 60 / before), np.arange(20, 60, 60 / after)))
    result = ecg.run(ecg.beats_at(times, 250, 60, t=0.1, qt=0.28), 250)
    assert result.raised(code)
    assert result.raised(code)[0][1] < 20 + 10
    assert "asystole" not in result.codes()


@pytest.mark.parametrize("factor", [0.1, 0.25, 4.0, 10.0])
def test_a_sudden_change_of_height_costs_at_most_a_few_beats_and_no_alarm(factor):
    x = ecg.regular(80, 250, 60) * (5.0 if factor < 1 else 0.5)
    x[30 * 250 :] *= factor
    result = ecg.run(x, 250)
    assert len(result.beats) >= 72
    assert "asystole" not in result.codes()


def test_the_first_beats_are_found_although_nothing_is_known_yet():
    result = ecg.run(ecg.regular(75, 250, 10), 250)
    assert result.beats[0] < 1.5
    assert len(result.beats) >= 11


def test_an_irregular_rhythm_is_counted_completely():
    rng = np.random.default_rng(3)
    times = 0.6 + np.cumsum(rng.uniform(0.4, 1.3, 60))
    result = ecg.run(ecg.beats_at(times, 250, times[-1] + 1, t=0.2, qt=0.32), 250)
    assert abs(len(result.beats) - len(times)) <= 1
    assert result.codes() <= {"atrial_fibrillation"}  # as irregular as that, and without P waves, it is one


def test_small_beats_between_large_ventricular_ones_are_found():
    normal = np.arange(0.6, 50, 1.6)
    x = ecg.beats_at(normal, 250, 52, height=0.6, t=0.1) + ecg.wide_beats_at(normal + 0.55, 250, 52, height=2.5)
    result = ecg.run(x, 250)
    assert abs(len(result.beats) - 2 * len(normal)) <= 2


def test_the_table_sets_what_was_measured_beside_what_makers_disclose():
    rows = [
        {"name": "asystole", "unit": "s", "measured": ec13.asystole_time(), "makers": {"GE B20": "5"}},
        {"name": "never told", "unit": "s", "measured": [1.5, None], "makers": {}},
    ]
    lines = ec13.table({"rows": rows}).splitlines()
    assert lines[0] == "| | Edgeward | GE B20 | Mindray uMEC10 | Philips MP2 |"
    assert rows[0]["measured"] is not None
    assert 4.0 <= rows[0]["measured"] <= 5.2
    assert lines[2] == f"| asystole | {rows[0]['measured']:g} s | 5 |  |  |"
    assert lines[3] == "| never told | 1.5, never s |  |  |  |"


def test_pulses_of_700_mv_are_not_counted_by_the_suite_either():
    assert ec13.paced(700.0, 0.001) == 0.0
