"""STOW-RS of metadata with bulk data: the object that results is the one that the sender meant."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid
from tests.gateway.test_stow import failures, uids
from tests.gateway.webdoor import BOUNDARY, Web, open_web
from tests.support.imaging import as_file, breast_image

from edgeward.gateway import metadata_parts, stow
from edgeward.gateway.dataset import NotUnderstood
from edgeward.gateway.metadata_parts import Composed, MetadataParts
from edgeward.gateway.native_xml import NotNative, from_native_xml

Part = tuple[dict[str, str], bytes]


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path / "home") as web:
        yield web


def multipart(*parts: Part) -> bytes:
    found = b""
    for headers, content in parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        found += f"--{BOUNDARY}\r\n{lines}\r\n".encode() + content + b"\r\n"
    return found + f"--{BOUNDARY}--\r\n".encode()


async def send(web: Web, *parts: Part, kind: str = "json") -> httpx.Response:
    content_type = f'multipart/related; type="application/dicom+{kind}"; boundary={BOUNDARY}'
    return await web.client().post("/studies", content=multipart(*parts), headers={"Content-Type": content_type})


def told(image: Dataset, uri: str = "pixels/1") -> dict:
    """The metadata of an image, its pixels under an address."""
    model = image.to_json_dict()
    model["7FE00010"] = {"vr": "OW", "BulkDataURI": uri}
    return model


def as_json(*models: dict) -> Part:
    return {"Content-Type": "application/dicom+json"}, json.dumps(models).encode()


def bulk(data: bytes, uri: str = "pixels/1", kind: str = "application/octet-stream") -> Part:
    return {"Content-Type": kind, "Content-Location": uri}, data


async def kept(web: Web, answer: httpx.Response) -> Dataset:
    url = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    got = await web.viewer().get(url, headers={"Accept": "application/dicom"})
    return dcmread(BytesIO(got.content))


def jpeg(rows: int, columns: int, seed: int = 0, mode: str = "L") -> bytes:
    shape = (rows, columns) if mode == "L" else (rows, columns, 3)
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, np.uint8), mode).save(buffer, "JPEG")
    return buffer.getvalue()


async def test_metadata_and_pixels_become_the_object_that_was_meant(web: Web) -> None:
    image = breast_image(rows=20, columns=31)
    image.PatientName = "王^小东"
    image.add_new(0x00111001, "DS", "0.12345678901234567")
    image.add_new(0x00110010, "LO", "ACME")

    answer = await send(web, as_json(told(image)), bulk(image.PixelData))

    assert answer.status_code == 200
    assert uids(answer, "00081199") == [image.SOPInstanceUID]
    got = await kept(web, answer)
    assert got.PixelData == image.PixelData
    assert (str(got.PatientName), got.Rows, got.Columns) == ("王^小东", 20, 31)
    assert float(got[0x00111001].value) == pytest.approx(0.12345678901234567)
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    for element in image:
        if element.keyword not in ("SpecificCharacterSet", "PixelData", ""):
            assert (got[element.tag].value or "") == (element.value or ""), element.keyword


@pytest.mark.parametrize("uri", ["https://elsewhere.example/1", "1", "/dicomweb/bulk/1", "urn:uuid:1"])
async def test_an_address_is_only_a_name_within_the_request(web: Web, uri: str) -> None:
    image = breast_image(rows=8, columns=8)

    assert (await send(web, as_json(told(image, uri)), bulk(image.PixelData, uri))).status_code == 200
    other = breast_image(rows=8, columns=8, seed=2)
    answer = await send(web, as_json(told(other, uri)), bulk(other.PixelData, "other"))
    assert (answer.status_code, failures(answer)) == (409, [0xC000])
    assert any("bulk data is not in the request" in reason for reason in web.reasons())


async def test_compressed_frames_are_encapsulated_and_may_leave_their_description_out(web: Web) -> None:
    image, frames = breast_image(rows=16, columns=24), [jpeg(16, 24, seed) for seed in range(3)]
    image.NumberOfFrames = 3
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(image, keyword)

    answer = await send(web, as_json(told(image)), *(bulk(frame, kind="image/jpeg") for frame in frames))

    assert answer.status_code == 200
    got = await kept(web, answer)
    assert got.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert (got.Rows, got.Columns, got.BitsStored, got.HighBit) == (16, 24, 8, 7)
    stored = list(generate_frames(got.PixelData, number_of_frames=3))
    assert [frame.rstrip(b"\0") for frame in stored] == [frame.rstrip(b"\0") for frame in frames]


async def test_the_transfer_syntax_of_a_part_counts(web: Web) -> None:
    image = breast_image(rows=16, columns=16)
    kind = "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.90"

    answer = await send(web, as_json(told(image)), bulk(b"\xff\x4f\xff\x51 no codestream", kind=kind))

    assert answer.status_code == 200, "what is in it an engine finds out"
    assert (await kept(web, answer)).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.90"
    big = "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.2"
    answer = await send(web, as_json(told(breast_image(seed=3))), bulk(b"12", kind=big))
    assert failures(answer) == [0xC000]


async def test_a_document_comes_as_what_it_is(web: Web) -> None:
    document = Dataset()
    document.SOPClassUID, document.SOPInstanceUID = EncapsulatedPDFStorage, generate_uid()
    document.StudyInstanceUID, document.SeriesInstanceUID = generate_uid(), generate_uid()
    document.Modality, document.MIMETypeOfEncapsulatedDocument = "DOC", "application/pdf"
    model = document.to_json_dict() | {"00420011": {"vr": "OB", "BulkDataURI": "a.pdf"}}

    answer = await send(web, as_json(model), bulk(b"%PDF-1.4 odd", "a.pdf", "application/pdf"))

    assert answer.status_code == 200
    assert (await kept(web, answer)).EncapsulatedDocument == b"%PDF-1.4 odd"


def native(uid: str, study: str, pixels: str = '<BulkData uri="pixels/1"/>', more: str = "") -> bytes:
    def value(tag: str, vr: str, text: object) -> str:
        return f'<DicomAttribute tag="{tag}" vr="{vr}"><Value number="1">{text}</Value></DicomAttribute>'

    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">'
        + value("00080016", "UI", "1.2.840.10008.5.1.4.1.1.6.1")
        + value("00080018", "UI", uid)
        + value("0020000D", "UI", study)
        + value("0020000E", "UI", f"{study}.1")
        + value("00280010", "US", 4) + value("00280011", "US", 4) + value("00280002", "US", 1)
        + value("00280100", "US", 8) + value("00280101", "US", 8) + value("00280102", "US", 7)
        + value("00280103", "US", 0) + value("00280004", "CS", "MONOCHROME2") + value("00280030", "DS", "0.1")
        + '<DicomAttribute tag="00100010" vr="PN"><PersonName number="1"><Alphabetic><FamilyName>Yamada</FamilyName>'
        "<GivenName>Tarou</GivenName></Alphabetic><Ideographic><FamilyName>山田</FamilyName></Ideographic></PersonName>"
        "</DicomAttribute>"
        '<DicomAttribute tag="00081140" vr="SQ"><Item number="1">' + value("00081155", "UI", "1.2.3")
        + "</Item></DicomAttribute>"
        '<DicomAttribute tag="00110001" vr="LO" privateCreator="ACME"><Value number="2">b</Value>'
        '<Value number="1">a</Value></DicomAttribute>'
        f'<DicomAttribute tag="7FE00010" vr="OB">{pixels}</DicomAttribute>{more}</NativeDicomModel>'
    ).encode()  # fmt: skip


async def test_xml_says_the_same(web: Web) -> None:
    uid, study = generate_uid(), generate_uid()
    xml = {"Content-Type": "application/dicom+xml"}
    inline = native(generate_uid(), study, "<InlineBinary>AAECAwQFBgcICQoLDA0ODw==</InlineBinary>")

    answer = await send(web, (xml, native(uid, study)), (xml, inline), bulk(bytes(range(16))), kind="xml")

    assert answer.status_code == 200
    assert len(uids(answer, "00081199")) == 2
    got = await kept(web, answer)
    assert got.SOPInstanceUID == uid
    assert got.PixelData == bytes(range(16))
    assert (got.PatientName.alphabetic, got.PatientName.ideographic) == ("Yamada^Tarou", "山田")
    assert got.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert got.private_block(0x0011, "ACME")[0x01].value == ["a", "b"]
    assert [float(got.PixelSpacing)] == [0.1]


async def test_of_a_mixed_request_the_good_ones_are_kept(web: Web) -> None:
    good, bad, worse = (breast_image(rows=8, columns=8, seed=seed) for seed in range(3))
    unnamed = told(worse)
    del unnamed["00080018"]

    answer = await send(
        web, as_json(told(good), told(bad, "missing"), unnamed, {"00100010": 5}), bulk(good.PixelData)
    )  # fmt: skip

    assert answer.status_code == 202
    assert uids(answer, "00081199") == [good.SOPInstanceUID]
    assert len(failures(answer)) == 3
    assert len(web.admitted) == 1


DEEP: dict = {"vr": "SQ", "Value": []}
_at = DEEP
for _ in range(60):
    _next: dict = {"vr": "SQ", "Value": []}
    _at["Value"].append({"00081140": _next})
    _at = _next


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"{",
        b"[]",
        b"[1, 2]",
        b'"text"',
        b"[" * 200_000,
        b"[{}]",
        b'[{"00080016": {"vr": "UI", "Value": "x"}}]',
        b'[{"zz": {"vr": "UI"}}]',
        b'[{"7FE00010": {"vr": "OW", "InlineBinary": "*"}}]',
        json.dumps([{"00081140": DEEP}]).encode(),
        b"\xff\xfe\x00",
    ],
)
async def test_hostile_metadata_is_refused_and_the_door_goes_on(web: Web, metadata: bytes) -> None:
    answer = await send(web, ({"Content-Type": "application/dicom+json"}, metadata))

    assert answer.status_code in (400, 409)
    assert web.admitted == []
    assert web.vault_files() == 0
    assert (await web.store(breast_image(rows=8, columns=8))).status_code == 200


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<a/>",
        b"<NativeDicomModel",
        BOMB + b"<NativeDicomModel>&b;</NativeDicomModel>",
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><NativeDicomModel/>',
        b'<NativeDicomModel><DicomAttribute tag="1" vr="UI"/></NativeDicomModel>',
        b'<NativeDicomModel><DicomAttribute tag="00280010" vr="US"><Value number="x"/></DicomAttribute></NativeDicomModel>',
        b'<NativeDicomModel><DicomAttribute tag="00280010" vr="US"><Value>many</Value></DicomAttribute></NativeDicomModel>',
        b"<NativeDicomModel>"
        + b'<DicomAttribute tag="00081140" vr="SQ"><Item number="1">' * 60
        + b"</Item></DicomAttribute>" * 60
        + b"</NativeDicomModel>",
    ],
)
def test_what_is_no_native_model_is_refused(document: bytes) -> None:
    with pytest.raises(NotNative):
        from_native_xml(document)


async def test_more_than_is_held_is_refused(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_parts, "MOST", 1 << 20)
    image = breast_image(rows=8, columns=8)

    answer = await send(web, as_json(told(image)), bulk(bytes(2 << 20)))

    assert answer.status_code == 413
    assert "DICOM files" in answer.text
    assert web.admitted == []
    assert (await send(web, as_json(told(image)), bulk(image.PixelData))).status_code == 200


async def test_what_all_senders_together_may_have_is_bounded(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "_GATHERED_AT_ONCE", 1 << 20)
    image = breast_image(rows=8, columns=8)

    answer = await send(web, as_json(told(image)), bulk(bytes(2 << 20)))

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    for _ in range(3):  # what one held is given back
        assert (await send(web, as_json(told(image)), bulk(image.PixelData))).status_code == 200


async def test_a_request_that_is_cut_off_leaves_nothing(web: Web) -> None:
    image = breast_image(rows=8, columns=8)
    content = multipart(as_json(told(image)), bulk(image.PixelData))[:-20]
    kind = f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}'

    answer = await web.client().post("/studies", content=content, headers={"Content-Type": kind})

    assert answer.status_code == 400
    assert web.admitted == []


async def test_a_single_object_may_come_without_a_multipart(web: Web) -> None:
    image, other = breast_image(rows=8, columns=8), breast_image(rows=8, columns=8, seed=2)

    file = await web.client().post("/studies", content=as_file(image), headers={"Content-Type": "application/dicom"})
    alone = await web.client().post(
        "/studies",
        content=json.dumps([other.to_json_dict()]).encode(),
        headers={"Content-Type": "application/dicom+json"},
    )
    nothing = await web.client().post("/studies", content=b"DICM", headers={"Content-Type": "application/dicom"})

    assert (file.status_code, alone.status_code, nothing.status_code) == (200, 200, 409)
    assert (await kept(web, file)).PixelData == image.PixelData
    assert (await kept(web, alone)).PixelData == other.PixelData


def test_pixels_that_are_told_as_uncompressed_stay_so() -> None:
    parts = MetadataParts("json", "https://here/studies")
    image = breast_image(rows=4, columns=4)
    parts.begin({})
    parts.write(json.dumps(told(image)).encode())
    parts.end()
    parts.begin({"content-location": "pixels/1"})
    parts.write(image.PixelData)
    parts.end()

    (one,) = parts.objects()

    assert isinstance(one, Composed)
    assert one.transfer_syntax_uid == ExplicitVRLittleEndian
    assert one.data.endswith(image.PixelData)


TAGS = st.sampled_from(
    ["00080016", "00080018", "7FE00010", "00081140", "00100010", "00280010", "0020000D", "zz", "00091010"]
)
VRS = st.sampled_from(["UI", "SQ", "OW", "PN", "US", "DS", "IS", "AT", "FD", "UN", "UT", "OB or OW", "", "XX"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("1.2.3")
MODELS = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TAGS, inner, max_size=4)
        | st.fixed_dictionaries({"vr": VRS}, optional={"Value": st.lists(inner, max_size=3), "BulkDataURI": inner})
        | st.fixed_dictionaries({"vr": VRS, "InlineBinary": PLAIN})
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(TAGS, MODELS, max_size=6) | MODELS, st.binary(max_size=40))
def test_whatever_metadata_says_ends_in_an_object_or_a_reason(model: object, data: bytes) -> None:
    parts = MetadataParts("json", "https://here/studies")
    for headers, content in (({}, json.dumps([model]).encode()), ({"content-location": "1.2.3"}, data)):
        parts.begin(headers)
        parts.write(content)
        parts.end()

    found = list(parts.objects())

    assert found
    assert all(isinstance(one, Composed | NotUnderstood) for one in found)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400))
def test_whatever_is_changed_in_a_native_model_ends_in_a_model_or_a_reason(noise: bytes, at: int) -> None:
    document = native("1.2.3", "1.2")
    place = at % len(document)
    with contextlib.suppress(NotNative):
        assert isinstance(from_native_xml(document[:place] + noise + document[place + len(noise) :]), dict)
