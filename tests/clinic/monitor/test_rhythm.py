"""Kinds of beats and rhythms: what is told of generated signals, when it ends, and what must not be told."""

import numpy as np
import pytest
from tests.support import ecg

from edgeward.clinic.monitor import beat_model, beat_net
from edgeward.clinic.monitor.evaluate import kinds_of
from edgeward.clinic.monitor.limits import Limits

RATE = 250
VENTRICULAR = 2


def p_waves(x, times, height=0.15):
    """Add a P wave 160 ms before each beat."""
    for at in times:
        ecg.add(x, RATE, at - 0.16, 0.1, lambda t, at=at: ecg.t_wave(t, at - 0.16, height, 0.09, "cosine"))
    return x


def sinus(times, seconds, seed=3):
    return p_waves(ecg.beats_at(times, RATE, seconds), times) + ecg.noise(RATE, seconds, 0.01, seed=seed)


def mixed(pattern, cycles, before=12.0, after=12.0, interval=0.8):
    """A sinus rhythm into which `pattern` ("NV": a normal, then a ventricular beat) is put `cycles` times."""
    normal = list(np.arange(0.6, before, interval))
    wide = []
    at = normal[-1]
    for kind in pattern * cycles:
        if kind == "V":
            at += 0.55 * interval
            wide.append(at)
            at += 0.45 * interval  # a compensatory pause follows
        else:
            at += interval
            normal.append(at)
    end = at + after
    normal += list(np.arange(at + interval, end - 0.4, interval))
    x = sinus(np.array(normal), int(end)) + ecg.wide_beats_at(wide, RATE, int(end))
    return x, np.array(wide)


def ended(result, code):
    return any(c.change.state == "ended" and c.change.alarm.code == code for c in result.changes)


def test_single_wide_early_beats_are_ventricular_and_the_others_are_not():
    x, wide = mixed("NNNNV", 12)
    result = ecg.run(x, RATE)
    called = result.beats[kinds_of(result.records) == VENTRICULAR]
    assert len(called) == len(wide)
    np.testing.assert_allclose(called, wide, atol=0.08)


@pytest.mark.parametrize(("pattern", "code"), [("NV", "bigeminy"), ("NNV", "trigeminy")])
def test_a_pattern_of_ventricular_beats_is_told_and_ends(pattern, code):
    x, wide = mixed(pattern, 14, after=16.0)
    result = ecg.run(x, RATE)
    onsets = result.raised(code)
    assert len(onsets) == 1
    assert wide[0] - 1.7 < onsets[0][0] < wide[3]
    assert ended(result, code)
    assert not result.codes() & {"bigeminy", "trigeminy", "ventricular_tachycardia", "ventricular_run"} - {code}


def test_a_couplet_is_told_and_is_no_run():
    x, wide = mixed("NNNNNN", 1)
    pair = wide_pair(x, 9.0)
    result = ecg.run(pair, RATE)
    assert result.raised("couplet")
    assert not result.codes() & {"ventricular_run", "ventricular_tachycardia"}
    assert len(wide) == 0


