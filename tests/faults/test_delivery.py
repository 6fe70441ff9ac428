"""Results reach every destination, once in effect and in order per study, whatever is down, slow or killed.

Counted at the destinations: what a scripted PACS, a strict FHIR server and a validating HL7 receiver hold in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

import pytest
from pydicom.uid import generate_uid
from tests.support.deliver import Gateway, accepted, child, start, until
from tests.support.fhir import FhirServer, fhir_server
from tests.support.hl7 import Receiver, acknowledge, receiver
from tests.support.pacs import OK, ScriptedPacs, mute_listener, scripted_pacs
from tests.support.site import free_port

from edgeward.config import Fhir, Hl7, Pacs
from edgeward.messages import DeliverRequest

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

STUDIES = 4


class Load:
    """Items of a few studies, one after the other, some of them with a verdict at once."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.studies = [str(generate_uid()) for _ in range(STUDIES)]
        self.requests: list[DeliverRequest] = []
        self.items: dict[str, list[str]] = defaultdict(list)  # study -> items in order

    async def one(self) -> None:
        n = len({request.item_id for request in self.requests})
        study = self.studies[n % STUDIES]
        request = self.gateway.request(f"item-{n}", StudyInstanceUID=study)
        self.items[study].append(request.item_id)
        await self._hand_over(request)
        if n % 5 == 0:
            await self._hand_over(self.gateway.revised(request, "confirm"))

    async def _hand_over(self, request: DeliverRequest) -> None:
        self.requests.append(request)
        await accepted(self.gateway, request)

    def delivered(self, destination: str) -> int:
        return len(
            {(r.item_id, r.revision) for r in self.gateway.reports if r.destination == destination and not r.reason}
        )

    async def all_delivered(self, *destinations: str, seconds: float = 120) -> None:
        await until(lambda: all(self.delivered(name) == len(self.requests) for name in destinations), seconds)

    # ------------------------------------ what must hold at the end

    def check_pacs(self, pacs: ScriptedPacs) -> None:
        """Every object once in effect; reports of a study in the order of its items."""
        assert len(pacs.held) == 4 * len({r.item_id for r in self.requests}) + self.revisions
        reports = [uid for uid in dict.fromkeys(pacs.asked) if pacs.held[uid].Modality == "SR"]
        for study, items in self.items.items():
            images = {}
            for request in self.requests:
                images[request.finding.sop_instance_uid] = request.item_id
            order = []
            for uid in reports:
                held = pacs.held[uid]
                if held.StudyInstanceUID == study:
                    (evidence,) = held.CurrentRequestedProcedureEvidenceSequence
                    references = [
                        str(item.ReferencedSOPInstanceUID)
                        for series in evidence.ReferencedSeriesSequence
                        for item in series.ReferencedSOPSequence
                    ]
                    order.append(next(images[uid] for uid in references if uid in images))
            assert list(dict.fromkeys(order)) == items

    def check_fhir(self, emr: FhirServer) -> None:
        items = len({request.item_id for request in self.requests})
        assert emr.problems == []
        statuses = [report["status"] for report in emr.of("DiagnosticReport")]
        assert len(statuses) == items
        assert statuses.count("final") == self.revisions
        assert len(emr.of("ImagingStudy")) == min(STUDIES, items)
        assert len(emr.of("Observation")) == 3 * items

    def check_hl7(self, his: Receiver) -> None:
        assert his.problems == []
        assert len(his.latest()) == len(self.requests)

    @property
    def revisions(self) -> int:
        return sum(request.revision > 0 for request in self.requests)


