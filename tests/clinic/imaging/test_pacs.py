"""C-STORE to PACSs that behave, refuse, hang, hang up and lie."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC

import pytest
from pydicom.uid import ComprehensiveSRStorage, ImplicitVRLittleEndian, SecondaryCaptureImageStorage
from tests.support.imaging import breast_image, finding_for, pixels_of
from tests.support.pacs import OK, mute_listener, scripted_pacs
from tests.support.site import free_port, new_home

from edgeward.clinic.imaging.capture import build_capture
from edgeward.clinic.imaging.pacs import PacsSink
from edgeward.clinic.imaging.report import build_report
from edgeward.clinic.imaging.sink import Interrupted, Rejected, Result, Unreachable
from edgeward.clinic.imaging.source import read_source
from edgeward.config import Pacs
from edgeward.privacy.identity import client_context, server_context


def results(item_id: str = "item-1") -> list[Result]:
    image = breast_image()
    finding = finding_for(image, item_id)
    source = read_source(image, finding)
    return [
        Result("sr", build_report(finding, source, UTC)),
        Result("capture", build_capture(finding, source, pixels_of(image), UTC)),
    ]


def sink(pacs: Pacs, **options) -> PacsSink:
    return PacsSink(pacs, "EDGEWARD", **{"associate_s": 2.0, "answer_s": 2.0, **options})


async def test_a_result_is_stored_and_the_receipt_tells_when():
    report, capture = results()
    with scripted_pacs() as pacs:
        destination = sink(pacs.pacs())
        before = time.time_ns()

        for result in (report, capture):
            receipt = await destination.send(result)
            assert before <= receipt.stored_ns <= time.time_ns()

        await destination.close()
        assert set(pacs.held) == {report.uid, capture.uid}
        assert pacs.held[capture.uid].PixelData == capture.dataset.PixelData
        assert pacs.associations == 1


async def test_an_archive_that_only_speaks_implicit_vr_gets_that():
    with scripted_pacs(syntaxes=(ImplicitVRLittleEndian,)) as pacs:
        destination = sink(pacs.pacs())
        report, _ = results()

        await destination.send(report)

        await destination.close()
        assert pacs.held[report.uid].PreliminaryFlag == "PRELIMINARY"


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
async def test_a_warning_or_a_duplicate_is_success_with_a_note(status):
    with scripted_pacs(answer=lambda dataset, n: status) as pacs:
        destination = sink(pacs.pacs())

        receipt = await destination.send(results()[0])

        await destination.close()
        assert receipt.note


@pytest.mark.parametrize("status", [0xA900, 0xA9FF, 0xC000, 0xC123, 0x0122])
async def test_a_refused_object_is_told_apart_and_the_association_stays(status):
    with scripted_pacs(answer=lambda dataset, n: status if n == 0 else OK) as pacs:
        destination = sink(pacs.pacs())
        report, capture = results()

        with pytest.raises(Rejected, match=f"{status:04X}"):
            await destination.send(report)
        await destination.send(capture)

        await destination.close()
        assert pacs.associations == 1


@pytest.mark.parametrize("status", [0xA700, 0x0110, 0x0124])
async def test_trouble_of_the_archives_own_is_not_a_refusal(status):
    with scripted_pacs(answer=lambda dataset, n: status) as pacs:
        destination = sink(pacs.pacs())

        with pytest.raises(Interrupted, match=f"{status:04X}"):
            await destination.send(results()[0])
        await destination.close()


async def test_a_class_it_does_not_take_is_refused_by_name():
    with scripted_pacs(classes=(SecondaryCaptureImageStorage,)) as pacs:
        destination = sink(pacs.pacs())
        report, capture = results()

        with pytest.raises(Rejected, match="Comprehensive SR"):
            await destination.send(report)
        await destination.send(capture)
        await destination.close()


async def test_nobody_there():
    destination = sink(Pacs(name="p", host="127.0.0.1", port=free_port(), ae_title="X"))

    with pytest.raises(Unreachable, match="refused") as failure:
        await destination.open()
    assert not failure.value.connected
    assert not await destination.answers()
    await destination.close()


async def test_a_name_that_does_not_resolve():
    destination = sink(Pacs(name="p", host="no-such-host.invalid", port=104, ae_title="X"))

    with pytest.raises(Unreachable):
        await destination.open()
    await destination.close()


async def test_a_wrong_ae_title_is_told_as_such():
    with scripted_pacs(called="RIGHT") as pacs:
        destination = sink(pacs.pacs(ae_title="WRONG"))

        with pytest.raises(Unreachable, match="refuses the association") as failure:
            await destination.open()
        assert failure.value.connected
        await destination.close()


async def test_one_that_takes_the_connection_and_says_nothing():
    with mute_listener() as port:
        destination = sink(Pacs(name="p", host="127.0.0.1", port=port, ae_title="X"), associate_s=0.5)

        with pytest.raises(Unreachable, match="did not answer"):
            await destination.open()
        await destination.close()


async def test_one_that_never_answers_a_store_is_left_within_the_limit():
    hanging = threading.Event()

    def answer(dataset, n):
        hanging.wait(20)
        return OK

    with scripted_pacs(answer=answer) as pacs:
        destination = sink(pacs.pacs(), answer_s=0.5)
        try:
            with pytest.raises(Interrupted, match="did not answer"):
                await asyncio.wait_for(destination.send(results()[0]), 10)
        finally:
            hanging.set()
        await destination.close()


async def test_one_that_stops_reading_does_not_hold_the_thread_for_ever():
    """The peer answers the association and then never reads: our socket's buffer fills in the middle of an image."""
    with scripted_pacs() as pacs:
        destination = sink(pacs.pacs(), answer_s=1.0)
        await destination.open()
        server_side = pacs._server.active_associations[0]
        server_side.dul._is_transport_event = lambda: False
        image = breast_image(rows=3000, columns=3000)
        finding = finding_for(image)
        big = Result("capture", build_capture(finding, read_source(image, finding), pixels_of(image), UTC))

        with pytest.raises((Interrupted, Unreachable)):
            await asyncio.wait_for(destination.send(big), 20)
        await destination.close()


