"""One destination's queue: what is owed to it, in order, until it has it.

Responsible for when to try, when to wait and when to give up. Not responsible for how to send (``sink``) or for
remembering (``ledger``).

The rules. A destination that is not there is tried for ever, with growing pauses, and nothing is held against the items
that wait for it. An item that a destination *refuses* is given up after five tries. An item on which the connection
broke is put behind the others; it is held against it only if another item got through in between, since otherwise the
destination itself is to blame.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from edgeward import log
from edgeward.clinic.imaging.ledger import Ledger, LedgerError, Owed
from edgeward.clinic.imaging.results import CannotBuild, Prepared, whereabouts
from edgeward.clinic.imaging.sink import Interrupted, Rejected, Result, Sink, Unreachable
from edgeward.messages import DeliverRequest, StageTime

_log = logging.getLogger("edgeward.deliver.destination")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
PROBE_EVERY_S = 2.0  # in a longer pause: notice soon that an address answers again
MAX_FAULTS = 5
REST_AFTER_S = 3.0  # idle time after which the connection is given back
TELL_AFTER_S = 5.0  # a destination that is away for longer is a technical matter that people must see
KINDS = ("sr", "capture")  # in the order in which they are sent


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one attempt achieved.

    `stages` follow one another from acceptance to the last confirmation, so that their sum is no more than the time
    that passed: ``build_sr`` and ``build_capture`` are what sending waited for. `made` is what making them took.
    """

    uids: list[str]
    stored_ns: int
    stages: list[StageTime]
    made: list[StageTime]
    note: str


class Watcher(ABC):
    """Who is told of what happens at a destination."""

    @abstractmethod
    async def delivered(self, owed: Owed, request: DeliverRequest, outcome: Delivered) -> None:
        """One item was confirmed, and the ledger has it."""

    @abstractmethod
    async def given_up(self, owed: Owed, reason: str) -> None:
        """One item was given up, and the ledger has it."""

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


