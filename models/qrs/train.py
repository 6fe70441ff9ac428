"""Trains the network that tells QRS from noise (``candidate.likelihood``).

    python models/qrs/train.py ../shared/data/mitdb                     # the weights that ship
    python models/qrs/train.py ../shared/data/mitdb --without 203,208   # weights that have never seen these records

Examples are the candidates that the detector's rules accept in each lead by itself, in ten minutes of each record, as
it is and with generated noise of 12, 6 and 0 dB; an example is true if it is the detection nearest to a beat, within
150 ms. Record 207 (flutter) is left out. Nothing is vetoed meanwhile, so the examples do not depend on the weights at
hand. All that is random is seeded: the same code and records give the same weights. README.md is the card.

Needs: pip install -e '.[evaluate]' scikit-learn
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from noise import noise, qrs_power
from numba import njit
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier

from edgeward.clinic.monitor import qrs_model
from edgeward.clinic.monitor.candidate import CANDIDATE, SHIPPED, Network
from edgeward.clinic.monitor.detector import BEAT_FIELDS, detect
from edgeward.clinic.monitor.evaluate import reference_of
from edgeward.clinic.monitor.front_end import front_end, restart
from edgeward.clinic.monitor.records import GAIN_UV, read_annotations, read_recording
from edgeward.clinic.monitor.state import FACTS, MAX_STEP, RING, Tuning, new_channel

SECONDS = 600
CONDITIONS = (("clean", 99), ("muscle", 12), ("muscle", 6), ("muscle", 0), ("motion", 12), ("motion", 6), ("motion", 0))
#: Nothing is vetoed while examples are gathered.
OPEN = Tuning(odds_noisy=-1e9, odds_quiet=-1e9)
LIMIT = 4.0  # ``candidate.likelihood`` limits the facts likewise


@njit
def walk(c: Any, trace: Any, band: Any, raw: NDArray[np.int16], net: Any, out: NDArray[np.float64]) -> int:
    """Take one lead sample by sample; write time and facts of every candidate that was judged; return how many."""
    codes = np.zeros((2, 2048), dtype=np.int16)
    phases = np.zeros((MAX_STEP + 1, 2048), dtype=np.float32)
    work = np.zeros((6, 2048))
    beats = np.zeros((40, BEAT_FIELDS))
    restart(c, 0)
    count, before = 0, c.looked_at
    for a in range(0, raw.size, 360):
        made = front_end(c, raw[a : a + 360], codes, phases, work)
        at = 0
        while at < made:
            at, _ = detect(c, trace, band, work, at, at + 1, work[4], beats, net)
            if c.looked_at != before and count < out.shape[0]:
                before = c.looked_at
                out[count, 0] = c.start_raw + (work[4, 2] - c.start_n) * c.decimation - c.trace_delay
                out[count, 1:] = work[4, CANDIDATE : CANDIDATE + FACTS]
                count += 1
    return count


def gather(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return facts, truth and record number of all examples."""
    facts, truth, group = [], [], []
    for path in sorted(folder.glob("*.atr")):
        if path.stem == "207":
            continue
        recording = read_recording(path)
        rate = recording.rate_hz
        reference = reference_of(*read_annotations(path), recording.samples.shape[1])
        count = int(SECONDS * rate)
        beats = reference.samples[reference.samples < count]
        for kind, snr in CONDITIONS:
            for lead, signal in enumerate(recording.samples):
                x = signal[:count].astype(np.float64)
                if kind != "clean":
                    rng = np.random.default_rng([0, int(path.stem), lead, snr, len(kind)])
                    power = qrs_power(signal, reference.samples, rate)
                    x += noise(kind, len(x), rate, rng) * np.sqrt(power / 10.0 ** (snr / 10.0))
                rows = np.zeros((6000, 1 + FACTS))
                rings = np.zeros((2, RING), dtype=np.float32)
                raw = np.clip(np.rint(x), -32768, 32767).astype(np.int16)
                rows = rows[: walk(new_channel(rate, GAIN_UV, OPEN)[0], rings[0], rings[1], raw, SHIPPED, rows)]
                facts.append(np.clip(rows[:, 1:], -LIMIT, LIMIT))
                truth.append(nearest(beats, rows[:, 0], 0.15 * rate))
                group.append(np.full(len(rows), int(path.stem)))
    return np.concatenate(facts), np.concatenate(truth), np.concatenate(group)


def nearest(beats: NDArray[np.int64], found: NDArray[np.float64], window: float) -> NDArray[np.bool_]:
    """Say of each detection whether it is the nearest one to an annotated beat within the window."""
    after = np.clip(np.searchsorted(beats, found), 1, len(beats) - 1)
    which = np.where(np.abs(beats[after] - found) < np.abs(beats[after - 1] - found), after, after - 1)
    distance = np.abs(beats[which] - found)
    true = np.zeros(len(found), dtype=np.bool_)
    taken: set[int] = set()
    for i in np.lexsort((distance, which)).tolist():
        if distance[i] < window and int(which[i]) not in taken:
            taken.add(int(which[i]))
            true[i] = True
    return true


def examples(folder: Path, keep: Path | None) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return what `gather` does; take it from the file `keep` if that exists, or else leave it there."""
    if keep is not None and keep.is_file():
        kept = np.load(keep)
        return kept["facts"], kept["truth"], kept["group"]
    facts, truth, group = gather(folder)
    if keep is not None:
        np.savez_compressed(keep, facts=facts, truth=truth, group=group)
    return facts, truth, group


def fit(x: NDArray[np.float64], y: NDArray[np.bool_]) -> Network:
    """Return a fitted network, its weights rounded as they ship; what is random is seeded."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    net = MLPClassifier((8,), activation="tanh", alpha=1e-3, batch_size=1024, learning_rate_init=4e-3, max_iter=40,
                        early_stopping=True, random_state=0).fit((x - mean) / spread, y)  # fmt: skip
    parts = (mean, spread, net.coefs_[0], net.intercepts_[0], np.ascontiguousarray(net.coefs_[1][:, 0]))
    return Network(*(np.round(part, 4) for part in parts), round(float(net.intercepts_[1][0]), 4))


def write(path: Path, net: Network) -> None:
    """Write the weights as a module."""

    def text(a: NDArray[np.float64]) -> str:
        return np.array2string(a, separator=", ", threshold=1000, max_line_width=110)

    path.write_text(
        '"""Weights of the network that tells QRS from noise (``candidate.likelihood``); written by '
        '``models/qrs/train.py``."""\n\nimport numpy as np\n\n'
        f"CENTRE = np.array({text(net.centre)})\nSPREAD = np.array({text(net.spread)})\n"
        f"WEIGHT_1 = np.array({text(net.weight_1)})\nBIAS_1 = np.array({text(net.bias_1)})\n"
        f"WEIGHT_2 = np.array({text(net.weight_2)})\nBIAS_2 = {net.bias_2}\n"
    )


def main() -> None:
    """Gather, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--without", default="", help="numbers of records to leave out, with commas between")
    parser.add_argument("--examples", type=Path, help="file to keep the examples in, or to take them from")
    parser.add_argument("--out", type=Path, default=Path(str(qrs_model.__file__)))
    arguments = parser.parse_args()
    x, y, group = examples(arguments.directory, arguments.examples)
    kept = ~np.isin(group, [int(n) for n in arguments.without.split(",") if n])
    net = fit(x[kept], y[kept])
    print(f"{np.sum(y[kept])} beats and {np.sum(~y[kept])} others of {len(set(group[kept].tolist()))} records")
    write(arguments.out, net)


if __name__ == "__main__":
    main()
