"""The segmentation: every outlined lesion as a binary mask in the image's own pixels (PS3.3 A.51).

Responsible for the Segmentation object. Not responsible for the outlines (``lesions``) or for what is inherited from
the image (``header``).

An ultrasound image has no frame of reference: a hand-held probe knows no room. Such a segmentation is placed by the
image it is derived from, pixel on pixel (Derivation Image functional group with Spatial Locations Preserved), and has
neither frame of reference nor plane position. Of several frames, those with a lesion are covered; a lesion is one
segment however many frames it is seen in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage

from edgeward.clinic.imaging import codes
from edgeward.clinic.imaging.header import MANUFACTURER, image_reference, new_instance
from edgeward.clinic.imaging.lesions import Sighting, mask, sightings, tracking_uid
from edgeward.clinic.imaging.source import Source, derived_uid
from edgeward.messages import Finding

_OUTLINE_LAB = (51118, 25186, 26214)  # the blue of the capture as scaled CIELab, PS3.3 C.10.7.1.1
_MAX_BITS = 1 << 33  # 1 GiB of masks: beyond any sampled loop


def build_segmentation(finding: Finding, source: Source, zone: tzinfo) -> Dataset | None:
    """Return the segmentation of `finding`, or None if no lesion covers a pixel.

    Parameters
    ----------
    finding
        What the model said; contours in pixels of the image, the centre of the first pixel at (0, 0).
    source
        The image it is about.
    zone
        Zone of dates and times, unless the source states its own.

    Returns
    -------
    pydicom.Dataset
        With file meta information; the same for the same arguments. A frame for each lesion in each image frame,
        ordered by segment, then image frame; a pixel is set if its centre lies within the outline.

    Raises
    ------
    ValueError
        If the size of the image is not known, or the masks would be absurdly large.
    """
    if source.rows < 1 or source.columns < 1:
        raise ValueError("the size of the image is not known")
    found = sightings(finding)
    if len(found) * source.rows * source.columns > _MAX_BITS:
        raise ValueError("too many lesions for one segmentation")
    masks = [mask(sighting.lesion, source.rows, source.columns) for sighting in found]
    kept = [(sighting, pixels) for sighting, pixels in zip(found, masks, strict=True) if pixels.any()]
    if not kept:
        return None
    result = new_instance(source, finding, kind="seg", sop_class_uid=SegmentationStorage, modality="SEG", zone=zone)
    frames = [sighting for sighting, _ in kept]
    _series(result, source, frames)
    _image(result, source, [pixels for _, pixels in kept])
    _segments(result, finding, source, frames)
    _functional_groups(result, finding, source, frames)
    return result


def _series(result: Dataset, source: Source, frames: Sequence[Sighting]) -> None:
    """Enhanced General Equipment, Common Instance Reference and what this object is called."""
    result.ImageType = ["DERIVED", "PRIMARY"]
    result.PatientOrientation = []  # Type 2C: not known for a hand-held probe
    result.pop("Laterality", None)
    if source.laterality:
        result.ImageLaterality = source.laterality
    result.DeviceSerialNumber = derived_uid("observer", result.ManufacturerModelName, *result.SoftwareVersions)
    result.ContentLabel = "AI_LESIONS"
    result.ContentDescription = "Lesions outlined by an AI algorithm; preliminary, not verified"
    result.ContentCreatorName = ""
    referenced = Dataset()
    referenced.SeriesInstanceUID = source.series_instance_uid
    referenced.ReferencedInstanceSequence = [image_reference(source)]
    result.ReferencedSeriesSequence = [referenced]
    result.SourceImageSequence = [image_reference(source, sorted({s.frame for s in frames}))]


def _image(result: Dataset, source: Source, masks: list[NDArray[np.bool_]]) -> None:
    """Image Pixel and Segmentation Image (PS3.3 C.8.20.2): one bit a pixel, frames without a gap between them."""
    result.SamplesPerPixel, result.PhotometricInterpretation = 1, "MONOCHROME2"
    result.NumberOfFrames, result.Rows, result.Columns = len(masks), source.rows, source.columns
    result.BitsAllocated, result.BitsStored, result.HighBit, result.PixelRepresentation = 1, 1, 0, 0
    result.LossyImageCompression = "00"
    if source.lossy == "01":
        result.LossyImageCompression = "01"  # what was lost in the image is lost here too, PS3.3 C.7.6.1.1.5
        result.LossyImageCompressionMethod = source.lossy_method or "ISO_10918_1"
        result.LossyImageCompressionRatio = source.lossy_ratio or "1"
    if source.burned_in:
        result.BurnedInAnnotation = "NO"  # a mask shows nothing of the picture
    result.SegmentationType = "BINARY"
    if source.rows * source.columns % 8 == 0:  # each frame ends on a byte: pack them one by one
        packed = b"".join(np.packbits(m, bitorder="little").tobytes() for m in masks)
    else:
        packed = np.packbits(np.concatenate([m.ravel() for m in masks]), bitorder="little").tobytes()
    result.PixelData = packed + b"\0" * (len(packed) % 2)
    result["PixelData"].VR = "OB"


def _segments(result: Dataset, finding: Finding, source: Source, frames: Sequence[Sighting]) -> None:
    """Segment Description (PS3.3 table C.8.20-4)."""
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [codes.ARTIFICIAL_INTELLIGENCE.item()]
    algorithm.AlgorithmName = result.ManufacturerModelName
    algorithm.AlgorithmVersion = result.SoftwareVersions[1].removeprefix("model ")
    algorithm.AlgorithmSource = MANUFACTURER
    region = codes.BREAST.item()
    if side := codes.SIDES.get(source.laterality):
        region.AnatomicRegionModifierSequence = [side.item()]
    segments = []
    for segment, number in enumerate(dict.fromkeys(sighting.number for sighting in frames), start=1):
        item = Dataset()
        item.SegmentNumber = segment
        item.SegmentLabel = f"Lesion {number}"
        item.SegmentDescription = "Outlined by an AI algorithm; preliminary, not verified"
        item.SegmentedPropertyCategoryCodeSequence = [codes.ABNORMAL_STRUCTURE.item()]
        item.SegmentedPropertyTypeCodeSequence = [codes.LESION.item()]
        item.AnatomicRegionSequence = [region]
        item.SegmentAlgorithmType = "AUTOMATIC"
        item.SegmentAlgorithmName = algorithm.AlgorithmName
        item.SegmentationAlgorithmIdentificationSequence = [algorithm]
        item.RecommendedDisplayCIELabValue = list(_OUTLINE_LAB)
        item.TrackingID = f"Lesion {number}"
        item.TrackingUID = tracking_uid(finding, f"lesion-{number}")
        segments.append(item)
    result.SegmentSequence = segments
    result.SegmentsOverlap = "UNDEFINED" if len(segments) > 1 else "NO"


def _functional_groups(result: Dataset, finding: Finding, source: Source, frames: Sequence[Sighting]) -> None:
    """Multi-frame Dimension and Functional Groups (PS3.3 C.7.6.17, C.7.6.16): by segment, then by image frame."""
    organization = derived_uid("dimensions", finding.model, "segment-time" if source.frames > 1 else "segment")
    dimensions = [("Referenced Segment Number", 0x0062000B, 0x0062000A)]
    if source.frames > 1:
        dimensions.append(("Temporal Position Index", 0x00209128, 0x00209111))
    holder = Dataset()
    holder.DimensionOrganizationUID = organization
    result.DimensionOrganizationSequence = [holder]
    result.DimensionIndexSequence = [_dimension(organization, *dimension) for dimension in dimensions]
    # No Pixel Measures: readers (highdicom) refuse them without a slice thickness, which no ultrasound beam has. The
    # image's own count.
    result.SharedFunctionalGroupsSequence = [Dataset()]
    segments = {number: k for k, number in enumerate(dict.fromkeys(s.number for s in frames), start=1)}
    times = {frame: k for k, frame in enumerate(sorted({s.frame for s in frames}), start=1)}
    result.PerFrameFunctionalGroupsSequence = [
        _frame(source, segments[s.number], s.frame, times[s.frame]) for s in frames
    ]


def _dimension(organization: str, label: str, pointer: int, group: int) -> Dataset:
    item = Dataset()
    item.DimensionOrganizationUID = organization
    item.DimensionIndexPointer, item.FunctionalGroupPointer = Tag(pointer), Tag(group)
    item.DimensionDescriptionLabel = label
    return item


def _frame(source: Source, segment: int, frame: int, time: int) -> Dataset:
    place, identification, derivation, group = Dataset(), Dataset(), Dataset(), Dataset()
    place.DimensionIndexValues = [segment, time] if source.frames > 1 else [segment]
    if source.frames > 1:
        place.TemporalPositionIndex = time
    identification.ReferencedSegmentNumber = segment
    image = image_reference(source, [frame])
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [codes.SOURCE_FOR_PROCESSING.item()]
    derivation.SourceImageSequence = [image]
    derivation.DerivationCodeSequence = [codes.SEGMENTATION.item()]
    group.FrameContentSequence = [place]
    group.SegmentIdentificationSequence = [identification]
    group.DerivationImageSequence = [derivation]
    return group
