"""Holding lethal alarms against the pulse: how many false ones it puts down, and whether it ever puts down a true one.

    python benchmarks/suppression.py [--cases 300] [--records ../shared/data/mitdb] [--seed 1] [--json FILE]

(a) Generated: each case is a rhythm that does something, the pulse it makes in a pleth and perhaps an artery, and what
else moves the sensor. The pulse goes through `SignalBank`; the ECG's part (beats seen, quality) is given in numbers.
(b) Generated: the same with the pleth of another device, which has its own clock, comes up to 3 s late, and is heard only
where the lag between the two could be learned in the 150 s before.
(c) With --records: real ECG through `MonitorBank`, as recorded and spoilt, with a pleth made from the annotated beats.
The score is taken when the condition begins, where it matters most. Not measured here: real pulse signals.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.crosscheck import DOUBTED, Beats, judge
from edgeward.clinic.monitor.evaluate import VENTRICULAR, inside, reference_of
from edgeward.clinic.monitor.pairing import Pair
from edgeward.clinic.monitor.records import GAIN_UV, read_annotations, read_recording
from edgeward.clinic.monitor.signals import SignalBank
from edgeward.clinic.monitor.witnesses import FRESH_S, USUAL_DELAY_S
from edgeward.device import circulation
from edgeward.device.circulation import Pulse
from edgeward.waveform import Block, Channel, Kind, SignalPacket

RATE = 125.0
EVENT_S = 35.0
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PLETH = Channel(name="Pleth", kind=Kind.PLETH, rate_hz=RATE, gain=0.05)
ART = Channel(name="ART", kind=Kind.ABP, rate_hz=RATE, gain=0.05)
Rng = np.random.Generator
Signal = NDArray[np.float64]


@dataclass
class Case:
    """One alarm at the moment it would be raised."""

    family: str
    code: str
    true: bool
    onset_s: float
    decided_s: float
    beats: list[float]  # that the ECG saw
    ecg_quality: float
    pleth: Signal | None = None
    art: Signal | None = None
    rate: float | None = None
    offset_s: float = 0.0  # by which the pulse device is late, within what is declared
    declared_s: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)


# ---------------------------------------- (a) generated


def sinus(rng: Rng, bpm: float, until: float, irregular: float = 0.03) -> list[float]:
    t, found = float(rng.uniform(0.3, 0.9)), []
    while t < until:
        found.append(t)
        t += 60.0 / bpm * float(np.clip(1.0 + irregular * rng.normal(), 0.6, 1.6))
    return found


def sensors(
    rng: Rng,
    pulses: list[Pulse],
    until: float,
    *,
    noise: float | None = None,
    delay: float | None = None,
    artery: bool = False,
    added: Signal | None = None,
) -> tuple[Signal, Signal | None]:
    """Return pleth and artery of some ejections; the delay of a real oximeter's display is part of `delay`."""
    count = int(until * RATE)
    late = float(rng.uniform(-0.15, 0.3)) if delay is None else delay
    moved = [Pulse(p.at_s + late, p.stroke) for p in pulses]
    t = np.arange(count) / RATE
    size = float(rng.choice([1.0, 1.0, 0.4]))
    x = circulation.pleth(moved, 0, count, RATE, amplitude=size)
    x += 0.1 * np.sin(2 * np.pi * rng.uniform(0.15, 0.35) * t + rng.uniform(0, 6))
    x += rng.normal(0, float(rng.uniform(0.005, 0.03)) if noise is None else noise, count)
    if added is not None:
        x += added[:count]
    art = None
    if artery:
        art = circulation.pressure(moved, 0, count, RATE, delay_s=0.16) + rng.normal(0, 0.4, count)
        if added is not None:
            art += 20.0 * added[:count]
    return 1000.0 * x, art


def compressions(rng: Rng, start: float, until: float) -> Signal:
    """Chest compressions at 100 to 120/min, as strong as a pulse or stronger."""
    count = int(until * RATE)
    bpm = float(rng.uniform(96, 124))
    times = np.arange(start, until, 60.0 / bpm) + rng.normal(0, 0.01, max(0, int(np.ceil((until - start) * bpm / 60))))
    shape = circulation.pleth([Pulse(float(t), float(rng.normal(1.0, 0.08))) for t in times], 0, count, RATE)
    sine = np.where(
        np.arange(count) / RATE >= start,
        0.5 - 0.5 * np.cos(2 * np.pi * bpm / 60 * (np.arange(count) / RATE - start)),
        0,
    )
    return float(rng.uniform(0.3, 1.6)) * (shape if rng.random() < 0.5 else sine)


