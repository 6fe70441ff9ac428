"""A verdict is an admitted item like any other: it makes a revision that is handed over once, in order, after crashes."""

from __future__ import annotations

import asyncio
import time

from msgspec import structs
from tests.gateway.test_dispatch import Work, answer_done, done, working
from tests.support.site import TestSite

from edgeward.bus import subjects
from edgeward.gateway import dispatch as dispatch_module
from edgeward.gateway.dispatch import ERASED, NOT_AN_IMAGE
from edgeward.messages import DeliverRequest, DeliveryReport, Message, Ok, Refused, Verdict, WorkRequest
from edgeward.privacy.items import Item

SR = "1.2.840.10008.5.1.4.1.1.88.33"


def verdict(item: Item, number: int, action: str = "confirm") -> Verdict:
    return Verdict(
        verdict_id=f"{item.item_id}.v{number}",
        item_id=item.item_id,
        finding_id=f"{item.item_id}-1",
        action=action,  # type: ignore[arg-type]
        by="dr.no",
        at_ns=number,
    )


def decide(work: Work, item: Item, number: int) -> Verdict:
    """What the gateway's service does with a verdict."""
    made = verdict(item, number)
    assert work.journal.verdict(made, time.time_ns()) == number
    work.dispatcher.decided(made)
    return made


async def serve_deliver(work: Work, hold: asyncio.Event | None = None) -> None:
    """A deliver that takes everything and reports what it is told to."""

    async def accept(request: DeliverRequest) -> Message:
        if hold is not None and not hold.is_set():
            return Refused(reason="not now")
        work.accepted.append(request)
        return Ok()

    await work.deliver.serve(subjects.DELIVER_ACCEPT, DeliverRequest, accept, subjects.DELIVERS)
    await work.deliver.flush()


async def report(work: Work, item: Item, revision: int, state: str = "delivered", **more: object) -> Message:
    return await work.report(item.item_id, state=state, revision=revision, **more)


async def accepted(work: Work, count: int) -> list[DeliverRequest]:
    async with asyncio.timeout(20):
        while len(work.accepted) < count:
            await asyncio.sleep(0.01)
    return work.accepted


async def test_a_verdict_is_handed_over_as_a_new_revision_with_all_verdicts_so_far(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done) as work:
        await serve_deliver(work)
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await accepted(work, 1)
        await report(work, item, 0)
        await work.state(item, "closed")

        first = decide(work, item, 1)
        await accepted(work, 2)
        second = decide(work, item, 2)
        requests = await accepted(work, 3)

        assert [request.revision for request in requests] == [0, 1, 2]
        assert [request.verdicts for request in requests] == [[], [first], [first, second]]
        assert {request.study_instance_uid for request in requests} == {"1.2"}
        assert requests[1].received_ns > requests[0].received_ns
        assert work.journal.item(item.item_id).state == "closed"  # a verdict does not open it again
        for revision in (1, 2):
            assert await report(work, item, revision) == Ok()
        assert work.journal.due(item.item_id, time.time_ns() + 1) == []


async def test_a_verdict_before_the_first_result_was_taken_waits_for_it(bus_site: TestSite) -> None:
    willing = asyncio.Event()
    async with working(bus_site, answer_done) as work:
        await serve_deliver(work, willing)
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await work.state(item, "analysed")

        decide(work, item, 1)
        willing.set()

        assert [request.revision for request in await accepted(work, 2)] == [0, 1]


async def test_verdicts_kept_before_a_crash_are_handed_over_after_it(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done) as work:
        items = [work.admit() for _ in range(3)]
        for item in items:
            request = structs.replace(
                await_free_request(work, item), item_id=item.item_id, sop_instance_uid=item.sop_instance_uid
            )
            work.journal.analysed(item.item_id, done(request).finding, None, 1.0, time.time_ns())
        work.journal.handed(items[0].item_id, ["pacs"], 1)
        work.journal.delivery(DeliveryReport(item_id=items[0].item_id, destination="pacs", state="delivered"))
        work.journal.handed(items[1].item_id, ["pacs"], time.time_ns())
        for item in items:  # nobody was told of these: the process died in that moment
            work.journal.verdict(verdict(item, 1), 5)
        await serve_deliver(work)

        await work.dispatcher.start()

        requests = await accepted(work, 4)
        handed = sorted((request.item_id, request.revision) for request in requests)
        assert handed == [("item1", 1), ("item2", 1), ("item3", 0), ("item3", 1)]


def await_free_request(work: Work, item: Item) -> WorkRequest:
    return WorkRequest(
        item_id=item.item_id,
        trace_id="",
        service_class="interactive",  # type: ignore[arg-type]
        received_ns=0,
        deadline_ns=0,
        attempt=1,
        object=work.vault.reference(item.object_id, item.wrapped_key, item.size),
        sop_class_uid="",
        sop_instance_uid="",
        transfer_syntax_uid="",
    )


