"""What the gateway knows of the engines, from their heartbeats, and asking one for an analysis.

Responsible for noticing within a moment that an answer will never come (the engine died, fell silent, or the bus was
cut), so that nobody waits for a time limit. Not responsible for what to do then (``gateway.dispatch``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from edgeward.bus import subjects
from edgeward.bus.client import Bus, NoAnswer
from edgeward.messages import MessageError, Refused, RoleState, WorkFailed, WorkReply, WorkRequest

ANSWER_S = 60.0  # longer than an engine lets one analysis take (``compute.engine``): it gives up first
_SILENT_S = 3.5  # three heartbeats missed
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer came and none will. `crashed`: an engine died meanwhile."""

    reason: str
    crashed: bool = False


class Engines:
    """The engines, as their heartbeats tell."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: dict[str, tuple[int, int]] = {}  # node -> process, start
        self._beat: dict[str, float] = {}
        self._news = asyncio.Event()
        self.deaths = 0

    async def start(self) -> None:
        """Listen to heartbeats."""
        await self._bus.subscribe(subjects.role_state("engine"), RoleState, self._heard)

    async def _heard(self, _: str, state: RoleState) -> None:
        identity = (state.pid, state.started_ns)
        self._beat[state.node] = time.monotonic()
        if self._known.get(state.node) != identity:
            if state.node in self._known:
                self.deaths += 1
            self._known[state.node] = identity
        if state.status == "ready":
            self._news.set()
            self._news = asyncio.Event()

    @property
    def silent(self) -> bool:
        """Whether engines were heard once, and none has been for a while."""
        return bool(self._beat) and time.monotonic() - max(self._beat.values()) > _SILENT_S

    async def pause(self, seconds: float, *, or_news: bool) -> None:
        """Wait; with `or_news` only until an engine says that it is ready."""
        if not or_news:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)

    async def ask(self, subject: str, request: WorkRequest) -> WorkReply | Lost:
        """Ask for an analysis; return the answer, or why there will be none."""
        deaths, reconnects, asked_ns = self.deaths, self._bus.reconnects, time.time_ns()
        asking = asyncio.ensure_future(self._bus.request(subject, request, WorkReply | Refused, ANSWER_S))
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=_LOOK_S)
                if asking.done():
                    break
                if self.deaths != deaths:
                    return Lost("the engine died", crashed=True)
                if self._known and all(started_ns > asked_ns for _, started_ns in self._known.values()):
                    return Lost("no engine is left that was there when it was asked")
                if self._bus.reconnects != reconnects:
                    return Lost("the bus was cut")
                if self.silent and self._bus.connected:
                    return Lost("the engine fell silent")
            answer: WorkReply | Refused = asking.result()
        except NoAnswer as error:
            return Lost(str(error), crashed=self.deaths != deaths)
        except MessageError:
            return WorkFailed(reason="the engine answered something else than an analysis", retryable=True)
        finally:
            asking.cancel()
        return WorkFailed(reason=answer.reason, retryable=True) if isinstance(answer, Refused) else answer


class Gate:
    """Lets many through together, or one alone: so that a crash can be put down to the one that was there."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = 0  # inside or waiting to be
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        """Wait for the turn, and hold it."""
        async with self._changed:
            if alone:
                self._alone += 1
                try:
                    await self._changed.wait_for(lambda: self._inside == 0)
                except BaseException:
                    self._alone -= 1
                    self._changed.notify_all()
                    raise
            else:
                await self._changed.wait_for(lambda: self._alone == 0)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._alone -= alone
                self._changed.notify_all()
