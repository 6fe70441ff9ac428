"""Grows the trees that tell movement from a ventricular run, and shows what each threshold costs and gains.

    python models/unrest/train.py ../shared/data/mitdb [--beds 240] [--write]

Examples are runs of three beats or more that the bedside's own code took for ventricular. Movement: generated nights
(``nights``), and the 26 MIT-BIH records with generated movement laid over them where nothing ventricular is annotated.
Ventricular: generated tachycardias and torsades in noise up to 0.2 mV rms and in movement, and the annotated runs of
MIT-BIH. Patients and records are kept whole in one of five folds; the curve is of folds left out. With --write the
trees that ship are grown on all.

Needs: pip install -e '.[evaluate]' lightgbm
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightgbm
import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor import nights, unrest
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.ectopy import HISTORY
from edgeward.clinic.monitor.evaluate import BEATS
from edgeward.clinic.monitor.records import GAIN_UV, read_annotations, read_recording

FILE = Path(unrest.__file__).with_name("unrest_model.py")
SETTINGS = {
    "objective": "binary", "learning_rate": 0.12, "num_leaves": 6, "min_data_in_leaf": 25, "lambda_l2": 4.0,
    "feature_fraction": 0.6, "bagging_fraction": 0.7, "bagging_freq": 1, "verbose": -1, "seed": 0, "num_threads": 1,
    "deterministic": True,
}  # fmt: skip
TREES = 60
FOLDS = 5
STEP_S = 0.1
NEAR_S = 0.12
NIGHT_S = 900.0
MOVING_PER_HOUR = 12.0
NOISES_MV = (0.0, 0.0, 0.03, 0.07, 0.12, 0.2)
#: What the monitor asks of a run: how many beats at a doubt below each of these (``rhythm``).
SHOWN = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0)


class Example(NamedTuple):
    """A run as it was when its newest beat was known."""

    source: str
    who: str
    event: int
    movement: bool
    run: int
    at_s: float
    facts: NDArray[np.float64]
    old: bool  # by the rule for single beats


def examples(  # noqa: PLR0917 - a signal, and what it is
    source: str,
    who: str,
    samples: NDArray[np.int16],
    rate: float,
    gain_uv: float,
    judge: Callable[[list[float]], bool | None],
) -> Iterator[Example]:
    """Send a signal to a bank; yield what `judge` calls movement (True) or ventricular (False)."""
    bank = MonitorBank()
    bank.enrol("d", rate_hz=rate, leads=tuple(f"L{i}" for i in range(len(samples))), gain_uv=gain_uv)
    size, last, event, room = int(rate * STEP_S), -1, 0, np.zeros(2048)
    for number in range(samples.shape[1] // size):
        part = np.ascontiguousarray(samples[:, number * size : (number + 1) * size])
        bank.push("d", part, first_sample=number * size, sequence=number, received_ns=number)
        bank.process(number)
        p = bank.seats.rows[0]
        beats, run = int(p["beats"]), int(p["run"])
        if run < 3:
            event += last >= 0
            last = -1
            continue
        if beats == last:
            continue
        last = beats
        times = [float(p["times"][(beats - 1 - k) % HISTORY]) / rate for k in range(min(run, HISTORY - 2))][::-1]
        movement = judge(times)
        row = int(p["row"]) + int(p["voice"])
        if movement is None or not unrest.gather(p, bank.seats.channels[row], bank.seats.traces[row], run, room):
            continue
        old = bool(unrest.is_restless(p, bank.seats.channels[row], bank.seats.traces[row], run))
        yield Example(source, who, event, movement, run, times[-1], room[: len(unrest.FACTS)].copy(), old)


def from_nights(beds: int, *, true: bool) -> Iterator[Example]:
    """Yield the examples of generated patients."""
    kinds = ("ventricular_tachycardia", "torsade")
    for number in range(beds):
        seed = 7_000_000 + 2 * number + true
        person = nights.Sleeper(seed, leads=1 + number % 2)
        events = nights.events_of(seed, NIGHT_S, 30.0) if true else ()
        noise = float(np.random.default_rng(seed).choice(NOISES_MV)) if true else 0.0
        night = person.stretch(NIGHT_S, events, noise_mv=noise)
        samples = np.clip(np.rint(night.ecg * 400.0), -32_000, 32_000).astype(np.int16)

        def judge(times: list[float], events: tuple[nights.Event, ...] = events) -> bool | None:
            if not events:
                return True
            inside = [any(e.kind in kinds and e.onset_s - 0.3 <= t <= e.end_s for e in events) for t in times[-3:]]
            return False if all(inside) else None

        yield from examples("arrhythmia" if true else "night", f"{true}{number}", samples, nights.ECG_HZ, 2.5, judge)


def from_records(folder: Path, *, moving: bool) -> Iterator[Example]:
    """Yield the examples of annotated records, as they are or with movement laid over them."""
    for number, path in enumerate(sorted(folder.glob("*.atr"))):
        at, symbols, _ = read_annotations(path)
        recording = read_recording(path)
        rate, x = recording.rate_hz, recording.samples.astype(np.float64)
        ventricular = np.array([s for s, y in zip(at, symbols, strict=True) if y in "VE!"]) / rate
        if not any(y in BEATS for y in symbols):
            continue
        if moving:
            person = nights.Sleeper(8_000_000 + number, leads=len(x))
            _, drawn = person.move(int(x.shape[1] / rate * nights.ECG_HZ), MOVING_PER_HOUR)
            t, own = np.arange(x.shape[1]) / rate, np.arange(drawn.shape[1]) / nights.ECG_HZ
            for lead in range(len(x)):
                x[lead] += np.interp(t, own, drawn[lead]) * 1e3

        def judge(times: list[float], ventricular: NDArray[np.float64] = ventricular) -> bool | None:
            if moving:
                near = (ventricular > times[0] - 0.5) & (ventricular < times[-1] + 0.5)
                return None if near.any() else True
            true = [bool(ventricular.size) and float(np.abs(ventricular - t).min()) < NEAR_S for t in times]
            return False if all(true) else None

        samples = np.clip(x, -32_000, 32_000).astype(np.int16)
        source = "mitdb, moving" if moving else "mitdb"
        yield from examples(source, recording.name, samples, rate, GAIN_UV, judge)


def weights(found: list[Example]) -> NDArray[np.float64]:
    """Return the weight of each example: movement as much as ventricular runs, records as much as generated ones.

    Later states of a run count less: they are many, and the first ones decide.
    """
    moving = np.array([e.movement for e in found])
    source = np.array([e.source for e in found])
    w = np.where(np.array([e.run for e in found]) <= 8, 1.0, 0.4)
    for name in ("arrhythmia", "mitdb"):
        chosen = (source == name) & ~moving
        w[chosen] *= 0.5 * moving.sum() / max(1.0, w[chosen].sum())
    return w


def grow(found: list[Example]) -> lightgbm.Booster:
    """Grow trees on examples."""
    x = np.array([e.facts for e in found])
    y = np.array([e.movement for e in found], dtype=float)
    return lightgbm.train(SETTINGS, lightgbm.Dataset(x, y, weight=weights(found)), TREES)


def left_out(found: list[Example]) -> NDArray[np.float64]:
    """Return the doubt of each example by trees that have not seen its patient."""
    names = sorted({e.who for e in found})
    order = np.random.default_rng(0).permutation(len(names))
    fold = {name: int(order[i]) % FOLDS for i, name in enumerate(names)}
    of = np.array([fold[e.who] for e in found])
    doubts = np.zeros(len(found))
    for k in range(FOLDS):
        booster = grow([e for e, f in zip(found, of, strict=True) if f != k])
        held = of == k
        facts = np.array([e.facts for e, h in zip(found, held, strict=True) if h])
        doubts[held] = booster.predict(facts, raw_score=True)
    return doubts


def curve(found: list[Example], doubts: NDArray[np.float64]) -> None:
    """Print, per threshold, how many runs and tachycardias would be told at once."""
    events: dict[tuple[str, str, int], list[int]] = {}
    for i, e in enumerate(found):
        events.setdefault((e.source, e.who, e.event), []).append(i)
    rows: list[tuple[str, Callable[[int], bool]]] = [
        ("no question", lambda _: True),
        ("two facts", lambda i: not found[i].old),
        *((f"doubt < {limit:g}", lambda i, limit=limit: bool(doubts[i] < limit)) for limit in SHOWN),  # type: ignore[misc]
    ]
    for name, calm in rows:
        line = [f"{name:12s}"]
        for source in ("night", "mitdb, moving", "arrhythmia", "mitdb"):
            mine = [e for key, e in events.items() if key[0] == source]
            runs = sum(any(calm(i) for i in e) for e in mine)
            fast = [[i for i in e if found[i].run >= 5 and found[i].facts[9] <= 0.6] for e in mine]
            fast = [e for e in fast if e]
            told = [next((found[i].at_s - found[e[0]].at_s for i in e if calm(i)), None) for e in fast]
            late = [t for t in told if t]
            tachycardias = f"VT {sum(t is not None for t in told)}/{len(fast)} late {len(late)}"
            line.append(f"{source}: runs {runs}/{len(mine)} {tachycardias}")
        print(" | ".join(line))


def write(booster: lightgbm.Booster) -> None:
    """Write trees as source."""
    feature: list[int] = []
    threshold: list[float] = []
    child: list[tuple[int, int]] = []
    leaf: list[float] = []

    def walk(node: dict[str, Any]) -> int:
        if "leaf_value" in node:
            leaf.append(round(float(node["leaf_value"]), 4))
            return -len(leaf)
        here = len(feature)
        feature.append(int(node["split_feature"]))
        threshold.append(round(float(node["threshold"]), 4))
        child.append((0, 0))
        child[here] = (walk(node["left_child"]), walk(node["right_child"]))
        return here

    root = [walk(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
    title = "Trees that tell movement from a ventricular run (``unrest.doubt``); written by ``models/unrest/train.py``."
    FILE.write_text(
        f'"""{title}"""\n\nimport numpy as np\n\n# fmt: off\n'
        f"FEATURE = np.array({wrapped(feature)}, dtype=np.int32)\n"
        f"THRESHOLD = np.array({wrapped(threshold)})\n"
        f"CHILD = np.array({wrapped([k for pair in child for k in pair])}, dtype=np.int32).reshape(-1, 2)\n"
        f"LEAF = np.array({wrapped(leaf)})\n"
        f"ROOT = np.array({wrapped(root)}, dtype=np.int32)\n"
    )


def wrapped(values: list[Any]) -> str:
    """Return a list as source, in lines of at most 110 characters."""
    lines, line = [], "   "
    for value in values:
        if len(line) > 100:
            lines.append(line)
            line = "   "
        line += f" {value:g}," if isinstance(value, float) else f" {value},"
    return "[\n" + "\n".join([*lines, line]) + "\n]"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--beds", type=int, default=240)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    found = [
        *from_nights(arguments.beds, true=False),
        *from_nights(max(4, arguments.beds // 4), true=True),
        *from_records(arguments.folder, moving=False),
        *from_records(arguments.folder, moving=True),
    ]
    print(len(found), "examples,", sum(e.movement for e in found), "of movement")
    curve(found, left_out(found))
    if arguments.write:
        write(grow(found))


if __name__ == "__main__":
    main()
