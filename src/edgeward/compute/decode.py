"""DICOM bytes to one frame of 8-bit RGB pixels with its spacing.

Responsible for reading an object that anyone may have sent: choosing the frame, decoding with the codec chosen per
transfer syntax, turning every photometric interpretation into RGB, and finding the pixel spacing. Whatever is wrong
ends as a `DecodeError` with a reason, in bounded memory. Not responsible for judging whether the image is of the kind
that a model knows (see ``breast_ultrasound.py``).
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing, pixel_array

from edgeward.compute.codestream import CodestreamError, frame_size
from edgeward.compute.regions import Region, read_regions

MAX_FRAME_PIXELS = 64 * 1024 * 1024  # 8192 x 8192; the largest diagnostic frame in use is a mammogram of 30 million
MAX_FRAMES = 100_000
MAX_SAMPLES = 3
CALIBRATED = "SequenceOfUltrasoundRegions"  # the spacing source that only a scanner writes
_DEFLATED = "1.2.840.10008.1.2.1.99"
_IMPLICIT = "1.2.840.10008.1.2"
_MAX_INFLATED = 1024 * 1024 * 1024
# The fastest of the permitted codecs per transfer syntax, as measured; any other installed one is the fall-back.
_PREFERRED = {
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.5": "pylibjpeg",
}


class DecodeError(ValueError):
    """The object cannot be turned into a frame; the text says why and contains no identity and no pixel."""


@dataclass(frozen=True)
class Frame:
    """One frame of an object.

    Attributes
    ----------
    pixels : uint8 array (rows, columns, 3), RGB
    index, frames : which frame, counted from zero, of how many
    spacing_mm : distance between pixel centres as (row, column) in millimetres, or None
    spacing_source : the attribute the spacing came from, empty if there is none
    modality, sop_class_uid, sop_instance_uid, body_part : as in the object, empty if absent
    region : the part of the frame that shows the image, x0, y0, x1, y1 (exclusive), in pixels
    regions : all ultrasound regions of the object
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


def decode_frame(data: bytes) -> Frame:
    """Decode the middle frame of a DICOM object.

    Of a cine loop the middle frame stands for the whole: sonographers freeze around the lesion. `Frame.index` says
    which frame it was.

    Parameters
    ----------
    data : a DICOM file (part 10), or a bare data set in implicit little endian

    Raises
    ------
    DecodeError
        If the bytes are no image object, are damaged, use an unsupported codec, or declare an absurd size.
    """
    try:
        return _decode(data)
    except DecodeError:
        raise
    except CodestreamError as error:
        raise DecodeError(str(error)) from error
    except RecursionError as error:
        raise DecodeError("the data set is nested too deeply") from error
    except MemoryError as error:
        raise DecodeError("the object needs more memory than there is") from error
    except Exception as error:
        # pydicom and the codecs raise whatever their parser met; their texts may quote values, so only the kind is
        # told.
        raise DecodeError(f"the object cannot be read ({type(error).__name__})") from error


def _decode(data: bytes) -> Frame:
    dataset = _read(data)
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise DecodeError("floating-point pixel data is not supported")
        raise DecodeError("the object contains no pixel data")
    rows, columns, samples, frames = _declared_size(dataset)
    index = frames // 2
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        _check_codestream(dataset, index, frames, rows, columns)
    else:
        _check_native(dataset, rows, columns, samples, frames)
    raw = _pixels(dataset, syntax, index)
    if raw.shape[:2] != (rows, columns):
        raise DecodeError(f"decoded {raw.shape[0]}x{raw.shape[1]} pixels, the object declares {rows}x{columns}")
    rgb = _to_rgb(dataset, raw)
    regions = read_regions(dataset, rows, columns)
    image = max((r for r in regions if r.is_tissue), key=lambda r: r.area, default=None)
    spacing, source = _spacing(dataset, image)
    return Frame(
        pixels=rgb,
        index=index,
        frames=frames,
        spacing_mm=spacing,
        spacing_source=source,
        modality=_text(dataset, "Modality"),
        sop_class_uid=_text(dataset, "SOPClassUID"),
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        body_part=_text(dataset, "BodyPartExamined"),
        region=image.box if image else None,
        regions=regions,
    )


