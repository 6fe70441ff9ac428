"""A DICOM object to frames of 8-bit RGB pixels with their spacing.

Responsible for the way from an opened object (``image.py``) to the `Frame` that is analysed or shown, whatever its
photometric interpretation, and for finding the pixel spacing. Whatever is wrong ends as a `DecodeError` with a reason,
in bounded memory. Not responsible for judging whether the image is of the kind that a model knows (see
``breast_ultrasound.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgeward.compute.codestream import DecodeError
from edgeward.compute.colour import apply_palette, to_rgb
from edgeward.compute.greyscale import Shown, attribute, show
from edgeward.compute.image import MAX_FRAME_PIXELS, MAX_FRAMES, ImageObject, Stored, told
from edgeward.compute.regions import Region, read_regions
from edgeward.compute.viewport import FLATTEST, pixel_aspect

__all__ = [
    "CALIBRATED",
    "MAX_FRAMES",
    "MAX_FRAME_PIXELS",
    "DecodeError",
    "Frame",
    "ImageObject",
    "decode_frame",
    "frame_of",
    "shown",
    "spacing_of",
]

CALIBRATED = "SequenceOfUltrasoundRegions"  # the spacing source that only a scanner writes


@dataclass(frozen=True)
class Frame:
    """One frame of an object.

    Attributes
    ----------
    pixels : uint8 array (rows, columns, 3), RGB
    index, frames : which frame, counted from zero, of how many
    spacing_mm : distance between pixel centres as (row, column) in millimetres, or None
    spacing_source : the attribute the spacing came from, empty if there is none
    pixel_aspect : height of a pixel by its width as the object tells it without millimetres (PS3.3 C.7.6.3.1.7)
    modality, sop_class_uid, sop_instance_uid, body_part : as in the object, empty if absent
    region : the part of the frame that shows the image, x0, y0, x1, y1 (exclusive), in pixels
    regions : all ultrasound regions of the object
    grey : the same pixels as uint8 (rows, columns) if the object has no colour, else None
    """

    pixels: NDArray[np.uint8]
    index: int = 0
    frames: int = 1
    spacing_mm: tuple[float, float] | None = None
    spacing_source: str = ""
    modality: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    body_part: str = ""
    region: tuple[int, int, int, int] | None = None
    regions: tuple[Region, ...] = field(default=())
    grey: NDArray[np.uint8] | None = None
    pixel_aspect: float = 1.0

    @property
    def aspect(self) -> float:
        """Height of a pixel by its width: by its spacing where that is known."""
        ratio = self.spacing_mm[0] / self.spacing_mm[1] if self.spacing_mm else self.pixel_aspect
        return ratio if 1 / FLATTEST <= ratio <= FLATTEST else 1.0


def decode_frame(source: bytes | bytearray | memoryview | BinaryIO, index: int | None = None) -> Frame:
    """Decode one frame of a DICOM object.

    Parameters
    ----------
    source : a DICOM file (PS3.10) or a bare data set, as bytes or as a seekable binary file such as
        ``privacy.reading.open_object`` gives; of a file only the header and this frame are read
    index : which frame, counted from zero; the middle one if None, because sonographers freeze around the lesion

    Raises
    ------
    DecodeError
        If the source is no image object, is damaged, uses an unsupported codec, or declares an absurd size.
    VaultDamaged
        If the source is a vault object that was altered.
    """
    image = ImageObject(source)
    return frame_of(image, image.frames // 2 if index is None else index)


def frame_of(image: ImageObject, index: int) -> Frame:
    """Decode one frame of an opened object; errors as `decode_frame`."""
    stored = image.stored(index)
    with told():
        grey: NDArray[np.uint8] | None = None
        if stored.values.ndim == 3:
            pixels = to_rgb(stored.values, stored.photometric, stored.bits)
        elif stored.photometric == "PALETTE COLOR":
            pixels = apply_palette(stored.values, image.dataset)
        else:
            grey = shown(image, stored, index).grey
            pixels = np.broadcast_to(grey[:, :, None], (*grey.shape, 3))
        regions = read_regions(image.dataset, image.rows, image.columns)
        region = max((r for r in regions if r.is_tissue), key=lambda r: r.area, default=None)
        spacing, source = spacing_of(image, index, region)
        return Frame(
            pixels=pixels,
            index=index,
            frames=image.frames,
            spacing_mm=spacing,
            spacing_source=source,
            modality=image.text("Modality"),
            sop_class_uid=image.text("SOPClassUID"),
            sop_instance_uid=image.text("SOPInstanceUID"),
            body_part=image.text("BodyPartExamined"),
            region=region.box if region else None,
            regions=regions,
            grey=grey,
            pixel_aspect=pixel_aspect(image.dataset, index),
        )


def shown(
    image: ImageObject,
    stored: Stored,
    index: int,
    window: tuple[float, float] | None = None,
    function: str | None = None,
) -> Shown:
    """Show a frame without colour as grey of 8 bits.

    With the object's window or with `window` (center, width), by the object's function or by `function`.
    """
    return show(
        stored.values,
        image.dataset,
        bits=stored.bits,
        index=index,
        inverse=stored.photometric == "MONOCHROME1",
        window=window,
        function=function,
    )


def spacing_of(image: ImageObject, index: int, region: Region | None) -> tuple[tuple[float, float] | None, str]:
    """Pixel spacing in millimetres as (row, column) and the attribute it came from.

    An ultrasound region's physical delta (PS3.3 C.8.5.5) comes first: it is the calibration made by the scanner.
    """
    if region is not None and region.spacing_mm is not None:
        return region.spacing_mm, CALIBRATED
    if region is not None and region.other_units:
        return None, ""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        value = attribute(image.dataset, keyword, index, "PixelMeasuresSequence")
        if value is None:
            continue
        try:
            row, column = (float(v) for v in value)
        except (TypeError, ValueError):
            continue
        if 0.001 <= row <= 10.0 and 0.001 <= column <= 10.0:
            return (row, column), keyword
    return None, ""
