"""Takes over notices from `monitor` and brings them to every receiver.

Responsible for the hand-over (durable before it is acknowledged), for one queue per receiver, so that a slow one delays
no other, for trying again, for giving up in time, and for telling `monitor` whether people could be reached. Not
responsible for what an alarm is or who is to be told: that is `monitor`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from edgeward.bedside import Notice, NoticeReport
from edgeward.bus import subjects
from edgeward.bus.client import BusError
from edgeward.bus.role import RoleContext
from edgeward.bus.tasks import end
from edgeward.clinic.imaging.fhir import tls_context
from edgeward.clinic.imaging.sink import Interrupted, Rejected, Unreachable
from edgeward.clinic.notices.receivers import (
    FhirReceiver,
    MailReceiver,
    Pcd04Receiver,
    Receiver,
    WebhookReceiver,
)
from edgeward.clinic.notices.store import NoticeStore, Owed, Tally
from edgeward.clinic.notices.watch import MonitorWatch
from edgeward.config import Settings
from edgeward.home import Home
from edgeward.messages import DestinationState, Message, MessageError, Ok, Refused
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.identity import client_context
from edgeward.privacy.keys import SiteKey, WrongKey

_log = logging.getLogger("edgeward.deliver.notices")
T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0  # an alarm manager that is back must not wait for long
MAX_FAULTS = 5  # of one notice, at a receiver that is there
# A system says the same of what it will never take and of its own trouble (AE, AR: HL7 table 0008), so it is asked
# again, unless it refused what came before as well: a receiver that takes nothing must not hold up what it is told.
MAX_REFUSALS = 3
KEEP_S = 7 * 86_400.0
_TELL_TIMEOUT_S = 5.0
_TELL_AGAIN_S = (0.2, 5.0)
_LAST_ANSWERS_S = 1.0  # for notices that are being taken over when the role is told to stop


def receivers(home: Home, settings: Settings) -> list[Receiver]:
    """Return all receivers of the settings.

    Raises
    ------
    IdentityError
        If TLS is wanted and our certificate is missing or unusable.
    OSError
        If the file of an authority cannot be read.
    """

    def tls(wanted: bool) -> ssl.SSLContext | None:
        return client_context(home, "deliver") if wanted else None

    site = settings.site.name
    made: list[Receiver] = [Pcd04Receiver(one, site, tls(one.tls)) for one in settings.pcd04]
    made += [
        FhirReceiver(one, site, tls_context(one, tls(one.client_certificate))) for one in settings.fhir if one.alarms
    ]
    made += [WebhookReceiver(one, site) for one in settings.contact if one.webhook]
    made += [MailReceiver(one, settings.smtp, site) for one in settings.contact if one.email]
    return made


class Notices:
    """The running service.

    Parameters
    ----------
    rng
        Source of jitter.
    """

    def __init__(
        self,
        context: RoleContext,
        store: NoticeStore,
        found: list[Receiver],
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._context = context
        self._store = store
        self._receivers = {receiver.name: receiver for receiver in found}
        self._reasons: dict[str, str] = {}
        self._refusing: set[str] = set()  # receivers that refused the last notice for good
        self._sending: set[str] = set()
        self._wake = {name: asyncio.Event() for name in self._receivers}
        self._news = asyncio.Event()
        self._rng = rng or random.Random()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="notices")
        self._tasks: list[asyncio.Task[None]] = []
        self._answering: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def start(self) -> None:
        """Take up what was left, then serve.

        Raises
        ------
        DatabaseError
            If the store cannot be used.
        """
        await self._call(self._store.prune, time.time_ns() - int(KEEP_S * 1e9))
        if lost := await self._call(self._store.bury_unknown, list(self._receivers), time.time_ns()):
            _log.error("%d notices were owed to receivers that are no longer in the settings", lost)
        await self._context.bus.serve(subjects.DELIVER_NOTICE, Notice, self._asked, subjects.DELIVERS)
        self._tasks = [asyncio.create_task(self._run(receiver)) for receiver in self._receivers.values()]
        self._tasks.append(asyncio.create_task(self._tell()))
        if self._receivers:
            self._tasks.append(asyncio.create_task(MonitorWatch(self._context, self._accept).run()))
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop at once; what is under way is taken up at the next start."""
        self._stopping = True
        if self._answering:
            await asyncio.wait(set(self._answering), timeout=_LAST_ANSWERS_S)
        await end(self._tasks)
        await asyncio.gather(*(receiver.close() for receiver in self._receivers.values()))
        self._thread.shutdown(wait=True)
        self._store.close()

    async def states(self) -> list[DestinationState]:
        """Return each receiver as it is now, for the delivery page."""
        tallies: dict[str, Tally] = await self._call(self._store.tally)
        found = []
        for name in self._receivers:
            tally, reason = tallies.get(name, Tally()), self._reasons.get(name, "")
            found.append(
                DestinationState(
                    name=name,
                    takes=["alarm"],
                    status="down" if reason else "sending" if name in self._sending else "idle",
                    reason=reason,
                    waiting=tally.waiting,
                    confirmed=tally.delivered,
                    dead=tally.failed,
                    oldest_ns=tally.oldest_ns,
                    stored_ns=tally.delivered_ns,
                )
            )
        return found

    # ------------------------------------ taking over

    async def _asked(self, notice: Notice) -> Message:
        """Answer `monitor` until the role stops: then there are neither a thread nor a store for it."""
        if self._stopping:
            return Refused(reason="deliver is stopping; ask again")
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)  # when it has been answered, too
        return await self._accept(notice)

    async def _accept(self, notice: Notice) -> Message:
        wanted = [(one.name, one.contact) for one in self._receivers.values() if one.wants(notice)]
        reachable = {contact for _, contact in wanted}
        for contact in notice.contacts:
            if contact not in reachable:
                _log.error("a contact has neither webhook nor e-mail", extra={"fields": {"contact": contact}})
                wanted.append((f"{contact}/nothing", contact))
        try:
            new = await self._call(self._store.accept, notice, wanted, time.time_ns())
            if any(name.endswith("/nothing") for name, _ in wanted):
                await self._call(self._store.bury_unknown, list(self._receivers), time.time_ns())
        except DatabaseError as error:
            self._context.degraded(str(error))
            return Refused(reason=str(error))
        self._context.stats.count("notices" if new else "notices_again")
        for name, _ in wanted:
            if name in self._wake:
                self._wake[name].set()
        self._news.set()
        return Ok()

    # ------------------------------------ one queue per receiver

    async def _run(self, receiver: Receiver) -> None:
        pause, faults = FIRST_PAUSE_S, 0
        wake = self._wake[receiver.name]
        while True:
            wake.clear()
            try:
                owed: Owed | None = await self._call(self._store.next, receiver.name)
                if owed is None:
                    pause, faults = FIRST_PAUSE_S, 0
                    await wake.wait()
                    continue
                done = await self._try(receiver, owed, faults)
            except (DatabaseError, WrongKey, MessageError) as error:
                _log.error("a notice cannot be read or written down: %s", error)
                self._context.degraded(f"notices: {error}")
                done = None
            if done is True:
                pause, faults = FIRST_PAUSE_S, 0
                continue
            faults = faults + 1 if done is False else faults
            await asyncio.sleep(pause * self._rng.uniform(0.75, 1.25))
            pause = min(LONGEST_PAUSE_S, pause * 2)

    async def _try(self, receiver: Receiver, owed: Owed, faults: int) -> bool | None:
        """Try once. True: settled, either way. False: it failed on this notice. None: nobody is there."""
        name = receiver.name
        self._sending.add(name)
        try:
            await receiver.send(owed.notice)
        except Rejected as error:
            reason = str(error)
            self._down(name, reason)
            if not receiver.contact and name not in self._refusing and faults + 1 < MAX_REFUSALS:
                await self._call(self._store.tried, owed, reason)
                return False
            self._refusing.add(name)
            await self._give_up(receiver, owed, reason)
            return True
        except (Interrupted, Unreachable) as error:
            reason = str(error)
            away = isinstance(error, Unreachable)
            self._down(name, reason)
            waited = (time.time_ns() - owed.accepted_ns) / 1e9
            # A clock that was stepped forward must not be all that a notice is given up for.
            late = waited > receiver.patience_s and owed.attempts >= 2
            # A person's gateway that starts anew answers 503 for a while: for as long as a person is tried at all.
            if late or (not away and not receiver.contact and faults + 1 >= MAX_FAULTS):
                await self._give_up(receiver, owed, reason)
                return True
            await self._call(self._store.tried, owed, reason)
            return None if away else False
        except (DatabaseError, WrongKey, MessageError):
            raise
        except Exception as error:
            # A notice that cannot be put together, or an address that is none, must not end the notices of all others.
            _log.error("a notice for %s failed: %s", name, type(error).__name__)  # the text may quote the notice
            await self._give_up(receiver, owed, f"it could not be sent ({type(error).__name__})")
            return True
        finally:
            self._sending.discard(name)
        await self._call(self._store.settle, owed, "delivered", "", time.time_ns())
        self._context.stats.count("notices_delivered")
        self._up(name)
        self._news.set()
        return True

    async def _give_up(self, receiver: Receiver, owed: Owed, reason: str) -> None:
        await self._call(self._store.settle, owed, "failed", reason, time.time_ns())
        self._context.stats.count("notices_failed")
        self._news.set()
        _log.error("a notice was given up for %s: %s", receiver.name, reason)
        await self._context.quarantine(
            "deliver",
            receiver.name,
            f"a notice of an alarm was not delivered: {reason}",
            "check address and settings of this receiver; the alarm itself is on the alarm page",
        )

    def _down(self, name: str, reason: str) -> None:
        self._context.stats.warnings.discard(f"{name} does not take notices: {self._reasons.get(name, '')}")
        self._reasons[name] = reason
        self._context.stats.warnings.add(f"{name} does not take notices: {reason}")

    def _up(self, name: str) -> None:
        self._refusing.discard(name)
        reason = self._reasons.pop(name, "")
        self._context.stats.warnings.discard(f"{name} does not take notices: {reason}")

    # ------------------------------------ telling monitor

    async def _tell(self) -> None:
        shortest, longest = _TELL_AGAIN_S
        pause = shortest
        while True:
            self._news.clear()
            try:
                untold: list[NoticeReport] = await self._call(self._store.untold)
                heard = [await self._tell_one(report) for report in untold]
            except DatabaseError as error:
                self._context.degraded(f"notices: {error}")
                heard = [False]
            if not all(heard):
                await asyncio.sleep(pause)
                pause = min(longest, pause * 2)
                continue
            pause = shortest
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if not heard else longest):
                    await self._news.wait()

    async def _tell_one(self, report: NoticeReport) -> bool:
        try:
            await self._context.bus.request(subjects.MONITOR_NOTICE, report, Ok | Refused, _TELL_TIMEOUT_S)
        except (BusError, MessageError) as error:
            _log.debug("monitor did not hear: %s", error)
            return False
        await self._call(self._store.told, report)  # also when refused: the alarm is long over
        return True

    # ------------------------------------ within

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.critical("a task of the notices broke: %s", type(error).__name__, exc_info=error)
        self._context.degraded("a task of the notices broke; restarting")
        self._context.stopping.set()


def open_notices(context: RoleContext) -> Notices:
    """Return the service of a site, not yet started.

    Raises
    ------
    DatabaseError
        If its store cannot be used.
    """
    store = NoticeStore(context.home.db("notices"), SiteKey.load(context.home))
    return Notices(context, store, receivers(context.home, context.settings))