def _text(dataset: Any, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _read(data: bytes) -> Any:
    if len(data) < 132:
        raise DecodeError(f"{len(data)} bytes are too few for a DICOM object")
    _check_deflated(data)
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
    except InvalidDicomError:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        if "SOPClassUID" not in dataset and "PixelData" not in dataset:
            raise DecodeError("not a DICOM object") from None
    if "TransferSyntaxUID" not in dataset.file_meta:
        little, implicit = dataset.original_encoding[1], dataset.original_encoding[0]
        native = _IMPLICIT if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(native)
    return dataset


def _check_deflated(data: bytes) -> None:
    """Refuse a deflated data set that would inflate without bound (PS3.5 A.5; pydicom inflates it whole)."""
    if data[128:132] != b"DICM" or _DEFLATED.encode() not in data[132:4096]:
        return
    if data[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise DecodeError("deflated object without a group length in its header")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pending, total = data[144 + int.from_bytes(data[140:144], "little") :], 0
    while pending and not inflater.eof:
        chunk = inflater.decompress(pending, 1 << 20)
        pending = inflater.unconsumed_tail
        total += len(chunk)
        if total > _MAX_INFLATED:
            raise DecodeError(f"deflated object inflates to more than {_MAX_INFLATED} bytes")
        if not chunk and not pending:
            break


def _declared_size(dataset: Any) -> tuple[int, int, int, int]:
    """Rows, columns, samples and frames, refused before anything is allocated if they are absurd."""
    numbers = {}
    for keyword, default in (
        ("Rows", None),
        ("Columns", None),
        ("SamplesPerPixel", 1),
        ("NumberOfFrames", 1),
        ("BitsAllocated", None),
    ):
        value = dataset.get(keyword)
        if value is None or value == "":
            value = default
        try:
            numbers[keyword] = int(value)
        except (TypeError, ValueError) as error:
            raise DecodeError(f"{keyword} is missing or not a number") from error
    rows, columns, samples = numbers["Rows"], numbers["Columns"], numbers["SamplesPerPixel"]
    frames = max(1, numbers["NumberOfFrames"])
    if rows < 1 or columns < 1 or rows * columns > MAX_FRAME_PIXELS:
        raise DecodeError(f"a frame of {rows}x{columns} pixels is outside 1..{MAX_FRAME_PIXELS}")
    if samples not in (1, MAX_SAMPLES):
        raise DecodeError(f"{samples} samples per pixel are not supported")
    if frames > MAX_FRAMES:
        raise DecodeError(f"{frames} frames are more than {MAX_FRAMES}")
    if numbers["BitsAllocated"] not in (1, 8, 16, 32):
        raise DecodeError(f"{numbers['BitsAllocated']} bits per sample are not supported")
    return rows, columns, samples, frames


def _check_native(dataset: Any, rows: int, columns: int, samples: int, frames: int) -> None:
    wanted = (rows * columns * samples * frames * int(dataset.BitsAllocated) + 7) // 8
    if str(dataset.get("PhotometricInterpretation", "")).strip() == "YBR_FULL_422":
        wanted = wanted * 2 // 3
    have = len(dataset.PixelData)
    if have < wanted:
        raise DecodeError(f"truncated: {have} of {wanted} bytes of pixel data")


def _check_codestream(dataset: Any, index: int, frames: int, rows: int, columns: int) -> None:
    """Compare the size written in the compressed frame with the declared one, so that no codec allocates the former."""
    frame = get_frame(dataset.PixelData, index, number_of_frames=frames)
    size = frame_size(frame)
    if size is not None and size != (rows, columns):
        raise DecodeError(f"the compressed frame is {size[0]}x{size[1]} pixels, the object declares {rows}x{columns}")


def _pixels(dataset: Any, syntax: str, index: int) -> NDArray[Any]:
    preferred = _PREFERRED.get(syntax, "")
    if preferred:
        try:
            return np.asarray(pixel_array(dataset, index=index, decoding_plugin=preferred))
        except (ValueError, RuntimeError, NotImplementedError, AttributeError):
            preferred = ""  # a codec may lack one variant that another has: 12-bit JPEG, for one
    try:
        return np.asarray(pixel_array(dataset, index=index))
    except NotImplementedError as error:
        raise DecodeError(f"transfer syntax {syntax} is not supported") from error
    except (RuntimeError, ValueError) as error:
        raise DecodeError(f"damaged, or in a variant of transfer syntax {syntax} that no codec here reads") from error


def _to_rgb(dataset: Any, raw: NDArray[Any]) -> NDArray[np.uint8]:
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip()
    if photometric == "PALETTE COLOR":
        raw = np.asarray(apply_color_lut(raw, dataset))[..., :3]
        # Palettes of 16 bits are the rule; entries that only use the low byte are a common mistake (PS3.3 C.7.6.3.1.5).
        if raw.dtype != np.uint8:
            raw = raw >> 8 if int(raw.max(initial=0)) > 255 else raw
        return np.ascontiguousarray(raw, dtype=np.uint8)
    if raw.ndim == 3:
        return np.ascontiguousarray(raw if raw.dtype == np.uint8 else _stretch(raw))
    grey = _grey(dataset, raw)
    if photometric == "MONOCHROME1":
        grey = 255 - grey
    return np.repeat(grey[:, :, None], 3, axis=2)


def _grey(dataset: Any, raw: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit grey by the object's window, else as is for 8 bits, else stretched between the extremes."""
    if "WindowCenter" in dataset and "WindowWidth" in dataset:
        values = np.asarray(apply_windowing(apply_modality_lut(raw, dataset), dataset), dtype=np.float64)
        bits = int(dataset.get("BitsStored", 8))
        signed = int(dataset.get("PixelRepresentation", 0)) == 1
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
        if "RescaleSlope" in dataset and "RescaleIntercept" in dataset:
            slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
            low, high = sorted((low * slope + intercept, high * slope + intercept))
        span = max(high - low, 1e-9)
        return np.asarray(np.clip((values - low) / span * 255.0 + 0.5, 0, 255), dtype=np.uint8)
    if raw.dtype == np.uint8 and int(dataset.get("BitsStored", 8)) == 8:
        return np.asarray(raw)
    return _stretch(raw)


def _stretch(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    return np.asarray((values.astype(np.float64) - low) / max(high - low, 1e-9) * 255.0 + 0.5, dtype=np.uint8)


def _spacing(dataset: Any, region: Region | None) -> tuple[tuple[float, float] | None, str]:
    """Pixel spacing in millimetres as (row, column) and the attribute it came from.

    An ultrasound region's physical delta (PS3.3 C.8.5.5) comes first: it is the calibration made by the scanner.
    """
    if region is not None and region.spacing_mm is not None:
        return region.spacing_mm, CALIBRATED
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        value = dataset.get(keyword)
        if value is None:
            continue
        try:
            row, column = (float(v) for v in value)
        except (TypeError, ValueError):
            continue
        if 0.001 <= row <= 10.0 and 0.001 <= column <= 10.0:
            return (row, column), keyword
    return None, ""
