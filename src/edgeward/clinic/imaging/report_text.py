"""A structured report as plain text, for people and for the console.

Responsible for reading any SR content tree, not only ours. Not responsible for writing one: that is ``report``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from pydicom.dataset import Dataset


def walk(document: Dataset, depth: int = 0) -> Iterator[tuple[int, Dataset]]:
    """Yield depth and content item of an SR document, depth first, the root at depth 0."""
    yield depth, document
    for item in document.get("ContentSequence", []):
        yield from walk(item, depth + 1)


def as_text(document: Dataset) -> str:
    """Return an SR document as indented plain text. Contains no patient attributes.

    Reads any SR content tree, not only ours; a value type it does not know is named, not left out.
    """
    flags = [str(document.get(key, "")).lower() for key in ("PreliminaryFlag", "VerificationFlag")]
    lines = [", ".join(flag for flag in flags if flag)]
    for depth, item in walk(document):
        concept = _meaning(item.get("ConceptNameCodeSequence"))
        value = _value(item)
        text = f"{concept}: {value}" if concept and value else concept or value
        lines.append("  " * depth + text)
    return "\n".join(line for line in lines if line.strip()) + "\n"


def _meaning(sequence: Any) -> str:
    return str(sequence[0].get("CodeMeaning", "")) if sequence else ""


def _value(item: Dataset) -> str:
    kind = str(item.get("ValueType", ""))
    if kind == "CONTAINER":
        return ""
    if kind == "CODE":
        return _meaning(item.get("ConceptCodeSequence"))
    if kind == "NUM":
        measured = item.get("MeasuredValueSequence")
        if not measured:
            return "no value"
        units = measured[0].get("MeasurementUnitsCodeSequence")
        unit = str(units[0].get("CodeValue", "")) if units else ""
        return f"{measured[0].get('NumericValue', '')} {unit.strip('{}')}".strip()
    if kind in ("IMAGE", "COMPOSITE"):
        references = item.get("ReferencedSOPSequence")
        if not references:
            return "no reference"
        frame = references[0].get("ReferencedFrameNumber")
        return f"{references[0].get('ReferencedSOPInstanceUID', '')}" + (f", frame {frame}" if frame else "")
    if kind in ("SCOORD", "SCOORD3D"):
        data = np.asarray(item.get("GraphicData", []), dtype=np.float64)
        step = 3 if kind == "SCOORD3D" else 2
        points = data[: len(data) // step * step].reshape(-1, step)
        if not len(points):
            return "no coordinates"
        (x0, y0), (x1, y1) = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
        shape = str(item.get("GraphicType", "")).lower()
        return f"{shape} of {len(points)} points, columns {x0:.1f} to {x1:.1f}, rows {y0:.1f} to {y1:.1f}"
    for keyword in ("TextValue", "UID", "DateTime", "Date", "Time", "PersonName"):
        if keyword in item:
            return str(item[keyword].value)
    return f"({kind or 'unknown'} item)"
