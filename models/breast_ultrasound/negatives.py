"""Images that are not breast ultrasound, so that the network learns to say so.

Responsible for finding and drawing negatives, each with a ``source`` so that whole sources can be kept for an honest
test. Everything comes from packages that anyone can install (pydicom, pydicom-data, scikit-image, scikit-learn) or is
drawn.
"""

from __future__ import annotations

import logging
import string
from pathlib import Path

import cv2
import numpy as np
import pydicom
from dataset import Sample, shrink
from numpy.typing import NDArray

log = logging.getLogger(__name__)
Grey = NDArray[np.uint8]
# Whole sources that training never sees: another vendor's ultrasound, CT, cardiac and obstetric scans, photographs.
HELD_OUT = (
    "US1",
    "ALOKA",
    "examples_palette",
    "examples_jpeg2k",
    "CT1",
    "MR2",
    "693",
    "coins",
    "flower",
    "grid_round",
    "text_light",
)


def _to_grey(frame: NDArray[np.generic]) -> Grey:
    values = frame.astype(np.float64)
    if values.ndim == 3:
        values = values[..., :3] @ np.array([0.299, 0.587, 0.114])
    low, high = np.percentile(values, [0.5, 99.5])
    return np.clip((values - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)


def from_dicom(paths: list[Path]) -> list[Sample]:
    """Every readable image object that is not a near-copy of another; unreadable ones are logged and left out."""
    found, seen = [], set()
    for path in sorted(paths):
        try:
            dataset = pydicom.dcmread(path, force=True)
            if "PixelData" not in dataset or dataset.get("Modality") in ("RTDOSE", "SR"):
                continue
            pixels = dataset.pixel_array
        except Exception as error:  # the test files contain every way a file can be broken
            log.info("left out %s: %s", path.name, error)
            continue
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        if frames > 1:
            pixels = pixels[frames // 2]
        if pixels.ndim < 2 or min(pixels.shape[:2]) < 48:
            continue
        grey = _to_grey(pixels)
        small = cv2.resize(grey, (12, 12), interpolation=cv2.INTER_AREA)
        key = (small // 16).tobytes()
        if key in seen:
            continue
        seen.add(key)
        grey, mask = shrink(grey, np.zeros_like(grey))
        found.append(Sample(path.name, "", -1, grey, mask, path.name.split(".")[0]))
    return found


def from_photographs() -> list[Sample]:
    """The sample pictures that scikit-image and scikit-learn carry."""
    import skimage
    from PIL import Image
    from sklearn.datasets import load_sample_images

    found = []
    for path in sorted((Path(skimage.__file__).parent / "data").iterdir()):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            with Image.open(path) as picture:
                grey = np.asarray(picture.convert("L"))
            if min(grey.shape) >= 48:
                grey, mask = shrink(grey, np.zeros_like(grey))
                found.append(Sample(path.name, "", -1, grey, mask, path.stem))
    for name, picture in zip(("china", "flower"), load_sample_images().images, strict=True):
        grey = _to_grey(picture)
        found.append(Sample(name, "", -1, *shrink(grey, np.zeros_like(grey)), name))
    return found


def drawn(rng: np.random.Generator, kind: str) -> Sample:
    """Screens, grids, noise and simple anatomy-like shapes of one ``kind`` (see `DRAWN`)."""
    rows, columns = int(rng.integers(180, 300)), int(rng.integers(240, 320))
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    base = int(rng.integers(0, 120))
    grey = np.full((rows, columns), base, np.uint8)
    if kind == "blank":
        grey = np.clip(base * 2 + rng.normal(0, rng.uniform(0, 3), grey.shape), 0, 255).astype(np.uint8)
    elif kind == "gradient":
        grey = np.clip(
            255 * (x / columns if rng.random() < 0.5 else y / rows) + rng.normal(0, 4, grey.shape), 0, 255
        ).astype(np.uint8)
    elif kind == "noise":
        noise = rng.standard_normal(grey.shape, dtype=np.float32)
        sigma = float(rng.choice([0, 0.8, 1.5, 4.0, 12.0]))
        noise = cv2.GaussianBlur(noise, (0, 0), sigma) if sigma else noise
        grey = np.clip(128 + rng.uniform(20, 70) * noise / noise.std(), 0, 255).astype(np.uint8)
    elif kind == "rayleigh":  # speckle without anatomy
        noise = [
            cv2.GaussianBlur(rng.standard_normal(grey.shape, dtype=np.float32), (0, 0), float(rng.uniform(0.5, 2)))
            for _ in range(2)
        ]
        power = noise[0] ** 2 + noise[1] ** 2
        grey = np.clip(128 + 6 * 10 * np.log10(power / power.mean() + 1e-4), 0, 255).astype(np.uint8)
    elif kind.startswith("grid"):  # quality-assurance phantom: wires or cysts in a regular pattern in even speckle
        noise = [
            cv2.GaussianBlur(rng.standard_normal(grey.shape, dtype=np.float32), (0, 0), float(rng.uniform(0.6, 1.4)))
            for _ in range(2)
        ]
        power = noise[0] ** 2 + noise[1] ** 2
        field = rng.uniform(50, 130) + 5 * 10 * np.log10(power / power.mean() + 1e-3) - rng.uniform(0, 0.25) * y
        step, r = float(rng.uniform(22, 60)), float(rng.uniform(1.0, 4.0))
        hit = np.hypot((x + rng.uniform(0, 30)) % step - step / 2, (y + rng.uniform(0, 30)) % step - step / 2)
        if kind == "grid_round":
            field = np.where(hit < 4 * r, rng.uniform(5, 40), field)
        else:
            field = np.where(hit < r, 255, field)
        if rng.random() < 0.3:
            field = np.where((x % step < 1.5) | (y % step < 1.5), 230, 20)
        grey = np.clip(field, 0, 255).astype(np.uint8)
    elif kind.startswith("text"):
        light = kind == "text_light"
        grey[:] = int(rng.integers(200, 256)) if light else int(rng.integers(0, 60))
        letters = list(string.ascii_letters + string.digits + "     ")
        for line in range(int(rng.integers(4, 20))):
            words = "".join(rng.choice(letters, int(rng.integers(5, 36))))
            cv2.putText(
                grey,
                words,
                (int(rng.integers(0, 40)), 14 + line * 15),
                cv2.FONT_HERSHEY_SIMPLEX,
                float(rng.uniform(0.3, 0.5)),
                0 if light else 255,
                1,
            )
    elif kind == "ellipses":  # an axial slice in the crudest sense: bright ring, organs, air around
        grey[:] = 0
        centre = (columns // 2, rows // 2)
        cv2.ellipse(grey, centre, (int(columns * 0.4), int(rows * 0.42)), 0, 0, 360, int(rng.integers(90, 255)), -1)
        cv2.ellipse(grey, centre, (int(columns * 0.37), int(rows * 0.38)), 0, 0, 360, int(rng.integers(40, 150)), -1)
        for _ in range(int(rng.integers(3, 12))):
            p = (int(rng.normal(columns / 2, columns / 8)), int(rng.normal(rows / 2, rows / 8)))
            cv2.ellipse(
                grey,
                p,
                (int(rng.integers(4, 40)), int(rng.integers(4, 40))),
                float(rng.uniform(0, 180)),
                0,
                360,
                int(rng.integers(0, 255)),
                -1,
            )
        grey = np.clip(grey + rng.normal(0, rng.uniform(2, 14), grey.shape), 0, 255).astype(np.uint8)
    elif kind == "stripes":
        angle, period = float(rng.uniform(0, np.pi)), float(rng.uniform(4, 40))
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
        grey = np.clip(128 + 110 * (np.sign(wave) if rng.random() < 0.5 else wave), 0, 255).astype(np.uint8)
    return Sample(kind, "", -1, grey, np.zeros_like(grey), kind)


DRAWN = ("blank", "gradient", "noise", "rayleigh", "grid", "grid_round", "text", "text_light", "ellipses", "stripes")
DISTORTED = ("sector", "upside_down", "inverted", "sideways", "shuffled")


def distorted(sample: Sample, rng: np.random.Generator, kind: str) -> Sample:
    """A frame made into what it is not: a wide sector scan, upside down, inverted, turned, or cut up and shuffled."""
    grey = sample.image
    rows, columns = grey.shape
    if kind == "sector":
        half = float(rng.uniform(0.55, 0.85))  # total opening 63 to 97 degrees: phased or curved array
        inner = float(rng.uniform(0.02, 0.35))
        size = 256
        yy, xx = np.mgrid[0:size, 0:320].astype(np.float32)
        xx, yy = (xx - 160) / 235.0, yy / 250.0 + inner * np.cos(half)
        radius, angle = np.hypot(xx, yy), np.arctan2(xx, yy)
        u = (angle / half + 1) / 2 * (columns - 1)
        v = (radius - inner) / 1.0 * (rows - 1)
        grey = cv2.remap(grey, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderValue=0)
    elif kind == "upside_down":
        grey = grey[::-1]
    elif kind == "inverted":
        grey = 255 - grey
    elif kind == "sideways":
        grey = np.rot90(grey)
    elif kind == "shuffled":
        h, w = rows // 5, columns // 6
        tiles = [grey[i * h : (i + 1) * h, j * w : (j + 1) * w] for i in range(5) for j in range(6)]
        order = rng.permutation(len(tiles))
        grey = np.vstack([np.hstack([tiles[order[i * 6 + j]] for j in range(6)]) for i in range(5)])
    grey = np.ascontiguousarray(grey, dtype=np.uint8)
    return Sample(f"{kind} of {sample.name}", sample.group, -1, grey, np.zeros_like(grey), kind)


def is_held_out(sample: Sample) -> bool:
    """True for sources that only the refusal test may see."""
    return any(sample.source.startswith(name) or name in sample.name for name in HELD_OUT)
