"""The dispatcher drives every admitted item to its one end, over a real bus, with stand-ins for engine and deliver."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.site import TestSite

from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.bus.role import RoleContext
from edgeward.config import Pacs
from edgeward.gateway import dispatch as dispatch_module
from edgeward.gateway.dispatch import CRASHED, MAX_CRASHES, Dispatcher
from edgeward.gateway.quarantine import Quarantine
from edgeward.messages import (
    DeliverRequest,
    DeliveryReport,
    Finding,
    ItemSummary,
    Message,
    Ok,
    Refused,
    RoleState,
    StageTime,
    WorkBusy,
    WorkDone,
    WorkFailed,
    WorkRequest,
)
from edgeward.privacy.items import NO_DESTINATION, Identity, Item, NewItem
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault, read

Answer = Callable[[WorkRequest], Awaitable[Message]]


def done(request: WorkRequest, number: int = 1) -> WorkDone:
    finding = Finding(
        finding_id=f"{request.item_id}-{number}",
        item_id=request.item_id,
        sop_instance_uid=request.sop_instance_uid,
        status="analysed",
        model="m",
        model_version="1",
        stages=[StageTime(name="infer", ms=1.0)],
    )
    return WorkDone(finding=finding, preview=b"jpeg", preview_scale=0.5)


@dataclass
class EngineDouble:
    """Serves image work like the engine does, and answers as the test says."""

    bus: Bus
    answer: Answer
    asked: list[WorkRequest] = field(default_factory=list)
    pid: int = 1
    started_ns: int = 1

    async def start(self, node: str) -> None:
        async def take(request: WorkRequest) -> Message:
            self.asked.append(request)
            return await self.answer(request)

        await self.bus.serve(subjects.work_image(node), WorkRequest, take)
        await self.bus.serve(subjects.WORK_IMAGE_ANY, WorkRequest, take, subjects.ENGINES)
        await self.bus.flush()

    async def beat(self) -> None:
        state = RoleState(
            role="engine", node="node1", pid=self.pid, at_ns=time.time_ns(), started_ns=self.started_ns, status="ready"
        )
        await self.bus.publish(subjects.role_state("engine"), state)
        await self.bus.flush()

    async def die_and_return(self) -> None:
        """What the gateway sees of a crash: the next heartbeat comes from another process."""
        self.pid += 1
        self.started_ns += 1
        await self.beat()


@dataclass
class Work:
    """A dispatcher with everything around it."""

    site: TestSite
    context: RoleContext
    journal: Journal
    vault: FileVault
    quarantine: Quarantine
    dispatcher: Dispatcher
    engine: EngineDouble
    deliver: Bus
    accepted: list[DeliverRequest] = field(default_factory=list)
    count: int = 0

    def admit(self, budget_ms: float = 60_000, **changes: object) -> Item:
        """Admit an item as the DICOM door does."""
        self.count += 1
        now = time.time_ns()
        stored = self.vault.put(f"frame {self.count}".encode())
        values: dict[str, object] = {
            "item_id": f"item{self.count}",
            "received_ns": now,
            "deadline_ns": now + round(budget_ms * 1e6),
            "stored_ns": now,
            "device": "us1",
            "modality": "US",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.6.1",
            "sop_instance_uid": f"1.2.{self.count}",
            "study_instance_uid": "1.2",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "digest": os.urandom(32),
            "stored": stored,
            "identity": Identity(patient_name="X^Y"),
        }
        item, _ = self.journal.admit(NewItem(**values | changes))  # type: ignore[arg-type]
        return item

    async def serve_deliver(self, report: bool = True, refuse: int = 0) -> None:
        left = refuse

        async def accept(request: DeliverRequest) -> Message:
            nonlocal left
            if left:
                left -= 1
                return Refused(reason="the ledger is full")
            self.accepted.append(request)
            if report:
                self.reports.append(asyncio.create_task(self.report(request.item_id)))
            return Ok()

        self.reports: list[asyncio.Task[Message]] = []
        await self.deliver.serve(subjects.DELIVER_ACCEPT, DeliverRequest, accept, subjects.DELIVERS)
        await self.deliver.flush()

    async def report(
        self, item_id: str, destination: str = "pacs", state: str = "delivered", **more: object
    ) -> Message:
        report = DeliveryReport(
            item_id=item_id,
            destination=destination,
            state=state,
            stored_ns=time.time_ns(),
            **more,  # type: ignore[arg-type]
        )
        answer: Message = await self.deliver.request(subjects.GATEWAY_DELIVERY, report, Ok | Refused, 5.0)
        return answer

    async def state(self, item: Item, *states: str, seconds: float = 15.0) -> Item:
        """Wait until an item is in one of these states."""
        async with asyncio.timeout(seconds):
            while True:
                now = self.journal.item(item.item_id)
                if now.state in states:
                    return now
                await asyncio.sleep(0.01)


@asynccontextmanager
async def working(site: TestSite, answer: Answer, pacs: tuple[str, ...] = ("pacs",)) -> AsyncIterator[Work]:
    site.settings.pacs = [Pacs(name=name, host="127.0.0.1", port=104, ae_title="P") for name in pacs]
    context = await site.context("gateway")
    key = SiteKey.load(site.home)
    journal, vault = Journal(site.home.db("journal"), key), FileVault(site.home.vault, key)
    quarantine = Quarantine(journal)
    dispatcher = Dispatcher(context, journal, vault, quarantine)
    engine = EngineDouble(await site.bus("engine"), answer)
    await engine.start(context.node)
    work = Work(site, context, journal, vault, quarantine, dispatcher, engine, await site.bus("deliver"))
    try:
        yield work
    finally:
        await dispatcher.stop()
        journal.close()


async def answer_done(request: WorkRequest) -> Message:
    return done(request)


async def test_an_item_is_analysed_handed_over_delivered_and_closed(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done) as work:
        console = await bus_site.bus("console")
        heard: list[tuple[str, ItemSummary]] = []

        async def hear(subject: str, summary: ItemSummary) -> None:
            heard.append((subject.split(".")[0], summary))

        await console.subscribe(subjects.FINDING_ALL, ItemSummary, hear)
        await console.subscribe(subjects.ITEM_STATE_ALL, ItemSummary, hear)
        await console.flush()
        await work.serve_deliver()
        await work.dispatcher.start()
        item = work.admit()

        work.dispatcher.admitted(item, True)
        closed = await work.state(item, "closed")

        request = work.engine.asked[0]
        assert read(request.object.path, request.object.data_key) == b"frame 1"
        assert (request.attempt, request.deadline_ns) == (1, item.deadline_ns)
        assert closed.delivered_ns > 0
        found = work.journal.preview(item.item_id)
        assert found is not None
        reference = work.vault.reference(*found[:3])
        assert read(reference.path, reference.data_key) == b"jpeg"
        async with asyncio.timeout(5):
            while not heard or heard[-1][1].state != "closed":
                await asyncio.sleep(0.01)
        assert heard[0][0] == "finding"
        assert heard[0][1].finding is not None
        assert heard[0][1].patient_name == "X^Y"
        assert {"interactive/total", "interactive/receive", "interactive/wait", "interactive/engine"} <= set(
            work.context.stats.stages()
        )
        assert work.context.stats.counters["closed"] == 1


async def test_the_state_that_is_told_last_is_the_last(bus_site: TestSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when whoever looked it up first was held up with it: on a busy machine another one comes in between."""
    async with working(bus_site, answer_done) as work:
        console, heard = await bus_site.bus("console"), list[str]()

        async def hear(_: str, summary: ItemSummary) -> None:
            heard.append(summary.state)

        await console.subscribe(subjects.ITEM_STATE_ALL, ItemSummary, hear)
        await console.flush()
        real, looked = work.journal.summary, threading.Event()

        def summary(item_id: str, now_ns: int) -> ItemSummary | None:
            found = real(item_id, now_ns)
            if not looked.is_set():
                looked.set()
                time.sleep(0.5)
            return found

        monkeypatch.setattr(work.journal, "summary", summary)
        item = work.admit()
        before = asyncio.create_task(work.dispatcher._tell(item.item_id))
        await asyncio.to_thread(looked.wait, 20)
        work.journal.closed(item.item_id, "")

        await asyncio.gather(before, work.dispatcher._tell(item.item_id))

        async with asyncio.timeout(20):
            while len(heard) < 2:
                await asyncio.sleep(0.01)
        assert heard == ["admitted", "closed"]


