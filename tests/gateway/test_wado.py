"""WADO-RS gives objects out as they came in, in pieces, and says why when it does not."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    generate_uid,
)
from tests.gateway.webdoor import Web, open_web, parts_of
from tests.support.imaging import as_file, breast_image, test_file

from edgeward.bus.client import NoAnswer
from edgeward.gateway import wado
from edgeward.gateway.frames import NoFrames, pixel_store
from edgeward.gateway.native_xml import from_native_xml
from edgeward.messages import Refused, Viewport


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path / "home") as web:
        yield web


def path_of(image: Dataset) -> str:
    return f"/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"


def loop(frames: int = 5, rows: int = 12, columns: int = 10) -> Dataset:
    image = breast_image(rows=rows, columns=columns, NumberOfFrames=str(frames))
    image.PixelData = np.random.default_rng(3).integers(0, 255, (frames, rows, columns), dtype=np.uint8).tobytes()
    return image


def same(data: bytes, image: Dataset) -> bool:
    got = pydicom.dcmread(io.BytesIO(data))
    assert got.file_meta.TransferSyntaxUID == image.file_meta.TransferSyntaxUID
    return bool(got == pydicom.dcmread(io.BytesIO(as_file(image))))


async def test_a_study_a_series_and_an_instance_come_back_as_they_were(web: Web) -> None:
    study = generate_uid()
    images = [breast_image(rows=16, columns=16, seed=n, StudyInstanceUID=study) for n in range(3)]
    await web.store(*images)
    viewer = web.viewer()

    whole = parts_of(await viewer.get(f"/studies/{study}"))
    series = parts_of(await viewer.get(f"/studies/{study}/series/{images[1].SeriesInstanceUID}"))
    (one,) = parts_of(await viewer.get(path_of(images[2])))

    by_uid = {image.SOPInstanceUID: image for image in images}
    got = {pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID: data for _, data in whole}
    assert got.keys() == by_uid.keys()
    assert all(same(data, by_uid[uid]) for uid, data in got.items())
    assert same(series[0][1], images[1])
    assert same(one[1], images[2])
    assert one[0]["content-type"] == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"


async def test_a_large_object_is_streamed_whole(web: Web) -> None:
    image = loop(frames=30, rows=512, columns=512)
    await web.store(image)

    received = 0
    async with web.viewer().stream("GET", path_of(image), headers={"Accept": "application/dicom"}) as answer:
        assert answer.headers["content-type"].startswith("application/dicom")
        async for chunk in answer.aiter_bytes():
            received += len(chunk)

    assert received == int(answer.headers["content-length"]) == web.admitted[0][0].size


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        ('multipart/related; type="application/dicom"', 200),
        ('multipart/related; type="application/dicom"; transfer-syntax=*', 200),
        ("multipart/related; type=application/dicom; transfer-syntax=1.2.840.10008.1.2.1", 200),
        ('multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.50', 406),
        ('multipart/related; type="application/octet-stream"', 406),
        ("text/html", 406),
        ("multipart/related; type=", 400),
        ("*/*;q=0", 406),
        (", ".join(["image/x"] * 100), 400),
    ],
)
async def test_what_is_accepted_is_what_is_given(web: Web, accept: str, status: int) -> None:
    image = breast_image(rows=16, columns=16)
    await web.store(image)

    assert (await web.viewer().get(path_of(image), headers={"Accept": accept})).status_code == status


async def test_of_a_study_only_the_acceptable_objects_are_given_and_that_is_told(web: Web) -> None:
    plain = breast_image(rows=16, columns=16)
    implicit = breast_image(rows=16, columns=16, StudyInstanceUID=plain.StudyInstanceUID)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    await web.store(plain, implicit)

    answer = await web.viewer().get(
        f"/studies/{plain.StudyInstanceUID}",
        headers={"Accept": f'multipart/related; type="application/dicom"; transfer-syntax={ImplicitVRLittleEndian}'},
    )

    assert answer.status_code == 206
    ((_, data),) = parts_of(answer)
    assert same(data, implicit)


async def test_unknown_is_404_erased_is_410_nonsense_is_400(web: Web) -> None:
    image = breast_image(rows=16, columns=16)
    await web.store(image)
    web.journal._db.write(lambda db: db.execute("UPDATE items SET wrapped_key = NULL"))
    viewer = web.viewer()

    for suffix in ("", "/metadata", "/frames/1", "/rendered", "/thumbnail"):
        assert (await viewer.get(path_of(image) + suffix)).status_code == 410
    assert (await viewer.get(f"/studies/{image.StudyInstanceUID}")).status_code == 410
    assert (await viewer.get("/studies/1.2.3")).status_code == 404
    assert (await viewer.get("/studies/1.2.3/series/1/instances/2/frames/1")).status_code == 404
    assert (await viewer.get("/studies/a%20b")).status_code == 400
    assert (await viewer.get("/nothing")).status_code == 404
    assert (await viewer.delete(path_of(image))).status_code == 405


async def test_a_damaged_object_is_not_given_and_set_aside(web: Web) -> None:
    image = breast_image(rows=64, columns=64)
    await web.store(image)
    (file,) = (path for path in web.site.home.vault.rglob("*.ew"))
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(data)

    answer = await web.viewer().get(path_of(image))

    assert answer.status_code == 500
    (entry,) = web.quarantine.entries()
    assert (entry.where, entry.item_id) == ("vault", web.admitted[0][0].item_id)


async def test_damage_in_the_middle_never_looks_whole(web: Web) -> None:
    image = loop(frames=12, rows=512, columns=512)  # three chunks
    await web.store(image)
    (file,) = (path for path in web.site.home.vault.rglob("*.ew"))
    data = bytearray(file.read_bytes())
    data[(1 << 20) + 100_000] ^= 1
    file.write_bytes(data)

    with pytest.raises(httpx.RemoteProtocolError):
        await web.viewer().get(path_of(image))


# ---------------------------------------- metadata


async def test_metadata_has_the_attributes_and_the_address_of_the_pixels(web: Web) -> None:
    image = breast_image(rows=16, columns=16, PatientName="Müller^Änne")
    image.add_new(0x00091010, "OB", bytes(5000))
    image.add_new(0x00290010, "LO", "PRIVATE")
    await web.store(image)

    answer = await web.viewer().get(path_of(image) + "/metadata")

    assert answer.headers["content-type"] == "application/dicom+json"
    (found,) = answer.json()
    assert "00020010" not in found
    pixels = await web.viewer().get(found["7FE00010"].pop("BulkDataURI"))
    assert found.pop("7FE00010") == {"vr": "OW"}
    assert parts_of(pixels)[0][1] == image.PixelData
    assert found["00080005"]["Value"] == ["ISO_IR 192"]
    assert found["00083002"]["Value"] == [ExplicitVRLittleEndian]
    got = Dataset.from_json(found)
    assert (got.PatientName, got.Rows, got.SOPInstanceUID) == ("Müller^Änne", 16, image.SOPInstanceUID)
    assert got.SequenceOfUltrasoundRegions[0].PhysicalDeltaX == image.SequenceOfUltrasoundRegions[0].PhysicalDeltaX


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
async def test_the_address_of_the_pixels_is_told_in_every_transfer_syntax(web: Web, syntax: str) -> None:
    image = breast_image(rows=16, columns=16)
    image.file_meta.TransferSyntaxUID = syntax
    await web.store(image)

    (found,) = (await web.viewer().get(path_of(image) + "/metadata")).json()
    pixels = await web.viewer().get(found["7FE00010"]["BulkDataURI"], headers={"Accept": "application/octet-stream"})

    assert pixels.content == image.PixelData


async def test_a_value_that_breaks_the_rules_hides_nothing_else(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    image = breast_image(rows=16, columns=16, AccessionNumber="A-number-longer-than-SH-allows", StudyTime="25:61")
    plan = Dataset()
    plan.ReferencedSOPClassUID, plan.ReferencedSOPInstanceUID = "1.2.3", "1.2.0123.4"
    image.ReferencedStudySequence = [plan]
    image.add_new(0x00201206, "IS", 1)
    data = as_file(image).replace(b"IS\x02\x001 ", b"IS\x02\x00x ")
    before = pydicom.config.settings.reading_validation_mode
    await web.store(data)

    (found,) = (await web.viewer().get(path_of(image) + "/metadata")).json()

    assert found["00080050"]["Value"] == ["A-number-longer-than-SH-allows"]
    assert found["00081110"]["Value"][0]["00081155"]["Value"] == ["1.2.0123.4"]
    assert found["00100010"]["Value"], "what follows is there"
    assert pydicom.config.settings.reading_validation_mode == before
    assert "0123" not in caplog.text


async def test_metadata_of_a_study_is_one_array(web: Web) -> None:
    study = generate_uid()
    await web.store(*(breast_image(rows=16, columns=16, seed=n, StudyInstanceUID=study) for n in range(3)))

    found = (await web.viewer().get(f"/studies/{study}/metadata")).json()

    assert len({one["00080018"]["Value"][0] for one in found}) == 3


async def test_metadata_in_xml_is_a_document_per_object_that_says_the_same(web: Web) -> None:
    study = generate_uid()
    series = {"StudyInstanceUID": study, "SeriesInstanceUID": generate_uid()}
    image = breast_image(rows=16, columns=16, SpecificCharacterSet="ISO_IR 192", **series)
    image.PatientName = "Yamada^Tarou^M^Dr^Jr=山田^太郎=やまだ^たろう"
    image.private_block(0x0009, "MAKER", create=True).add_new(0x01, "LO", ["mine", "", "<&>"])
    image.add_new(0x00281201, "OW", bytes(2000))
    image.add_new(0x00281221, "OW", b"few ")
    image.StudyDescription = "with a \x0b in it"
    await web.store(image, breast_image(rows=16, columns=16, seed=2, **series))
    address = f"/studies/{study}/metadata"
    told = (await web.viewer().get(address)).json()

    answer = await web.viewer().get(address, headers={"Accept": "application/dicom+xml"})

    assert answer.headers["content-type"].startswith('multipart/related; type="application/dicom+xml"; boundary=')
    found = [from_native_xml(document) for _, document in parts_of(answer)]
    assert len(found) == 2
    assert found[0]["00081030"]["Value"] == ["with a \N{REPLACEMENT CHARACTER} in it"]
    told[0]["00081030"], told[0]["00091001"] = found[0]["00081030"], {"vr": "LO", "Value": ["mine", "<&>"]}
    assert [loosely(one) for one in found] == [loosely(one) for one in told]


def loosely(value: Any) -> Any:
    """Return a value of the JSON model as text where XML has only text."""
    if isinstance(value, dict):
        return {name: loosely(one) for name, one in value.items()}
    if isinstance(value, list):
        return [loosely(one) for one in value]
    return float(value) if re.fullmatch(r"-?\d+(\.\d+)?", str(value)) else value


async def test_values_that_json_does_not_have_are_left_out(web: Web) -> None:
    image = breast_image(rows=16, columns=16)
    image.add_new(0x00189313, "FD", [float("nan"), 1.0, float("inf")])
    await web.store(image)

    (found,) = (await web.viewer().get(path_of(image) + "/metadata")).json()

    assert found["00189313"]["Value"] == [None, 1.0, None]


def with_bulk() -> Dataset:
    """A document with a wide table in a sequence: two long values, and a short one."""
    image = breast_image(rows=16, columns=16)
    image.EncapsulatedDocument = b"%PDF-1.4\n" + bytes(range(256)) * 20
    image["EncapsulatedDocument"].VR = "OB"
    inner = Dataset()
    inner.add_new(0x00283006, "OW", np.arange(1000, dtype="<u2").tobytes())
    short = Dataset()
    short.add_new(0x00283006, "OW", b"\1\0")
    image.VOILUTSequence = [short, inner]
    return image


@pytest.mark.parametrize("big_endian", [False, True])
async def test_bulk_data_is_had_under_the_address_that_metadata_gives(web: Web, big_endian: bool) -> None:
    image = with_bulk()
    table = image.VOILUTSequence[1][0x00283006].value
    if big_endian:
        image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        image.VOILUTSequence[1][0x00283006].value = np.frombuffer(table, "<u2").astype(">u2").tobytes()
    await web.store(image)
    viewer = web.viewer()

    (found,) = (await viewer.get(path_of(image) + "/metadata")).json()
    document, luts = found["00420011"], found["00283010"]["Value"]

    assert document["vr"] == "OB"
    assert luts[0]["00283006"]["InlineBinary"]
    got = await viewer.get(document["BulkDataURI"], headers={"Accept": "application/octet-stream"})
    assert (got.status_code, got.content[: len(image.EncapsulatedDocument)]) == (200, image.EncapsulatedDocument)
    (part,) = parts_of(await viewer.get(luts[1]["00283006"]["BulkDataURI"]))
    assert part[1] == table


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("00420011", "image/jpeg", 406),
        ("00100010", "*/*", 404),
        ("00283010/3/00283006", "*/*", 404),
        ("00283010/2/00283010/1/00283006", "*/*", 404),
        ("00420011/1", "*/*", 404),
        ("PatientName", "*/*", 404),
        ("00283010/" + "1/00283010/" * 200 + "1/00420011", "*/*", 404),
    ],
)
async def test_what_is_no_bulk_data_is_not_given_so(web: Web, path: str, accept: str, status: int) -> None:
    image = with_bulk()
    await web.store(image)

    answer = await web.viewer().get(f"{path_of(image)}/bulkdata/{path}", headers={"Accept": accept})

    assert answer.status_code == status


# ---------------------------------------- frames


async def test_pixels_are_had_whole_or_frame_by_frame(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wado, "_PIECE", 64)
    image = loop()
    big = breast_image(rows=4, columns=6, seed=2, BitsAllocated=16, BitsStored=12, HighBit=11)
    numbers = np.arange(24, dtype="<u2") * 100
    big.PixelData = numbers.astype(">u2").tobytes()
    big["PixelData"].VR = "OW"
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, big, enforce_file_format=True)
    frames = [bytes([0xFF, 0xD8, number, 0xFF, 0xD9, 0]) for number in range(3)]
    packed = breast_image(rows=8, columns=8, seed=3, NumberOfFrames=3)
    packed.PixelData = encapsulate(frames)
    packed["PixelData"].VR, packed["PixelData"].is_undefined_length = "OB", True
    packed.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert (await web.store(image, buffer.getvalue(), as_file(packed))).status_code == 200
    octets = {"Accept": "application/octet-stream"}

    whole = await web.viewer().get(path_of(image) + "/bulkdata/7FE00010", headers=octets)
    assert whole.content == image.PixelData
    told = await web.viewer().get(path_of(big) + "/bulkdata/7fe00010", headers=octets)
    assert told.content == numbers.tobytes()
    found = (await web.viewer().get(path_of(packed) + "/metadata")).json()[0]
    assert found["7FE00010"]["vr"] == "OB"
    each = await web.viewer().get(found["7FE00010"]["BulkDataURI"])
    assert [data for _, data in parts_of(each)] == frames
    assert (await web.viewer().get(path_of(image) + "/bulkdata/7FE00008")).status_code == 404
    refused = await web.viewer().get(path_of(image) + "/bulkdata/7FE00010", headers={"Accept": "image/jpeg"})
    assert refused.status_code == 406


async def test_frames_come_as_they_are_stored(web: Web) -> None:
    image = loop()
    await web.store(image)
    size = image.Rows * image.Columns

    answer = await web.viewer().get(
        path_of(image) + "/frames/2,5,2", headers={"Accept": 'multipart/related; type="application/octet-stream"'}
    )

    assert answer.status_code == 200
    frames = parts_of(answer)
    expected = [image.PixelData[(n - 1) * size : n * size] for n in (2, 5, 2)]
    assert [data for _, data in frames] == expected
    assert {head["content-type"] for head, _ in frames} == {
        f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"
    }
    single = await web.viewer().get(path_of(image) + "/frames/3", headers={"Accept": "application/octet-stream"})
    assert single.content == image.PixelData[2 * size : 3 * size]


async def test_big_endian_frames_come_in_little_endian_order(web: Web) -> None:
    image = breast_image(rows=4, columns=6, BitsAllocated=16, BitsStored=12, HighBit=11)
    pixels = np.arange(24, dtype="<u2") * 100
    image.PixelData = pixels.tobytes()
    image.PixelData = pixels.astype(">u2").tobytes()
    image["PixelData"].VR = "OW"
    image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    await web.store(buffer.getvalue())

    answer = await web.viewer().get(path_of(image) + "/frames/1", headers={"Accept": "application/octet-stream"})

    assert answer.content == pixels.tobytes()


@pytest.mark.parametrize(
    "name", ["examples_ybr_color.dcm", "JPGExtended.dcm", "MR_small_RLE.dcm", "examples_palette.dcm"]
)
async def test_frames_of_real_files_are_the_stored_ones(web: Web, name: str) -> None:
    path = test_file(name)
    image = pydicom.dcmread(path)
    stored = await web.store(path.read_bytes())
    assert stored.status_code == 200, stored.text
    count = int(image.get("NumberOfFrames") or 1)
    numbers = ",".join(str(n + 1) for n in range(count))

    answer = await web.viewer().get(path_of(image) + f"/frames/{numbers}")

    frames = [data for _, data in parts_of(answer)]
    if image.file_meta.TransferSyntaxUID.is_encapsulated:
        assert frames == list(generate_frames(image.PixelData, number_of_frames=count))
    else:
        assert b"".join(frames) == image.PixelData[: sum(map(len, frames))]


async def test_compressed_frames_have_their_media_type_or_none(web: Web) -> None:
    path = test_file("examples_ybr_color.dcm")  # JPEG Baseline... or RLE, as pydicom ships it
    image = pydicom.dcmread(path)
    syntax = image.file_meta.TransferSyntaxUID
    await web.store(path.read_bytes())
    viewer, url = web.viewer(), path_of(image) + "/frames/1"

    for accept, status in (
        (f'multipart/related; type="application/octet-stream"; transfer-syntax={syntax}', 200),
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", 200),
        ('multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1', 406),
        ('multipart/related; type="image/png"', 406),
    ):
        assert (await viewer.get(url, headers={"Accept": accept})).status_code == status, accept
    assert syntax != JPEGBaseline8Bit or "image/jpeg" in (await viewer.get(url)).headers["content-type"]


@pytest.mark.parametrize(
    ("frames", "status"),
    [
        ("6", 404),
        ("0", 400),
        ("-1", 400),
        ("1,,2", 400),
        ("x", 400),
        ("1;2", 400),
        ("9" * 12, 400),
        (",".join("1" * 20_000), 400),
    ],
)
async def test_frames_that_are_not_there_are_refused(web: Web, frames: str, status: int) -> None:
    image = loop()
    await web.store(image)

    assert (await web.viewer().get(path_of(image) + f"/frames/{frames}")).status_code == status


async def test_an_object_without_pixels_has_no_frames(web: Web) -> None:
    image = breast_image(rows=16, columns=16)
    del image.PixelData, image.Rows, image.Columns
    await web.store(image)

    answer = await web.viewer().get(path_of(image) + "/frames/1")

    assert answer.status_code == 406
    assert (await web.viewer().get(path_of(image) + "/thumbnail")).status_code == 404


def test_frames_of_one_bit_are_cut_out_of_their_bytes() -> None:
    image = breast_image(rows=3, columns=3, NumberOfFrames="3", BitsAllocated=1, BitsStored=1, HighBit=0)
    bits = np.random.default_rng(0).integers(0, 2, (3, 9), dtype=np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    image.PixelData = packed + bytes(len(packed) % 2)

    store = pixel_store(io.BytesIO(as_file(image)))

    for number in range(3):
        frame = np.unpackbits(np.frombuffer(store.frame(number), np.uint8), bitorder="little")[:9]
        assert (frame == bits[number]).all()


@pytest.mark.parametrize(
    ("keyword", "dtype", "syntax"),
    [
        ("FloatPixelData", "<f4", ExplicitVRLittleEndian),
        ("DoubleFloatPixelData", "<f8", ExplicitVRLittleEndian),
        ("FloatPixelData", "<f4", ImplicitVRLittleEndian),
        ("FloatPixelData", ">f4", ExplicitVRBigEndian),
    ],
)
def test_floating_point_frames_are_given_too(keyword: str, dtype: str, syntax: str) -> None:
    values = np.arange(2 * 16 * 16, dtype=dtype).reshape(2, 16, 16)
    image = breast_image(rows=16, columns=16, NumberOfFrames="2")
    del image.PixelData
    image.BitsAllocated = 8 * values.itemsize
    setattr(image, keyword, values.tobytes())
    image.file_meta.TransferSyntaxUID = syntax

    store = pixel_store(io.BytesIO(as_file(image)))

    assert store.frames == 2
    assert np.frombuffer(store.frame(1), dtype.replace(">", "<")).tolist() == values[1].ravel().tolist()


@pytest.mark.parametrize("cut", [10, 140, 500, 900, 1200, 5000])
def test_a_truncated_object_gives_no_frames(cut: int) -> None:
    data = as_file(loop(rows=64, columns=64))

    with pytest.raises(NoFrames):
        pixel_store(io.BytesIO(data[:cut])).frame(4)


# ---------------------------------------- pictures


async def test_a_picture_is_asked_of_an_engine_as_the_client_wants_it(web: Web) -> None:
    image = loop(rows=100, columns=200)
    await web.store(image)
    viewer, url = web.viewer(), path_of(image)

    answer = await viewer.get(
        url + "/frames/4/rendered?window=40,400,sigmoid&viewport=50,10,5,,-90,8.5&quality=30",
        headers={"Accept": "image/png"},
    )

    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"picture", "image/png")
    (asked,) = web.engine.asked
    assert (asked.frame, asked.window_center, asked.window_width, asked.window_function) == (3, 40.0, 400.0, "sigmoid")
    assert asked.viewport == Viewport(width=50, height=10, left=5, region_width=-90, region_height=8.5)
    assert (asked.quality, asked.square_pixels) == (30, True)
    assert asked.object.object_id == web.admitted[0][0].object_id
    assert (await viewer.get(url + "/rendered")).headers["content-type"] == "image/jpeg"
    await viewer.get(f"/studies/{image.StudyInstanceUID}/thumbnail")
    assert (web.engine.asked[-1].max_width, web.engine.asked[-1].square_pixels) == (128, True)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("image/jpeg;q=0.2, image/png;q=0.9", "image/png"),
        ("image/png, image/jpeg", "image/png"),
        ("image/*", "image/jpeg"),
        ("image/*;q=0.5, image/gif", "image/gif"),
        ("*/*, image/jpeg;q=0", "image/png"),
        ("*/*;q=0.1, image/jpeg;q=0, image/png;q=0", "image/gif"),
        ("image/png;q=nonsense", "image/png"),
        ("text/html, */*;q=0.8", "image/jpeg"),
        ("image/jpeg;q=0, image/tiff", None),
        ("image/jp2", None),
    ],
)
async def test_the_kind_of_picture_is_the_one_that_is_wanted_most(web: Web, accept: str, expected: str | None) -> None:
    image = breast_image(rows=16, columns=16)
    await web.store(image)

    answer = await web.viewer().get(path_of(image) + "/rendered", headers={"Accept": accept})

    assert answer.status_code == (200 if expected else 406)
    if expected:
        assert answer.headers["content-type"] == expected


async def test_a_wish_that_is_passed_over_is_said(web: Web) -> None:
    image = breast_image(rows=16, columns=16)
    await web.store(image)

    plain = await web.viewer().get(path_of(image) + "/rendered?iccprofile=no")
    told = await web.viewer().get(path_of(image) + "/rendered?annotation=patient,technique&iccprofile=srgb")

    assert "warning" not in plain.headers
    assert told.status_code == 200
    assert "annotation, iccprofile" in told.headers["warning"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("window=1", 400),
        ("window=1,0", 400),
        ("window=a,b,linear", 400),
        ("window=1,2,cubic", 400),
        ("window=nan,1,linear", 400),
        ("viewport=0,10", 400),
        ("viewport=10", 400),
        ("viewport=10,10,1,1,0,5", 400),
        ("viewport=10,10,-1,1,5,5", 400),
        ("viewport=10,10,1,1,5", 400),
        ("viewport=10,10,a,1,5,5", 400),
        ("quality=0", 400),
        ("quality=101", 400),
        ("quality=high", 400),
        ("viewport=99999,10", 400),
        ("accept=image/tiff", 406),
    ],
)
async def test_pictures_that_cannot_be_drawn_so_are_refused(web: Web, query: str, status: int) -> None:
    image = breast_image(rows=16, columns=16)
    await web.store(image)

    assert (await web.viewer().get(f"{path_of(image)}/rendered?{query}")).status_code == status
    assert web.engine.asked == []


@pytest.mark.parametrize(
    ("said", "status"),
    [(Refused(reason="the pixel data is truncated"), 406), (NoAnswer("no answer"), 503)],
)
async def test_without_a_picture_the_reason_is_told(web: Web, said: Any, status: int) -> None:
    image = breast_image(rows=16, columns=16)
    await web.store(image)
    web.engine.answer = said

    answer = await web.viewer().get(path_of(image) + "/rendered")

    assert answer.status_code == status
    assert ("retry-after" in answer.headers) is (status == 503)
    assert (await web.viewer().get(path_of(image) + "/frames/2/rendered")).status_code == 404


async def test_of_a_study_there_is_a_picture_of_each_image(web: Web) -> None:
    study = generate_uid()
    images = [breast_image(rows=16, columns=16, seed=seed, StudyInstanceUID=study) for seed in range(3)]
    report = breast_image(rows=8, columns=8, seed=9, StudyInstanceUID=study)
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    await web.store(*images)

    whole = await web.viewer().get(f"/studies/{study}/rendered?quality=50", headers={"Accept": "image/png"})
    assert whole.status_code == 200
    assert whole.headers["content-type"].startswith('multipart/related; type="image/png"')
    parts = parts_of(whole)
    assert [data for _, data in parts] == [b"picture"] * 3
    assert {head["content-location"].partition("/dicomweb")[2] for head, _ in parts} == {
        f"{path_of(image)}/rendered" for image in images
    }
    assert {request.quality for request in web.engine.asked} == {50}

    await web.store(report)
    series = f"/studies/{study}/series/{images[0].SeriesInstanceUID}/rendered"
    kind = 'multipart/related; type="image/jpeg"'
    assert len(parts_of(await web.viewer().get(series, headers={"Accept": kind}))) >= 1
    part = await web.viewer().get(f"/studies/{study}/rendered", headers={"Accept": kind})
    assert part.status_code == 206, "the report is not drawn"
    assert len(parts_of(part)) == 3
    wrong = {"Accept": 'multipart/related; type="application/dicom"'}
    assert (await web.viewer().get(f"/studies/{study}/rendered", headers=wrong)).status_code == 406
    assert (await web.viewer().get(f"/studies/{study}/rendered?quality=0")).status_code == 400


async def test_pictures_that_cannot_be_drawn_are_left_out_and_none_is_said(web: Web) -> None:
    study = generate_uid()
    await web.store(*(breast_image(rows=8, columns=8, seed=seed, StudyInstanceUID=study) for seed in range(2)))

    web.engine.answer = Refused(reason="the pixels cannot be decoded")
    assert (await web.viewer().get(f"/studies/{study}/rendered")).status_code == 406
    web.engine.answer = NoAnswer("nobody")
    answer = await web.viewer().get(f"/studies/{study}/rendered")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
