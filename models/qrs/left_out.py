"""Scores the QRS detector on records that neither its network nor its parameters have seen.

    python models/qrs/left_out.py ../shared/data/mitdb --folds 5 --trials 4

The records are dealt into folds. For each fold a network is trained on the other folds' records, the parameters are
chosen on these records too (with that network, among `--trials` sets drawn as in ``choose``; one: the shipped ones),
and the fold's records are scored once. The rules themselves were found by hand on all of these records.

Needs: pip install -e '.[evaluate]' scikit-learn
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from choose import errors, parameters
from train import examples, fit

from edgeward.clinic.monitor.evaluate import percentages, reference_of
from edgeward.clinic.monitor.records import read_annotations, read_recording
from edgeward.clinic.monitor.state import Tuning


def main() -> None:
    """Train, choose and score, fold by fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--only", type=int, help="one fold only, to run several at once")
    parser.add_argument("--examples", type=Path, help="file to keep the examples in, or to take them from (train.py)")
    arguments = parser.parse_args()
    x, y, group = examples(arguments.directory, arguments.examples)
    names = sorted(path.stem for path in arguments.directory.glob("*.atr"))
    rng = np.random.default_rng(arguments.seed)
    drawn = [parameters(rng) if number else {} for number in range(arguments.trials)]
    total = np.zeros(3, dtype=np.int64)
    for fold in range(arguments.folds) if arguments.only is None else [arguments.only]:
        unseen = names[fold :: arguments.folds]
        seen = ~np.isin(group, [int(name) for name in unseen])
        net = fit(x[seen], y[seen])

        def score(chosen: list[str], trial: dict[str, float], net: object = net) -> dict[str, list[int]]:
            found = {}
            for name in chosen:
                recording = read_recording(arguments.directory / name)
                reference = reference_of(*read_annotations(arguments.directory / name), recording.samples.shape[1])
                found[name] = errors(recording, reference.samples, reference.excluded, replace(Tuning(), **trial), net)
            return found

        def cost(trial: dict[str, float], unseen: list[str] = unseen) -> int:
            return sum(sum(e[1:]) for e in score([n for n in names if n not in unseen], trial).values())

        best = min(drawn, key=cost) if len(drawn) > 1 else drawn[0]
        found = score(unseen, best)
        total += np.sum(list(found.values()), axis=0)
        print(json.dumps({"fold": fold, "parameters": best, "records": found}), flush=True)
    tp, fn, fp = total.tolist()
    print(json.dumps(percentages(tp, fn, fp)))


if __name__ == "__main__":
    main()