@pytest.mark.timeout(9000)  # at full length
async def test_a_pacs_is_down_for_an_hour_under_load(bus_site, campaign: bool) -> None:
    """Time-compressed here; at full length with --campaign. The other destinations get theirs meanwhile."""
    seconds, rate = (3600.0, 1.0) if campaign else (4.0, 10.0)
    gateway = await Gateway(bus_site).start()
    load = Load(gateway)
    with scripted_pacs() as pacs, fhir_server() as emr, receiver() as his:
        deliver = await start(bus_site, pacs.pacs("archive"), emr.settings("emr"), his.settings("his"))
        await load.one()
        await load.all_delivered("archive", "emr", "his")
        pacs.stop()

        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            await load.one()
            await asyncio.sleep(1 / rate)
        await load.all_delivered("emr", "his", seconds=300)
        assert load.delivered("archive") <= 2, "the archive was away"

        pacs.start()
        returned = time.monotonic()
        before = load.delivered("archive")
        await load.all_delivered("archive", seconds=max(120.0, seconds))
        count = len(load.requests) - before
        print(f"{count} results caught up in {time.monotonic() - returned:.1f} s")
        await deliver.stop()

    load.check_pacs(pacs)
    load.check_fhir(emr)
    load.check_hl7(his)
    assert gateway.quarantined == [] or {entry.peer for entry in gateway.quarantined} == {"archive"}


@pytest.mark.timeout(3600)  # at full length
async def test_deliver_is_killed_again_and_again_while_it_delivers(bus_site, campaign: bool) -> None:
    kills, pause = (60, (0.3, 2.0)) if campaign else (3, (0.8, 1.5))
    rng = random.Random(3)
    gateway = await Gateway(bus_site).start()
    load = Load(gateway)

    async def send() -> None:
        for _ in range(12 * kills):
            await load.one()
            await asyncio.sleep(0.02)

    with scripted_pacs() as pacs, fhir_server() as emr, receiver() as his:
        destinations = (pacs.pacs("archive"), emr.settings("emr"), his.settings("his"))
        process = await child(bus_site, *destinations)
        sending = asyncio.create_task(send())
        for _ in range(kills):
            before = len(gateway.reports)
            with contextlib.suppress(TimeoutError):
                await until(lambda before=before: len(gateway.reports) > before, 20)
            await asyncio.sleep(rng.uniform(*pause) / 4)
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            process = await child(bus_site, *destinations)
        await sending
        await load.all_delivered("archive", "emr", "his", seconds=300)
        process.send_signal(signal.SIGTERM)
        await process.wait()

    load.check_pacs(pacs)
    load.check_fhir(emr)
    load.check_hl7(his)


@pytest.mark.parametrize("kind", ["archive", "emr", "his"])
async def test_killed_after_the_destination_has_it_and_before_it_is_written_down(bus_site, kind: str) -> None:
    """The worst moment: the destination holds the result, and nobody knows."""
    gateway = await Gateway(bus_site).start()
    load = Load(gateway)
    held, release = threading.Event(), threading.Event()

    def block(n: int) -> None:
        if n == 0:
            held.set()
            release.wait(60)

    def pacs_answer(dataset, n):
        block(n)
        return OK

    def hl7_reply(data, n):
        block(n)
        return acknowledge(data)

    class Late(FhirServer):
        """Writes first, and then does not answer."""

        def transact(self, bundle):
            answer = super().transact(bundle)
            block(len(self.transactions) - 1)
            return answer

    emr = Late()
    emr.start()
    with scripted_pacs(answer=pacs_answer) as pacs, receiver(reply=hl7_reply) as his:
        destination = {"archive": pacs.pacs, "emr": emr.settings, "his": his.settings}[kind](kind)
        first = await child(bus_site, destination)
        await load.one()
        await until(held.is_set, 60)
        os.kill(first.pid, signal.SIGKILL)
        await first.wait()
        release.set()

        second = await child(bus_site, destination)
        await load.all_delivered(kind, seconds=60)
        second.send_signal(signal.SIGTERM)
        await second.wait()
    emr.stop()

    {"archive": lambda: load.check_pacs(pacs), "emr": lambda: load.check_fhir(emr), "his": lambda: load.check_hl7(his)}[
        kind
    ]()
    if kind == "his":
        assert len(his.received) == len(load.requests) + 1, "the repeat was sent, under the same control id"


