"""Lays out what `signals` remembers: one row per channel that is not an ECG.

Responsible for the memory layout (a NumPy structured array, so that the compiled kernels and Python read the same
fields) and for turning a channel's description into filters and window lengths. Not responsible for any signal
processing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.filters import butterworth, group_delay
from edgeward.waveform import Channel, Kind

#: Analysis samples kept per channel, a power of two: more than 10 s of pulse, more than 40 s of breathing.
RING = 1024
MASK = RING - 1
TICK_S = 0.5  # what no single beat tells is judged this often

BEATS = 64  # pulses kept for cross-checking: 30 s at 128/min
SHAPE = 24
#: A pulse's shape is taken from this long before the middle of its upstroke to this long after it, whatever its rate.
BEFORE_S = 0.14
AFTER_S = 0.36
RECENT = 8
TICKS = 8
PEERS = 4  # pulse channels of the same source that a breathing channel is held against

#: How a channel is read.
PULSE, ARTERIAL, LEVEL, BREATH, GAS = range(5)
FAMILY = {
    Kind.PLETH: PULSE,
    Kind.PLETH_RED: PULSE,
    Kind.PLETH_INFRARED: PULSE,
    Kind.ABP: ARTERIAL,
    Kind.PAP: ARTERIAL,
    Kind.CVP: LEVEL,
    Kind.ICP: LEVEL,
    Kind.RESPIRATION: BREATH,
    Kind.CO2: GAS,
}
#: The slowest sampling each family can be read at.
LEAST_RATE_HZ = {PULSE: 20.0, ARTERIAL: 40.0, LEVEL: 4.0, BREATH: 10.0, GAS: 10.0}
_ANALYSIS_HZ = {PULSE: 50.0, ARTERIAL: 50.0, LEVEL: 12.5, BREATH: 12.5, GAS: 12.5}
#: A pressure keeps its systolic peak (Gardner 1981 asks for 20 Hz of the tubing; the peak's own content ends below 12).
_LOW_HZ = {PULSE: 8.0, ARTERIAL: 12.0, LEVEL: 2.0, BREATH: 2.0, GAS: 4.0}
_HIGH_HZ = {PULSE: 0.4, BREATH: 0.08}
#: Window of the slope sum function: about as long as an upstroke (Zong 2003: 128 ms for pressure).
_UPSTROKE_S = {PULSE: 0.17, ARTERIAL: 0.128}

OFF, POOR, NO_PULSE, APNEA, DISCONNECTED = range(5)
CONDITIONS = 5

SIGNAL = np.dtype(
    [
        # -- set once
        ("used", "i4"),
        ("family", "i4"),
        ("kind", "i4"),
        ("rate", "f8"),
        ("analysis_rate", "f8"),
        ("decimation", "i4"),
        ("hop", "i8"),
        ("gain", "f8"),
        ("offset", "f8"),
        ("low", "f8", (5,)),
        ("high", "f8", (5,)),
        ("delay", "f8"),  # of the trace against the raw signal, raw samples
        ("window", "i4"),
        ("no_pulse_s", "f8"),
        ("apnea_s", "f8"),
        # -- front end
        ("started", "i4"),
        ("running", "i4"),
        ("origin", "f8"),
        ("held", "f8"),  # last value, stands in for a missing one
        ("phase", "i4"),
        ("low_z", "f8", (2,)),
        ("high_z", "f8", (2,)),
        ("state", "i4"),  # as the device says
        ("last_raw", "i4"),
        ("same", "i8"),  # run of identical raw values
        ("clipped_n", "i8"),  # when a run stood at the top of the signal
        ("railed", "i8"),  # samples since the last tick in a run at an edge of what can be sent or shown
        ("railed_part", "f8"),  # their share of the last seconds
        ("missing", "i8"),  # samples without a value since the last tick
        ("missing_run", "i8"),
        # -- clock
        ("n", "i8"),  # analysis samples so far; never reset
        ("start_n", "i8"),
        ("start_raw", "i8"),
        ("next_index", "i8"),
        ("next_tick", "i8"),
        ("ticks", "i8"),
        # -- levels, per tick
        ("sum", "f8"),
        ("least", "f8"),
        ("most", "f8"),
        ("added", "i8"),
        ("means", "f8", (TICKS,)),
        ("spans", "f8", (TICKS,)),
        ("level", "f8"),  # slow mean
        # -- pulse search
        ("steps", "f8", (32,)),
        ("step_at", "i4"),
        ("before", "f8"),
        ("slope_sum", "f8"),
        ("peak", "f8"),
        ("peak_n", "i8"),
        ("learned", "i4"),
        ("learn_n", "i8"),
        ("tops", "f8", (3,)),
        ("reference", "f8"),
        ("references", "f8", (RECENT,)),
        ("reference_count", "i8"),
        ("beat_n", "i8"),  # slope peak of the last accepted pulse
        ("onset_n", "i8"),
        ("onset", "f8"),  # middle of the upstroke, between samples
        ("foot_n", "i8"),
        ("last_top", "f8"),
        ("pending", "i4"),
        ("interval", "f8"),  # median, analysis samples
        # -- pulses
        ("template", "f8", (SHAPE,)),
        ("template_weight", "f8"),
        ("doubt", "i4"),
        ("count", "i8"),
        ("times", "f8", (BEATS,)),  # stream index of the onset
        ("amplitudes", "f8", (BEATS,)),
        ("qualities", "f8", (BEATS,)),
        ("intervals", "f8", (BEATS,)),  # s, 0 where a gap lies between
        ("usual", "f8"),  # amplitude of good pulses, slow
        ("usual_mean", "f8"),
        ("present", "i4"),  # there were good pulses
        ("good_run", "i4"),
        ("anchor", "f8"),  # stream index of the last good pulse (breath), moved by time nobody could see
        ("systolics", "f8", (RECENT,)),
        ("diastolics", "f8", (RECENT,)),
        ("meanings", "f8", (RECENT,)),
        ("pressure_count", "i8"),
        ("flush", "i4"),  # ticks that a flush or its wake still lasts
        ("disconnected", "i4"),
        ("damped", "i4"),
        # -- breaths
        ("rising", "i4"),
        ("extreme", "f8"),
        ("extreme_n", "i8"),
        ("trough", "f8"),
        ("trough_n", "i8"),
        ("top_n", "i8"),
        ("crest", "f8"),
        ("moved", "i8"),  # when something too large for a breath was seen
        ("shallow", "i4"),
        ("deep", "f8"),  # depth of the patient's breaths, over a minute
        ("pace", "f8"),  # interval of the patient's breaths, over a minute, s
        ("locked", "i4"),  # the small waves are the heart's
        ("blind", "f8"),  # stream index up to which nobody could see
        ("peers", "i8", (PEERS,)),  # rows of the pulses of the same source, -1: none
        # -- told
        ("quality", "f8"),
        ("poor_ticks", "i4"),
        ("fine_ticks", "i4"),
        ("pulse_rate", "f8"),
        ("amplitude", "f8"),
        ("perfusion", "f8"),
        ("systolic", "f8"),
        ("diastolic", "f8"),
        ("mean", "f8"),
        ("breath_rate", "f8"),
        ("end_tidal", "f8"),
        ("fresh", "i4"),
        ("active", "i1", (CONDITIONS,)),
    ]
)

_NO_VALUE = ("pulse_rate", "amplitude", "perfusion", "systolic", "diastolic", "mean", "breath_rate", "end_tidal")


def new_signal(channel: Channel, *, no_pulse_s: float, apnea_s: float) -> NDArray[Any]:
    """Return the fresh state of one channel, shape (1,), dtype `SIGNAL`.

    Parameters
    ----------
    no_pulse_s, apnea_s : float
        How long without a pulse, or a breath.

    Raises
    ------
    ValueError
        If the channel is an ECG, or sampled too slowly to be read.
    """
    if channel.kind not in FAMILY:
        raise ValueError(f"{channel.kind.name} is not read here")
    family = FAMILY[channel.kind]
    rate = channel.rate_hz
    if rate < LEAST_RATE_HZ[family]:
        raise ValueError(
            f"sampling rate {rate:g} Hz; {channel.kind.name.lower()} is read from {LEAST_RATE_HZ[family]:g} Hz on"
        )
    decimation = max(1, int(rate // _ANALYSIS_HZ[family]))
    analysis = rate / decimation
    low = butterworth("low", 2, min(_LOW_HZ[family], 0.4 * rate), rate)
    row = np.zeros(1, dtype=SIGNAL)
    row["used"] = 1
    row["family"] = family
    row["kind"] = int(channel.kind)
    row["rate"] = rate
    row["analysis_rate"] = analysis
    row["decimation"] = decimation
    row["hop"] = max(1, round(TICK_S * rate))
    row["gain"] = channel.gain
    row["offset"] = channel.offset
    row["low"] = low[0]
    row["delay"] = group_delay(low, 1.5, rate)
    if family in _HIGH_HZ:
        row["high"] = butterworth("high", 2, _HIGH_HZ[family], analysis)[0]
    row["window"] = max(2, min(31, round(_UPSTROKE_S.get(family, 0.128) * analysis)))
    row["no_pulse_s"] = no_pulse_s
    row["apnea_s"] = apnea_s
    row["peers"] = -1
    row["interval"] = 0.8 * analysis
    row["beat_n"] = row["onset_n"] = row["clipped_n"] = row["moved"] = -(10**9)
    for name in _NO_VALUE:
        row[name] = np.nan
    return row
