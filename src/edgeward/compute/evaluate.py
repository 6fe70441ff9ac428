"""Accuracy of the shipped model on a folder of labelled images: ``edgeward evaluate ultrasound``.

Responsible for reading the folder and for the figures. Runs the same code as the engine, refusals included. Not
responsible for training-time validation (``models/breast_ultrasound/evaluate_folds.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgeward.compute.analyser import Analyser, load_analyser
from edgeward.compute.decode import MAX_FRAME_PIXELS, Frame
from edgeward.compute.geometry import polygon_mask
from edgeward.compute.package import PackageError
from edgeward.messages import Lesion

CLASSES = ("benign", "malignant", "normal")
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_ECE_BINS = 10


class EvaluationError(ValueError):
    """The folder is not what the evaluation needs; the text says what is missing and where."""


def evaluate_ultrasound(
    directory: Path | str,
    *,
    threads: int = 1,
    analyser: Analyser | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run the model over ``DIR/{benign,malignant,normal}/{images,mask}``.

    Masks of ``images/NAME.png`` are ``mask/NAME_mask.png``, ``mask/NAME_mask_1.png`` and so on; they are merged.
    Images may have any size; a mask of another size is scaled to its image.

    Parameters
    ----------
    directory : the folder
    threads : threads inside one inference
    analyser : another than the shipped model
    progress : called with (done, all) after each image

    Returns
    -------
    dict with

    ``dice_lesion``
        mean Dice coefficient over the images with a lesion; one that is refused or has no outline counts 0
    ``auc_malignant``
        area under the ROC curve of the malignancy probability, malignant against the rest, refused images left out
    ``sensitivity``, ``specificity``
        malignant against the rest at the package's operating point; a refused image counts as wrong
    ``ece``
        expected calibration error of the malignancy probability, 10 equal bins, refused images left out
    ``refused``, ``n``
        number of images refused, and of all
    ``dice_benign``, ``dice_malignant``, ``counts``, ``refused_by_class``, ``model``
        the same in detail; a figure that the folder's content does not define is None

    Raises
    ------
    EvaluationError
        If a folder, a mask or an image is missing or unreadable, or the model package must not serve.
    """
    cases = _cases(Path(directory))
    try:
        analyser = analyser or load_analyser(threads)
    except PackageError as error:
        raise EvaluationError(f"the model cannot be used: {error}") from error
    dice: dict[str, list[float]] = {name: [] for name in CLASSES}
    truth, score, flagged, refused = [], [], [], dict.fromkeys(CLASSES, 0)
    for done, (label, image_path, mask_paths) in enumerate(cases, 1):
        pixels = _read_rgb(image_path)
        outcome = analyser.assess_frame(Frame(pixels=pixels), time.perf_counter)
        truth.append(label == "malignant")
        score.append(np.nan if outcome.malignancy is None else outcome.malignancy)
        flagged.append(outcome.suspicious)
        refused[label] += bool(outcome.reason)
        if label != "normal":
            dice[label].append(dice_coefficient(_union(outcome.lesions, pixels), _merged_mask(mask_paths, pixels)))
        if progress is not None:
            progress(done, len(cases))
    positive, value, decided = np.array(truth), np.array(score), np.array(flagged)
    known = ~np.isnan(value)
    return {
        "dice_lesion": _mean(dice["benign"] + dice["malignant"]),
        "auc_malignant": roc_auc(positive[known], value[known]),
        "sensitivity": _mean((decided & known)[positive].tolist()),
        "specificity": _mean((~decided & known)[~positive].tolist()),
        "ece": calibration_error(positive[known], value[known]),
        "refused": sum(refused.values()),
        "n": len(cases),
        "dice_benign": _mean(dice["benign"]),
        "dice_malignant": _mean(dice["malignant"]),
        "counts": {name: sum(1 for label, _, _ in cases if label == name) for name in CLASSES},
        "refused_by_class": refused,
        "model": f"{analyser.package.name} {analyser.package.version}",
    }


def dice_coefficient(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def roc_auc(positive: NDArray[np.bool_], value: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve (Mann-Whitney, ties count half); None unless both classes occur."""
    high, low = value[positive], value[~positive]
    if len(high) == 0 or len(low) == 0:
        return None
    below = np.searchsorted(np.sort(low), high, side="left").sum()
    ties = np.searchsorted(np.sort(low), high, side="right").sum() - below
    return float((below + 0.5 * ties) / (len(high) * len(low)))


def calibration_error(positive: NDArray[np.bool_], value: NDArray[np.float64]) -> float | None:
    """Expected calibration error (Naeini et al. 2015, AAAI) of a binary probability; None without values."""
    if len(value) == 0:
        return None
    bins = np.minimum((value * _ECE_BINS).astype(np.int64), _ECE_BINS - 1)
    error = 0.0
    for b in range(_ECE_BINS):
        inside = bins == b
        if inside.any():
            error += float(inside.mean()) * abs(float(positive[inside].mean()) - float(value[inside].mean()))
    return error


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _cases(directory: Path) -> list[tuple[str, Path, list[Path]]]:
    """Every image with its class and masks, in a fixed order."""
    if not directory.is_dir():
        raise EvaluationError(f"{directory} is not a folder")
    cases = []
    for label in CLASSES:
        images, masks = directory / label / "images", directory / label / "mask"
        if not images.is_dir():
            raise EvaluationError(f"{images} is missing: expected {{benign,malignant,normal}}/{{images,mask}}")
        paths = sorted(p for p in images.iterdir() if p.suffix.lower() in _SUFFIXES)
        by_stem: dict[str, list[Path]] = {}
        if label != "normal":
            if not masks.is_dir():
                raise EvaluationError(f"{masks} is missing")
            for path in sorted(masks.iterdir()):
                stem, found, rest = path.stem.rpartition("_mask")
                if found and path.suffix.lower() in _SUFFIXES and (rest == "" or rest[1:].isdigit()):
                    by_stem.setdefault(stem, []).append(path)
        for path in paths:
            if label != "normal" and path.stem not in by_stem:
                raise EvaluationError(f"{path} has no mask: expected {masks / (path.stem + '_mask.png')}")
            cases.append((label, path, by_stem.get(path.stem, [])))
    if not cases:
        raise EvaluationError(f"{directory} contains no images")
    return cases


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_FRAME_PIXELS:
                raise EvaluationError(f"{path} is larger than {MAX_FRAME_PIXELS} pixels")
            if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more: stretch, do not clip
                values = np.asarray(picture, dtype=np.float64)
                span = max(float(values.max() - values.min()), 1e-9)
                grey = ((values - values.min()) / span * 255.0).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"{path} cannot be read as an image: {error}") from error


def _merged_mask(paths: list[Path], image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    rows, columns = image.shape[:2]
    merged = np.zeros((rows, columns), dtype=bool)
    for path in paths:
        part = Image.fromarray(_read_rgb(path)).convert("L")
        if part.size != (columns, rows):
            part = part.resize((columns, rows), Image.Resampling.NEAREST)
        values = np.asarray(part)
        merged |= values > int(values.max()) // 2  # masks come as 0 and 255 or as 0 and 1
    return merged


def _union(lesions: list[Lesion], image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    rows, columns = image.shape[:2]
    union = np.zeros((rows, columns), dtype=bool)
    for lesion in lesions:
        union |= polygon_mask(np.array(lesion.contour), rows, columns)
    return union
