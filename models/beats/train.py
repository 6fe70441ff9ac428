"""Trains the beat classifier (ventricular or not) and writes its weights into the package.

    python models/beats/train.py ../shared/data/mitdb

Leave-records-out cross-validation gives the figures in docs/physiology.md; the weights that ship are then fitted on
all records. Both leads of each record are used, each as if it were the only one, so that no lead is special. Fusion
beats (also of paced ones) are left out; paced beats count as not ventricular. Two rounds: the running interval of
normal beats depends on the classifier itself, so features are taken again with the weights of the first round.

Needs: pip install -e '.[evaluate]' scikit-learn
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.neural_network import MLPClassifier

from edgeward.clinic.monitor import beat_model
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.evaluate import inside, match, reference_of
from edgeward.clinic.monitor.records import GAIN_UV, read_annotations, read_recording

HIDDEN = 6
TARGET = Path(beat_model.__file__)


def features_of(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, label (1 ventricular) and lead of the matched beats of one record."""
    recording = read_recording(path)
    reference = reference_of(*read_annotations(path), recording.samples.shape[1])
    rows, labels, leads = [], [], []
    for lead in range(recording.samples.shape[0]):
        bank = MonitorBank(collect_beats=True)
        bank.enrol("r", rate_hz=recording.rate_hz, leads=("x",), gain_uv=GAIN_UV)
        samples = np.ascontiguousarray(recording.samples[lead : lead + 1])
        step = round(recording.rate_hz)
        for number, first in enumerate(range(0, samples.shape[1], step)):
            bank.push("r", samples[:, first : first + step].copy(), first_sample=first, sequence=number, received_ns=0)
            if number % 64 == 63:
                bank.process(0)
        bank.process(0)
        beats = bank.take_beats()
        beats = beats[np.argsort(beats["sample"], kind="stable")]
        window = 0.15 * recording.rate_hz
        beats = beats[[not inside(at, reference.excluded, window) for at in beats["sample"]]]
        for i, j in match(reference.samples, beats["sample"], window).pairs:
            code = reference.codes[i]
            if code not in "FQf?":
                rows.append(beats["features"][j])
                labels.append(code in "VE")
                leads.append(lead)
    return np.array(rows), np.array(labels), np.array(leads)


def fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, MLPClassifier]:
    centre, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    net = MLPClassifier((HIDDEN,), activation="tanh", alpha=30.0, solver="lbfgs", max_iter=200, random_state=seed)
    net.fit((x - centre) / spread, y, sample_weight=weight)
    return centre, spread, net


def weights_of(names: np.ndarray) -> np.ndarray:
    """Let no record with very many beats of one kind dominate: weight falls with the root of its size."""
    counts = {n: (names == n).sum() for n in np.unique(names)}
    w = np.array([counts[n] ** -0.25 for n in names])
    return w / w.mean()


def thin(y: np.ndarray, names: np.ndarray, lead: np.ndarray) -> np.ndarray:
    """Keep at most 400 beats of each kind, record and lead: the rest are copies and only cost time."""
    keep = np.zeros(len(y), dtype=bool)
    rng = np.random.default_rng(0)
    for n in np.unique(names):
        for k in (0, 1):
            for kind in (False, True):
                at = np.flatnonzero((names == n) & (lead == k) & (y == kind))
                keep[rng.permutation(at)[:400]] = True
    return keep


def report(kind: str, y: np.ndarray, p: np.ndarray, select: np.ndarray) -> None:
    called = p > 0.5
    tp, fn, fp = (y & called & select).sum(), (y & ~called & select).sum(), (~y & called & select).sum()
    print(f"{kind}: Se {100 * tp / (tp + fn):.2f} +P {100 * tp / (tp + fp):.2f}  (tp {tp} fn {fn} fp {fp})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dry", action="store_true", help="cross-validate only; write nothing")
    parser.add_argument("--round", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    xs, ys, leads, names = [], [], [], []
    for header in sorted(args.directory.glob("*.hea")):
        x, y, lead = features_of(header)
        xs.append(x)
        ys.append(y)
        leads.append(lead)
        names += [header.stem] * len(y)
    x, y, lead, name = np.concatenate(xs), np.concatenate(ys), np.concatenate(leads), np.array(names)
    weight = weights_of(name)
    few = thin(y, name, lead)
    p = np.zeros(len(y))
    for held in np.unique(name):
        train = (name != held) & few
        centre, spread, net = fit(x[train], y[train], weight[train], 0)
        p[name == held] = net.predict_proba((x[name == held] - centre) / spread)[:, 1]
    report(f"round {args.round}, left out, lead 1", y, p, lead == 0)
    report(f"round {args.round}, left out, lead 2", y, p, lead == 1)
    for held in np.unique(name):
        s = (name == held) & (lead == 0)
        wrong = ((p > 0.5) != y) & s
        if wrong.sum() > 10:
            print(f"  {held}: fn {(wrong & y).sum()} of {(y & s).sum()}, fp {(wrong & ~y).sum()} of {(~y & s).sum()}")
    if args.dry:
        return
    centre, spread, net = fit(x[few], y[few], weight[few], 0)
    np.set_printoptions(threshold=10**6)

    def text(values: np.ndarray) -> str:
        return np.array2string(
            np.asarray(values), separator=", ", max_line_width=110, formatter={"all": "{:.5g}".format}
        )

    TARGET.write_text(
        '"""Weights of the beat classifier. Written by ``models/beats/train.py``; see docs/physiology.md."""\n\n'
        "import numpy as np\n\n"
        f"CENTRE = np.array({text(centre)})\nSPREAD = np.array({text(spread)})\n"
        f"WEIGHT_1 = np.array({text(net.coefs_[0])})\nBIAS_1 = np.array({text(net.intercepts_[0])})\n"
        f"WEIGHT_2 = np.array({text(net.coefs_[1][:, 0])})\nBIAS_2 = {float(net.intercepts_[1][0]):.5g}\n"
    )
    if args.round == 1:  # a fresh process: the kernels must be compiled with the new weights
        subprocess.run([sys.executable, __file__, str(args.directory), "--round", "2"], check=True)


if __name__ == "__main__":
    main()
