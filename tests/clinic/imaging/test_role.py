"""The role `deliver` on a real bus: hand-over, reports to the gateway, the console's questions, restarts and kill -9."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from pathlib import Path

import msgspec
import pytest
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage
from tests.support.deliver import Gateway, accepted, child, start, until
from tests.support.fhir import fhir_server
from tests.support.hl7 import acknowledge, receiver
from tests.support.imaging import as_file, breast_image, request_for
from tests.support.pacs import OK, scripted_pacs
from tests.support.site import free_port

from edgeward.bus import subjects
from edgeward.clinic.imaging import results
from edgeward.clinic.imaging.ledger import Ledger, LedgerError
from edgeward.clinic.imaging.sink import NO_PATIENT
from edgeward.messages import Ask, Destinations, Message, Ok, Refused, ReportText, Resend, Resent
from edgeward.privacy.vaultfile import SEGMENT


async def test_an_item_reaches_the_pacs_and_the_gateway_hears_of_it(bus_site):
    gateway = await Gateway(bus_site).start()
    with scripted_pacs() as pacs:
        deliver = await start(bus_site, pacs.pacs("archive"))

        assert await gateway.hand_over(gateway.request("item-1")) == Ok()
        await until(lambda: bool(gateway.reports))

        report = gateway.reports[0]
        assert (report.item_id, report.destination, report.state) == ("item-1", "archive", "delivered")
        assert set(report.sop_instance_uids) == set(pacs.held)
        assert report.stored_ns > 0
        assert {s.name for s in report.stages} >= {"build_sr", "build_capture", "associate", "send"}
        await deliver.stop()


async def test_the_report_can_be_read_before_and_after_delivery(bus_site):
    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")
    free = threading.Event()

    def answer(dataset, n):
        free.wait(20)
        return OK

    async def ask(item: str) -> Message:
        return await console.request(subjects.DELIVER_REPORT, Ask(argument=item), ReportText | Refused, 10)

    with scripted_pacs(answer=answer) as pacs:
        deliver = await start(bus_site, pacs.pacs())
        await gateway.hand_over(gateway.request("item-1"))

        before = await ask("item-1")
        assert "Probability of cancer: 85.0 %" in before.text
        free.set()
        await until(lambda: bool(gateway.reports))
        assert await ask("item-1") == before
        assert isinstance(await ask("no-such-item"), Refused)
        await deliver.stop()


async def test_the_gateway_is_told_again_until_it_acknowledges(bus_site):
    gateway = await Gateway(bus_site).start()
    gateway.answer = Refused(reason="the journal is full")
    with scripted_pacs() as pacs:
        deliver = await start(bus_site, pacs.pacs())
        await gateway.hand_over(gateway.request("item-1"))
        await until(lambda: len(gateway.reports) == 1)
        await gateway.hand_over(gateway.request("item-2"))
        await until(lambda: {r.item_id for r in gateway.reports} == {"item-1", "item-2"})

        gateway.answer = Ok()
        await until(lambda: [r.item_id for r in gateway.reports].count("item-1") > 1)
        await until(lambda: [r.item_id for r in gateway.reports].count("item-2") > 1)
        await deliver.stop()


async def test_a_report_that_nobody_heard_survives_a_restart(bus_site):
    gateway = Gateway(bus_site)
    gateway.bus = await bus_site.bus("gateway")  # hands over, and serves nothing
    with scripted_pacs() as pacs:
        deliver = await start(bus_site, pacs.pacs())
        await gateway.hand_over(gateway.request("item-1"))
        await until(lambda: deliver.context.state().counters.get("delivered") == 1)
        await deliver.stop()

        deliver = await start(bus_site, pacs.pacs())
        await gateway.start()
        await until(lambda: bool(gateway.reports))

        assert gateway.reports[0].state == "delivered"
        await deliver.stop()
        assert len(pacs.asked) == len(pacs.held) == 4, "nothing was sent twice"


async def test_without_a_pacs_an_item_fails_visibly_and_its_report_is_readable(bus_site):
    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")
    deliver = await start(bus_site)

    await gateway.hand_over(gateway.request("item-1"))
    await until(lambda: bool(gateway.reports))

    assert gateway.reports[0].state == "failed"
    assert "no destination" in gateway.reports[0].reason
    assert any("no destination" in warning for warning in deliver.context.state().warnings)
    answer = await console.request(subjects.DELIVER_REPORT, Ask(argument="item-1"), ReportText | Refused, 10)
    assert isinstance(answer, ReportText)
    await deliver.stop()


async def test_a_pacs_that_is_down_is_a_warning_and_its_return_clears_it(bus_site, monkeypatch):
    monkeypatch.setattr("edgeward.clinic.imaging.destination.TELL_AFTER_S", 0.3)
    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")
    with scripted_pacs() as pacs:
        deliver = await start(bus_site, pacs.pacs("archive"))
        pacs.stop()
        await gateway.hand_over(gateway.request("item-1"))
        await until(lambda: bool(deliver.context.state().warnings) and bool(gateway.quarantined))

        assert "archive does not take results" in deliver.context.state().warnings[0]
        assert gateway.quarantined[0].peer == "archive"
        status = await console.request(subjects.DELIVER_STATUS, Ask(), Destinations, 10)
        assert (status.destinations[0].status, status.destinations[0].waiting) == ("down", 1)

        pacs.start()
        await until(lambda: bool(gateway.reports))
        await until(lambda: not deliver.context.state().warnings)
        status = await console.request(subjects.DELIVER_STATUS, Ask(), Destinations, 10)
        assert status.destinations[0].waiting == 0
        assert status.destinations[0].confirmed == 1
        await deliver.stop()


async def test_stopping_in_the_middle_of_everything_is_no_error(bus_site, monkeypatch, caplog):
    begun, free = threading.Event(), threading.Event()
    make_sr = results._report

    def slowly(request, source):
        begun.set()
        free.wait(20)
        return make_sr(request, source)

    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")
    with scripted_pacs() as first, scripted_pacs() as second:
        deliver = await start(bus_site, first.pacs("first"), second.pacs("second"))
        monkeypatch.setattr(results, "_report", slowly)
        await gateway.hand_over(gateway.request("item-1"))
        asked = asyncio.create_task(
            console.request(subjects.DELIVER_REPORT, Ask(argument="item-1"), ReportText | Refused, 20)
        )
        late = [asyncio.create_task(gateway.hand_over(gateway.request(f"item-{n}"))) for n in range(2, 12)]
        await until(begun.is_set)

        stopping = asyncio.create_task(deliver.stop())
        late += [asyncio.create_task(gateway.hand_over(gateway.request(f"item-{n}"))) for n in range(12, 22)]
        async with asyncio.timeout(20):
            answers = await asyncio.gather(asked, *late, return_exceptions=True)
            free.set()
            await stopping

        assert isinstance(answers[0], Refused)
        assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        taken = [f"item-{n}" for n, answer in enumerate(answers[1:], 2) if answer == Ok()]

        monkeypatch.setattr(results, "_report", make_sr)
        deliver = await start(bus_site, first.pacs("first"), second.pacs("second"))
        await until(lambda: {r.item_id for r in gateway.reports} >= {"item-1", *taken})
        await deliver.stop()


async def test_a_slow_pacs_delays_no_other(bus_site):
    gateway = await Gateway(bus_site).start()
    free = threading.Event()

    def answer(dataset, n):
        free.wait(25)
        return OK

    with scripted_pacs(answer=answer) as slow, scripted_pacs() as quick:
        deliver = await start(bus_site, slow.pacs("slow"), quick.pacs("quick"))
        for n in range(5):
            await gateway.hand_over(gateway.request(f"item-{n}"))

        await until(lambda: len(gateway.reports) == 5)
        assert {r.destination for r in gateway.reports} == {"quick"}
        assert len(slow.asked) == 1

        free.set()
        await until(lambda: len(gateway.reports) == 10)
        assert set(slow.held) == set(quick.held)
        await deliver.stop()


async def test_a_refused_item_is_a_dead_letter_that_everyone_can_see(bus_site, monkeypatch):
    monkeypatch.setattr("edgeward.clinic.imaging.destination.FIRST_PAUSE_S", 0.01)
    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")
    with scripted_pacs(answer=lambda dataset, n: 0xC000) as pacs:
        deliver = await start(bus_site, pacs.pacs("archive"))
        await gateway.hand_over(gateway.request("item-1"))
        await until(lambda: bool(gateway.reports) and bool(gateway.quarantined))

        assert gateway.reports[0].state == "failed"
        assert "C000" in gateway.reports[0].reason
        assert "item-1" in gateway.quarantined[0].reason
        status = await console.request(subjects.DELIVER_STATUS, Ask(), Destinations, 10)
        assert [letter.item_id for letter in status.dead] == ["item-1"]
        await deliver.stop()


async def test_a_hand_over_that_cannot_be_kept_is_refused_and_the_role_recovers(bus_site, monkeypatch):
    gateway = await Gateway(bus_site).start()
    keep = Ledger.accept

    def full(*arguments):
        raise LedgerError("the disk is full")

    with scripted_pacs() as pacs:
        deliver = await start(bus_site, pacs.pacs())
        request = gateway.request("item-1")
        monkeypatch.setattr(Ledger, "accept", full)
        assert await gateway.hand_over(request) == Refused(reason="the disk is full")
        assert deliver.context.state().status == "degraded"

        monkeypatch.setattr(Ledger, "accept", keep)
        assert await gateway.hand_over(request) == Ok()
        await until(lambda: bool(gateway.reports))

        assert deliver.context.state().status == "ready"
        await deliver.stop()


async def test_no_name_reaches_log_quarantine_or_report(bus_site, caplog, capfd):
    gateway = await Gateway(bus_site).start()
    caplog.set_level("DEBUG")
    secret = "Geheim^Paula"
    with scripted_pacs() as pacs:
        deliver = await start(bus_site, pacs.pacs())
        broken = gateway.request("item-2", PatientName=secret, PatientBirthDate="Geheim19")
        image = as_file(breast_image(PatientName=secret))
        nonsense = request_for(bus_site.home.vault, gateway.key, image[: len(image) // 3], broken.finding)
        await gateway.hand_over(gateway.request("item-1", PatientName=secret, PatientID="Geheim-1"))
        await gateway.hand_over(nonsense)
        await until(lambda: len(gateway.reports) == 2)
        await deliver.stop()

    output = capfd.readouterr()
    seen = caplog.text + output.out + output.err + repr(gateway.reports) + repr(gateway.quarantined)
    assert "Geheim" not in seen
    assert "Paula" not in seen


# ---------------------------------------- FHIR, HL7, verdicts


async def test_one_finding_reaches_every_kind_of_destination_and_so_does_the_verdict(bus_site):
    gateway = await Gateway(bus_site).start()
    with scripted_pacs() as pacs, fhir_server() as emr, receiver() as his:
        deliver = await start(bus_site, pacs.pacs("archive"), emr.settings("emr"), his.settings("his"))
        request = gateway.request("item-1")

        await gateway.hand_over(request)
        await until(lambda: len(gateway.reports) == 3)
        assert [r["status"] for r in emr.of("DiagnosticReport")] == ["preliminary"]
        assert len(pacs.held) == 4

        await gateway.hand_over(gateway.revised(request, "confirm"))
        await until(lambda: len(gateway.reports) == 6)
        assert [r["status"] for r in emr.of("DiagnosticReport")] == ["final"]
        assert len(pacs.held) == 5, "one more report; pictures do not change"
        assert len(his.latest()) == 2
        await deliver.stop()

    assert {(r.destination, r.revision, r.state) for r in gateway.reports} == {
        (name, revision, "delivered") for name in ("archive", "emr", "his") for revision in (0, 1)
    }
    assert emr.problems == his.problems == []
    assert b"|F|" in his.received[-1]
    assert gateway.quarantined == []


async def test_the_report_that_is_read_is_that_of_the_last_verdict(bus_site):
    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")
    with scripted_pacs() as pacs:
        deliver = await start(bus_site, pacs.pacs())
        request = gateway.request("item-1")
        await gateway.hand_over(request)
        await gateway.hand_over(gateway.revised(request, "confirm"))
        await until(lambda: len(gateway.reports) == 2)

        answer = await console.request(subjects.DELIVER_REPORT, Ask(argument="item-1"), ReportText | Refused, 10)

        assert isinstance(answer, ReportText)
        assert "dr.weber" in answer.text
        await deliver.stop()


async def test_a_destination_says_what_it_takes(bus_site):
    console = await bus_site.bus("console")
    with scripted_pacs() as pacs, fhir_server() as emr, receiver() as his:
        deliver = await start(bus_site, pacs.pacs("a", takes=["sr"]), emr.settings("b"), his.settings("c"))

        status = await console.request(subjects.DELIVER_STATUS, Ask(), Destinations, 10)

        assert {d.name: d.takes for d in status.destinations} == {"a": ["sr"], "b": ["fhir"], "c": ["oru"]}
        await deliver.stop()


async def test_a_class_the_pacs_does_not_accept_is_a_warning_that_says_what_to_do(bus_site):
    gateway = await Gateway(bus_site).start()
    with scripted_pacs(classes=(ComprehensiveSRStorage, SecondaryCaptureImageStorage)) as pacs:
        deliver = await start(bus_site, pacs.pacs("archive"))
        await gateway.hand_over(gateway.request("item-1"))
        await until(lambda: bool(gateway.reports))

        assert gateway.reports[0].state == "delivered"
        assert any("gsps, seg" in warning and "takes" in warning for warning in deliver.context.state().warnings)
        await deliver.stop()


# ---------------------------------------- dead letters


async def test_what_a_pacs_did_not_accept_is_a_dead_letter_and_is_sent_when_it_does(bus_site):
    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")

    async def status() -> Destinations:
        return await console.request(subjects.DELIVER_STATUS, Ask(), Destinations, 10)

    with scripted_pacs(classes=(ComprehensiveSRStorage, SecondaryCaptureImageStorage)) as pacs:
        deliver = await start(bus_site, pacs.pacs("archive"))
        await gateway.hand_over(gateway.request("item-1"))
        await until(lambda: bool(gateway.reports))
        before = await status()
        await deliver.stop()
    assert gateway.reports[0].state == "delivered"
    assert before.destinations[0].dead == 1
    assert [(one.item_id, one.reason) for one in before.dead] == [("item-1", "it does not accept: gsps, seg")]

    with scripted_pacs() as pacs:
        deliver = await start(bus_site, pacs.pacs("archive"))
        ask = Resend(by="x", item_id="item-1")
        assert await console.request(subjects.DELIVER_RESEND, ask, Resent | Refused, 10) == Resent(count=1)
        await until(lambda: len(gateway.reports) == 2)
        after = await status()
        await deliver.stop()

        assert len(pacs.held) == 2, "what it had is not sent again"
    assert (after.dead, after.destinations[0].confirmed) == ([], 1)
    assert len(gateway.reports[-1].sop_instance_uids) == 4


async def test_an_image_of_nobody_goes_to_the_pacs_alone_and_says_so(bus_site):
    gateway = await Gateway(bus_site).start()
    with scripted_pacs() as pacs, receiver() as his, fhir_server() as emr:
        deliver = await start(bus_site, pacs.pacs("archive"), his.settings("his"), emr.settings("emr"))
        await gateway.hand_over(gateway.request("item-1", PatientID=""))
        await until(lambda: len(gateway.reports) == 3)

        assert {r.destination: r.state for r in gateway.reports} == {
            "archive": "delivered",
            "his": "failed",
            "emr": "failed",
        }
        assert {r.reason for r in gateway.reports if r.state == "failed"} == {NO_PATIENT}
        assert (his.received, emr.of("DiagnosticReport")) == ([], [])
        await deliver.stop()


async def test_a_dead_letter_is_sent_again_when_somebody_asks_and_the_gateway_learns(bus_site, monkeypatch, caplog):
    monkeypatch.setattr("edgeward.clinic.imaging.destination.FIRST_PAUSE_S", 0.01)
    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")
    ill = [True]

    def reply(data, n):
        return acknowledge(data, "AR" if ill[0] else "AA")

    async def resend(**which) -> Message:
        return await console.request(subjects.DELIVER_RESEND, Resend(by="dr.weber", **which), Resent | Refused, 10)

    with receiver(reply=reply) as his, fhir_server() as emr:
        deliver = await start(bus_site, his.settings("his"), emr.settings("emr"))
        for n in range(2):
            await gateway.hand_over(gateway.request(f"item-{n}"))
        await until(lambda: len(gateway.reports) == 4)
        assert {r.state for r in gateway.reports if r.destination == "his"} == {"failed"}
        tried = len(his.received)

        assert await resend(destination="emr") == Resent(count=0)
        assert isinstance(await resend(destination="nowhere"), Refused)
        assert isinstance(await resend(item_id="item-77"), Refused)
        ill[0] = False
        assert await resend(item_id="item-1") == Resent(count=1)
        await until(lambda: len(gateway.reports) == 5)
        assert (gateway.reports[-1].item_id, gateway.reports[-1].state) == ("item-1", "delivered")
        assert await resend() == Resent(count=1)
        await until(lambda: len(gateway.reports) == 6)

        assert len(his.received) == tried + 2
        assert len(his.latest()) == 2, "the same control ids: once in effect"
        status = await console.request(subjects.DELIVER_STATUS, Ask(), Destinations, 10)
        assert status.dead == []
        await deliver.stop()
    assert any(record.__dict__.get("fields", {}).get("by") == "dr.weber" for record in caplog.records)


async def test_a_dead_letter_survives_a_restart_and_can_still_be_sent_again(bus_site, monkeypatch):
    monkeypatch.setattr("edgeward.clinic.imaging.destination.FIRST_PAUSE_S", 0.01)
    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")
    status = [0xC000]
    with scripted_pacs(answer=lambda dataset, n: status[0]) as pacs:
        deliver = await start(bus_site, pacs.pacs("archive"))
        await gateway.hand_over(gateway.request("item-1"))
        await until(lambda: bool(gateway.reports))
        await deliver.stop()

        status[0] = OK
        deliver = await start(bus_site, pacs.pacs("archive"))
        answer = await console.request(subjects.DELIVER_RESEND, Resend(by="x"), Resent | Refused, 10)
        assert answer == Resent(count=1)
        await until(lambda: gateway.reports[-1].state == "delivered")

        assert len(pacs.held) == 4
        await deliver.stop()


async def test_the_key_of_an_erased_image_is_forgotten_with_its_dead_letter(bus_site, monkeypatch):
    monkeypatch.setattr("edgeward.clinic.imaging.destination.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("edgeward.clinic.imaging.role._TIDY_EVERY_S", 0.1)
    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")
    with scripted_pacs(answer=lambda dataset, n: 0xC000) as pacs:
        deliver = await start(bus_site, pacs.pacs("archive"))
        request = gateway.request("item-1")
        await gateway.hand_over(request)
        await until(lambda: bool(gateway.reports))

        os.unlink(request.object.path)

        async def gone() -> bool:
            ask = Resend(by="x", item_id="item-1")
            return isinstance(await console.request(subjects.DELIVER_RESEND, ask, Resent | Refused, 10), Refused)

        async with asyncio.timeout(20):
            while not await gone():
                await until(lambda: len(gateway.reports) > 1)
                gateway.reports.pop()
        await deliver.stop()


async def test_the_dead_letter_of_an_image_in_a_segment_can_be_sent_again_after_a_restart(bus_site, monkeypatch):
    monkeypatch.setattr("edgeward.clinic.imaging.destination.FIRST_PAUSE_S", 0.01)
    gateway = await Gateway(bus_site).start()
    console = await bus_site.bus("console")
    status = [0xC000]
    with scripted_pacs(answer=lambda dataset, n: status[0]) as pacs:
        deliver = await start(bus_site, pacs.pacs("archive"))
        request = in_a_segment(gateway.request("item-1"))
        await gateway.hand_over(request)
        await until(lambda: bool(gateway.reports) and gateway.reports[-1].state == "failed")
        await deliver.stop()
        status[0] = OK

        deliver = await start(bus_site, pacs.pacs("archive"))
        answer = await console.request(subjects.DELIVER_RESEND, Resend(by="x"), Resent | Refused, 10)

        assert answer == Resent(count=1)
        await until(lambda: gateway.reports[-1].state == "delivered")
        await deliver.stop()


def in_a_segment(request):
    """Return the request with its object as the second of a file that many share."""
    alone = Path(request.object.path).read_bytes()
    shared = Path(request.object.path).with_suffix(SEGMENT)
    shared.write_bytes(bytes(4096) + alone)
    place = f"{shared}@4096+{len(alone)}"
    return msgspec.structs.replace(request, object=msgspec.structs.replace(request.object, path=place))


# ---------------------------------------- kill -9


@pytest.mark.fault
async def test_kill_9_between_two_objects_of_a_result_repeats_both_under_the_same_uids(bus_site):
    gateway = await Gateway(bus_site).start()
    release = threading.Event()

    def answer(dataset, n):
        if n == 1:  # the first segmentation: deliver dies while it waits for the answer
            release.wait(60)
        return OK

    with scripted_pacs(answer=answer) as pacs:
        first = await child(bus_site, pacs.pacs())
        await accepted(gateway, gateway.request("item-1"))
        await accepted(gateway, gateway.request("item-2"))
        await until(lambda: len(pacs.asked) == 2, 60)
        os.kill(first.pid, signal.SIGKILL)
        await first.wait()
        release.set()

        second = await child(bus_site, pacs.pacs())
        await until(lambda: len(gateway.reports) == 2, 60)
        second.send_signal(signal.SIGTERM)
        assert await second.wait() == 0

    assert pacs.asked[:2] == pacs.asked[2:4], "the repeat carries the same identifiers, in the same order"
    assert len(pacs.held) == 8
    assert {r.item_id: r.state for r in gateway.reports} == {"item-1": "delivered", "item-2": "delivered"}
    assert {uid for r in gateway.reports for uid in r.sop_instance_uids} == set(pacs.held)


@pytest.mark.fault
async def test_kill_9_while_the_pacs_is_down_loses_nothing(bus_site):
    gateway = await Gateway(bus_site).start()
    port = free_port()
    with scripted_pacs(port=port) as pacs:
        pacs.stop()
        first = await child(bus_site, pacs.pacs())
        for n in range(3):
            await accepted(gateway, gateway.request(f"item-{n}"))
        os.kill(first.pid, signal.SIGKILL)
        await first.wait()

        second = await child(bus_site, pacs.pacs())
        pacs.start()
        await until(lambda: len(gateway.reports) == 3, 60)
        second.send_signal(signal.SIGTERM)
        await second.wait()

    assert len(pacs.held) == 12
    assert all(report.state == "delivered" for report in gateway.reports)
