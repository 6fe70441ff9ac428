"""Objects that come as metadata and bulk data (PS3.18, 10.5.1.4): put together again into data sets.

Responsible for what such a request is made of, for finding the bulk data that metadata names, and for encoding the
object. Not responsible for the body's boundaries (``multipart``), for the answer (``stow``), or for keeping the object
(``reception``). Pure: nothing is fetched from an address that metadata names.

Such an object has to be held whole until its last part has come, because its header names what follows. So a request
may have 64 MB; as DICOM files objects may be as large as they like.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urljoin

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from edgeward.gateway.dataset import CANNOT_UNDERSTAND, NotUnderstood
from edgeward.gateway.multipart import MediaType, MultipartError, media_type
from edgeward.gateway.native_xml import NotNative, from_native_xml

MOST = 64 << 20  # bytes of all parts of one request
_METADATA = 16 << 20  # bytes of one part with metadata
_OBJECTS = 10_000  # of one request
_DEEPEST = 40  # sequences within sequences
_PIXEL_DATA = Tag(0x7FE0, 0x0010)
# How pydicom writes what depends on other elements.
_AMBIGUOUS = {"OB or OW": "OW", "US or SS": "US", "US or OW": "OW", "US or SS or OW": "OW"}
_TEXT = frozenset({"LT", "ST", "UC", "UR", "UT"})
_UNWANTED = (0x00083002, 0x00041500)  # Available Transfer Syntax UID is of the answer to a search, not of an object
# PS3.18, table 8.7.3-2: what a media type of pixel data means where no transfer syntax is told.
_SYNTAXES = {
    "image/jpeg": "1.2.840.10008.1.2.4.70",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jpx": "1.2.840.10008.1.2.4.92",
    "image/jphc": "1.2.840.10008.1.2.4.201",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "video/mpeg2": "1.2.840.10008.1.2.4.100",
    "video/mpeg": "1.2.840.10008.1.2.4.100",
    "video/mp4": "1.2.840.10008.1.2.4.102",
}
_JPEG_PROCESSES = {0xC0: "1.2.840.10008.1.2.4.50", 0xC1: "1.2.840.10008.1.2.4.51", 0xC3: "1.2.840.10008.1.2.4.70"}


class TooMuch(ValueError):
    """There is more of it than is held at a time."""


@dataclass(frozen=True, slots=True)
class Composed:
    """An object as C-STORE would send it: its data set in its transfer syntax."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes = field(repr=False)


@dataclass(slots=True)
class _Bulk:
    """A value of its own; of compressed pixel data one part per frame."""

    kind: MediaType
    parts: list[bytes]


class MetadataParts:
    """Gathers the parts of a request.

    Parameters
    ----------
    kind
        ``json``: one part holds an array of objects. ``xml``: each holds one.
    base
        The address of the request, against which relative addresses of bulk data are resolved.
    """

    def __init__(self, kind: Literal["json", "xml"], base: str) -> None:
        self._kind, self._base = kind, base
        self._metadata: list[bytes] = []
        self._bulk: dict[str, _Bulk] = {}
        self._now: tuple[MediaType, str] | None = None
        self._waiting = bytearray()
        self._held = 0
        self._wrong: list[NotUnderstood] = []

    def begin(self, headers: dict[str, str]) -> None:
        """Begin a part."""
        default = f"application/dicom+{self._kind}" if not self._metadata else "application/octet-stream"
        try:
            kind = media_type(headers.get("content-type", default))
        except MultipartError:
            kind = MediaType("", {})
        self._now = kind, headers.get("content-location", "").strip()

    def write(self, data: bytes) -> None:
        """Take the next bytes of the part.

        Raises
        ------
        TooMuch
            If the request is larger than what is held.
        """
        self._held += len(data)
        if self._held > MOST:
            raise TooMuch(f"metadata with bulk data may have {MOST >> 20} MB a request; send DICOM files instead")
        self._waiting += data

    def end(self) -> None:
        """End the part."""
        assert self._now is not None
        (kind, location), data = self._now, bytes(self._waiting)
        self._now, self._waiting = None, bytearray()
        metadata = (f"application/dicom+{self._kind}", f"application/{self._kind}", f"text/{self._kind}")
        if kind.name in metadata and not location:
            self._metadata.append(data)
            return
        if not location:
            self._wrong.append(NotUnderstood(CANNOT_UNDERSTAND, "a part with bulk data has no Content-Location"))
            return
        known = self._bulk.setdefault(urljoin(self._base, location), _Bulk(kind, []))
        known.parts.append(data)

    def objects(self) -> Iterator[Composed | NotUnderstood]:
        """Yield each object, or why it is none. Costs time: call it in a thread."""
        yield from self._wrong
        count = 0
        for document in self._metadata:
            try:
                if len(document) > _METADATA:
                    raise NotUnderstood(CANNOT_UNDERSTAND, f"its metadata is larger than {_METADATA >> 20} MB")
                models = _models(document, self._kind)
            except NotUnderstood as error:
                yield error
                continue
            for model in models:
                count += 1
                if count > _OBJECTS:
                    yield NotUnderstood(CANNOT_UNDERSTAND, f"there are more than {_OBJECTS} objects in the request")
                    return
                try:
                    yield self._composed(model)
                except NotUnderstood as error:
                    yield error

    def _composed(self, model: dict[str, Any]) -> Composed:
        used: dict[int, _Bulk] = {}

        def found(tag: str, vr: str, uri: str) -> Any:
            bulk = self._bulk.get(urljoin(self._base, str(uri)))
            if bulk is None:
                raise NotUnderstood(CANNOT_UNDERSTAND, "its bulk data is not in the request")
            used[int(tag, 16)] = bulk
            value = b"".join(bulk.parts)
            return value.decode("utf-8") if vr in _TEXT else value + b"\0" * (len(value) % 2)

        try:
            told = {tag: value for tag, value in model.items() if not tag.startswith(("0000", "0002"))}
            dataset = Dataset.from_json(told, found)
            for unwanted in _UNWANTED:
                dataset.pop(unwanted, None)
            dataset.SpecificCharacterSet = "ISO_IR 192"
            _shorten(dataset)
            syntax = _pixels(dataset, used.get(int(_PIXEL_DATA)))
            buffer = DicomBytesIO()
            buffer.is_little_endian, buffer.is_implicit_VR = True, False
            write_dataset(buffer, dataset)
            return Composed(
                str(dataset.get("SOPClassUID", "")), str(dataset.get("SOPInstanceUID", "")), syntax, buffer.getvalue()
            )
        except NotUnderstood:
            raise
        except Exception as error:  # a parser met values somebody else chose: any of its errors means the same
            raise NotUnderstood(CANNOT_UNDERSTAND, f"its metadata cannot be used ({type(error).__name__})") from None