async def test_without_a_destination_an_item_is_closed_and_that_is_visible(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done, pacs=()) as work:
        await work.serve_deliver(report=False)
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)

        assert (await work.state(item, "closed")).reason == NO_DESTINATION
        assert any("no destination" in warning for warning in work.context.stats.warnings)


async def test_open_rows_are_driven_at_the_start_wherever_they_were(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done) as work:
        fresh, dispatched, analysed = work.admit(), work.admit(), work.admit()
        work.journal.dispatched(dispatched.item_id, 1)
        request = WorkRequest(
            item_id=analysed.item_id,
            trace_id="",
            service_class="interactive",  # type: ignore[arg-type]
            received_ns=0,
            deadline_ns=0,
            attempt=1,
            object=work.vault.reference(analysed.object_id, analysed.wrapped_key, analysed.size),
            sop_class_uid="",
            sop_instance_uid="",
            transfer_syntax_uid="",
        )
        work.journal.analysed(analysed.item_id, done(request).finding, None, 1.0, time.time_ns())
        await work.serve_deliver()

        await work.dispatcher.start()

        for item in (fresh, dispatched, analysed):
            await work.state(item, "closed")
        assert {asked.item_id for asked in work.engine.asked} == {fresh.item_id, dispatched.item_id}
        assert {request.item_id for request in work.accepted} == {
            item.item_id for item in (fresh, dispatched, analysed)
        }


