"""One destination's queue: what is owed to it, in order, until it has it.

Responsible for when to try, when to wait and when to give up. Not responsible for how to send (``sink``) or for
remembering (``ledger``).

The rules. A destination that is not there is tried for ever, with growing pauses, and nothing is held against the items
that wait for it. An item that a destination *refuses* is given up after five tries. An item on which the connection
broke is held against it only if another item got through in between, since otherwise the destination itself is to
blame. An item that waits for its next try holds up its own study and nothing else.

Results whose deadline is still ahead go first, so that after an outage today's patient does not wait for yesterday's
backlog; every fourth result is the oldest, so that the backlog moves whatever comes in.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from edgeward import log
from edgeward.clinic.imaging.ledger import SUPERSEDED, Ledger, LedgerError, Owed
from edgeward.clinic.imaging.results import CannotBuild, Prepared, whereabouts
from edgeward.clinic.imaging.sink import (
    DICOM_KINDS,
    Interrupted,
    NotTaken,
    Receipt,
    Rejected,
    Result,
    Sink,
    Unreachable,
    Unsendable,
)
from edgeward.messages import DeliverRequest, StageTime

_log = logging.getLogger("edgeward.deliver.destination")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_WISH_S = 600.0  # a destination may ask for a longer pause than ours (Retry-After), up to this
PROBE_EVERY_S = 2.0  # in a longer pause: notice soon that an address answers again
MAX_FAULTS = 5
REST_AFTER_S = 10.0  # idle time after which the connection is given back: longer than between images of one examination
TELL_AFTER_S = 5.0  # a destination that is away for longer is a technical matter that people must see
OLDEST_EVERY = 4  # of so many results taken, one is the oldest whatever its deadline


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one attempt achieved.

    `stages` follow one another from acceptance to the last confirmation, so that their sum is no more than the time
    that passed: ``build_sr`` and ``build_capture`` are what sending waited for. `made` is what making them took.
    `lacking` says why some objects were not taken although the settings say that they are; else it is empty.
    """

    uids: list[str]
    stored_ns: int
    stages: list[StageTime]
    made: list[StageTime]
    note: str
    lacking: str = ""


class Watcher(ABC):
    """Who is told of what happens at a destination."""

    @abstractmethod
    async def delivered(self, owed: Owed, request: DeliverRequest, outcome: Delivered) -> None:
        """One item was confirmed, and the ledger has it."""

    @abstractmethod
    async def given_up(self, owed: Owed, reason: str) -> None:
        """One item was given up, and the ledger has it."""

    @abstractmethod
    async def not_taken(self, destination: str, kinds: frozenset[str]) -> None:
        """These are now the kinds of object it does not accept, though the settings say so; none: it does again."""

    @abstractmethod
    async def away(self, destination: str, reason: str) -> None:
        """The destination has been away for a while."""

    @abstractmethod
    async def back(self, destination: str) -> None:
        """It is back after ``away``."""

    @abstractmethod
    async def stuck(self, reason: str) -> None:
        """The ledger cannot be used; the queue waits."""

    @abstractmethod
    async def unstuck(self) -> None:
        """It can again."""


@dataclass(slots=True)
class _Attempt:
    """One try to bring an item to the destination. `uids` grows as its objects are confirmed."""

    owed: Owed
    request: DeliverRequest
    uids: list[str]
    spent: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lacking: str = ""
    refused: list[str] = field(default_factory=list)
    stored_ns: int = 0

    def arrived(self, result: Result, receipt: Receipt) -> None:
        self.stored_ns = receipt.stored_ns
        self.uids.append(result.uid)
        if receipt.note:
            self.notes.append(f"{result.kind}: {receipt.note}")


