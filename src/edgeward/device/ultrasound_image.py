"""Ultrasound Image Storage objects as a machine makes them.

Responsible for one valid object: PS3.3 A.6 (US Image IOD) with the region calibration of C.8.5.5 when the pixel spacing
is known, for a patient who is plainly invented. Not responsible for where the pixels come from (`exposures`) or for
sending (`ultrasound`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

IMAGES_PER_STUDY = 3
_NAMES = [
    "Ada",
    "Bela",
    "Chen",
    "Dina",
    "Emi",
    "Faye",
    "Gita",
    "Hana",
    "Ines",
    "Juno",
    "Kira",
    "Lena",
    "Mei",
    "Nora",
    "Olga",
    "Pia",
    "Qing",
    "Rosa",
    "Sara",
    "Uma",
]
_PERFORMED_STEP = "1.2.840.10008.3.1.2.3.3"
_CENTIMETRES = 3  # Physical Units X Direction, C.8.5.5.1.15


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What a worklist entry tells of an examination; empty where it tells nothing.

    Attributes
    ----------
    patient_name
        DICOM PN.
    step_id, procedure_id
        Scheduled Procedure Step ID and Requested Procedure ID.
    """

    patient_name: str
    patient_id: str
    study_uid: str
    accession: str = ""
    birth_date: str = ""
    sex: str = ""
    step_id: str = ""
    procedure_id: str = ""
    procedure: str = ""
    referring_physician: str = ""


@dataclass(frozen=True, slots=True)
class Exam:
    """Who and when: everything about an exposure but its pixels. The same seed and number give the same identifiers."""

    patient_name: str
    patient_id: str
    birth_date: str
    accession: str
    study_uid: str
    series_uid: str
    sop_uid: str
    instance: int
    laterality: str
    study_at: dt.datetime
    taken_at: dt.datetime
    performed_uid: str = ""  # of the performed procedure step it belongs to
    scheduled: Scheduled | None = None


def uid(*parts: object) -> str:
    """Return a UID under 2.25 (PS3.5 B.2) derived from `parts`: the same parts, the same UID."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    # The version and variant bits of a random UUID, so that it is one.
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF << 76) | (4 << 76)
    number = number & ~(0x3 << 62) | (2 << 62)
    return f"2.25.{number}"


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a machine: what its identifiers are derived from.

    Attributes
    ----------
    seed
        The same seed gives the same identifiers.
    station
        Name of the machine.
    began
        When exposure 0 was taken.
    spacing_s
        Time between two exposures.
    assigned
        The worklist entries of studies that were scheduled, by number of the study.
    performed
        UIDs of the performed procedure steps, by number of the study.
    """

    seed: int
    station: str
    began: dt.datetime
    spacing_s: float
    assigned: dict[int, Scheduled] = field(default_factory=dict, compare=False)
    performed: dict[int, str] = field(default_factory=dict, compare=False)

    def exam(self, number: int) -> Exam:
        """Return the identifiers of exposure `number`; three exposures make a study."""
        seed, study = self.seed, number // IMAGES_PER_STUDY
        patient = study % len(_NAMES)
        unscheduled = Exam(
            patient_name=f"SIM^{_NAMES[patient]}",
            patient_id=f"SIM-{patient + 1:04d}",
            birth_date=f"{1940 + patient * 2}0{1 + patient % 9}15",
            accession=f"SIM{int(hashlib.sha256(f'{seed}/{study}'.encode()).hexdigest()[:10], 16) % 10**12:012d}",
            study_uid=uid(seed, "study", study),
            series_uid=uid(seed, "series", study),
            sop_uid=uid(seed, "instance", number),
            instance=number % IMAGES_PER_STUDY + 1,
            laterality="LR"[study % 2],
            study_at=self.began + dt.timedelta(seconds=study * IMAGES_PER_STUDY * self.spacing_s),
            taken_at=self.began + dt.timedelta(seconds=number * self.spacing_s),
            performed_uid=self.performed.get(study, ""),
        )
        entry = self.assigned.get(study)
        if entry is None:
            return unscheduled
        return replace(
            unscheduled,
            patient_name=entry.patient_name,
            patient_id=entry.patient_id,
            birth_date=entry.birth_date,
            accession=entry.accession,
            study_uid=entry.study_uid,
            scheduled=entry,
        )


