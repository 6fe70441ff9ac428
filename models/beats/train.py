"""Grows the trees that judge beats, and says how well they do on records they have not seen.

    python models/beats/train.py ../shared/data/mitdb                 # cross-validate, then write the shipped model
    python models/beats/train.py ../shared/data/mitdb --keep folds    # keep the models of the folds

Records are put into nine groups; each group is judged, by the code that runs at the bedside, with trees that were grown
on the other eight. The model that ships is then grown on all records. Each lead of each record is a patient of its own
in training, so that no lead is special; at the bedside leads are put together (``ectopy``). Fusion beats (also of paced
ones) and unclassifiable ones are left out; paced beats count as neither ventricular nor supraventricular; detections
that match no beat are examples of neither. Nothing is random but LightGBM's sampling, and that is seeded.

Needs: pip install -e '.[evaluate]' lightgbm
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.beat_model import FILE, BeatModel, blank, load
from edgeward.clinic.monitor.beats import FEATURES, NAMES
from edgeward.clinic.monitor.evaluate import inside, match, reference_of, score_record
from edgeward.clinic.monitor.records import GAIN_UV, read_annotations, read_recording
from edgeward.clinic.monitor.state import HELD

NORMAL, SUPRAVENTRICULAR, VENTRICULAR, LEFT_OUT = 0, 1, 2, -1
LABELS = {**dict.fromkeys("NLRBejn/", NORMAL), **dict.fromkeys("AaJS", SUPRAVENTRICULAR), **dict.fromkeys("VE", 2)}
#: The hard records (203 207 208 106 201 223 104 124 209) come first, so that each is in a group of its own.
ORDER = [
    "203", "207", "208", "106", "201", "223", "104", "124", "209", "118", "108", "217", "107", "102", "114",
    "215", "119", "220", "205", "116", "112", "101", "109", "115", "122", "230",
]  # fmt: skip
GROUPS = 9
#: EC57 leaves records with paced beats out of the figures of kinds of beats. Told both with and without them.
PACED = frozenset({"102", "104", "107", "217"})
KINDS = ("ventricular", "supraventricular")
MOST_OF_A_KIND = 300  # of one kind, record and lead: the rest are copies
#: Supraventricular beats are told by when they come and what precedes them; more features only told records apart.
S_FEATURES = [
    "likeness", "width_ratio", "interval", "interval_change", "interval_long", "interval_median",
    "irregularity", "jumps", "p_likeness", "p_strength", "p_ratio", "shape_early", "interval_after",
    "intervals_both", "intervals_ratio", "likeness_after", "change_after", "likeness_before", "width", "noise",
]  # fmt: skip
#: A beat that comes earlier, or after a more likely P wave, must not be less (more) likely supraventricular.
S_MONOTONE = {"interval": -1, "interval_long": -1, "likeness": 1, "jumps": -1, "irregularity": -1, "p_likeness": -1}
SETTINGS = {
    "objective": "binary", "learning_rate": 0.06, "num_leaves": 8, "min_data_in_leaf": 60, "lambda_l2": 10.0,
    "feature_fraction": 0.5, "bagging_fraction": 0.7, "bagging_freq": 1, "verbose": -1, "seed": 0, "num_threads": 1,
    "deterministic": True,
}  # fmt: skip
TREES = 120


def gather(path: Path) -> dict[str, NDArray[Any]]:
    """Return features (in hindsight), lead and label of every beat found in a record, each lead by itself."""
    recording = read_recording(path)
    reference = reference_of(*read_annotations(path), recording.samples.shape[1])
    window = 0.15 * recording.rate_hz
    xs, labels, leads = [], [], []
    bank = MonitorBank(collect_beats=True, model=blank())
    bank.enrol("r", rate_hz=recording.rate_hz, leads=recording.leads, gain_uv=GAIN_UV)
    for number, (first, samples, off) in enumerate(recording.packets(1.0)):
        bank.push("r", samples, first_sample=first, sequence=number, received_ns=0, lead_off=off)
        if number % 64 == 63:
            bank.process(0)
    bank.process(0)
    told = bank.take_beats()
    for lead in range(recording.samples.shape[0]):
        beats = told[told["lead"] == lead]
        beats = beats[np.argsort(beats["reported"], kind="stable")]
        known = beats["later_of"] >= 0.0
        later = dict(zip(beats["later_of"][known].tolist(), beats["later"][known], strict=True))
        beats = beats[np.argsort(beats["sample"], kind="stable")]
        beats = beats[[not inside(at, reference.excluded, window) for at in beats["sample"]]]
        label = np.full(len(beats), NORMAL)
        for i, j in match(reference.samples, beats["sample"], window).pairs:
            label[j] = LABELS.get(reference.codes[i], LEFT_OUT)
        for j, at in enumerate(beats["sample"].tolist()):
            if at in later:
                xs.append(later[at])
                labels.append(label[j])
                leads.append(lead)
    return {"x": np.array(xs), "y": np.array(labels), "lead": np.array(leads)}


def thin(y: NDArray[Any], names: NDArray[Any], lead: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which beats to learn from, and their weights: a record with very many of one kind must not dominate."""
    keep = np.zeros(len(y), dtype=bool)
    weight = np.ones(len(y))
    rng = np.random.default_rng(0)
    for name in np.unique(names):
        for kind in (NORMAL, SUPRAVENTRICULAR, VENTRICULAR):
            for k in np.unique(lead):
                at = np.flatnonzero((names == name) & (lead == k) & (y == kind))
                keep[rng.permutation(at)[:MOST_OF_A_KIND]] = True
            few = (names == name) & (y == kind) & keep
            weight[few] = max(int(few.sum()), 1) ** -0.25
    return keep, weight / weight[keep].mean()


