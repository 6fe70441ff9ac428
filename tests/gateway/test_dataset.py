"""What the gateway makes of encoded data sets: real ones, odd ones, broken ones."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_files
from pydicom.filereader import read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode
from tests.gateway.door import frame

from edgeward.gateway.dataset import CANNOT_UNDERSTAND, DOES_NOT_MATCH, Examination, NotUnderstood, file_meta
from edgeward.privacy.header import Header

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "dicom"


def look(
    data: bytes, *, uid: str, sop_class: str, syntax: str = ExplicitVRLittleEndian, pieces: tuple[int, ...] = ()
) -> Header:
    """Examine `data`, in one piece or cut into pieces of these lengths in turn."""
    examination = Examination(sop_class_uid=sop_class, sop_instance_uid=uid, transfer_syntax_uid=syntax)
    view, lengths = memoryview(data), itertools.cycle(pieces or (len(data) or 1,))
    while view:
        length = next(lengths)
        examination.feed(view[:length])
        view = view[length:]
    return examination.finish()


def refused(
    data: bytes, syntax: str = ExplicitVRLittleEndian, uid: str = "1.2.3", sop_class: str = "1.2"
) -> NotUnderstood:
    with pytest.raises(NotUnderstood) as caught:
        look(data, uid=uid, sop_class=sop_class, syntax=syntax)
    return caught.value


def real_files() -> list[Path]:
    files = [Path(name) for name in get_testdata_files("*.dcm")]
    if DATA.exists():
        files += [path for path in DATA.rglob("*") if path.is_file() and path.suffix not in (".zst", ".txt", ".md")]
    return files


def test_real_files_are_understood_or_refused_with_a_reason_never_an_error() -> None:
    understood = refusals = 0
    for path in real_files():
        content = path.read_bytes()
        try:
            meta = read_partial(io.BytesIO(content), stop_when=lambda *_: True)
            start = 132 + 12 + int(meta.file_meta.FileMetaInformationGroupLength)
            uid, sop_class = str(meta.file_meta.MediaStorageSOPInstanceUID), str(meta.file_meta.MediaStorageSOPClassUID)
            syntax = str(meta.file_meta.TransferSyntaxUID)
        except Exception:
            continue  # not even a file header: it could not have been sent
        try:
            header = look(content[start:], uid=uid, sop_class=sop_class, syntax=syntax)
        except NotUnderstood:
            refusals += 1
            continue
        understood += 1
        try:
            known = dcmread(path, force=True, stop_before_pixels=True)
        except OSError:
            continue  # pydicom gives up on it; it is kept, and the engine will say the same
        assert header.study_instance_uid == str(known.get("StudyInstanceUID", "") or "")
        assert header.identity.patient_id == str(known.get("PatientID", "") or "").strip()[:256]
    assert understood > 60
    assert refusals < understood


def test_names_in_other_scripts_are_read() -> None:
    image = frame(name="")
    image.SpecificCharacterSet = "ISO_IR 192"
    image.PatientName = "Wang^XiaoDong=王^小东"

    header = look(encode(image, False, True), uid=image.SOPInstanceUID, sop_class=image.SOPClassUID)

    assert "王^小东" in header.identity.patient_name


@pytest.mark.parametrize("charset", ["NO_SUCH_SET", "ISO_IR 192", "ISO\0IR 100"])
def test_an_undecodable_name_does_not_stop_an_image(charset: str) -> None:
    image = frame(name="X^Y")
    image.SpecificCharacterSet = "ISO_IR 100"
    data = encode(image, False, True).replace(b"ISO_IR 100", charset.encode().ljust(10)[:10]).replace(b"X^Y", b"X^\xfc")

    assert look(data, uid=image.SOPInstanceUID, sop_class=image.SOPClassUID).identity.patient_name


def test_every_truncation_within_the_pixels_is_refused() -> None:
    image = frame(16, 16)
    data = encode(image, False, True)
    pixels = data.index(struct.pack("<HH", 0x7FE0, 0x0010))

    for length in range(pixels + 12, len(data) - 2, 3):
        assert "truncated" in str(refused(data[:length], uid=image.SOPInstanceUID, sop_class=image.SOPClassUID))


def test_studies_whose_uids_are_too_long_stay_two() -> None:
    image = frame(16, 16)
    image.StudyInstanceUID = "1.2.345"
    data = encode(image, False, True)
    found = set()
    for end in (b"4", b"5"):
        long = struct.pack("<2sH", b"UI", 72) + b"1." + b"2" * 69 + end
        changed = data.replace(b"UI\x08\x001.2.345\0", long)
        found.add(look(changed, uid=image.SOPInstanceUID, sop_class=image.SOPClassUID).study_instance_uid)

    assert len(found) == 2


def test_a_truncation_before_the_identity_is_refused() -> None:
    image = frame(16, 16)
    data = encode(image, False, True)

    for length in range(data.index(image.SOPInstanceUID.encode())):
        refused(data[:length], uid=image.SOPInstanceUID, sop_class=image.SOPClassUID)


def test_truncated_fragments_are_refused_and_a_missing_delimiter_is_not() -> None:
    image = frame(16, 16)
    del image.PixelData
    head = encode(image, False, True)
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) + struct.pack("<HHL", 0xFFFE, 0xE000, 1000) + bytes(1000)
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    known = {"uid": image.SOPInstanceUID, "sop_class": image.SOPClassUID, "syntax": "1.2.840.10008.1.2.4.50"}

    look(head + pixels + items + end, **known)
    look(head + pixels + items, **known)
    assert "truncated" in str(refused(head + pixels + items[:-100], **known))


def test_a_deflated_bomb_is_looked_at_within_bounds() -> None:
    image = frame(16, 16)
    image.PixelData = bytes(64 << 20)
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = engine.compress(encode(image, False, True)) + engine.flush()
    assert len(data) < 200_000

    header = look(data, uid=image.SOPInstanceUID, sop_class=image.SOPClassUID, syntax=DeflatedExplicitVRLittleEndian)

    assert header.modality == "US"


def test_deep_nesting_is_refused_not_fatal() -> None:
    image = frame(16, 16)
    opening = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    head = encode(image, False, True)
    place = head.index(struct.pack("<HH", 0x0010, 0x0010))

    assert refused(
        head[:place] + opening * 20_000 + head[place:], uid=image.SOPInstanceUID, sop_class=image.SOPClassUID
    ).status in (CANNOT_UNDERSTAND, DOES_NOT_MATCH)


@given(
    st.binary(max_size=600), st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, "1.2.840.10008.1.2.2"])
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_with_a_reason(data: bytes, syntax: str) -> None:
    refused(data, syntax)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_a_damaged_image_is_understood_or_refused_never_an_error(damage: list[tuple[int, int]]) -> None:
    image = frame(8, 8, uid="1.2.3.4.5")
    encoded = bytearray(encode(image, False, True))
    for place, value in damage:
        encoded[place % len(encoded)] = value
    told = ""
    try:
        look(bytes(encoded), uid="1.2.3.4.5", sop_class=image.SOPClassUID)
    except NotUnderstood as refusal:
        told = str(refusal)
    assert "MUSTERFRAU" not in told


def test_a_request_whose_uid_is_none_is_refused() -> None:
    assert refused(b"12345678", uid="1.2.3/../../etc").status == CANNOT_UNDERSTAND
    assert refused(b"12345678", uid="").status == CANNOT_UNDERSTAND


def test_the_file_meta_is_what_pydicom_reads() -> None:
    image = frame(8, 8)
    meta = file_meta(
        sop_class_uid=image.SOPClassUID,
        sop_instance_uid=image.SOPInstanceUID,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        calling_ae_title="ODD",
    )

    read = dcmread(io.BytesIO(meta + encode(image, False, True)))

    assert read == image
    assert read.file_meta.MediaStorageSOPClassUID == image.SOPClassUID
    assert read.file_meta.SourceApplicationEntityTitle == "ODD"
    assert read.file_meta.FileMetaInformationGroupLength == len(meta) - 132 - 12
