"""Asks the pulse whether a lethal ECG alarm can be true.

Responsible for one question, asked while such a condition is present: is there strong evidence, in every respect, that
the heart goes on beating as it did before? Only then may the alarm be put down to a technical one. Everything that is
missing, doubtful, or could be made by hands, a pump or a movement leaves the alarm as it is. Pure. Not responsible for
what is done with the answer (``alarms``).

What is asked, each answered by 0 to 1; the least is the score, and one threshold decides:

``coupling``
    Before the event, did each QRS have its pulse and each pulse its QRS, at a steady delay? If not, the pulses may be
    another rhythm: compressions, a balloon pump, steps.
``continuity``
    Since the last QRS before the event, and up to now, was no pulse missing?
``regularity``
    Are the intervals, across the onset of the event, those of before, and slower or faster than hands can press?
``amplitude``
    Are the pulses as large as before?
``quality``
    Are they pulses at all (`Pulses.qualities`)?
``ecg`` (fast rhythms only)
    Is the ECG so poor that it may be wrong?

Ventricular fibrillation is never doubted: a rhythmic artefact, above all compressions at 100 to 120/min (AHA 2020),
looks like a pulse when it matters most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

#: At or above this score the alarm is put down. Chosen on the curve of docs/signals.md.
THRESHOLD = 0.9
#: Conditions that can be doubted at all. (A lost pulse is held against the other pulses of its source in ``signals``.)
DOUBTED = frozenset({"asystole", "extreme_bradycardia", "extreme_tachycardia", "ventricular_tachycardia"})
_FAST = frozenset({"extreme_tachycardia", "ventricular_tachycardia"})

#: A pulse comes this long after its QRS, pre-ejection period and detection of the foot included.
DELAY_S = (0.05, 0.75)
COUPLED_S = 0.07
#: How far the delay may vary from beat to beat (standard deviation): breath and filling move it by some 15 ms.
STEADY_S = (0.045, 0.025)
LOOK_BACK_S = 25.0
LEAST_PAIRS = 6
#: A pulse is known this long after its onset.
KNOWN_AFTER_S = 0.5
#: The pulse must have been watched for this long after the last QRS could have made one.
WATCHED_SLOW_S = 2.6
WATCHED_FAST_S = 2.2
RATE_RANGE = (30.0, 170.0)
#: 1/min. Nothing that beats at the rate of hands on a chest is evidence (AHA 2020: 100 to 120; done: 90 to 130).
COMPRESSIONS = (88.0, 132.0)


@dataclass(frozen=True, slots=True, eq=False)
class Pulses:
    """The pulses of one channel.

    Attributes
    ----------
    times_s
        Onsets, oldest first, in seconds since the stream began.
    amplitudes, qualities
        Of each pulse.
    seen_from_s, now_s
        The channel was watched without a gap from and to here.
    quality
        Of the channel now.
    arterial
        Measured in an artery.
    offset_s
        Largest error of this channel's clock against that of the ECG. 0: one device, one clock.
    """

    name: str
    times_s: Times
    amplitudes: Times
    qualities: Times
    seen_from_s: float
    now_s: float
    quality: float
    arterial: bool = False
    offset_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Beats:
    """The QRS complexes of the ECG, and how well it is seen.

    Attributes
    ----------
    times_s
        Oldest first, in seconds since the stream began; the last dozen will do.
    now_s
        End of the ECG.
    quality
        0..1.
    """

    times_s: Times
    now_s: float
    quality: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the pulse says about an alarm.

    Attributes
    ----------
    doubt
        True: there is strong evidence against the alarm; put it down and say so.
    score
        0..1, the least of `answers`, of the channel that speaks most strongly against the alarm.
    channel
        Which one; empty if none was there.
    pulse
        Whether that channel shows a circulation now: ``present``, ``absent`` or ``unknown``.
    answers
        Each question's answer, for the log and the page.
    weakest
        The question that was answered worst.
    """

    doubt: bool
    score: float
    channel: str = ""
    pulse: str = "unknown"
    answers: dict[str, float] = field(default_factory=dict)

    @property
    def weakest(self) -> str:
        """The question that was answered worst; empty if none was asked."""
        return min(self.answers, key=lambda name: self.answers[name]) if self.answers else ""