def true_asystole(rng: Rng, event_s: float = EVENT_S) -> Case:
    bpm = float(rng.uniform(40, 130))
    beats = [t for t in sinus(rng, bpm, event_s, float(rng.choice([0.02, 0.05, 0.15]))) if t < event_s]
    decided = beats[-1] + float(rng.uniform(4.0, 5.0))
    kind = str(rng.choice(["plain", "motion", "motion", "compressions", "compressions", "balloon", "steps"]))
    pulses = circulation.strokes(beats)
    count = int(decided * RATE)
    added = np.zeros(count)
    if kind == "motion":
        start = int((beats[-1] + rng.uniform(-3, 1.5)) * RATE)
        added[start:] = circulation.motion(rng, count - start, RATE, float(rng.uniform(0.3, 4.0)))
    elif kind == "compressions":
        added = compressions(rng, beats[-1] + float(rng.choice([0.2, 0.5, 1.0, 2.0, -20.0])), decided)
    elif kind == "balloon":  # a pump that goes on by itself; it gave a second wave to each beat before
        inner = [Pulse(t + 0.35, 0.9) for t in beats] + [
            Pulse(float(t), 0.9) for t in np.arange(beats[-1] + 0.35 + 0.75, decided, 0.75)
        ]
        pulses = sorted(pulses + inner, key=lambda p: p.at_s)
    elif kind == "steps":  # a shaking bed or a walking aid, at about the heart's own rate or not
        at = bpm if rng.random() < 0.4 else float(rng.uniform(60, 120))
        times = np.arange(rng.uniform(0, 1), decided, 60.0 / at)
        added = circulation.pleth(
            [Pulse(float(t)) for t in times], 0, count, RATE, amplitude=float(rng.uniform(0.3, 3))
        )
    pleth, art = sensors(rng, pulses, decided, artery=bool(rng.random() < 0.4), added=added)
    return Case(
        f"asystole, {kind}", "asystole", True, beats[-1], decided, beats, float(rng.uniform(0.1, 1)), pleth, art
    )


def true_asystole_other_clock(rng: Rng) -> Case:
    case = true_asystole(rng)
    beats = case.beats
    late = float(rng.uniform(0.5, 3.0))
    pleth, _ = sensors(rng, circulation.strokes(beats), case.decided_s, delay=late)
    return Case("asystole, other clock", "asystole", True, beats[-1], case.decided_s, beats, case.ecg_quality, pleth,
                offset_s=late, declared_s=3.0)  # fmt: skip


def true_bradycardia(rng: Rng, event_s: float = EVENT_S) -> Case:
    before = sinus(rng, float(rng.uniform(50, 90)), event_s)
    slow = 60.0 / float(rng.uniform(18, 34))
    after = [before[-1] + slow * k for k in range(1, 5)]
    decided = after[2] + 0.4
    pulses = circulation.strokes(before) + [Pulse(t, float(rng.uniform(0.9, 1.2))) for t in after[:3]]
    kind = str(rng.choice(["plain", "double wave", "motion"]))
    added = np.zeros(int(decided * RATE))
    if kind == "double wave":  # a dicrotic wave nearly as tall as the pulse, half-way
        pulses += [Pulse(t + slow / 2, float(rng.uniform(0.6, 1.0))) for t in after[:3]]
        pulses.sort(key=lambda p: p.at_s)
    elif kind == "motion":
        added = circulation.motion(rng, added.size, RATE, float(rng.uniform(0.3, 2.0)))
    pleth, art = sensors(rng, pulses, decided, artery=bool(rng.random() < 0.3), added=added)
    seen = before + [t for t in after if t < decided]
    return Case(f"bradycardia, {kind}", "extreme_bradycardia", True, before[-1], decided, seen, float(rng.uniform(0.2, 1)),
                pleth, art, rate=60.0 / slow)  # fmt: skip


