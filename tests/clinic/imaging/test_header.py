"""What results inherit from images that real machines send, and from worse."""

from __future__ import annotations

import io
from datetime import UTC, timedelta, timezone

import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundImageStorage
from tests.support.imaging import CREATED_NS, as_file, breast_image, finding_for

from edgeward.clinic.imaging.header import SERIES, local_time, new_instance, series_uid, widen_charset
from edgeward.clinic.imaging.source import INHERITED, derived_uid, read_source


def result_of(image: Dataset, **changes):
    finding = finding_for(image, **changes)
    return new_instance(
        read_source(image, finding),
        finding,
        kind="sr",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33",
        modality="SR",
        zone=UTC,
    )


def reread(result: Dataset) -> Dataset:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, result, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


def test_patient_and_study_are_those_of_the_image():
    image = breast_image()

    result = reread(result_of(image))

    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
        "StudyDescription",
    ):
        assert result[keyword].value == image[keyword].value, keyword
    assert result.SeriesInstanceUID != image.SeriesInstanceUID
    assert result.SOPInstanceUID != image.SOPInstanceUID


def test_an_image_with_nothing_mandatory_still_gives_a_complete_header():
    image = Dataset()
    image.Rows = image.Columns = 10

    result = reread(result_of(image))

    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "ReferringPhysicianName",
        "StudyID",
        "AccessionNumber",
    ):
        assert keyword in result, keyword
        assert not result[keyword].value, keyword
    assert result.StudyInstanceUID.is_valid
    assert result.SeriesInstanceUID.is_valid
    assert result.SOPInstanceUID.is_valid


@pytest.mark.parametrize(
    ("keyword", "bad"),
    [
        ("PatientBirthDate", "19701350"),
        ("PatientBirthDate", "unknown"),
        ("PatientSex", "weiblich"),
        ("StudyTime", "25:61"),
        ("PatientAge", "forty"),
        ("PatientWeight", "heavy"),
        ("PatientSize", "0"),
        ("TimezoneOffsetFromUTC", "MEZ"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_value_its_vr_does_not_allow_is_left_out(keyword, bad):
    image = breast_image()
    image.add_new(pydicom.datadict.tag_for_keyword(keyword), "LO", bad)  # a wrong VR, to get it past pydicom

    result = reread(result_of(image))

    assert not result.get(keyword)


def test_old_forms_of_date_and_time_are_understood():
    image = breast_image()
    image.add_new("StudyDate", "LO", "1994.10.26")
    image.add_new("StudyTime", "LO", "10:15:00")

    result = result_of(image)

    assert (result.StudyDate, result.StudyTime) == ("19941026", "101500")


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "Иванова^Анна"),
        ("GB18030", "王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 144", "Люкceмбypг"),
    ],
)
def test_a_name_in_any_character_set_arrives_unchanged(charset, name):
    image = breast_image(SpecificCharacterSet=charset, PatientName=name)
    image = pydicom.dcmread(io.BytesIO(as_file(image)))

    result = reread(result_of(image))

    assert str(result.PatientName) == name


def test_undeclared_bytes_of_a_name_arrive_as_the_same_bytes():
    image = breast_image(PatientName="Muster^Xxxx", SpecificCharacterSet=None)
    data = as_file(image).replace(b"Muster^Xxxx", b"Muster^\xcd\xf5\xd0\xa1")  # GB 2312, not declared

    result = result_of(pydicom.dcmread(io.BytesIO(data)))
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, result, enforce_file_format=True)

    assert b"Muster^\xcd\xf5\xd0\xa1" in buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_an_unknown_character_set_is_not_passed_on():
    image = breast_image(SpecificCharacterSet="ISO_IR 999", PatientName="Müller")

    assert result_of(image).SpecificCharacterSet in ("ISO_IR 100", "ISO_IR 192")


def test_our_own_text_outside_the_set_makes_the_object_unicode():
    result = result_of(breast_image())
    assert result.SpecificCharacterSet == "ISO_IR 100"

    widen_charset(result, "plain")
    assert result.SpecificCharacterSet == "ISO_IR 100"
    widen_charset(result, "超声")
    assert result.SpecificCharacterSet == "ISO_IR 192"


