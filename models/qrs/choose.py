"""Chooses the QRS detector's parameters on some records, and scores the choice on the records left out.

    python models/qrs/choose.py ../shared/data/mitdb --trials 80

Each trial draws some parameters at random around the shipped ones and counts missed and false beats of every record, as
it is (all leads) and with generated noise (first lead, five minutes). For each record in turn the trial that is best on
all *other* records is the choice, and only its errors on the record left out count. One error without noise weighs as
much as ten with it.

The network's weights (``train``) are not chosen again for each record; ``left_out`` does that.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from noise import disturb

from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.candidate import Network
from edgeward.clinic.monitor.evaluate import WINDOW_S, inside, match, percentages, reference_of
from edgeward.clinic.monitor.records import GAIN_UV, Recording, read_annotations, read_recording
from edgeward.clinic.monitor.state import Tuning

RANGES = {
    "threshold": (0.25, 0.5), "threshold_back": (0.1, 0.25), "overdue": (1.35, 1.8), "noise_factor": (1.5, 3.0),
    "noise_cap": (0.6, 1.0), "decay_s": (0.5, 1.5), "crest": (2.2, 3.2), "crest_noise": (3.0, 6.0), "noisy": (0.2, 0.5),
    "odds_noisy": (-1.5, 0.5), "odds_quiet": (-4.0, -1.0), "floor_part": (0.45, 0.65),
}  # fmt: skip
NOISE = [(kind, snr) for kind in ("muscle", "motion") for snr in (12, 6)]
NOISE_SECONDS = 300
NOISE_WEIGHT = 0.1


def parameters(rng: np.random.Generator) -> dict[str, float]:
    """Draw some of the parameters at random; the others stay as they ship."""
    return {k: round(float(rng.uniform(*r)), 3) for k, r in RANGES.items() if rng.random() < 0.4}


def beats_of(recording: Recording, tuning: Tuning, network: Network | None = None) -> np.ndarray:
    """Return the stream indices of the beats that the bank counts."""
    bank = MonitorBank(collect_beats=True, tuning=tuning, network=network)
    bank.enrol("r", rate_hz=recording.rate_hz, leads=recording.leads, gain_uv=GAIN_UV)
    for number, (first, samples, off) in enumerate(recording.packets(10.0)):
        bank.push("r", samples, first_sample=first, sequence=number, received_ns=0, lead_off=off)
        bank.process(0)
    beats = bank.take_beats()
    return np.sort(beats["sample"][beats["counted"] == 1])


def errors(
    recording: Recording,
    reference: np.ndarray,
    excluded: list[tuple[int, int]],
    tuning: Tuning,
    network: Network | None = None,
) -> list[int]:
    """Return how many beats were found, missed and false."""
    window = WINDOW_S * recording.rate_hz
    found = beats_of(recording, tuning, network)
    if excluded:
        found = found[[not inside(at, excluded, window) for at in found]]
    result = match(reference, found, window)
    return [len(result.pairs), len(result.missed), len(result.false)]


def main() -> None:
    """Draw, score, choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--seed", type=int, default=2)
    arguments = parser.parse_args()
    records = {}
    for path in sorted(arguments.directory.glob("*.atr")):
        recording = read_recording(path)
        reference = reference_of(*read_annotations(path), recording.samples.shape[1])
        short = int(NOISE_SECONDS * recording.rate_hz)
        noisy = []
        if not reference.excluded:
            for kind, snr in NOISE:
                x = disturb(recording.samples[:1, :short], reference.samples[reference.samples < short],
                            recording.rate_hz, kind, snr, [3, int(path.stem)])  # fmt: skip
                noisy.append(replace(recording, leads=recording.leads[:1], samples=x, valid=np.ones(x.shape, bool)))
        records[path.stem] = (recording, reference, noisy, reference.samples[reference.samples < short])
    rng = np.random.default_rng(arguments.seed)
    trials = []
    for number in range(arguments.trials):
        drawn = parameters(rng) if number else {}
        tuning = replace(Tuning(), **drawn)
        clean = {n: errors(r, ref.samples, ref.excluded, tuning) for n, (r, ref, _, _) in records.items()}
        noise = {n: sum(sum(errors(x, few, [], tuning)[1:]) for x in xs) for n, (_, _, xs, few) in records.items()}
        trials.append((drawn, clean, noise))
        print(number, sum(sum(c[1:]) for c in clean.values()), sum(noise.values()), json.dumps(drawn), flush=True)

    def cost(trial: tuple[dict[str, float], dict[str, list[int]], dict[str, int]], without: str) -> float:
        _, clean, noise = trial
        return sum(sum(clean[n][1:]) + NOISE_WEIGHT * noise[n] for n in records if n != without)

    total = np.zeros(3, dtype=np.int64)
    for name in records:
        total += min(trials, key=lambda t, name=name: cost(t, name))[1][name]
    tp, fn, fp = total.tolist()
    print("each record scored with parameters chosen on the others:", percentages(tp, fn, fp))
    print("best on all:", json.dumps(min(trials, key=lambda t: cost(t, ""))[0]))


if __name__ == "__main__":
    main()
