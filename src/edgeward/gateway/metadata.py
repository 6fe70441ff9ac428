"""The attributes of a stored object as DICOM JSON (PS3.18, Annex F), without bulk data.

Responsible for reading a header in bounded memory and for leaving out what is bulk. Not responsible for pixels.
"""

from __future__ import annotations

import math
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread

from edgeward.privacy.catalogue import Held

BULK = 1024  # bytes: a longer binary value is bulk data and left out
_LARGEST = 64 << 20  # a longer element is not read at all
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_UTF8 = {"vr": "CS", "Value": ["ISO_IR 192"]}


def metadata(file: Any, held: Held) -> dict[str, Any]:
    """Return all attributes of an object but bulk data and pixels.

    Of an object that cannot be parsed only its UIDs are told.

    Parameters
    ----------
    file
        A DICOM file.
    """
    try:
        dataset = dcmread(file, stop_before_pixels=True, defer_size=_LARGEST)
        for tag, element in list(dataset.items()):
            if isinstance(element, RawDataElement) and element.value is None and element.length:  # was not read
                del dataset[tag]
        _without_bulk(dataset)
        found = _finite(dataset.to_json_dict(suppress_invalid_tags=True))
    except Exception:  # a parser met bytes somebody else chose: any of its errors means the same
        found = {}
    result: dict[str, Any] = {tag: element for tag, element in found.items() if not tag.startswith("0002")}
    result["00080005"] = _UTF8
    for tag, value in (
        ("00080016", held.sop_class_uid),
        ("00080018", held.sop_instance_uid),
        ("0020000D", held.study_instance_uid),
        ("0020000E", held.series_instance_uid),
        ("00083002", held.transfer_syntax_uid),
    ):
        if value:
            result[tag] = {"vr": "UI", "Value": [value]}
    return dict(sorted(result.items()))


def _without_bulk(dataset: Dataset) -> None:
    for tag in list(dataset.keys()):
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                _without_bulk(item)
        elif element.VR in _BINARY and element.value is not None and len(element.value) > BULK:
            del dataset[tag]


def _finite(value: Any) -> Any:
    """Return a JSON value without numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
