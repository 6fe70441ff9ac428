"""Train the breast-ultrasound network: one grouped fold, or the final model on all data.

    python train.py --data ../../../shared/data/busi --encoder efficientnet-lite0-57934424.pth --out runs --fold 0
    python train.py ... --fold all

Writes ``runs/fold_N.pt`` (exponentially averaged weights) after every epoch.
Not responsible for held-out predictions, calibration or thresholds (``evaluate_folds.py``) or export (``export.py``).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from dataset import Sample, augment, grouped_folds, read_busi, shrink
from negatives import DISTORTED, DRAWN, distorted, drawn, from_dicom, from_photographs, is_held_out
from network import BreastUltrasoundNet
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from edgeward.device.phantom import phantom

ROWS, COLUMNS = 224, 256
EARLY = (160, 192)  # first half of the epochs at lower resolution (progressive resizing)
FROZEN = 3  # encoder blocks kept at their ImageNet weights (stride 4)
BATCH = 16


def phantoms(count: int, first_seed: int) -> list[Sample]:
    """Phantoms of all kinds in several sizes, marked as a source of their own."""
    rng = np.random.default_rng(first_seed)
    out = []
    for i in range(count):
        kind = ("benign", "malignant", "normal")[i % 3]
        rows, columns = [(480, 640), (360, 480), (480, 560), (600, 800)][int(rng.integers(4))]
        p = phantom(first_seed + i, rows, columns, kind)  # type: ignore[arg-type]
        image, mask = shrink(p.image, np.where(p.mask, 255, 0).astype(np.uint8))
        out.append(Sample(f"phantom {first_seed + i}", "", i % 3, image, mask, "phantom"))
    return out


def negatives_pool(dicom_roots: list[Path]) -> list[Sample]:
    """Files and photographs that training may see (held-out sources removed)."""
    paths = [p for root in dicom_roots for p in root.rglob("*") if p.is_file()]
    return [s for s in from_dicom(paths) + from_photographs() if not is_held_out(s)]


def batch_tensors(
    items: list[Sample], rng: np.random.Generator, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Augmented images in [-1, 1], half-resolution masks in [0, 1], labels (-1 for negatives)."""
    images, masks = [], []
    for item in items:
        image, mask = augment(item, rng, *size)
        images.append(image)
        masks.append(cv2.resize(mask, (size[1] // 2, size[0] // 2), interpolation=cv2.INTER_AREA))
    x = torch.from_numpy(np.stack(images)).float()[:, None] / 127.5 - 1.0
    y = torch.from_numpy(np.stack(masks)).float()[:, None] / 255.0
    return x.to(memory_format=torch.channels_last), y, torch.tensor([s.label for s in items])


def loss_of(outputs: tuple[Tensor, Tensor, Tensor, Tensor], mask: Tensor, label: Tensor) -> tuple[Tensor, list[float]]:
    """Segmentation (cross-entropy plus Dice on lesion frames), class, and domain terms."""
    logits, classes, domain, _ = outputs
    cross = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").mean((1, 2, 3))
    p = torch.sigmoid(logits)
    lesion = (mask.sum((1, 2, 3)) > 8) & (label != 2)
    overlap = (2 * (p * mask).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)
    dice = (1 - overlap)[lesion].sum() / max(1, int(lesion.sum()))
    known = label >= 0
    weight = torch.tensor([0.8, 1.3, 1.2])
    category = F.cross_entropy(classes[known], label[known], weight=weight, label_smoothing=0.05)
    kind = F.binary_cross_entropy_with_logits(domain[:, 0], known.float())
    total = cross.mean() + dice + 0.5 * category + 0.25 * kind
    return total, [float(v.detach()) for v in (cross.mean(), dice, category, kind)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--dicom", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fold", required=True, help="fold number, or all")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    busi = read_busi(args.data)
    fold = grouped_folds(busi, args.folds)
    final = args.fold == "all"
    train = [s for s, f in zip(busi, fold, strict=True) if final or f != int(args.fold)]
    made = phantoms(150, 10_000)
    others = negatives_pool(args.dicom)
    print(f"{len(train)} frames, {len(made)} phantoms, {len(others)} negative files", flush=True)

    net = BreastUltrasoundNet()
    net.encoder.load_imagenet(args.encoder)
    frozen = ("_conv_stem.", *(f"_blocks.{i}." for i in range(FROZEN)))
    for name, parameter in net.encoder.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    net.encoder.frozen = FROZEN
    net = net.to(memory_format=torch.channels_last)
    encoder = [p for p in net.encoder.parameters() if p.requires_grad]
    heads = [p for n, p in net.named_parameters() if not n.startswith("encoder.")]
    optimiser = torch.optim.AdamW([{"params": encoder}, {"params": heads}], weight_decay=0.02)
    mixture = len(train) + 60 + 84
    steps = mixture // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=[4e-4, 2e-3],
        total_steps=steps * args.epochs,
        pct_start=0.2,
        div_factor=10,
        final_div_factor=200,
    )
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    started = time.monotonic()
    for epoch in range(args.epochs):
        size = EARLY if epoch < args.epochs // 2 else (ROWS, COLUMNS)
        kinds = [k for k in DRAWN if k not in ("grid_round", "text_light")]
        items = list(train) + [made[i] for i in rng.choice(len(made), 60, replace=False)]
        items += [others[i] for i in rng.choice(len(others), 34)] if others else []
        items += [drawn(rng, kinds[i % len(kinds)]) for i in range(24)]
        items += [distorted(train[int(rng.integers(len(train)))], rng, DISTORTED[i % 5]) for i in range(20)]
        items += [distorted(made[int(rng.integers(len(made)))], rng, "sector") for _ in range(6)]
        order = rng.permutation(len(items))
        net.train()
        parts = np.zeros(4)
        for step in range(steps):
            picked = [items[i] for i in order[step * BATCH : (step + 1) * BATCH]]
            x, mask, label = batch_tensors(picked, rng, size)
            total, values = loss_of(net(x), mask, label)
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(net)
            parts += np.array(values) / steps
        print(
            f"{args.fold} epoch {epoch} {time.monotonic() - started:.0f}s " + " ".join(f"{v:.3f}" for v in parts),
            flush=True,
        )
        torch.save(average.module.state_dict(), args.out / f"fold_{args.fold}.pt")


if __name__ == "__main__":
    main()