def _models(document: bytes, kind: str) -> list[dict[str, Any]]:
    """Return the objects of a document in the DICOM JSON model.

    Raises
    ------
    NotUnderstood
        If it is not one.
    """
    try:
        if kind == "xml":
            return [from_native_xml(document)]
        told = json.loads(document)
    except (ValueError, RecursionError, NotNative) as error:
        raise NotUnderstood(CANNOT_UNDERSTAND, f"its metadata cannot be read ({type(error).__name__})") from None
    models = told if isinstance(told, list) else [told]
    if not models or not all(isinstance(model, dict) and _shallow(model, 0) for model in models):
        raise NotUnderstood(CANNOT_UNDERSTAND, "its metadata is not an array of objects")
    return models


def _shallow(model: Any, depth: int) -> bool:
    if depth > _DEEPEST:
        return False
    items = [
        item
        for attribute in model.values()
        if isinstance(attribute, dict) and attribute.get("vr") == "SQ"
        for item in attribute.get("Value") or ()
    ]
    return all(isinstance(item, dict) and _shallow(item, depth + 1) for item in items)


def _shorten(dataset: Dataset) -> None:
    """Write decimal strings so that they fit 16 characters: JSON numbers may have more digits (PS3.5, 6.2).

    A value representation that is none of the standard's, as one library writes it, is settled too.
    """
    for element in dataset:
        element.VR = _AMBIGUOUS.get(element.VR, element.VR)
        if element.VR == "SQ":
            for item in element.value:
                _shorten(item)
        elif element.VR == "DS" and element.value not in ("", None):
            many = element.VM > 1
            values = [DSfloat(value, auto_format=True) for value in (element.value if many else [element.value])]
            element.value = values if many else values[0]


def _pixels(dataset: Dataset, bulk: _Bulk | None) -> str:
    """Encapsulate pixel data that came compressed; return the transfer syntax of the object."""
    if bulk is None or _PIXEL_DATA not in dataset:
        return str(ExplicitVRLittleEndian)
    first = bulk.parts[0]
    told = bulk.kind.parameters.get("transfer-syntax", "")
    syntax = told or _SYNTAXES.get(bulk.kind.name, str(ExplicitVRLittleEndian))
    start = _start_of_frame(first) if bulk.kind.name == "image/jpeg" else None
    if start is not None and not told:
        syntax = _JPEG_PROCESSES.get(start[0], syntax)
    if not UID(syntax).is_encapsulated:
        if syntax != ExplicitVRLittleEndian:  # 10.5.1.4: uncompressed is little-endian, whatever else is told
            raise NotUnderstood(CANNOT_UNDERSTAND, "its uncompressed pixel data is not Explicit VR Little Endian")
        return syntax
    if start is not None and "Rows" not in dataset:
        _describe(dataset, start)
    if UID(syntax).is_transfer_syntax and bulk.kind.name.startswith("video/"):
        frames = [b"".join(bulk.parts)]
    else:
        frames = bulk.parts
    element = DataElement(_PIXEL_DATA, "OB", encapsulate(frames))
    element.is_undefined_length = True
    dataset[_PIXEL_DATA] = element
    return syntax


def _start_of_frame(data: bytes) -> tuple[int, int, int, int, int] | None:
    """Return process, precision, rows, columns and components of a JPEG (ITU-T T.81, B.2.2), or None."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            rows, columns = (int.from_bytes(data[at + 5 + k : at + 7 + k], "big") for k in (0, 2))
            return marker, data[at + 4], rows, columns, data[at + 9]
        else:
            at += 2 + length
    return None


def _describe(dataset: Dataset, start: tuple[int, int, int, int, int]) -> None:
    """Fill in the Image Pixel Description that may be left out for this media type (10.5.1.4)."""
    _, precision, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = start
    dataset.BitsStored, dataset.HighBit = precision, precision - 1
    dataset.BitsAllocated, dataset.PixelRepresentation = (8 if precision <= 8 else 16), 0
    if dataset.SamplesPerPixel == 1:
        dataset.setdefault("PhotometricInterpretation", DataElement(0x00280004, "CS", "MONOCHROME2"))
    else:
        dataset.PlanarConfiguration = 0
        dataset.setdefault("PhotometricInterpretation", DataElement(0x00280004, "CS", "YBR_FULL_422"))
