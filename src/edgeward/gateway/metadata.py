"""The attributes of a stored object as DICOM JSON (PS3.18, Annex F), bulk data and pixels by their address.

Responsible for reading a header in bounded memory. Not responsible for giving out what is under these addresses
(``bulkdata``, ``frames``).
"""

from __future__ import annotations

import math
import struct
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from edgeward.gateway.bulkdata import Place, bulk_of, opened, path_of
from edgeward.gateway.frames import NoFrames, pixel_store, value_of_pixel_data
from edgeward.privacy.catalogue import Held

_UTF8 = {"vr": "CS", "Value": ["ISO_IR 192"]}


def metadata(file: Any, held: Held, address: str) -> dict[str, Any]:
    """Return all attributes of an object; of bulk data and pixels the address.

    Of an object that cannot be parsed only its UIDs are told.

    Parameters
    ----------
    file
        A DICOM file.
    address
        Of the instance; its bulk data is below it.
    """
    try:
        dataset = opened(file)
        pixels = _pixels(file, dataset, address)  # first: the file stands before them
        bulk = list(bulk_of(dataset))
        for place, _ in bulk:
            _within(dataset, place)[place[-1]].value = None
        found = _finite(_model(dataset))
        for place, vr in bulk:
            _point(found, place, {"vr": vr, "BulkDataURI": f"{address}/bulkdata/{path_of(place)}"})
    except Exception:  # a parser met bytes somebody else chose: any of its errors means the same
        found = {}
    else:
        found |= pixels
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


def _model(dataset: Dataset) -> dict[str, Any]:
    """Return a data set in the DICOM JSON model; what cannot be converted is left out, by itself.

    pydicom's own way, which leaves out as well, reads strictly meanwhile, in all threads, leaves out a whole sequence
    for one wrong value in it, and logs that value.
    """
    found: dict[str, Any] = {}
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            if element.VR == "SQ":
                found[f"{tag:08X}"] = {"vr": "SQ", "Value": [_model(item) for item in element.value]}
            else:
                found[f"{tag:08X}"] = element.to_json_dict(None, 0)
        except Exception:  # noqa: S112 - a parser met bytes somebody else chose: any of its errors means the same
            continue
    return found


def _pixels(file: Any, dataset: Dataset, address: str) -> dict[str, Any]:
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if "Rows" not in dataset:
        return {}
    try:
        if syntax == DeflatedExplicitVRLittleEndian:
            file.seek(0)
            tag = pixel_store(file).tag
        else:
            tag, _ = value_of_pixel_data(file, syntax)
    except (NoFrames, struct.error):
        return {}
    vr = {0x7FE00008: "OF", 0x7FE00009: "OD"}.get(tag, "OB" if UID(syntax).is_encapsulated else "OW")
    return {f"{tag:08X}": {"vr": vr, "BulkDataURI": f"{address}/bulkdata/{tag:08X}"}}


def _within(dataset: Dataset, place: Place) -> Dataset:
    for tag, number in zip(place[:-1:2], place[1::2], strict=True):
        dataset = dataset[tag].value[number - 1]
    return dataset


def _point(found: dict[str, Any], place: Place, bulk: dict[str, str]) -> None:
    for tag, number in zip(place[:-1:2], place[1::2], strict=True):
        found = found[f"{tag:08X}"]["Value"][number - 1]
    found[f"{place[-1]:08X}"] = bulk


def _finite(value: Any) -> Any:
    """Return a JSON value without numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