def true_tachycardia(rng: Rng, event_s: float = EVENT_S) -> Case:
    """Ventricular (five beats or more) and other tachycardias, perfusing or not, in a clean or a poor ECG."""
    vt = bool(rng.random() < 0.6)
    sinus_bpm = float(rng.uniform(55, 110))
    before = sinus(rng, sinus_bpm, event_s, float(rng.choice([0.02, 0.05])))
    kind = str(rng.choice(["one in one", "one in two", "one in two", "pulseless"]))
    bpm = float(rng.uniform(105, 230)) if vt else float(rng.uniform(165, 230))
    if kind == "one in two" and rng.random() < 0.5:
        bpm = 2.0 * sinus_bpm * float(rng.uniform(0.95, 1.05))
    bpm = max(bpm, 105.0 if vt else 165.0)
    first = before[-1] + 60.0 / sinus_bpm * float(rng.uniform(0.6, 1.0))
    length = float(rng.uniform(4.2, 9.0)) * 60.0 / bpm if vt else float(rng.uniform(3, 9))
    fast = list(np.arange(first, first + max(length, 4.2 * 60.0 / bpm), 60.0 / bpm))
    decided = fast[-1] + 0.35
    weak = float(rng.uniform(0.3, 1.0))
    pulses = circulation.strokes(before)
    if kind == "one in one":
        pulses += [Pulse(t, weak) for t in fast]
    elif kind == "one in two":
        pulses += [Pulse(t, weak if rng.random() < 0.8 else 1.0) for t in fast[1::2]]
    pleth, art = sensors(rng, pulses, decided, artery=bool(rng.random() < 0.3))
    code = "ventricular_tachycardia" if vt else "extreme_tachycardia"
    quality = float(rng.uniform(0.0, 0.6)) if rng.random() < 0.5 else float(rng.uniform(0.6, 1.0))
    return Case(f"{'VT' if vt else 'tachycardia'}, {kind}", code, True, first, decided, before + fast, quality, pleth, art,
                rate=bpm)  # fmt: skip


def true_fibrillation(rng: Rng) -> Case:
    beats = sinus(rng, float(rng.uniform(50, 110)), EVENT_S)
    decided = beats[-1] + float(rng.uniform(3, 6))
    added = compressions(rng, beats[-1] + 0.3, decided) if rng.random() < 0.5 else None
    pleth, art = sensors(rng, circulation.strokes(beats), decided, artery=bool(rng.random() < 0.5), added=added)
    return Case("fibrillation", "ventricular_fibrillation", True, beats[-1], decided, beats, 0.3, pleth, art)


def false_asystole(rng: Rng, event_s: float = EVENT_S) -> Case:
    irregular = float(rng.choice([0.02, 0.05, 0.05, 0.2]))
    every = sinus(rng, float(rng.uniform(45, 130)), event_s + 8, irregular)
    seen = [t for t in every if t < event_s]
    decided = seen[-1] + float(rng.uniform(4.0, 5.0))
    kind = str(rng.choice(["plain", "plain", "artery", "motion", "poor perfusion"]))
    added = None
    if kind == "motion":
        added = circulation.motion(rng, int(decided * RATE), RATE, float(rng.uniform(0.1, 1.0)))
    pleth, art = sensors(rng, circulation.strokes(every), decided, artery=kind == "artery", added=added,
                         noise=0.08 if kind == "poor perfusion" else None)  # fmt: skip
    kind = kind if irregular < 0.2 else "atrial fibrillation"
    return Case(f"asystole, {kind}", "asystole", False, seen[-1], decided, seen, float(rng.uniform(0, 1)), pleth, art)


def false_asystole_other_clock(rng: Rng) -> Case:
    case = false_asystole(rng)
    late = float(rng.uniform(0.5, 3.0))
    every = case.beats + sinus(rng, 75.0, 6.0)[:0]
    gap = float(np.median(np.diff(every)))
    every = every + list(np.arange(every[-1] + gap, case.decided_s + 3, gap))
    pleth, _ = sensors(rng, circulation.strokes(every), case.decided_s, delay=late)
    return Case("asystole, other clock", "asystole", False, case.onset_s, case.decided_s, case.beats, case.ecg_quality,
                pleth, offset_s=late, declared_s=3.0)  # fmt: skip


