"""The dispatcher: drives every open row of the journal to its end, again and again if need be.

Responsible for asking engines, keeping findings, handing every revision of a result over to `deliver` (the finding
first, then one for each verdict), and for the account of time. It trusts no queue: what did not come back is driven
again, and everything it does may be done twice. Not responsible for receiving objects, for analysing or for delivering
them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pydicom.uid import UID

from edgeward import log
from edgeward.bus import subjects
from edgeward.bus.client import BusError, NoAnswer
from edgeward.bus.role import RoleContext
from edgeward.bus.tasks import end
from edgeward.gateway.engines import Engines, Gate, Lost
from edgeward.gateway.lateness import explain, stuck_in
from edgeward.gateway.quarantine import Quarantine
from edgeward.messages import (
    DeliverRequest,
    DeliveryReport,
    Message,
    MessageError,
    Ok,
    Refused,
    ServiceClass,
    Verdict,
    WorkBusy,
    WorkDone,
    WorkFailed,
    WorkRequest,
)
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.items import Item
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import WrongKey
from edgeward.privacy.vault import Vault, VaultError

_log = logging.getLogger("edgeward.gateway.dispatch")
T = TypeVar("T")

CRASHED = "analysis crashed the engine"
NOT_AN_IMAGE = "not an image: kept"
ERASED = "the object was erased before its result was delivered"
# From its first crash on, an object is analysed in a process of its own: if it is what kills, the engine lives and says
# so. Engines that go on dying are killed by something else; this is where even that ends.
MAX_CRASHES = 10
_MAX_FAILURES = 5  # retryable failures of a living engine
_BACKOFF_S = (0.05, 2.0)
_HAND_OVER_S = (0.1, 5.0)
_ACCEPT_S = 5.0
_HAND_OVERS = 4  # at once
_SWEEP_S = 1.0
_REDRIVE_EVERY = 5  # sweeps
_UNREPORTED_S = 60.0


class Dispatcher:
    """The running dispatcher. Lives in the event loop; journal and vault are used in threads of its own."""

    def __init__(self, context: RoleContext, journal: Journal, vault: Vault, quarantine: Quarantine) -> None:
        self._context, self._journal, self._vault, self._quarantine = context, journal, vault, quarantine
        self._bus, self._stats = context.bus, context.stats
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(4, thread_name_prefix="journal")
        self._engines, self._gate = Engines(context.bus), Gate()
        self._to_analyse: asyncio.Queue[str] = asyncio.Queue()
        self._to_hand_over: asyncio.Queue[str] = asyncio.Queue()
        self._driven: set[str] = set()  # in one of the queues, or in work
        self._again: dict[str, asyncio.Queue[str]] = {}  # to be driven once more when that work is done
        self._budget_ns = round(context.settings.budgets.interactive_ms * 1e6)
        self._destinations = context.settings.destinations
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by item

    async def start(self) -> None:
        """Take up every open row, then drive."""
        await self._engines.start()
        await self._bus.serve(subjects.GATEWAY_DELIVERY, DeliveryReport, self._reported, subjects.GATEWAYS)
        await self._bus.flush()  # from here on no heartbeat and no report goes past us
        await self._redrive()
        analysing = [self._work(self._to_analyse, self._analyse) for _ in range(self._context.settings.engine.queue)]
        handing = [self._work(self._to_hand_over, self._hand_over) for _ in range(_HAND_OVERS)]
        for work in (*analysing, *handing, self._sweep()):
            self._spawn(work)

    async def stop(self) -> None:
        """Stop at once; open rows are taken up at the next start."""
        await end(self._tasks)
        self._disk.shutdown(wait=True)

    def admitted(self, item: Item, is_new: bool) -> None:
        """Take an item that was just admitted. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._admitted, item, is_new)

    def _admitted(self, item: Item, is_new: bool) -> None:
        if not is_new:
            self._stats.count("repeated")
            return
        self._stats.count("admitted")
        self._stage("receive", item.stored_ns - item.received_ns)
        if item.open:
            self._drive(item.item_id, self._to_analyse)
        else:
            self._stats.count("failed")
            self._spawn(self._tell(item.item_id))

    def _drive(self, item_id: str, queue: asyncio.Queue[str]) -> None:
        if item_id in self._driven:
            self._again[item_id] = queue
            return
        self._driven.add(item_id)
        queue.put_nowait(item_id)

    async def _work(self, queue: asyncio.Queue[str], drive: Callable[[str], Awaitable[bool]]) -> None:
        while True:
            item_id = await queue.get()
            log.trace_id.set(item_id)
            analysed = False
            try:
                analysed = await drive(item_id)
            except DatabaseError as error:
                _log.warning("set back for a while: %s", error)
            except Exception:
                _log.exception("driving an item failed; it is driven again")
            finally:
                self._driven.discard(item_id)
                again = self._again.pop(item_id, None)
            if analysed:
                again = self._to_hand_over
            if again is not None:
                self._drive(item_id, again)

    # ------------------------------------------------------------ analysis

    async def _analyse(self, item_id: str) -> bool:
        """Drive an item until there is a finding (True) or its end (False)."""
        item = await self._on_disk(self._journal.item, item_id)
        if item.state in ("admitted", "dispatched") and not may_have_pixels(item):
            await self._close(item_id, NOT_AN_IMAGE)
            return False
        asked = failures = 0
        while item.state in ("admitted", "dispatched"):
            async with self._gate.enter(alone=item.crashes > 0):
                asked += 1
                answer = await self._ask(item, asked)
            if isinstance(answer, WorkDone):
                await self._keep(item, answer)
                return True
            if isinstance(answer, WorkFailed):
                failures += 1
                if not answer.retryable or failures >= _MAX_FAILURES:
                    await self._fail(item, answer.reason)
                    return False
            if isinstance(answer, Lost) and answer.crashed:
                item = await self._on_disk(self._journal.crashed, item_id)
                self._stats.count("engine_crashes_seen")
                _log.warning("the engine died with this item in its hands (%d of %d)", item.crashes, MAX_CRASHES)
                if item.crashes >= MAX_CRASHES:
                    await self._fail(item, CRASHED)
                    return False
            await self._pause(asked, answer)
        return item.state == "analysed" and not item.handed_ns

    async def _ask(self, item: Item, asked: int) -> WorkDone | WorkBusy | WorkFailed | Lost:
        now = time.time_ns()
        try:
            reference = self._vault.reference(item.object_id, item.wrapped_key, item.size)
        except WrongKey:
            return WorkFailed(reason="the object was erased, or its key is damaged", retryable=False)
        request = WorkRequest(
            item_id=item.item_id,
            trace_id=item.item_id,
            service_class=ServiceClass.INTERACTIVE,
            received_ns=item.received_ns,
            deadline_ns=item.deadline_ns,
            attempt=asked,
            isolate=item.crashes > 0,
            object=reference,
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            transfer_syntax_uid=item.transfer_syntax_uid,
        )
        # Our own node first, then whoever is free. The note in the journal reaches the disk while the engine works.
        subject = subjects.work_image(self._context.node) if asked % 2 else subjects.WORK_IMAGE_ANY
        noted = self._loop.run_in_executor(self._disk, self._journal.dispatched, item.item_id, now)
        answer = await self._engines.ask(subject, request)
        try:
            await noted
        except DatabaseError as error:
            _log.warning("the journal could not note the dispatch: %s", error)
        return answer

    async def _pause(self, asked: int, answer: WorkBusy | WorkFailed | Lost) -> None:
        if isinstance(answer, WorkBusy) and asked == 1:
            return  # ask another at once
        shortest, longest = _BACKOFF_S
        seconds = min(longest, shortest * 2 ** min(asked, 10)) * random.uniform(0.5, 1.0)
        if isinstance(answer, WorkBusy):
            seconds = min(longest, max(0.02, answer.free_in_ms / 1e3)) * random.uniform(0.8, 1.2)
        await self._engines.pause(seconds, or_news=isinstance(answer, Lost) and asked > 1)

    async def _keep(self, item: Item, done: WorkDone) -> None:
        now = time.time_ns()

        def keep() -> Item:
            stored = None
            try:
                stored = self._vault.put(done.preview)
            except VaultError as error:  # the finding matters more than its picture
                _log.warning("the preview could not be kept: %s", error)
            try:
                kept = self._journal.analysed(item.item_id, done.finding, stored, done.preview_scale, now)
            except BaseException:
                if stored:
                    self._vault.erase(stored.object_id)
                raise
            if stored and self._journal.preview(item.item_id) != (
                stored.object_id,
                stored.wrapped_key,
                stored.size,
                done.preview_scale,
            ):
                self._vault.erase(stored.object_id)  # an earlier answer was kept
            return kept

        kept = await self._durably(keep)
        self._stats.count(done.finding.status)
        self._stage("wait", kept.asked_ns - kept.stored_ns)
        self._stage("engine", now - kept.asked_ns)
        self._stage("keep", time.time_ns() - now)
        self._spawn(self._tell(item.item_id, found=True))

    async def _fail(self, item: Item, reason: str) -> None:
        self._quarantine.note(
            "engine",
            item.device,
            f"an image could not be analysed: {reason}",
            "see the item in the worklist",
            item.item_id,
        )
        await self._durably(lambda: self._journal.failed(item.item_id, reason))
        self._stats.count("failed")
        _log.warning("failed: %s", reason)
        await self._tell(item.item_id)

    async def _close(self, item_id: str, reason: str) -> None:
        """End an item that is kept, and of which nothing is sent out."""
        closed = await self._durably(lambda: self._journal.closed(item_id, reason))
        self._stats.count(closed.state)
        await self._tell(item_id)

    # ------------------------------------------------------------ delivery

    def decided(self, verdict: Verdict) -> None:
        """Hand over the revision that a verdict made: the journal has it durably."""
        self._drive(verdict.item_id, self._to_hand_over)
        self._spawn(self._tell(verdict.item_id))

    async def _hand_over(self, item_id: str) -> bool:
        """Hand over what is due of an item, revision by revision in order."""
        item = await self._on_disk(self._journal.item, item_id)
        if item.finding is None:
            return False
        if item.state == "analysed" and not item.finding.in_scope:
            await self._close(item_id, item.finding.reason)
            return False
        for revision in await self._on_disk(self._journal.due, item_id, _long_ago()):
            if not await self._hand_over_revision(item, revision):
                break
        return False

    async def _hand_over_revision(self, item: Item, revision: int) -> bool:
        item_id = item.item_id
        request = await self._on_disk(self._request, item, revision)
        if request is None:
            if not revision:
                await self._fail(item, ERASED)
                return False
            await self._give_up(item, revision)
            return True
        tries, (shortest, longest) = 0, _HAND_OVER_S
        while True:
            try:
                answer = await self._bus.request(subjects.DELIVER_ACCEPT, request, Ok | Refused, _ACCEPT_S)
                if isinstance(answer, Ok):
                    break
                reason = answer.reason
            except (NoAnswer, MessageError) as error:
                reason = str(error)
            tries += 1
            if tries in (1, 10):
                _log.warning("deliver does not take over: %s", reason)
            await asyncio.sleep(min(longest, shortest * 2 ** min(tries, 10)) * random.uniform(0.5, 1.0))
        now = time.time_ns()
        handed = await self._durably(lambda: self._journal.handed(item_id, self._destinations, now, revision))
        if item.state == "analysed" and not item.handed_ns and not revision:  # the first time
            self._stage("hand over", now - item.analysed_ns)
            if not self._destinations:
                self._stats.warnings.add("no destination is configured: results stay here")
        if handed.state != item.state and not revision:
            self._settled(handed, [])
        self._spawn(self._tell(item_id))
        return True

    def _request(self, item: Item, revision: int) -> DeliverRequest | None:
        """Return what is handed over, or None if the object was erased."""
        if item.finding is None:
            raise ValueError("there is nothing to deliver without a finding")
        try:
            reference = self._vault.reference(item.object_id, item.wrapped_key, item.size)
        except WrongKey:
            return None
        verdicts, decided_ns = self._journal.verdicts(item.item_id, revision)
        return DeliverRequest(
            item_id=item.item_id,
            trace_id=item.item_id,
            received_ns=decided_ns or item.received_ns,
            deadline_ns=decided_ns + self._budget_ns if decided_ns else item.deadline_ns,
            object=reference,
            finding=item.finding,
            revision=revision,
            verdicts=verdicts,
            study_instance_uid=item.study_instance_uid,
        )

    async def _give_up(self, item: Item, revision: int) -> None:
        """Say for each destination that a verdict cannot be delivered any more."""

        def note() -> Item:
            for name in self._destinations:
                report = DeliveryReport(
                    item_id=item.item_id, destination=name, state="failed", reason=ERASED, revision=revision
                )
                self._journal.delivery(report)
            return self._journal.handed(item.item_id, self._destinations, time.time_ns(), revision)

        given_up = await self._durably(note)
        _log.warning("a verdict cannot be delivered: %s", ERASED)
        if given_up.state != item.state:
            self._settled(given_up, [])
        await self._tell(item.item_id)

    async def _reported(self, report: DeliveryReport) -> Message:
        log.trace_id.set(report.item_id)

        def keep() -> tuple[str, Item | None]:
            try:
                before = self._journal.item(report.item_id).state
            except KeyError:
                return "", None
            return before, self._journal.delivery(report)

        before, item = await self._on_disk(keep)
        if item is None:
            return Refused(reason="there is no such item")
        if item.state != before and item.handed_ns:
            self._settled(item, [report])
        self._spawn(self._tell(item.item_id))
        return Ok()

    def _settled(self, item: Item, reports: list[DeliveryReport]) -> None:
        self._stats.count(item.state)
        if item.state == "closed" and item.delivered_ns and not any(report.revision for report in reports):
            self._stage("total", item.delivered_ns - item.received_ns)
            if item.delivered_ns > item.deadline_ns and not item.late:
                self._spawn(self._mark_late(item.item_id, explain(item, reports)))
        elif item.state == "failed":
            self._quarantine.note(
                "deliver", item.device, f"a result: {item.reason}", "see the destination's status", item.item_id
            )

    # ------------------------------------------------------------ sweeping

    async def _sweep(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(_SWEEP_S)
            rounds += 1
            try:
                for item_id, state, handed in await self._on_disk(self._journal.overdue, time.time_ns()):
                    await self._mark_late(item_id, stuck_in(state, handed))
                if rounds % _REDRIVE_EVERY == 0:
                    await self._redrive()
            except DatabaseError as error:
                _log.warning("the sweep is set back: %s", error)

    async def _redrive(self) -> None:
        for item_id, state, _ in await self._on_disk(self._journal.open_items):
            if state != "analysed":
                self._drive(item_id, self._to_analyse)
        for item_id in await self._on_disk(self._journal.items_due, _long_ago()):
            self._drive(item_id, self._to_hand_over)

    async def _mark_late(self, item_id: str, stage: str) -> None:
        try:
            newly_late = await self._on_disk(self._journal.late, item_id)
        except DatabaseError as error:  # the sweep, or its delivery, comes by again
            _log.warning("lateness could not be noted yet: %s", error)
            return
        if newly_late:
            self._stats.count("late")
            self._stats.miss(ServiceClass.INTERACTIVE, stage)
            _log.warning("late; most of the time went to: %s", stage, extra={"fields": {"item": item_id}})

    # ------------------------------------------------------------ small things

    def _stage(self, name: str, nanoseconds: int) -> None:
        self._stats.stage(ServiceClass.INTERACTIVE, name, nanoseconds / 1e6)

    async def _on_disk(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._loop.run_in_executor(self._disk, work, *arguments)

    async def _durably(self, work: Callable[[], T]) -> T:
        """Do it until the disk takes it: what is known already must not be found out again."""
        wait = 0.1
        while True:
            try:
                return await self._on_disk(work)
            except DatabaseError as error:
                _log.warning("waiting for the disk: %s", error)
            await asyncio.sleep(wait)
            wait = min(5.0, wait * 2)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, item_id: str, *, found: bool = False) -> None:
        # One after the other: of two that read at once, the older state could be told last, and would stand.
        async with self._telling.setdefault(item_id, asyncio.Lock()):
            summary = await self._on_disk(self._journal.summary, item_id, time.time_ns())
            if summary is None:
                return
            try:
                if found:
                    await self._bus.publish(subjects.finding(item_id), summary)
                await self._bus.publish(subjects.item_state(item_id), summary)
            except BusError as error:
                _log.info("nobody could be told of the change: %s", error)


def may_have_pixels(item: Item) -> bool:
    """Return whether an engine should look at an item.

    An object without rows that is of no image class (a report, a document, a waveform ...) has nothing to look at. An
    image without rows is broken, and it is the engine that says so.
    """
    return item.rows != 0 or "Image Storage" in UID(item.sop_class_uid).name


def _long_ago() -> int:
    """Return the time before which a hand-over should have been reported on in full."""
    return time.time_ns() - round(_UNREPORTED_S * 1e9)