def identify(dataset: Dataset, who: Exam) -> None:
    """Give `dataset` the patient, study, series and instance of `who`."""
    dataset.PatientName = who.patient_name
    dataset.PatientID = who.patient_id
    dataset.PatientBirthDate = who.birth_date
    dataset.PatientSex = who.scheduled.sex if who.scheduled else "F"
    dataset.StudyInstanceUID = who.study_uid
    dataset.SeriesInstanceUID = who.series_uid
    dataset.SOPInstanceUID = who.sop_uid
    dataset.AccessionNumber = who.accession
    dataset.StudyID = who.accession[-6:]
    dataset.StudyDate = dataset.SeriesDate = f"{who.study_at:%Y%m%d}"
    dataset.StudyTime = dataset.SeriesTime = f"{who.study_at:%H%M%S}"
    dataset.ContentDate = dataset.AcquisitionDate = f"{who.taken_at:%Y%m%d}"
    dataset.ContentTime = dataset.AcquisitionTime = f"{who.taken_at:%H%M%S.%f}"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = who.instance
    if who.performed_uid:
        dataset.ReferencedPerformedProcedureStepSequence = [_reference(_PERFORMED_STEP, who.performed_uid)]
    if entry := who.scheduled:
        request = Dataset()
        request.RequestedProcedureID, request.ScheduledProcedureStepID = entry.procedure_id, entry.step_id
        request.RequestedProcedureDescription = request.ScheduledProcedureStepDescription = entry.procedure
        dataset.RequestAttributesSequence = [request]
        dataset.ReferringPhysicianName = entry.referring_physician
        dataset.StudyDescription = entry.procedure
    if "file_meta" in dataset.__dict__:
        dataset.file_meta.MediaStorageSOPInstanceUID = who.sop_uid


def _reference(sop_class: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item


def ultrasound_image(
    pixels: NDArray[np.uint8], who: Exam, station: str, spacing_mm: tuple[float, float] | None = None
) -> Dataset:
    """Return a US Image Storage object, explicit VR little endian.

    Parameters
    ----------
    pixels
        uint8, shape (rows, columns) for MONOCHROME2 or (rows, columns, 3) for RGB.
    who
        Patient, study and identifiers.
    station
        Name of the machine.
    spacing_mm
        (row, column) distance of pixel centres in millimetres; ``None``: not calibrated, nothing is declared.

    Raises
    ------
    ValueError
        If `pixels` has another shape or type.
    """
    colour = pixels.ndim == 3
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (colour and pixels.shape[2] != 3):
        raise ValueError(
            f"pixels must be uint8 (rows, columns) or (rows, columns, 3), not {pixels.dtype} {pixels.shape}"
        )
    rows, columns = pixels.shape[:2]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "", "0001"]  # 2D imaging, C.8.5.6.1.1
    dataset.SOPClassUID = UltrasoundImageStorage
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Breast ultrasound (simulated)"
    identify(dataset, who)
    dataset.SeriesDescription = "B-mode"
    dataset.Modality = "US"
    dataset.Manufacturer = "Edgeward"
    dataset.ManufacturerModelName = "Simulated ultrasound machine"
    dataset.StationName = station[:16]
    dataset.BodyPartExamined = "BREAST"
    dataset.Laterality = who.laterality
    dataset.PatientOrientation = ""
    if spacing_mm is not None:
        dataset.SequenceOfUltrasoundRegions = [_region(rows, columns, spacing_mm)]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.LossyImageCompression = "00"
    raw = np.ascontiguousarray(pixels).tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB"
    return dataset


def _region(rows: int, columns: int, spacing_mm: tuple[float, float]) -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat = 1  # 2D
    region.RegionDataType = 1  # tissue
    region.RegionFlags = 0
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = columns - 1, rows - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = _CENTIMETRES
    region.PhysicalDeltaX, region.PhysicalDeltaY = spacing_mm[1] / 10.0, spacing_mm[0] / 10.0
    return region