def judge(
    code: str,
    onset_s: float,
    beats: Beats,
    pulses: Sequence[Pulses],
    *,
    rate: float | None = None,
    threshold: float = THRESHOLD,
) -> Verdict:
    """Return what the pulse says about a condition that is present.

    Ask when the condition begins and again, at least twice a second, while it lasts: the evidence must go on.

    Parameters
    ----------
    code : str
        Of the condition.
    onset_s : float
        When it began: for asystole and bradycardia the last beat before, for a tachycardia its first beat. Seconds
        since the stream of the ECG began.
    beats : Beats
        Of the ECG.
    pulses : sequence of Pulses
        All channels of the bed that show pulses.
    rate : float, optional
        Of the tachycardia, 1/min.
    threshold : float
        From which score on there is doubt.

    Notes
    -----
    Never in doubt: a condition not in `DOUBTED`, and any without a channel that was coupled to the ECG before.
    """
    best = Verdict(False, 0.0)
    if code not in DOUBTED:
        return best
    for channel in pulses:
        answers = _ask(code, onset_s, beats, channel, rate)
        score = min(answers.values())
        pulse = "unknown"
        if answers["quality"] >= 0.5 and answers["continuity"] >= 0.5:
            pulse = "present"
        elif answers["coupling"] >= 0.5 and answers["continuity"] == 0.0:
            pulse = "absent"
        if not best.channel or score > best.score:
            best = Verdict(score >= threshold, score, channel.name, pulse, answers)
    absent = next((v for v in pulses if _arterial_loss(onset_s, beats, v)), None)
    if best.doubt and absent is not None:  # the artery is the better witness
        return Verdict(False, 0.0, absent.name, "absent", {"artery": 0.0})
    return best


def _arterial_loss(onset_s: float, beats: Beats, channel: Pulses) -> bool:
    """Return whether an artery that pulsed with the heart before has stopped."""
    if not channel.arterial or channel.offset_s > 0.0:
        return False
    delay, coupling = _couple(onset_s, beats, channel)
    if coupling < 0.5:
        return False
    last = channel.times_s[channel.qualities >= 0.3]
    silent = channel.now_s - KNOWN_AFTER_S - (float(last[-1]) if last.size else channel.seen_from_s)
    return silent > 2.5 and delay >= 0.0


def _ask(code: str, onset_s: float, beats: Beats, channel: Pulses, rate: float | None) -> dict[str, float]:
    answers = {"coupling": 0.0, "continuity": 0.0, "regularity": 0.0, "amplitude": 0.0, "quality": 0.0}
    fast = code in _FAST
    if fast:
        answers["ecg"] = _ramp(beats.quality, 0.7, 0.4)
    delay, answers["coupling"] = _couple(onset_s, beats, channel)
    if answers["coupling"] <= 0.0:
        return answers
    # What the heart did from the onset on shows from `start` on. With another clock, `delay` is the latest possible.
    start = onset_s + delay
    known = channel.now_s - KNOWN_AFTER_S
    least = WATCHED_FAST_S if fast else WATCHED_SLOW_S
    if known - start < least or channel.seen_from_s > onset_s - 5.0:
        return answers
    times = channel.times_s
    before = np.flatnonzero((times < start + COUPLED_S) & (times > start - LOOK_BACK_S))[-12:]
    after = np.flatnonzero(times >= start + COUPLED_S)
    if before.size < LEAST_PAIRS or after.size < 2:
        return answers
    usual = np.diff(times[before])
    usual = usual[usual > 0.2]
    if usual.size < LEAST_PAIRS - 1:
        return answers
    mean = float(np.median(usual))
    now = np.diff(times[np.concatenate((before[-1:], after))])
    longest = max(float(now.max()), known - float(times[-1]))
    answers["continuity"] = _ramp(longest / mean, 1.9, 1.3)
    spread = np.abs(np.concatenate((usual[-6:], now)) / mean - 1.0)
    # For a fast rhythm the beat must not even have shifted: an early beat would have moved the pulse.
    strict = 0.10 if fast else 0.18
    answers["regularity"] = _ramp(float(spread.max()), 2.2 * strict, strict)
    here = 60.0 / float(np.median(now))
    if not RATE_RANGE[0] <= here <= RATE_RANGE[1]:
        answers["regularity"] = 0.0
    drift = abs(here * mean / 60.0 - 1.0)
    answers["regularity"] = min(answers["regularity"], _ramp(drift, 0.25, 0.12))
    if COMPRESSIONS[0] <= here <= COMPRESSIONS[1]:
        answers["regularity"] = 0.0
    if fast and rate is not None:  # perfused beats of the tachycardia itself, one in one or one in two
        nearest = min(abs(here / rate - 1.0), abs(2.0 * here / rate - 1.0))
        answers["regularity"] = min(answers["regularity"], _ramp(nearest, 0.08, 0.18))
    size = float(np.median(channel.amplitudes[before]))
    parts = channel.amplitudes[after] / max(size, 1e-12)
    least_part = float(parts.min()) if fast else float(np.sort(parts)[min(1, parts.size - 1)])
    low, enough = (0.6, 0.8) if fast else (0.4, 0.65)
    answers["amplitude"] = min(_ramp(least_part, low, enough), _ramp(float(np.median(parts)), 2.2, 1.5))
    if after.size >= 4:  # every second one smaller: a wave counted twice, or an alternating heart
        odd, even = float(np.median(parts[::2])), float(np.median(parts[1::2]))
        gaps = float(np.median(now[::2])) / max(float(np.median(now[1::2])), 1e-9)
        uneven = max(max(odd, even) / max(min(odd, even), 1e-9), gaps, 1.0 / gaps)
        answers["amplitude"] = min(answers["amplitude"], _ramp(uneven, 1.6, 1.25))
    believed = np.sort(channel.qualities[after])
    answers["quality"] = float(min(np.mean(channel.qualities[before]), believed[:2].mean()))
    if fast:
        answers["quality"] = float(min(answers["quality"], believed[0]))
    return answers


