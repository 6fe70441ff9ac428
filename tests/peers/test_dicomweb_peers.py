"""DICOMweb with clients that are not ours: Orthanc's plugin and dicomweb-client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from requests.exceptions import HTTPError
from tests.gateway.webdoor import Web, open_web
from tests.support.imaging import as_file, breast_image, test_file
from tests.support.orthanc import Orthanc

pytestmark = pytest.mark.peer
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path / "home") as web:
        web.client("pacs1", "ct")
        web.viewer()
        yield web


@contextlib.contextmanager
def orthanc_of(web: Web, folder: Path) -> Any:
    """An Orthanc that knows us twice: as one who may store, and as one who may read."""

    def server(name: str) -> dict[str, Any]:
        device = web.folders[name]
        return {
            "Url": f"https://127.0.0.1:{web.door.port}/dicomweb/",
            "CertificateFile": str(device / "device.pem"),
            "CertificateKeyFile": str(device / "device.key"),
        }

    pacs = Orthanc(
        folder,
        options={
            "Plugins": [PLUGIN],
            "HttpsVerifyPeers": True,
            "HttpsCACertificates": str(web.folders["pacs1"] / "ca.pem"),
            "DicomWeb": {"Enable": True, "Servers": {"store": server("pacs1"), "read": server("view1")}},
        },
    )
    pacs.start()
    try:
        yield pacs
    finally:
        pacs.stop()


async def ask(pacs: Orthanc, path: str, body: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        if isinstance(body, bytes):
            return await client.post(f"{pacs.url}{path}", content=body)
        return await client.post(f"{pacs.url}{path}", json=body)


async def test_orthanc_stores_here_searches_here_and_retrieves_from_here(web: Web, tmp_path: Path) -> None:
    study = generate_uid()
    images = [breast_image(rows=64, columns=48, seed=n, StudyInstanceUID=study) for n in range(3)]
    with orthanc_of(web, tmp_path / "orthanc") as pacs:
        ids = [(await ask(pacs, "/instances", as_file(image))).json()["ID"] for image in images]

        sent = await ask(pacs, "/dicom-web/servers/store/stow", {"Resources": ids, "Synchronous": True})
        assert sent.status_code == 200, sent.text
        assert {item.sop_instance_uid for item, new in web.admitted if new} == {i.SOPInstanceUID for i in images}

        found = await ask(
            pacs, "/dicom-web/servers/read/qido", {"Uri": "/studies", "Arguments": {"PatientID": "P-4711"}}
        )
        assert found.status_code == 200, found.text
        assert study in found.text

        async with httpx.AsyncClient(trust_env=False) as client:
            for one in ids:
                await client.delete(f"{pacs.url}/instances/{one}")
        got = await ask(
            pacs, "/dicom-web/servers/read/retrieve", {"Resources": [{"Study": study}], "Synchronous": True}
        )
        assert got.status_code == 200, got.text
        async with httpx.AsyncClient(trust_env=False) as client:
            again = (await client.get(f"{pacs.url}/instances")).json()
            assert len(again) == 3
            back = (await client.get(f"{pacs.url}/instances/{again[0]}/file")).content
        assert any(image.PixelData in back for image in images)


async def test_what_orthanc_may_not_do_it_is_told(web: Web, tmp_path: Path) -> None:
    with orthanc_of(web, tmp_path / "orthanc") as pacs:
        one = (await ask(pacs, "/instances", as_file(breast_image(rows=16, columns=16)))).json()["ID"]

        refused = await ask(pacs, "/dicom-web/servers/read/stow", {"Resources": [one], "Synchronous": True})

        assert refused.status_code >= 400
        assert web.admitted == []
        assert any("may not store" in reason for reason in web.reasons())


def peer(web: Web, name: str) -> DICOMwebClient:
    session = requests.Session()
    session.trust_env = False
    session.cert = (str(web.folders[name] / "device.pem"), str(web.folders[name] / "device.key"))
    session.verify = str(web.folders[name] / "ca.pem")
    return DICOMwebClient(f"https://127.0.0.1:{web.door.port}/dicomweb", session=session)


def with_preamble(image: Dataset) -> Dataset:
    image.preamble = bytes(128)  # the client writes what the data set has
    return image


async def test_an_independent_client_stores_searches_and_retrieves(web: Web) -> None:
    study = generate_uid()
    images = [with_preamble(breast_image(rows=32, columns=40, seed=n, StudyInstanceUID=study)) for n in range(2)]
    loop = with_preamble(breast_image(rows=8, columns=8, NumberOfFrames="3", StudyInstanceUID=study))
    loop.PixelData = np.arange(192, dtype=np.uint8).tobytes()
    loop.EncapsulatedDocument = bytes(range(256)) * 8
    rle = pydicom.dcmread(test_file("MR_small_RLE.dcm"))

    def work() -> None:
        sender, reader = peer(web, "pacs1"), peer(web, "view1")
        stored = sender.store_instances([*images, loop, rle])
        assert len(stored.ReferencedSOPSequence) == 4
        assert "FailedSOPSequence" not in stored

        (one,) = reader.search_for_studies(search_filters={"StudyInstanceUID": study, "PatientName": "muster*"})
        assert Dataset.from_json(one).NumberOfStudyRelatedInstances == 3
        assert reader.search_for_studies(search_filters={"PatientID": "nobody"}) == []
        assert len(reader.search_for_series(study)) == 3
        assert len(reader.search_for_instances(study, limit=2)) == 2

        uids = {got.SOPInstanceUID: got for got in reader.retrieve_study(study)}
        assert uids[images[0].SOPInstanceUID].PixelData == images[0].PixelData
        path = (loop.StudyInstanceUID, loop.SeriesInstanceUID, loop.SOPInstanceUID)
        assert reader.retrieve_instance(*path).PixelData == loop.PixelData
        (told,) = [reader.retrieve_instance_metadata(*path)]
        assert Dataset.from_json(told).Rows == 8
        # The client sends a Host without the port, so that the address lacks it too.
        address = told["00420011"]["BulkDataURI"].replace("//127.0.0.1/", f"//127.0.0.1:{web.door.port}/")
        assert reader.retrieve_bulkdata(address) == [loop.EncapsulatedDocument]
        frames = reader.retrieve_instance_frames(*path, frame_numbers=[3, 1])
        assert frames == [loop.PixelData[128:], loop.PixelData[:64]]
        path = (rle.StudyInstanceUID, rle.SeriesInstanceUID, rle.SOPInstanceUID)
        compressed = reader.retrieve_instance(*path)
        assert compressed.file_meta.TransferSyntaxUID == rle.file_meta.TransferSyntaxUID
        assert compressed.PixelData == rle.PixelData
        assert reader.retrieve_instance_rendered(*path, media_types=("image/jpeg",)) == b"picture"

    await asyncio.to_thread(work)


async def test_an_independent_client_is_told_what_it_may_not_do(web: Web) -> None:
    def work() -> None:
        with pytest.raises(HTTPError, match="403"):
            peer(web, "pacs1").search_for_studies()
        with pytest.raises(HTTPError, match="403"):
            peer(web, "view1").store_instances([with_preamble(breast_image(rows=16, columns=16))])
        with pytest.raises(HTTPError, match="404"):
            peer(web, "view1").retrieve_study("1.2.3.4")

    await asyncio.to_thread(work)
