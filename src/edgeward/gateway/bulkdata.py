"""Bulk data of a stored object: long binary values, each under an address of its own (PS3.18, 10.4.1.1.5 and F.2.2).

Responsible for which values are bulk, how they are addressed, and for giving one out in little-endian order. Not
responsible for pixels: those are given by frame (``frames``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread
from pydicom.uid import ExplicitVRBigEndian

from edgeward.privacy.character_sets import declare

BULK = 1024  # bytes: a longer binary value is bulk data
LARGEST = 64 << 20  # bytes: a longer one is not read at all
BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_WIDTHS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
_PATH = re.compile(r"[0-9A-Fa-f]{8}(/[1-9]\d{0,4}/[0-9A-Fa-f]{8}){0,16}")

Place = tuple[int, ...]
"""A tag; or the tag of a sequence, the number of an item from 1, a tag in it, and so on."""


class NoBulk(LookupError):
    """There is no such value; the text says why, without a value of the object."""


def opened(file: Any) -> Dataset:
    """Return the data set of a DICOM file without pixels, and without what is too long to be read."""
    dataset = declare(dcmread(file, stop_before_pixels=True, defer_size=LARGEST))
    for tag, element in list(dataset.items()):
        if isinstance(element, RawDataElement) and element.value is None and element.length:  # was not read
            del dataset[tag]
    return dataset


def bulk_of(dataset: Dataset, before: Place = ()) -> Iterator[tuple[Place, str]]:
    """Yield the place and value representation of every value that is bulk data."""
    for tag in list(dataset.keys()):
        element = dataset[tag]
        if element.VR == "SQ":
            for number, item in enumerate(element.value, start=1):
                yield from bulk_of(item, (*before, int(tag), number))
        elif element.VR in BINARY and element.value is not None and len(element.value) > BULK:
            yield (*before, int(tag)), element.VR


def path_of(place: Place) -> str:
    """Return how a place is written in an address."""
    return "/".join(f"{part:08X}" if index % 2 == 0 else str(part) for index, part in enumerate(place))


def place_of(path: str) -> Place:
    """Return the place that an address names.

    Raises
    ------
    NoBulk
        If it names none.
    """
    if not _PATH.fullmatch(path):
        raise NoBulk("bulk data is addressed by tags")
    return tuple(int(part, 10 if index % 2 else 16) for index, part in enumerate(path.split("/")))


def bulk_value(file: Any, place: Place) -> bytes:
    """Return a value of a DICOM file, numbers in it in little-endian order.

    Raises
    ------
    NoBulk
        If there is none, or the object cannot be parsed.
    """
    try:
        dataset = opened(file)
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        for tag, number in zip(place[:-1:2], place[1::2], strict=True):
            dataset = dataset[tag].value[number - 1]
        element = dataset[place[-1]]
        if element.VR not in BINARY or not isinstance(element.value, bytes):
            raise KeyError
        value = element.value
    except Exception as error:  # a parser met bytes somebody else chose: any of its errors means the same
        raise NoBulk(f"the object has no such bulk data that can be read ({type(error).__name__})") from None
    width = _WIDTHS.get(element.VR, 1)
    if syntax == ExplicitVRBigEndian and width > 1 and len(value) % width == 0:
        return np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()
    return value
