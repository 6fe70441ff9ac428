"""The head of every result: patient and study as in its image, and the identifiers and times it is given.

Responsible for the modules that all results share, for identifiers and times that come out the same on every repeat,
and for nothing else: what is read of the image is in ``source``, content in ``report``, ``segmentation``,
``presentation`` and ``capture``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

import edgeward
from edgeward.clinic.imaging.source import CONTROL, OFFSET, Source, clean_name, derived_uid, fits
from edgeward.messages import Finding, Verdict
from edgeward.privacy.character_sets import UNICODE

MANUFACTURER = "Edgeward"
# Results of one study lie together in one series per kind, after the modality's own: number and description of each.
SERIES = {
    "sr": (9901, "Edgeward AI: SR"),
    "seg": (9902, "Edgeward AI: SEG (preliminary)"),
    "gsps": (9903, "Edgeward AI: overlay (preliminary)"),
    "capture": (9904, "Edgeward AI: capture (preliminary)"),
}
# Defined terms of Body Part Examined (PS3.16 annex L) of which there is one: they have no side. Any other, also a word
# of the modality's own, may have.
_UNPAIRED = {"ABDOMEN", "ABDOMENPELVIS", "AORTA", "BLADDER", "BRAIN", "CSPINE", "CHEST", "CHESTABDOMEN"}
_UNPAIRED |= {"CHESTABDPELVIS", "CIRCLEOFWILLIS", "COCCYX", "COLON", "DUODENUM", "ESOPHAGUS", "GALLBLADDER", "HEAD"}
_UNPAIRED |= {
    "HEADNECK",
    "HEART",
    "JAW",
    "LARYNX",
    "LIVER",
    "LSPINE",
    "LSSPINE",
    "MEDIASTINUM",
    "MOUTH",
    "NECK",
    "NOSE",
}
_UNPAIRED |= {"PANCREAS", "PELVIS", "PENIS", "PHARYNX", "PROSTATE", "RECTUM", "SKULL", "SPINE", "SPLEEN", "SSPINE"}
_UNPAIRED |= {"STERNUM", "STOMACH", "THYMUS", "THYROID", "TONGUE", "TRACHEA", "TLSPINE", "TSPINE", "UTERUS", "VAGINA"}
_UNPAIRED |= {"VULVA", "WHOLEBODY"}
_REVISION_STEP = 1_000_000  # between the instance numbers of a report and of its next revision


def instance_uid(finding: Finding, kind: str, revision: int = 0, verdicts: Sequence[Verdict] = ()) -> UID:
    """Return the SOP Instance UID of a result: the same on every repeat, another for every revision."""
    parts = (finding.item_id, finding.model, finding.model_version, kind)
    if revision == 0:
        return derived_uid(*parts)
    # The verdict is part of it: should a revision be counted anew after a disaster, it is not taken for an old one.
    return derived_uid(*parts, "revision", str(revision), verdicts[min(revision, len(verdicts)) - 1].verdict_id)


def series_uid(source: Source, finding: Finding, kind: str, modality: str) -> UID:
    """Return the Series Instance UID of a result: one series per study, model and kind.

    Modality and body part are attributes of a series, so a study in which they vary gets a series for each.
    """
    return derived_uid(
        source.study_instance_uid, finding.model, finding.model_version, kind, modality, source.body_part
    )


def new_instance(
    source: Source,
    finding: Finding,
    *,
    kind: str,
    sop_class_uid: str,
    modality: str,
    zone: tzinfo,
    revision: int = 0,
    verdicts: Sequence[Verdict] = (),
) -> Dataset:
    """Return a data set with the patient, study, series, equipment and SOP common modules of a result.

    Equal arguments give equal data sets, whenever they are made: a repeat after a crash is the same object.

    Parameters
    ----------
    kind
        ``sr``, ``seg``, ``gsps`` or ``capture``; part of the identifiers.
    zone
        The zone in which dates and times are written, unless the source states its own.
    revision, verdicts
        Of a later revision: which, and the verdicts it rests on. Its time is that of the last one.
    """
    made_ns = verdicts[-1].at_ns if revision else finding.created_ns
    made = local_time(made_ns, source.common.get("TimezoneOffsetFromUTC", ""), zone)
    instance = instance_uid(finding, kind, revision, verdicts)
    result = Dataset()
    result.SpecificCharacterSet = source.charset
    result.update(source.common)
    result.SOPClassUID = UID(sop_class_uid)
    result.SOPInstanceUID = instance
    result.InstanceCreationDate = made.strftime("%Y%m%d")
    result.InstanceCreationTime = made.strftime("%H%M%S.%f")
    if kind != "gsps":  # has a creation date of its own
        result.ContentDate = result.InstanceCreationDate
        result.ContentTime = result.InstanceCreationTime
    result.StudyInstanceUID = source.study_instance_uid
    result.SeriesInstanceUID = series_uid(source, finding, kind, modality)
    result.SeriesNumber, result.SeriesDescription = SERIES[kind]
    result.Modality = modality
    if kind != "sr":  # General Series; SR Document Series has neither
        if source.body_part:
            result.BodyPartExamined = source.body_part
        if source.body_part not in _UNPAIRED:
            # Type 2C. An attribute of the series, which may hold results of both sides.
            result.Laterality = ""
    result.InstanceNumber = _instance_number(source) + _REVISION_STEP * min(revision, 1000)
    result.Manufacturer = MANUFACTURER
    result.ManufacturerModelName = _plain(finding.model or "unnamed model")
    model_version = _plain(f"model {finding.model_version or 'unknown'}")
    result.SoftwareVersions = [f"edgeward {edgeward.__version__}", model_version]
    result.file_meta = FileMetaDataset()
    result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID
    result.file_meta.MediaStorageSOPInstanceUID = instance
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.file_meta.ImplementationClassUID = derived_uid("implementation")
    result.file_meta.ImplementationVersionName = "EDGEWARD"
    return result


def widen_charset(dataset: Dataset, *texts: str) -> None:
    """Make `dataset` Unicode if one of our own `texts` does not fit the character set of the source."""
    current = dataset.get("SpecificCharacterSet", "ISO_IR 6")
    names = [current] if isinstance(current, str) else list(current)
    if not all(fits(text, names) for text in texts):
        dataset.SpecificCharacterSet = UNICODE


def local_time(at_ns: int, offset: str, zone: tzinfo) -> datetime:
    """Return the time `at_ns` on the clock of the source object's `offset` (``+0100``), else of `zone`."""
    if OFFSET.fullmatch(offset):
        minutes = int(offset[1:3]) * 60 + int(offset[3:5])
        zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    at = datetime.fromtimestamp(at_ns // 1_000_000_000, UTC) + timedelta(microseconds=at_ns % 1_000_000_000 // 1000)
    return at.astimezone(zone)


def encode_dataset(dataset: Dataset) -> bytes:
    """Return the data set in Explicit VR Little Endian, without file meta information: what C-STORE sends."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def person_name(value: str) -> str:
    """Return `value` as a person's name (VR PN), never empty."""
    return clean_name(value) or "not stated"


def image_reference(source: Source, frames: Sequence[int] = ()) -> Dataset:
    """Return an item that references the image, or some of its frames (0-based) if it has several (PS3.3 10.3)."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.sop_class_uid
    reference.ReferencedSOPInstanceUID = source.sop_instance_uid
    if frames and source.frames > 1:
        reference.ReferencedFrameNumber = [frame + 1 for frame in frames]
    return reference


def _instance_number(source: Source) -> int:
    """Return series and instance number of the image in one: results sort as the images do (image 7 of series 2: 2007).

    Numbers that are too long for that keep what tells most (IS holds 32 bits, PS3.5 6.2).
    """
    series = source.series_number or 0
    number = max(series, 0) * 1000 + source.instance_number
    return number if number < _REVISION_STEP else source.instance_number % _REVISION_STEP


def host_zone(at_ns: int) -> timezone:
    """Return this host's offset from UTC as it was at `at_ns`: the same on every repeat, also across a clock change."""
    return timezone(timedelta(seconds=time.localtime(at_ns // 1_000_000_000).tm_gmtoff))


def _plain(text: str) -> str:
    return CONTROL.sub(" ", text).encode("ascii", "replace").decode()[:64].strip() or "-"
