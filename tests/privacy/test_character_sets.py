"""Character sets that pydicom reads wrongly, and text that declares none."""

from __future__ import annotations

import io

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

from edgeward.privacy.character_sets import declare
from edgeward.privacy.header import header_of

NAME, SET = 0x00100010, 0x00080005
CHINESE = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="  # PS3.5, annex K


def the_file(name: bytes, character_set: bytes = b"", *, implicit: bool = False) -> io.BytesIO:
    """Return an object whose patient name and character set are these bytes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundImageStorage, generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if character_set:
        dataset.SpecificCharacterSet = character_set.decode().split("\\")
    dataset.PatientName = "X" * 100
    dataset.add_new(0x00282000, "OB", b"\xff\xfe\xfd\xfc")  # an ICC profile: bytes that are no text
    written = io.BytesIO()
    pydicom.dcmwrite(written, dataset, enforce_file_format=True)
    assert len(name) <= 100
    return io.BytesIO(written.getvalue().replace(b"X" * 100, name.ljust(100)))


def test_simplified_chinese_by_code_extension_is_read_without_its_escape_sequences() -> None:
    header = header_of({NAME: CHINESE, SET: b"\\ISO 2022 IR 58"}, little=True)
    assert header.identity.patient_name.rstrip("=") == "Zhang^XiaoDong=张^小东"


def test_simplified_chinese_is_written_again_as_it_came() -> None:
    dataset = pydicom.dcmread(the_file(CHINESE, b"\\ISO 2022 IR 58"))
    assert str(dataset.PatientName).rstrip("=") == "Zhang^XiaoDong=张^小东"
    dataset.PatientName = "Zhang^XiaoDong=张^小东="
    written = io.BytesIO()
    dataset.save_as(written)
    assert CHINESE.rstrip(b"=") in written.getvalue()


@pytest.mark.parametrize("implicit", [False, True])
def test_undeclared_utf8_is_read_as_such_everywhere(implicit: bool) -> None:
    name = "王^小东"
    assert header_of({NAME: name.encode()}, little=True).identity.patient_name == name
    dataset = declare(pydicom.dcmread(the_file(name.encode(), implicit=implicit)))
    assert str(dataset.PatientName) == name
    assert dataset.SpecificCharacterSet == "ISO_IR 192"


def test_undeclared_latin_text_is_still_latin() -> None:
    name = "Müller^Jörg"
    assert header_of({NAME: name.encode("latin-1")}, little=True).identity.patient_name == name
    dataset = declare(pydicom.dcmread(the_file(name.encode("latin-1"))))
    assert str(dataset.PatientName) == name
    assert "SpecificCharacterSet" not in dataset


def test_a_declared_character_set_is_believed() -> None:
    dataset = declare(pydicom.dcmread(the_file("Ã¼".encode("latin-1"), b"ISO_IR 100")))
    assert str(dataset.PatientName) == "Ã¼"
    assert dataset.SpecificCharacterSet == "ISO_IR 100"


def nested(outer: str, inner: str, *, open_ended: bool, own_set: str = "") -> Dataset:
    """Return an object read from a file whose text, in Latin-1 or not, stands in a sequence and in one within it."""
    within, item, dataset = Dataset(), Dataset(), Dataset()
    within.CodeMeaning, item.CodeMeaning = "Y" * 40, "X" * 40
    if own_set:
        within.SpecificCharacterSet = own_set
    item.PurposeOfReferenceCodeSequence, dataset.AnatomicRegionSequence = [within], [item]
    dataset.StudyDescription = "ascii"
    for holder, name in ((item, "PurposeOfReferenceCodeSequence"), (dataset, "AnatomicRegionSequence")):
        holder[name].is_undefined_length = open_ended
    written = io.BytesIO()
    pydicom.dcmwrite(written, dataset, implicit_vr=False, little_endian=True)
    codec = "latin-1" if own_set else "utf-8"
    data = written.getvalue().replace(b"X" * 40, outer.encode().ljust(40)).replace(
        b"Y" * 40, inner.encode(codec).ljust(40)
    )  # fmt: skip
    return declare(pydicom.dcmread(io.BytesIO(data), force=True))


@pytest.mark.parametrize("open_ended", [False, True])
@pytest.mark.parametrize("own_set", ["", "ISO_IR 100"])
def test_undeclared_utf8_in_sequences_is_read_as_such(open_ended: bool, own_set: str) -> None:
    dataset = nested("Thorax: 乳房", "préopératoire", open_ended=open_ended, own_set=own_set)
    [item] = dataset.AnatomicRegionSequence
    assert item.CodeMeaning == "Thorax: 乳房"
    assert item.PurposeOfReferenceCodeSequence[0].CodeMeaning == "préopératoire"
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    written = io.BytesIO()
    pydicom.dcmwrite(written, dataset, implicit_vr=False, little_endian=True)
    again = pydicom.dcmread(io.BytesIO(written.getvalue()), force=True)
    assert again.AnatomicRegionSequence[0].CodeMeaning == "Thorax: 乳房"


def test_a_sequence_that_cannot_be_read_changes_nothing() -> None:
    data = (
        the_file("Müller".encode()).getvalue() + b"\x08\x00\x18\x22SQ\x00\x00\x06\x00\x00\x00\xfe\xff\x00\xe0\xff\xff"
    )
    assert str(declare(pydicom.dcmread(io.BytesIO(data))).PatientName) == "Müller"


def test_ascii_needs_no_declaration() -> None:
    assert "SpecificCharacterSet" not in declare(pydicom.dcmread(the_file(b"Muster^Anna")))
