"""What a simulated machine shows: valid objects, invented patients, spacing only when it is known."""

from __future__ import annotations

import datetime as dt
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, dcmwrite, examples
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from edgeward.device.exposures import ExposureError, built_in, from_folder
from edgeward.device.ultrasound_image import Session, ultrasound_image

BEGAN = dt.datetime(2026, 1, 31, 23, 59, 58, tzinfo=dt.UTC)


def session(seed=1):
    return Session(seed, "us-1", BEGAN, 0.5)


def picture(path, mode="L", size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    data = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(data).convert(mode).save(path)


def test_spacing_becomes_a_calibrated_region_in_centimetres():
    image = np.arange(480 * 640, dtype=np.uint32).reshape(480, 640).astype(np.uint8)

    dataset = ultrasound_image(image, session().exam(0), "us-1", (0.08, 0.07))

    region = dataset.SequenceOfUltrasoundRegions[0]
    assert (region.PhysicalDeltaX, region.PhysicalDeltaY) == pytest.approx((0.007, 0.008))
    assert region.PhysicalUnitsXDirection == region.PhysicalUnitsYDirection == 3
    assert (region.RegionLocationMaxX1, region.RegionLocationMaxY1) == (639, 479)
    assert np.array_equal(dataset.pixel_array, image)
    assert dataset.BodyPartExamined == "BREAST"


def test_without_spacing_none_is_declared():
    dataset = ultrasound_image(np.zeros((48, 64, 3), dtype=np.uint8), session().exam(0), "us-1")

    assert "SequenceOfUltrasoundRegions" not in dataset
    assert "PixelSpacing" not in dataset
    assert dataset.PhotometricInterpretation == "RGB"


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_an_odd_number_of_bytes_is_padded(shape, tmp_path):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    dataset = ultrasound_image(image, session().exam(0), "us-1")
    dcmwrite(tmp_path / "a.dcm", dataset, enforce_file_format=True)

    assert np.array_equal(dcmread(tmp_path / "a.dcm").pixel_array, image)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_other_pixels_are_refused(image):
    with pytest.raises(ValueError, match="uint8"):
        ultrasound_image(image, session().exam(0), "us-1")


def test_identifiers_follow_from_the_seed_and_never_meet():
    exams = [session(seed).exam(number) for seed in (1, 2) for number in range(90)]

    assert session(1).exam(17) == exams[17]
    assert len({e.sop_uid for e in exams}) == 180
    assert len({e.study_uid for e in exams}) == 60
    assert len({e.accession for e in exams}) == 60
    assert all(e.patient_name.startswith("SIM^") and e.patient_id.startswith("SIM-") for e in exams)
    assert all(e.sop_uid.startswith("2.25.") and len(e.sop_uid) <= 64 for e in exams)
    for e in exams:
        dt.datetime.strptime(e.birth_date, "%Y%m%d")  # noqa: DTZ007
    by_study = {}
    for e in exams:
        by_study.setdefault(e.study_uid, set()).add((e.patient_id, e.series_uid, e.accession, e.study_at))
    assert all(len(who) == 1 for who in by_study.values()), "a study has one patient"


def test_built_in_exposures_are_mostly_calibrated_phantoms_and_sometimes_something_else():
    exposures = list(islice(built_in(session()), 20))

    datasets = [e.build() for e in exposures]

    foreign = [d for d in datasets if d.get("StudyDescription") != "Breast ultrasound (simulated)"]
    assert len(foreign) == 4
    assert {d.SOPClassUID for d in foreign} == {UltrasoundImageStorage, UltrasoundMultiFrameImageStorage}
    assert all("SequenceOfUltrasoundRegions" in d for d in datasets if d not in foreign)
    assert {d.PhotometricInterpretation for d in datasets if d not in foreign} == {"RGB", "MONOCHROME2"}
    assert [d.SOPInstanceUID for d in datasets] == [e.uid for e in exposures]
    assert all(str(d.PatientName).startswith("SIM^") for d in datasets)


def test_an_exposure_built_again_is_the_same_object():
    for exposure in islice(built_in(session()), 6):
        assert exposure.build() == exposure.build()


def test_pictures_of_a_folder_become_objects_and_masks_are_left_out(tmp_path):
    picture(tmp_path / "benign" / "images" / "a.png")
    picture(tmp_path / "malignant" / "images" / "b.JPG", "RGB")
    picture(tmp_path / "c.jpeg", "CMYK")
    picture(tmp_path / "benign" / "mask" / "a.png")
    picture(tmp_path / "Masks" / "a.png")
    picture(tmp_path / "a_mask_1.png")
    (tmp_path / "notes.txt").write_text("x")

    exposures = list(islice(from_folder(tmp_path, session()), 9))

    assert len({e.uid for e in exposures}) == 9, "each time round they are new patients"
    first = [e.build() for e in exposures[:3]]
    assert sorted(d.PhotometricInterpretation for d in first) == ["MONOCHROME2", "RGB", "RGB"]
    assert all("SequenceOfUltrasoundRegions" not in d for d in first)
    assert len({d.PixelData for d in first}) == 3, "each picture once a round"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_picture_is_understood(tmp_path, mode):
    if mode == "I;16":
        Image.fromarray(np.linspace(0, 40_000, 3072).astype(np.uint16).reshape(48, 64)).save(tmp_path / "a.png")
    else:
        picture(tmp_path / "a.png", mode)

    dataset = next(from_folder(tmp_path, session())).build()

    assert dataset.pixel_array.shape[:2] == (48, 64)
    assert np.ptp(dataset.pixel_array) > 200, "the full range is used"


def test_dicom_files_are_sent_as_they_are_and_once(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "echo").write_bytes(examples.get_path("ybr_color").read_bytes())
    original = dcmread(tmp_path / "echo")

    exposures = list(islice(from_folder(tmp_path, session()), 12))

    same = [e for e in exposures if e.uid == original.SOPInstanceUID]
    assert len(same) == 1
    assert same[0].build() == original


def test_unreadable_files_are_left_out(tmp_path, caplog):
    picture(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.png").read_bytes()[:100])
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)

    exposures = list(islice(from_folder(tmp_path, session()), 4))

    assert len(exposures) == 4
    own = [record for record in caplog.records if record.name.startswith("edgeward")]
    assert len(own) == 3, "each is said once"


def test_a_folder_of_unreadable_files_ends_instead_of_spinning(tmp_path):
    (tmp_path / "empty.png").touch()

    assert list(from_folder(tmp_path, session())) == []


def test_nothing_to_send_is_an_error(tmp_path):
    with pytest.raises(ExposureError, match="neither pictures"):
        from_folder(tmp_path, session())
    with pytest.raises(ExposureError, match="no folder"):
        from_folder(tmp_path / "nowhere", session())