class Destination:
    """The queue of one sink.

    Parameters
    ----------
    prepare
        Returns an item's objects in the making.
    call
        Runs a ledger method off the event loop, in order.
    """

    def __init__(
        self,
        sink: Sink,
        ledger: Ledger,
        prepare: Callable[[DeliverRequest], Prepared],
        call: Callable[..., Awaitable[Any]],
        watcher: Watcher,
    ) -> None:
        self.name = sink.name
        self.sink = sink
        self.reason = ""  # why it is down
        self.sending = False
        self._ledger = ledger
        self._prepare = prepare
        self._call = call
        self._watcher = watcher
        self._awake = asyncio.Event()
        self._failures = 0
        self._down_since = 0.0
        self._told = False
        self._stuck = False
        self._delivered_at = 0.0  # monotonic
        self._tried_at: dict[str, float] = {}  # last attempt of items that broke the connection

    def wake(self) -> None:
        """There is something new to send."""
        self._awake.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            try:
                await self._step()
                if self._stuck:
                    self._stuck = False
                    await self._watcher.unstuck()
            except LedgerError as error:
                self._stuck = True
                await self._watcher.stuck(str(error))
                await asyncio.sleep(1.0)

    async def _step(self) -> None:
        self._awake.clear()
        owed: Owed | None = await self._call(self._ledger.due, self.name, time.time_ns())
        if owed is None:
            await self._idle()
            return
        request: DeliverRequest | None = await self._call(self._ledger.request, owed.item_id)
        if request is None:
            await self._give_up(owed, "its request is gone from the ledger", owed.faults)
            return
        log.trace_id.set(request.trace_id)
        self.sending = True
        try:
            outcome = await self._attempt(owed, request)
        except Unreachable as error:
            await self._away(str(error))
            await self._call(self._ledger.postponed, owed, str(error), 0, owed.faults)
            await self._pause(probe=not error.connected)
        except Interrupted as error:
            await self._interrupted(owed, str(error))
        except (Rejected, CannotBuild) as error:
            await self._came_through()
            await self._fault(owed, str(error))
        except LedgerError:
            raise
        except Exception as error:
            _log.error("an attempt failed in an unforeseen way: %s", whereabouts(error))
            await self._fault(owed, f"unforeseen: {type(error).__name__}")
        else:
            await self._came_through()
            self._delivered_at = time.monotonic()
            self._tried_at.pop(owed.item_id, None)
            await self._call(
                self._ledger.confirmed, owed, outcome.uids, outcome.stored_ns, outcome.stages, outcome.note
            )
            await self._watcher.delivered(owed, request, outcome)
        finally:
            self.sending = False
            log.trace_id.set("")

    async def _attempt(self, owed: Owed, request: DeliverRequest) -> Delivered:
        """Send everything the destination takes; connect while the objects are being made."""
        spent = {"queue": (time.time_ns() - owed.accepted_ns) / 1e6}
        prepared = self._prepare(request)
        _, spent["associate"] = await asyncio.gather(self._call(self._ledger.begun, owed), self._open())
        stored_ns, uids, notes = 0, [], []
        for kind in KINDS:
            if kind not in self.sink.takes:
                continue
            before = time.perf_counter()
            result: Result | None = await (prepared.report if kind == "sr" else prepared.capture)
            ready = time.perf_counter()
            spent[f"build_{kind}"] = (ready - before) * 1e3
            if result is None:
                continue
            receipt = await self.sink.send(result)
            spent["send"] = spent.get("send", 0.0) + (time.perf_counter() - ready) * 1e3
            stored_ns = receipt.stored_ns
            uids.append(result.uid)
            notes += [f"{kind}: {receipt.note}"] if receipt.note else []
        stages = [StageTime(name=name, ms=ms) for name, ms in spent.items()]
        if not uids:
            notes.append("there was nothing that this destination takes")
        note = "; ".join([*prepared.notes, *notes])
        return Delivered(uids, stored_ns or time.time_ns(), stages, list(prepared.stages), note)

    async def _open(self) -> float:
        before = time.perf_counter()
        made = await self.sink.open()
        return (time.perf_counter() - before) * 1e3 if made else 0.0

    async def _interrupted(self, owed: Owed, reason: str) -> None:
        last = self._tried_at.get(owed.item_id)
        faults = owed.faults + (last is not None and self._delivered_at > last)
        self._tried_at[owed.item_id] = time.monotonic()
        if faults >= MAX_FAULTS:
            await self._give_up(owed, reason, faults)
            return
        await self._away(reason)
        await self._call(self._ledger.postponed, owed, reason, _later_ns(pause_s(self._failures)), faults)
        await self._pause(probe=False)

    async def _fault(self, owed: Owed, reason: str) -> None:
        faults = owed.faults + 1
        if faults >= MAX_FAULTS:
            await self._give_up(owed, reason, faults)
            return
        _log.warning("%s: attempt %d failed: %s", self.name, owed.attempts + 1, reason)
        await self._call(self._ledger.postponed, owed, reason, _later_ns(pause_s(faults)), faults)

    async def _give_up(self, owed: Owed, reason: str, faults: int) -> None:
        self._tried_at.pop(owed.item_id, None)
        await self._call(self._ledger.dead, owed, reason, faults)
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

    async def _pause(self, *, probe: bool) -> None:
        """Wait before the next attempt; cut it short when an address that did not answer does so again."""
        self.sending = False
        until = time.monotonic() + pause_s(self._failures) * random.uniform(0.8, 1.2)
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, PROBE_EVERY_S))
            if not self._told and time.monotonic() - self._down_since >= TELL_AFTER_S:
                self._told = True
                await self._watcher.away(self.name, self.reason)
            if probe and until - time.monotonic() > 0 and await self.sink.answers():
                return

    async def _idle(self) -> None:
        """Wait for something new or due; give the connection back meanwhile."""
        due_ns: int | None = await self._call(self._ledger.next_due_ns, self.name)
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