def false_bradycardia(rng: Rng, event_s: float = EVENT_S) -> Case:
    every = sinus(rng, float(rng.uniform(55, 100)), event_s + 16)
    seen = [t for t in every if t < event_s]
    seen += [t for i, t in enumerate(t for t in every if t >= event_s) if i % 4 == 3][:3]
    pleth, art = sensors(rng, circulation.strokes(every), seen[-1] + 0.4, artery=bool(rng.random() < 0.3))
    return Case("bradycardia, beats missed", "extreme_bradycardia", False, seen[-4], seen[-1] + 0.4, seen,
                float(rng.uniform(0, 1)), pleth, art, rate=30.0)  # fmt: skip


def false_tachycardia(rng: Rng, event_s: float = EVENT_S) -> Case:
    vt = bool(rng.random() < 0.6)
    every = sinus(rng, float(rng.uniform(50, 105)), event_s + 12)
    before = [t for t in every if t < event_s]
    bpm = float(rng.uniform(105, 240)) if vt else float(rng.uniform(165, 240))
    first = before[-1] + 0.4
    length = max(4.2 * 60.0 / bpm, float(rng.uniform(1.2, 4)) if vt else float(rng.uniform(3, 6)))
    noise = list(np.arange(first, first + length, 60.0 / bpm) + 0.0)
    decided = noise[-1] + 0.35
    pleth, art = sensors(rng, circulation.strokes(every), decided, artery=bool(rng.random() < 0.3))
    code = "ventricular_tachycardia" if vt else "extreme_tachycardia"
    return Case(f"{'VT' if vt else 'tachycardia'}, electrode noise", code, False, first, decided, before + noise,
                float(rng.uniform(0, 0.5)), pleth, art, rate=bpm)  # fmt: skip


MAKERS: tuple[Callable[[Rng], Case], ...] = (
    true_asystole, true_asystole, true_asystole_other_clock, true_bradycardia, true_tachycardia, true_tachycardia,
    true_fibrillation, false_asystole, false_asystole, false_asystole_other_clock, false_bradycardia, false_tachycardia,
)  # fmt: skip


def score(case: Case) -> float:
    """Send a case's signals through a bank up to the decision; return the score of the doubt."""
    bank = SignalBank()
    blocks = []
    for channel, x in ((PLETH, case.pleth), (ART, case.art)):
        if x is not None:
            codes = np.clip(np.rint(x / channel.gain), -32767, 32767).astype(np.int16)
            blocks.append(Block(channel, 0, codes[: int(case.decided_s * RATE)]))
    bank.push("case", SignalPacket(0, 0, 0, None, tuple(blocks)), received_ns=0)
    bank.process(0)
    pulses = bank.pulses("case")
    if case.declared_s:
        pulses = [replace(p, offset_s=case.declared_s) for p in pulses]
    beats = Beats(np.array(case.beats[-16:]), case.decided_s, case.ecg_quality)
    return judge(case.code, case.onset_s, beats, pulses, rate=case.rate).score if case.code in DOUBTED else 0.0


def generated(cases: int, seed: int) -> list[tuple[Case, float]]:
    found = []
    for number, maker in enumerate(MAKERS):
        rng = np.random.default_rng([seed, number])
        for _ in range(cases):
            case = maker(rng)
            found.append((case, score(case)))
    return found


# ---------------------------------------- (b) the pulse of another device


TWO: tuple[Callable[[Rng, float], Case], ...] = (
    true_asystole, true_asystole, true_bradycardia, true_tachycardia, true_tachycardia,
    false_asystole, false_asystole, false_bradycardia, false_tachycardia,
)  # fmt: skip