class Destination:
    """The queue of one sink.

    Parameters
    ----------
    prepare
        Returns an item's objects in the making.
    call
        Runs a ledger method off the event loop, in order.
    look
        The same for methods that only read, which need not wait for those that write.
    """

    def __init__(
        self,
        sink: Sink,
        ledger: Ledger,
        prepare: Callable[[DeliverRequest], Prepared],
        call: Callable[..., Awaitable[Any]],
        watcher: Watcher,
        *,
        look: Callable[..., Awaitable[Any]] | None = None,
    ) -> None:
        self.name = sink.name
        self.sink = sink
        self.reason = ""  # why it is down
        self.sending = False
        self._ledger = ledger
        self._prepare = prepare
        self._call = call
        self._look = look or call
        self._watcher = watcher
        self._awake = asyncio.Event()
        self._failures = 0
        self._down_since = 0.0
        self._told = False
        self._stuck = False
        self._delivered_at = 0.0  # monotonic
        self._tried_at: dict[int, float] = {}  # last attempt of items that broke the connection
        self._taken = 0
        self._next: tuple[Owed, DeliverRequest] | None = None  # in the making while another is being sent
        self._settling: asyncio.Task[None] | None = None
        self._not_taken: frozenset[str] = frozenset()

    def wake(self) -> None:
        """There is something new to send."""
        self._awake.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                try:
                    await self._step()
                    if self._stuck:
                        self._stuck = False
                        await self._watcher.unstuck()
                except LedgerError as error:
                    self._next, self._stuck = None, True
                    await self._watcher.stuck(str(error))
                    await asyncio.sleep(1.0)
        finally:
            if self._settling is not None:
                self._settling.cancel()

    async def _step(self) -> None:
        self._awake.clear()
        taken, self._next = self._next or await self._take(), None
        if taken is None:
            await self._idle()
            return
        owed, request = taken
        if request is None:
            await self._give_up(owed, "its request is gone from the ledger", owed.faults)
            return
        log.trace_id.set(request.trace_id)
        self.sending = True
        attempt = _Attempt(owed, request, list(owed.uids))
        try:
            outcome = await self._bring(attempt)
        except Unreachable as error:
            await self._away(str(error))
            await self._postpone(attempt, str(error), 0, owed.faults)
            await self._pause(probe=not error.connected, at_least_s=error.after_s)
        except Interrupted as error:
            await self._interrupted(attempt, str(error))
        except Unsendable as error:
            await self._came_through()
            await self._give_up(owed, str(error), owed.faults + 1)
        except (Rejected, CannotBuild) as error:
            await self._came_through()
            await self._fault(attempt, str(error))
        except LedgerError:
            raise
        except Exception as error:
            _log.error("an attempt failed in an unforeseen way: %s", whereabouts(error))
            await self._fault(attempt, f"unforeseen: {type(error).__name__}")
        else:
            await self._came_through()
            self._delivered_at = time.monotonic()
            self._tried_at.pop(owed.seq, None)
            await self._settled()  # the one before
            self._settling = asyncio.create_task(self._settle(attempt, outcome))
        finally:
            self.sending = False
            log.trace_id.set("")

    async def _take(self, after: int = 0) -> tuple[Owed, DeliverRequest | None] | None:
        await self._settled()  # or what was just delivered would seem to be owed
        self._taken += 1
        fresh = self._taken % OLDEST_EVERY != 0
        return await self._look(self._due, fresh, after)  # type: ignore[no-any-return]

    def _due(self, fresh: bool, after: int) -> tuple[Owed, DeliverRequest | None] | None:
        """Return what comes next, with its request. Reads the ledger."""
        owed = self._ledger.due(self.name, time.time_ns(), fresh=fresh, after=after)
        return None if owed is None else (owed, self._ledger.request(owed.item_id, owed.revision))

    async def _prepare_next(self, after: int) -> None:
        """Choose what comes after the result that is being sent, and have it made meanwhile."""
        following = await self._take(after)
        if following is not None and following[1] is not None:
            self._next = (following[0], following[1])
            self._prepare(following[1])

    # ------------------------------------ one attempt

    async def _bring(self, attempt: _Attempt) -> Delivered:
        """Send everything the destination takes; connect while the objects are being made."""
        owed = attempt.owed
        attempt.spent["queue"] = (time.time_ns() - owed.accepted_ns) / 1e6
        if owed.superseded and self.sink.replaces:
            return Delivered([], time.time_ns(), [], [], SUPERSEDED)
        prepared = self._prepare(attempt.request)
        begun = asyncio.ensure_future(self._call(self._ledger.begun, owed))
        following = asyncio.ensure_future(self._prepare_next(owed.seq))
        try:
            attempt.spent["associate"] = await self._open()
            await self._send_all(attempt, prepared)
        except BaseException:
            following.cancel()
            await asyncio.gather(begun, following, return_exceptions=True)
            self._next = None  # it may be of the same study
            raise
        await asyncio.gather(begun, following)
        stages = [StageTime(name=name, ms=ms) for name, ms in attempt.spent.items()]
        if not attempt.uids:
            attempt.notes.append("there was nothing that this destination takes")
        note = "; ".join([*prepared.notes, *attempt.notes])
        stored_ns = attempt.stored_ns or time.time_ns()
        return Delivered(attempt.uids, stored_ns, stages, list(prepared.stages), note, attempt.lacking)

    async def _send_all(self, attempt: _Attempt, prepared: Prepared) -> None:
        before = time.perf_counter()
        document = await self.sink.compose(attempt.request, await prepared.header())
        if document is not None:
            attempt.spent[f"build_{document.kind}"] = (time.perf_counter() - before) * 1e3
            await self._send(attempt, document)
            return
        missing: set[str] = set()
        accepted: set[str] = set()
        for kind in DICOM_KINDS if attempt.request.revision == 0 else ("sr",):  # pictures do not change with a verdict
            if kind not in self.sink.takes:
                continue
            before = time.perf_counter()
            result = await prepared.part(kind)
            attempt.spent[f"build_{kind}"] = (time.perf_counter() - before) * 1e3
            if result is None or result.uid in attempt.uids:
                continue
            try:
                await self._send(attempt, result)
                accepted.add(kind)
            except NotTaken:
                missing.add(kind)
            except Rejected as error:
                attempt.refused.append(f"{kind}: {error}")  # the others are worth having
        await self._not_accepted(attempt, frozenset(missing), frozenset(accepted))
        if attempt.refused:
            raise Rejected("; ".join(attempt.refused))

    async def _send(self, attempt: _Attempt, result: Result) -> None:
        before = time.perf_counter()
        receipt = await self.sink.send(result)
        attempt.spent["send"] = attempt.spent.get("send", 0.0) + (time.perf_counter() - before) * 1e3
        attempt.arrived(result, receipt)

    async def _not_accepted(self, attempt: _Attempt, kinds: frozenset[str], accepted: frozenset[str]) -> None:
        """Judge what the destination takes no objects of.

        Without the report an item is not delivered. With it, it is; what was left out is a dead letter all the same, to
        be sent again when the destination has been put right.
        """
        if kinds:
            reason = f"it does not accept: {', '.join(sorted(kinds))}"
            attempt.notes.append(reason)
            if "sr" in kinds or not attempt.uids:
                attempt.refused.append(reason)
            else:
                attempt.lacking = reason
        not_taken = (self._not_taken | kinds) - accepted
        if not_taken != self._not_taken:
            self._not_taken = not_taken
            await self._watcher.not_taken(self.name, not_taken)

    async def _open(self) -> float:
        before = time.perf_counter()
        made = await self.sink.open()
        return (time.perf_counter() - before) * 1e3 if made else 0.0

    # ------------------------------------ what comes of it

    async def _settle(self, attempt: _Attempt, outcome: Delivered) -> None:
        """Write down a success while the next result is on its way."""
        arrived = (attempt.owed, outcome.uids, outcome.stored_ns, outcome.stages, outcome.note)
        if outcome.lacking:
            await self._call(self._ledger.partly, *arrived)
        else:
            # To whom a revision is one document, a later one is all that an earlier one was.
            first = 0 if self.sink.replaces or self.sink.takes <= {"sr"} else 1
            await self._call(functools.partial(self._ledger.confirmed, *arrived, supersedes_from=first))
        await self._watcher.delivered(attempt.owed, attempt.request, outcome)

    async def _settled(self) -> None:
        """Wait until the last success is written down."""
        task = self._settling
        if task is None:
            return
        try:
            await asyncio.shield(task)
        finally:
            if task.done() and self._settling is task:
                self._settling = None

    async def _postpone(self, attempt: _Attempt, reason: str, next_try_ns: int, faults: int) -> None:
        await self._call(self._ledger.postponed, attempt.owed, reason, next_try_ns, faults, attempt.uids)

    async def _interrupted(self, attempt: _Attempt, reason: str) -> None:
        owed = attempt.owed
        last = self._tried_at.get(owed.seq)
        faults = owed.faults + (last is not None and self._delivered_at > last)
        self._tried_at[owed.seq] = time.monotonic()
        if faults >= MAX_FAULTS:
            await self._give_up(owed, reason, faults)
            return
        await self._away(reason)
        await self._postpone(attempt, reason, _later_ns(pause_s(self._failures)), faults)
        await self._pause(probe=False)

    async def _fault(self, attempt: _Attempt, reason: str) -> None:
        owed = attempt.owed
        faults = owed.faults + 1
        if faults >= MAX_FAULTS:
            await self._give_up(owed, reason, faults)
            return
        _log.warning("%s: attempt %d failed: %s", self.name, owed.attempts + 1, reason)
        await self._postpone(attempt, reason, _later_ns(pause_s(faults)), faults)

    async def _give_up(self, owed: Owed, reason: str, faults: int) -> None:
        self._tried_at.pop(owed.seq, None)
        await self._call(self._ledger.dead, owed, reason, faults, time.time_ns())
        await self._watcher.given_up(owed, reason)

    async def _away(self, reason: str) -> None:
        now = time.monotonic()
        if not self._failures:
            self._down_since = now
            _log.warning("%s is away: %s", self.name, reason)
        self._failures += 1
        self.reason = reason
        if not self._told and now - self._down_since >= TELL_AFTER_S:
            self._told = True
            await self._watcher.away(self.name, reason)

    async def _came_through(self) -> None:
        if not self._failures:
            return
        _log.warning("%s is back after %.1f s", self.name, time.monotonic() - self._down_since)
        self._failures, self.reason = 0, ""
        await self._call(self._ledger.hurry, self.name)
        if self._told:
            self._told = False
            await self._watcher.back(self.name)

    # ------------------------------------ waiting

    async def _pause(self, *, probe: bool, at_least_s: float = 0.0) -> None:
        """Wait before the next attempt; cut it short when an address that did not answer does so again."""
        self.sending = False
        seconds = max(pause_s(self._failures) * random.uniform(0.8, 1.2), min(at_least_s, LONGEST_WISH_S))
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, PROBE_EVERY_S))
            if not self._told and time.monotonic() - self._down_since >= TELL_AFTER_S:
                self._told = True
                await self._watcher.away(self.name, self.reason)
            if probe and until - time.monotonic() > 0 and await self.sink.answers():
                return

    async def _idle(self) -> None:
        """Wait for something new or due; give the connection back meanwhile."""
        due_ns: int | None = await self._look(self._ledger.next_due_ns, self.name)
        wait_s = None if due_ns is None else max(0.01, (due_ns - time.time_ns()) / 1e9)
        if wait_s is None or wait_s > REST_AFTER_S:
            if await self._woken(REST_AFTER_S):
                return
            await self.sink.rest()
            wait_s = None if wait_s is None else wait_s - REST_AFTER_S
        await self._woken(wait_s)

    async def _woken(self, within_s: float | None) -> bool:
        try:
            await asyncio.wait_for(self._awake.wait(), within_s)
        except TimeoutError:
            return False
        return True


def pause_s(failures: int) -> float:
    """Return the pause after so many failures in a row, before jitter: 0.5 s, doubling, 30 s at most."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(max(failures - 1, 0), 16))


def _later_ns(seconds: float) -> int:
    return time.time_ns() + int(seconds * 1e9)
