"""Finds how far the pulses of one device lie behind the QRS complexes of another: two devices, two clocks, one heart.

Responsible for the estimate and for how sure it is, from beats and pulses in the time of each one's own stream. Pure.
Not responsible for what is made of it (``crosscheck``), nor for collecting beats (``witnesses``).

Arrival and the devices' clocks say only to some seconds how two streams lie to each other: what a network or a gateway
adds steadily cannot be told from a wrong clock. The heart itself says it to some milliseconds, because no two of its
intervals are alike: pulses follow their QRS at a steady delay at one lag only. With a heart as regular as a clock
(paced) several lags fit equally; then nothing is known, and nobody's pulse is held against an alarm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

#: How far the lag may lie from what arrival says.
REACH_S = 12.0
#: A pulse within this of its place belongs to the QRS.
MATCH_S = 0.07
#: Lags closer than this are the same: less than the shortest interval between two beats.
SAME_S = 0.2
LEAST_BEATS = 60
MOST_BEATS = 240
#: Of the QRS that must have their pulse, and of the pulses their QRS: some are lost to movement.
SHARE = 0.85
#: Standard deviation of the delay from beat to beat; as `crosscheck.STEADY_S`, which asks again at the event.
STEADY_S = 0.03
#: How much likelier than any other lag it must be: exp(12), a wrong one in 160,000 looks.
SURE = 12.0
#: And its squared error at most this part of the next best one's, however many beats: errors are not independent.
PART = 0.6
#: Two clocks that were never the same run apart by at most so much.
_DRIFT = 3e-4
#: How far arrival may move until the lag must be found anew: one of the streams has lost or gained time.
MOVED_S = 0.4
#: A lag that no beats have borne out for so long is forgotten.
FORGET_S = 120.0
#: This many of the latest QRS bear it out.
_LATEST = 20


@dataclass(frozen=True, slots=True)
class Lag:
    """How two streams lie to each other.

    Attributes
    ----------
    lag_s
        Time of a pulse in its stream less the time of its QRS in the other: clocks and the way to the finger together.
    jitter_s
        Standard deviation from beat to beat.
    beats
        That it was found from.
    """

    lag_s: float
    jitter_s: float
    beats: int


def find(qrs: Times, pulses: Times, expected_s: float, *, reach_s: float = REACH_S) -> Lag | None:
    """Return the one lag at which the pulses follow the QRS, None if there is none or more than one.

    Parameters
    ----------
    qrs, pulses : ndarray
        Oldest first, seconds, each in its own stream.
    expected_s : float
        What arrival says.
    reach_s : float
        How far the lag may lie from that.
    """
    qrs = qrs[-MOST_BEATS:]
    if qrs.size < LEAST_BEATS or pulses.size < LEAST_BEATS:
        return None
    if min(qrs[-1] - qrs[0], pulses[-1] - pulses[0]) < SAME_S * LEAST_BEATS:
        return None  # no heart
    found: list[tuple[float, float, Lag]] = []  # squared error, share, lag
    for candidate in _candidates(qrs, pulses, expected_s, reach_s):
        tried = _try(qrs, pulses, candidate)
        if tried is not None:
            found.append(tried)
    if not found:
        return None
    found.sort(key=lambda one: one[0])
    error, share, best = found[0]
    if share < SHARE or best.jitter_s > STEADY_S or best.beats < LEAST_BEATS:
        return None
    others = [one[0] for one in found if abs(one[2].lag_s - best.lag_s) > SAME_S]
    if not others:
        return None  # too little to compare it with
    part = error / max(min(others), 1e-12)
    # Neighbouring intervals resemble each other: half of the beats count.
    sure = 0.25 * best.beats * math.log(1.0 / max(part, 1e-12))
    return best if part <= PART and sure >= SURE else None


def _candidates(qrs: Times, pulses: Times, expected_s: float, reach_s: float) -> list[float]:
    found: list[float] = []
    for part in (0.3, 0.5, 0.7):  # each may be the one whose pulse was lost
        one = qrs[int(part * qrs.size)]
        lags = pulses - one
        found += lags[np.abs(lags - expected_s) <= reach_s].tolist()
    found.sort()
    kept: list[float] = []
    for lag in found:
        if not kept or lag - kept[-1] > 0.5 * MATCH_S:
            kept.append(lag)
    return kept


def _try(qrs: Times, pulses: Times, lag: float) -> tuple[float, float, Lag] | None:
    """Return squared error, share and the refined lag; None where too little overlaps."""
    for _ in range(2):
        inside = qrs[(qrs + lag >= pulses[0] - MATCH_S) & (qrs + lag <= pulses[-1] + MATCH_S)]
        if inside.size < 0.6 * LEAST_BEATS:
            return None
        error = _distance(inside + lag, pulses)
        near = np.abs(error) <= 0.15
        if near.sum() < 10:
            break
        lag += float(np.median(error[near]))
    error = _distance(inside + lag, pulses)
    middle = float(inside.mean())
    near = np.abs(error) <= 0.1
    if near.sum() >= 20:  # two sample clocks run apart
        x = inside[near] - middle
        slope = float(np.clip((x * error[near]).sum() / max(float((x * x).sum()), 1e-9), -_DRIFT, _DRIFT))
        error -= slope * (inside - middle)
    size = np.sort(np.abs(error))
    back = np.abs(_distance(pulses[(pulses >= inside[0] + lag) & (pulses <= inside[-1] + lag)], inside + lag))
    matched = size <= MATCH_S
    share = min(float(matched.mean()), float((back <= MATCH_S).mean()) if back.size else 0.0)
    best = np.minimum(size[: math.ceil(SHARE * size.size)], 0.15)  # lost pulses are no error of the lag
    jitter = float(np.sqrt(np.mean(size[matched] ** 2))) if matched.any() else 1.0
    at_end = lag + (slope * (float(inside[-1]) - middle) if near.sum() >= 20 else 0.0)
    return float(np.mean(best**2)), share, Lag(at_end, jitter, int(inside.size))


def _distance(times: Times, others: Times) -> Times:
    """Return, for each time, how far the nearest of `others` lies after it."""
    if others.size == 0:
        return np.full(times.size, np.inf)
    place = np.searchsorted(others, times).clip(1, max(others.size - 1, 1))
    before, after = others[place - 1] - times, others[np.minimum(place, others.size - 1)] - times
    return np.asarray(np.where(np.abs(before) <= np.abs(after), before, after))


@dataclass(slots=True)
class Pair:
    """One ECG and one channel of pulses of another device.

    Attributes
    ----------
    lag
        None: not known.
    confirmed_s
        The last QRS that bore it out, in the time of the ECG's stream.
    """

    lag: Lag | None = None
    confirmed_s: float = -math.inf
    _qrs: Times = field(default_factory=lambda: np.zeros(0))
    _pulses: Times = field(default_factory=lambda: np.zeros(0))
    _expected_s: float = 0.0  # what arrival said when the lag was found

    def take(self, qrs: Times, pulses: Times) -> None:
        """Take the latest beats and pulses, those known already among them."""
        self._qrs, anew = _join(self._qrs, qrs, 2 * MOST_BEATS)
        self._pulses, other_anew = _join(self._pulses, pulses, 2 * MOST_BEATS)
        if anew or other_anew:
            self.lag, self.confirmed_s = None, -math.inf

    def learn(self, expected_s: float) -> None:
        """Find the lag, or look whether it still holds. Call it every few seconds."""
        if self.lag is not None and abs(expected_s - self._expected_s) > MOVED_S:
            self.lag, self.confirmed_s = None, -math.inf
        if self.lag is None:
            self.lag = find(self._qrs, self._pulses, expected_s)
            if self.lag is None:
                return
            self._expected_s = expected_s
        latest = self._qrs[self._qrs + self.lag.lag_s <= self._pulses[-1] + MATCH_S][-_LATEST:]
        if latest.size < _LATEST // 2:
            return
        error = _distance(latest + self.lag.lag_s, self._pulses)
        near = np.abs(error) <= MATCH_S
        if near.mean() >= SHARE - 0.05:
            self.lag = Lag(self.lag.lag_s + 0.3 * float(np.median(error[near])), self.lag.jitter_s, self.lag.beats)
            self.confirmed_s = float(latest[-1])
        elif float(latest[-1]) - self.confirmed_s > FORGET_S:
            self.lag, self.confirmed_s = None, -math.inf


def _join(known: Times, latest: Times, most: int) -> tuple[Times, bool]:
    """Return what is known with the latest in place of what it says anew; and whether another stream has begun."""
    if not latest.size:
        return known, False
    if known.size and latest[-1] < known[-1] - 1.0:
        return latest.copy(), True
    return np.concatenate((known[known < latest[0] - 1e-6], latest))[-most:], False
