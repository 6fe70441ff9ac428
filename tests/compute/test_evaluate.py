import json

import numpy as np
import pytest
from PIL import Image

from edgeward.compute import evaluate
from edgeward.compute.analyser import load_analyser
from edgeward.compute.evaluate import (
    EvaluationError,
    calibration_error,
    dice_coefficient,
    evaluate_ultrasound,
    roc_auc,
)
from edgeward.device.phantom import phantom


@pytest.fixture(scope="module")
def analyser():
    return load_analyser()


@pytest.fixture
def folder(tmp_path):
    """Six phantoms in sizes of their own; the first malignant one has its mask in two parts."""
    for label in ("benign", "malignant", "normal"):
        (tmp_path / label / "images").mkdir(parents=True)
        (tmp_path / label / "mask").mkdir()
        for i, (rows, columns) in enumerate([(480, 640), (300, 420)]):
            p = phantom(70 + i, rows, columns, label)
            Image.fromarray(p.image).save(tmp_path / label / "images" / f"{label} ({i}).png")
            if label != "normal":
                Image.fromarray(np.where(p.mask, 255, 0).astype(np.uint8)).save(
                    tmp_path / label / "mask" / f"{label} ({i})_mask.png"
                )
    return tmp_path


def halve(path):
    mask = np.asarray(Image.open(path))
    middle = int(np.nonzero(mask)[1].mean())
    left, right = mask.copy(), mask.copy()
    left[:, middle:], right[:, :middle] = 0, 0
    Image.fromarray(left).save(path)
    Image.fromarray(right).save(path.with_name(f"{path.stem}_1.png"))


def test_the_figures_have_the_promised_keys_and_can_be_printed(folder, analyser):
    figures = evaluate_ultrasound(folder, analyser=analyser)

    assert {"dice_lesion", "auc_malignant", "sensitivity", "specificity", "ece", "refused", "n"} <= set(figures)
    assert figures["n"] == 6
    assert figures["dice_lesion"] > 0.7
    assert json.loads(json.dumps(figures)) == figures


def test_parts_of_a_mask_are_merged(folder, analyser):
    whole = evaluate_ultrasound(folder, analyser=analyser)["dice_lesion"]
    halve(folder / "malignant" / "mask" / "malignant (0)_mask.png")

    assert evaluate_ultrasound(folder, analyser=analyser)["dice_lesion"] == pytest.approx(whole)


def test_masks_of_zero_and_one_and_of_another_size_are_understood(folder, analyser):
    whole = evaluate_ultrasound(folder, analyser=analyser)["dice_lesion"]
    path = folder / "benign" / "mask" / "benign (0)_mask.png"
    mask = np.asarray(Image.open(path))
    Image.fromarray((mask // 255).astype(np.uint8)).resize((1280, 960), Image.Resampling.NEAREST).save(path)

    assert evaluate_ultrasound(folder, analyser=analyser)["dice_lesion"] == pytest.approx(whole, abs=0.01)


def test_a_refused_image_is_counted_and_costs_its_dice(folder, analyser):
    before = evaluate_ultrasound(folder, analyser=analyser)
    path = folder / "malignant" / "images" / "malignant (0).png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)

    after = evaluate_ultrasound(folder, analyser=analyser)

    assert after["refused"] == before["refused"] + 1
    assert after["refused_by_class"]["malignant"] == 1
    assert after["dice_lesion"] < before["dice_lesion"] - 0.15
    assert after["sensitivity"] <= 0.5
    assert after["n"] == 6


def test_jpeg_and_colour_and_sixteen_bit_images_are_read(folder, analyser):
    first = folder / "normal" / "images" / "normal (0).png"
    Image.open(first).convert("RGB").save(first.with_suffix(".jpg"), quality=95)
    first.unlink()
    second = folder / "normal" / "images" / "normal (1).png"
    Image.fromarray(np.asarray(Image.open(second)).astype(np.uint16) * 200).save(second)

    figures = evaluate_ultrasound(folder, analyser=analyser)

    assert (figures["n"], figures["refused"]) == (6, 0)


def test_progress_is_told_for_each_image(folder, analyser):
    told = []
    evaluate_ultrasound(folder, analyser=analyser, progress=lambda done, total: told.append((done, total)))

    assert told == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "benign" / "mask" / "benign (1)_mask.png").unlink(), r"benign \(1\).png has no mask"),
        (lambda d: [p.unlink() for p in (d / "malignant" / "mask").iterdir()], "has no mask"),
        (lambda d: (d / "normal" / "images").rename(d / "normal" / "pictures"), "images is missing"),
        (lambda d: (d / "benign" / "mask").rename(d / "benign" / "masks"), "mask is missing"),
        (lambda d: [p.unlink() for p in d.glob("*/images/*")], "no images"),
        (lambda d: (d / "normal" / "images" / "normal (0).png").write_bytes(b"text"), "cannot be read"),
        (lambda d: (d / "benign" / "mask" / "benign (0)_mask.png").write_bytes(b""), "cannot be read"),
    ],
)
def test_what_is_missing_or_broken_is_named(folder, analyser, spoil, message):
    spoil(folder)

    with pytest.raises(EvaluationError, match=message):
        evaluate_ultrasound(folder, analyser=analyser)


def test_a_folder_that_is_not_there_is_named(tmp_path, analyser):
    with pytest.raises(EvaluationError, match="is not a folder"):
        evaluate_ultrasound(tmp_path / "nowhere", analyser=analyser)


def test_an_image_too_large_to_hold_is_refused(folder, analyser, monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_FRAME_PIXELS", 1000)

    with pytest.raises(EvaluationError, match="larger than 1000"):
        evaluate_ultrasound(folder, analyser=analyser)


# ---------------------------------------- figures against hand-made numbers


def test_dice_of_known_masks():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert dice_coefficient(a, b) == 1
    a[:2], b[1:3] = True, True
    assert dice_coefficient(a, b) == 0.5
    assert dice_coefficient(a, ~a) == 0


def test_auc_of_known_ranks():
    truth = np.array([False, False, True, True])
    assert roc_auc(truth, np.array([0.1, 0.4, 0.35, 0.8])) == 0.75
    assert roc_auc(truth, np.array([0.5, 0.5, 0.5, 0.5])) == 0.5
    assert roc_auc(truth, np.array([0.1, 0.2, 0.8, 0.9])) == 1
    assert roc_auc(np.array([True, True]), np.array([0.1, 0.2])) is None


def test_calibration_error_of_known_bins():
    truth = np.array([True] * 7 + [False] * 3)
    assert calibration_error(truth, np.full(10, 0.7)) == pytest.approx(0.0)
    assert calibration_error(truth, np.full(10, 0.9)) == pytest.approx(0.2)
    assert calibration_error(truth, np.ones(10)) == pytest.approx(0.3)
    assert calibration_error(np.array([], bool), np.array([])) is None
