"""Lays out what the monitor remembers: one row per lead, one row per patient.

Responsible for the memory layout (NumPy structured arrays, so that the compiled kernels and Python read the same
fields) and for turning a sampling rate and a gain into filter coefficients and window lengths. Not responsible for
any signal processing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.filters import butterworth, group_delay, smooth_low_pass

#: Rates the front end is designed for. Below 100 Hz a QRS has too few samples for its shape (AHA 1990: 125 Hz is the
#: least for monitoring); above 2000 Hz no bedside ECG is sent.
MIN_RATE_HZ = 100.0
MAX_RATE_HZ = 2000.0
#: The analysis runs at rate // ANALYSIS_RATE_HZ decimation, that is at 125 to 250 Hz whatever the device sends.
ANALYSIS_RATE_HZ = 125.0
MAX_STEP = int(MAX_RATE_HZ // ANALYSIS_RATE_HZ)
#: Analysis samples kept per lead: 8 s at 250 Hz. A power of two, so that a mask wraps the index.
RING = 2048
MASK = RING - 1

DISPLAY_LOW_HZ = 0.5  # monitoring bandwidth 0.5 - 40 Hz (IEC 60601-2-27, 201.12.1.101.8)
DISPLAY_HIGH_HZ = 40.0
QRS_LOW_HZ = 5.0  # energy of the QRS is greatest here (Pan & Tompkins 1985; docs/findings.md "QRS detection")
QRS_HIGH_HZ = 16.0
ENERGY_WINDOW_S = 0.13  # a little longer than a normal QRS, shorter than the 200 ms between beats at 300/min
CONFIRM_S = 0.10  # a peak is final when nothing greater followed for this long
LOW_PASS_S = 0.048  # long enough to hold back what decimation would fold into the band; delays by half of it
TAPS_MOST = 101
SPIKE_LAG_MOST = 5
SPIKE_S = 0.002  # the widest pacing pulse (IEC 60601-2-27, 201.12.1.101.13)

MAX_LEADS = 12
TEMPLATES = 6
SHAPE = 32  # points of a beat's shape, 8 ms apart
P_POINTS = 25  # points of what comes before a QRS, 8 ms apart
HELD = 30  # features of a beat that are known at once
LATER = 8  # and those that its successor tells
CURVE = 46  # points of a whole beat with its P and T wave, 16 ms apart
CANDIDATES = 16
PATTERN = 19  # points of a QRS in its band, about 12 ms apart
PAST_S = 0.5  # of samples without pulses: a candidate is judged within 0.35 s, and what it began with lies before it
PAST_MOST = int(PAST_S * MAX_RATE_HZ)
EDGE_MV = 0.2
#: From one sample to the next no QRS goes further: a triangle of 5 mV and 40 ms rises by 0.25 mV/ms, from the R of 5 mV
#: to the S of a child's narrow one it is 0.75.
LEAP_MV_PER_MS = 0.8
LEAP_LEAST_MV = 2.0
#: Of what relaxes after a jump of the baseline (``jumps``).
TIME_CONSTANTS_S = (0.003, 0.0045, 0.007, 0.01, 0.015, 0.022, 0.033, 0.05, 0.075, 0.11, 0.17, 0.6)
DECAYS = len(TIME_CONSTANTS_S)
SHIFTS = 4  # points a candidate may slide against a pattern
LEVEL_AT_FIRST = (-4.5, -4.5, -3.5)  # the usual score of a beat that is not ventricular (supraventricular)
FACTS = 8  # of a candidate, for the veto in noise
NEVER = 2**62
GAPS = 8  # remembered: what looks across them looks back eight seconds


@dataclass(frozen=True, slots=True)
class Tuning:
    """What decides which peak of energy is a QRS, as far as it was chosen by measurement.

    ``models/qrs/choose.py`` chooses the values on annotated records and scores the choice on records left out.
    """

    threshold: float = 0.287  # of the median beat
    threshold_back: float = 0.15  # when a beat is overdue
    overdue: float = 1.5  # median intervals
    noise_factor: float = 2.864  # a beat must stand this far above what was rejected lately
    noise_cap: float = 0.9  # of the median beat: what is as strong as the usual beat is one, however noisy
    decay_s: float = 0.709  # overdue thresholds fall with this time constant: amplitude may drop tenfold at once
    crest: float = 2.8  # energy of an isolated small beat against the mean energy of the last 2 s
    crest_noise: float = 4.0  # or against what was rejected lately
    floor_part: float = 0.5  # of the usual height: the floor of a patient with low beats
    noisy: float = 0.255  # rejected peaks against the median beat: from here on a lead is noisy
    odds_noisy: float = 0.0  # log-odds that a candidate needs in a noisy lead
    odds_quiet: float = -2.0  # and in a quiet one


CHANNEL = np.dtype(
    [
        # -- set once
        *((name, "f8") for name in Tuning.__slots__),
        ("rate", "f8"),
        ("analysis_rate", "f8"),
        ("scale", "f8"),  # mV per unit
        ("decimation", "i4"),
        ("spike_lag", "i4"),
        ("taps", "i4"),
        ("low", "f4", (TAPS_MOST // 2 + 1,)),  # half of the symmetric low-pass, from its edge to its middle
        ("high", "f8", (5,)),
        ("qrs_high", "f8", (5,)),
        ("qrs_low", "f8", (5,)),
        ("window", "i4"),
        ("confirm", "i4"),
        ("qrs_delay", "i4"),  # of the QRS band against the trace, analysis samples
        ("trace_delay", "f8"),  # of the trace against the raw signal, raw samples
        # -- front end
        ("running", "i4"),
        ("origin", "i4"),  # first sample: all filters start in their steady state for it
        ("before", "i2", (2 * SPIKE_LAG_MOST,)),  # the last raw samples, oldest first
        ("leapt", "i4"),  # how many of them, up to the last, were replaced: nobody's heart leaps so far
        ("past", "i4"),  # how many of them are kept
        ("clean", "i2", (PAST_MOST,)),  # the last samples without pacing pulses, oldest first
        ("clean_first", "i8"),  # stream index of the first, while a block is being searched
        ("phase", "i4"),
        ("high_z", "f8", (2,)),
        ("qrs_high_z", "f8", (2,)),
        ("qrs_low_z", "f8", (2,)),
        ("band_1", "f8"),
        ("band_2", "f8"),
        ("slopes", "f8", (64,)),
        ("slope_at", "i4"),
        ("slope_sum", "f8"),
        ("last_raw", "i4"),
        ("same", "i8"),  # run of identical raw values
        ("railed", "i8"),  # run of raw values at the end of the int16 range
        ("leap_code", "i4"),  # more than this from one sample to the next is a pulse or an electrode
        ("edge_code", "i4"),  # the least jump within a pulse width that may be one of the baseline
        ("decays", "f8", (DECAYS,)),  # what is left of a decay after one sample
        ("steps", "f8", (DECAYS,)),  # and after one analysis sample
        ("jump_at", "f8"),  # where the last one was that was told from a beat
        # -- clock
        ("n", "i8"),  # analysis samples so far; never reset
        ("start_n", "i8"),  # n at the last (re)start
        ("start_raw", "i8"),  # stream index of the first raw sample after it
        ("settled_n", "i8"),
        ("learned_n", "i8"),
        # -- short gaps, which what needs seconds of signal may look across (``gaps``)
        ("was_off", "i4"),  # the electrode was off: what comes now does not go on with what was before
        ("seen_from", "i8"),  # nothing before belongs together with now
        ("gaps", "i8"),  # how many since then
        ("gap_from", "i8", (GAPS,)),
        ("gap_to", "i8", (GAPS,)),  # with the time in which filters settle
        ("unseen", "i8"),  # analysis samples that lie in gaps; never reset
        ("looked_n", "i8"),  # seen samples at the last look for fibrillation
        # -- peak search
        ("mean_gain", "f8"),
        ("rising", "i4"),
        ("again", "i4"),  # the peak was a jump of the baseline: a beat in its shadow is looked for
        ("peak", "f8"),
        ("peak_n", "i8"),
        ("last_energy", "f8"),
        ("mean_energy", "f8"),  # as far as the front end has come
        ("mean_energy_now", "f8"),  # at the sample being judged
        # -- what a beat looks like here
        ("learned", "i4"),
        ("beats", "i8"),
        ("signal", "f8"),  # median energy of the last 8 beats
        ("signals", "f8", (8,)),
        ("noise", "f8"),  # running energy of what was not a beat
        ("sharpness", "f8"),
        ("sharpnesses", "f8", (8,)),
        ("order", "f8", (8,)),  # room to sort in
        ("height", "f8"),  # running peak-to-peak of beats, mV
        ("intervals", "f8", (8,)),
        ("interval_count", "i8"),
        ("interval", "f8"),  # median RR, analysis samples
        ("beat_n", "i8"),  # fiducial of the last beat
        ("beat_peak_n", "i8"),
        ("t_energy", "f8"),  # running energy of what follows a beat by 0.17 - 0.42 s and was no beat
        ("t_most", "f8"),
        ("agreement", "f8"),  # part of this lead's beats that were counted, running
        ("told_at", "f8"),  # stream index of its last beat that nobody else has seen yet
        ("told_score", "f8"),  # how ventricular that was
        ("looked_at", "i8"),
        ("patterns", "f8", (2, PATTERN)),  # what beats look like in the QRS band
        ("pattern_weight", "f8", (2,)),
        ("around", "f8", (PATTERN + 2 * SHIFTS,)),  # room for the candidate's own
        ("powers", "f8", (2 * SHIFTS + 1,)),
        ("crosses", "f8", (2, 2 * SHIFTS + 1)),
        ("likes", "f8", (2,)),  # of the candidate to the patterns
        ("slides", "i4", (2,)),
        ("compared", "f8"),  # peak_n of the candidate that they belong to
        ("rejected", "f8", (CANDIDATES, 5)),  # peak_n, energy, fiducial, height, sharpness
        ("rejected_count", "i4"),
        ("back_from", "i8"),  # from this analysis sample on the rejected ones are worth another look
        # -- shapes of beats
        ("shapes", "f8", (TEMPLATES, SHAPE)),
        ("shape_weight", "f8", (TEMPLATES,)),
        ("shape_width", "f8", (TEMPLATES,)),
        ("shape_height", "f8", (TEMPLATES,)),
        ("shape_early", "f8", (TEMPLATES,)),  # running prematurity (log of interval over usual interval) of its beats
        ("shape_serial", "i8", (TEMPLATES,)),  # tells a shape from another that took its place
        ("votes", "f8", (2, TEMPLATES)),  # running score of its beats: at once, and in hindsight
        ("voters", "i8", (2, TEMPLATES)),
        # running score of the beats that do not look ventricular: at once, and in hindsight; and not supraventricular
        ("level", "f8", (3,)),
        ("leveled", "i8", (3,)),
        ("serials", "i8"),
        ("dominant", "i4"),
        ("normal_interval", "f8"),  # running RR of beats of the dominant shape, s
        ("long_interval", "f8"),  # running RR of all beats, s
        ("last_interval", "f8"),
        ("jumps", "f8"),  # running change from one RR to the next, relative
        ("roughness", "f8"),  # running second difference before the QRS, mV
        ("t_level", "f8"),  # running height of the T wave of the usual beat, mV
        # -- what comes before the usual beat
        ("p_shape", "f8", (P_POINTS,)),
        ("p_energy", "f8"),  # of that mean shape, mV^2
        ("p_spread", "f8"),  # what differs from beat to beat, mV^2
        ("p_count", "i8"),
        ("p_like", "f8"),  # running likeness of usual beats to it
        # -- the usual beat as a whole
        ("usual", "f8", (CURVE,)),
        ("usual_count", "i8"),
        # -- the beat that waits for its successor
        ("judged", "i8"),
        ("held", "f8", (HELD,)),  # its features
        ("held_shape", "f8", (SHAPE,)),
        ("older_shape", "f8", (SHAPE,)),
        ("held_at", "f8"),  # analysis sample
        ("held_sample", "f8"),  # stream index
        ("held_interval", "f8"),
        ("held_slot", "i4"),
        ("held_serial", "i8"),
        ("held_usual", "i4"),  # it has the dominant shape
        # -- judged twice a second
        ("lead_off", "i4"),  # the device says so
        ("flat", "i4"),
        ("saturated", "i4"),
        ("raw_level", "f8"),  # mV, at the last tick
        ("raw_step", "f8"),  # and its change in the tick before
        ("relaxing", "i4"),  # ticks for which the raw signal has been relaxing one way
        ("relaxed", "f8"),  # mV since then
        ("relaxing_n", "i8"),  # analysis sample at which that began
        ("recovering", "i4"),  # an amplifier relaxes after saturation, and shows no beat
        ("recovered_n", "i8"),  # where that ended
        ("quality", "f8"),  # 0..1
        ("noise_level", "f8"),  # mV
    ]
)


def new_channel(rate_hz: float, gain_uv: float, tuning: Tuning | None = None) -> NDArray[Any]:
    """Return the fresh state of one lead, shape (1,), dtype `CHANNEL`.

    Parameters
    ----------
    rate_hz : float
        Sampling rate, `MIN_RATE_HZ` to `MAX_RATE_HZ`.
    gain_uv : float
        Microvolts per unit, more than 0.
    tuning : Tuning, optional

    Raises
    ------
    ValueError
        If rate or gain is outside its range or not a number.
    """
    if not (math.isfinite(rate_hz) and MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ):
        raise ValueError(f"sampling rate {rate_hz} Hz; an ECG is analysed from {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g} Hz")
    if not (math.isfinite(gain_uv) and 0.0 < gain_uv <= 10_000.0):
        raise ValueError(f"gain {gain_uv} microvolts per unit; it must be more than 0 and at most 10000")
    decimation = max(1, int(rate_hz // ANALYSIS_RATE_HZ))
    analysis = rate_hz / decimation
    low = smooth_low_pass(min(DISPLAY_HIGH_HZ, 0.4 * rate_hz), LOW_PASS_S, rate_hz)
    high = butterworth("high", 2, DISPLAY_LOW_HZ, analysis)
    qrs = np.vstack((butterworth("high", 2, QRS_LOW_HZ, analysis), butterworth("low", 2, QRS_HIGH_HZ, analysis)))
    row = np.zeros(1, dtype=CHANNEL)
    for name, value in asdict(tuning or Tuning()).items():
        row[name] = value
    row["rate"] = rate_hz
    row["analysis_rate"] = analysis
    row["scale"] = gain_uv * 1e-3
    row["decimation"] = decimation
    row["spike_lag"] = int(SPIKE_S * rate_hz) + 1
    row["taps"] = len(low)
    row["low"][0, : len(low) // 2 + 1] = low[: len(low) // 2 + 1]
    row["high"] = high[0]
    row["qrs_high"] = qrs[0]
    row["qrs_low"] = qrs[1]
    row["window"] = round(ENERGY_WINDOW_S * analysis)
    row["confirm"] = round(CONFIRM_S * analysis)
    row["qrs_delay"] = round(group_delay(qrs, 10.0, analysis))
    row["trace_delay"] = len(low) // 2 + int(row["spike_lag"][0])
    row["past"] = max(len(low) - 1, math.ceil(PAST_S * rate_hz))
    row["decays"] = np.exp(-1.0 / (np.array(TIME_CONSTANTS_S) * rate_hz))
    row["steps"] = row["decays"] ** decimation
    leap = max(LEAP_LEAST_MV, LEAP_MV_PER_MS * 1e3 / rate_hz)
    row["leap_code"] = math.ceil(leap / row["scale"][0])
    row["edge_code"] = math.ceil(EDGE_MV / row["scale"][0])
    row["beat_n"] = row["beat_peak_n"] = -(10**9)
    row["jump_at"] = -1e18
    row["compared"] = -1.0
    row["back_from"] = NEVER
    row["interval"] = 0.8 * analysis  # 75/min, until beats tell
    row["normal_interval"] = row["long_interval"] = 0.8
    row["level"] = LEVEL_AT_FIRST
    row["dominant"] = -1
    return row
