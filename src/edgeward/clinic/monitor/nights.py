"""Makes generated nights: patients who sleep, turn over, scratch and touch electrodes, and what their sensors show.

Responsible for the signals, in mV and in units of a pleth, the same ones for the same seed; for measuring false alarms
per bed-day and what becomes of true arrhythmias in such nights (``benchmarks/night.py``), and for tests. No patient's
signal ever passes here. Not responsible for sending them or for counting alarms.

How often people move and how strongly is assumed, not measured: a movement lasts 7 s (median, log-normal), 2 to 10 come
in an hour. Half of a movement is common to all leads, half is each lead's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.device.circulation import Pulse, pleth, strokes

Signal = NDArray[np.float64]
ECG_HZ, PLETH_HZ = 250, 100
#: What a movement looks like, and how often: turning over (0.5 to 12 Hz), rhythmic (scratching, a tremor), single tugs
#: at an electrode, muscles alone.
MOVEMENTS = {"turning": 0.5, "rhythmic": 0.15, "tugs": 0.2, "muscle": 0.15}
#: True events: how long each lasts (s).
EVENTS = {"ventricular_tachycardia": 14.0, "torsade": 14.0, "ventricular_fibrillation": 16.0, "asystole": 12.0}
_BEFORE_S, _AFTER_S = 0.28, 0.52  # of a beat's shape around its R


@dataclass(frozen=True, slots=True)
class Event:
    """Something true that happens, in seconds of the night."""

    kind: str
    onset_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Minutes:
    """A stretch of a night.

    Attributes
    ----------
    ecg : ndarray, shape (leads, n)
        mV, at `ECG_HZ`.
    pleth : ndarray, shape (m,)
        At `PLETH_HZ`; 1 is the usual pulse.
    moving : ndarray, shape (n,)
        How strong the movement is, mV.
    beats : list of float
        When the heart beat, seconds of the stretch.
    """

    ecg: Signal
    pleth: Signal
    moving: Signal
    beats: list[float]


def band(rng: np.random.Generator, count: int, rate: float, low: float, high: float) -> Signal:
    """Return noise of unit power between two frequencies."""
    f = np.fft.rfftfreq(count, 1.0 / rate)
    x = np.fft.irfft(
        ((f >= low) & (f <= high)) * rng.rayleigh(size=f.size) * np.exp(2j * np.pi * rng.random(f.size)), count
    )
    spread = float(x.std())
    return np.asarray(x / spread if spread > 0.0 else x)


@dataclass(slots=True)
class Sleeper:
    """One patient.

    Parameters
    ----------
    seed : int
        The same seed gives the same night.
    leads : int
        1 to 3.
    restless : float
        Multiplies how often the patient moves; 0: lies still.
    """

    seed: int
    leads: int = 1
    restless: float = 1.0
    _rng: np.random.Generator = field(init=False)
    _shapes: list[Signal] = field(init=False)  # the usual beat, per lead
    _early: list[Signal] = field(init=False)  # this patient's ventricular ectopic beat, per lead
    rate: float = field(init=False)
    _irregular: float = field(init=False)
    _ectopy: float = field(init=False)  # isolated ventricular beats an hour
    _per_hour: float = field(init=False)
    _muscle: float = field(init=False)
    _size: float = field(init=False)  # of the pulse
    _phase: float = 0.0

    def __post_init__(self) -> None:
        rng = self._rng = np.random.default_rng([self.seed, 71])
        small = rng.random() < 0.12
        height = float(rng.uniform(0.26, 0.4) if small else rng.uniform(0.5, 1.6))
        wide = 1.7 if rng.random() < 0.15 else 1.0
        t_part = float(rng.uniform(0.12, 0.4))
        self._shapes = [usual_beat(rng, height * float(rng.uniform(0.5, 1.1)) if k else height, wide, t_part)
                        for k in range(self.leads)]  # fmt: skip
        ectopic = float(rng.uniform(0.8, 1.8))
        width = float(rng.uniform(0.12, 0.2))
        self._early = [wide_beat(ectopic * float(rng.choice((-1.0, 1.0)) * rng.uniform(0.6, 1.1)), width)
                       for _ in range(self.leads)]  # fmt: skip
        self.rate = float(rng.uniform(48.0, 98.0))
        self._irregular = float(rng.uniform(0.12, 0.22)) if rng.random() < 0.1 else float(rng.uniform(0.01, 0.05))
        self._ectopy = float(rng.uniform(2.0, 60.0)) if rng.random() < 0.25 else 0.0
        self._per_hour = float(rng.uniform(2.0, 10.0)) * self.restless
        self._muscle = float(rng.uniform(0.005, 0.03))
        self._size = float(rng.uniform(0.5, 1.3))

    def stretch(self, seconds: float, events: tuple[Event, ...] = (), *, noise_mv: float = 0.0) -> Minutes:
        """Return the next stretch of the night.

        Parameters
        ----------
        events : tuple of Event
            What happens in it, in seconds of the stretch.
        noise_mv : float
            Steady disturbance of 0.5 to 15 Hz, rms, besides the movements.
        """
        rng, n = self._rng, int(seconds * ECG_HZ)
        beats, kinds = self._heart(seconds, events)
        x = np.zeros((self.leads, n))
        for lead in range(self.leads):
            for at, kind in zip(beats, kinds, strict=True):
                lay(x[lead], at, self._early[lead] if kind else self._shapes[lead])
        stroke = strokes(beats, kinds)
        for event in events:
            stroke += self._happen(x, event)
        moving, drawn = self.move(n)
        t = np.arange(n) / ECG_HZ
        for lead in range(self.leads):
            x[lead] += drawn[lead] + rng.normal(0.0, self._muscle, n)
            x[lead] += 0.1 * np.sin(2.0 * np.pi * (0.24 * t + 0.1 * lead) + self._phase) + 0.01 * np.sin(
                2 * np.pi * 50 * t
            )
            if noise_mv:
                x[lead] += noise_mv * band(rng, n, ECG_HZ, 0.5, 15.0)
        self._phase += 2.0 * np.pi * 0.24 * seconds
        m = int(seconds * PLETH_HZ)
        pulse = self._size * pleth(sorted(stroke, key=lambda p: p.at_s), 0, m, PLETH_HZ) + rng.normal(0.0, 0.01, m)
        hand = np.interp(np.arange(m) / PLETH_HZ, t, moving)  # who moves, moves the finger too
        pulse += 2.0 * float(rng.uniform(0.2, 1.5)) * hand * band(rng, m, PLETH_HZ, 0.4, 6.0)
        return Minutes(x, pulse, moving, beats)

    def _heart(self, seconds: float, events: tuple[Event, ...]) -> tuple[list[float], list[bool]]:
        rng = self._rng
        beats: list[float] = []
        kinds: list[bool] = []
        at, slow = float(rng.uniform(0.1, 0.9)), 0.0
        while at < seconds - 0.05:
            within = next((e for e in events if e.onset_s - 0.3 <= at < e.end_s), None)
            if within is not None:
                at = within.end_s + 0.6
                continue
            beats.append(at)
            kinds.append(False)
            slow = 0.9 * slow + float(rng.normal(0.0, 0.4))
            change = self._irregular * (0.5 * np.sin(2 * np.pi * 0.25 * at) + 0.4 * slow + 0.6 * rng.normal())
            interval = 60.0 / self.rate * float(np.clip(1.0 + change, 0.55, 1.7))
            if rng.random() < self._ectopy / 60.0 / self.rate:
                early = at + interval * float(rng.uniform(0.55, 0.75))
                if early < seconds - 0.05 and not any(e.onset_s - 0.6 <= early < e.end_s + 0.6 for e in events):
                    beats.append(early)
                    kinds.append(True)
                    interval *= 2.0
            at += interval
        return beats, kinds

    def _happen(self, x: Signal, event: Event) -> list[Pulse]:
        """Let a true event be seen; return what pulses it makes."""
        rng = self._rng
        a, b = int(event.onset_s * ECG_HZ), min(x.shape[1], int(event.end_s * ECG_HZ))
        if event.kind == "ventricular_fibrillation":
            height, centre, spread = (
                float(rng.uniform(0.3, 1.0)),
                float(rng.uniform(3.8, 6.5)),
                float(rng.uniform(0.3, 0.8)),
            )
            f = np.fft.rfftfreq(b - a, 1.0 / ECG_HZ)
            common = np.exp(-0.5 * ((f - centre) / spread) ** 2) * np.exp(2j * np.pi * rng.random(f.size))
            for lead in range(self.leads):
                own = np.exp(-0.5 * ((f - centre) / spread) ** 2) * np.exp(2j * np.pi * rng.random(f.size))
                y = np.fft.irfft(common + 0.5 * own * (lead > 0), b - a)
                x[lead, a:b] += y / y.std() * height / 4.0
            return []
        if event.kind == "asystole":
            return []
        rate = float(
            rng.uniform(115.0, 215.0) if event.kind == "ventricular_tachycardia" else rng.uniform(180.0, 240.0)
        )
        times = np.arange(event.onset_s, event.end_s - 0.2, 60.0 / rate)
        times = times + rng.normal(0.0, 0.01, times.size)
        height, width = float(rng.uniform(0.7, 2.0)), float(rng.uniform(0.12, 0.19))
        turn = float(rng.uniform(0.15, 0.35))
        for lead in range(self.leads):
            side = float(rng.choice((-1.0, 1.0)) * (rng.uniform(0.6, 1.1) if lead else 1.0))
            for at in times.tolist():
                part = 1.0 + 0.05 * float(rng.normal())
                if event.kind == "torsade":
                    part = float(np.cos(2.0 * np.pi * turn * (at - event.onset_s) + 0.7 * lead)) or 0.1
                lay(x[lead], at, wide_beat(height * side * part, width, min(1.0, 75.0 / rate + 0.4)))
        weak = float(rng.uniform(0.0, 0.4))
        return [Pulse(float(at), weak) for at in times] if event.kind == "ventricular_tachycardia" else []

    def move(self, n: int, per_hour: float | None = None) -> tuple[Signal, Signal]:
        """Return how strongly the patient moves in the next `n` samples, and what each lead shows of it, in mV."""
        rng = self._rng
        moving, drawn = np.zeros(n), np.zeros((self.leads, n))
        often = self._per_hour if per_hour is None else per_hour
        for _ in range(rng.poisson(often * n / ECG_HZ / 3600.0)):
            a = int(rng.integers(0, max(1, n - ECG_HZ)))
            size = min(int(min(rng.lognormal(1.9, 0.6), 30.0) * ECG_HZ), n - a)
            height = min(float(rng.lognormal(-1.0, 0.7)), 2.5)
            kind = str(rng.choice(list(MOVEMENTS), p=list(MOVEMENTS.values())))
            swell = np.hanning(size + 2)[1:-1] * height
            common = movement(rng, kind, size)
            for lead in range(self.leads):
                drawn[lead, a : a + size] += swell * (0.7 * common + 0.7 * movement(rng, kind, size))
            moving[a : a + size] = np.maximum(moving[a : a + size], swell)
        for lead in range(self.leads):  # an electrode that is touched: a jump, and what relaxes after it
            for _ in range(rng.poisson(2.0 * self.restless * n / ECG_HZ / 3600.0)):
                a = int(rng.integers(0, n))
                decay = np.exp(-np.arange(n - a) / (float(rng.uniform(0.2, 1.0)) * ECG_HZ))
                drawn[lead, a:] += float(rng.choice((-1.0, 1.0)) * rng.uniform(0.5, 4.0)) * decay
        return moving, drawn


def movement(rng: np.random.Generator, kind: str, count: int) -> Signal:
    """Return a movement of about unit power in the band of the QRS.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    t = np.arange(count) / ECG_HZ
    muscle = float(rng.uniform(0.0, 0.5)) * band(rng, count, ECG_HZ, 15.0, 100.0)
    if kind == "turning":
        return np.asarray(band(rng, count, ECG_HZ, 0.5, float(rng.uniform(4.0, 14.0))) + muscle)
    if kind == "rhythmic":
        rate = float(rng.uniform(1.8, 6.0))
        phase = 2.0 * np.pi * np.cumsum(rate * (1.0 + 0.1 * band(rng, count, ECG_HZ, 0.1, 1.0))) / ECG_HZ
        sharp = np.sin(phase) + float(rng.uniform(0.1, 0.7)) * np.sin(2.0 * phase + 1.0)
        return np.asarray(sharp * (1.0 + 0.4 * band(rng, count, ECG_HZ, 0.1, 1.5)) + 0.5 * muscle)
    if kind == "tugs":
        x = np.zeros(count)
        at = 0.0
        while at < count / ECG_HZ:
            width = float(rng.uniform(0.03, 0.15))
            x += float(rng.normal(0.0, 2.5)) * np.exp(-(((t - at) / width) ** 2))
            at += float(rng.uniform(0.15, 1.2))
        return np.asarray(x + 0.5 * muscle)
    if kind == "muscle":
        return band(rng, count, ECG_HZ, 15.0, 100.0)
    raise ValueError(f"no such movement: {kind!r}; there are {', '.join(MOVEMENTS)}")