def test_identifiers_depend_on_item_and_model_and_on_nothing_else():
    image = breast_image()

    first = result_of(image)

    assert result_of(image).SOPInstanceUID == first.SOPInstanceUID
    assert result_of(image, item_id="item-2").SOPInstanceUID != first.SOPInstanceUID
    assert result_of(image, model_version="1.0.1").SOPInstanceUID != first.SOPInstanceUID
    assert result_of(image, item_id="item-2").SeriesInstanceUID == first.SeriesInstanceUID
    assert result_of(image, model_version="1.0.1").SeriesInstanceUID != first.SeriesInstanceUID


class Asked(Dataset):
    """A data set that remembers what it was asked for."""

    def get(self, key, default=None):
        if isinstance(key, str):
            self.__dict__.setdefault("asked", set()).add(key)
        return super().get(key, default)

    def __getattr__(self, name):
        if tag_for_keyword(name) is not None:
            self.__dict__.setdefault("asked", set()).add(name)
        return super().__getattr__(name)


def test_everything_that_is_looked_for_is_read_from_the_file():
    image = Asked()
    image.update(breast_image())

    read_source(image, finding_for(breast_image()))

    assert len(image.asked) > 40
    assert image.asked <= set(INHERITED)


def test_one_series_per_study_model_kind_and_body_part():
    first = breast_image()
    other = breast_image(StudyInstanceUID=first.StudyInstanceUID, SeriesNumber=9, Laterality="R")
    elsewhere = breast_image(StudyInstanceUID=first.StudyInstanceUID, BodyPartExamined="AXILLA")

    def series(image: Dataset, kind: str = "sr") -> str:
        finding = finding_for(image)
        return series_uid(read_source(image, finding), finding, kind, "SR")

    assert series(first) == series(other)
    assert len({series(first), series(first, "seg"), series(elsewhere), series(breast_image())}) == 4


@pytest.mark.parametrize(
    ("series", "instance", "expected"),
    [(2, 7, 2007), (None, 7, 7), (5, None, 5001), (99999, 12, 12), (-3, 4, 4), (2, 12_345_678, 345_678)],
)
def test_results_are_numbered_as_their_images(series, instance, expected):
    image = breast_image(SeriesNumber=series, InstanceNumber=instance)

    number = result_of(image).InstanceNumber

    assert number == expected
    assert 0 < number < 2**31


def test_series_of_results_have_names_and_numbers_of_their_own():
    numbers = [number for number, _ in SERIES.values()]

    assert len(set(numbers)) == len(SERIES) == 4
    assert all(len(name) <= 64 and name.startswith("Edgeward AI: ") for _, name in SERIES.values())


def test_derived_uids_do_not_confuse_their_parts():
    assert derived_uid("a", "bc") != derived_uid("ab", "c")
    assert derived_uid("a").is_valid


def test_times_are_told_on_the_clock_of_the_image():
    utc = local_time(CREATED_NS, "", UTC)

    assert local_time(CREATED_NS, "+0800", UTC).hour == (utc.hour + 8) % 24
    assert local_time(CREATED_NS, "-0330", UTC) == utc
    assert local_time(CREATED_NS, "+9900", timezone(timedelta(hours=1))).hour == (utc.hour + 1) % 24


def test_text_with_control_characters_is_made_fit():
    image = breast_image()
    image.add_new("StudyID", "UT", "a\nb\\c")

    result = reread(result_of(image))

    assert result.StudyID == "a b c"


@pytest.mark.parametrize("keyword", ["PatientID", "IssuerOfPatientID", "AccessionNumber"])
@pytest.mark.parametrize("value", ["x" * 65, "A\\B", "a\nb"])
def test_an_identifier_that_cannot_be_written_whole_is_left_out(keyword, value):
    image = breast_image()
    image.add_new(keyword, "UT" if len(value) > 64 else "LO", value.split("\\"))

    assert not reread(result_of(image)).get(keyword)


def test_an_accession_number_longer_than_the_standard_allows_is_told_in_full():
    image = breast_image()
    image.add_new("AccessionNumber", "LO", "HOSP-2026-000123456789")

    assert reread(result_of(image)).AccessionNumber == "HOSP-2026-000123456789"


def test_the_frame_count_of_the_finding_counts_where_the_image_says_nothing():
    image = breast_image(SOPClassUID=UltrasoundImageStorage)

    assert read_source(image, finding_for(image, frames=12)).frames == 12
