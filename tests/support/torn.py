"""Arrhythmias that losses tear: every pattern of a few lost packets at once, each a patient of one bank.

Responsible for the signals, for the patterns and for what the bank told of each. What must be told is the tests'
(``tests/clinic/monitor/test_torn``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.bank import MonitorBank
from tests.support.arrhythmias import FAST, NARROW, RATE, WIDE, lay_beats
from tests.support.never_silent import ACCEPTED

#: How long each event lasts, s: twice and more what its alarm needs without a gap (docs/physiology.md).
LASTS_S = {
    "asystole": 10,
    "ventricular_fibrillation": 10,
    "ventricular_tachycardia": 10,
    "extreme_tachycardia": 12,
    "extreme_bradycardia": 14,
}
#: What an event may also be told as, and has to end too.
RELATED = {*LASTS_S, "ventricular_run", "pause"}
OTHER_WAY = ((0, 0.05, -1200), (0.09, 0.035, 600), (0.19, 0.04, 300))
SIZES = (1.0, 0.5, 1.5, 0.8, 0.6, 1.2, 2.0, 0.6)
VARIANTS = range(len(SIZES))


@dataclass(frozen=True)
class Episode:
    """One event between sinus rhythm, in microvolts; the line begins `before_s` before the event, or in it."""

    kind: str
    variant: int
    line: NDArray[np.int16]
    start_s: float
    end_s: float


def _times(shape: tuple[tuple[float, float, float], ...], size: float) -> tuple[tuple[float, float, float], ...]:
    return tuple((offset, width, height * size) for offset, width, height in shape)


def episode(kind: str, variant: int, before_s: float, after_s: float = 8.0, then: str = "sinus") -> Episode:
    """Return an event; with `before_s` below 0 the line begins so long after its onset.

    Parameters
    ----------
    then : str
        What follows: ``sinus``, or ``bigeminy``.
    """
    rng = np.random.default_rng([list(LASTS_S).index(kind), variant])
    start = max(before_s, 0.0)
    end = start + LASTS_S[kind]
    total = end + after_s
    x = np.zeros(int(total * RATE))
    sinus, size = 60 + 6 * variant, SIZES[variant]
    narrow, wide = _times(NARROW, size), _times((WIDE, OTHER_WAY)[variant % 2], size)
    lay_beats(x, 0.3, start - 0.25, sinus, narrow, rng)
    if then == "bigeminy":
        lay_beats(x, end + 0.4, total - 0.3, 40.0, narrow, rng)
        lay_beats(x, end + 0.9, total - 0.3, 40.0, wide, rng)
    else:
        lay_beats(x, end + 0.4, total - 0.3, sinus, narrow, rng)
    a, b = int(start * RATE), int(end * RATE)
    if kind == "ventricular_fibrillation":
        f = np.fft.rfftfreq(b - a, 1 / RATE)
        spread = (0.6, 0.4, 0.8, 0.6, 0.3, 1.0, 0.6, 0.5)[variant]
        spectrum = np.exp(-0.5 * ((f - rng.uniform(3.5, 6.5)) / spread) ** 2) * np.exp(2j * np.pi * rng.random(f.size))
        wave = np.fft.irfft(spectrum, b - a)
        x[a:b] += wave / wave.std() * rng.uniform(80, 300)
    elif kind == "ventricular_tachycardia":
        lay_beats(x, start + 0.3, end - 0.2, 120 + 14 * variant, wide, rng)
    elif kind == "extreme_tachycardia":
        lay_beats(x, start + 0.3, end - 0.1, 172 + 7 * variant, _times(FAST, size), rng)
    elif kind == "extreme_bradycardia":
        lay_beats(x, start + 1.0, end - 0.5, 22 + 1.2 * variant, narrow, rng)
    x += rng.normal(0, 6, x.size) + 40 * np.sin(2 * np.pi * 0.25 * np.arange(x.size) / RATE + variant)
    skipped = max(0.0, -before_s)
    return Episode(kind, variant, np.rint(x[int(skipped * RATE) :]).astype(np.int16), start - skipped, end - skipped)


def patterns(first: int, last: int, most: int) -> Iterator[frozenset[int]]:
    """Return every choice of at most `most` packets from `first` up to `last`."""
    for count in range(most + 1):
        for lost in itertools.combinations(range(first, last), count):
            yield frozenset(lost)


@dataclass
class Case:
    """An event, the packets that were lost, and what was told: condition, whether it began, and when, s."""

    episode: Episode
    lost: frozenset[int]
    packet_s: float = 1.0
    events: list[tuple[str, bool, float]] = field(default_factory=list)

    @property
    def told_s(self) -> float | None:
        """When the event was told as what it is, s after its onset."""
        one = self.episode
        for code, present, at in self.events:
            if present and code in ACCEPTED[one.kind] and one.start_s - 1.0 <= at <= one.end_s + 3.0:
                return at - one.start_s
        return None

    @property
    def standing(self) -> set[str]:
        """What was told and has not ended."""
        found: set[str] = set()
        for code, present, _ in self.events:
            if code in RELATED:
                (found.add if present else found.discard)(code)
        return found

    def __repr__(self) -> str:
        one = self.episode
        return f"{one.kind} {one.variant} at {one.start_s} s without packets {sorted(self.lost)}: {self.events}"


def within(one: Episode, most: int, packet_s: float = 1.0) -> Iterator[frozenset[int]]:
    """Return every choice of at most `most` packets that carry the event."""
    first = max(0, int(one.start_s / packet_s))
    return patterns(first, int(np.ceil(one.end_s / packet_s)), most)


def play(cases: Iterable[Case]) -> list[Case]:
    """Send every case's packets to a bank of its own patient; return the cases."""
    found = list(cases)
    bank = MonitorBank()
    for number in range(len(found)):
        bank.enrol(str(number), rate_hz=float(RATE), leads=("II",), gain_uv=1.0)
    sizes = [round(case.packet_s * RATE) for case in found]
    for sequence in range(max(case.episode.line.size // size for case, size in zip(found, sizes, strict=True))):
        for number, (case, size) in enumerate(zip(found, sizes, strict=True)):
            at = sequence * size
            if sequence in case.lost or at + size > case.episode.line.size:
                continue
            samples = case.episode.line[at : at + size].reshape(1, -1)
            bank.push(str(number), samples, first_sample=at, sequence=sequence, received_ns=sequence * size)
        for event in bank.process(0):
            note: Any = event.code, event.present, event.decisive_sample / RATE
            found[int(event.source_id)].events.append(note)
    return found
