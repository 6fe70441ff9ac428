"""The presentation state: outlines and text that a viewer lays over the original image, and can take away again.

Responsible for the Grayscale Softcopy Presentation State of a grey image (PS3.3 A.33.1) and the Color Softcopy
Presentation State of a colour image (A.33.2). Not responsible for the outlines (``lesions``), for how the image turns
values into grey (``greyscale``), or for what is inherited from the image (``header``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ColorSoftcopyPresentationStateStorage, GrayscaleSoftcopyPresentationStateStorage

from edgeward.clinic.imaging.colour import srgb_profile
from edgeward.clinic.imaging.content import decimal
from edgeward.clinic.imaging.greyscale import Grey, Table
from edgeward.clinic.imaging.header import image_reference, new_instance
from edgeward.clinic.imaging.lesions import Sighting, outline_points, sightings, tracking_uid
from edgeward.clinic.imaging.source import Source
from edgeward.messages import Finding, FrameFinding

LAYER = "AI_LESIONS"
WARNING = "AI, preliminary, not verified"
_OUTLINE_LAB = (51118, 25186, 26214)  # the blue of the capture as scaled CIELab, PS3.3 C.10.7.1.1
_OUTLINE_GREY = 0xFFFF
_LINE = 1 / 30  # height of a line of text, as a part of the image's height


def build_presentation(finding: Finding, source: Source, zone: tzinfo) -> Dataset | None:
    """Return the presentation state of `finding`, or None if there is no lesion to show.

    Parameters
    ----------
    finding
        What to show; contours in pixels of the image, the centre of the first pixel at (0, 0). Presentation states
        count from the corner of the first pixel (PS3.3 C.10.5.1.2), so half a pixel is added.
    source
        The image it is about.
    zone
        Zone of dates and times, unless the source states its own.

    Returns
    -------
    pydicom.Dataset
        With file meta information; the same for the same arguments.

    Raises
    ------
    ValueError
        If the size of the image is not known, or its look-up tables are malformed: without them the picture would look
        different under the overlay.
    """
    if source.rows < 1 or source.columns < 1:
        raise ValueError("the size of the image is not known")
    found = [s for s in sightings(finding) if outline_points(s.lesion, source.columns, source.rows) is not None]
    if not found:
        return None
    grey = source.photometric in ("MONOCHROME1", "MONOCHROME2", "")
    if grey and source.grey is None:
        raise ValueError("the look-up tables of the image are malformed")
    result = new_instance(
        source,
        finding,
        kind="gsps",
        sop_class_uid=GrayscaleSoftcopyPresentationStateStorage if grey else ColorSoftcopyPresentationStateStorage,
        modality="PR",
        zone=zone,
    )
    result.PresentationCreationDate = result.InstanceCreationDate
    result.PresentationCreationTime = result.InstanceCreationTime
    result.ContentLabel = "AI_LESIONS"
    result.ContentDescription = "Lesions outlined by an AI algorithm; preliminary, not verified"
    result.ContentCreatorName = ""
    frames = sorted({s.frame for s in found})
    series = Dataset()
    series.SeriesInstanceUID = source.series_instance_uid
    series.ReferencedImageSequence = [image_reference(source)]
    result.ReferencedSeriesSequence = [series]
    result.DisplayedAreaSelectionSequence = [_displayed_area(finding, source)]
    result.GraphicLayerSequence = [_layer(grey=grey)]
    result.GraphicAnnotationSequence = [
        _annotation(finding, source, frame, [s for s in found if s.frame == frame]) for frame in frames
    ]
    if grey and source.grey is not None:
        _greyscale(result, source.grey, inverse=source.photometric == "MONOCHROME1")
    else:
        result.ICCProfile = srgb_profile()
        result.ColorSpace = "SRGB"
    return result


def _displayed_area(finding: Finding, source: Source) -> Dataset:
    """Displayed Area (PS3.3 C.10.4): the whole image, as large as fits.

    It has one spacing for all of it, and people measure with that: where regions have scales of their own, none.
    """
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [source.columns, source.rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    if source.one_scale and finding.spacing_mm is not None:
        area.PresentationPixelSpacing = [f"{value:.10g}" for value in finding.spacing_mm]
    else:
        area.PresentationPixelAspectRatio = list(source.aspect)
    return area


def _layer(*, grey: bool) -> Dataset:
    layer = Dataset()
    layer.GraphicLayer, layer.GraphicLayerOrder = LAYER, 1
    layer.GraphicLayerDescription = WARNING
    if grey:
        layer.GraphicLayerRecommendedDisplayGrayscaleValue = _OUTLINE_GREY
    layer.GraphicLayerRecommendedDisplayCIELabValue = list(_OUTLINE_LAB)
    return layer


def _annotation(finding: Finding, source: Source, frame: int, found: Sequence[Sighting]) -> Dataset:
    """Graphic Annotation (PS3.3 C.10.5) of one frame."""
    annotation = Dataset()
    annotation.ReferencedImageSequence = [image_reference(source, [frame])]
    annotation.GraphicLayer = LAYER
    # In the lower left corner: the upper ones are where machines write who and when.
    columns, rows = float(source.columns), float(source.rows)
    corner = (0.0, max(0.0, rows - 2.2 * _height(source)))
    graphics, texts = [], [_text(_verdict_line(finding, frame), corner, (columns, rows))]
    for sighting in found:
        points = outline_points(sighting.lesion, source.columns, source.rows)
        if points is None:
            continue
        graphic = Dataset()
        graphic.GraphicAnnotationUnits, graphic.GraphicDimensions = "PIXEL", 2
        graphic.NumberOfGraphicPoints = len(points)
        graphic.GraphicData = np.asarray(points, dtype=np.float32).ravel().tolist()
        graphic.GraphicType, graphic.GraphicFilled = "POLYLINE", "N"
        graphic.TrackingID = f"Lesion {sighting.number}"
        graphic.TrackingUID = tracking_uid(finding, f"lesion-{sighting.number}")
        graphics.append(graphic)
        texts.append(_beside(sighting, source, points.min(axis=0), points.max(axis=0)))
    annotation.GraphicObjectSequence = graphics
    annotation.TextObjectSequence = texts
    return annotation


def _beside(sighting: Sighting, source: Source, low: np.ndarray, high: np.ndarray) -> Dataset:
    """The size of a lesion, below it, or above where there is no room below."""
    lesion, height = sighting.lesion, _height(source)
    digits = 1 if lesion.unit == "mm" else 0
    text = f"{sighting.number}: {lesion.long_axis:.{digits}f} x {lesion.short_axis:.{digits}f} {lesion.unit}"
    width = min(source.columns, 0.7 * height * len(text))
    left = float(min(max(low[0], 0.0), source.columns - width))
    top = float(high[1] + 0.3 * height)
    if top + height > source.rows:
        top = max(0.0, float(low[1] - 1.3 * height))
    return _text(text, (left, top), (left + width, min(float(source.rows), top + height)))


def _height(source: Source) -> float:
    return max(source.rows * _LINE, 1.0)


def _text(value: str, low: tuple[float, float], high: tuple[float, float]) -> Dataset:
    text = Dataset()
    text.UnformattedTextValue = value
    text.BoundingBoxAnnotationUnits = "PIXEL"
    text.BoundingBoxTopLeftHandCorner = [float(v) for v in low]
    text.BoundingBoxBottomRightHandCorner = [float(v) for v in high]
    text.BoundingBoxTextHorizontalJustification = "LEFT"
    return text


def _verdict_line(finding: Finding, frame: int) -> str:
    said: Finding | FrameFinding = finding
    if frame != finding.frame:
        said = next((f for f in finding.frame_findings if f.frame == frame), finding)
    if said.malignancy is None:
        return WARNING
    return f"{WARNING}\r\nMalignancy {100 * said.malignancy:.0f} %"


# ---------------------------------------- grey


def _greyscale(result: Dataset, grey: Grey, *, inverse: bool) -> None:
    """Modality LUT, Softcopy VOI LUT, Softcopy Presentation LUT (PS3.3 C.11.1, C.11.8, C.11.6), as in the image.

    The photometric interpretation of the image counts no more under a presentation state (PS3.4 N.2.1.4): what is shown
    light on dark is said here.
    """
    if grey.modality is not None:
        result.ModalityLUTSequence = [_table(grey.modality)]
    elif grey.rescale is not None:
        slope, intercept, kind = grey.rescale
        result.RescaleSlope, result.RescaleIntercept = decimal(slope), decimal(intercept)
        result.RescaleType = kind
    voi = Dataset()
    if grey.voi is not None:
        voi.VOILUTSequence = [_table(grey.voi)]
    elif grey.window is not None:
        centre, width, function = grey.window
        voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = decimal(centre), decimal(width), function
    if len(voi):
        result.SoftcopyVOILUTSequence = [voi]
    result.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"


def _table(table: Table) -> Dataset:
    """Return a look-up table as a presentation state may have it: of 8 or 16 bits (PS3.3 C.11.1.1.1, C.11.2.1.1)."""
    words, bits = np.frombuffer(table.data, "<u2"), table.bits
    if bits not in (8, 16):
        # The output of a VOI table counts in parts of its range, that of a modality table in units.
        words = words if table.kind else np.rint(words * (65535 / (2**bits - 1))).clip(0, 65535).astype("<u2")
        bits = 16
    item = Dataset()
    item.add_new(0x00283002, "SS" if table.signed else "US", [table.entries & 0xFFFF, table.first, bits])
    if table.kind:
        item.ModalityLUTType = table.kind
    data = words.astype("u1").tobytes() if bits == 8 else words.tobytes()  # two entries of 8 bits in a word
    item.add_new(0x00283006, "OW", data + b"\0" * (len(data) % 2))
    return item