def score_two(rng: Rng, case: Case) -> tuple[float, bool]:
    """Return the score when the pleth is another device's, with a clock of its own, and whether the lag was known.

    Its packets come up to 3 s late, so that the last of its signal is not here yet; arrival tells its lag to 3 s.
    """
    assert case.pleth is not None
    late, clock, guess = float(rng.uniform(0.0, 3.0)), float(rng.uniform(-500.0, 500.0)), float(rng.uniform(-3.0, 3.0))
    codes = np.clip(np.rint(case.pleth / PLETH.gain), -32767, 32767).astype(np.int16)
    end = max(0, int((case.decided_s - late) * RATE))
    bank, pair = SignalBank(), Pair()
    qrs = np.array(case.beats)
    step = int(4.0 * RATE)
    for number, first in enumerate(range(0, end, step)):
        until = min(first + step, end)
        block = Block(PLETH, first, codes[first:until])
        bank.push("case", SignalPacket(number, 0, 0, None, (block,)), received_ns=0)
        bank.process(0)
        now = until / RATE + late
        if now < case.onset_s:  # what is learned afterwards is of the event
            (channel,) = bank.pulses("case")
            pair.take(qrs[qrs < now][-16:], channel.times_s[channel.qualities >= 0.3] + clock)
            if number % 3 == 2:
                pair.learn(clock + guess)
    if pair.lag is None or pair.confirmed_s < case.onset_s - FRESH_S:
        return 0.0, False
    shift = USUAL_DELAY_S - pair.lag.lag_s + clock
    aligned = [
        replace(p, times_s=p.times_s + shift, seen_from_s=p.seen_from_s + shift, now_s=p.now_s + shift)
        for p in bank.pulses("case")
    ]
    beats = Beats(qrs[-16:], case.decided_s, case.ecg_quality)
    return judge(case.code, case.onset_s, beats, aligned, rate=case.rate).score, True


def two_devices(cases: int, seed: int) -> tuple[list[tuple[Case, float]], float]:
    """Return cases with their scores, and the share of them in which the lag was known."""
    found, known = [], 0
    for number, maker in enumerate(TWO):
        rng = np.random.default_rng([seed, 100 + number])
        for _ in range(cases):
            case = maker(rng, 150.0)
            value, was_known = score_two(rng, case)
            known += was_known
            found.append((case, value))
    return found, known / max(1, len(found))


# ---------------------------------------- (c) real ECG


def spoil(rng: Rng, samples: NDArray[np.int16], rate: float) -> NDArray[np.int16]:
    """Return the ECG with an electrode that loosens (signal nearly gone) or moves, for 8 s about each minute."""
    x = samples.astype(np.float64)
    for at in np.arange(40.0, samples.shape[1] / rate - 20.0, 55.0):
        a, b = int(at * rate), int((at + 8.0) * rate)
        if rng.random() < 0.5:
            x[:, a:b] = 0.05 * (x[:, a:b] - x[:, a:b].mean(axis=1, keepdims=True)) + rng.normal(0, 8, (len(x), b - a))
        else:
            burst = circulation.motion(rng, b - a, rate / 3.0, 1.0)
            x[:, a:b] += float(rng.uniform(800, 2500)) * burst
    return np.clip(np.rint(x), -32768, 32767).astype(np.int16)


def truth_of(  # noqa: PLR0917
    code: str, onset: float, decided: float, beats: Signal, ventricular: NDArray[np.bool_],
             chaos: list[tuple[float, float]], artefact: bool) -> bool:  # fmt: skip
    """Return whether the annotations bear out an alarm (seconds)."""
    if any(a - 2.0 <= decided and onset <= b + 2.0 for a, b in chaos):
        return True
    if artefact and code == "ventricular_fibrillation":
        return False
    window = beats[(beats > onset - 0.3) & (beats < decided + 0.1)]
    intervals = np.diff(window)
    if code == "asystole":
        return window.size <= 2 and decided - onset >= 3.0
    if code == "extreme_bradycardia":
        return bool(intervals.size) and float(np.median(intervals)) > 60.0 / 42.0
    if code == "extreme_tachycardia":
        return bool(intervals.size) and float(np.median(intervals)) < 60.0 / 145.0
    run = ventricular[(beats > onset - 0.3) & (beats < decided + 0.1)]
    return int(run.sum()) >= 3


