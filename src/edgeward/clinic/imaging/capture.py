"""The secondary capture: the analysed frame with what the AI saw drawn on it, for any viewer that shows images.

Responsible for drawing and for the Secondary Capture Image object (PS3.3 A.8.1). Not responsible for decoding the frame
(``compute.decode``) or for what is inherited from the image (``header``).

The picture itself is left readable: a thin outline, corner marks and the size beside the lesion; everything else stands
in a strip *below* the frame, so nothing of the frame is covered and its pixel coordinates stay what they were. No name
or number of the patient is drawn. The pixels are stored uncompressed: every archive takes that, and nothing is lost
twice.
"""

from __future__ import annotations

import math
from datetime import tzinfo
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from edgeward.clinic.imaging.header import new_instance
from edgeward.clinic.imaging.source import Source
from edgeward.messages import Finding, Lesion

WARNING = "AI, preliminary, not verified"
_OUTLINE = (77, 208, 255)  # a blue that occurs in neither grey-scale nor colour Doppler
_HALO = (0, 0, 0)
_TEXT = (236, 239, 244)
_CAUTION = (255, 196, 77)
_STRIP = (16, 18, 22)
_LEGIBLE = 480  # px: a narrower frame is enlarged by a whole factor, or its text could not be read
_FINE = 3  # the overlay is drawn this many times finer and averaged down: smooth lines

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def build_capture(finding: Finding, source: Source, pixels: NDArray[np.uint8], zone: tzinfo) -> Dataset:
    """Return the secondary capture of an analysed frame.

    Parameters
    ----------
    finding
        What to draw; contours in pixels of `pixels`, the centre of the first pixel at (0, 0).
    source
        The image it is about.
    pixels
        The analysed frame, shape (rows, columns, 3), RGB.
    zone
        Zone of dates and times, unless the source states its own.

    Returns
    -------
    pydicom.Dataset
        With file meta information; the same for the same arguments.

    Raises
    ------
    ValueError
        If `pixels` is not an RGB frame.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"expected an RGB frame of 8 bits, got shape {pixels.shape}, {pixels.dtype}")
    factor = scale(pixels.shape[1])
    picture = draw(finding, pixels, factor)
    result = new_instance(
        source,
        finding,
        kind="capture",
        sop_class_uid=SecondaryCaptureImageStorage,
        modality=source.modality,
        zone=zone,
    )
    result.ConversionType = "WSD"  # workstation, PS3.3 C.8.6.1
    result.ImageType = ["DERIVED", "SECONDARY"]
    result.PatientOrientation = []  # Type 2C: not known for a hand-held probe
    if source.laterality:
        result.ImageLaterality = source.laterality
        result.pop("Laterality", None)  # one of the two, PS3.3 C.7.3.1
    # What a machine burned into the frame is still in it. Where it does not say, we cannot say there is nothing.
    result.BurnedInAnnotation = source.burned_in or "YES"
    if source.lossy:
        result.LossyImageCompression = source.lossy
        if source.lossy == "01" and source.lossy_method and source.lossy_ratio:
            result.LossyImageCompressionMethod = source.lossy_method
            result.LossyImageCompressionRatio = source.lossy_ratio
    result.DerivationDescription = "Lesion outline and result of an AI algorithm drawn on the frame"
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.sop_class_uid
    reference.ReferencedSOPInstanceUID = source.sop_instance_uid
    if source.frames > 1:
        reference.ReferencedFrameNumber = finding.frame + 1
    result.SourceImageSequence = [reference]
    if source.one_scale and finding.spacing_mm is not None and all(0 < value < 100 for value in finding.spacing_mm):
        result.PixelSpacing = [f"{value / factor:.10g}" for value in finding.spacing_mm]
    elif source.aspect[0] != source.aspect[1]:  # or a viewer would show it in other proportions than the image
        result.PixelAspectRatio = list(source.aspect)
    result.SamplesPerPixel = 3
    result.PhotometricInterpretation = "RGB"
    result.PlanarConfiguration = 0
    result.Rows, result.Columns = picture.height, picture.width
    result.BitsAllocated = result.BitsStored = 8
    result.HighBit = 7
    result.PixelRepresentation = 0
    data = picture.tobytes()
    result.PixelData = data + b"\0" * (len(data) % 2)
    result["PixelData"].VR = "OB"
    return result


def scale(columns: int) -> int:
    """Return the whole factor by which a frame of this width is enlarged (1 for any usual frame)."""
    return max(1, math.ceil(_LEGIBLE / columns)) if columns < _LEGIBLE else 1


def draw(finding: Finding, pixels: NDArray[np.uint8], factor: int) -> Image.Image:
    """Return the annotated frame, enlarged by `factor`, with the strip below it."""
    frame = Image.fromarray(pixels)
    if factor > 1:
        frame = frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.NEAREST)
    font = _font(min(28, max(12, round(frame.width / 44))))
    lines = _wrapped(_sentences(finding), font, frame.width - 2 * _margin(font))
    picture = Image.new("RGB", (frame.width, frame.height + _strip_height(lines, font)), _STRIP)
    picture.paste(frame)
    for number, lesion in enumerate(finding.lesions, start=1):
        prefix = f"{number}  " if len(finding.lesions) > 1 else ""
        _draw_lesion(picture, frame.size, lesion, factor=factor, font=font, prefix=prefix)
    pen = ImageDraw.Draw(picture)
    top = frame.height + _margin(font)
    for text, colour in lines:
        pen.text((_margin(font), top), text, fill=colour, font=font)
        top += _line_height(font)
    return picture


def size_text(lesion: Lesion) -> str:
    """Return long by short axis with their unit, as it is drawn beside the lesion."""
    unit, digits = ("mm", 1) if lesion.unit == "mm" else ("px", 0)
    return f"{lesion.long_axis:.{digits}f} x {lesion.short_axis:.{digits}f} {unit}"


def _sentences(finding: Finding) -> list[tuple[str, tuple[int, int, int]]]:
    parts = [(WARNING, _CAUTION)]
    if finding.malignancy is not None:
        parts.append((f"Malignancy {100 * finding.malignancy:.0f} %", _TEXT))
    if not finding.lesions:
        parts.append(("No lesion outlined", _TEXT))
    elif len(finding.lesions) == 1:
        parts.append((f"Lesion {size_text(finding.lesions[0])}", _TEXT))
    else:
        parts.append((f"{len(finding.lesions)} lesions", _TEXT))
    parts.append((f"{finding.model} {finding.model_version}".strip(), _TEXT))
    return parts


def _draw_lesion(
    picture: Image.Image, frame: tuple[int, int], lesion: Lesion, *, factor: int, font: _Font, prefix: str
) -> None:
    """Draw outline and corner marks finely in the lesion's neighbourhood only, then its size."""
    width = max(1.5, frame[0] / 420)
    points = [(x, y) for x, y in lesion.contour if math.isfinite(x) and math.isfinite(y)]
    # A pixel's centre is half a pixel from its corner, from which drawing counts.
    outline = [((x + 0.5) * factor, (y + 0.5) * factor) for x, y in points]
    box = lesion.box if all(map(math.isfinite, lesion.box)) else _bounds(points)
    if box is None:
        return
    x0, y0, x1, y1 = ((value + 0.5) * factor for value in box)
    gap = 4 * width
    corners = (x0 - gap, y0 - gap, x1 + gap, y1 + gap)
    reach = 2 * width + 2
    area = (
        max(0, math.floor(min(corners[0], *(x for x, _ in outline or [(x0, 0)])) - reach)),
        max(0, math.floor(min(corners[1], *(y for _, y in outline or [(0, y0)])) - reach)),
        min(frame[0], math.ceil(max(corners[2], *(x for x, _ in outline or [(x1, 0)])) + reach)),
        min(frame[1], math.ceil(max(corners[3], *(y for _, y in outline or [(0, y1)])) + reach)),
    )
    if area[0] >= area[2] or area[1] >= area[3]:
        return
    strokes = [[*outline, outline[0]]] if len(outline) > 2 else []
    strokes += _corner_marks(corners, min(corners[2] - corners[0], corners[3] - corners[1]) / 6)
    for colour, thickness in ((_HALO, width * 2), (_OUTLINE, width)):
        mask = _mask(strokes, area, thickness)
        picture.paste(colour, area, mask)
    pen = ImageDraw.Draw(picture)
    text = prefix + size_text(lesion)
    left, top = corners[0], corners[3] + gap
    if top + _line_height(font) > frame[1]:
        top = corners[1] - gap - _line_height(font)
    left = min(max(2.0, left), max(2.0, frame[0] - font.getlength(text) - 4))
    top = min(max(2.0, top), max(2.0, frame[1] - _line_height(font) - 2.0))
    pen.text((left, top), text, fill=_OUTLINE, font=font, stroke_width=max(1, round(width)), stroke_fill=_HALO)


