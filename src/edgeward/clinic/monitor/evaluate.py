"""Scores the monitor against annotated recordings, through the same code that runs at the bedside.

Responsible for feeding records as packets, matching beats after ANSI/AAMI EC57 (150 ms) and the resulting figures,
all in percent or milliseconds. Not responsible for reading files (``records``).

Counted: every annotated beat from the first to the last sample (EC57 would leave out the first five minutes; that
would flatter). Not counted: ventricular fibrillation and flutter (``[`` to ``]``, and rhythms VF, VFIB, VFL).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.beat_model import BeatModel
from edgeward.clinic.monitor.ectopy import SETTLED, UNKNOWN
from edgeward.clinic.monitor.ectopy import SUPRAVENTRICULAR as KIND_S
from edgeward.clinic.monitor.ectopy import VENTRICULAR as KIND_V
from edgeward.clinic.monitor.records import GAIN_UV, RecordError, Recording, read_annotations, read_recording

WINDOW_S = 0.150  # ANSI/AAMI EC57
BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")  # WFDB annotation codes that are beats
VENTRICULAR = frozenset("VEr")  # and R on T
SUPRAVENTRICULAR = frozenset("AaJS")
#: Fusion, paced and unclassifiable beats may be called either way without penalty (EC57, 4.3.3).
EITHER = frozenset("F/fQ?")
CHAOS = ("(VF", "(VFIB", "(VFL")
PACKETS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Reference:
    """The truth of one record: beat samples, their codes, and stretches without countable beats."""

    samples: NDArray[np.int64]
    codes: list[str]
    excluded: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Matching:
    """Pairs of (reference, detection) indices, and what was left over."""

    pairs: list[tuple[int, int]]
    missed: list[int]
    false: list[int]


def run_recording(recording: Recording, *, packet_s: float = 1.0, model: BeatModel | None = None) -> NDArray[Any]:
    """Send a recording through a `MonitorBank`; return the counted beats in order, dtype ``kernel.BEAT``."""
    bank = MonitorBank(collect_beats=True, model=model)
    bank.enrol(recording.name, rate_hz=recording.rate_hz, leads=recording.leads, gain_uv=GAIN_UV)
    for number, (first, samples, off) in enumerate(recording.packets(packet_s)):
        now_ns = int((first + samples.shape[1]) / recording.rate_hz * 1e9)
        bank.push(recording.name, samples, first_sample=first, sequence=number, received_ns=now_ns, lead_off=off)
        if number % PACKETS_AT_ONCE == PACKETS_AT_ONCE - 1:
            bank.process(now_ns)
    bank.process(0)
    beats = bank.take_beats()
    beats = beats[beats["counted"] == 1]
    return beats[np.argsort(beats["sample"], kind="stable")]


def reference_of(samples: NDArray[np.int64], symbols: list[str], aux: list[str], length: int) -> Reference:
    """Return the countable beats of an annotation within the first `length` samples."""
    excluded: list[tuple[int, int]] = []
    begin: int | None = None
    rhythm: int | None = None
    for at, symbol, note in zip(samples.tolist(), symbols, aux, strict=True):
        if symbol == "[":
            begin = at if begin is None else begin
        elif symbol == "]" and begin is not None:
            excluded.append((begin, at))
            begin = None
        elif symbol == "+" and note.startswith("("):
            if rhythm is not None:
                excluded.append((rhythm, at))
                rhythm = None
            if note in CHAOS:
                rhythm = at
    excluded += [(start, length) for start in (begin, rhythm) if start is not None]
    keep = [
        i
        for i, (at, symbol) in enumerate(zip(samples.tolist(), symbols, strict=True))
        if symbol in BEATS and 0 <= at < length and not inside(at, excluded, 0)
    ]
    return Reference(samples[keep], [symbols[i] for i in keep], excluded)


def inside(at: float, stretches: list[tuple[int, int]], margin: float) -> bool:
    """Return whether `at` lies in one of the stretches, widened by `margin`."""
    return any(start - margin <= at <= stop + margin for start, stop in stretches)


def match(reference: NDArray[np.int64], found: NDArray[np.float64], window: float) -> Matching:
    """Pair each reference beat with at most one detection within `window` samples, nearest first in time order."""
    pairs: list[tuple[int, int]] = []
    missed: list[int] = []
    false: list[int] = []
    i = j = 0
    while i < len(reference) and j < len(found):
        distance = found[j] - reference[i]
        if abs(distance) <= window:
            nearer = j + 1 < len(found) and abs(found[j + 1] - reference[i]) < abs(distance)
            wanted = (
                nearer
                and i + 1 < len(reference)
                and abs(found[j + 1] - reference[i + 1]) < abs(found[j + 1] - reference[i])
            )
            if nearer and not wanted:
                false.append(j)
                j += 1
                continue
            pairs.append((i, j))
            i += 1
            j += 1
        elif distance < 0:
            false.append(j)
            j += 1
        else:
            missed.append(i)
            i += 1
    return Matching(pairs, missed + list(range(i, len(reference))), false + list(range(j, len(found))))


def percentages(tp: int, fn: int, fp: int) -> dict[str, float | int | None]:
    """Return sensitivity, positive predictive value and F1 in percent (None without beats), with the counts."""
    se = 100.0 * tp / (tp + fn) if tp + fn else None
    ppv = 100.0 * tp / (tp + fp) if tp + fp else None
    f1 = 200.0 * tp / (2 * tp + fn + fp) if tp + fn + fp else None
    rounded = {k: None if v is None else round(v, 3) for k, v in (("se", se), ("ppv", ppv), ("f1", f1))}
    return {**rounded, "tp": tp, "fn": fn, "fp": fp}


def kinds_of(beats: NDArray[Any]) -> NDArray[np.int32]:
    """Return the kind (``ectopy``) of counted beats in the order in which they were counted.

    Each is settled `SETTLED` beats later; the last ones are judged by what was known at once.
    """
    kinds = np.append(beats["before"][SETTLED:], [UNKNOWN] * min(SETTLED, len(beats))).astype(np.int32)
    open_ = kinds == UNKNOWN
    kinds[open_] = np.where(beats["ventricular"][open_] > 0.5, KIND_V, 0)
    return kinds


def score_kind(
    result: Matching, codes: list[str], called: NDArray[np.bool_], wanted: frozenset[str], either: frozenset[str]
) -> dict[str, float | int | None]:
    """Score one kind of beat after EC57: missed beats count against sensitivity, false detections against +P."""
    tp = sum(1 for i, j in result.pairs if codes[i] in wanted and called[j])
    fn = sum(1 for code in codes if code in wanted) - tp
    fp = sum(1 for i, j in result.pairs if codes[i] not in wanted | either and called[j])
    return percentages(tp, fn, fp + sum(1 for j in result.false if called[j]))


def score_record(path: str | Path, *, model: BeatModel | None = None) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Score one record; return its figures and the report latency of each matched beat in ms.

    `model` judges the beats instead of the one that ships.

    Raises
    ------
    RecordError
        If the record or its annotations cannot be used.
    """
    samples, symbols, aux = read_annotations(path)
    recording = read_recording(path)
    reference = reference_of(samples, symbols, aux, recording.samples.shape[1])
    beats = run_recording(recording, model=model)
    kinds = kinds_of(beats)
    window = WINDOW_S * recording.rate_hz
    if reference.excluded:
        kept = np.array([not inside(at, reference.excluded, window) for at in beats["sample"]], dtype=np.bool_)
        beats, kinds = beats[kept], kinds[kept]
    result = match(reference.samples, beats["sample"], window)
    figures: dict[str, Any] = percentages(len(result.pairs), len(result.missed), len(result.false))
    codes = reference.codes
    figures["ventricular"] = score_kind(result, codes, kinds == KIND_V, VENTRICULAR, EITHER)
    figures["supraventricular"] = score_kind(result, codes, kinds == KIND_S, SUPRAVENTRICULAR, EITHER - {"F"})
    figures["seconds"] = round(recording.samples.shape[1] / recording.rate_hz, 1)
    figures["rate_hz"] = recording.rate_hz
    figures["leads"] = list(recording.leads)
    if recording.truncated:
        figures["truncated"] = True
    delay = [(beats["reported"][j] - reference.samples[i]) / recording.rate_hz * 1e3 for i, j in result.pairs]
    return figures, np.array(delay, dtype=np.float64)