def _around() -> Signal:
    return np.arange(-round(_BEFORE_S * ECG_HZ), round(_AFTER_S * ECG_HZ)) / ECG_HZ


def _wave(u: Signal, at: float, width: float, height: float) -> Signal:
    return np.asarray(height * np.exp(-(((u - at) / width) ** 2)))


def usual_beat(rng: np.random.Generator, height: float, wide: float, t_part: float) -> Signal:
    """Return P, QRS and T of a conducted beat, `height` mV high; `wide` 1.7 is a bundle branch block."""
    u = _around()
    turned = -1.0 if rng.random() < 0.2 else 1.0
    x = _wave(u, -0.16, 0.025, float(rng.uniform(0.08, 0.16)) * min(height, 1.0))
    x += turned * _wave(u, 0.0, 0.011 * wide, height)
    x -= turned * _wave(u, -0.028 * wide, 0.009 * wide, height * float(rng.uniform(0.0, 0.2)))
    x -= turned * _wave(u, 0.030 * wide, 0.012 * wide, height * float(rng.uniform(0.05, 0.45)))
    return np.asarray(x + turned * _wave(u, 0.27, 0.06, height * t_part))


def wide_beat(height: float, width: float, squeeze: float = 1.0) -> Signal:
    """Return a ventricular beat: wide, without P, a discordant T; `squeeze` below 1 brings the T wave nearer."""
    u = _around()
    x = _wave(u, 0.0, 0.35 * width, height) - _wave(u, 0.55 * width, 0.3 * width, 0.35 * height)
    return np.asarray(x - _wave(u, 0.12 + 0.16 * squeeze, 0.07 * squeeze, 0.3 * height))


def lay(x: Signal, at: float, shape: Signal) -> None:
    """Add a beat's shape, its R at `at` seconds."""
    a = round((at - _BEFORE_S) * ECG_HZ)
    low, high = max(0, a), min(x.size, a + shape.size)
    if low < high:
        x[low:high] += shape[low - a : high - a]


def events_of(seed: int, seconds: float, every_s: float = 60.0) -> tuple[Event, ...]:
    """Return true events, one about every `every_s`, the first after a minute in which the patient is learned."""
    rng = np.random.default_rng([seed, 73])
    found: list[Event] = []
    at = 60.0 + float(rng.uniform(0.0, 10.0))
    while at + 25.0 < seconds:
        kind = str(rng.choice(list(EVENTS)))
        found.append(Event(kind, at, at + EVENTS[kind]))
        at += every_s + float(rng.uniform(0.0, 5.0))
    return tuple(found)


def describe(person: Sleeper) -> dict[str, Any]:
    """Return what a person is like, for a table."""
    return {"seed": person.seed, "leads": person.leads, "rate": round(person.rate, 1)}