def _mask(strokes: list[list[tuple[float, float]]], area: tuple[int, int, int, int], width: float) -> Image.Image:
    columns, rows = area[2] - area[0], area[3] - area[1]
    fine = _FINE if columns * rows < 400_000 else 2
    mask = Image.new("L", (columns * fine, rows * fine))
    pen = ImageDraw.Draw(mask)
    for stroke in strokes:
        line = [((x - area[0]) * fine, (y - area[1]) * fine) for x, y in stroke]
        pen.line(line, fill=255, width=max(1, round(width * fine)), joint="curve")
    return mask.reduce(fine)


def _corner_marks(box: tuple[float, float, float, float], length: float) -> list[list[tuple[float, float]]]:
    x0, y0, x1, y1 = box
    marks = []
    for x, dx in ((x0, length), (x1, -length)):
        for y, dy in ((y0, length), (y1, -length)):
            marks.append([(x + dx, y), (x, y), (x, y + dy)])
    return marks


def _bounds(points: list[tuple[float, float]]) -> tuple[float, float, float, float] | None:
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


@lru_cache(maxsize=32)
def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _margin(font: _Font) -> int:
    return max(4, _line_height(font) // 2)


def _line_height(font: _Font) -> int:
    left_top_right_bottom = font.getbbox("Äg")
    return round(left_top_right_bottom[3] * 1.25)


def _strip_height(lines: list[tuple[str, tuple[int, int, int]]], font: _Font) -> int:
    return len(lines) * _line_height(font) + 2 * _margin(font)


def _wrapped(
    parts: list[tuple[str, tuple[int, int, int]]], font: _Font, width: int
) -> list[tuple[str, tuple[int, int, int]]]:
    """Put the warning on its own line and join the rest with dots where they fit."""
    lines = [parts[0]]
    for text, colour in parts[1:]:
        joined = f"{lines[-1][0]}  ·  {text}"
        if len(lines) > 1 and font.getlength(joined) <= width:
            lines[-1] = (joined, colour)
        else:
            lines.append((text, colour))
    return lines