async def test_an_association_lost_while_idle_costs_no_result():
    with scripted_pacs() as pacs:
        destination = sink(pacs.pacs())
        report, capture = results()
        await destination.send(report)
        for association in pacs._server.active_associations:
            association.abort()

        await destination.send(capture)

        await destination.close()
        assert set(pacs.held) == {report.uid, capture.uid}
        assert pacs.associations == 2


async def test_a_rest_releases_the_association_and_the_next_send_makes_another():
    with scripted_pacs() as pacs:
        destination = sink(pacs.pacs())
        report, capture = results()
        await destination.send(report)

        await destination.rest()
        assert await asyncio.to_thread(pacs.released.wait, 30)
        await destination.send(capture)

        await destination.close()
        assert pacs.associations == 2


async def test_a_hanging_archive_does_not_delay_another():
    hanging = threading.Event()

    def answer(dataset, n):
        hanging.wait(20)
        return OK

    with scripted_pacs(answer=answer) as slow, scripted_pacs() as quick:
        first, second = sink(slow.pacs("slow"), answer_s=15.0), sink(quick.pacs("quick"))
        stuck = asyncio.create_task(first.send(results()[0]))
        while not slow.asked:
            await asyncio.sleep(0.01)

        await second.send(results()[0])

        assert not stuck.done()
        hanging.set()
        await stuck
        await first.close()
        await second.close()


async def test_over_tls_with_the_sites_certificates(tmp_path):
    home, _ = new_home(tmp_path / "home")
    with scripted_pacs(tls=server_context(home, "gateway")) as pacs:
        destination = sink(pacs.pacs(tls=True), tls=client_context(home, "deliver"))
        report, _ = results()

        await destination.send(report)

        await destination.close()
        assert set(pacs.held) == {report.uid}


async def test_a_plain_archive_where_tls_is_wanted_gets_nothing(tmp_path):
    home, _ = new_home(tmp_path / "home")
    with scripted_pacs() as pacs:
        destination = sink(pacs.pacs(tls=True), tls=client_context(home, "deliver"))

        with pytest.raises(Unreachable, match="TLS"):
            await destination.send(results()[0])

        await destination.close()
        assert not pacs.asked


def test_both_kinds_are_classes_a_pacs_can_be_asked_for():
    report, capture = results()

    assert report.dataset.SOPClassUID == ComprehensiveSRStorage
    assert capture.dataset.SOPClassUID == SecondaryCaptureImageStorage
