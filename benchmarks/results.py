"""What the DICOM results of one finding cost: ours beside plain highdicom, in the same run, one thread.

    python benchmarks/results.py [--images 300] [--json FILE]

Each result is timed from the finding and the header to encoded bytes. The turns alternate, so that a busy host slows both.
Also: what importing and warming up costs in time and resident memory, each in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ROWS, COLUMNS = 768, 1024
FOOTPRINT = """
import ctypes, gc, sys, time, psutil
def resident():
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss
import numpy, pydicom, pynetdicom
from PIL import Image
import edgeward.compute.decode
before, started = resident(), time.perf_counter()
{work}
spent = (time.perf_counter() - started) * 1e3
print((resident() - before) / 1e6, spent)
"""
OURS = "from edgeward.clinic.imaging import results\nresults._warm_up()"
THEIRS = "import highdicom.sr, highdicom.seg, highdicom.pr, highdicom.sc"


def written(dataset: Any) -> bytes:
    import pydicom

    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def highdicom_makers() -> dict[str, Callable[[Any, Any, Any, Any], bytes]]:
    """What somebody would write who uses highdicom as its manual shows."""
    import highdicom as hd
    from pydicom.sr.coding import Code
    from tests.support.highdicom_report import reference_report

    from edgeward.clinic.imaging.lesions import mask, outline_points

    def common(kind: int) -> dict[str, Any]:
        return {
            "series_instance_uid": hd.UID(),
            "series_number": kind,
            "sop_instance_uid": hd.UID(),
            "instance_number": 1,
            "manufacturer": "Edgeward",
        }

    def report(image: Any, finding: Any, source: Any, _: Any) -> bytes:
        content = reference_report(finding, source, UTC)
        document = hd.sr.ComprehensiveSR(
            evidence=[image], content=content, is_complete=True, is_verified=False, **common(1)
        )
        return written(document)

    def segmentation(image: Any, finding: Any, _source: Any, __: Any) -> bytes:
        algorithm = hd.AlgorithmIdentificationSequence(
            name="m", version="1", family=Code("123110", "DCM", "Artificial Intelligence")
        )
        lesion = Code("52988006", "SCT", "Lesion")
        category = Code("49755003", "SCT", "Morphologically Altered Structure")
        segment = hd.seg.SegmentDescription(
            1, "Lesion 1", category, lesion, "AUTOMATIC", algorithm, tracking_uid=hd.UID(), tracking_id="Lesion 1"
        )
        pixels = mask(finding.lesions[0], ROWS, COLUMNS)[None].astype(np.uint8)
        made = hd.seg.Segmentation(
            [image], pixels, "BINARY", [segment], manufacturer_model_name="m", software_versions="1",
            device_serial_number="1", **common(2),
        )  # fmt: skip
        return written(made)

    def presentation(image: Any, finding: Any, _source: Any, __: Any) -> bytes:
        points = outline_points(finding.lesions[0], COLUMNS, ROWS)
        layer = hd.pr.GraphicLayer("AI", order=1)
        graphic = hd.pr.GraphicObject("POLYLINE", points, units="PIXEL")
        text = hd.pr.TextObject("Lesion 1", units="PIXEL", bounding_box=(1.0, 1.0, 100.0, 20.0))
        annotation = hd.pr.GraphicAnnotation([image], layer, graphic_objects=[graphic], text_objects=[text])
        made = hd.pr.GrayscaleSoftcopyPresentationState(
            [image], manufacturer_model_name="m", software_versions="1", device_serial_number="1", content_label="AI",
            graphic_annotations=[annotation], graphic_layers=[layer], **common(3),
        )  # fmt: skip
        return written(made)

    def capture(image: Any, finding: Any, _source: Any, pixels: Any) -> bytes:
        from edgeward.clinic.imaging.capture import draw

        made = hd.sc.SCImage.from_ref_dataset(
            image,
            np.asarray(draw(finding, pixels, 1)),
            "RGB",
            8,
            "PATIENT",
            patient_orientation=["L", "P"],
            **common(4),
        )
        return written(made)

    return {"sr": report, "seg": segmentation, "gsps": presentation, "capture": capture}


def our_makers() -> dict[str, Callable[[Any, Any, Any, Any], bytes]]:
    from edgeward.clinic.imaging.capture import build_capture
    from edgeward.clinic.imaging.header import encode_dataset
    from edgeward.clinic.imaging.presentation import build_presentation
    from edgeward.clinic.imaging.report import build_report
    from edgeward.clinic.imaging.segmentation import build_segmentation

    return {
        "sr": lambda _i, f, s, _p: encode_dataset(build_report(f, s, UTC)),
        "seg": lambda _i, f, s, _p: encode_dataset(build_segmentation(f, s, UTC)),
        "gsps": lambda _i, f, s, _p: encode_dataset(build_presentation(f, s, UTC)),
        "capture": lambda _i, f, s, p: encode_dataset(build_capture(f, s, p, UTC)),
    }


def measure(images: int) -> dict[str, Any]:
    from pydicom.dataset import Dataset
    from tests.support.imaging import breast_image, finding_for, pixels_of

    from edgeward.clinic.imaging.source import INHERITED, read_source

    pool = []
    for n in range(8):
        image = breast_image(rows=ROWS, columns=COLUMNS, seed=n, PixelAspectRatio=[1, 1])
        pool.append((image, finding_for(image, f"item-{n}"), pixels_of(image)))
    makers = {"edgeward": our_makers(), "highdicom": highdicom_makers()}
    times: dict[str, dict[str, list[float]]] = {who: {kind: [] for kind in made} for who, made in makers.items()}
    sizes: dict[str, int] = {}
    header: list[float] = []
    turns = [(who, kind) for who in makers for kind in makers[who]]
    for n in range(images + 3):
        image, finding, pixels = pool[n % len(pool)]
        read = Dataset({tag: value for tag, value in image.items() if value.keyword in INHERITED})
        read.file_meta = image.file_meta
        started = time.perf_counter()
        source = read_source(read, finding)
        header.append((time.perf_counter() - started) * 1e3)
        random.shuffle(turns)
        for who, kind in turns:
            started = time.perf_counter()
            data = makers[who][kind](image, finding, source, pixels)
            times[who][kind].append((time.perf_counter() - started) * 1e3)
            sizes[f"{who} {kind}"] = len(data)
    return {
        "header": spread(header[3:]),
        "sizes": sizes,
        **{who: {kind: spread(values[3:]) for kind, values in kinds.items()} for who, kinds in times.items()},
    }


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 3),
        "p99": round(ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))], 3),
    }


def footprint(work: str) -> dict[str, float]:
    """Resident megabytes and milliseconds that `work` adds to a process that can decode and send already."""
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", FOOTPRINT.format(work=work)], capture_output=True, text=True, check=True, cwd=ROOT
        )
        runs.append([float(value) for value in done.stdout.split()[-2:]])
    memory, spent = (statistics.median(column) for column in zip(*runs, strict=True))
    return {"MB": round(memory, 1), "ms": round(spent)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    result = measure(arguments.images)
    result["import and warm up"] = {"edgeward": footprint(OURS), "highdicom (import alone)": footprint(THEIRS)}
    result["machine"] = {"cpu": platform.processor() or platform.machine(), "python": platform.python_version()}
    ours, theirs = result["edgeward"], result["highdicom"]
    print(f"{COLUMNS}x{ROWS}, one lesion, ms from finding to encoded bytes, {arguments.images} images\n")
    print("| object | ours p50 | p99 | highdicom p50 | p99 | ratio of p50 |\n|---|---|---|---|---|---|")
    for kind in ours:
        a, b = ours[kind], theirs[kind]
        print(
            f"| {kind} | {a['p50']:.2f} | {a['p99']:.2f} | {b['p50']:.2f} | {b['p99']:.2f} | {b['p50'] / a['p50']:.1f} |"
        )
    print(f"\nreading the inherited attributes: {result['header']['p50']:.2f} / {result['header']['p99']:.2f} ms")
    for who, cost in result["import and warm up"].items():
        print(f"{who}: {cost['MB']} MB, {cost['ms']} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
