"""Training images for the breast-ultrasound network: real frames, phantoms, negatives, and augmentation.

Responsible for reading BUSI with its groups, for grouped stratified folds, and for turning a frame into a training
sample. Not responsible for the negatives' sources (``negatives.py``) or for the optimisation (``train.py``).
The geometry at test time is `edgeward.compute.breast_ultrasound.letterbox`; nothing here is used by the product.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("benign", "malignant", "normal")
CACHED_WIDTH = 320  # frames are kept antialiased at this long side; the network sees 256
Array = NDArray[np.uint8]


@dataclass
class Sample:
    """One frame: grey ``image`` and ``mask`` (uint8 0/255) of equal size; ``label`` -1 marks a negative."""

    name: str
    group: str
    label: int
    image: Array
    mask: Array
    source: str = "busi"


def shrink(image: Array, mask: Array) -> tuple[Array, Array]:
    """Antialiased copy with a long side of `CACHED_WIDTH`."""
    rows, columns = image.shape
    scale = CACHED_WIDTH / max(rows, columns)
    size = (max(8, round(columns * scale)), max(8, round(rows * scale)))
    resize = Image.Resampling.BILINEAR
    return (
        np.asarray(Image.fromarray(image).resize(size, resize)),
        np.asarray(Image.fromarray(mask).resize(size, resize)),
    )


def read_busi(root: Path) -> list[Sample]:
    """Read every frame listed in ``groups.csv``; several masks of one frame are merged."""
    samples = []
    with (root / "groups.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            folder, stem = root / row["class"], Path(row["file"]).stem
            image = np.asarray(Image.open(folder / "images" / row["file"]).convert("L"))
            mask = np.zeros_like(image)
            for path in [folder / "mask" / f"{stem}_mask.png", *(folder / "mask").glob(f"{stem}_mask_*.png")]:
                if path.exists():
                    part = (
                        Image.open(path).convert("L").resize((image.shape[1], image.shape[0]), Image.Resampling.NEAREST)
                    )
                    mask = np.maximum(mask, np.where(np.asarray(part) > 127, 255, 0).astype(np.uint8))
            image, mask = shrink(image, mask)
            samples.append(
                Sample(f"{row['class']}/{row['file']}", row["group"], CLASSES.index(row["class"]), image, mask)
            )
    return samples


def grouped_folds(samples: list[Sample], folds: int, seed: int = 7) -> NDArray[np.int64]:
    """Fold number of each sample: groups stay whole, classes stay balanced (largest groups are placed first)."""
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        members.setdefault(sample.group, []).append(i)
    names = sorted(members)
    rng.shuffle(names)
    names.sort(key=lambda g: -len(members[g]))
    count = np.zeros((folds, len(CLASSES)))
    fold = np.zeros(len(samples), dtype=np.int64)
    for name in names:
        label = samples[members[name][0]].label
        target = int(np.argmin(count[:, label] + 1e-3 * count.sum(1)))
        fold[members[name]] = target
        count[target, label] += len(members[name])
    return fold


def augment(sample: Sample, rng: np.random.Generator, rows: int, columns: int) -> tuple[Array, Array]:
    """Random view of a sample at network size.

    Geometry first (flip, scale, crop, aspect, small rotation, borders), then burnt-in marks, then what scanners vary:
    gain, time-gain compensation, shadows, speckle, blur, compression. Marks are drawn without regard to the class,
    because in BUSI calipers come with lesions and would otherwise be a shortcut.
    """
    image, mask = _move(sample, rng, rows, columns)
    if sample.label >= 0 and rng.random() < 0.45:
        image = _marks(image, mask, rng)
    return _appearance(image, rng), mask


def _move(sample: Sample, rng: np.random.Generator, rows: int, columns: int) -> tuple[Array, Array]:
    height, width = sample.image.shape
    fit = min(columns / width, rows / height)
    zoom = float(np.exp(rng.normal(0.05, 0.16)))
    aspect = float(np.exp(rng.normal(0, 0.08)))
    angle = float(rng.normal(0, 5.0)) if rng.random() < 0.5 else 0.0
    flip = -1.0 if rng.random() < 0.5 else 1.0
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    linear = np.array([[c, -s], [s, c]]) @ np.diag([flip * fit * zoom * aspect, fit * zoom / aspect])
    slack = np.array([columns, rows]) * (0.10 + abs(zoom - 1) * 0.4)
    centre = np.array([columns / 2, rows / 2]) + rng.uniform(-1, 1, 2) * slack
    matrix = np.column_stack([linear, centre - linear @ np.array([width / 2, height / 2])])
    border = int(rng.integers(0, 255)) if rng.random() < 0.05 else 0
    image = cv2.warpAffine(sample.image, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderValue=border)
    mask = cv2.warpAffine(sample.mask, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderValue=0)
    return np.asarray(image, dtype=np.uint8), np.asarray(mask, dtype=np.uint8)


def _marks(image: Array, mask: Array, rng: np.random.Generator) -> Array:
    """Caliper crosses with dotted lines, text, and boxes, in the greys that white and coloured overlays become."""
    image = image.copy()
    rows, columns = image.shape
    grey = int(rng.choice([255, 255, 230, 226, 180, 150, 80]))
    ys, xs = np.nonzero(mask > 127)
    if rng.random() < 0.8:
        if len(ys) and rng.random() < 0.7:
            x0, x1, y0, y1 = int(xs.min()), int(xs.max()), int(ys.min()), int(ys.max())
        else:
            x0, y0 = int(rng.integers(0, columns - 30)), int(rng.integers(0, rows - 30))
            x1, y1 = x0 + int(rng.integers(15, 90)), y0 + int(rng.integers(12, 70))
        shift = rng.normal(0, 3, 4)
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
        ends = [((x0, cy + shift[0]), (x1, cy + shift[1])), ((cx + shift[2], y0), (cx + shift[3], y1))]
        arm = int(rng.integers(2, 5))
        dotted = rng.random() < 0.7
        for a, b in ends[: int(rng.integers(1, 3))]:
            for p in (a, b):
                x, y = int(p[0]), int(p[1])
                cv2.line(image, (x - arm, y), (x + arm, y), grey, 1)
                cv2.line(image, (x, y - arm), (x, y + arm), grey, 1)
            if dotted:
                for t in np.linspace(0, 1, int(np.hypot(a[0] - b[0], a[1] - b[1]) / 3) + 2):
                    x, y = int(a[0] + t * (b[0] - a[0])), int(a[1] + t * (b[1] - a[1]))
                    if 0 <= x < columns and 0 <= y < rows:
                        image[y, x] = grey
    if rng.random() < 0.4:
        words = "".join(chr(int(c)) for c in rng.integers(65, 91, int(rng.integers(2, 10))))
        where = (int(rng.integers(0, columns - 40)), int(rng.integers(10, rows)))
        cv2.putText(image, words, where, cv2.FONT_HERSHEY_SIMPLEX, float(rng.uniform(0.25, 0.45)), grey, 1)
    if rng.random() < 0.15:
        x, y = int(rng.integers(0, columns // 2)), int(rng.integers(0, rows // 2))
        cv2.rectangle(image, (x, y), (x + int(rng.integers(40, 140)), y + int(rng.integers(40, 120))), grey // 2, 1)
    return image


def _appearance(image: Array, rng: np.random.Generator) -> Array:
    rows, columns = image.shape
    x = image.astype(np.float32) / 255.0
    black = x < 0.008
    if rng.random() < 0.8:
        x = x ** float(np.exp(rng.normal(0, 0.25)))
        x = x * float(np.exp(rng.normal(0, 0.18)))
    if rng.random() < 0.4:
        gain = np.interp(np.arange(rows), np.linspace(0, rows, 5), rng.normal(1, 0.2, 5))
        x = x * np.clip(gain, 0.3, 2.0)[:, None].astype(np.float32)
    if rng.random() < 0.2:
        where, width = float(rng.uniform(0, columns)), float(rng.uniform(4, 40))
        start = np.clip((np.arange(rows) - rng.uniform(0, rows * 0.5)) / 15.0, 0, 1)
        dark = np.exp(-(((np.arange(columns) - where) / width) ** 2)) * float(rng.uniform(0.2, 0.7))
        x = x * (1 - start[:, None] * dark[None, :]).astype(np.float32)
    if rng.random() < 0.35:
        noise = rng.standard_normal((rows, columns), dtype=np.float32)
        if rng.random() < 0.5:
            noise = cv2.GaussianBlur(noise, (0, 0), float(rng.uniform(0.4, 1.2)))
            noise /= noise.std() + 1e-6
        x = x * (1 + float(rng.uniform(0.03, 0.25)) * noise)
    if rng.random() < 0.25:
        x = cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.4, 1.4)))
    elif rng.random() < 0.15:
        x = x + float(rng.uniform(0.3, 1.0)) * (x - cv2.GaussianBlur(x, (0, 0), 1.5))
    if rng.random() < 0.1:
        x = np.clip((x - float(rng.uniform(0, 0.08))) * float(rng.uniform(1, 1.3)), 0, 1)
    x[black] = np.minimum(x[black], 0.02)
    out = np.clip(x * 255.0, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        done, coded = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 90))])
        if done:
            out = np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
    return out
