"""What a beat looks like beside the usual one, and the network that judges it."""

from types import SimpleNamespace

import numpy as np
import pytest

from edgeward.clinic.monitor import beat_model, beat_net
from edgeward.clinic.monitor.state import CURVE

ROOM = np.zeros(beat_net.FEATURES + beat_net.ROOM)


def by_definition(net, curves, facts):
    """The same in plain NumPy."""
    x = (facts - net.centre) / net.spread
    told = []
    for m in range(len(net.curve_b)):
        a = np.maximum(curves @ net.curve_w[m] + net.curve_b[m], 0.0)
        b = np.maximum(x @ net.fact_w[m] + net.fact_b[m], 0.0)
        out = np.maximum(np.concatenate((a, b)) @ net.both_w[m] + net.both_b[m], 0.0) @ net.out_w[m] + net.out_b[m]
        odds = [out[2] - np.logaddexp(out[0], out[1]), out[1] - out[0]]
        told.append(np.clip(odds, beat_net.SCORE_LEAST, beat_net.SCORE_MOST))
    return np.mean(told, axis=0)


def test_the_compiled_network_says_what_its_weights_say():
    net = beat_model.shipped().net
    rng = np.random.default_rng(3)
    said = []
    for _ in range(50):
        curves, facts = (
            rng.normal(0.0, 0.5, beat_net.INPUTS),
            net.centre + net.spread * rng.normal(size=net.centre.size),
        )
        said.append(beat_net.judge_kind(net, curves, facts, ROOM))
        assert said[-1] == pytest.approx(by_definition(net, curves, facts), abs=1e-9)
    assert np.all(np.ptp(said, axis=0) > 1.0)


def test_a_score_is_never_beyond_its_bounds():
    net = beat_model.shipped().net
    for size in (1e3, -1e3, 1e6):
        odds = beat_net.judge_kind(net, np.full(beat_net.INPUTS, size), np.zeros(beat_net.FEATURES), ROOM)
        assert all(beat_net.SCORE_LEAST <= value <= beat_net.SCORE_MOST for value in odds)


def test_without_a_network_nothing_is_said():
    said = beat_net.judge_kind(beat_net.silent(), np.ones(beat_net.INPUTS), np.ones(beat_net.FEATURES), ROOM)
    assert said == (0.0, 0.0)


def lead():
    return SimpleNamespace(usual=np.zeros(CURVE), usual_count=0)


def test_the_usual_beat_follows_beats_of_the_dominant_shape_only():
    c = lead()
    odd, own = np.full(CURVE, 3.0), np.linspace(-1.0, 1.0, CURVE)
    beat_net.learn_usual.py_func(c, odd, False)
    np.testing.assert_array_equal(c.usual, odd)  # better than nothing until there is a usual one
    beat_net.learn_usual.py_func(c, own, True)
    np.testing.assert_allclose(c.usual, own)
    for _ in range(20):
        beat_net.learn_usual.py_func(c, odd, False)
    np.testing.assert_allclose(c.usual, own)
    for _ in range(100):
        beat_net.learn_usual.py_func(c, 2.0 * own, True)
    np.testing.assert_allclose(c.usual, 2.0 * own, atol=0.01)


@pytest.mark.parametrize("size", [0.3, 1.0, 5.0])
def test_the_size_of_a_patients_beats_does_not_matter(size):
    rng = np.random.default_rng(5)
    usual, curve = rng.normal(size=(2, CURVE)).cumsum(axis=1)
    given = []
    for factor in (1.0, size):
        c = lead()
        out = np.zeros(beat_net.INPUTS)
        beat_net.learn_usual.py_func(c, factor * usual, True)
        beat_net.compare.py_func(c, factor * curve, out)
        given.append(out)
    np.testing.assert_allclose(given[0], given[1], atol=1e-9)


def test_a_flat_or_huge_curve_stays_within_bounds():
    c = lead()
    out = np.zeros(beat_net.INPUTS)
    beat_net.learn_usual.py_func(c, np.zeros(CURVE), True)
    beat_net.compare.py_func(c, np.full(CURVE, 1e6), out)
    assert np.all(np.isfinite(out))
    assert np.abs(out).max() <= 2 * beat_net.LIMIT


@pytest.mark.parametrize("harm", ["shape", "units", "number", "spread", "none"])
def test_weights_that_do_not_fit_together_are_refused(tmp_path, harm):
    with np.load(beat_model.FILE) as file:
        arrays = dict(file)
    if harm == "shape":
        arrays["curve_w"] = arrays["curve_w"][:, :-1]
    elif harm == "units":
        arrays["both_w"] = arrays["both_w"][:, :, :-1]
    elif harm == "number":
        arrays["out_b"] = np.full_like(arrays["out_b"], np.nan)
    elif harm == "spread":
        arrays["spread"] = np.zeros_like(arrays["spread"])
    path = tmp_path / "model.npz"
    np.savez(path, **arrays)
    if harm == "none":
        assert len(beat_model.load(path).net.out_b) == len(arrays["out_b"])
    else:
        with pytest.raises(ValueError, match="do not fit together"):
            beat_model.load(path)
