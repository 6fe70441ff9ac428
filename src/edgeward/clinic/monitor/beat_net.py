"""Judges what a beat looks like beside this lead's usual beat, with a small network.

Responsible for the two curves that are compared (from before the P wave to the end of the T wave), for the usual beat's
running mean and for the network's arithmetic; ``models/beats/train.py`` finds the weights. Several networks that differ
in nothing but their first random weights are averaged. Not responsible for the other features (``beats``).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.state import CURVE, HELD, LATER

FEATURES = HELD + LATER
BEGIN_S = 0.216  # the curve begins so long before the fiducial; its points are 16 ms apart, means of two
FINE = 2 * CURVE
INPUTS = 2 * CURVE  # the beat less the usual one, and the usual one
LEAST_MV = 0.15  # curves are in parts of the usual beat's height, or of this
LIMIT = 4.0
GAIN = 0.06  # of the usual beat: about 16 beats of memory
#: Log odds are held within what the trees say too, so that neither has all the say.
SCORE_LEAST, SCORE_MOST = -7.0, 6.0
CLASSES = 3


class BeatNet(NamedTuple):
    """Weights of `members` networks: one hidden layer for the curves and one for the features, one for both.

    Attributes
    ----------
    centre, spread : ndarray, shape (FEATURES,), float64
        The features are taken relative to these.
    curve_w, curve_b : ndarray, shape (members, INPUTS, a), (members, a), float64
    fact_w, fact_b : ndarray, shape (members, FEATURES, b), (members, b), float64
    both_w, both_b : ndarray, shape (members, a + b, c), (members, c), float64
    out_w, out_b : ndarray, shape (members, c, CLASSES), (members, CLASSES), float64
        Classes: neither, supraventricular, ventricular.
    """

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    curve_w: NDArray[np.float64]
    curve_b: NDArray[np.float64]
    fact_w: NDArray[np.float64]
    fact_b: NDArray[np.float64]
    both_w: NDArray[np.float64]
    both_b: NDArray[np.float64]
    out_w: NDArray[np.float64]
    out_b: NDArray[np.float64]


def fits(net: BeatNet) -> bool:
    """Return whether the arrays fit together and hold nothing but finite numbers."""
    if net.curve_w.ndim != 3 or net.fact_w.ndim != 3 or net.both_w.ndim != 3:
        return False
    members, _, a = net.curve_w.shape
    b, c = net.fact_w.shape[2], net.both_w.shape[2]
    shapes = (
        (FEATURES,), (FEATURES,), (members, INPUTS, a), (members, a), (members, FEATURES, b), (members, b),
        (members, a + b, c), (members, c), (members, c, CLASSES), (members, CLASSES),
    )  # fmt: skip
    return (
        all(array.shape == shape for array, shape in zip(net, shapes, strict=True))
        and all(bool(np.all(np.isfinite(array))) for array in net)
        and bool(np.all(net.spread > 0.0))
        and a + b + c + CLASSES <= ROOM
    )


ROOM = 256  # for the layers' values


def silent() -> BeatNet:
    """Return a net without a member; it says 0."""
    return BeatNet(
        np.zeros(FEATURES), np.ones(FEATURES), np.zeros((0, INPUTS, 1)), np.zeros((0, 1)), np.zeros((0, FEATURES, 1)),
        np.zeros((0, 1)), np.zeros((0, 2, 1)), np.zeros((0, 1)), np.zeros((0, 1, CLASSES)), np.zeros((0, CLASSES)),
    )  # fmt: skip


@njit
def halve(fine: NDArray[np.float64], curve: NDArray[np.float64]) -> None:
    """Fill `curve` with the means of neighbouring pairs."""
    for k in range(CURVE):
        curve[k] = 0.5 * (fine[2 * k] + fine[2 * k + 1])


@njit
def learn_usual(c: Any, curve: NDArray[np.float64], usual: bool) -> None:
    """Let a beat count for the lead's usual one if it has the dominant shape; the very first one stands in for it."""
    if c.usual_count == 0:
        for k in range(CURVE):
            c.usual[k] = curve[k]
    if usual:
        c.usual_count += 1
        gain = max(GAIN, 1.0 / c.usual_count)
        for k in range(CURVE):
            c.usual[k] += gain * (curve[k] - c.usual[k])


@njit
def compare(c: Any, curve: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Fill `out` with what the network is given of a beat and the usual one."""
    top, bottom = -1e30, 1e30
    for k in range(CURVE):
        top = max(top, c.usual[k])
        bottom = min(bottom, c.usual[k])
    height = max(top - bottom, LEAST_MV)
    for k in range(CURVE):
        usual = min(max(c.usual[k] / height, -LIMIT), LIMIT)
        out[k] = min(max(curve[k] / height, -LIMIT), LIMIT) - usual
        out[CURVE + k] = usual


@njit
def layer(
    x: NDArray[np.float64], w: NDArray[np.float64], b: NDArray[np.float64], bend: bool, out: NDArray[np.float64]
) -> None:
    """Fill `out` with x w + b, and 0 for less than 0 if `bend`.

    Outputs are the inner loop: it runs in vectors. Four inputs at a time, added in their order: the outputs need not be
    fetched and put back for each.
    """
    n, fours = b.size, x.size // 4 * 4
    for j in range(n):
        out[j] = b[j]
    for i in range(0, fours, 4):
        p, q, r, s = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(n):
            out[j] = (((out[j] + p * w[i, j]) + q * w[i + 1, j]) + r * w[i + 2, j]) + s * w[i + 3, j]
    for i in range(fours, x.size):
        v = x[i]
        for j in range(n):
            out[j] += v * w[i, j]
    if bend:
        for j in range(n):
            out[j] = max(out[j], 0.0)


@njit
def judge_kind(
    net: Any, curves: NDArray[np.float64], facts: NDArray[np.float64], room: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the log odds that a beat is ventricular, and that it is supraventricular rather than normal.

    Both are 0 without a network.

    Parameters
    ----------
    net : BeatNet
    curves : ndarray, shape (INPUTS,)
    facts : ndarray, shape (FEATURES,)
    room : ndarray, shape (FEATURES + ROOM,)
    """
    members = net.curve_b.shape[0]
    if members == 0:
        return 0.0, 0.0
    a, b, n = net.curve_b.shape[1], net.fact_b.shape[1], net.both_b.shape[1]
    x = room[:FEATURES]
    for k in range(FEATURES):
        x[k] = (facts[k] - net.centre[k]) / net.spread[k]
    values = room[FEATURES : FEATURES + ROOM]
    hidden, both = values[: a + b], values[a + b : a + b + n]
    last = values[a + b + n : a + b + n + CLASSES]
    v = s = 0.0
    for m in range(members):
        layer(curves, net.curve_w[m], net.curve_b[m], True, hidden[:a])
        layer(x, net.fact_w[m], net.fact_b[m], True, hidden[a:])
        layer(hidden, net.both_w[m], net.both_b[m], True, both)
        layer(both, net.out_w[m], net.out_b[m], False, last)
        most = max(last[0], last[1])
        rest = most + math.log(math.exp(last[0] - most) + math.exp(last[1] - most))
        v += min(max(last[2] - rest, SCORE_LEAST), SCORE_MOST)
        s += min(max(last[1] - last[0], SCORE_LEAST), SCORE_MOST)
    return v / members, s / members
