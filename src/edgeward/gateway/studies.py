"""Series and studies, recognised as complete by what arrived.

Responsible for telling when a study begins, when a series or the study is taken to be complete, and when it grows
again. A study is complete when nothing of it came for an adjustable quiet time, or at once when the modality's
performed procedure step lists exactly what arrived (PS3.4, F.7). Where the step lists more, the study is complete after
the quiet time all the same, and how much of it is missing is said. A spectator: analysis of a frame never waits for it,
and whatever goes wrong here concerns nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from msgspec import structs

from edgeward.bus import subjects
from edgeward.bus.client import Bus, BusError
from edgeward.messages import StudyState
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.items import Item
from edgeward.privacy.journal import Journal

_log = logging.getLogger("edgeward.gateway.studies")
_LOOK_S = 0.5  # a growing study is looked at so often, at most

Expected = Callable[[str], set[str] | None]


class Studies:
    """Watches studies grow. Lives in the event loop.

    Parameters
    ----------
    quiet_s
        Seconds without a new object after which a study or series is complete.
    expected
        Returns the SOP Instance UIDs that the modality said it made of a study, once all its performed procedure steps
        are completed; None if it did not say, or is not done. Called in a thread.
    clock
        Nanoseconds since the epoch.
    looked
        Called with a study that begins, and when it is complete. Called in a thread.
    missing
        Called with a study that is complete but for images that the modality said it made. Called in a thread.
    """

    def __init__(
        self,
        bus: Bus,
        journal: Journal,
        quiet_s: float,
        expected: Expected = lambda _: None,
        clock: Callable[[], int] = time.time_ns,
        *,
        looked: Callable[[str], None] = lambda _: None,
        missing: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._bus, self._journal, self._expected, self._clock = bus, journal, expected, clock
        self._looked, self._missing = looked, missing
        self._quiet_ns = round(quiet_s * 1e9)
        self._loop = asyncio.get_running_loop()
        self._due: dict[str, int] = {}  # growing studies: when to look next
        self._told: dict[str, list[str]] = {}  # growing studies: their complete series, as told
        self._news = asyncio.Event()

    def admitted(self, item: Item, is_new: bool) -> None:
        """Take note of an item that was just admitted. May be called from any thread."""
        if is_new and item.study_instance_uid:
            self.look(item.study_instance_uid)

    def look(self, study_instance_uid: str) -> None:
        """Look at a study: something of it arrived, or the modality said something. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._look, study_instance_uid)

    def _look(self, study: str) -> None:
        soon = 0 if study not in self._told else self._clock() + round(_LOOK_S * 1e9)
        if self._due.get(study, soon + 1) > soon:
            self._due[study] = soon
            self._news.set()

    async def keep_watching(self) -> None:
        """Watch until cancelled. Studies that were growing when the gateway stopped are taken up again."""
        for study, last_ns in await asyncio.to_thread(self._journal.studies.growing):
            if study not in self._due:  # else it grew since, and is news
                self._due[study] = last_ns + self._quiet_ns
                self._told[study] = []
        while True:
            now = self._clock()
            for study in [name for name, due in self._due.items() if due <= now]:
                del self._due[study]
                try:
                    await self._consider(study, now)
                except DatabaseError as error:
                    _log.warning("a study is looked at later: %s", error)
                    self._due[study] = now + self._quiet_ns
            await self._wait()

    async def _wait(self) -> None:
        """Wait until something is due, or new."""
        self._news.clear()
        pause = (min(self._due.values()) - self._clock()) / 1e9 if self._due else None
        if pause is not None and pause <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._news.wait()

    async def _consider(self, study: str, now: int) -> None:
        state, due = await asyncio.to_thread(self._assess, study, now)
        if state is None:
            return
        new = study not in self._told
        if new or state.complete:
            await asyncio.to_thread(self._looked, study)
        if state.complete and state.missing:
            await asyncio.to_thread(self._missing, study)
        if state.complete:
            self._told.pop(study, None)
        else:
            changed = self._told.get(study) != state.complete_series
            self._told[study] = state.complete_series
            self._due[study] = min(due, self._due.get(study, due))
            if not (new or changed):
                return
        try:
            await self._bus.publish(subjects.STATE_STUDY, state)
        except BusError as error:
            _log.info("nobody could be told of a study: %s", error)

    def _assess(self, study: str, now: int) -> tuple[StudyState | None, int]:
        """Return the state of a study, complete if it is to be taken so, and when to look again."""
        log = self._journal.studies
        state = log.state(study)
        if state is None:
            return None, 0
        series = log.series(study)
        expected = self._expected(study)
        arrived = log.instances(study) if expected is not None else set[str]()
        listed, missing = len(expected or ()), len((expected or set()) - arrived)
        if not state.complete:
            performed = expected is not None and expected == arrived
            if performed or state.last_ns + self._quiet_ns <= now:
                log.completed(study, state.last_ns, "performed" if performed else "quiet", listed, missing)
                state = log.state(study) or state  # still open if it grew in this moment
        elif expected is not None and (listed, missing) != (state.listed, state.missing):
            # The modality was done later than the quiet time. If it is not done (again), what it said before stands.
            log.compared(study, state.last_ns, listed, missing)
            state = log.state(study) or state
        done = sorted(uid for uid, last_ns in series if state.complete or last_ns + self._quiet_ns <= now)
        waiting = [last_ns + self._quiet_ns for uid, last_ns in series if uid not in done]
        return structs.replace(state, complete_series=done), min(waiting, default=now)