async def test_a_busy_engine_makes_it_ask_any_other_at_once_and_then_wait(bus_site: TestSite) -> None:
    async def answer(request: WorkRequest) -> Message:
        return done(request) if request.attempt > 3 else WorkBusy(reason="full", free_in_ms=20.0)

    async with working(bus_site, answer) as work:
        await work.serve_deliver()
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)

        await work.state(item, "closed")

        assert [asked.attempt for asked in work.engine.asked] == [1, 2, 3, 4]
        assert work.journal.item(item.item_id).attempts == 4


async def test_a_file_no_engine_can_read_fails_with_its_reason_and_is_shown(bus_site: TestSite) -> None:
    async def answer(request: WorkRequest) -> Message:
        return WorkFailed(reason="the pixel data is truncated", retryable=False)

    async with working(bus_site, answer) as work:
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)

        failed = await work.state(item, "failed")

        assert failed.reason == "the pixel data is truncated"
        assert len(work.engine.asked) == 1
        (entry,) = work.quarantine.entries()
        assert (entry.where, entry.peer) == ("engine", "us1")
        assert "truncated" in entry.reason


async def test_a_passing_failure_is_tried_again(bus_site: TestSite) -> None:
    async def answer(request: WorkRequest) -> Message:
        return done(request) if request.attempt == 3 else WorkFailed(reason="hiccup", retryable=True)

    async with working(bus_site, answer) as work:
        await work.serve_deliver()
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await work.state(item, "closed")


async def test_a_failure_that_does_not_pass_ends_the_item(bus_site: TestSite) -> None:
    async def answer(request: WorkRequest) -> Message:
        return (
            Refused(reason="ValueError: something") if request.attempt % 2 else WorkFailed(reason="no", retryable=True)
        )

    async with working(bus_site, answer) as work:
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        assert (await work.state(item, "failed")).reason