def evaluate_ecg(directory: str | Path) -> dict[str, Any]:
    """Score every WFDB record with ``.atr`` annotations in a folder (not in its subfolders).

    Returns
    -------
    dict
        ``qrs``, ``ventricular`` and ``supraventricular`` with ``se``, ``ppv``, ``f1`` (gross, percent) and ``tp``,
        ``fn``, ``fp``;
        ``report_latency_ms`` with ``p50``, ``p99``: from the annotated beat to the sample at which it was known;
        ``rhythm``: see ``rhythm_score.sum_up``; ``records``: the same per record;
        ``errors``: record → why it could not be scored; ``n``: records scored.

    Raises
    ------
    RecordError
        If the folder does not exist or holds no record at all.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise RecordError(f"{folder}: there is no such folder")
    names = sorted({p.stem for p in folder.iterdir() if p.suffix in {".atr", ".hea"}})
    if not names:
        raise RecordError(f"{folder}: there is no WFDB record (.hea with .atr) in it")
    from edgeward.clinic.monitor.rhythm_score import score_rhythm, sum_up  # it builds on this module

    records: dict[str, Any] = {}
    errors: dict[str, str] = {}
    delays: list[NDArray[np.float64]] = []
    for name in names:
        try:
            records[name], delay = score_record(folder / name)
            records[name]["rhythm"] = score_rhythm(folder / name)
            delays.append(delay)
        except RecordError as error:
            errors[name] = str(error)
    total = {k: sum(r[k] for r in records.values()) for k in ("tp", "fn", "fp")}
    ventricular, supraventricular = (
        {k: sum(r[kind][k] for r in records.values()) for k in ("tp", "fn", "fp")}
        for kind in ("ventricular", "supraventricular")
    )
    every = np.concatenate(delays) if delays else np.zeros(0)
    return {
        "qrs": percentages(**total),
        "ventricular": percentages(**ventricular),
        "supraventricular": percentages(**supraventricular),
        "rhythm": sum_up({name: record["rhythm"] for name, record in records.items()}),
        "report_latency_ms": {
            "p50": round(float(np.percentile(every, 50)), 1) if len(every) else None,
            "p99": round(float(np.percentile(every, 99)), 1) if len(every) else None,
        },
        "records": records,
        "errors": errors,
        "n": len(records),
        "unit": "percent",
    }