# ---------------------------------------- bad neighbours


@contextlib.contextmanager
def sipping() -> Iterator[int]:
    """A port that takes one byte a second. Gives its number."""
    stop = threading.Event()
    server = socket.create_server(("127.0.0.1", 0), backlog=16)

    def sip(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        with contextlib.suppress(OSError), connection:
            while connection.recv(1) and not stop.wait(1.0):
                pass

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=sip, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        stop.set()
        server.close()


@contextlib.contextmanager
def resetting() -> Iterator[int]:
    """A port that resets every connection. Gives its number."""
    server = socket.create_server(("127.0.0.1", 0), backlog=16)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.close()


async def test_destinations_that_are_ill_in_every_way_delay_no_other(bus_site) -> None:
    gateway = await Gateway(bus_site).start()
    load = Load(gateway)
    hang = threading.Event()

    def hanging(dataset, n):
        hang.wait(60)
        return OK

    with (
        sipping() as slow,
        resetting() as reset,
        mute_listener() as mute,
        scripted_pacs(answer=hanging) as hangs,
        scripted_pacs(answer=lambda dataset, n: 0xA700) as full,
        scripted_pacs() as good,
        fhir_server() as emr,
        receiver() as his,
    ):
        bad = [
            *(Pacs(name=f"pacs-{n}", host="127.0.0.1", port=port, ae_title="X") for n, port in enumerate((slow, reset, mute))),
            *(Fhir(name=f"fhir-{n}", url=f"http://127.0.0.1:{port}/fhir") for n, port in enumerate((slow, reset, mute))),
            *(Hl7(name=f"hl7-{n}", host="127.0.0.1", port=port) for n, port in enumerate((slow, reset, mute, free_port()))),
            hangs.pacs("hangs"),
            full.pacs("full"),
        ]  # fmt: skip
        deliver = await start(bus_site, *bad, good.pacs("archive"), emr.settings("emr"), his.settings("his"))
        for _ in range(10):
            await load.one()

        await load.all_delivered("archive", "emr", "his", seconds=60)

        assert {report.destination for report in gateway.reports} == {"archive", "emr", "his"}
        assert all(report.state == "delivered" for report in gateway.reports), "nothing is held against the others"
        hang.set()
        await deliver.stop()
    load.check_pacs(good)
    load.check_fhir(emr)
    load.check_hl7(his)


async def test_a_poisoned_item_holds_up_its_own_study_only_and_dies(bus_site, monkeypatch) -> None:
    """The receiver hangs up on one message, always. Others prove that it is this message's fault."""
    monkeypatch.setattr("edgeward.clinic.imaging.destination.FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("edgeward.clinic.imaging.destination.LONGEST_PAUSE_S", 0.05)
    gateway = await Gateway(bus_site).start()
    load = Load(gateway)
    study = load.studies[1].encode()  # its first item has no verdict: a later revision that arrives would settle it
    poison: list[bytes] = []

    def reply(data: bytes, n: int) -> bytes | None:
        if not poison and study in data:
            poison.append(data)
        return None if data in poison else acknowledge(data)

    with receiver(reply=reply) as his:
        deliver = await start(bus_site, his.settings("his"))
        for _ in range(8):
            await load.one()
        async with asyncio.timeout(60):  # how many others get through between two tries depends on the machine
            while not any(report.state == "failed" for report in gateway.reports):
                seen = len(gateway.reports)
                await load.one()
                with contextlib.suppress(TimeoutError):
                    await until(lambda seen=seen: len(gateway.reports) > seen, 5)
        await until(lambda: len(gateway.reports) == len(load.requests), 60)
        await deliver.stop()

    failed = [report.item_id for report in gateway.reports if report.state == "failed"]
    assert failed == ["item-1"]
    assert len(his.latest()) == len(load.requests)