def _couple(onset_s: float, beats: Beats, channel: Pulses) -> tuple[float, float]:
    """Return the delay of the pulse after the QRS, and how firmly both go together, before the event.

    With another clock several delays may fit a regular rhythm equally well; the latest of them is returned, so that
    no pulse of before the event passes for one of after it.
    """
    qrs = beats.times_s[(beats.times_s <= onset_s + 1e-6) & (beats.times_s > onset_s - LOOK_BACK_S)]
    qrs = qrs[:-1][-14:]  # the last one may be part of the event
    pulse = channel.times_s[channel.qualities >= 0.3]
    qrs = qrs[qrs > channel.seen_from_s + 1.0 + channel.offset_s]
    if qrs.size < LEAST_PAIRS or pulse.size < LEAST_PAIRS:
        return 0.0, 0.0
    low, high = DELAY_S[0] - channel.offset_s, DELAY_S[1] + channel.offset_s
    delays = np.arange(low, high, 0.02)
    span = pulse[(pulse >= qrs[0] + low - COUPLED_S) & (pulse <= qrs[-1] + high + COUPLED_S)]
    if span.size < LEAST_PAIRS:
        return 0.0, 0.0
    expected = qrs[None, :] + delays[:, None]
    place = np.searchsorted(span, expected).clip(1, span.size - 1)
    distance = np.minimum(np.abs(span[place] - expected), np.abs(span[place - 1] - expected))
    had = (distance <= COUPLED_S).mean(axis=1)
    scores = np.zeros(delays.size)
    for k in np.flatnonzero(had >= 0.7):
        window = span[(span >= expected[k, 0] - COUPLED_S) & (span <= expected[k, -1] + COUPLED_S)]
        if window.size:
            at = np.searchsorted(expected[k], window).clip(1, qrs.size - 1)
            back = np.minimum(np.abs(expected[k][at] - window), np.abs(expected[k][at - 1] - window))
            scores[k] = min(had[k], float((back <= COUPLED_S).mean()))
    best = float(scores.max())
    if best <= 0.0:
        return 0.0, 0.0
    top = expected[int(scores.argmax())]
    place = np.searchsorted(span, top).clip(1, span.size - 1)
    error = np.where(np.abs(span[place] - top) < np.abs(span[place - 1] - top), span[place], span[place - 1]) - top
    jitter = float(np.std(error[np.abs(error) <= COUPLED_S]))
    fits = delays[scores >= best - 0.1]
    delay = float(fits.max()) if channel.offset_s > 0.0 else float(fits.mean())
    return delay, min(_ramp(best, 0.6, 0.9), _ramp(jitter, *STEADY_S))


def _ramp(value: float, nothing: float, full: float) -> float:
    return float(min(1.0, max(0.0, (value - nothing) / (full - nothing))))
