"""Breast ultrasound: from one frame to lesions, class probabilities, or an explicit refusal.

Responsible for the pure part of the analysis: geometry to the network's input and back, the decision whether the
image is of the model's kind, calibration, and measuring. Not responsible for DICOM (``decode.py``), for running the
graph
(``runtime.py``), or for processes and messages on the bus (``engine.py``). All thresholds come from the model package.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeward.compute.annotation import reduced_without, strokes
from edgeward.compute.decode import CALIBRATED, Frame
from edgeward.compute.geometry import Points, area, axes, outlines, thin
from edgeward.compute.package import Package
from edgeward.compute.runtime import Arrays
from edgeward.messages import Lesion

CLASSES = ("benign", "malignant", "normal")
_ULTRASOUND = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound Image Storage
        "1.2.840.10008.5.1.4.1.1.6",  # retired, still sent
        "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound Multi-frame Image Storage
        "1.2.840.10008.5.1.4.1.1.3",  # retired
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture, with modality US
        "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture
    }
)
# The breast is examined with a high-frequency linear probe (ACR practice parameter for breast ultrasound), which sees
# some 4 to 6 cm; none reaches 12. Only the scanner's own calibration counts: a PixelSpacing may be anybody's.
_DEEPEST_MM = 120.0
_VIEW_SHARE, _MOST_VIEWS = 0.5, 4  # of the largest region's area; a quad view has four
_SMALLEST_SIDE = 48  # pixels; below that nothing can be told
_SAMPLED_LINES = 200  # of a large image, enough to judge colour and borders
_UNIFORM = 10  # grey levels: a border row or column whose bulk spans less shows nothing
_CONTOUR_TOLERANCE = 0.15  # of a network pixel


@dataclass(frozen=True)
class Placement:
    """Where the image content went in the network's input; `scale`, `offset` and `origin` are per axis, x then y.

    source pixel = (network pixel + 0.5 - offset) / scale - 0.5 + origin
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    origin: tuple[float, float]

    def to_source(self, points: Points) -> Points:
        """Map network-input coordinates to source coordinates."""
        return np.asarray((points + 0.5 - self.offset) / self.scale - 0.5 + self.origin)

    def to_network(self, points: Points) -> Points:
        """Map source coordinates to network-input coordinates."""
        return np.asarray((points - self.origin + 0.5) * self.scale - 0.5 + self.offset)


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image.

    Attributes
    ----------
    mask : lesion probability per cell, (rows / 2, columns / 2) of the network's input, mean over views
    logits : class logits, benign, malignant, normal
    domain : logit of "this is breast ultrasound"
    distance : how far the features are from familiar images (see `familiarity`)
    """

    mask: NDArray[np.float32]
    logits: NDArray[np.float32]
    domain: float
    distance: float


@dataclass(frozen=True)
class Assessment:
    """The outcome for one frame; `reason` is empty if and only if it was analysed."""

    reason: str
    lesions: list[Lesion]
    label: str = ""
    probabilities: dict[str, float] | None = None
    malignancy: float | None = None
    suspicious: bool = False


def refusal_by_attributes(frame: Frame) -> str:
    """Say why the object's own attributes place it outside the domain, or return an empty text."""
    if frame.modality and frame.modality != "US":
        return f"the object is of modality {frame.modality[:16]}, not ultrasound"
    if frame.sop_class_uid and frame.sop_class_uid not in _ULTRASOUND:
        return "the object is not of an ultrasound image class"
    if frame.body_part and "BREAST" not in frame.body_part.upper():
        return "the examined body part is not the breast"
    if frame.regions and not any(r.is_tissue for r in frame.regions):
        if any(r.is_colour_flow for r in frame.regions):
            return "the image shows colour flow, not a grey-scale image"
        return "the object contains no two-dimensional tissue image"
    if frame.region is not None and frame.spacing_mm is not None and frame.spacing_source == CALIBRATED:
        depth = (frame.region[3] - frame.region[1]) * frame.spacing_mm[0]
        if depth > _DEEPEST_MM:
            return f"the image is {depth:.0f} mm deep, more than any breast image"
    rows, columns = frame.pixels.shape[:2]
    if min(rows, columns) < _SMALLEST_SIDE:
        return f"the image of {columns}x{rows} pixels is too small"
    return ""


