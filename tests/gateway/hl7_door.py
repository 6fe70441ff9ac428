"""An HL7 door with an order book in a temporary site, and systems that send to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import hl7apy.parser
from tests.gateway.door import tls_of
from tests.support.site import TestSite, new_home

from edgeward.gateway.hl7_orders import Hl7Orders, handled
from edgeward.gateway.mllp import MllpDoor
from edgeward.gateway.orders import OrderBook
from edgeward.gateway.quarantine import Quarantine
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.registry import Registry

_PID = "PID|1||{pid}^^^HOSP^MR||{name}||19640812|F"


def orm(
    control: str = "NW",
    number: str = "P1",
    *,
    pid: str = "4711",
    name: str = "Muster^Erika",
    accession: str = "A1",
    at: str = "20260301120000",
    scheduled: str = "20260302083000",
    modality: str = "US",
    status: str = "",
    more: tuple[str, ...] = (),
    msh: str = "|P|2.5.1",
    message_id: str = "",
) -> str:
    """An order message (ORM^O01)."""
    obr = ["OBR", "1", number, "", "BUS^Breast ultrasound^L", "", scheduled] + [""] * 11 + [accession] + [""] * 5
    obr.append(modality)
    lines = [
        f"MSH|^~\\&|HIS|HOSP|EDGEWARD|SITE|{at}||ORM^O01^ORM_O01|{message_id or number + at}{msh}",
        _PID.format(pid=pid, name=name),
        "PV1|1|O|WARD^3^2|||||1234^Referrer^Rita^^^Dr",
        f"ORC|{control}|{number}|||{status}||||{at}|||99^Surgeon^Sam",
        "|".join(obr),
        *more,
    ]
    return "\r".join(lines) + "\r"


@dataclass
class Hl7Door:
    site: TestSite
    mllp: MllpDoor
    book: OrderBook
    quarantine: Quarantine

    def reasons(self) -> list[str]:
        return [entry.reason for entry in self.quarantine.entries()]

    @contextlib.asynccontextmanager
    async def connect(self, folder: Path | None) -> AsyncIterator[Client]:
        door, tls = ("tls", tls_of(folder)) if folder else ("plain", None)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.mllp.ports[door], ssl=tls)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()

    async def ask(self, folder: Path | None, text: str | bytes) -> Ack:
        async with self.connect(folder) as client:
            return await client.ask(text)


class Ack:
    """An acknowledgement, taken apart by a library that is not the one that wrote it."""

    def __init__(self, data: bytes) -> None:
        self.text = data.decode("utf-8", "replace")
        self.parsed = hl7apy.parser.parse_message(self.text, find_groups=False)

    @property
    def code(self) -> str:
        return self.parsed.msa.msa_1.value

    @property
    def control_id(self) -> str:
        return self.parsed.msa.msa_2.value

    @property
    def error(self) -> str:
        return self.parsed.err.err_3.err_3_1.value

    @property
    def where(self) -> str:
        place = self.parsed.err.err_2
        return f"{place.err_2_1.value}-{place.err_2_3.value}"


class Client:
    """One connection of a sending system."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, text: str | bytes) -> None:
        self.writer.write(b"\x0b" + (text.encode() if isinstance(text, str) else text) + b"\x1c\r")

    async def answer(self) -> Ack:
        async with asyncio.timeout(20):
            data = await self.reader.readuntil(b"\x1c\r")
        assert data.startswith(b"\x0b")
        return Ack(data[1:-2])

    async def ask(self, text: str | bytes) -> Ack:
        self.send(text)
        return await self.answer()

    async def closed(self) -> bool:
        async with asyncio.timeout(20):
            try:
                return await self.reader.read(1) == b""
            except OSError:
                return True


@contextlib.asynccontextmanager
async def open_door(path: Path, **mllp: object) -> AsyncIterator[Hl7Door]:
    home, settings = new_home(path, mllp={"port": 0, "legacy_port": 0, **mllp})
    key = SiteKey.load(home)
    journal, book = Journal(home.db("journal"), key), OrderBook(home.db("orders"), key)
    quarantine = Quarantine(journal)
    door = MllpDoor(home, settings, registry=Registry(home), quarantine=quarantine, handlers=handled(Hl7Orders(book)))
    await door.open()
    try:
        yield Hl7Door(TestSite(home, settings), door, book, quarantine)
    finally:
        await door.close()
        book.close()
        journal.close()
