"""The same report as `edgeward.clinic.imaging.report` writes, made with highdicom's validated classes: the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import tzinfo
from typing import Any

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from edgeward.clinic.imaging.header import local_time
from edgeward.clinic.imaging.lesions import outline_points, sightings
from edgeward.clinic.imaging.source import Source, derived_uid
from edgeward.messages import Finding, FrameFinding, Verdict

BREAST = Code("76752008", "SCT", "Breast")
SIDES = {
    "R": Code("24028007", "SCT", "Right"),
    "L": Code("7771000", "SCT", "Left"),
    "B": Code("51440002", "SCT", "Right and left"),
}
LABELS = {
    "benign": Code("30807003", "SCT", "Benign"),
    "malignant": Code("21594007", "SCT", "Malignant"),
    "normal": Code("17621005", "SCT", "Normal"),
}
PERCENT = Code("%", "UCUM", "percent")


def reference_report(finding: Finding, source: Source, zone: tzinfo, verdicts: Sequence[Verdict] = ()) -> Dataset:
    """Return the content tree alone."""
    analysed = finding.status == "analysed"
    groups: list[Any] = [_decision(finding, source, verdicts, zone)] if verdicts else []
    groups.append(_frame(finding, source, finding, _best_comments(finding, decided=bool(verdicts))))
    if analysed:
        found = sightings(finding)
        groups += [_lesion(finding, source, s.lesion, s.number) for s in found if s.frame == finding.frame]
        for frame in sorted(finding.frame_findings, key=lambda f: f.frame):
            if frame.frame != finding.frame:
                here = [s for s in found if s.frame == frame.frame]
                comments = [f"Lesion {s.number}: {_size(s.lesion)}" for s in here]
                comments = comments or ["No lesion was outlined in this frame."]
                if frame.status != "analysed":
                    comments = [f"Not analysed: {frame.reason or 'no reason was given'}"]
                groups.append(_frame(finding, source, frame, comments))
    return sr.MeasurementReport(
        observation_context=_observers(finding, verdicts),
        procedure_reported=Code("47079000", "SCT", "Ultrasonography of breast")
        if analysed
        else Code("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            Code("en-US", "RFC5646", "English (United States)")
        ),
    )[0]


def _best_comments(finding: Finding, *, decided: bool) -> list[str]:
    comments = ["Preliminary result of an AI algorithm; not verified by a clinician."]
    if decided:
        comments = ["Result of an AI algorithm, as it was before the clinician decided."]
    if finding.status != "analysed":
        return [*comments, f"Not analysed: {finding.reason or 'no reason was given'}"]
    if finding.label and finding.label not in LABELS:
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
    if (sampled := len(finding.frame_findings)) > 1:
        comments.append(
            f"Frame {finding.frame + 1} is the one this result rests on: "
            f"{sampled} of {finding.frames} frames were sampled."
        )
    return comments


def _frame(finding: Finding, source: Source, said: Finding | FrameFinding, comments: list[str]) -> Any:
    measurements, evaluations = [], []
    if said.status != "analysed":
        evaluations.append(
            sr.QualitativeEvaluation(
                Code("111064", "DCM", "Summary of Analyses"), Code("111225", "DCM", "Not Attempted")
            )
        )
    else:
        if said.malignancy is not None:
            name = Code("111047", "DCM", "Probability of cancer")
            measurements.append(sr.Measurement(name, round(100 * said.malignancy, 1), PERCENT))
        if label := LABELS.get(said.label):
            evaluations.append(sr.QualitativeEvaluation(Code("121073", "DCM", "Impression"), label))
        if said.malignancy is not None:
            answer = Code("373066001", "SCT", "Yes") if said.suspicious else Code("373067005", "SCT", "No")
            name = Code("suspected", "99EDGEWARD", "Malignancy suspected at the model's operating point")
            evaluations.append(sr.QualitativeEvaluation(name, answer))
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(finding, f"Frame {said.frame + 1}", f"frame-{said.frame + 1}"),
        algorithm_id=_algorithm(finding),
        finding_sites=[_site(source)] if said.status == "analysed" else None,
        measurements=measurements or None,
        qualitative_evaluations=evaluations,
        source_images=[_image(source, said.frame)],
    )
    return _with_comments(group, comments)


def _decision(finding: Finding, source: Source, verdicts: Sequence[Verdict], zone: tzinfo) -> Any:
    last = verdicts[-1]
    value = {"confirm": "confirmed", "correct": "corrected", "reject": "rejected"}[last.action]
    evaluations = [
        sr.QualitativeEvaluation(
            Code("decision", "99EDGEWARD", "Clinician's decision on the AI result"),
            Code(value, "99EDGEWARD", value.capitalize()),
        )
    ]
    label = {"confirm": finding.label, "correct": last.label, "reject": ""}[last.action]
    comments = [_told(source, last, zone)]
    if label in LABELS:
        evaluations.append(sr.QualitativeEvaluation(Code("121073", "DCM", "Impression"), LABELS[label]))
    elif label:
        comments.append(f"Classified as: {label}")
    if last.action == "reject":
        comments.append("The AI result below was rejected by the clinician. Do not use it.")
    comments += [f"Earlier: {_told(source, verdict, zone)}" for verdict in reversed(verdicts[:-1])]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(finding, f"Decision on frame {finding.frame + 1}", "decision"),
        finding_sites=[_site(source)],
        qualitative_evaluations=evaluations,
        source_images=[_image(source, finding.frame)],
    )
    return _with_comments(group, comments)


def _told(source: Source, verdict: Verdict, zone: tzinfo) -> str:
    what = {"confirm": "confirmed", "correct": f"corrected to {verdict.label}", "reject": "rejected"}[verdict.action]
    when = local_time(verdict.at_ns, source.common.get("TimezoneOffsetFromUTC", ""), zone)
    said = f": {verdict.comment}" if verdict.comment else ""
    return f"{what} by {verdict.by}, {when:%Y-%m-%d %H:%M:%S %z}{said}"


def _lesion(finding: Finding, source: Source, lesion: Any, number: int) -> Any:
    mm = lesion.unit == "mm"
    length = Code("mm", "UCUM", "millimeter") if mm else Code("{pixels}", "UCUM", "pixels")
    square = Code("mm2", "UCUM", "square millimeter") if mm else length
    values = (
        (Code("103339001", "SCT", "Long Axis"), lesion.long_axis, length, 2),
        (Code("103340004", "SCT", "Short Axis"), lesion.short_axis, length, 2),
        (Code("42798000", "SCT", "Area"), lesion.area, square, 2),
        (Code("111012", "DCM", "Certainty of Finding"), 100 * lesion.probability, PERCENT, 1),
    )
    common: dict[str, Any] = {
        "tracking_identifier": _tracking(finding, f"Lesion {number}", f"lesion-{number}"),
        "finding_type": Code("52988006", "SCT", "Lesion"),
        "algorithm_id": _algorithm(finding),
        "finding_sites": [_site(source)],
        "measurements": [sr.Measurement(n, round(v, d), u) for n, v, u, d in values if math.isfinite(v)] or None,
    }
    outline = outline_points(lesion, finding.columns, finding.rows)
    if outline is None:
        return sr.MeasurementsAndQualitativeEvaluations(source_images=[_image(source, finding.frame)], **common)
    frames = [finding.frame + 1] if source.frames > 1 else None
    image = sr.SourceImageForRegion(source.sop_class_uid, source.sop_instance_uid, frames)
    region = sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, np.asarray(outline), image)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **common)


def _size(lesion: Any) -> str:
    digits = 1 if lesion.unit == "mm" else 0
    return f"{lesion.long_axis:.{digits}f} x {lesion.short_axis:.{digits}f} {lesion.unit}"


def _observers(finding: Finding, verdicts: Sequence[Verdict]) -> Any:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("observer", finding.model, finding.model_version),
        name="Edgeward",
        manufacturer_name="Edgeward",
        model_name=finding.model,
    )
    person = None
    if verdicts:
        name = sr.PersonObserverIdentifyingAttributes(name=verdicts[-1].by)
        person = sr.ObserverContext(observer_type=Code("121006", "DCM", "Person"), observer_identifying_attributes=name)
    return sr.ObservationContext(
        observer_person_context=person,
        observer_device_context=sr.ObserverContext(
            observer_type=Code("121007", "DCM", "Device"), observer_identifying_attributes=device
        ),
    )


def _tracking(finding: Finding, text: str, part: str) -> Any:
    uid = derived_uid(finding.item_id, finding.model, finding.model_version, "tracking", part)
    return sr.TrackingIdentifier(uid=uid, identifier=text)


def _algorithm(finding: Finding) -> Any:
    return sr.AlgorithmIdentification(name=finding.model, version=finding.model_version)


def _site(source: Source) -> Any:
    return sr.FindingSite(anatomic_location=BREAST, laterality=SIDES.get(source.laterality))


def _image(source: Source, frame: int) -> Any:
    frames = [frame + 1] if source.frames > 1 else None
    return sr.SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid, frames)


def _with_comments(group: Any, texts: list[str]) -> Any:
    for text in texts:
        name = Code("121106", "DCM", "Comment")
        group[0].ContentSequence.append(
            sr.TextContentItem(name=name, value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        )
    return group
