"""The structured report: one finding as a DICOM SR document, TID 1500 "Measurement Report" (PS3.16).

Responsible for what the document says. Not responsible for the encoding of its items (``content``), for what is
inherited from the image (``header``), for reading one back (``report_text``) or for sending it (``pacs``).

The document is a Comprehensive SR (PS3.3 A.35.3): the richest of the SR classes that ordinary archives accept. It is
complete in itself; it is preliminary and unverified until a clinician has decided: AI proposes, a clinician disposes. A
decision makes a new document that replaces the one before and repeats what the AI said, so that both can be seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage

from edgeward.clinic.imaging import codes, content
from edgeward.clinic.imaging.codes import Code
from edgeward.clinic.imaging.content import CONTAINS, MODIFIES, OBSERVATION, ImageReference, Item
from edgeward.clinic.imaging.header import (
    MANUFACTURER,
    image_reference,
    instance_uid,
    local_time,
    new_instance,
    person_name,
    series_uid,
    widen_charset,
)
from edgeward.clinic.imaging.lesions import Sighting, outline_points, sightings, tracking_uid
from edgeward.clinic.imaging.source import Source, derived_uid
from edgeward.messages import Finding, FrameFinding, Lesion, Verdict

DISCLAIMER = "Preliminary result of an AI algorithm; not verified by a clinician."
DECIDED = "Result of an AI algorithm, as it was before the clinician decided."
# A loop can have hundreds of frames, and a reader looks at few: the frames with the most to say are reported one by
# one, the outlines of all are in the segmentation.
MAX_OTHER_FRAMES = 32
_MAX_COMMENT = 4000  # characters of a clinician's comment
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # PS3.5 6.1.3 allows TAB, LF, FF, CR in text
_DONE = {"confirm": "confirmed", "correct": "corrected", "reject": "rejected"}


@dataclass(frozen=True, slots=True)
class _Case:
    """What every part of one report needs."""

    finding: Finding
    source: Source
    zone: tzinfo
    verdicts: Sequence[Verdict]

    def reference(self, frame: int) -> ImageReference:
        frames = (frame + 1,) if self.source.frames > 1 else ()
        return ImageReference(self.source.sop_class_uid, self.source.sop_instance_uid, frames)


def build_report(
    finding: Finding, source: Source, zone: tzinfo, revision: int = 0, verdicts: Sequence[Verdict] = ()
) -> Dataset:
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
    revision
        0 for the preliminary report; n for the one that follows the n-th verdict and replaces the report before.
    verdicts
        All verdicts so far, oldest first. The last one counts; the document is verified by whoever gave it.

    Returns
    -------
    pydicom.Dataset
        With file meta information; the same for the same arguments, whenever it is made. Its content sequence is
        encoded already (`content.content_sequence`).

    Raises
    ------
    ValueError
        If a later revision comes without a verdict.
    """
    if revision > 0 and not verdicts:
        raise ValueError("a revision without a verdict")
    case = _Case(finding, source, zone, verdicts if revision else ())
    result = new_instance(
        source,
        finding,
        kind="sr",
        sop_class_uid=ComprehensiveSRStorage,
        modality="SR",
        zone=zone,
        revision=revision,
        verdicts=verdicts,
    )
    items = _root(case)
    # Not the patient's names but our own words may need a wider set.
    widen_charset(result, *(text for item in items for text in content.texts(item)))
    scheme = Dataset()
    scheme.CodingSchemeDesignator = codes.OWN_SCHEME
    scheme.CodingSchemeName = scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    result.CodingSchemeIdentificationSequence = [scheme]
    result.ReferencedPerformedProcedureStepSequence = []  # Type 2: unknown to us
    result.PerformedProcedureCodeSequence = []
    result.ValueType = "CONTAINER"
    result.ConceptNameCodeSequence = [codes.REPORT.item()]
    result.ContinuityOfContent = "CONTINUOUS"
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "1500"
    result.ContentTemplateSequence = [template]
    _state(result, case, revision)
    result.CurrentRequestedProcedureEvidenceSequence = [
        _hierarchy(source.study_instance_uid, source.series_instance_uid, image_reference(source))
    ]
    sequence = content.content_sequence(items, result.SpecificCharacterSet)
    result[sequence.tag] = sequence
    result.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=result._character_set)  # noqa: SLF001 - the only way to say that encoded parts match
    return result


