"""Images, findings and requests for tests of imaging and delivery."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

from edgeward.messages import DeliverRequest, Finding, Lesion, Verdict
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault

CREATED_NS = 1_763_800_000_123_456_789


def test_file(name: str) -> Path:
    """Return the path of one of pydicom's test files."""
    path = get_testdata_file(name, download=False)
    assert path is not None, f"{name} is not in pydicom or pydicom-data"
    return Path(str(path))


test_file.__test__ = False  # type: ignore[attr-defined]


def breast_image(
    *, rows: int = 300, columns: int = 400, spacing_mm: float | None = 0.1, seed: int = 0, **attributes: Any
) -> Dataset:
    """Return a breast ultrasound object as a machine would send it; an attribute given as None is left out."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SpecificCharacterSet = "ISO_IR 100"
    image.ImageType = ["ORIGINAL", "PRIMARY", "BREAST", "0001"]
    image.SOPClassUID = UltrasoundImageStorage
    image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID = generate_uid()
    image.SeriesInstanceUID = generate_uid()
    image.StudyDate = image.SeriesDate = image.ContentDate = "20260105"
    image.StudyTime = image.SeriesTime = image.ContentTime = "101500"
    image.AccessionNumber = "A123"
    image.Modality = "US"
    image.Manufacturer = "Test machine"
    image.ReferringPhysicianName = "Referrer^Ann"
    image.StudyDescription = "Breast ultrasound"
    image.PatientName = "Muster^Erika"
    image.PatientID = "P-4711"
    image.PatientBirthDate = "19700102"
    image.PatientSex = "F"
    image.StudyID = "S1"
    image.SeriesNumber, image.InstanceNumber = 2, 7
    image.PatientOrientation = []
    image.Laterality = "L"
    image.BodyPartExamined = "BREAST"
    image.BurnedInAnnotation = "NO"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = rows, columns
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    if spacing_mm is not None:
        region = Dataset()
        region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
        region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 0
        region.RegionLocationMaxX1, region.RegionLocationMaxY1 = columns - 1, rows - 1
        region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
        region.PhysicalDeltaX = region.PhysicalDeltaY = spacing_mm / 10  # cm
        image.SequenceOfUltrasoundRegions = [region]
    pixels = np.random.default_rng(seed).integers(0, 200, (rows, columns), dtype=np.uint8)
    image.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.get("SOPInstanceUID", generate_uid())
    return image


def as_file(image: Dataset) -> bytes:
    """Return `image` as a DICOM file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()


def ellipse(x: float, y: float, a: float, b: float, points: int = 60) -> list[tuple[float, float]]:
    angles = [2 * math.pi * k / points for k in range(points)]
    return [(x + a * math.cos(t), y + b * math.sin(t)) for t in angles]


def finding_for(image: Dataset, item_id: str = "item-1", **changes: Any) -> Finding:
    """Return a malignant finding with one lesion in the middle of `image`."""
    rows, columns = int(image.Rows), int(image.Columns)
    frames = int(image.get("NumberOfFrames") or 1)
    spacing = None if "SequenceOfUltrasoundRegions" not in image else (0.1, 0.1)
    x, y, a, b = columns / 2, rows / 2, columns / 6, rows / 8
    scale = spacing[0] if spacing else 1.0
    lesion = Lesion(
        contour=ellipse(x, y, a, b),
        box=(x - a, y - b, x + a, y + b),
        long_axis=2 * max(a, b) * scale,
        short_axis=2 * min(a, b) * scale,
        area=math.pi * a * b * scale**2,
        unit="mm" if spacing else "px",
        probability=0.97,
    )
    values: dict[str, Any] = {
        "finding_id": f"f-{item_id}",
        "item_id": item_id,
        "sop_instance_uid": str(image.get("SOPInstanceUID", "")),
        "status": "analysed",
        "model": "breast-ultrasound",
        "model_version": "1.0.0",
        "frame": frames // 2,
        "frames": frames,
        "rows": rows,
        "columns": columns,
        "spacing_mm": spacing,
        "spacing_source": "SequenceOfUltrasoundRegions" if spacing else "",
        "lesions": [lesion],
        "label": "malignant",
        "probabilities": {"benign": 0.1, "malignant": 0.85, "normal": 0.05},
        "malignancy": 0.85,
        "suspicious": True,
        "created_ns": CREATED_NS,
        **changes,
    }
    return Finding(**values)


def not_analysed(image: Dataset, item_id: str = "item-1", reason: str = "outside the model's domain") -> Finding:
    return finding_for(
        image,
        item_id,
        status="not_analysed",
        reason=reason,
        lesions=[],
        label="",
        probabilities={},
        malignancy=None,
        suspicious=False,
    )


def verdict(action: str, item_id: str = "item-1", **changes: Any) -> Verdict:
    """Return a clinician's decision, a minute after the finding."""
    values: dict[str, Any] = {
        "verdict_id": f"v-{action}",
        "item_id": item_id,
        "finding_id": f"f-{item_id}",
        "action": action,
        "by": "dr.meier",
        "at_ns": CREATED_NS + 60 * 10**9,
        **changes,
    }
    return Verdict(**values)


def request_for(vault_root: Path, key: SiteKey, data: bytes, finding: Finding) -> DeliverRequest:
    """Put `data` into a vault and return the hand-over of its finding."""
    vault = FileVault(vault_root, key)
    stored = vault.put(data)
    return DeliverRequest(
        item_id=finding.item_id,
        trace_id=f"trace-{finding.item_id}",
        received_ns=finding.created_ns,
        deadline_ns=finding.created_ns + 10**9,
        object=vault.reference(stored.object_id, stored.wrapped_key, stored.size),
        finding=finding,
    )


def pixels_of(image: Dataset) -> NDArray[np.uint8]:
    """Return an uncompressed grey or RGB image as RGB."""
    raw = np.asarray(image.pixel_array)
    return np.repeat(raw[..., None], 3, axis=2) if raw.ndim == 2 else raw
