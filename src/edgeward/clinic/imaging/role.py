"""The role `deliver`: takes over findings and brings them to every destination.

Responsible for the hand-over (durable before it is acknowledged), for telling the gateway what became of each item
until it acknowledges, and for answering the console. The queues are in ``destination``, their memory in ``ledger``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
import time
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from edgeward import log
from edgeward.bus import subjects
from edgeward.bus.client import BusError
from edgeward.bus.role import RoleContext
from edgeward.bus.tasks import end
from edgeward.clinic.imaging.destination import Delivered, Destination, Watcher
from edgeward.clinic.imaging.fhir import FhirSink, tls_context
from edgeward.clinic.imaging.hl7 import Hl7Sink
from edgeward.clinic.imaging.ledger import Ledger, LedgerError, Owed, Tally
from edgeward.clinic.imaging.pacs import PacsSink
from edgeward.clinic.imaging.results import CannotBuild, Workshop, whereabouts
from edgeward.clinic.imaging.sink import NO_PATIENT, Sink
from edgeward.clinic.notices.service import open_notices
from edgeward.config import Settings
from edgeward.home import Home
from edgeward.messages import (
    Ask,
    DeliverRequest,
    DeliveryReport,
    Destinations,
    DestinationState,
    Message,
    MessageError,
    Ok,
    Refused,
    ReportText,
    Resend,
    Resent,
    ServiceClass,
)
from edgeward.privacy.identity import client_context
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.reading import is_held

_log = logging.getLogger("edgeward.deliver")
T = TypeVar("T")
M = TypeVar("M", bound=Message)

KEEP_DAYS = 30  # how long a report can be read here and a dead letter sent again; the PACS keeps results for good
_TIDY_EVERY_S = 3600.0
_TELL_TIMEOUT_S = 5.0
_LAST_ANSWERS_S = 1.0  # for requests that are being answered when the role is told to stop
_STOPPING = "deliver is stopping; ask again"
_TELL_AGAIN_S = (0.2, 5.0)  # shortest and longest pause between attempts to tell the gateway


async def run(context: RoleContext) -> None:
    """Serve until told to stop."""
    _keep_quiet()
    settings = context.settings
    ledger = Ledger(context.home.db("deliver"), SiteKey.load(context.home))
    notices = open_notices(context)
    deliver = Deliver(context, ledger, sinks(context.home, settings), others=notices.states)
    await notices.start()
    await deliver.start()
    context.ready()
    try:
        await context.stopping.wait()
    finally:
        await deliver.stop()
        await notices.stop()


def sinks(home: Home, settings: Settings) -> list[Sink]:
    """Return one sink per configured destination.

    Raises
    ------
    IdentityError
        If TLS is wanted and our certificate is missing or unusable.
    OSError
        If the file of an authority cannot be read.
    """

    def tls(wanted: bool) -> ssl.SSLContext | None:
        return client_context(home, "deliver") if wanted else None

    made: list[Sink] = [PacsSink(pacs, settings.dicom.ae_title, tls(pacs.tls)) for pacs in settings.pacs]
    made += [FhirSink(fhir, tls_context(fhir, tls(fhir.client_certificate))) for fhir in settings.fhir]
    made += [Hl7Sink(hl7, settings.site.name, tls(hl7.tls)) for hl7 in settings.hl7]
    return made


class Deliver(Watcher):
    """The running role."""

    def __init__(
        self,
        context: RoleContext,
        ledger: Ledger,
        sinks: list[Sink],
        others: Callable[[], Awaitable[list[DestinationState]]] | None = None,
    ) -> None:
        self._others = others  # receivers of notices, for the same page
        self._context = context
        self._ledger = ledger
        self._ledger_thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="ledger-read")
        self._workshop = Workshop(frozenset().union(*(sink.takes for sink in sinks)))
        self._destinations = [
            Destination(sink, ledger, self._workshop.prepare, self._call, self, look=self._look) for sink in sinks
        ]
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._answering: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._away_warnings: dict[str, str] = {}
        self._not_taken_warnings: dict[str, str] = {}
        self._refused_until: dict[tuple[str, int, str], float] = {}

    async def start(self) -> None:
        """Take up what was left, then serve.

        Raises
        ------
        LedgerError
            If the ledger cannot be used.
        BusError
            If the bus does not answer.
        """
        await self._workshop.warm_up()
        await self._tidy()
        known = [destination.name for destination in self._destinations]
        if buried := await self._call(self._ledger.bury_unknown, known, time.time_ns()):
            _log.error("%d results were owed to destinations that are no longer in the settings", buried)
            self._context.stats.count("dead", buried)
            reason = f"{buried} results were owed to a destination that is no longer in the settings"
            await self._context.quarantine("deliver", "settings", reason, "put it back, or send the results by hand")
        if not known:
            self._context.stats.warnings.add("no destination of results is configured: they are kept nowhere but here")
        bus = self._context.bus
        await bus.serve(subjects.DELIVER_ACCEPT, DeliverRequest, self._open(self._accept), subjects.DELIVERS)
        await bus.serve(subjects.DELIVER_REPORT, Ask, self._open(self._report), subjects.DELIVERS)
        await bus.serve(subjects.DELIVER_STATUS, Ask, self._open(self._status), subjects.DELIVERS)
        await bus.serve(subjects.DELIVER_RESEND, Resend, self._open(self._resend), subjects.DELIVERS)
        await bus.flush()  # ready means that the server knows where to send requests
        work = [destination.run() for destination in self._destinations]
        self._tasks = [asyncio.create_task(task) for task in (*work, self._tell(), self._keep_tidy())]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop at once; whatever was under way is taken up at the next start."""
        self._stopping = True
        if self._answering:  # what the ledger takes in is told; what takes longer is asked for again
            await asyncio.wait(set(self._answering), timeout=_LAST_ANSWERS_S)
        await end({*self._tasks, *self._answering})
        await asyncio.gather(*(destination.sink.close() for destination in self._destinations))
        self._workshop.close()
        self._ledger_thread.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        self._ledger.close()

    # ------------------------------------ requests

    def _open(self, handler: Callable[[M], Awaitable[Message]]) -> Callable[[M], Awaitable[Message]]:
        """Return a handler that answers until the role stops: then there are neither threads nor a ledger for it."""

        async def answer(request: M) -> Message:
            if self._stopping:
                return Refused(reason=_STOPPING)
            work = asyncio.ensure_future(handler(request))
            self._answering.add(work)
            work.add_done_callback(self._answering.discard)
            try:
                return await work
            except asyncio.CancelledError:
                if not self._stopping:
                    raise
                return Refused(reason=_STOPPING)

        return answer

    async def _accept(self, request: DeliverRequest) -> Message:
        log.trace_id.set(request.trace_id)
        started = time.perf_counter()
        if self._workshop.has_room() and any(not destination.reason for destination in self._destinations):
            self._workshop.prepare(request)  # while the ledger waits for the disk
        try:
            new = await self._call(
                self._ledger.accept,
                request,
                [destination.name for destination in self._destinations],
                time.time_ns(),
            )
        except LedgerError as error:
            await self.stuck(str(error))
            return Refused(reason=str(error))
        await self.unstuck()
        self._context.stats.stage(ServiceClass.INTERACTIVE, "accept", (time.perf_counter() - started) * 1e3)
        self._context.stats.count("accepted" if new else "accepted_again")
        for destination in self._destinations:
            destination.wake()
        self._news.set()
        return Ok()

    async def _report(self, ask: Ask) -> Message:
        latest: int = await self._call(self._ledger.latest, ask.argument)
        text = await self._text(ask.argument, latest)
        if text is None and latest:  # the one before is better than none
            text = await self._text(ask.argument, 0)
        if text is None:
            return Refused(reason="no report of this item is known here")
        return ReportText(text=text)

    async def _status(self, _: Ask) -> Message:
        tallies: dict[str, Tally] = await self._look(self._ledger.tally)
        states = []
        for destination in self._destinations:
            tally = tallies.get(destination.name, Tally())
            states.append(
                DestinationState(
                    name=destination.name,
                    takes=sorted(destination.sink.takes),
                    status="down" if destination.reason else "sending" if destination.sending else "idle",
                    reason=destination.reason,
                    waiting=tally.waiting,
                    confirmed=tally.confirmed,
                    dead=tally.dead,
                    oldest_ns=tally.oldest_ns,
                    stored_ns=tally.stored_ns,
                )
            )
        if self._others is not None:
            states += await self._others()
        return Destinations(destinations=states, dead=await self._look(self._ledger.dead_letters))

    async def _resend(self, ask: Resend) -> Message:
        """Put dead letters back into their queues; the gateway hears when they arrive, or fail again."""
        known = [destination.name for destination in self._destinations]
        if ask.destination and ask.destination not in known:
            return Refused(reason=f"there is no destination {ask.destination!r} in the settings")
        try:
            count = await self._call(
                functools.partial(self._ledger.resend, item_id=ask.item_id, destination=ask.destination),
                known,
                time.time_ns(),
            )
        except LedgerError as error:
            return Refused(reason=str(error))
        what = {"by": ask.by, "item": ask.item_id, "destination": ask.destination}
        _log.warning("%d dead letters are sent again on request", count, extra={"fields": what})
        self._context.stats.count("resent", count)
        for destination in self._destinations:
            destination.wake()
        if not count and ask.item_id:
            return Refused(reason="nothing of this item can be sent again: its image was erased, or it is not here")
        return Resent(count=count)

    # ------------------------------------ what the queues tell

    async def delivered(self, owed: Owed, request: DeliverRequest, outcome: Delivered) -> None:
        """See `Watcher.delivered`."""
        stats = self._context.stats
        for stage in (*outcome.stages, *outcome.made):
            stats.stage(ServiceClass.INTERACTIVE, stage.name, stage.ms)
        stats.stage(ServiceClass.INTERACTIVE, "deliver", (outcome.stored_ns - owed.accepted_ns) / 1e6)
        stats.count("delivered")
        self._news.set()
        _log.info(
            "delivered to %s",
            owed.destination,
            extra={"fields": {"item": request.item_id, "revision": owed.revision, "attempts": owed.attempts + 1}},
        )

    async def given_up(self, owed: Owed, reason: str) -> None:
        """See `Watcher.given_up`."""
        self._context.stats.count("dead")
        self._news.set()
        _log.error("given up for %s: %s", owed.destination, reason, extra={"fields": {"item": owed.item_id}})
        await self._context.quarantine(
            "deliver",
            owed.destination,
            f"the result of item {owed.item_id} was not delivered: {reason}",
            "enter the patient at the device, and send the image again"
            if reason == NO_PATIENT
            else "ask the administrator of this destination why it refuses the result; then send it again",
        )

    async def not_taken(self, destination: str, kinds: frozenset[str]) -> None:
        """See `Watcher.not_taken`."""
        self._context.stats.warnings.discard(self._not_taken_warnings.pop(destination, ""))
        if not kinds:
            _log.warning("%s accepts every kind of object again", destination)
            return
        names = ", ".join(sorted(kinds))
        text = f"{destination} does not accept: {names}; take them out of `takes` in its settings, or have it do so"
        _log.warning("%s", text)
        self._not_taken_warnings[destination] = text
        self._context.stats.warnings.add(text)

    async def away(self, destination: str, reason: str) -> None:
        """See `Watcher.away`."""
        text = f"{destination} does not take results: {reason}"
        self._away_warnings[destination] = text
        self._context.stats.warnings.add(text)
        await self._context.quarantine(
            "deliver", destination, reason, "results are kept and sent when it is back; check its address and settings"
        )

    async def back(self, destination: str) -> None:
        """See `Watcher.back`."""
        self._context.stats.warnings.discard(self._away_warnings.pop(destination, ""))

    async def stuck(self, reason: str) -> None:
        """See `Watcher.stuck`."""
        self._context.degraded(reason)

    async def unstuck(self) -> None:
        """See `Watcher.unstuck`."""
        self._context.recovered()

    # ------------------------------------ telling the gateway

    async def _tell(self) -> None:
        """Tell the gateway of every settled row until it acknowledges; then forget the request."""
        shortest, longest = _TELL_AGAIN_S
        pause = shortest
        while True:
            self._news.clear()
            try:
                untold: list[DeliveryReport] = await self._call(self._ledger.untold)
                now = time.monotonic()
                due = [r for r in untold if self._refused_until.get(_row(r), 0.0) <= now]
                heard = [await self._tell_one(report) for report in due]
            except LedgerError as error:
                await self.stuck(str(error))
                untold, heard = [], [False]
            if not all(heard):
                await asyncio.sleep(pause)
                pause = min(longest, pause * 2)
                continue
            pause = shortest
            if not heard:
                with contextlib.suppress(TimeoutError):  # what was refused is offered again
                    await asyncio.wait_for(self._news.wait(), longest if untold else None)

    async def _tell_one(self, report: DeliveryReport) -> bool:
        try:
            answer: Any = await self._context.bus.request(
                subjects.GATEWAY_DELIVERY, report, Ok | Refused, _TELL_TIMEOUT_S
            )
        except (BusError, MessageError) as error:
            _log.debug("the gateway did not hear: %s", error)
            return False
        if isinstance(answer, Refused):
            _log.warning("the gateway refuses a delivery report: %s", answer.reason)
            self._refused_until[_row(report)] = time.monotonic() + _TELL_AGAIN_S[1]
            return True  # others need not wait for this one
        self._refused_until.pop(_row(report), None)
        await self._text(report.item_id, report.revision)  # keep it readable after the request is forgotten
        await self._call(self._ledger.told, report)
        self._workshop.forget(report.item_id)
        return True

    async def _text(self, item_id: str, revision: int) -> str | None:
        """Return the report as text and see to it that it is kept; None if it cannot be had."""
        kept: str | None = await self._call(self._ledger.report, item_id, revision)
        if kept is not None:
            return kept
        request: DeliverRequest | None = await self._call(self._ledger.request, item_id, revision)
        if request is None:
            return None
        try:
            text = await self._workshop.text(request)
        except CannotBuild:
            return None
        await self._call(self._ledger.keep_report, item_id, text, revision)
        return text

    # ------------------------------------ housekeeping

    async def _keep_tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_EVERY_S)
            try:
                await self._tidy()
            except LedgerError as error:
                _log.warning("the ledger could not be tidied: %s", error)

    async def _tidy(self) -> None:
        """Forget what is old, and the keys of objects that the vault has erased."""
        long_ago = time.time_ns() - KEEP_DAYS * 86_400 * 10**9
        await self._call(self._ledger.prune, long_ago)
        if forgotten := await self._call(self._ledger.forget, long_ago, is_held):
            _log.warning("%d dead letters cannot be sent again: they are too old, or their images erased", forgotten)

    # ------------------------------------ within

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._ledger_thread, function, *arguments)

    async def _look(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Stop the role if one of its tasks breaks: the supervisor restarts it, and the ledger knows what is owed."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.critical("a task of deliver broke: %s", whereabouts(error))
        self._context.degraded("a task broke; restarting")
        self._context.stopping.set()


def _row(report: DeliveryReport) -> tuple[str, int, str]:
    return report.item_id, report.revision, report.destination


def _keep_quiet() -> None:
    """Silence what libraries say of their own accord: it may quote names, and we report failures once ourselves."""
    warnings.simplefilter("ignore")
    for name in ("pydicom", "pynetdicom", "highdicom", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