def real(folder: Path, seed: int) -> list[tuple[Case, float]]:
    found = []
    for path in sorted(folder.glob("*.hea")):
        recording = read_recording(path)
        rate = recording.rate_hz
        where, symbols, aux = read_annotations(path)
        whole = reference_of(where, symbols, aux, recording.samples.shape[1])
        beats = whole.samples / rate
        ventricular = np.array([code in VENTRICULAR for code in whole.codes])
        chaos = [(a / rate, b / rate) for a, b in whole.excluded]
        for spoilt in (False, True):
            rng = np.random.default_rng([seed, int(recording.name), int(spoilt)])
            samples = spoil(rng, recording.samples, rate) if spoilt else recording.samples
            pulses = circulation.strokes(list(beats), list(ventricular))
            pulses = [p for p in pulses if not inside(p.at_s, [(int(a), int(b) + 1) for a, b in chaos], 0)]
            seconds = int(samples.shape[1] / rate)
            x = circulation.pleth(pulses, 0, seconds * int(RATE), RATE) + rng.normal(0, 0.02, seconds * int(RATE))
            for at in np.arange(60.0, seconds - 30.0, 97.0):  # the hand moves too
                a, b = int(at * RATE), int((at + 12.0) * RATE)
                x[a:b] += circulation.motion(rng, b - a, RATE, float(rng.uniform(0.5, 4.0)))
            codes = np.clip(np.rint(1000.0 * x / PLETH.gain), -32767, 32767).astype(np.int16)
            bank, signals = MonitorBank(), SignalBank()
            bank.enrol("r", rate_hz=rate, leads=recording.leads, gain_uv=GAIN_UV)
            for second in range(seconds):
                a, b = round(second * rate), round((second + 1) * rate)
                now = (second + 1) * 1_000_000_000
                bank.push("r", np.ascontiguousarray(samples[:, a:b]), first_sample=a, sequence=second, received_ns=now)
                block = Block(PLETH, second * int(RATE), codes[second * int(RATE) : (second + 1) * int(RATE)])
                signals.push("r", SignalPacket(second, 0, 0, None, (block,)), received_ns=now)
                events = bank.process(now)
                signals.process(now)
                for event in events:
                    if not event.present or event.code not in DOUBTED | {"ventricular_fibrillation"}:
                        continue
                    onset, decided = event.onset_sample / rate, event.decisive_sample / rate
                    true = truth_of(event.code, onset, decided, beats, ventricular, chaos, spoilt)
                    given = event.args.get("rate")
                    seen = Beats(
                        bank.recent_beats("r") / rate, float(second + 1), bank.numerics("r", now).quality or 0.0
                    )
                    verdict = judge(event.code, onset, seen, signals.pulses("r"),
                                    rate=float(given) if isinstance(given, float) else None)  # fmt: skip
                    name = f"{event.code}, {'spoilt' if spoilt else 'as recorded'}"
                    case = Case(
                        name, event.code, true, onset, decided, [], seen.quality, extra={"record": int(recording.name)}
                    )
                    found.append((case, verdict.score))
    return found


# ---------------------------------------- tables


def curve(title: str, found: list[tuple[Case, float]]) -> dict[str, object]:
    true = np.array([s for case, s in found if case.true])
    false = np.array([s for case, s in found if not case.true])
    print(f"\n{title}: {false.size} false and {true.size} true alarms\n")
    print("| threshold | false alarms put down | true alarms put down |\n|---|---|---|")
    rows = []
    for threshold in THRESHOLDS:
        a, b = int((false >= threshold).sum()), int((true >= threshold).sum())
        rows.append({"threshold": threshold, "false": a, "true": b})
        print(
            f"| {threshold} | {a} ({100 * a / max(1, false.size):.1f} %) | {b} ({100 * b / max(1, true.size):.2f} %) |"
        )
    print(f"\nHighest score of a true alarm: {true.max() if true.size else 0.0:.3f}\n")
    families: dict[tuple[bool, str], list[float]] = defaultdict(list)
    for case, s in found:
        families[case.true, case.family].append(s)
    print("| alarm | of which true | cases | put down at 0.9 | highest score |\n|---|---|---|---|---|")
    for (is_true, name), scores in sorted(families.items()):
        print(f"| {name} | {'true' if is_true else 'false'} | {len(scores)} | {sum(s >= 0.9 for s in scores)} | "
              f"{max(scores):.2f} |")  # fmt: skip
    return {"false": int(false.size), "true": int(true.size), "curve": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300, help="of each kind (default 300)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    told = {"generated": curve("Generated", generated(arguments.cases, arguments.seed))}
    two, known = two_devices(arguments.cases, arguments.seed)
    told["two_devices"] = curve("Generated, pulse of another device", two)
    print(f"\nThe lag was known in {100 * known:.0f} % of them.")
    if arguments.records is not None:
        told["real"] = curve("Real ECG, pleth made from its annotations", real(arguments.records, arguments.seed))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
