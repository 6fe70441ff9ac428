"""What the other sensors of a simulated patient deliver: pleth, breathing, pressures, carbon dioxide.

Responsible for deriving them from the same heartbeats as the ECG, so that what happens to the heart shows in all of
them, and for cutting them into the packets of version 2. Pure. The ECG itself and its events are ``stream``'s, the
shapes ``circulation``'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeward.device import circulation
from edgeward.device.circulation import Pulse
from edgeward.device.recordings import Recording, slope_energy
from edgeward.waveform import STATE_OFF, Block, Channel, Kind

PLETH = Channel(name="Pleth", kind=Kind.PLETH, rate_hz=125.0, gain=0.125)
ARTERY = Channel(name="ART", kind=Kind.ABP, rate_hz=125.0, gain=0.0625)
RESPIRATION = Channel(name="Resp", kind=Kind.RESPIRATION, rate_hz=25.0, gain=0.0009765625)
VEIN = Channel(name="CVP", kind=Kind.CVP, rate_hz=62.5, gain=0.03125)
BREATH_GAS = Channel(name="CO2", kind=Kind.CO2, rate_hz=25.0, gain=0.03125)

_PLETH_HEIGHT = 1000.0
_MEMORY_S = 6.0  # a pulse is over after this
_REFRACTORY_S = 0.28
_VT_STROKE = 0.35


def beats_of(recording: Recording) -> NDArray[np.int64]:
    """Return about where the QRS complexes of a loop are: its steep places, one for each."""
    rate = recording.rate_hz
    energy = slope_energy(recording.samples, rate, 0.08)
    high = 0.25 * float(np.quantile(energy, 0.98))
    found: list[int] = []
    for place in (
        np.flatnonzero((energy[1:-1] >= energy[:-2]) & (energy[1:-1] > energy[2:]) & (energy[1:-1] > high)) + 1
    ):
        if found and place - found[-1] < _REFRACTORY_S * rate:
            if energy[place] > energy[found[-1]]:
                found[-1] = int(place)
        else:
            found.append(int(place))
    return np.array(found, dtype=np.int64)


@dataclass(slots=True)
class Sensors:
    """The other sensors of one patient.

    Attributes
    ----------
    recording, offset
        The ECG that is replayed, and from which sample of its loop on.
    rng
        Source of noise and of what makes patients differ.
    artery
        Has an arterial line.
    intensive
        Has all that an intensive care monitor shows: a central venous line and a capnogram too.
    """

    recording: Recording
    offset: int
    rng: np.random.Generator
    artery: bool = False
    intensive: bool = False
    _beats: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _strokes: list[float] = field(default_factory=list)
    _rhythms: list[tuple[int, int, NDArray[np.int64]]] = field(default_factory=list)
    _apneas: list[tuple[float, float]] = field(default_factory=list)
    _off: list[tuple[float, float]] = field(default_factory=list)
    _breaths: float = 15.0
    _systolic: float = 120.0
    _interval: float = 0.8

    def __post_init__(self) -> None:
        self._beats = beats_of(self.recording)
        seconds = [float(b) / self.recording.rate_hz for b in self._beats]
        self._strokes = [pulse.stroke for pulse in circulation.strokes(seconds)]
        if len(seconds) > 1:
            self._interval = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
        self._breaths = float(self.rng.uniform(12.0, 20.0))
        self._systolic = float(self.rng.uniform(104.0, 124.0))

    def rhythm(self, first: int, last: int, peaks: NDArray[np.int64]) -> None:
        """Let another rhythm rule from sample `first` to `last`: its QRS are at `peaks`; none: no pulse."""
        self._rhythms.append((first, last, peaks))

    def apnea(self, first_s: float, last_s: float) -> None:
        """Let the patient not breathe."""
        self._apneas.append((first_s, last_s))

    def sensor_off(self, first_s: float, last_s: float) -> None:
        """Let the finger sensor be off."""
        self._off.append((first_s, last_s))

    def pulses(self, first: int, last: int) -> list[Pulse]:
        """Return the ejections from sample `first` to `last` of the stream, in seconds since it began."""
        rate, length = self.recording.rate_hz, self.recording.samples.shape[1]
        found: list[Pulse] = []
        for turn in range((first + self.offset) // length, (last + self.offset) // length + 1):
            start = turn * length - self.offset
            low, high = np.searchsorted(self._beats, (first - start, last - start))
            for k in range(int(low), int(high)):
                at = start + int(self._beats[k])
                if not any(a <= at < b for a, b, _ in self._rhythms):
                    found.append(Pulse(at / rate, self._strokes[k]))
        for _, _, peaks in self._rhythms:
            found += [Pulse(int(peak) / rate, _VT_STROKE) for peak in peaks if first <= peak < last]
        return sorted(found, key=lambda pulse: pulse.at_s)

    def blocks(self, first: int, count: int) -> tuple[Block, ...]:
        """Return the channels of the packet whose ECG has the samples from `first` on."""
        rate = self.recording.rate_hz
        start, stop = first / rate, (first + count) / rate
        pulses = self.pulses(first - round(_MEMORY_S * rate), first + count)
        self._rhythms = [r for r in self._rhythms if r[1] > first - 2 * _MEMORY_S * rate]
        self._apneas = [a for a in self._apneas if a[1] > start - 2.0]
        self._off = [a for a in self._off if a[1] > start]
        found = []
        channels = [PLETH, RESPIRATION]
        if self.artery:
            channels.insert(1, ARTERY)
        if self.intensive:
            channels = [PLETH, ARTERY, VEIN, RESPIRATION, BREATH_GAS]
        for channel in channels:
            a, b = (math.ceil(t * channel.rate_hz - 1e-6) for t in (start, stop))
            if b <= a:
                continue
            state = 0
            if channel is PLETH:
                values = self._pleth(pulses, a, b - a)
                if any(low < stop and start < high for low, high in self._off):
                    state = STATE_OFF
                    values = self.rng.normal(0.0, 3.0, b - a)
            elif channel is ARTERY:
                values = self._pressure(pulses, a, b - a)
            elif channel is VEIN:
                values = self._venous(pulses, a, b - a)
            elif channel is BREATH_GAS:
                values = self._gas(a, b - a)
            else:
                values = self._respiration(pulses, a, b - a)
            samples = np.clip(np.rint(values / channel.gain), -32_767, 32_767).astype(np.int16)
            found.append(Block(channel, a, samples, state))
        return tuple(found)

    def _breathing(self, first: int, count: int, rate_hz: float) -> NDArray[np.float64]:
        x = circulation.breathing(first, count, rate_hz, per_minute=self._breaths)
        t = (first + np.arange(count)) / rate_hz
        for low, high in self._apneas:  # the chest sinks back; afterwards it takes a moment to the usual depth
            sunk = np.where(t < high, np.exp(-np.maximum(0.0, t - low) / 0.4), np.minimum(1.0, t - high))
            x = np.where(t < low, x, x * np.clip(sunk, 0.0, 1.0))
        return np.asarray(x)

    def _pleth(self, pulses: list[Pulse], first: int, count: int) -> NDArray[np.float64]:
        x = circulation.pleth(pulses, first, count, PLETH.rate_hz)
        x = x + 0.08 * self._breathing(first, count, PLETH.rate_hz) + self.rng.normal(0.0, 0.006, count)
        return _PLETH_HEIGHT * x

    def _pressure(self, pulses: list[Pulse], first: int, count: int) -> NDArray[np.float64]:
        x = circulation.pressure(
            pulses,
            first,
            count,
            ARTERY.rate_hz,
            systolic=self._systolic,
            diastolic=0.57 * self._systolic,
            usual=self._interval,
        )
        return x - 3.0 * self._breathing(first, count, ARTERY.rate_hz) + self.rng.normal(0.0, 0.3, count)

    def _respiration(self, pulses: list[Pulse], first: int, count: int) -> NDArray[np.float64]:
        x = self._breathing(first, count, RESPIRATION.rate_hz)
        x = x + circulation.cardiac_artefact(pulses, first, count, RESPIRATION.rate_hz, depth=0.06)
        return x + self.rng.normal(0.0, 0.01, count)

    def _venous(self, pulses: list[Pulse], first: int, count: int) -> NDArray[np.float64]:
        x = circulation.venous_pressure(pulses, first, count, VEIN.rate_hz)
        return x - 2.0 * self._breathing(first, count, VEIN.rate_hz) + self.rng.normal(0.0, 0.08, count)

    def _gas(self, first: int, count: int) -> NDArray[np.float64]:
        x = circulation.capnogram(first, count, BREATH_GAS.rate_hz, per_minute=self._breaths)
        t = (first + np.arange(count)) / BREATH_GAS.rate_hz
        for low, high in self._apneas:
            x[(t >= low) & (t < high)] = 0.0
        return np.maximum(0.0, x + self.rng.normal(0.0, 0.15, count))