async def test_no_engine_means_waiting_not_losing(bus_site: TestSite) -> None:
    site = bus_site
    async with working(site, answer_done) as work:
        await work.engine.bus.close()
        site.buses.remove(work.engine.bus)
        await work.serve_deliver()
        await work.dispatcher.start()
        items = [work.admit() for _ in range(30)]
        for item in items:
            work.dispatcher.admitted(item, True)
        await asyncio.sleep(0.5)
        assert all(work.journal.item(item.item_id).open for item in items)

        back = EngineDouble(await site.bus("engine"), answer_done)
        await back.start(work.context.node)
        await back.beat()

        for item in items:
            await work.state(item, "closed")


async def test_an_engine_that_dies_with_an_item_is_noticed_and_the_item_analysed_by_the_next(
    bus_site: TestSite,
) -> None:
    never = asyncio.Event()

    async def answer(request: WorkRequest) -> Message:
        if work.engine.pid == 1:
            await never.wait()
        return done(request)

    async with working(bus_site, answer) as work:
        await work.serve_deliver()
        await work.dispatcher.start()
        await work.engine.beat()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await work.state(item, "dispatched")
        async with asyncio.timeout(15):
            while not work.engine.asked:
                await asyncio.sleep(0.01)

        await work.engine.die_and_return()

        closed = await work.state(item, "closed")
        assert closed.crashes == 1
        never.set()


async def test_engines_that_go_on_dying_with_an_object_end_it_and_the_others_are_analysed(
    bus_site: TestSite,
) -> None:
    never = asyncio.Event()
    deaths: set[asyncio.Task[None]] = set()

    async def answer(request: WorkRequest) -> Message:
        if request.item_id == "item3":
            deaths.add(asyncio.create_task(work.engine.die_and_return()))
        if request.item_id == "item3" or work.journal.item("item3").state != "failed":
            await asyncio.wait_for(never.wait(), 0.6 if request.item_id != "item3" else None)
        return done(request)

    async def patient(request: WorkRequest) -> Message:
        try:
            return await answer(request)
        except TimeoutError:
            return done(request)

    async with working(bus_site, patient) as work:
        await work.serve_deliver()
        await work.dispatcher.start()
        await work.engine.beat()
        items = [work.admit() for _ in range(8)]
        for item in items:
            work.dispatcher.admitted(item, True)

        poison = await work.state(items[2], "failed", seconds=90)
        for item in items[:2] + items[3:]:
            await work.state(item, "closed", seconds=30)

        assert poison.reason == CRASHED
        assert poison.crashes == MAX_CRASHES
        asked = [request for request in work.engine.asked if request.item_id == "item3"]
        assert [request.isolate for request in asked] == [False] + [True] * (MAX_CRASHES - 1)
        assert all(work.journal.item(item.item_id).crashes <= 1 for item in items if item.item_id != "item3")
        never.set()


async def test_an_answer_lost_with_the_bus_is_asked_for_again(bus_site: TestSite) -> None:
    never = asyncio.Event()

    async def answer(request: WorkRequest) -> Message:
        if len(work.engine.asked) == 1:
            await never.wait()
        return done(request)

    async with working(bus_site, answer) as work:
        await work.serve_deliver()
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await work.state(item, "dispatched")

        await bus_site.kill_bus()
        await bus_site.start_bus()

        closed = await work.state(item, "closed", seconds=30)
        assert closed.crashes == 0
        never.set()


async def test_deliver_away_or_unwilling_means_handing_over_later_once(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done) as work:
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await work.state(item, "analysed")
        await asyncio.sleep(0.3)
        assert not work.journal.item(item.item_id).handed_ns

        await work.serve_deliver(refuse=2)

        await work.state(item, "closed")
        assert len(work.accepted) == 1