async def test_a_revision_nobody_reports_on_is_handed_over_again(bus_site: TestSite, monkeypatch) -> None:
    monkeypatch.setattr(dispatch_module, "_UNREPORTED_S", 0.2)
    monkeypatch.setattr(dispatch_module, "_SWEEP_S", 0.05)
    async with working(bus_site, answer_done) as work:
        await serve_deliver(work)
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await accepted(work, 1)
        await report(work, item, 0)
        decide(work, item, 1)

        async with asyncio.timeout(20):
            while sum(request.revision == 1 for request in work.accepted) < 2:
                await asyncio.sleep(0.02)
        await report(work, item, 1)

        assert work.journal.items_due(time.time_ns()) == []


async def test_a_verdict_that_does_not_arrive_fails_the_item_until_it_is_sent_again(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done) as work:
        await serve_deliver(work)
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await accepted(work, 1)
        await report(work, item, 0)
        decide(work, item, 1)
        await accepted(work, 2)

        await report(work, item, 1, "failed", reason="refused")
        failed = await work.state(item, "failed")
        assert failed.reason == "verdict 1 not delivered to pacs: refused"
        assert work.quarantine.entries()[0].item_id == item.item_id

        await report(work, item, 1)
        closed = await work.state(item, "closed")
        assert (closed.reason, closed.delivered_ns > 0) == ("", True)


async def test_a_verdict_on_an_erased_object_ends_visibly(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done) as work:
        await serve_deliver(work)
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await accepted(work, 1)
        await report(work, item, 0)
        await work.state(item, "closed")
        work.journal._db.write(lambda db: db.execute("UPDATE items SET wrapped_key = NULL"))

        decide(work, item, 1)

        assert (await work.state(item, "failed")).reason == f"verdict 1 not delivered to pacs: {ERASED}"
        assert work.journal.items_due(time.time_ns() + 10**12) == []


async def test_without_destinations_a_verdict_is_settled(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done, pacs=()) as work:
        await serve_deliver(work)
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await work.state(item, "closed")

        decide(work, item, 1)

        await accepted(work, 2)
        async with asyncio.timeout(10):
            while work.journal.items_due(time.time_ns() + 10**12):
                await asyncio.sleep(0.01)
        assert work.journal.item(item.item_id).state == "closed"


async def test_a_destination_that_was_taken_out_is_not_waited_for(bus_site: TestSite, monkeypatch) -> None:
    monkeypatch.setattr(dispatch_module, "_UNREPORTED_S", 0.2)
    monkeypatch.setattr(dispatch_module, "_SWEEP_S", 0.05)
    async with working(bus_site, answer_done, pacs=("pacs",)) as work:
        item = work.admit()
        request = await_free_request(work, item)
        work.journal.analysed(item.item_id, done(request).finding, None, 1.0, 5)
        work.journal.handed(item.item_id, ["gone", "pacs"], 5)  # by the settings of yesterday
        work.journal.delivery(DeliveryReport(item_id=item.item_id, destination="pacs", state="delivered"))
        assert work.journal.item(item.item_id).open
        await serve_deliver(work)

        await work.dispatcher.start()

        await work.state(item, "closed")


async def test_an_object_without_pixels_is_kept_without_asking_an_engine(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done) as work:
        await serve_deliver(work)
        await work.dispatcher.start()
        report_object = work.admit(sop_class_uid=SR, rows=0)
        private = work.admit(sop_class_uid="1.2.3.4.5", rows=0)
        broken_image = work.admit(rows=0)
        unknown = work.admit(sop_class_uid="1.2.3.4.5", rows=512)
        for item in (report_object, private, broken_image, unknown):
            work.dispatcher.admitted(item, True)

        for item in (report_object, private):
            assert (await work.state(item, "closed")).reason == NOT_AN_IMAGE
        await accepted(work, 2)

        # An image class without rows is for the engine to refuse: it must not vanish among what is kept.
        assert sorted(asked.item_id for asked in work.engine.asked) == [broken_image.item_id, unknown.item_id]
        assert work.journal.counts()["closed"] == 2


async def test_a_finding_out_of_scope_is_closed_and_nothing_is_sent(bus_site: TestSite) -> None:
    async def answer(request: WorkRequest) -> Message:
        found = done(request)
        return structs.replace(
            found,
            finding=structs.replace(
                found.finding, status="not_analysed", in_scope=False, reason="a CT image: not this model's"
            ),
        )

    async with working(bus_site, answer) as work:
        await serve_deliver(work)
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)

        closed = await work.state(item, "closed")
        decide(work, item, 1)
        await asyncio.sleep(0.3)  # nothing may happen: there is no condition to wait for

        assert (closed.reason, work.accepted) == ("a CT image: not this model's", [])
        assert work.journal.items_due(time.time_ns() + 10**12) == []


async def test_two_destinations_are_settled_revision_by_revision(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done, pacs=("pacs", "archive")) as work:
        await serve_deliver(work)
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await accepted(work, 1)
        decide(work, item, 1)
        await accepted(work, 2)

        await report(work, item, 0)
        await report(work, item, 1)  # pacs has both; archive is slow
        assert work.journal.item(item.item_id).open
        await work.report(item.item_id, "archive", "failed", reason="full", revision=1)
        assert work.journal.item(item.item_id).open
        await work.report(item.item_id, "archive", revision=0)

        failed = await work.state(item, "failed")
        assert failed.reason == "verdict 1 not delivered to archive: full"