def _state(result: Dataset, case: _Case, revision: int) -> None:
    """SR Document General (PS3.3 C.17.2): how far the document has come, and what it replaces."""
    # COMPLETE, not PARTIAL: the algorithm has nothing to add. That it is not final is what the next two flags say.
    result.CompletionFlag = "COMPLETE"
    result.VerificationFlag = "VERIFIED" if revision else "UNVERIFIED"
    result.PreliminaryFlag = "FINAL" if revision else "PRELIMINARY"
    if not revision:
        return
    source, finding = case.source, case.finding
    before = Dataset()
    before.ReferencedSOPClassUID = ComprehensiveSRStorage
    before.ReferencedSOPInstanceUID = instance_uid(finding, "sr", revision - 1, case.verdicts)
    series = series_uid(source, finding, "sr", "SR")
    result.PredecessorDocumentsSequence = [_hierarchy(source.study_instance_uid, series, before)]
    last = case.verdicts[-1]
    observer = Dataset()
    observer.VerifyingObserverName = person_name(last.by)
    observer.VerifyingObserverIdentificationCodeSequence = []  # Type 2: accounts have no code
    observer.VerifyingOrganization = source.common.get("InstitutionName") or "not stated"
    observer.VerificationDateTime = _when(case, last.at_ns, "%Y%m%d%H%M%S%z")
    result.VerifyingObserverSequence = [observer]
    widen_charset(result, str(observer.VerifyingObserverName))


def _hierarchy(study_uid: str, series_instance_uid: str, reference: Dataset) -> Dataset:
    """Hierarchical SOP Instance Reference, PS3.3 C.17.2.1."""
    series, study = Dataset(), Dataset()
    series.SeriesInstanceUID = series_instance_uid
    series.ReferencedSOPSequence = [reference]
    study.StudyInstanceUID = study_uid
    study.ReferencedSeriesSequence = [series]
    return study


def _root(case: _Case) -> list[Item]:
    """TID 1500."""
    finding = case.finding
    analysed = finding.status == "analysed"
    groups = [_verdict_group(case)] if case.verdicts else []
    groups.append(_best_frame(case) if analysed else _not_analysed(case))
    if analysed:
        found = sightings(finding)
        groups += [_lesion_group(case, sighting) for sighting in found if sighting.frame == finding.frame]
        groups += [_other_frame(case, frame, found) for frame in _others(finding)]
    return [
        content.code(MODIFIES, codes.LANGUAGE, codes.ENGLISH_US),
        *_observers(case),
        content.code(MODIFIES, codes.PROCEDURE_REPORTED, codes.BREAST_ULTRASOUND if analysed else codes.IMAGING),
        content.container(CONTAINS, codes.IMAGING_MEASUREMENTS, groups),
    ]


def _observers(case: _Case) -> list[Item]:
    """TID 1001: the person who decided, and the algorithm as a device (TID 1003, 1004)."""
    items = []
    if case.verdicts:
        items = [
            content.code(OBSERVATION, codes.OBSERVER_TYPE, codes.PERSON),
            content.person(OBSERVATION, codes.PERSON_NAME, person_name(case.verdicts[-1].by)),
        ]
    finding = case.finding
    return [
        *items,
        content.code(OBSERVATION, codes.OBSERVER_TYPE, codes.DEVICE),
        content.uid(OBSERVATION, codes.DEVICE_UID, derived_uid("observer", finding.model, finding.model_version)),
        content.text(OBSERVATION, codes.DEVICE_NAME, MANUFACTURER),
        content.text(OBSERVATION, codes.DEVICE_MANUFACTURER, MANUFACTURER),
        content.text(OBSERVATION, codes.DEVICE_MODEL, _text(finding.model, "unnamed model")),
    ]


# ---------------------------------------- groups of the AI