def grow(
    x: NDArray[Any], positive: NDArray[Any], weight: NDArray[Any], names: list[str], monotone: dict[str, int]
) -> Any:
    columns = [NAMES.index(name) for name in names]
    data = lightgbm.Dataset(x[:, columns], positive, weight=weight)
    settings = {**SETTINGS, "monotone_constraints": [monotone.get(name, 0) for name in names]}
    return lightgbm.train(settings, data, TREES), columns


def fit(x: NDArray[Any], y: NDArray[Any], weight: NDArray[Any]) -> BeatModel:
    """Grow the three ensembles of `BeatModel`."""
    not_v = y != VENTRICULAR
    ensembles = [
        grow(x, y == VENTRICULAR, weight, list(NAMES[:HELD]), {}),
        grow(x, y == VENTRICULAR, weight, list(NAMES), {}),
        grow(x[not_v], y[not_v] == SUPRAVENTRICULAR, weight[not_v], S_FEATURES, S_MONOTONE),
    ]
    feature: list[int] = []
    threshold: list[float] = []
    child: list[list[int]] = []
    leaf: list[float] = []
    root: list[int] = []
    first = [0]

    def add(node: dict[str, Any], columns: list[int]) -> int:
        if "leaf_value" in node:
            leaf.append(node["leaf_value"])
            return -len(leaf)
        me = len(feature)
        feature.append(columns[node["split_feature"]])
        threshold.append(node["threshold"])
        child.append([0, 0])
        child[me] = [add(node["left_child"], columns), add(node["right_child"], columns)]
        return me

    for booster, columns in ensembles:
        for tree in booster.dump_model()["tree_info"]:
            at = add(tree["tree_structure"], columns)
            if at < 0:
                raise ValueError("a tree without a split")
            root.append(at)
        first.append(len(root))
    return BeatModel(
        np.array(feature, dtype=np.int32), np.array(threshold), np.array(child, dtype=np.int32), np.array(leaf),
        np.array(root, dtype=np.int32), np.array(first, dtype=np.int32),
    )  # fmt: skip


def write(model: BeatModel, path: Path) -> None:
    """Write a model, small: thresholds and leaves keep single precision."""
    small = model._replace(threshold=model.threshold.astype(np.float32), leaf=model.leaf.astype(np.float32))
    np.savez_compressed(path, **{**small._asdict(), "feature": model.feature.astype(np.uint8)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dry", action="store_true", help="cross-validate only; write no model")
    parser.add_argument("--keep", type=Path, help="folder for the models of the folds and their figures")
    args = parser.parse_args()
    found = sorted(p.stem for p in args.directory.glob("*.hea"))
    parts = {name: gather(args.directory / name) for name in found}
    x, y, lead = (np.concatenate([part[k] for part in parts.values()]) for k in ("x", "y", "lead"))
    assert x.shape[1] == FEATURES
    names = np.repeat(found, [len(part["y"]) for part in parts.values()])
    keep, weight = thin(y, names, lead)
    keep &= y != LEFT_OUT
    if not args.dry:
        write(fit(x[keep], y[keep], weight[keep]), FILE)
    order = [n for n in ORDER if n in found] + [n for n in found if n not in ORDER]
    group = {name: i % GROUPS for i, name in enumerate(order)}
    folder = args.keep
    figures: dict[str, Any] = {}
    for held in range(GROUPS):
        mine = [name for name in found if group[name] == held]
        if not mine:
            continue
        learn = keep & ~np.isin(names, mine)
        model = fit(x[learn], y[learn], weight[learn])
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            write(model, folder / f"fold{held}.npz")
            model = load(folder / f"fold{held}.npz")
        for name in mine:
            figures[name], _ = score_record(args.directory / name, model=model)
            told = (f"{k[0].upper()} tp {f['tp']} fn {f['fn']} fp {f['fp']}" for k in KINDS for f in [figures[name][k]])
            print(" | ".join((name, *told)), flush=True)
    for part, without in (("all records", frozenset()), ("without the paced ones", PACED)):
        for kind in KINDS:
            counts = [figures[name][kind] for name in figures if name not in without]
            tp, fn, fp = (sum(count[k] for count in counts) for k in ("tp", "fn", "fp"))
            se, ppv = 100 * tp / max(tp + fn, 1), 100 * tp / max(tp + fp, 1)
            print(f"{kind}, {part}, each left out: Se {se:.2f} +P {ppv:.2f} of {tp + fn}")
    if folder:
        (folder / "groups.json").write_text(json.dumps(group))


if __name__ == "__main__":
    main()
