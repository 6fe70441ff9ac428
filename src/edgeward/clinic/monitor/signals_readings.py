"""What is read off the rows of signals that are not an ECG: numbers, and pulses to check lethal alarms against.

Responsible for which channel speaks for a parameter, and for giving the fields of the rows their names and units. Not
responsible for how they come about (``signals_kernel``, ``signals``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from edgeward.clinic.monitor.crosscheck import Pulses
from edgeward.clinic.monitor.signals_rows import SignalRows
from edgeward.clinic.monitor.signals_state import APNEA, ARTERIAL, BEATS, OFF, PULSE
from edgeward.waveform import Channel, Kind

#: A number that is gone for this long is withdrawn; shorter, the last one stands and ages.
ABSENT_NS = 8_000_000_000
BREATH_S = 12.0  # five breaths a minute
_FIELDS = ("pulse_rate", "systolic", "diastolic", "mean", "breath_rate", "end_tidal")


class SignalValue(msgspec.Struct, frozen=True):
    """One number measured from a signal, in the unit of its parameter; None: there is none now."""

    source_id: str
    parameter: str  # a name of `edgeward.parameters`
    value: float | None
    quality: float
    received_ns: int


@dataclass(frozen=True, slots=True)
class ChannelNumerics:
    """What is known of one channel now. None: no value.

    Attributes
    ----------
    quality
        0..1.
    amplitude
        Of a pulse, in the channel's unit.
    perfusion
        Amplitude relative to what is usual for this patient and sensor (1: as usual). It is not the oximeter's
        perfusion index, which needs the unfiltered light.
    damped
        The pulse pressure has shrunk and the mean has not: look at the line.
    """

    channel: Channel
    quality: float
    pulse_rate: float | None
    amplitude: float | None
    perfusion: float | None
    systolic: float | None
    diastolic: float | None
    mean: float | None
    breath_rate: float | None
    end_tidal: float | None
    damped: bool
    flush: bool


def take_values(kept: SignalRows) -> list[SignalValue]:
    """Return the numbers of all channels judged since the last call, about one set a second and source.

    Where two channels measure one parameter, the better believed one speaks; arterial pressure before pleth, CO2
    before impedance, when both are good.
    """
    count = len(kept.owners)
    fresh = np.flatnonzero(kept.rows["fresh"][:count])
    if not fresh.size:
        return []
    part = kept.rows[fresh]
    kept.rows["fresh"][fresh] = 0
    # What ended the last breath says nothing of now: without another one for so long there is no end-tidal value.
    held = (part["next_index"] - part["anchor"]) / part["rate"] > BREATH_S
    part["end_tidal"][held | (part["active"][:, APNEA] == 1)] = math.nan
    columns = [part[name].tolist() for name in _FIELDS]
    best: dict[tuple[str, str], tuple[float, float, float, int]] = {}
    for row, family, kind, quality, rate, systolic, diastolic, mean, breaths, tidal in zip(
        fresh.tolist(),
        part["family"].tolist(),
        part["kind"].tolist(),
        part["quality"].tolist(),
        *columns,
        strict=True,
    ):
        source = kept.owners[row]
        if source is None:
            continue
        name = source.source_id
        found: tuple[tuple[str, float], ...]
        if family == PULSE:
            found = (("pulse_rate", rate),)
        elif kind == Kind.ABP:
            found = (
                ("pulse_rate", rate),
                ("abp_systolic", systolic),
                ("abp_diastolic", diastolic),
                ("abp_mean", mean),
            )
        elif kind == Kind.CVP:
            found = (("cvp_mean", mean),)
        elif kind == Kind.RESPIRATION:
            found = (("respiratory_rate", breaths),)
        elif kind == Kind.CO2:
            found = (("respiratory_rate", breaths), ("etco2", tidal))
        else:
            continue
        weight = quality + (0.5 if kind in {Kind.ABP, Kind.CO2} and quality >= 0.5 else 0.0)
        for parameter, value in found:
            score = -1.0 if math.isnan(value) else weight
            known = best.get((name, parameter))
            if known is None or score > known[0]:
                best[name, parameter] = (score, value, quality, row)
    values = []
    for (name, parameter), (score, value, quality, row) in best.items():
        source = kept.sources[name]
        at = source.last_received_ns
        if score >= 0.0:
            source.values[parameter] = at
            values.append(SignalValue(name, parameter, value, quality, at))
        elif parameter in source.values and (
            at - source.values[parameter] > ABSENT_NS or kept.rows[row]["active"][[OFF, APNEA]].any()
        ):
            values.append(SignalValue(name, parameter, None, 0.0, at))
    return values


def numerics(kept: SignalRows, source_id: str) -> list[ChannelNumerics]:
    """Return what is known of each channel of a source.

    Raises
    ------
    KeyError
        If the source has sent no signals.
    """

    def value(c: Any, name: str) -> float | None:
        number = float(c[name])
        return None if math.isnan(number) else number

    told = []
    for row in kept.sources[source_id].rows.values():
        c = kept.rows[row]
        told.append(
            ChannelNumerics(
                channel=kept.channels[row],
                quality=float(c["quality"]),
                pulse_rate=value(c, "pulse_rate"),
                amplitude=value(c, "amplitude"),
                perfusion=value(c, "perfusion"),
                systolic=value(c, "systolic"),
                diastolic=value(c, "diastolic"),
                mean=value(c, "mean"),
                breath_rate=value(c, "breath_rate"),
                end_tidal=value(c, "end_tidal"),
                damped=bool(c["damped"] >= 20),
                flush=bool(c["flush"] > 0),
            )
        )
    return told


def pulses(kept: SignalRows, source_id: str) -> list[Pulses]:
    """Return the recent pulses of each channel of a source that has them, for `crosscheck`.

    Times are seconds since the stream of the source began, as are those of its ECG.
    """
    source = kept.sources.get(source_id)
    if source is None:
        return []
    found = []
    for name, row in source.rows.items():
        c = kept.rows[row]
        if c["family"] > ARTERIAL or c["kind"] == Kind.PAP or not c["started"]:
            continue
        count = int(c["count"])
        order = np.arange(max(0, count - BEATS), count) % BEATS
        rate = float(c["rate"])
        found.append(
            Pulses(
                name=name,
                times_s=c["times"][order] / rate,
                amplitudes=c["amplitudes"][order].copy(),
                qualities=c["qualities"][order].copy(),
                seen_from_s=int(c["start_raw"]) / rate,
                now_s=int(c["next_index"]) / rate,
                quality=float(c["quality"]),
                arterial=bool(c["family"] == ARTERIAL),
            )
        )
    return found