def _best_frame(case: _Case) -> Item:
    """TID 1501: what is said of the frame that the result rests on."""
    finding = case.finding
    comments = [DECIDED if case.verdicts else DISCLAIMER]
    if finding.label and finding.label not in codes.LABELS:
        comments.append(f"Classified as: {_text(finding.label)}")
    if finding.probabilities:
        ordered = sorted(finding.probabilities.items(), key=lambda pair: (-pair[1], pair[0]))
        comments.append("Class probabilities: " + ", ".join(f"{_text(name)} {100 * p:.1f} %" for name, p in ordered))
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
    comments += _on_frames(finding)
    return _frame_group(case, finding, comments)


def _on_frames(finding: Finding) -> list[str]:
    looked = len(finding.frame_findings)
    if looked < 2:
        return []
    text = (
        f"Frame {finding.frame + 1} is the one this result rests on: {looked} of {finding.frames} frames were sampled"
    )
    shown = len(_others(finding))
    return [f"{text}; {shown} of the others are reported below." if shown < looked - 1 else f"{text}."]


def _other_frame(case: _Case, frame: FrameFinding, found: list[Sighting]) -> Item:
    """TID 1501: another sampled frame, in short. Its outlines are in the segmentation, under the same tracking ids."""
    if frame.status != "analysed":
        comments = [f"Not analysed: {_text(frame.reason, 'no reason was given')}"]
    else:
        here = [s for s in found if s.frame == frame.frame]
        comments = [f"Lesion {s.number}: {_size(s.lesion)}" for s in here[:8]]
        comments = comments or ["No lesion was outlined in this frame."]
    return _frame_group(case, frame, comments)


def _others(finding: Finding) -> list[FrameFinding]:
    """The other frames worth a group of their own, in order: those that say most."""
    others = [frame for frame in finding.frame_findings if frame.frame != finding.frame]
    if len(others) > MAX_OTHER_FRAMES:
        others.sort(key=lambda f: (f.status != "analysed", not f.lesions, -(f.malignancy or 0.0), f.frame))
        others = others[:MAX_OTHER_FRAMES]
    return sorted(others, key=lambda f: f.frame)


def _frame_group(case: _Case, said: Finding | FrameFinding, comments: list[str]) -> Item:
    """TID 1501: what is said of one frame as a whole."""
    items = _tracking(case, f"Frame {said.frame + 1}", f"frame-{said.frame + 1}")
    if said.status == "analysed":
        items.append(_site(case.source))
    items += _algorithm(case.finding)
    if said.status == "analysed":
        if said.malignancy is not None and math.isfinite(said.malignancy):
            items.append(_measure(codes.PROBABILITY_OF_CANCER, 100.0 * said.malignancy, codes.PERCENT, 1))
        if label := codes.LABELS.get(said.label):
            items.append(content.code(CONTAINS, codes.IMPRESSION, label))
        if said.malignancy is not None:
            items.append(content.code(CONTAINS, codes.SUSPECTED, codes.YES if said.suspicious else codes.NO))
    else:
        items.append(content.code(CONTAINS, codes.SUMMARY_OF_ANALYSES, codes.NOT_ATTEMPTED))
    items.append(content.image(CONTAINS, codes.SOURCE_OF_MEASUREMENT, case.reference(said.frame)))
    return _group("1501", items, comments)


def _not_analysed(case: _Case) -> Item:
    reason = _text(case.finding.reason, "no reason was given")
    return _frame_group(case, case.finding, [DECIDED if case.verdicts else DISCLAIMER, f"Not analysed: {reason}"])


def _lesion_group(case: _Case, sighting: Sighting) -> Item:
    """TID 1410: one lesion, its outline and its size; TID 1501 if it has no outline that can be drawn."""
    lesion, finding = sighting.lesion, case.finding
    length, square = (codes.MM, codes.MM2) if lesion.unit == "mm" else (codes.PIXELS, codes.PIXELS)
    values = (
        (codes.LONG_AXIS, lesion.long_axis, length, 2),
        (codes.SHORT_AXIS, lesion.short_axis, length, 2),
        (codes.AREA, lesion.area, square, 2),
        (codes.CERTAINTY, 100.0 * lesion.probability, codes.PERCENT, 1),
    )
    items = _tracking(case, f"Lesion {sighting.number}", f"lesion-{sighting.number}")
    items.append(content.code(CONTAINS, codes.FINDING, codes.LESION))
    items.append(_site(case.source))
    items += _algorithm(finding)
    items += [_measure(*value) for value in values if math.isfinite(value[1])]
    reference = case.reference(sighting.frame)
    outline = outline_points(lesion, finding.columns, finding.rows)
    if outline is None:
        items.append(content.image(CONTAINS, codes.SOURCE_OF_MEASUREMENT, reference))
        return _group("1501", items, [])
    items.append(content.polyline(CONTAINS, codes.IMAGE_REGION, outline, reference, codes.SOURCE))
    return _group("1410", items, [])


