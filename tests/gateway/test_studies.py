"""Studies and series are recognised as complete by what arrived, through restarts, and nobody waits for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.privacy.test_journal import new_item

from edgeward.bus import subjects
from edgeward.bus.client import BusError
from edgeward.gateway.studies import Studies
from edgeward.messages import ItemsQuery, StudyState, decode, encode
from edgeward.privacy.items import Item
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey

S = 10**9


@dataclass
class Watch:
    """Studies with a clock of our own and a bus that remembers."""

    journal: Journal
    now: int = 0
    told: list[StudyState] = field(default_factory=list)
    expected: dict[str, set[str]] = field(default_factory=dict)
    deaf: bool = False
    studies: Studies | None = None
    task: asyncio.Task[None] | None = None
    count: int = 0
    looked: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    async def publish(self, subject: str, state: StudyState) -> None:
        assert subject == subjects.STATE_STUDY
        if self.deaf:
            raise BusError("away")
        self.told.append(state)

    def start(self, quiet_s: float = 60.0) -> None:
        self.studies = Studies(
            self, self.journal, quiet_s, self.expected.get, lambda: self.now, looked=self.looked.append,  # type: ignore[arg-type]
            missing=self.missing.append,
        )  # fmt: skip
        self.task = asyncio.create_task(self.studies.keep_watching())

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def arrive(self, at_s: float, study: str = "1.2", series: str = "1.2.1") -> Item:
        self.count += 1
        item, new = self.journal.admit(
            new_item(self.count, study_instance_uid=study, series_instance_uid=series, received_ns=round(at_s * S))
        )
        assert self.studies is not None
        self.studies.admitted(item, new)
        return item

    async def at(self, seconds: float) -> None:
        """Move the clock on, and let the watcher look."""
        self.now = round(seconds * S)
        assert self.studies is not None
        self.studies._news.set()
        for _ in range(3):
            await self.settled()

    async def settled(self) -> None:
        assert self.studies is not None
        async with asyncio.timeout(10):
            await asyncio.sleep(0.02)
            while self.studies._news.is_set() or any(due <= self.now for due in self.studies._due.values()):
                await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    journal = Journal(tmp_path / "journal.db", SiteKey(os.urandom(32)))
    watch = Watch(journal)
    yield watch
    if watch.task is not None:
        await watch.stop()
    journal.close()


async def test_a_study_begins_is_complete_after_quiet_and_grows_again(watch: Watch) -> None:
    watch.start()
    watch.now = 100 * S
    watch.arrive(100)
    await watch.until(lambda: len(watch.told) == 1)
    assert (watch.told[0].complete, watch.told[0].instances, watch.told[0].why) == (False, 1, "")

    watch.arrive(130)
    await watch.at(165)  # 65 s after the first, 35 s after the second
    assert [state.complete for state in watch.told] == [False]
    await watch.at(191)
    assert (watch.told[-1].complete, watch.told[-1].instances, watch.told[-1].why) == (True, 2, "quiet")
    assert watch.told[-1].complete_series == ["1.2.1"]
    assert watch.looked == ["1.2", "1.2"], "when it begins and when it is complete, not each time it grows"

    watch.arrive(500)
    await watch.at(500)
    assert (watch.told[-1].complete, watch.told[-1].instances) == (False, 3)
    await watch.at(561)
    assert watch.told[-1].complete
    assert len(watch.told) == 4


async def test_a_series_is_complete_while_its_study_goes_on(watch: Watch) -> None:
    watch.start()
    watch.now = 100 * S
    watch.arrive(100, series="1.2.1")
    await watch.until(lambda: len(watch.told) == 1)
    watch.arrive(140, series="1.2.2")

    await watch.at(161)

    assert (watch.told[-1].complete, watch.told[-1].complete_series, watch.told[-1].series) == (False, ["1.2.1"], 2)
    await watch.at(201)
    assert (watch.told[-1].complete, watch.told[-1].complete_series) == (True, ["1.2.1", "1.2.2"])


async def test_what_the_modality_says_completes_a_study_at_once_when_all_of_it_is_here(watch: Watch) -> None:
    watch.start()
    watch.now = 100 * S
    first = watch.arrive(100)
    await watch.until(lambda: len(watch.told) == 1)
    watch.expected["1.2"] = {first.sop_instance_uid, "1.2.3.2"}
    assert watch.studies is not None
    watch.studies.look("1.2")
    await watch.at(101)
    assert not watch.told[-1].complete  # one is missing still

    watch.arrive(101)
    await watch.at(102)

    assert (watch.told[-1].complete, watch.told[-1].why, watch.told[-1].instances) == (True, "performed", 2)


async def test_a_study_is_complete_without_what_did_not_arrive_and_says_so(watch: Watch) -> None:
    watch.start()
    watch.now = 100 * S
    watch.expected["1.2"] = {"1.2.3.1", "1.2.3.2", "1.2.3.3"}
    watch.arrive(100)
    watch.arrive(100)
    await watch.at(161)

    assert (watch.told[-1].complete, watch.told[-1].why) == (True, "quiet")
    assert (watch.told[-1].listed, watch.told[-1].missing) == (3, 1)
    assert watch.missing == ["1.2"]
    (item,) = watch.journal.summaries(ItemsQuery(item_id="item1"), 0)
    assert (item.study_complete, item.study_listed, item.study_missing) == (True, 3, 1)

    watch.arrive(500)  # the third
    await watch.at(502)

    assert (watch.told[-1].complete, watch.told[-1].why, watch.told[-1].missing) == (True, "performed", 0)
    assert watch.missing == ["1.2"]


async def test_a_modality_that_is_done_after_the_quiet_time_is_still_compared(watch: Watch) -> None:
    watch.start()
    watch.now = 100 * S
    watch.arrive(100)
    await watch.at(161)
    assert (watch.told[-1].complete, watch.told[-1].missing) == (True, 0)

    watch.expected["1.2"] = {"1.2.3.1", "1.2.3.2"}
    assert watch.studies is not None
    watch.studies.look("1.2")
    await watch.at(300)

    assert (watch.told[-1].complete, watch.told[-1].why, watch.told[-1].missing) == (True, "quiet", 1)
    assert watch.missing == ["1.2"]


def test_a_state_of_an_older_version_has_nothing_missing() -> None:
    state = StudyState(study_instance_uid="1.2", complete=True, series=1, instances=1, first_ns=1, last_ns=1, listed=3)
    older = msgspec.msgpack.decode(encode(state))
    del older["listed"], older["missing"]

    read = decode(StudyState, msgspec.msgpack.encode(older))

    assert (read.listed, read.missing) == (0, 0)


async def test_more_than_the_modality_lists_waits_for_quiet(watch: Watch) -> None:
    watch.start()
    watch.now = 100 * S
    watch.arrive(100)
    watch.arrive(100)
    watch.expected["1.2"] = {"1.2.3.1"}
    await watch.at(102)
    assert not watch.told[-1].complete

    await watch.at(161)

    assert (watch.told[-1].complete, watch.told[-1].why) == (True, "quiet")


async def test_a_study_that_was_growing_at_the_stop_is_completed_after_the_start(watch: Watch) -> None:
    watch.start()
    watch.now = 100 * S
    watch.arrive(100)
    await watch.until(lambda: len(watch.told) == 1)
    await watch.stop()
    watch.told.clear()

    watch.now = 130 * S
    watch.start()
    await watch.settled()
    assert watch.told == []  # it was told that it began
    await watch.at(161)

    assert [(state.complete, state.why) for state in watch.told] == [(True, "quiet")]
    await watch.stop()
    watch.told.clear()
    watch.start()
    await watch.settled()
    assert watch.told == []


async def test_a_bus_that_is_away_does_not_stop_the_watch(watch: Watch) -> None:
    watch.start()
    watch.deaf, watch.now = True, 100 * S
    watch.arrive(100)
    await watch.at(161)
    state = watch.journal.studies.state("1.2")
    assert state is not None
    assert state.complete

    watch.deaf = False
    watch.arrive(200, study="1.3")
    await watch.until(lambda: len(watch.told) == 1)


async def test_many_studies_at_once_are_each_told_twice(watch: Watch) -> None:
    watch.start()
    watch.now = 100 * S
    for number in range(40):
        watch.arrive(100, study=f"1.{number}")
    await watch.until(lambda: len(watch.told) == 40)
    await watch.at(161)
    await watch.until(lambda: len(watch.told) == 80)

    assert {state.study_instance_uid for state in watch.told if state.complete} == {f"1.{n}" for n in range(40)}


async def test_an_item_without_a_study_is_nobodys(watch: Watch) -> None:
    watch.start()
    watch.arrive(1, study="")
    await watch.at(100)

    assert watch.told == []


def test_a_completion_that_was_overtaken_by_an_arrival_does_not_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", SiteKey(os.urandom(32)))
    journal.admit(new_item(1))
    state = journal.studies.state("1.2.3")
    assert state is not None
    journal.admit(new_item(2))

    assert not journal.studies.completed("1.2.3", state.last_ns, "quiet")
    assert [name for name, _ in journal.studies.growing()] == ["1.2.3"]
    journal.close()