async def test_a_result_nobody_reports_on_is_handed_over_again(bus_site: TestSite, monkeypatch) -> None:
    monkeypatch.setattr(dispatch_module, "_UNREPORTED_S", 0.2)
    monkeypatch.setattr(dispatch_module, "_SWEEP_S", 0.05)
    async with working(bus_site, answer_done) as work:
        await work.serve_deliver(report=False)
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        async with asyncio.timeout(15):
            while len(work.accepted) < 2:
                await asyncio.sleep(0.02)

        assert await work.report(item.item_id) == Ok()

        await work.state(item, "closed")


async def test_one_destination_that_refuses_makes_the_item_failed_with_its_name(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done, pacs=("pacs", "archive")) as work:
        await work.serve_deliver()
        await work.dispatcher.start()
        item = work.admit()
        work.dispatcher.admitted(item, True)
        await work.state(item, "analysed")

        assert await work.report(item.item_id, "archive", "failed", reason="SOP class not supported") == Ok()

        failed = await work.state(item, "failed")
        assert failed.reason == "not delivered to archive: SOP class not supported"


async def test_a_report_on_an_unknown_item_is_refused(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done) as work:
        await work.dispatcher.start()
        assert isinstance(await work.report("nobody"), Refused)


@asynccontextmanager
async def sweeping(work: Work, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The sweep, which was put off until now, comes often."""
    patch.setattr(dispatch_module, "_SWEEP_S", 0.05)
    sweep = asyncio.create_task(work.dispatcher._sweep())
    yield
    sweep.cancel()
    await asyncio.gather(sweep, return_exceptions=True)


async def test_late_is_counted_once_and_put_down_to_a_stage(
    bus_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_module, "_SWEEP_S", 600.0)  # or it finds the item in another stage by chance

    async def slow(request: WorkRequest) -> Message:
        await asyncio.sleep(1.0)
        return done(request)

    async with working(bus_site, slow) as work:
        await work.serve_deliver()
        await work.dispatcher.start()
        item = work.admit(budget_ms=50)
        work.dispatcher.admitted(item, True)
        await work.state(item, "closed")
        async with asyncio.timeout(10):
            while not work.journal.item(item.item_id).late:
                await asyncio.sleep(0.02)
        async with sweeping(work, monkeypatch):
            await asyncio.sleep(0.5)  # nothing may happen

        assert work.context.stats.budgets == {"interactive": 1}
        assert list(work.context.stats.missed_by) in (["interactive/engine.rest"], ["interactive/engine"])


async def test_an_item_still_open_past_its_deadline_is_counted_late_already(
    bus_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_module, "_SWEEP_S", 600.0)
    never = asyncio.Event()

    async def answer(request: WorkRequest) -> Message:
        await never.wait()
        return done(request)

    async with working(bus_site, answer) as work:
        await work.dispatcher.start()
        item = work.admit(budget_ms=50)
        work.dispatcher.admitted(item, True)
        await work.state(item, "dispatched")
        async with sweeping(work, monkeypatch), asyncio.timeout(10):
            while not work.context.stats.missed_by:
                await asyncio.sleep(0.02)

        assert work.journal.item(item.item_id).late
        assert work.context.stats.missed_by == {"interactive/engine": 1}
        never.set()


async def test_an_erased_object_fails_its_item(bus_site: TestSite) -> None:
    async with working(bus_site, answer_done) as work:
        item = work.admit()
        work.journal._db.write(lambda db: db.execute("UPDATE items SET wrapped_key = NULL"))
        await work.dispatcher.start()

        assert "erased" in (await work.state(item, "failed")).reason


@pytest.mark.parametrize("count", [100])
async def test_a_burst_is_driven_through_without_losing_one(bus_site: TestSite, count: int, tmp_path: Path) -> None:
    async with working(bus_site, answer_done) as work:
        await work.serve_deliver()
        await work.dispatcher.start()
        items = [work.admit() for _ in range(count)]
        for item in items:
            work.dispatcher.admitted(item, True)

        for item in items:
            await work.state(item, "closed", seconds=60)

        assert work.journal.counts()["closed"] == count
        assert sorted(request.item_id for request in work.accepted) == sorted(item.item_id for item in items)
