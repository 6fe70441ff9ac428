"""STOW-RS: what came whole is kept once, what did not is told, and nothing is left half done."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from tests.gateway.webdoor import BOUNDARY, CONTENT, Web, body, open_web
from tests.support.imaging import as_file, breast_image

from edgeward.privacy.items import CONFLICT

HEAD = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path / "home") as web:
        yield web


def uids(answer: httpx.Response, tag: str) -> list[str]:
    return [item["00081155"]["Value"][0] for item in answer.json().get(tag, {}).get("Value", [])]


def failures(answer: httpx.Response) -> list[int]:
    body = answer.json()
    found = [item for tag in ("00081198", "0008119A") for item in body.get(tag, {}).get("Value", [])]
    return [item["00081197"]["Value"][0] for item in found]


async def test_objects_are_admitted_and_each_is_told(web: Web) -> None:
    images = [breast_image(rows=20, columns=30, seed=seed) for seed in range(3)]

    answer = await web.store(*images)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert uids(answer, "00081199") == [image.SOPInstanceUID for image in images]
    assert [new for _, new in web.admitted] == [True] * 3
    item = web.admitted[0][0]
    assert (item.device, item.rows, item.columns, item.series_instance_uid) == (
        "us1",
        20,
        30,
        images[0].SeriesInstanceUID,
    )
    url = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    got = await web.viewer().get(url)
    assert images[0].PixelData in got.content


async def test_the_same_object_twice_is_one_item(web: Web) -> None:
    image = breast_image(rows=16, columns=16)

    answers = [await web.store(image, image), await web.store(image)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [new for _, new in web.admitted] == [True, False, False]
    assert web.vault_files() == 1


async def test_the_same_uid_with_other_content_is_kept_and_shown(web: Web) -> None:
    image = breast_image(rows=16, columns=16)
    other = breast_image(rows=16, columns=16, seed=2, SOPInstanceUID=image.SOPInstanceUID)

    assert (await web.store(image, other)).status_code == 200

    (entry,) = web.quarantine.entries()
    assert (entry.reason, entry.item_id) == (CONFLICT, web.admitted[1][0].item_id)
    assert web.vault_files() == 2


async def test_of_a_mixed_request_the_good_ones_are_kept(web: Web) -> None:
    good, wrong = breast_image(rows=16, columns=16), as_file(breast_image(rows=16, columns=16))

    # An odd cut: one that falls between two elements leaves a file that is whole.
    answer = await web.store(good, b"not dicom at all" * 20, wrong[:601])

    assert answer.status_code == 202
    assert uids(answer, "00081199") == [good.SOPInstanceUID]
    assert failures(answer) == [0xC000, 0xC000]
    assert len(web.reasons()) >= 1
    assert web.vault_files() == 1


async def test_a_study_in_the_path_takes_only_its_own(web: Web) -> None:
    mine, other = breast_image(rows=16, columns=16), breast_image(rows=16, columns=16)

    answer = await web.store(mine, other, path=f"/studies/{mine.StudyInstanceUID}")

    assert answer.status_code == 202
    assert uids(answer, "00081199") == [mine.SOPInstanceUID]
    assert uids(answer, "00081198") == [other.SOPInstanceUID]
    assert failures(answer) == [0xA900]
    assert len(web.admitted) == 1


async def test_nothing_good_is_a_409_and_leaves_nothing(web: Web) -> None:
    answer = await web.store(b"x", b"")

    assert answer.status_code == 409
    assert failures(answer) == [0xC000, 0xC000]
    assert web.vault_files() == 0


async def test_a_body_cut_off_keeps_what_came_whole(web: Web) -> None:
    whole, half = breast_image(rows=64, columns=64), breast_image(rows=64, columns=64)
    content = body(whole, half)

    answer = await web.client().post("/studies", content=content[:-2000], headers={"Content-Type": CONTENT})

    assert answer.status_code == 202
    assert uids(answer, "00081199") == [whole.SOPInstanceUID]
    assert failures(answer) == [0xC000]
    assert web.vault_files() == 1


async def test_a_sender_that_vanishes_leaves_nothing_half(web: Web) -> None:
    content = body(breast_image(rows=1200, columns=1200))
    begun = asyncio.Event()

    async def stopping() -> AsyncIterator[bytes]:
        yield content[: 1 << 20]
        yield content[1 << 20 : (1 << 20) + 300_000]
        begun.set()
        await asyncio.sleep(3600)

    sending = asyncio.create_task(web.client().post("/studies", content=stopping(), headers={"Content-Type": CONTENT}))
    await begun.wait()
    async with asyncio.timeout(10):
        while not web.vault_files():
            await asyncio.sleep(0.01)
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending

    async with asyncio.timeout(10):
        while web.vault_files() or web.door._in_work:
            await asyncio.sleep(0.01)
    assert web.admitted == []


async def test_a_large_object_passes_in_bounded_memory(web: Web) -> None:
    image = breast_image(rows=16, columns=16, NumberOfFrames="40", Rows=1024, Columns=1024)
    image.PixelData = b""
    head = as_file(image)
    header = head[: head.index(b"\xe0\x7f\x10\x00")] + b"\xe0\x7f\x10\x00OB\0\0" + (40 << 20).to_bytes(4, "little")
    largest = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal largest
        yield HEAD + header
        for _ in range(640):
            yield bytes(65536)
            largest = max(largest, *(len(c.cycle.body) for c in web.door._connections if c.cycle), 0)
        yield f"\r\n--{BOUNDARY}--\r\n".encode()

    answer = await web.client().post("/studies", content=content(), headers={"Content-Type": CONTENT})

    assert answer.status_code == 200, answer.text
    item = web.admitted[0][0]
    assert (item.frames, item.rows) == (40, 1024)
    assert item.size > 40 << 20
    assert largest < 1 << 20  # what waits for the disk in the server


async def test_a_full_disk_is_told_and_nothing_is_kept(tmp_path: Path) -> None:
    async with open_web(tmp_path / "home", min_free_mb=1 << 30) as web:
        answer = await web.store(breast_image(rows=16, columns=16))

        assert (answer.status_code, failures(answer)) == (409, [0xA700])
        assert web.vault_files() == 0


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("multipart/form-data; boundary=a-boundary", 415),
        (f'multipart/related; type="image/jpeg"; boundary={BOUNDARY}', 415),
        ('multipart/related; type="application/dicom"', 400),
        ('multipart/related; type="application/dicom"; boundary="' + "x" * 300 + '"', 400),
        ("", 415),
        ("nonsense;;;", 415),
    ],
)
async def test_other_content_types_are_refused(web: Web, content_type: str, status: int) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    answer = await web.client().post("/studies", content=body(breast_image(rows=16, columns=16)), headers=headers)

    assert answer.status_code == status
    assert web.admitted == []


@pytest.mark.parametrize(
    "content_type",
    [
        f"Multipart/Related; BOUNDARY={BOUNDARY}; TYPE=Application/DICOM",
        f'multipart/related; type="application/dicom; transfer-syntax=1.2.840.10008.1.2.1"; boundary="{BOUNDARY}"',
        f'multipart/related; start="<a;b@c>"; boundary={BOUNDARY}',
    ],
)
async def test_the_content_type_may_be_said_in_many_ways(web: Web, content_type: str) -> None:
    answer = await web.client().post(
        "/studies", content=body(breast_image(rows=16, columns=16)), headers={"Content-Type": content_type}
    )

    assert answer.status_code == 200
    assert len(web.admitted) == 1


async def test_a_compressed_body_is_refused_as_such(web: Web) -> None:
    content = gzip.compress(body(breast_image(rows=16, columns=16)))
    kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'

    answer = await web.client().post(
        "/studies", content=content, headers={"Content-Type": kind, "Content-Encoding": "gzip"}
    )

    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"


async def test_an_object_without_study_is_kept_and_told_without_a_path(web: Web) -> None:
    answer = await web.store(breast_image(rows=16, columns=16, StudyInstanceUID=""))

    assert answer.status_code == 200
    assert "00081190" not in answer.json()
    (told,) = answer.json()["00081199"]["Value"]
    assert "00081190" not in told


async def test_the_answer_may_be_wanted_in_xml(web: Web) -> None:
    image = breast_image(rows=16, columns=16)
    headers = {"Content-Type": CONTENT, "Accept": "application/dicom+xml, application/dicom+json;q=0.5"}

    answer = await web.client().post("/studies", content=body(image), headers=headers)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+xml")
    name = {"n": "http://dicom.nema.org/PS3.19/models/NativeDICOM"}
    told = ET.fromstring(answer.content)
    path = "./n:DicomAttribute[@keyword='ReferencedSOPSequence']/n:Item[@number='1']/n:DicomAttribute"
    values = {one.get("keyword"): one.findtext("n:Value", "", name) for one in told.findall(path, name)}
    assert values["ReferencedSOPInstanceUID"] == image.SOPInstanceUID
    assert values["RetrieveURL"].endswith(image.SOPInstanceUID)
    again = await web.client().post("/studies", content=body(image), headers={**headers, "Accept": "*/*"})
    assert again.headers["content-type"] == "application/dicom+json"


async def test_an_answer_in_anything_else_is_not_offered(web: Web) -> None:
    headers = {"Content-Type": CONTENT, "Accept": "text/html, application/dicom+json;q=0"}

    answer = await web.client().post("/studies", content=body(breast_image(rows=16, columns=16)), headers=headers)

    assert answer.status_code == 406
    assert web.admitted == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no boundary at all",
        f"--{BOUNDARY}--".encode(),
        f"--{BOUNDARY}\r\n".encode() + b"X" * 50_000,
        f"--{BOUNDARY}\r\nContent-Type".encode(),
        b"\0" * 200_000,
    ],
)
async def test_hostile_bodies_are_refused_and_the_door_goes_on(web: Web, content: bytes) -> None:
    answer = await web.client().post("/studies", content=content, headers={"Content-Type": CONTENT})

    assert answer.status_code == 400
    assert (await web.store(breast_image(rows=16, columns=16))).status_code == 200


@pytest.mark.parametrize(
    "head", ["Content-Type: text/plain", "Content-Type: ;", "Content-Transfer-Encoding: base64", "Content-Type: a/b"]
)
async def test_a_part_that_is_something_else_is_refused_by_itself(web: Web, head: str) -> None:
    odd = f"--{BOUNDARY}\r\n{head}\r\n\r\nhello\r\n".encode()

    answer = await web.client().post(
        "/studies", content=odd + body(breast_image(rows=16, columns=16)), headers={"Content-Type": CONTENT}
    )

    assert (answer.status_code, failures(answer)) == (202, [0xC000])
    assert len(web.admitted) == 1


async def test_what_the_meta_information_says_must_be_what_it_is(web: Web) -> None:
    image = breast_image(rows=16, columns=16)
    data = as_file(image).replace(str(image.SOPInstanceUID).encode(), generate_uid()[:64].ljust(64, "1").encode(), 1)
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian

    answer = await web.store(data)

    assert answer.status_code == 409
    assert web.vault_files() == 0


async def test_many_senders_at_once_lose_nothing(web: Web) -> None:
    images = [breast_image(rows=32, columns=32, seed=seed) for seed in range(24)]
    clients = [web.client(f"us{number}") for number in range(4)]

    async def send(number: int) -> None:
        for image in images[number::4]:
            answer = await clients[number].post("/studies", content=body(image), headers={"Content-Type": CONTENT})
            assert answer.status_code == 200

    await asyncio.gather(*(send(number) for number in range(4)))

    assert sorted(item.sop_instance_uid for item, _ in web.admitted) == sorted(i.SOPInstanceUID for i in images)