# ---------------------------------------- the clinician's


def _verdict_group(case: _Case) -> Item:
    """TID 1501: what the clinician decided. The AI's own groups stay as they were."""
    last = case.verdicts[-1]
    items = _tracking(case, f"Decision on frame {case.finding.frame + 1}", "decision")
    items.append(_site(case.source))
    items.append(content.code(CONTAINS, codes.DECISION, codes.DECISIONS[last.action]))
    label = {"confirm": case.finding.label, "correct": last.label, "reject": ""}[last.action]
    comments = [_decision_text(case, last)]
    if coded := codes.LABELS.get(label):
        items.append(content.code(CONTAINS, codes.IMPRESSION, coded))
    elif label:
        comments.append(f"Classified as: {_text(label)}")
    if last.action == "reject":
        comments.append("The AI result below was rejected by the clinician. Do not use it.")
    comments += [f"Earlier: {_decision_text(case, verdict)}" for verdict in reversed(case.verdicts[:-1])]
    items.append(content.image(CONTAINS, codes.SOURCE_OF_MEASUREMENT, case.reference(case.finding.frame)))
    return _group("1501", items, comments)


def _decision_text(case: _Case, verdict: Verdict) -> str:
    what = _DONE[verdict.action] + (f" to {_text(verdict.label)}" if verdict.action == "correct" else "")
    when = _when(case, verdict.at_ns, "%Y-%m-%d %H:%M:%S %z")
    said = _text(verdict.comment[:_MAX_COMMENT])
    return f"{what} by {_text(verdict.by, 'somebody')}, {when}" + (f": {said}" if said else "")


def _when(case: _Case, at_ns: int, form: str) -> str:
    offset: str = case.source.common.get("TimezoneOffsetFromUTC", "")
    return local_time(at_ns, offset, case.zone).strftime(form)


# ---------------------------------------- parts of groups


def _group(template: str, items: list[Item], comments: list[str]) -> Item:
    items += [content.text(CONTAINS, codes.COMMENT, comment) for comment in comments]
    return content.container(CONTAINS, codes.MEASUREMENT_GROUP, items, template)


def _measure(name: Code, value: float, unit: Code, digits: int) -> Item:
    return content.number(CONTAINS, name, value, unit, digits)


def _tracking(case: _Case, name: str, part: str) -> list[Item]:
    return [
        content.text(OBSERVATION, codes.TRACKING_IDENTIFIER, name),
        content.uid(OBSERVATION, codes.TRACKING_UID, tracking_uid(case.finding, part)),
    ]


def _algorithm(finding: Finding) -> list[Item]:
    """TID 4019."""
    return [
        content.text(MODIFIES, codes.ALGORITHM_NAME, _text(finding.model, "unnamed model")),
        content.text(MODIFIES, codes.ALGORITHM_VERSION, _text(finding.model_version, "unknown version")),
    ]


def _site(source: Source) -> Item:
    side = codes.SIDES.get(source.laterality)
    return content.code(
        MODIFIES,
        codes.FINDING_SITE,
        codes.BREAST,
        [content.code(MODIFIES, codes.LATERALITY, side)] if side else [],
    )


def _size(lesion: Lesion) -> str:
    digits = 1 if lesion.unit == "mm" else 0
    return f"{lesion.long_axis:.{digits}f} x {lesion.short_axis:.{digits}f} {lesion.unit}"


def _text(value: Any, otherwise: str = "") -> str:
    return _UNPRINTABLE.sub(" ", str(value)).strip() or otherwise
