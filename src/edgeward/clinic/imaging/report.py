"""The structured report: one finding as a DICOM SR document, TID 1500 "Measurement Report" (PS3.16).

Responsible for the content tree and for reading one back as plain text. Not responsible for what is inherited from the
image (``header``) or for sending it (``pacs``).

The document is a Comprehensive SR (PS3.3 A.35.3): the richest of the SR classes that ordinary archives accept. It is
complete, preliminary and unverified, always: AI proposes, a clinician disposes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import tzinfo
from typing import Any

import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ComprehensiveSRStorage

from edgeward.clinic.imaging.header import MANUFACTURER, Source, derived_uid, new_instance, widen_charset
from edgeward.messages import Finding, Lesion

# Codes are written out: PS3.16 annex D (DCM), the SNOMED CT subset of DICOM (SCT), UCUM.
_BREAST = Code("76752008", "SCT", "Breast")
_SIDES = {
    "R": Code("24028007", "SCT", "Right"),  # CID 244 "Laterality"
    "L": Code("7771000", "SCT", "Left"),
    "B": Code("51440002", "SCT", "Right and left"),
}
_BREAST_ULTRASOUND = Code("47079000", "SCT", "Ultrasonography of breast")
_IMAGING = Code("363679005", "SCT", "Imaging procedure")
_LESION = Code("52988006", "SCT", "Lesion")
_LONG_AXIS = Code("103339001", "SCT", "Long Axis")
_SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
_AREA = Code("42798000", "SCT", "Area")
_CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
_PROBABILITY_OF_CANCER = Code("111047", "DCM", "Probability of cancer")
_IMAGE_REGION = Code("111030", "DCM", "Image Region")
_IMPRESSION = Code("121073", "DCM", "Impression")
_COMMENT = Code("121106", "DCM", "Comment")
_LABELS = {
    "benign": Code("30807003", "SCT", "Benign"),
    "malignant": Code("21594007", "SCT", "Malignant"),
    "normal": Code("17621005", "SCT", "Normal"),
}
_SUMMARY_OF_ANALYSES = Code("111064", "DCM", "Summary of Analyses")
_NOT_ATTEMPTED = Code("111225", "DCM", "Not Attempted")  # CID 6042 "Status of Results"
_DEVICE = Code("121007", "DCM", "Device")
_ENGLISH_US = Code("en-US", "RFC5646", "English (United States)")
_MM = Code("mm", "UCUM", "millimeter")
_MM2 = Code("mm2", "UCUM", "square millimeter")
_PIXELS = Code("{pixels}", "UCUM", "pixels")
_PERCENT = Code("%", "UCUM", "percent")

DISCLAIMER = "Preliminary result of an AI algorithm; not verified by a clinician."
# FL of explicit VR has a 16-bit length: 8,191 points at most (PS3.5 7.1.2). A thousand are finer than any pixel needs.
_MAX_POINTS = 1000


def build_report(finding: Finding, source: Source, zone: tzinfo) -> Dataset:
    """Return the SR document of `finding`.

    Parameters
    ----------
    finding
        What the model said. Contours are in pixel centres (first pixel at 0, 0); SR counts from the corner of the first
        pixel (PS3.3 C.18.6.1.2), so half a pixel is added.
    source
        The image it is about.
    zone
        Zone of the content date and time, unless the source states its own.

    Returns
    -------
    pydicom.Dataset
        With file meta information; the same for the same arguments, whenever it is made.
    """
    analysed = finding.status == "analysed"
    result = new_instance(
        source,
        finding,
        kind="sr",
        sop_class_uid=ComprehensiveSRStorage,
        modality="SR",
        description="AI breast ultrasound, preliminary" if analysed else "AI: not analysed",
        zone=zone,
    )
    result.ReferencedPerformedProcedureStepSequence = []  # Type 2: unknown to us
    result.PerformedProcedureCodeSequence = []
    result.CompletionFlag = "COMPLETE"
    result.VerificationFlag = "UNVERIFIED"
    result.PreliminaryFlag = "PRELIMINARY"
    result.CurrentRequestedProcedureEvidenceSequence = [_evidence(source)]
    groups: list[Any] = [_frame_group(finding, source, analysed=analysed)]
    if analysed:
        groups += [_lesion_group(finding, source, lesion, n) for n, lesion in enumerate(finding.lesions, start=1)]
    root = sr.MeasurementReport(
        observation_context=_observer(finding),
        procedure_reported=_BREAST_ULTRASOUND if analysed else _IMAGING,
        imaging_measurements=groups,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(_ENGLISH_US),
    )[0]
    for element in root:
        result.add(element)
    widen_charset(result, *(text for _, item in walk(result) if (text := str(item.get("TextValue", "")))))
    return result


def _frame_group(finding: Finding, source: Source, *, analysed: bool) -> Any:
    """TID 1501: what is said of the frame as a whole."""
    measurements, evaluations, comments = [], [], [DISCLAIMER]
    if not analysed:
        evaluations.append(sr.QualitativeEvaluation(_SUMMARY_OF_ANALYSES, _NOT_ATTEMPTED))
        comments.append(f"Not analysed: {finding.reason or 'no reason was given'}")
    else:
        if finding.malignancy is not None and math.isfinite(finding.malignancy):
            measurements.append(_measurement(_PROBABILITY_OF_CANCER, 100.0 * finding.malignancy, _PERCENT, 1))
        if label := _LABELS.get(finding.label):
            evaluations.append(sr.QualitativeEvaluation(_IMPRESSION, label))
        elif finding.label:
            comments.append(f"Classified as: {finding.label}")
        if finding.probabilities:
            ordered = sorted(finding.probabilities.items(), key=lambda pair: (-pair[1], pair[0]))
            comments.append("Class probabilities: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in ordered))
        if finding.malignancy is not None:
            side = "At or above" if finding.suspicious else "Below"
            comments.append(f"{side} the model's operating point for suspected malignancy.")
        if not finding.lesions:
            comments.append("No lesion was outlined in this frame.")
        elif finding.spacing_mm is None:
            comments.append("Sizes are in pixels: the image states no usable spacing.")
        else:
            origin = f" ({finding.spacing_source})" if finding.spacing_source else ""
            comments.append(f"Sizes are in millimetres, from the spacing the image states{origin}.")
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(finding, f"Frame {finding.frame + 1}", "frame"),
        algorithm_id=_algorithm(finding),
        finding_sites=[_site(source)] if analysed else None,
        measurements=measurements or None,
        qualitative_evaluations=evaluations or None,
        source_images=[
            sr.SourceImageForMeasurementGroup(
                source.sop_class_uid, source.sop_instance_uid, _frame_numbers(finding, source)
            )
        ],
    )
    _comment(group, comments)
    return group


def _lesion_group(finding: Finding, source: Source, lesion: Lesion, number: int) -> Any:
    """TID 1410: one lesion, its outline and its size; TID 1501 if it has no outline that can be drawn."""
    length, square = (_MM, _MM2) if lesion.unit == "mm" else (_PIXELS, _PIXELS)
    values = (
        (_LONG_AXIS, lesion.long_axis, length, 2),
        (_SHORT_AXIS, lesion.short_axis, length, 2),
        (_AREA, lesion.area, square, 2),
        (_CERTAINTY, 100.0 * lesion.probability, _PERCENT, 1),
    )
    common = {
        "tracking_identifier": _tracking(finding, f"Lesion {number}", f"lesion-{number}"),
        "finding_type": _LESION,
        "algorithm_id": _algorithm(finding),
        "finding_sites": [_site(source)],
        "measurements": [_measurement(*value) for value in values if math.isfinite(value[1])] or None,
    }
    outline = outline_points(lesion, finding.columns, finding.rows)
    frames = _frame_numbers(finding, source)
    if outline is None:
        image = sr.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid, frames)
        return sr.MeasurementsAndQualitativeEvaluations(source_images=[image], **common)
    # Not by ImageRegion's constructor: it looks the SOP class up in a table of 65 MB, where retired and private classes
    # are missing.
    item = sr.ScoordContentItem(
        name=_IMAGE_REGION,
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=outline,
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
    item.ContentSequence = [sr.SourceImageForRegion(source.sop_class_uid, source.sop_instance_uid, frames)]
    region = sr.ImageRegion.from_dataset(item, copy=False)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **common)


def outline_points(lesion: Lesion, columns: int, rows: int) -> NDArray[np.float64] | None:
    """Return a closed outline in SR coordinates, shape (n, 2), or None if there is nothing to draw.

    Points outside the image are moved to its edge. A lesion without contour is outlined by its box.
    """
    points = np.asarray(lesion.contour, dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 3:
        x0, y0, x1, y1 = lesion.box
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)
        if not np.isfinite(points).all() or x1 <= x0 or y1 <= y0:
            return None
    if len(points) > _MAX_POINTS:
        points = points[np.linspace(0, len(points) - 1, _MAX_POINTS).astype(int)]
    points = points + 0.5
    if columns > 0 and rows > 0:
        points = np.clip(points, 0.0, (columns, rows))
    if not np.array_equal(points[0], points[-1]):
        points = np.concatenate([points, points[:1]])
    return points


def _measurement(name: Code, value: float, unit: Code, digits: int) -> Any:
    return sr.Measurement(name=name, value=round(float(value), digits), unit=unit)


def _tracking(finding: Finding, text: str, part: str) -> Any:
    uid = derived_uid(finding.item_id, finding.model, finding.model_version, "tracking", part)
    return sr.TrackingIdentifier(uid=uid, identifier=text)


def _algorithm(finding: Finding) -> Any:
    return sr.AlgorithmIdentification(
        name=finding.model or "unnamed model", version=finding.model_version or "unknown version"
    )


def _site(source: Source) -> Any:
    return sr.FindingSite(anatomic_location=_BREAST, laterality=_SIDES.get(source.laterality))


def _observer(finding: Finding) -> Any:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("observer", finding.model, finding.model_version),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=finding.model or "unnamed model",
    )
    context = sr.ObserverContext(observer_type=_DEVICE, observer_identifying_attributes=device)
    return sr.ObservationContext(observer_device_context=context)


def _frame_numbers(finding: Finding, source: Source) -> list[int] | None:
    return [finding.frame + 1] if source.frames > 1 else None


def _comment(group: Any, texts: Sequence[str]) -> None:
    for text in texts:
        item = sr.TextContentItem(name=_COMMENT, value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(item)


def _evidence(source: Source) -> Dataset:
    """Current Requested Procedure Evidence, PS3.3 C.17.2."""
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = source.sop_class_uid
    instance.ReferencedSOPInstanceUID = source.sop_instance_uid
    series.SeriesInstanceUID = source.series_instance_uid
    series.ReferencedSOPSequence = [instance]
    study.StudyInstanceUID = source.study_instance_uid
    study.ReferencedSeriesSequence = [series]
    return study


# ---------------------------------------- reading


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
