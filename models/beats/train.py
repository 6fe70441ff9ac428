"""Makes the trees and the network that judge beats, and says how well they do on records they have not seen.

    python models/beats/train.py ../shared/data/mitdb                 # cross-validate, then write the shipped model
    python models/beats/train.py ../shared/data/mitdb --keep folds    # keep the models of the folds

Records are put into nine groups; each group is judged, by the code that runs at the bedside, with a model that was made
from the other eight. The model that ships is made from all records. The trees learn from the recordings as they are,
the networks (``network``) also from the same recordings disturbed: with generated noise, faster, slower, turned over.
Each lead of each record is a patient of its own in training, so that no lead is special; at the bedside leads are put
together (``ectopy``). Fusion beats (also of paced ones) and unclassifiable ones are left out; paced beats count as
neither ventricular nor supraventricular; detections that match no beat are examples of neither. All that is random is
seeded.

Needs: pip install -e '.[evaluate]' lightgbm torch
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import network
import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.beat_model import FILE, BeatModel, blank, load
from edgeward.clinic.monitor.beat_net import BeatNet
from edgeward.clinic.monitor.beats import FEATURES, NAMES
from edgeward.clinic.monitor.evaluate import inside, match, reference_of, score_record
from edgeward.clinic.monitor.records import GAIN_UV, Recording, read_annotations, read_recording
from edgeward.clinic.monitor.state import HELD

sys.path.insert(0, str(Path(__file__).parents[1] / "qrs"))
from noise import disturb

NORMAL, SUPRAVENTRICULAR, VENTRICULAR, LEFT_OUT = 0, 1, 2, -1
LABELS = {**dict.fromkeys("NLRBejn/", NORMAL), **dict.fromkeys("AaJS", SUPRAVENTRICULAR), **dict.fromkeys("VEr", 2)}
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
#: What the network also learns from: noise and its signal-to-noise ratio in dB; sampling rate told (the recording runs
#: faster or slower) and gain (negative: leads turned over).
DISTURBED: dict[str, tuple[str, float] | tuple[float, float]] = {
    "muscle": ("muscle", 12.0), "motion": ("motion", 12.0), "more muscle": ("muscle", 7.0),
    "more motion": ("motion", 8.0), "fast": (430.0, -0.6), "slow": (300.0, 1.5), "faster": (400.0, 1.0),
    "slower": (330.0, -1.0),
}  # fmt: skip
AS_IS = "as it is"
ALL = -1  # leaves no group out


def disturbed(recording: Recording, beats: NDArray[np.int64], how: str) -> Recording:
    """Return a recording as `DISTURBED` says."""
    if how == AS_IS:
        return recording
    kind, amount = DISTURBED[how]
    if isinstance(kind, str):
        seed = [sum(recording.name.encode()), sorted(DISTURBED).index(how)]
        return replace(recording, samples=disturb(recording.samples, beats, recording.rate_hz, kind, amount, seed))
    samples = np.clip(np.rint(recording.samples * amount), -32768, 32767).astype(np.int16)
    return replace(recording, samples=samples, rate_hz=kind)


def gather(path: Path, how: str = AS_IS) -> dict[str, NDArray[Any]]:
    """Return features (in hindsight), curves, lead and label of every beat found in a record, each lead by itself."""
    recording = read_recording(path)
    notes = read_annotations(path)
    reference = reference_of(*notes, recording.samples.shape[1])
    recording = disturbed(recording, notes[0], how)
    window = 0.15 * recording.rate_hz
    xs, curves, labels, leads = [], [], [], []
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
        later = dict(zip(beats["later_of"][known].tolist(), beats[["later", "curves"]][known], strict=True))
        beats = beats[np.argsort(beats["sample"], kind="stable")]
        beats = beats[[not inside(at, reference.excluded, window) for at in beats["sample"]]]
        label = np.full(len(beats), NORMAL)
        for i, j in match(reference.samples, beats["sample"], window).pairs:
            label[j] = LABELS.get(reference.codes[i], LEFT_OUT)
        for j, at in enumerate(beats["sample"].tolist()):
            if at in later:
                xs.append(later[at]["later"])
                curves.append(later[at]["curves"])
                labels.append(label[j])
                leads.append(lead)
    return {"x": np.array(xs), "curves": np.array(curves), "y": np.array(labels), "lead": np.array(leads)}


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


def fit(x: NDArray[Any], y: NDArray[Any], weight: NDArray[Any], net: BeatNet) -> BeatModel:
    """Grow the three ensembles of `BeatModel` beside a network."""
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
        np.array(root, dtype=np.int32), np.array(first, dtype=np.int32), net,
    )  # fmt: skip


def write(model: BeatModel, path: Path) -> None:
    """Write a model, small: thresholds and leaves keep single precision."""
    small = model._replace(threshold=model.threshold.astype(np.float32), leaf=model.leaf.astype(np.float32))
    trees = {**small._asdict(), "feature": model.feature.astype(np.uint8)}
    del trees["net"]
    np.savez_compressed(path, **trees, **{k: v.astype(np.float32) for k, v in model.net._asdict().items()})


class Examples:
    """Those beats of all records, gathered one way, that are learned from."""

    def __init__(self, found: list[str], parts: list[dict[str, NDArray[Any]]]) -> None:
        x, curves, y, lead = (np.concatenate([part[k] for part in parts]) for k in ("x", "curves", "y", "lead"))
        names = np.repeat(found, [len(part["y"]) for part in parts])
        keep, weight = thin(y, names, lead)
        keep &= y != LEFT_OUT
        self.x, self.curves, self.y, self.names, self.weight = x[keep], curves[keep], y[keep], names[keep], weight[keep]


def train_networks(sets: list[Examples], group: dict[str, int], left_out: list[int]) -> list[BeatNet]:
    """Train the networks of all folds, and one of all records."""
    arrays = (np.concatenate([getattr(s, k) for s in sets]) for k in ("curves", "x", "y", "weight"))
    groups = np.concatenate([[group[name] for name in s.names.tolist()] for s in sets])
    return network.train(*arrays, groups, left_out)


def make(plain: Examples, without: list[str], net: BeatNet) -> BeatModel:
    """Grow the trees from all records but some, as they are, and put the network beside them."""
    rows = ~np.isin(plain.names, without)
    return fit(plain.x[rows], plain.y[rows], plain.weight[rows], net)


def judge(directory: Path, names: list[str], plain: Examples, net: BeatNet, path: Path) -> dict[str, dict[str, Any]]:
    """Make a model without some records, keep it at `path`, and return its figures on them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(make(plain, names, net), path)
    model = load(path)
    return {name: score_record(directory / name, model=model)[0] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dry", action="store_true", help="cross-validate only; write no model")
    parser.add_argument("--keep", type=Path, default=Path("build/beats"), help="folder for the models of the folds")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    found = sorted(p.stem for p in args.directory.glob("*.hea"))
    with ProcessPoolExecutor(args.jobs) as pool:
        ways = [AS_IS, *DISTURBED]
        works = [[pool.submit(gather, args.directory / name, way) for name in found] for way in ways]
        sets = [Examples(found, [work.result() for work in row]) for row in works]
    assert sets[0].x.shape[1] == FEATURES
    print(sum(len(s.y) for s in sets), "examples", flush=True)
    order = [n for n in ORDER if n in found] + [n for n in found if n not in ORDER]
    group = {name: i % GROUPS for i, name in enumerate(order)}
    held = sorted(set(group.values()))
    nets = train_networks(sets, group, [*held, ALL])
    plain = sets[0]
    figures: dict[str, Any] = {}
    with ProcessPoolExecutor(args.jobs) as pool:
        whole = None if args.dry else pool.submit(make, plain, [], nets[-1])
        folds = []
        for fold, net in zip(held, nets, strict=False):
            mine = [name for name in found if group[name] == fold]
            folds.append(pool.submit(judge, args.directory, mine, plain, net, args.keep / f"fold{fold}.npz"))
        for judged in folds:
            for name, record in judged.result().items():
                figures[name] = record
                told = (f"{k[0].upper()} tp {f['tp']} fn {f['fn']} fp {f['fp']}" for k in KINDS for f in [record[k]])
                print(" | ".join((name, *told)), flush=True)
        if whole is not None:
            write(whole.result(), FILE)
    for part, without in (("all records", frozenset()), ("without the paced ones", PACED)):
        for kind in KINDS:
            counts = [figures[name][kind] for name in figures if name not in without]
            tp, fn, fp = (sum(count[k] for count in counts) for k in ("tp", "fn", "fp"))
            se, ppv = 100 * tp / max(tp + fn, 1), 100 * tp / max(tp + fp, 1)
            print(f"{kind}, {part}, each left out: Se {se:.2f} +P {ppv:.2f} of {tp + fn}")
    (args.keep / "groups.json").write_text(json.dumps(group))


if __name__ == "__main__":
    main()
