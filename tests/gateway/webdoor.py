"""An HTTPS door in a temporary site, and systems that knock at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydicom.dataset import Dataset
from tests.gateway.door import tls_of
from tests.support.imaging import as_file
from tests.support.site import TestSite, new_home

from edgeward.gateway import dicomweb
from edgeward.gateway.qido import Qido
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.reception import Reception
from edgeward.gateway.rendering import Renderer
from edgeward.gateway.requested import Details
from edgeward.gateway.stow import Stow
from edgeward.gateway.wado import Wado
from edgeward.gateway.web import WebDoor
from edgeward.messages import Rendered, RenderRequest
from edgeward.privacy.items import Item
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.registry import Registry
from edgeward.privacy.vault import FileVault

BOUNDARY = "a-boundary"
CONTENT = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


@dataclass
class EngineBus:
    """The bus as the renderer sees it: an engine that answers, and what it was asked."""

    answer: Any = None
    asked: list[RenderRequest] = field(default_factory=list)

    async def request(self, subject: str, message: RenderRequest, kinds: Any, timeout_s: float) -> Any:
        self.asked.append(message)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        return Rendered(
            data=b"picture",
            media_type=message.media_type,
            width=8,
            height=8,
            scale=1.0,
            rows=8,
            columns=8,
            frame=message.frame,
            frames=1,
        )


@dataclass
class Web:
    """What a test needs of an open door."""

    site: TestSite
    door: WebDoor
    journal: Journal
    vault: FileVault
    quarantine: Quarantine
    registry: Registry
    engine: EngineBus
    admitted: list[tuple[Item, bool]] = field(default_factory=list)
    clients: list[httpx.AsyncClient] = field(default_factory=list)
    folders: dict[str, Path] = field(default_factory=dict)

    def client(self, name: str = "us1", kind: str = "ultrasound") -> httpx.AsyncClient:
        """A device with its certificate; enrolled if it is not yet."""
        if name not in self.folders:
            ae_title = name.upper() if kind in ("ultrasound", "ct") else ""
            self.folders[name] = self.site.enrol(name, kind, ae_title)
        client = httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.door.port}/dicomweb",
            verify=tls_of(self.folders[name]),
            timeout=30,
            trust_env=False,
        )
        self.clients.append(client)
        return client

    def viewer(self) -> httpx.AsyncClient:
        return self.client("view1", "viewer")

    async def store(self, *objects: Dataset | bytes, path: str = "/studies") -> httpx.Response:
        return await self.client().post(path, content=body(*objects), headers={"Content-Type": CONTENT})

    def reasons(self) -> list[str]:
        return [entry.reason for entry in self.quarantine.entries()]

    def vault_files(self) -> int:
        return sum(path.is_file() for path in self.site.home.vault.rglob("*"))


def body(*objects: Dataset | bytes, boundary: str = BOUNDARY) -> bytes:
    """A multipart body with one part per object."""
    parts = [one if isinstance(one, bytes) else as_file(one) for one in objects]
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"\r\n".join(head + part for part in parts) + f"\r\n--{boundary}--\r\n".encode()


def parts_of(response: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """Take a multipart answer apart, independently of our own splitter."""
    boundary = response.headers["content-type"].rpartition("boundary=")[2].encode()
    first, *parts, last = (b"\r\n" + response.content).split(b"\r\n--" + boundary)
    assert (first.strip(), last) == (b"", b"--\r\n")
    found = []
    for part in parts:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        assert int(headers["Content-Length"]) == len(content)
        found.append(({name.lower(): value for name, value in headers.items()}, content))
    return found


@asynccontextmanager
async def open_web(path: Path, min_free_mb: int = 0, **sections: dict[str, object]) -> AsyncIterator[Web]:
    home, settings = new_home(path, **sections)
    site, key = TestSite(home, settings), SiteKey.load(home)
    journal, vault = Journal(home.db("journal"), key), FileVault(home.vault, key, min_free_mb)
    quarantine, registry, engine = Quarantine(journal), Registry(home), EngineBus()
    admitted: list[tuple[Item, bool]] = []
    threads = ThreadPoolExecutor(4)
    reception = Reception(vault, journal, key, settings.budgets)
    renderer = Renderer(engine, journal, vault, threads)  # type: ignore[arg-type]
    door = WebDoor(
        home,
        settings,
        registry=registry,
        quarantine=quarantine,
        routes=dicomweb.routes(
            Stow(reception, quarantine, threads, lambda item, new: admitted.append((item, new))),
            Qido(journal.catalogue, Details(journal.catalogue, vault), threads),
            Wado(journal.catalogue, vault, renderer, quarantine, threads),
            settings.web.max_body_mb << 20,
        ),
    )
    await door.open()
    web = Web(site, door, journal, vault, quarantine, registry, engine, admitted)
    try:
        yield web
    finally:
        for client in web.clients:
            await client.aclose()
        await door.close()
        threads.shutdown()
        journal.close()


def study_of(objects: Iterable[Dataset]) -> str:
    (uid,) = {str(one.StudyInstanceUID) for one in objects}
    return uid