def wide_pair(x, at, beats=2, interval=0.42):
    """Replace what is around `at` by consecutive ventricular beats."""
    x = x.copy()
    first = 0.6 + 0.8 * round((at - 0.6) / 0.8)  # a normal beat; the run follows it
    start, stop = int((first + 0.42) * RATE), int((first + 0.5 + interval * beats) * RATE)
    x[start:stop] = 0.0
    times = first + 0.45 + interval * np.arange(beats)
    return x + ecg.wide_beats_at(times, RATE, len(x) // RATE)[: len(x)]


@pytest.mark.parametrize(("beats", "expected"), [(3, {"ventricular_run"}), (8, {"ventricular_tachycardia"})])
def test_a_run_is_told_at_once_and_is_a_tachycardia_from_five_beats_on(beats, expected):
    x = sinus(np.arange(0.6, 40, 0.8), 40)
    result = ecg.run(wide_pair(x, 20.0, beats, 0.4), RATE)
    told = result.codes() & {"ventricular_run", "ventricular_tachycardia"}
    assert expected <= told <= {"ventricular_run", "ventricular_tachycardia"}
    assert ("ventricular_tachycardia" in told) == (beats >= 5)


@pytest.mark.parametrize(("beats", "told"), [(3, False), (4, False), (8, True)])
def test_a_few_ventricular_beats_at_the_pace_of_the_others_are_no_run_yet(beats, told):
    times = np.arange(0.6, 60, 0.8)
    wide = times[40 : 40 + beats]
    own = np.setdiff1d(times, wide)
    x = sinus(own, 60) + ecg.wide_beats_at(wide, RATE, 60)
    result = ecg.run(x, RATE)
    called = result.beats[kinds_of(result.records) == VENTRICULAR]
    np.testing.assert_allclose(called, wide, atol=0.08)  # they are what they are, and are counted
    assert bool(result.raised("ventricular_run")) is told
    assert "ventricular_tachycardia" not in result.codes()


@pytest.mark.parametrize(("interval", "limit", "kept"), [(0.8, 100.0, True), (0.72, 100.0, True), (0.72, 80.0, False)])
def test_a_bundle_branch_that_blocks_for_a_while_is_not_ventricular_below_the_patients_limit(interval, limit, kept):
    times = np.arange(0.6, 90, interval)
    blocked = times[(times > 40) & (times < 56)]
    own = np.setdiff1d(times, blocked)
    x = sinus(own, 90)
    for at in blocked:  # the first forces are the usual ones, the late ones go the other way, and so does the T wave
        x += ecg.beats_at([at], RATE, 90, t=0.0)
        ecg.add(x, RATE, at + 0.06, 0.1, lambda t, at=at: -ecg.qrs(t, at + 0.06, 1.3, 0.11, "sine"))
        ecg.add(x, RATE, at + 0.28, 0.2, lambda t, at=at: ecg.t_wave(t, at + 0.28, 0.3, 0.2, "cosine"))
    result = ecg.run(p_waves(x, blocked), RATE, limits=Limits(ventricular_tachycardia_rate=limit))
    called = result.beats[kinds_of(result.records) == VENTRICULAR]
    assert (len(called) <= 1) is kept
    told = result.codes() & {"ventricular_run", "ventricular_tachycardia", "frequent_ventricular_beats"}
    assert not (kept and told)


def test_many_ventricular_beats_in_a_minute_are_told_by_the_patients_limit():
    x, _ = mixed("NNNNNV", 9)
    assert "frequent_ventricular_beats" in ecg.run(x, RATE, limits=Limits(frequent_ventricular_beats=5)).codes()
    assert "frequent_ventricular_beats" not in ecg.run(x, RATE, limits=Limits(frequent_ventricular_beats=20)).codes()


@pytest.mark.parametrize(("limit", "gap", "told"), [(3.0, 3.6, True), (3.0, 2.4, False), (2.0, 2.9, True)])
def test_a_pause_is_told_by_the_patients_limit_and_ends_with_the_next_beat(limit, gap, told):
    before = np.arange(0.6, 15, 0.8)
    times = np.concatenate((before, np.arange(before[-1] + gap + 0.6, 32, 0.8)))
    result = ecg.run(sinus(times, 33), RATE, limits=Limits(pause_s=limit))
    assert bool(result.raised("pause")) == told
    assert ended(result, "pause") == told
    assert "asystole" not in result.codes()


def irregular(seconds, seed, spread=0.22):
    rng = np.random.default_rng(seed)
    return 0.6 + np.cumsum(np.clip(rng.normal(0.7, spread * 0.7, int(seconds / 0.5)), 0.38, 1.4))


def test_atrial_fibrillation_is_told_after_half_a_minute_and_ends():
    first = irregular(100, 5)
    first = first[first < 90]
    second = np.arange(first[-1] + 0.8, 178, 0.8)
    x = ecg.beats_at(np.concatenate((first, second)), RATE, 180) + ecg.noise(RATE, 180, 0.02)
    p_waves(x, second)
    result = ecg.run(x, RATE)
    onsets = result.raised("atrial_fibrillation")
    assert len(onsets) == 1
    assert 30 < onsets[0][1] < 75
    assert ended(result, "atrial_fibrillation")


@pytest.mark.parametrize("rhythm", ["regular", "breathing", "bigeminy", "early"])
def test_other_irregularities_are_no_atrial_fibrillation(rhythm):
    n = np.arange(110)
    intervals = {
        "regular": np.full(110, 0.8),
        "breathing": 0.85 + 0.10 * np.sin(n * 2 * np.pi / 5),  # sinus arrhythmia, with P waves
        "bigeminy": np.full(110, 0.8),
        "early": np.where(n % 7 == 3, 0.5, 0.85),  # an early atrial beat in seven
    }[rhythm]
    if rhythm == "bigeminy":
        x, _ = mixed("NV", 50)
    else:
        times = 0.6 + np.cumsum(intervals)
        x = sinus(times[times < 89], 90)
    assert "atrial_fibrillation" not in ecg.run(x, RATE).codes()


def test_a_model_whose_arrays_do_not_fit_is_refused(tmp_path):
    with np.load(beat_model.FILE) as file:
        good = dict(file)
    for change in (
        {"root": good["root"] + 10**6},
        {"child": np.zeros_like(good["child"])},  # every node leads back to the first: a walk would never end
        {"leaf": good["leaf"][:3]},
        {"threshold": good["threshold"] * np.nan},
        {"feature": good["feature"].astype(np.int32) + 1000},
        {"first": good["first"][::-1]},
    ):
        path = tmp_path / "model.npz"
        np.savez(path, **{**good, **change})
        with pytest.raises(ValueError, match="do not fit"):
            beat_model.load(path)


def test_the_walk_through_the_trees_gives_what_was_written_down():
    # One tree: feature 0 up to 1.5 goes left to leaf -2, else feature 1 up to 0 gives 3, beyond 5.
    model = beat_model.BeatModel(
        np.array([0, 1], dtype=np.int32), np.array([1.5, 0.0]), np.array([[-1, 1], [-2, -3]], dtype=np.int32),
        np.array([-2.0, 3.0, 5.0]), np.array([0], dtype=np.int32), np.array([0, 1, 1, 1], dtype=np.int32), beat_net.silent(),
    )  # fmt: skip
    for x, expected in (([1.5, 9.0], -2.0), ([1.6, 0.0], 3.0), ([1.6, 0.1], 5.0)):
        assert beat_model.score(model, 0, np.array(x)) == expected
    assert beat_model.score(model, 1, np.array([0.0, 0.0])) == 0.0
