"""Run a trained checkpoint over held-out frames, phantoms and negatives, with the product's own geometry.

    python predict.py --data DIR --weights runs/fold_0.pt --fold 0 --out runs/pred_0.npz

Responsible for raw outputs only; ``evaluate_folds.py`` turns them into figures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from dataset import CLASSES, Sample, grouped_folds, read_busi
from export import COLUMNS, ROWS, export_onnx, load_network
from negatives import DISTORTED, DRAWN, distorted, drawn, from_dicom, from_photographs, is_held_out
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from edgeward.compute.breast_ultrasound import coloured_fraction, letterbox, views
from edgeward.compute.runtime import OnnxRuntime
from edgeward.device.phantom import phantom


def runtime_of(weights: Path) -> OnnxRuntime:
    """The checkpoint as it would ship: exported, half-precision storage, in the product's runtime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(load_network(weights), path)
        return OnnxRuntime(path.read_bytes())


def outputs_of(runtime: OnnxRuntime, grey: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mask probability (half size), class logits, domain logit, features; mean over the two views."""
    canvas, _ = letterbox(grey, ROWS, COLUMNS)
    out = runtime.run({"image": views(canvas)})
    p = 1.0 / (1.0 + np.exp(-out["mask"][:, 0]))
    mask = ((p[0] + p[1][:, ::-1]) / 2).astype(np.float16)
    return mask, out["classes"].mean(0), out["domain"].mean(), out["features"].mean(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dicom", type=Path, nargs="*", default=[])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--fold", required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    runtime = runtime_of(args.weights)
    busi = read_busi(args.data)
    fold = grouped_folds(busi, args.folds)
    rows: list[tuple[str, str, int, bool, float, tuple[np.ndarray, ...]]] = []

    def add(name: str, kind: str, label: int, held_out: bool, rgb: np.ndarray) -> None:
        grey = np.asarray(Image.fromarray(rgb).convert("L"))
        coloured = coloured_fraction(rgb) if rgb.ndim == 3 else 0.0
        rows.append((name, kind, label, held_out, coloured, outputs_of(runtime, grey)))

    for sample, number in zip(busi, fold, strict=True):
        folder, file = sample.name.split("/", 1)
        rgb = np.asarray(Image.open(args.data / folder / "images" / file).convert("RGB"))
        add(sample.name, "busi", sample.label, args.fold != "all" and number == int(args.fold), rgb)
    for i in range(90):  # seeds that training never saw
        p = phantom(500_000 + i, kind=CLASSES[i % 3])  # type: ignore[arg-type]
        add(f"phantom {i}", "phantom", i % 3, True, p.image)
    rng = np.random.default_rng(99)
    paths = [p for root in args.dicom for p in root.rglob("*") if p.is_file()]
    files: list[Sample] = from_dicom(paths) + from_photographs()
    for sample in files:
        add(sample.name, "file", -1, is_held_out(sample), sample.image)
    for kind in DRAWN:
        for i in range(12):
            sample = drawn(rng, kind)
            add(f"{kind} {i}", f"drawn {kind}", -1, kind in ("grid_round", "text_light"), sample.image)
    unseen = [s for s, n in zip(busi, fold, strict=True) if args.fold == "all" or n == int(args.fold)]
    for kind in DISTORTED:
        for i in range(16):
            sample = distorted(unseen[int(rng.integers(len(unseen)))], rng, kind)
            add(f"{kind} {i}", f"distorted {kind}", -1, args.fold != "all", sample.image)
    columns = list(zip(*rows, strict=True))
    mask, classes, domain, features = (np.array(v) for v in zip(*columns[5], strict=True))
    np.savez_compressed(
        args.out, name=np.array(columns[0]), kind=np.array(columns[1]), label=np.array(columns[2]),
        held_out=np.array(columns[3]),
        coloured=np.array(columns[4]), mask=mask, classes=classes, domain=domain, features=features,
    )  # fmt: skip


if __name__ == "__main__":
    main()
