"""Decoding one frame, side by side: `python benchmarks/decode.py`.

For each transfer syntax, one loop of ultrasound-like frames (a phantom at 1024 x 768, in colour where the syntax is
used for colour; 16 bit grey as well) is decoded by

- ours: `ImageObject.stored` or, for colour, `decode_frame`, which includes the way to RGB;
- gdcm and pydicom's own first choice, both through pydicom (`pixel_array` of one frame);
- dcmtk: its tool over the whole loop, per frame; it includes reading and writing the file.

CPU milliseconds a frame, median; every decoder of a row runs in turns in one process (dcmtk in its own), so compare
within a row. Lossless results are checked to be equal before they are timed. Prints a Markdown table; `--json FILE`
writes the raw figures.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels import pixel_array

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.pixels import compressed, rle

from edgeward.compute.decode import ImageObject, decode_frame
from edgeward.device.phantom import phantom

FRAMES = 8
Encoder = Callable[[NDArray], bytes]


def pictures() -> tuple[list[NDArray], list[NDArray]]:
    """Colour frames of 8 bits and grey frames of 12, alike and not equal."""
    base = (
        Image.fromarray(phantom(1, kind="malignant").image).convert("RGB").resize((1024, 768), Image.Resampling.BICUBIC)
    )
    rng = np.random.default_rng(1)
    colour = []
    for _ in range(FRAMES):
        noise = rng.normal(0, 2, (768, 1024, 1))
        colour.append((np.asarray(base) + noise).clip(0, 255).astype(np.uint8))
    return colour, [
        (c[..., 0].astype(np.uint16) << 4) + rng.integers(0, 16, (768, 1024), dtype=np.uint16) for c in colour
    ]


def cases() -> dict[str, tuple[bytes, bool, tuple[str, ...]]]:
    """Name of each row: object, whether it is lossless, and dcmtk's tool."""
    colour, grey = pictures()
    rgb = {"PlanarConfiguration": 0}
    rct = {**rgb, "PhotometricInterpretation": "YBR_RCT"}
    ybr = {**rgb, "PhotometricInterpretation": "YBR_FULL_422"}
    deep = {"BitsStored": 12, "HighBit": 11}

    def loop(syntax: str, frames: list[NDArray], encode: Encoder, **attributes: object) -> bytes:
        return compressed(syntax, [encode(f) for f in frames], frames[0], **attributes)

    def jpeg(**options: object) -> Encoder:
        return lambda f: imagecodecs.jpeg8_encode(f, **options)

    def j2k(**options: object) -> Encoder:
        return lambda f: imagecodecs.jpeg2k_encode(f, codecformat="J2K", **options)

    return {
        "JPEG Baseline, colour": (loop(".4.50", colour, jpeg(level=90, subsampling="422"), **ybr), False, ("dcmdjpeg",)),
        "JPEG Extended, 12 bit": (loop(".4.51", grey, jpeg(level=90, bitspersample=12), **deep), False, ("dcmdjpeg",)),
        "JPEG Lossless, colour": (loop(".4.70", colour, jpeg(lossless=True), **rgb), True, ("dcmdjpeg",)),
        "JPEG Lossless, 12 bit": (loop(".4.70", grey, jpeg(lossless=True, bitspersample=16), **deep), True, ("dcmdjpeg",)),
        "JPEG-LS, colour": (loop(".4.80", colour, imagecodecs.jpegls_encode, **rgb), True, ("dcmdjpls",)),
        "JPEG-LS, 12 bit": (loop(".4.80", grey, imagecodecs.jpegls_encode, **deep), True, ("dcmdjpls",)),
        "JPEG 2000, colour": (loop(".4.90", colour, j2k(reversible=True, mct=True), **rct), True, ()),
        "JPEG 2000, 12 bit": (loop(".4.90", grey, j2k(reversible=True), **deep), True, ()),
        "HTJ2K, colour": (loop(".4.201", colour, lambda f: imagecodecs.htj2k_encode(f, reversible=True), **rct), True, ()),
        "RLE, colour": (loop(".5", colour, rle, **rgb), True, ("dcmdrle",)),
        "RLE, 12 bit": (loop(".5", grey, rle, **deep), True, ("dcmdrle",)),
    }  # fmt: skip


def cpu_ms(work: Callable[[int], object], rounds: int) -> float:
    times = []
    for number in range(rounds):
        began = time.process_time()
        work(number % FRAMES)
        times.append((time.process_time() - began) * 1e3)
    return statistics.median(times)


def dcmtk_ms(tool: str, data: bytes, rounds: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.dcm"), Path(folder, "out.dcm")
        source.write_bytes(data)
        times = []
        for _ in range(max(3, rounds // FRAMES)):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([tool, str(source), str(target)], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3 / FRAMES)
        return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    table: dict[str, dict[str, float | None]] = {}
    for name, (data, lossless, tool) in cases().items():
        dataset = pydicom.dcmread(io.BytesIO(data))
        image = ImageObject(data)
        mine: Callable[[int], object] = image.stored if image.samples == 1 else lambda i, d=data: decode_frame(d, i)
        row: dict[str, float | None] = {"ours": cpu_ms(mine, args.rounds)}
        for peer, plugin in (("gdcm", "gdcm"), ("pydicom", "")):
            try:
                theirs = np.asarray(pixel_array(dataset, index=0, decoding_plugin=plugin))
                if lossless and not np.array_equal(image.stored(0).values, theirs):
                    raise SystemExit(f"{name}: {peer} decodes other pixels")
                row[peer] = cpu_ms(
                    lambda i, d=dataset, p=plugin: pixel_array(d, index=i, decoding_plugin=p), args.rounds
                )
            except (ValueError, RuntimeError, NotImplementedError, AttributeError):
                row[peer] = None
        try:
            row["dcmtk"] = dcmtk_ms(tool[0], data, args.rounds) if tool else None
        except (subprocess.CalledProcessError, FileNotFoundError):
            row["dcmtk"] = None
        table[name] = row
    print("| 1024 x 768, CPU ms a frame | ours | gdcm | pydicom | dcmtk |\n|---|---|---|---|---|")
    for name, row in table.items():
        print(f"| {name} | " + " | ".join("-" if v is None else f"{v:.1f}" for v in row.values()) + " |")
    if args.json:
        args.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
