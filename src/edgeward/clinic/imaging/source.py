"""What is read of an image for its results: patient, study, references and how its pixels are to be understood.

Responsible for taking from whatever a modality sent what a result can carry over (PS3.3 C.7.1.1, C.7.2.1). Not
responsible for writing it into a result (``header``).

Real objects lack mandatory attributes, carry text in the wrong place, or a character set that does not fit. A value
that cannot be carried over is left empty (Type 2), never guessed and never a reason to lose the result.
"""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydicom import charset
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from edgeward.clinic.imaging.greyscale import Grey, read_grey
from edgeward.compute.regions import read_regions, scales
from edgeward.messages import Finding
from edgeward.privacy.character_sets import UNICODE

_NAMESPACE = uuid.UUID("6f0c2f0e-6f1f-5d0a-9d3e-2f6a1c1b7e11")  # ours alone; never change it, identifiers hang on it
# Patient, Patient Study and General Study attributes that are carried over. Those in _TYPE_2 are written empty if
# absent.
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
_OPTIONAL = (
    "IssuerOfPatientID",
    "PatientBirthTime",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "InstitutionName",
    "TimezoneOffsetFromUTC",
)
# All that is read of an image: the rest, private elements above all, is skipped. Whatever `read_source` asks for must
# be here (a test compares), or it is never found.
INHERITED = [*_TYPE_2, *_OPTIONAL]
INHERITED += ["SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
INHERITED += ["SeriesNumber", "InstanceNumber", "NumberOfFrames", "Modality", "BodyPartExamined", "BurnedInAnnotation"]
INHERITED += ["ImageLaterality", "FrameLaterality", "Laterality", "Rows", "Columns", "PhotometricInterpretation"]
INHERITED += ["LossyImageCompression", "LossyImageCompressionMethod", "LossyImageCompressionRatio", "PixelAspectRatio"]
INHERITED += ["SequenceOfUltrasoundRegions"]
INHERITED += ["PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"]
INHERITED += ["WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ProcedureCodeSequence"]
INHERITED += ["PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"]
INHERITED += ["OrderPlacerIdentifierSequence", "OrderFillerIdentifierSequence"]
INHERITED += ["AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime"]
INHERITED += ["SeriesDate", "SeriesTime"]
_LONGEST = {"LO": 64, "SH": 16, "TM": 14, "AS": 4, "DS": 16}  # characters, PS3.5 table 6.2-1
_FORM = {
    "DA": re.compile(r"\d{8}"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?"),
    "AS": re.compile(r"\d{3}[DWMY]"),
    "DS": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
}
# By these a record system finds the patient and the order. Cut or taken in part they may be another's.
_IDENTIFIERS = frozenset(
    {"PatientID", "IssuerOfPatientID", "AccessionNumber"}
    | {f"{which}OrderNumberImagingServiceRequest" for which in ("Placer", "Filler")}
)
_LONGEST_IDENTIFIER = 64  # also of an accession number, which real systems make longer than SH allows
Assigner = tuple[str, str, str]
"""Who gave a number: local name, universal identifier, its kind (ISO, UUID, URI, DNS ...); each may be empty."""
OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")
CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_BLANK = "".join(map(chr, range(0x21))) + "\x7f"


@dataclass(frozen=True, slots=True)
class Source:
    """What the results need of the image they come from.

    `common` holds the patient and study attributes, ready to be copied; `charset` is the character set in which their
    text can be written without loss.
    """

    common: Dataset
    charset: str | list[str]
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    series_number: int | None
    instance_number: int
    frames: int
    modality: str
    laterality: str  # R, L, B or empty
    burned_in: str  # YES, NO or empty: not said
    lossy: str  # 00, 01 or empty
    lossy_method: str
    lossy_ratio: str
    body_part: str
    rows: int
    columns: int
    photometric: str
    aspect: tuple[int, int]  # of the pixels, vertical to horizontal
    grey: Grey | None  # None: its tables cannot be carried over
    one_scale: bool = True  # the finding's spacing holds for every region of the frame
    placer_order: str = ""  # the numbers the order has with who placed it and who fills it
    filler_order: str = ""
    placer: Assigner = ("", "", "")  # who gave these numbers
    filler: Assigner = ("", "", "")
    procedure: tuple[str, str, str] | None = None  # code, scheme, meaning
    acquired: str = ""  # DICOM DT without offset, as far as it is told: when the image was made; empty if it is not


def derived_uid(*parts: str) -> UID:
    """Return the UID that these parts always give: a name-based UUID under ``2.25`` (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, chr(31).join(parts)).int}")


def read_source(dataset: Dataset, finding: Finding) -> Source:
    """Take from `dataset` (pixels not needed) what results inherit.

    Parameters
    ----------
    dataset
        The image as received. Anything may be missing or malformed.
    finding
        Says which instance it is, where the data set itself does not.
    """
    common = Dataset()
    for keyword in _TYPE_2:
        setattr(common, keyword, _carried(dataset, keyword))
    for keyword in _OPTIONAL:
        value = _carried(dataset, keyword)
        if value and not (dictionary_VR(keyword) == "DS" and float(value) == 0):  # nobody weighs nothing
            setattr(common, keyword, value)
    instance = _uid(dataset, "SOPInstanceUID") or finding.sop_instance_uid or derived_uid(finding.item_id, "source")
    study = _uid(dataset, "StudyInstanceUID") or derived_uid(instance, "study")
    frames = max(_integer(dataset, "NumberOfFrames") or 1, finding.frames)
    default = UltrasoundMultiFrameImageStorage if frames > 1 else UltrasoundImageStorage
    syntax = getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID", "")
    lossy = _text(dataset, "LossyImageCompression")
    rows, columns = _size(dataset, "Rows") or finding.rows, _size(dataset, "Columns") or finding.columns
    one_scale = _has_one_scale(dataset, finding, rows, columns)
    return Source(
        common=common,
        charset=_charset(dataset, common),
        sop_class_uid=_uid(dataset, "SOPClassUID") or default,
        sop_instance_uid=instance,
        study_instance_uid=study,
        series_instance_uid=_uid(dataset, "SeriesInstanceUID") or derived_uid(study, "series"),
        series_number=_integer(dataset, "SeriesNumber"),
        instance_number=max(_integer(dataset, "InstanceNumber") or 1, 1),
        frames=frames,
        modality=_code(dataset, "Modality") or "US",
        laterality=_laterality(dataset),
        burned_in=_one_of(_text(dataset, "BurnedInAnnotation"), "YES", "NO"),
        lossy="01" if _is_lossy(syntax) else _one_of(lossy, "00", "01"),
        lossy_method=_code(dataset, "LossyImageCompressionMethod"),
        lossy_ratio=_text(dataset, "LossyImageCompressionRatio"),
        body_part=_code(dataset, "BodyPartExamined"),
        rows=rows,
        columns=columns,
        photometric=_code(dataset, "PhotometricInterpretation"),
        aspect=_aspect(dataset) if one_scale or finding.spacing_mm is None else _proportions(*finding.spacing_mm),
        one_scale=one_scale,
        grey=read_grey(dataset),
        placer_order=_carried(dataset, "PlacerOrderNumberImagingServiceRequest"),
        filler_order=_carried(dataset, "FillerOrderNumberImagingServiceRequest"),
        placer=_assigner(dataset, "OrderPlacerIdentifierSequence"),
        filler=_assigner(dataset, "OrderFillerIdentifierSequence"),
        procedure=_procedure(dataset),
        acquired=_acquired(dataset),
    )


def _procedure(dataset: Dataset) -> tuple[str, str, str] | None:
    """Return the coded procedure, if its code is complete."""
    try:
        item = dataset.ProcedureCodeSequence[0]
    except Exception:  # as in _text
        return None
    parts = tuple(_text(item, keyword) for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
    value, scheme, meaning = (CONTROL.sub(" ", part)[:64].strip() for part in parts)
    return (value, scheme, meaning) if value and scheme and meaning else None


def _assigner(dataset: Dataset, keyword: str) -> Assigner:
    """Return who gave an order number (HL7v2 Hierarchic Designator, PS3.3 10.16), as far as it can be written whole."""
    try:
        item = dataset[keyword].value[0]
    except Exception:  # as in _text
        return "", "", ""
    local, universal, kind = (
        _text(item, name) for name in ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
    )
    local, universal = ("" if len(one) > 199 or CONTROL.search(one) else one for one in (local, universal))
    return local, universal, kind[:6] if universal and re.fullmatch("[A-Z0-9_]+", kind) else ""


def _acquired(dataset: Dataset) -> str:
    """Return when the image was made: acquisition, else content, series, study, whichever tells day and time first.

    A day without a time stays one if none of them tells a time: midnight would be made up.
    """
    whole = re.match(r"(\d{8})(\d{0,6})", _text(dataset, "AcquisitionDateTime"))
    pairs = [(_date(whole[1]), whole[2] if _FORM["TM"].fullmatch(whole[2]) else "")] if whole else []
    pairs += [moment(dataset, which) for which in ("Acquisition", "Content", "Series", "Study")]
    days = [day + time for day, time in pairs if day]
    return next((at for at in days if len(at) > 8), days[0] if days else "")


def moment(dataset: Dataset, which: str) -> tuple[str, str]:
    """Return day (DA) and time (TM without fractions) of what `which` names (Study ...), each empty if not told."""
    return _carried(dataset, f"{which}Date"), _carried(dataset, f"{which}Time").split(".")[0]


def _text(dataset: Dataset, keyword: str) -> str:
    """Return an attribute as text, its first value if it has several; empty if it is absent or unreadable."""
    try:
        value: Any = dataset.get(keyword)
        if isinstance(value, MultiValue | list | tuple):
            value = value[0] if value else None
        return "" if value is None or isinstance(value, Dataset) else str(value).strip(" \0")
    except Exception:  # pydicom raises whatever the malformed value provokes; such a value is as good as absent
        return ""


def _carried(dataset: Dataset, keyword: str) -> str:
    """Return the value of `keyword` in a form its VR allows, or empty."""
    vr, value = dictionary_VR(keyword), _text(dataset, keyword)
    if keyword in _IDENTIFIERS:
        return _identifier(dataset, keyword)
    if keyword == "PatientSex":
        return _one_of(value, "M", "F", "O")
    if keyword == "TimezoneOffsetFromUTC":
        return value if OFFSET.fullmatch(value) else ""
    if vr == "DA":
        return _date(value)
    if vr == "TM":
        value = value.replace(":", "")
    if vr == "PN":
        return clean_name(value)
    longest = _LONGEST.get(vr, 64)
    if (form := _FORM.get(vr)) and (len(value) > longest or not form.fullmatch(value)):
        return ""
    return CONTROL.sub(" ", value)[:longest].strip()


def _identifier(dataset: Dataset, keyword: str) -> str:
    """Return an identifier as it stands, or empty if that cannot be written: never a part of it."""
    try:
        value: Any = dataset.get(keyword)
    except Exception:  # as in _text
        return ""
    if isinstance(value, MultiValue | list | tuple) and len(value) > 1:  # a backslash within it
        return ""
    text = _text(dataset, keyword).strip(_BLANK)
    return "" if len(text) > _LONGEST_IDENTIFIER or CONTROL.search(text) else text


def clean_name(value: str) -> str:
    """Return a person's name cut to three groups of five components, 64 characters each (PS3.5 6.2.1.1)."""
    groups = CONTROL.sub(" ", value).split("=")[:3]
    return "=".join("^".join(group[:64].split("^")[:5]).strip() for group in groups).rstrip("=")


def _date(value: str) -> str:
    value = value.replace(".", "").replace("-", "")  # ACR-NEMA wrote 1994.10.26
    if not _FORM["DA"].fullmatch(value):
        return ""
    try:
        date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        return ""
    return value


def _uid(dataset: Dataset, keyword: str) -> str:
    """Return a UID as it stands, also one that breaks the rules: the archive knows the image by exactly this text."""
    value = _text(dataset, keyword)
    return value if 0 < len(value) <= 64 and value.isascii() and not CONTROL.search(value) else ""


def _integer(dataset: Dataset, keyword: str) -> int | None:
    try:
        return int(_text(dataset, keyword))
    except ValueError:
        return None


def _size(dataset: Dataset, keyword: str) -> int:
    value = _integer(dataset, keyword) or 0
    return value if 0 < value <= 0xFFFF else 0


def _aspect(dataset: Dataset) -> tuple[int, int]:
    try:
        vertical, horizontal = (int(v) for v in dataset.PixelAspectRatio)
    except Exception:  # as in _text
        return 1, 1
    return (vertical, horizontal) if 0 < vertical < 2**31 and 0 < horizontal < 2**31 else (1, 1)


def _has_one_scale(dataset: Dataset, finding: Finding, rows: int, columns: int) -> bool:
    try:
        return not scales(read_regions(dataset, rows, columns), finding.spacing_mm)
    except Exception:  # as in _text: regions that cannot be read gave no scale either
        return True


def _proportions(row: float, column: float) -> tuple[int, int]:
    """Return a pixel's height to its width in whole numbers."""
    return (1, 1) if math.isclose(row, column, rel_tol=0.002) else (max(1, round(1000 * row / column)), 1000)


def _code(dataset: Dataset, keyword: str) -> str:
    value = _text(dataset, keyword)
    return value if re.fullmatch(r"[A-Z0-9_ ]{1,16}", value) else ""


def _one_of(value: str, *allowed: str) -> str:
    return value if value in allowed else ""


def _laterality(dataset: Dataset) -> str:
    for keyword in ("ImageLaterality", "FrameLaterality", "Laterality"):
        if value := _one_of(_text(dataset, keyword), "R", "L", "B"):
            return value
    return ""


def _is_lossy(syntax: str) -> bool:
    # JPEG baseline and extended, JPEG-LS near-lossless (PS3.6 table A-1). The general JPEG 2000 syntaxes can hold
    # either; there the source's own word counts.
    return str(syntax) in {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"}


def _charset(dataset: Dataset, common: Dataset) -> str | list[str]:
    """Return the source's character set if everything carried over can be written in it again, else Unicode.

    Keeping it keeps the bytes of a name as the archive knows them. That is also why undeclared text that is not UTF-8
    (``privacy.character_sets``) is written as Latin-1, the set pydicom reads it in.
    """
    try:
        value = dataset.get("SpecificCharacterSet")
    except Exception:  # as in _text
        value = None
    names = [str(v) for v in value] if isinstance(value, MultiValue | list | tuple) else [str(value)] if value else []
    texts = [str(element.value) for element in common if element.value]
    if all(text.isascii() for text in texts):
        return names[0] if len(names) == 1 and names[0] in ("ISO_IR 100", UNICODE) else "ISO_IR 100"
    names = names or ["ISO_IR 100"]
    if all(name in charset.python_encoding for name in names) and all(fits(t, names) for t in texts):
        return names if len(names) > 1 else names[0]
    return UNICODE


def fits(text: str, names: list[str]) -> bool:
    """Whether `text` can be written in these character sets and read again without loss."""
    if text.isascii():
        return True
    try:
        encodings = charset.convert_encodings(names)
        written = charset.encode_string(text, encodings)  # question marks for what does not fit
        return bool(charset.decode_bytes(written, encodings, {"\\"}) == text)
    except (UnicodeError, LookupError, ValueError):
        return False