def views_of(frame: Frame) -> list[Frame]:
    """The pictures that one frame shows: one per tissue region of a dual or quad view, else the frame itself.

    Each has its own region and, from that region's calibration, its own millimetres. A region that is small beside
    the largest is no view of its own (an overview, a zoomed-out inset) and is left out.
    """
    tissue = sorted((r for r in frame.regions if r.is_tissue), key=lambda r: -r.area)
    tissue = [r for r in tissue if r.area >= _VIEW_SHARE * tissue[0].area][:_MOST_VIEWS]
    if len(tissue) < 2 or any(_covers(a.box, b.box) for a in tissue for b in tissue if a is not b):
        return [frame]
    calibrated_ = frame.spacing_source == CALIBRATED
    return [
        replace(
            frame,
            region=r.box,
            spacing_mm=r.spacing_mm if r.spacing_mm or calibrated_ else frame.spacing_mm,
            spacing_source=CALIBRATED if r.spacing_mm else "" if calibrated_ else frame.spacing_source,
        )
        for r in sorted(tissue, key=lambda r: (r.box[1], r.box[0]))
    ]


def _covers(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two boxes share more than a tenth of the second: then they are not side by side."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width > 0 and height > 0 and width * height > 0.1 * (b[2] - b[0]) * (b[3] - b[1])


def joined(outcomes: list[Assessment]) -> Assessment:
    """One outcome of the views of a frame: all lesions, largest first, with the most suspicious view's class.

    A view that was refused is left out unless all were.
    """
    if len(outcomes) == 1:
        return outcomes[0]
    good = [outcome for outcome in outcomes if not outcome.reason]
    if not good:
        return outcomes[0]
    leading = max(good, key=lambda o: (bool(o.lesions), o.malignancy or 0.0))
    lesions = sorted((lesion for o in good for lesion in o.lesions), key=lambda lesion: -lesion.area)
    return replace(leading, lesions=lesions, suspicious=any(o.suspicious for o in good))


def to_grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma after ITU-R BT.601, (rows, columns)."""
    return np.asarray(Image.fromarray(rgb).convert("L"))


def coloured_fraction(rgb: NDArray[np.uint8]) -> float:
    """Part of the non-black pixels that is clearly coloured: Doppler, or no ultrasound at all."""
    step = max(1, min(rgb.shape[:2]) // _SAMPLED_LINES)
    red, green, blue = np.moveaxis(rgb[::step, ::step], 2, 0)
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    visible = int(np.count_nonzero(high > 16))
    coloured = int(np.count_nonzero((high > 60) & (high - low > 40)))
    return coloured / max(visible, 1)


def content_box(grey: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Box (x0, y0, x1, y1) of the image without uniform borders of any shade.

    A border line may carry a few bright pixels (a letter, a mark) and still count as uniform.
    """
    rows, columns = grey.shape
    x0, y0, x1, y1 = 0, 0, columns, rows

    def uniform(part: NDArray[np.uint8], axis: int) -> NDArray[np.bool_]:
        step = max(1, part.shape[axis] // _SAMPLED_LINES)
        # Sorting 16-bit integers is vectorised and 15 times as fast as sorting bytes.
        lines = np.sort((part[:, ::step] if axis == 1 else part[::step].T).astype(np.int16, order="C"), axis=1)
        tail = int(0.03 * lines.shape[1])
        return np.asarray(lines[:, -1 - tail] - lines[:, tail] < _UNIFORM)

    for _ in range(2):  # trimming the sides can reveal that the top is uniform too
        part = grey[y0:y1, x0:x1]
        for axis in (1, 0):
            busy = np.flatnonzero(~uniform(part, axis))
            if len(busy) == 0:
                return 0, 0, columns, rows
            first, last = int(busy[0]), int(busy[-1]) + 1
            if axis == 1:
                y0, y1 = y0 + first, y0 + last
            else:
                x0, x1 = x0 + first, x0 + last
            part = grey[y0:y1, x0:x1]
    if min(x1 - x0, y1 - y0) < _SMALLEST_SIDE:
        return 0, 0, columns, rows
    return x0, y0, x1, y1


def letterbox(
    grey: NDArray[np.uint8],
    rows: int,
    columns: int,
    rgb: NDArray[np.uint8] | None = None,
    *,
    aspect: float = 1.0,
) -> tuple[NDArray[np.float32], Placement]:
    """Fit the image content into the network's input, in true proportions.

    Parameters
    ----------
    grey : uint8 array (any rows, any columns)
    rows, columns : the network's input size
    rgb : the same in colour (rows, columns, 3) if there is any, to tell coloured calipers
    aspect : height of a pixel of the image by its width; the network's are square

    Calipers, text and the like that were drawn over the content are left out (``annotation.strokes``).

    Returns
    -------
    float32 array (rows, columns) in [-1, 1], black around the content, and where the content went
    """
    x0, y0, x1, y1 = content_box(grey)
    width, height = x1 - x0, y1 - y0
    fit = min(columns / width, rows / (height * aspect))
    new_width, new_height = min(columns, max(1, round(width * fit))), min(rows, max(1, round(height * aspect * fit)))
    # Pillow's bilinear filter widens with the reduction, so that fine speckle does not alias.
    content = np.ascontiguousarray(grey[y0:y1, x0:x1])
    drawn = strokes(content, None if rgb is None else rgb[y0:y1, x0:x1])
    if drawn is None:
        small = np.asarray(
            Image.fromarray(content).resize((new_width, new_height), Image.Resampling.BILINEAR), dtype=np.float32
        )
    else:
        small = reduced_without(content, drawn, new_width, new_height)
    left, top = (columns - new_width) // 2, (rows - new_height) // 2
    canvas = np.full((rows, columns), -1.0, dtype=np.float32)
    canvas[top : top + new_height, left : left + new_width] = small / 127.5 - 1.0
    return canvas, Placement((new_width / width, new_height / height), (left, top), (x0, y0))


def views(canvas: NDArray[np.float32]) -> NDArray[np.float32]:
    """The network's batch: the image and its mirror image, (2, 1, rows, columns)."""
    return np.ascontiguousarray(np.stack([canvas, canvas[:, ::-1]])[:, None])


def combine(outputs: Arrays, domain: dict[str, NDArray[np.float32]]) -> Prediction:
    """Average the outputs over the two views of `views`."""
    probability = 1.0 / (1.0 + np.exp(-outputs["mask"][:, 0]))
    mask = (probability[0] + probability[1][:, ::-1]) / 2.0
    return Prediction(
        mask=np.asarray(mask, dtype=np.float32),
        logits=outputs["classes"].mean(axis=0),
        domain=float(outputs["domain"].mean()),
        distance=familiarity(outputs["features"].mean(axis=0), domain),
    )


def familiarity(features: NDArray[np.float32], domain: dict[str, NDArray[np.float32]]) -> float:
    """Mahalanobis distance to the nearest class of training images, per root dimension (Lee et al. 2018, NeurIPS).

    `domain` holds ``mean`` (F), ``whiten`` (F, k) and ``centres`` (c, k).
    """
    projected = (features - domain["mean"]) @ domain["whiten"]
    squared = ((domain["centres"] - projected) ** 2).mean(axis=1)
    return float(np.sqrt(squared.min()))


def refusal_by_pixels(package: Package, prediction: Prediction, coloured: float) -> str:
    """Say why the picture itself does not look like a grey-scale breast ultrasound, or return an empty text."""
    if coloured > package.number("domain", "max_coloured"):
        return f"{coloured:.0%} of the image is coloured"
    # Written so that a value that is not a number refuses as well.
    if not prediction.domain >= package.number("domain", "min_logit"):
        return "the image does not look like breast ultrasound"
    if not prediction.distance <= package.number("domain", "max_distance"):
        return "the image is unlike those the model was trained on"
    return ""


def calibrated(package: Package, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Class probabilities after temperature scaling (Guo et al. 2017, ICML) with class biases; sums to one."""
    temperature = package.number("calibration", "temperature")
    bias = np.array([package.number("calibration", f"bias_{name}") for name in CLASSES])
    scaled = logits.astype(np.float64) / temperature + bias
    scaled = np.exp(scaled - scaled.max())
    return np.asarray(scaled / scaled.sum())


def assess(
    package: Package,
    prediction: Prediction,
    placement: Placement,
    *,
    frame: Frame,
    origin: tuple[float, float],
    coloured: float,
) -> Assessment:
    """Turn a prediction into lesions in source coordinates and probabilities, or into a refusal.

    Parameters
    ----------
    origin : x, y of the analysed region's first pixel in the frame
    coloured : see `coloured_fraction`
    """
    reason = refusal_by_pixels(package, prediction, coloured)
    if reason:
        return Assessment(reason, [])
    probabilities = calibrated(package, prediction.logits)
    present = 1.0 - float(probabilities[CLASSES.index("normal")])
    lesions = find_lesions(package, prediction.mask, placement, frame=frame, origin=origin, present=present)
    malignancy = float(probabilities[CLASSES.index("malignant")])
    suspicious = malignancy >= package.number("thresholds", "malignancy")
    # With an outlined lesion "normal" would contradict the picture; without one all three are possible.
    label = CLASSES[int(np.argmax(probabilities[:2] if lesions else probabilities))]
    named = {name: float(p) for name, p in zip(CLASSES, probabilities, strict=True)}
    return Assessment("", lesions, label, named, malignancy, suspicious)


def find_lesions(
    package: Package,
    mask: NDArray[np.float32],
    placement: Placement,
    *,
    frame: Frame,
    origin: tuple[float, float],
    present: float,
) -> list[Lesion]:
    """Outline each lesion at the package's level, largest first.

    A faint lesion whose peak stays below the level is outlined at half its peak if the class head is sure that there is
    one. An outline whose probability, the map's times the class head's, is below the package's limit is dropped.
    """
    level, peak = package.number("thresholds", "mask"), float(mask.max())
    if peak < level:
        if present < package.number("thresholds", "sure_present") or peak < package.number("thresholds", "faint_peak"):
            return []
        level = peak / 2.0
    smallest = package.number("thresholds", "min_area_cells")
    share = package.number("thresholds", "min_area_share")
    found = [(area(cells), cells) for cells in outlines(mask, level)]
    found = [(size, cells) for size, cells in found if size >= smallest]
    largest = max((size for size, _ in found), default=0.0)
    lesions = []
    for size, cells in sorted(found, key=lambda pair: -pair[0]):
        if size < share * largest:
            continue
        probability = _confidence(mask, cells) * min(1.0, present)
        if probability < package.number("thresholds", "min_probability"):
            continue
        # A mask cell covers 2 x 2 network pixels, so that its centre lies half a pixel after its first one.
        points = placement.to_source(thin(cells, _CONTOUR_TOLERANCE) * 2.0 + 0.5) + origin
        lesions.append(_measured(points, frame, probability))
    return lesions


def _confidence(mask: NDArray[np.float32], cells: Points) -> float:
    """Mean lesion probability in the outline's inner half, where the edge's uncertainty does not count."""
    x0, y0 = np.floor(cells.min(axis=0)).astype(int).clip(0)
    x1, y1 = np.ceil(cells.max(axis=0)).astype(int) + 1
    values = np.sort(mask[y0:y1, x0:x1], axis=None)
    count = max(1, int(area(cells) / 2))
    return float(values[-count:].mean())


def _measured(points: Points, frame: Frame, probability: float) -> Lesion:
    rows, columns = frame.pixels.shape[:2]
    points = np.column_stack([points[:, 0].clip(-0.5, columns - 0.5), points[:, 1].clip(-0.5, rows - 0.5)])
    spacing = frame.spacing_mm
    # Without millimetres the unit is the width of a pixel; one that is taller counts for as much more.
    scaled = points * (spacing[1], spacing[0]) if spacing else points * (1.0, frame.aspect)
    long_axis, short_axis = axes(scaled)
    return Lesion(
        contour=[(round(float(x), 2), round(float(y), 2)) for x, y in points],
        box=(
            float(points[:, 0].min()),
            float(points[:, 1].min()),
            float(points[:, 0].max()),
            float(points[:, 1].max()),
        ),
        long_axis=long_axis,
        short_axis=short_axis,
        area=area(scaled),
        unit="mm" if spacing else "px",
        probability=max(0.0, min(1.0, probability)),
    )
